"""Loading of language models: random weights repeat, folders load whole, and what is no such model is told."""

import pytest
import torch
from tiny import make_opt

from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.trunk import input_table


def test_random_weights_repeat_and_leave_the_generator_alone():
    state = torch.get_rng_state()
    first, again, other = (load_lm("random:tiny", vocab_size=260, max_positions=32, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    table = [input_table(lm) for lm in (first, again, other)]
    assert torch.equal(table[0], table[1])
    assert not torch.equal(table[0], table[2])
    assert (first.config.vocab_size, first.config.max_position_embeddings) == (260, 32)


def test_an_unknown_size_names_the_known_ones():
    with pytest.raises(ValueError, match="opt-125m, opt-350m, opt-1"):
        load_lm("random:opt-7b")


@torch.no_grad()
def test_a_run_and_its_model_folder_load_alike(opt, tmp_path):
    opt.save_pretrained(tmp_path / "model")
    ids = torch.arange(10, 20)[None]
    for folder in (tmp_path, tmp_path / "model"):
        assert torch.equal(load_lm(str(folder))(ids).logits, opt(ids).logits)
    assert own_tokenizer(str(tmp_path)) == str(tmp_path / "model")
    assert own_tokenizer("random:tiny") is None


def test_training_drops_nothing_out_of_a_loaded_model(tmp_path):
    """Whole layers neither, as an OPT can."""
    make_opt(dropout=0.5, attention_dropout=0.5, layerdrop=0.5).save_pretrained(tmp_path)
    lm, ids = load_lm(str(tmp_path)).train(), torch.arange(10, 20)[None]
    assert all(torch.equal(lm(ids).logits, lm(ids).logits) for _ in range(5))


def test_another_kind_of_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "sentence_vae"}')
    with pytest.raises(ValueError, match="family 'sentence_vae', which is not known"):
        load_lm(str(tmp_path))


def test_pickled_weights_are_refused(opt, tmp_path):
    opt.config.save_pretrained(tmp_path)
    torch.save(opt.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match="no weights as safetensors"):
        load_lm(str(tmp_path))
