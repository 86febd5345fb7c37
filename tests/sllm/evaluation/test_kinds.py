"""Every kind of model, on trunks of several families, does all that recipes ask of it."""

import pytest
import torch
from families import FAMILIES, MAKERS, loaded_as, make_family_heads, make_family_sllm, make_lm
from tiny import make_opt, make_processor, make_vae
from torch import nn
from transformers.pytorch_utils import Conv1D

from lmbase.modeling.packed import KINDS
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import special_ids
from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import encode_text
from multitoken import MultiTokenLM
from sllm.evaluation.kinds import HeadsLM, PlainLM, SentenceLM, kind_of
from sllm.evaluation.loaded import Writing

TEXT = "One, two, three. Four and five!"


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.fixture(params=MAKERS)
def loaded(request, family):
    return loaded_as(MAKERS[request.param](family))


def test_the_audit_passes(loaded):
    report = loaded.audit(TEXT)
    assert report.passed, report.failures


def test_F9_scores_that_are_no_numbers_are_told_as_such():
    for make in MAKERS.values():
        loaded = loaded_as(make("llama"))
        with torch.no_grad():
            loaded.model.get_input_embeddings().weight[ord("n") + 4] = torch.nan
        with pytest.raises(ValueError, match="costs nan nats, which is no number to audit"):
            loaded.audit(TEXT)


@pytest.mark.parametrize("family", FAMILIES)
def test_F9_a_model_with_an_output_head_of_its_own_passes_the_audit(family):
    loaded = loaded_as(make_lm(family, tie_word_embeddings=False))
    assert loaded.audit(TEXT).passed


def test_all_bytes_are_scored_and_the_whole_window_is_a_protocol(loaded):
    found = loaded.score([TEXT, "Six."], 20)
    assert list(found) == ["full window"] + ["equal context"] * loaded.by_sentence
    for documents in found.values():
        assert [d.num_bytes for d in documents] == [len(TEXT), 4]
        assert all(d.nats > 0 for d in documents)
    assert loaded.paper_perplexity([TEXT]) > 1


def test_it_writes_greedily_the_same_again(loaded):
    written = [loaded.write("Hello", Writing(8, settings=dict(do_sample=False))) for _ in range(2)]
    assert written[0].text == written[1].text
    assert written[0].num_tokens <= 8
    assert written[0].finish_reason in ("stop", "length")


def test_draws_with_a_seed_are_repeated(loaded):
    how = Writing(8, seed=3, settings=dict(do_sample=True))
    assert loaded.write("Hello", how).text == loaded.write("Hello", how).text


def test_it_is_timed(loaded):
    found = loaded.time("Hello", 6)
    assert found.num_new_tokens == 6
    assert found.cache_bytes > 0
    assert found.tokens_per_second > 0


def test_a_plain_model_reads_the_opening_token_of_its_family(family):
    """What it scores is what the model itself says after its opening id, and an end id ends its texts."""
    lm = make_lm(family, bos_token_id=5, eos_token_id=7)
    loaded = loaded_as(lm)
    (document,) = loaded.score(["ab"], 20)["full window"]
    ids = loaded.tokenizer("ab", add_special_tokens=False).input_ids
    with torch.no_grad():
        logits = lm(torch.tensor([[5, *ids]])).logits[0].log_softmax(-1)
    expected = -logits[range(3), [*ids, 7]].sum().item()
    assert document.nats == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("several", [False, True])
def test_a_written_end_is_no_token_of_the_text(several):
    """A model may have several ids that end a text."""
    lm = make_lm("llama", seed=3, eos_token_id=0)
    ids = torch.tensor([[special_ids(lm.config).opening, *encode_text(make_processor().tokenizer, "Hello")]])
    (end,) = lm.generate(ids, do_sample=False, max_new_tokens=1)[0, -1:].tolist()
    lm.generation_config.eos_token_id = [9, end] if several else end
    written = loaded_as(lm).write("Hello", Writing(4))
    assert (written.num_tokens, written.finish_reason) == (0, "stop")


def test_a_plain_model_writes_to_its_last_position_and_no_further():
    loaded = loaded_as(make_lm("llama", max_position_embeddings=16))
    assert loaded.room == 16
    room = 16 - 5
    assert loaded.write("Hello", Writing(room, settings=dict(min_new_tokens=room))).num_tokens == room
    further = loaded.write("Hello", Writing(room + 1, settings=dict(min_new_tokens=room + 1)))
    assert (further.num_tokens, further.finish_reason) == (room, "context")
    with pytest.raises(ValueError, match="17 tokens with the opening one; tested has 16 positions"):
        loaded.write("Hello" * 3 + "!", Writing(1))


def test_copies_of_a_plain_model_reach_its_last_position():
    loaded = loaded_as(make_lm("llama", max_position_embeddings=16))
    how = dict(min_new_tokens=99, prompt_lookup_num_tokens=5)
    written = loaded.write("aaaaa", Writing(99, settings=how))
    assert (written.num_tokens, written.finish_reason) == (11, "context")
    assert written.tokens_per_forward


def test_one_text_is_written_here():
    with pytest.raises(ValueError, match="num_return_sequences=2: one text is written here"):
        Writing(4, settings=dict(num_return_sequences=2))


def test_copied_drafts_need_positions_beyond_the_last_token():
    loaded = loaded_as(make_lm("llama", max_position_embeddings=32))
    assert loaded.can_copy(27, 5)
    assert not loaded.can_copy(28, 5)
    assert loaded_as(make_family_sllm()).can_copy(10**6, 5)


@pytest.mark.parametrize("weights", KINDS)
def test_weights_in_fewer_bits(family, weights):
    """GPT-2's Conv1D, too."""
    size = dict(hidden_size=32, num_attention_heads=2)
    lm = make_lm(family, **size)
    plain, heads = loaded_as(lm), loaded_as(MultiTokenLM.from_lm(lm, 1))
    heads.model.tokenizer = plain.tokenizer
    for loaded in (plain, heads):
        loaded.pack(weights)
        assert not any(isinstance(module, nn.Linear | Conv1D) for module in loaded.model.modules())
        (document,) = loaded.score([TEXT], 20)["full window"]  # as a playground asks
        assert 0 < document.nats < float("inf")
    expected = plain.write("Hello", Writing(12)).text
    assert heads.write("Hello", Writing(12)).text == expected


def test_an_autoencoder_has_no_weights_in_fewer_bits():
    with pytest.raises(ValueError, match="weights=int4 are for models that predict text, not an autoencoder"):
        loaded_as(make_vae()).pack("int4")


def test_a_multi_token_model_is_scored_by_head_1_as_the_model_that_it_is(family):
    heads = make_family_heads(family)
    plain = loaded_as(heads.to_lm())
    (own,), (expected,) = (x.score([TEXT], 20)["full window"] for x in (loaded_as(heads), plain))
    assert own.nats == pytest.approx(expected.nats, rel=1e-4)
    assert len(loaded_as(heads).nats_by_head([TEXT])) == 2


def test_the_window_is_the_one_of_its_training():
    lm = make_lm("llama")
    assert loaded_as(lm).window == 63
    lm.config.training_context = 32
    assert loaded_as(lm).window == 31


def test_what_a_text_that_is_too_short_lacks():
    for model, found in ((make_family_sllm(), "2 sentences"), (make_opt(), "2 tokens")):
        with pytest.raises(ValueError, match=f"has {found}, and at least 3 are needed.*--data"):
            loaded_as(model).audit("ab" if "tokens" in found else "One, two.")


def test_types_of_models_have_their_kinds():
    expected = {"sllm": SentenceLM, "multi_token_lm": HeadsLM, "opt": PlainLM, "llama": PlainLM}
    assert {name: kind_of(name) for name in expected} == expected
    vae = loaded_as(make_vae())
    assert not vae.predicts
    assert (loaded_as(make_opt()).plain, loaded_as(make_family_sllm()).by_sentence) == (True, True)


def test_the_scorer_of_a_plain_model_is_shifted_as_in_training():
    lm = make_lm("gpt2")
    ids, mask = pad_tokens([[10, 11, 12]], 1)
    ends = torch.tensor([True])
    with torch.no_grad():
        scorer = PlainLM("plain", lm, make_processor().tokenizer).scorer
        assert torch.equal(scorer.nats(ids, mask, ends), TokenLM(lm).eval().nats(ids, mask, ends))
