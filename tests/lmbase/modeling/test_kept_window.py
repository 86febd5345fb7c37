"""A window of tokens and the sentence ends: in parallel by a mask, step by step by forgetting."""

import pytest
import torch
from tiny import LMS, make_lm, make_processor

from lmbase.modeling import kept_window
from lmbase.modeling.kept_window import KeptReader, KeptWindow
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import FAMILIES, position_bytes, trunk_of
from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import encode_text

TEXT = "So, I. It is 3.1, no? Yes!"
IDS = [2, *encode_text(make_processor().tokenizer, TEXT)]
WINDOWS = (1, 2, 5)


@torch.no_grad()
def parallel(lm, keep, ids):
    rows = torch.tensor([ids])
    return lm.get_output_embeddings()(keep.states(trunk_of(lm), rows, [len(ids)]))[0]  # (L,V)


def positions_kept(keep, ids, newest):
    """By the definition: what position `newest` reads."""
    ends = keep.end_finder()
    if ends is not None:
        ends.read(ids[1 : newest + 1])
    return sorted({0, *range(max(0, newest - keep.window + 1), newest + 1), *(ends.found if ends else [])})


@torch.no_grad()
@pytest.mark.parametrize("shape", LMS)
@pytest.mark.parametrize("processor", [make_processor(), None])
def test_one_layer_reads_what_is_kept_as_if_nothing_else_had_been_there(shape, processor):
    """At its true positions; by Transformers' own forward pass over the kept tokens alone."""
    lm = make_lm(shape, num_hidden_layers=1)
    for window in WINDOWS:
        keep = KeptWindow(window, processor)
        found = parallel(lm, keep, IDS)
        for newest in (0, 1, 7, 12, len(IDS) - 1):
            kept = torch.tensor([positions_kept(keep, IDS, newest)])
            alone = lm(input_ids=torch.tensor(IDS)[kept], position_ids=kept, attention_mask=torch.ones_like(kept))
            torch.testing.assert_close(found[newest], alone.logits[0, -1], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("shape", LMS)
def test_read_step_by_step_with_a_cache_the_logits_are_those_of_the_mask(shape):
    lm = make_lm(shape)
    for window in WINDOWS:
        keep = KeptWindow(window, make_processor())
        reader, found = KeptReader(lm, keep, 1), parallel(lm, keep, IDS)
        for newest, token in enumerate(IDS):
            logits = reader.read(torch.tensor([[token]]), torch.ones(1, 1, dtype=torch.bool))[0]
            torch.testing.assert_close(logits, found[newest], rtol=1e-4, atol=1e-4)
            kept = positions_kept(keep, IDS, newest)
            assert sorted(reader.cache.positions[0].tolist()) == kept  # the rest is gone
            assert reader.cache.num_bytes == len(kept) * position_bytes(lm.config, lm.dtype)


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_ragged_texts_are_read_together_as_each_alone(family, monkeypatch):
    """Prompts in several passes, one text shorter than the padding of the first."""
    monkeypatch.setattr(kept_window, "PROMPT_ROWS", 5)
    lm, keep = make_lm(family), KeptWindow(4, make_processor())
    texts = [IDS[:20], IDS[:3], [2], IDS[:13]]
    width = max(map(len, texts))
    rows = torch.tensor([[1] * (width - len(ids)) + ids for ids in texts])
    mask = torch.arange(width) >= torch.tensor([[width - len(ids)] for ids in texts])
    reader = KeptReader(lm, keep, len(texts))
    logits, further = reader.read(rows, mask), [5 + ord("a"), 5 + ord("b")]
    for step in range(3):
        for b, ids in enumerate(texts):
            torch.testing.assert_close(logits[b], parallel(lm, keep, ids)[-1], rtol=1e-4, atol=1e-4)
        if step < 2:
            new = torch.full((len(texts), 1), further[step])
            texts = [[*ids, further[step]] for ids in texts]
            logits = reader.read(new, torch.ones_like(new, dtype=torch.bool))


@torch.no_grad()
def test_a_window_that_holds_all_is_the_plain_model():
    lm = make_lm("llama")
    batch = *pad_tokens([IDS[1:], IDS[1:9]], 1), torch.tensor([True, False])
    plain, kept = (TokenLM(lm, keep).nats(*batch) for keep in (None, KeptWindow(32, make_processor())))
    torch.testing.assert_close(kept, plain)
    assert not torch.allclose(TokenLM(lm, KeptWindow(3, make_processor())).nats(*batch), plain, rtol=1e-2)


def test_it_is_trained_as_it_is_scored():
    model = TokenLM(make_lm("llama"), KeptWindow(3, make_processor()))
    batch = *pad_tokens([IDS[1:], IDS[1:9]], 1), torch.tensor([True, False])
    torch.testing.assert_close(model(*batch).losses["token"], model.nats(*batch).sum())


@torch.no_grad()
def test_eager_attention_reads_the_same():
    lm, keep = make_lm("llama"), KeptWindow(3, make_processor())
    expected = parallel(lm, keep, IDS)
    lm.set_attn_implementation("eager")
    torch.testing.assert_close(parallel(lm, keep, IDS), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("window", [0, -3, 33, 2.5, True, "8"])
def test_a_window_that_is_none_is_refused(window):
    config = make_lm("llama").config
    config.keep_window = window
    with pytest.raises(ValueError, match=r"keep_window=.*of the 32 positions that this model reads the newest 1 to 32"):
        KeptWindow.of(config, make_processor)
