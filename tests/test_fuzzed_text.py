"""Any text at all through segment, prepare's encoding, score and generate: told what is wrong, or right."""

import time
from functools import cache
from typing import Any

import pytest
from families import loaded_as
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from soak import SOAK, times
from tiny import make_mtp, make_opt, make_processor, make_sllm, make_vae

from lmbase.text import RULES, is_unicode, segment
from lmbase.text.processor import SentenceProcessor
from lmbase.text.segmentation import SEGMENTERS
from lmbase.text.tokenizers import load_tokenizer
from sllm.evaluation.loaded import Writing

pytestmark = pytest.mark.filterwarnings("ignore:rule 'sentence' found no Punkt model")

KILLERS = [
    *("\ud800", "a\udfff.", "\x00", "\ufeffIt rained.\ufeff", "a\u2028b\u2029c\x85d\x0be\x0cf", "e" + "\u0301" * 500),
    *(
        "\u200f.שלום\u200e! \u202eabc\u202c.",
        "👩\u200d👧\u200d👦" * 40,
        "\r\n\r.\n\r\r\n.\r",
        "</s><s><pad>",
        "\ufffd. \ufffe\uffff",
    ),
    *("." * 10_000, " " * 10_000, "a" * 10_000, "日" * 3_000, "\n" * 10_000, "\t \u3000\u00a0" * 2_000, '"' * 5_000),
    *("\u0e01\u0e33" * 999, "𝒜\U0010ffff\U000e0001.", "ﷺ" * 99, "İıſK\u1e9e.", "1.1." * 999, "A.B.C. " * 999),
]
COMMON = ["Mr. ", "3.14", "Yes. ", ", ", "\r\n", "\u0301", "\u200d", "▁", "Ġ"]
PARTS = st.sampled_from([killer[:12] for killer in KILLERS] + COMMON)
TEXTS = st.lists(PARTS | st.text(st.characters(exclude_categories=[]), max_size=20), max_size=8).map("".join)


def fuzzed(quick: int, soak: int) -> Any:
    """So many texts in each tier, and every killer."""

    def decorate(test: Any) -> Any:
        for killer in KILLERS:
            test = example(text=killer)(test)
        number = times(quick, soak)
        test = given(text=TEXTS)(test)
        test = settings(max_examples=number, suppress_health_check=list(HealthCheck), database=None)(test)
        test.tries = number + len(KILLERS)
        return test

    return decorate


@pytest.mark.parametrize("rule", RULES)
@fuzzed(70, 250_000)
def test_any_text_is_cut(rule, text):
    pieces = segment(text, rule)
    assert "".join(pieces) == text
    assert all(pieces)


@cache
def processor_of(tokenizer: str) -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer(tokenizer, lambda: iter(["the cat sat. " * 9, "日本"])), "auto", 12)


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe:300"])
@fuzzed(120, 100_000)
def test_any_text_is_encoded(tokenizer, text):
    processor = processor_of(tokenizer)
    if not is_unicode(text):
        with pytest.raises(ValueError, match="Lone surrogate U"):
            processor.encode(text)
        return
    encoded = processor.encode(text)
    assert processor.decode(encoded.input_ids) == text
    assert max(encoded.sentence_lengths, default=0) <= 12
    assert sum(encoded.sentence_bytes) == len(text.encode())
    assert not processor.codec.special_ids & set(encoded.input_ids)


@cache
def loaded(kind: str) -> Any:
    makers: dict[str, Any] = {
        "plain": lambda: make_opt(max_position_embeddings=64),
        "heads": lambda: make_mtp(opt=dict(max_position_embeddings=64)),
        "sentences": lambda: make_sllm(opt=dict(max_position_embeddings=64), num_future_tokens=2),
        "autoencoder": make_vae,
    }
    model = makers[kind]()
    if kind == "heads":
        model.tokenizer = make_processor().tokenizer
    return loaded_as(model)


@pytest.mark.parametrize("kind", ["plain", "heads", "sentences"])
@fuzzed(40, 4_000)
def test_any_text_is_scored(kind, text):
    text = text[:200]
    if not is_unicode(text):
        with pytest.raises(ValueError, match="Lone surrogate U"):
            loaded(kind).score([text], 32)
        return
    for (document,) in loaded(kind).score([text], 32).values():
        assert document.num_bytes == len(text.encode())
        assert 0 < document.nats < float("inf")


@pytest.mark.parametrize("kind", ["plain", "heads", "sentences"])
@fuzzed(30, 2_000)
def test_any_prompt_is_continued(kind, text):
    text = text[:40]
    model, how = loaded(kind), Writing(4, seed=1, settings=dict(do_sample=True))
    num_given = 1 + len(text.encode(errors="surrogatepass"))
    longest = 10**9 if kind == "sentences" else 64  # positions; a sentence-level model has none for tokens
    if not is_unicode(text) or num_given > longest:
        with pytest.raises(ValueError, match=r"Lone surrogate U|positions"):
            model.write(text, how)
        return
    written = model.write(text, how)
    assert written.num_tokens <= 4
    assert is_unicode(written.text)
    assert model.write(text, how).text == written.text


@fuzzed(20, 2_000)
def test_any_sentence_is_written_again(text):
    text = text[:60]
    if is_unicode(text):
        assert len(loaded("autoencoder").model.reconstruct(text)) == 1


FAMILIES = {
    "prose": "Mr. Smith paid $3.14. Then he left, and she stayed! ",
    "one character": "a",
    "spaces": " ",
    "new lines": "\n",
    "full stops": ".",
    "quotes": '"',
    "closing after stops": ".)\"\u201d'",
    "japanese": "今日は雨。明日も、",
    "thai": "ฝนตกแล้วไปไหน",
    "code": "x = f(a[1], b); // c\n",
    "abbreviations": "A.B.C. e.g. U.S. ",
    "combining marks": "e\u0301\u0301.\u200d",
}


MEASURED = 0.5 if SOAK else 0.0  # seconds, at least


@pytest.mark.parametrize("rule", SEGMENTERS)
@pytest.mark.parametrize("family", FAMILIES)
def test_cutting_takes_time_in_proportion(family, rule):
    """Ten times the text in about ten times the time (short texts profit from the processor's caches); a square would
    take a hundred times. The clock is the processor's, which other work on the machine does not stop, and the best of
    several measurements counts: the first ones of a size also pay for the memory that they are given."""
    size, most = (1_000_000, 12) if SOAK else (20_000, 50)

    def seconds(length: int) -> float:
        text = (FAMILIES[family] * (length // len(FAMILIES[family]) + 1))[:length]
        found: list[float] = []
        while len(found) < 2 or sum(found) < MEASURED:
            began = time.process_time()
            segment(text, rule)
            found.append(time.process_time() - began)
        return min(found)

    # the tenth of a millisecond is what a call takes anyway
    assert any(seconds(10 * size) <= most * (seconds(size) + 1e-4) for _ in range(3))
