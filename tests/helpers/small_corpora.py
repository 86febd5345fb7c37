"""Small corpora in memory, and what `prepare` makes of them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sllm_data import prepare as preparing
from sllm_data.corpora import Corpus
from sllm_data.prepared import PreparedData
from sllm_data.readers import Document

TEXTS = [f"Sentence {i} is here, it says. And   {'then ' * (i % 90)}ends!\r\nÜber 😀 {i}.\n" for i in range(120)]


def corpus_of(texts: list[str], valid: list[str] | None = None, fingerprint: str = "f") -> Corpus:
    def source(split: str, part: list[str]):
        return lambda: (Document(text, f"{split}:{i}") for i, text in enumerate(part))

    return Corpus(
        "small", fingerprint, {"train": source("train", texts), "valid": source("valid", valid or ["Held out."])}
    )


def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparing, "CHUNK_CHARACTERS", 700)


def files_of(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != ".lock"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def documents_of(data: PreparedData, split: str) -> Iterator[str]:
    part = data.split(split)
    for d in range(part.num_documents):
        first, last = part.document_sentences[d], part.document_sentences[d + 1]
        ids = part.tokens(part.sentence_tokens[first], part.sentence_tokens[last])
        yield data.processor.decode(ids.tolist())
