"""Prepared data for a training recipe: a folder that `prepare` wrote, or any corpus, prepared on the way."""

from collections.abc import Iterator
from pathlib import Path

from accelerate import PartialState

from lmbase.checkpoint import MANIFEST
from lmbase.corpora import open_corpus
from lmbase.prepared import PreparedData
from lmbase.preparing import prepare
from lmbase.processing import SentenceProcessor
from lmbase.text import train_punkt
from lmbase.tokenization import load_tokenizer

PUNKT_CHARACTERS = 4_000_000  # Punkt learns about 0.4 MB/s, and its abbreviations are found early


def _first(texts: Iterator[str], num_characters: int) -> Iterator[str]:
    for text in texts:
        if num_characters <= 0:
            return
        num_characters -= len(text)
        yield text


def is_prepared(data: str) -> bool:
    """Whether `data` names a folder written by `prepare`."""
    return (Path(data) / MANIFEST).is_file()


def make_processor(corpus, tokenizer: str, rule: str, max_sentence_tokens: int) -> SentenceProcessor:
    """The processor for a corpus; a tokenizer and Punkt parameters are learned from its train split where asked for."""
    loaded = load_tokenizer(tokenizer, lambda: corpus.texts("train"))
    punkt = train_punkt(_first(corpus.texts("train"), PUNKT_CHARACTERS)) if rule == "sentence" else None
    return SentenceProcessor(loaded, rule, max_sentence_tokens, punkt)


def open_data(
    data: str, *, text_field: str, tokenizer: str, rule: str, max_sentence_tokens: int, output_dir: str
) -> PreparedData:
    """Load prepared data, or prepare the corpus `data` names into `output_dir`/data first (once; processes wait)."""
    if is_prepared(data):
        return PreparedData.load(data)
    folder = Path(output_dir) / "data"
    with PartialState().local_main_process_first():
        if is_prepared(str(folder)):
            return PreparedData.load(folder)
        corpus = open_corpus(data, text_field)
        return prepare(corpus, make_processor(corpus, tokenizer, rule, max_sentence_tokens), folder)
