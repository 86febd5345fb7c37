"""What a text costs after a context: parts add up, ends are left open, and greedy means what writing does."""

import math

import pytest
import torch
from families import MAKERS, loaded_as, make_family_sllm

from lmbase.text.tokenizers import load_tokenizer
from sllm.evaluation.loaded import Writing

TEXTS = [
    "One, two. Four? Yes, 5: 3.14.",
    "He left. She went. ",
    " ",
    "</s><pad>.",
    "na\u00efve \U0001f989? \u4f60\u597d\u3002 So",
    "Go.com on",
]


@pytest.fixture(params=MAKERS)
def loaded(request):
    return loaded_as(MAKERS[request.param]("llama"))


def nats(loaded, *pairs):
    return [found.nats for found in loaded.continuations(pairs)]


@pytest.mark.parametrize("text", TEXTS)
def test_the_parts_of_a_text_add_up_wherever_it_is_parted(loaded, text):
    """Also after a space, within a sentence, between "Go." and "com", before the first letter and after the last."""
    (whole,) = nats(loaded, ("", text))
    for cut in range(len(text) + 1):
        beginning, rest = nats(loaded, ("", text[:cut]), (text[:cut], text[cut:]))
        assert beginning + rest == pytest.approx(whole, rel=1e-4)


def test_nothing_costs_nothing(loaded):
    for context in ("", "He left.", "He left. "):
        (found,) = loaded.continuations([(context, "")])
        assert (found.nats, found.greedy) == (0.0, True)


def test_a_score_is_what_a_text_costs_and_its_end(loaded):
    (whole,) = loaded.score(["Yes. No!"], 100)["full window"]
    (open_end,) = nats(loaded, ("", "Yes. No!"))
    if not loaded.by_sentence:
        assert open_end == pytest.approx(whole.nats - whole.token[-1], rel=1e-5)
        return
    model = loaded.model
    with torch.no_grad():
        ended = model.nats(**vars(model.processor(["Yes. No!"])))
    last_mark = float(ended.token[0, 1, len(" No!")])
    assert open_end == pytest.approx(whole.nats - whole.stop[-1] - last_mark, rel=1e-5)


def test_continuations_that_exclude_each_other_are_no_likelier_than_one(loaded):
    likely = [math.exp(-value) for value in nats(loaded, *[("Ye", chr(i)) for i in range(128)])]
    assert 0 < sum(likely) < 1


def test_batches_do_not_matter(loaded):
    pairs = [(text[:4], text[4:]) for text in TEXTS]
    alone = [nats(loaded, pair)[0] for pair in pairs]
    assert nats(loaded, *pairs) == pytest.approx(alone, rel=1e-4)


def test_long_texts_are_read_in_windows(loaded):
    text = " ".join(["He left, she stayed."] * 20)
    for context in (text, ""):
        (value,) = nats(loaded, (context, text))
        assert math.isfinite(value)
        assert value > 0
    # a context beyond the window changes nothing
    close, far = nats(loaded, (text, " So."), (text + text, " So."))
    assert loaded.by_sentence or close == pytest.approx(far, rel=1e-4)


@pytest.mark.parametrize("context", ["", "He left.", "He left. ", "He le", "One, two. Four", "x, y"])
def test_greedy_is_what_greedy_writing_writes(loaded, context):
    text = loaded.write(context, Writing(9)).text
    text = text.partition("\ufffd")[0]  # random models write bytes that are no character
    found = [one.greedy for one in loaded.continuations([(context, text[:n]) for n in range(len(text) + 1)])]
    # An SLLM that was given "Go." wrote a new sentence without a space, "4": "Go.4" is cut as one, and not written so.
    assert all(found) or (loaded.by_sentence and context == "He left." and found == [True] + [False] * len(text))
    assert not loaded.continuations([(context, text + "\x07")])[0].greedy
    assert not loaded.continuations([(context, "\x07" + text)])[0].greedy


def test_what_writing_never_does_is_not_greedy():
    """A prompt that ends a sentence is taken as ended, so that nothing is written within that sentence."""
    loaded = loaded_as(make_family_sllm())
    for _ in range(3):
        with torch.no_grad():
            loaded.model.autoencoder.embed_tokens.weight[ord("c") + 4] *= 20  # "c" is always the first choice
        assert not loaded.continuations([("Go.", "c")])[0].greedy


def test_a_border_inside_a_token_belongs_to_the_text():
    """With tokens of several letters: " cat" after "The " costs what it costs after "The"."""
    loaded = loaded_as(MAKERS["plain"]("llama", vocab_size=400))
    loaded.tokenizer = load_tokenizer("bpe:300", lambda: iter([" the The" * 50]))
    assert len(loaded.tokenizer.encode(" the")) == 1
    assert nats(loaded, ("The ", "the"))[0] == pytest.approx(nats(loaded, ("The", " the"))[0])


def test_an_autoencoder_and_what_is_no_text_are_told(vae, loaded):
    with pytest.raises(ValueError, match="predicts no text"):
        loaded_as(vae).continuations([("", "a")])
    with pytest.raises(ValueError, match="Lone surrogate"):
        loaded.continuations([("", "a\ud800")])
    with pytest.raises(ValueError, match="contexts: number 0 is None"):
        loaded.continuations([(None, "a")])
