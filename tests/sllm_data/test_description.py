"""Prepared data in words."""

from pathlib import Path

from small_corpora import TEXTS

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.corpora import Corpus
from sllm_data.description import describe
from sllm_data.prepare import prepare
from sllm_data.readers import Document, Skip


def test_splits_repeats_and_what_was_left_out_are_told(tmp_path: Path) -> None:
    train: list[Document | Skip] = [Document(text, f"t:{i}") for i, text in enumerate(TEXTS[:9])]
    skips: list[Document | Skip] = [Skip(f"{name}.txt", "invalid UTF-8", f"byte {name}") for name in "abcd"]
    valid: list[Document | Skip] = [Document(TEXTS[3], "v:1"), Document("", "v:2"), Skip("e.txt", "invalid UTF-8")]
    corpus = Corpus("c", "f", {"train": lambda: iter([*train, *skips]), "valid": lambda: iter(valid)}, report="as said")
    processor = SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)
    lines = describe(prepare(corpus, processor, tmp_path, num_workers=1)).splitlines()
    assert lines[1] == "  splits: as said"
    assert lines[2].startswith("  train: 9 documents, ")
    assert lines[-3:] == [
        "  valid: 1 of the documents are in train, too: their scores flatter",
        "  left out 5 x invalid UTF-8: a.txt (byte a), b.txt, c.txt ...",
        "  left out 1 x empty document: v:2",
    ]
