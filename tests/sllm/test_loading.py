"""Whatever a recipe names is loaded as its kind, or refused with what is needed."""

import pytest
from families import FAMILIES, make_family_heads, make_family_sllm, make_lm
from tiny import make_processor, make_vae
from transformers import BertConfig

from sllm import SLLM
from sllm.loading import load_model


def saved(model, folder):
    model.save_pretrained(folder)
    make_processor().tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_token_level_model_of_any_family_is_plain(family, tmp_path):
    loaded = load_model(f"short={saved(make_lm(family), tmp_path)}")
    assert (loaded.name, loaded.plain, loaded.training) == ("short", True, None)
    assert loaded.num_parameters == sum(p.numel() for p in make_lm(family).parameters())


def test_our_own_kinds(tmp_path):
    heads = load_model(str(saved(make_family_heads(), tmp_path / "heads")))
    sentences = load_model(str(saved(make_family_sllm(), tmp_path / "sllm")))
    vae = load_model(str(saved(make_vae(), tmp_path / "vae")))
    assert [loaded.num_heads for loaded in (heads, sentences, vae)] == [2, 0, 0]
    assert [loaded.predicts for loaded in (heads, sentences, vae)] == [True, True, False]
    assert sentences.by_sentence
    assert heads.name == "heads"


def test_another_family_is_named_with_those_that_are_promised(tmp_path):
    saved(BertConfig(), tmp_path)
    with pytest.raises(ValueError, match=r"'bert'.*opt, gpt2, llama"):
        load_model(str(tmp_path))


def test_a_tokenizer_with_more_ids_than_the_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has 260 ids, its model 100"):
        load_model(str(saved(make_lm("llama", vocab_size=100), tmp_path)))


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match="no-such"):
        load_model(str(tmp_path / "no-such"))


def test_a_folder_may_have_an_equals_sign_in_its_name_or_be_the_current_one(tmp_path, monkeypatch):
    folder = saved(make_lm("llama"), tmp_path / "lr=0.1")
    monkeypatch.chdir(tmp_path)
    assert load_model("lr=0.1").name == "lr=0.1"
    assert load_model("mine=lr=0.1").name == "mine"
    monkeypatch.chdir(folder)
    assert load_model(".").name == "lr=0.1"


def test_a_runs_model_may_be_named_as_its_subfolder(tmp_path):
    saved(make_family_sllm(), tmp_path / "run" / "model")
    assert SLLM.from_pretrained(tmp_path / "run", subfolder="model").has_processor
