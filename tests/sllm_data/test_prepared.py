"""Prepared data: what comes back is what went in, and damage is found."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_corpora import TEXTS, corpus_of, documents_of, small_chunks

from lmbase.files import sha256s
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData


@pytest.fixture(scope="module")
def processor() -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)


def test_texts_come_back(tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch) -> None:
    small_chunks(monkeypatch)
    data = prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1, shard_characters=3000)
    assert data.splits == ("train", "valid")
    assert list(documents_of(data, "train")) == TEXTS
    part = data.split("train")
    assert len(list((tmp_path / "train").glob("*.arrow"))) > 3
    encoded = processor.encode_batch(TEXTS)
    assert part.num_documents == len(TEXTS)
    assert np.array_equal(np.diff(part.sentence_tokens), np.concatenate([e.sentence_lengths for e in encoded]))
    assert np.array_equal(part.sentence_bytes, np.concatenate([e.sentence_bytes for e in encoded]))
    assert np.array_equal(np.diff(part.document_sentences), [len(e.sentence_lengths) for e in encoded])
    assert (part.document_sentences.dtype, part.sentence_tokens.dtype, part.sentence_bytes.dtype) == (
        "int64",
        "int64",
        "int32",
    )


def test_any_range_of_the_token_stream(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    texts = [*TEXTS[:20], "", *TEXTS[20:30]]
    part = prepare(corpus_of(texts), processor, tmp_path, num_workers=1, shard_characters=1500).split("train")
    flat = np.concatenate([e.input_ids for e in processor.encode_batch(texts)]).astype(np.int32)
    assert part.num_tokens == len(flat)
    borders = sorted({0, 1, len(flat), *part._starts.tolist(), *(part._starts[1:] - 1).tolist()})
    for start in borders:
        for stop in borders:
            if start <= stop:
                tokens = part.tokens(start, stop)
                assert tokens.dtype == np.int32
                assert np.array_equal(tokens, flat[start:stop])


@settings(max_examples=40, deadline=None)
@given(texts=st.lists(st.text(st.characters(), max_size=40), min_size=1, max_size=6))
def test_any_unicode(texts: list[str], processor: SentenceProcessor, tmp_path_factory: pytest.TempPathFactory) -> None:
    data = prepare(corpus_of(texts), processor, tmp_path_factory.mktemp("any"), num_workers=1, progress=False)
    kept = [text for text in texts if text and not any("\ud800" <= c <= "\udfff" for c in text)]
    assert data.statistics["train"]["documents"] == len(kept)
    assert data.statistics["train"]["bytes"] == sum(len(text.encode()) for text in kept)
    if kept:
        assert list(documents_of(data, "train")) == kept
        assert data.split("train").sentence_bytes.sum() == data.statistics["train"]["bytes"]


def test_statistics(tmp_path: Path, processor: SentenceProcessor) -> None:
    texts = ["One. Two.", "", "Bad \ud800 surrogate.", "Three </s> <pad>.", " "]
    data = prepare(corpus_of(texts), processor, tmp_path, num_workers=1)
    counts = data.statistics["train"]
    assert (counts["documents"], counts["sentences"], counts["bytes"]) == (3, 4, 9 + 17 + 1)
    assert counts["tokens"] == counts["bytes"]
    assert {n: c for n, c in enumerate(counts["tokens_per_sentence"]) if c} == {1: 1, 4: 1, 5: 1, 17: 1}
    assert counts["skipped"] == {
        "empty document": {"count": 1, "names": ["train:1"]},
        "lone surrogate": {"count": 1, "names": ["train:2"]},
    }
    assert counts["rules"] == {"punctuation": 3}
    assert counts["piecewise_to_whole_tokens"] == 1.0
    assert list(documents_of(data, "train")) == ["One. Two.", "Three </s> <pad>.", " "]


def test_the_datasets_library_reads_the_shards(tmp_path: Path, processor: SentenceProcessor) -> None:
    prepare(corpus_of(TEXTS[:5]), processor, tmp_path / "data", num_workers=1)
    table = datasets.Dataset.from_file(str(tmp_path / "data" / "train" / "00000.arrow"))
    assert table.column_names == ["input_ids", "sentence_lengths", "sentence_bytes", "name"]
    assert table[3]["name"] == "train:3"
    assert table[3]["input_ids"] == processor.encode(TEXTS[3]).input_ids


def test_a_split_without_text_is_not_a_split(tmp_path: Path, processor: SentenceProcessor) -> None:
    data = prepare(corpus_of(["Text."], ["\udc80"]), processor, tmp_path, num_workers=1)
    assert data.splits == ("train",)
    with pytest.raises(ValueError, match="no split 'valid', only train"):
        data.split("valid")


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("file", ["train/00000.arrow", "statistics.json", "manifest.json", "processor/tokenizer.json"])
@pytest.mark.parametrize("damage", [cut_off, flipped, lambda data: b"", None])
def test_E5_damage_is_found_when_data_are_loaded(
    tmp_path: Path, processor: SentenceProcessor, file: str, damage
) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    if damage:
        (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    else:
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=r"(damaged.*again)|(holds no prepared data.*prepare)"):
        PreparedData.load(tmp_path)


def test_E5_large_data_are_verified_too(tmp_path: Path, processor: SentenceProcessor) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    lengthen(tmp_path / "train" / "00000.arrow", 65 * 2**20)
    assert PreparedData.load(tmp_path).split("train").num_documents == len(TEXTS)
    with (tmp_path / "train" / "00000.arrow").open("r+b") as file:
        file.seek(40 * 2**20)
        file.write(b"\1")
    with pytest.raises(ValueError, match=r"00000\.arrow is damaged.*again"):
        PreparedData.load(tmp_path)


def lengthen(shard: Path, size: int) -> None:
    """Have a shard be so large, behind what is read of it, and the manifest say so."""
    with shard.open("r+b") as file:
        file.truncate(size)
    entry = {"sha256": sha256s([shard])[0], "bytes": size}
    manifest = json.loads((shard.parents[1] / "manifest.json").read_text())
    manifest[shard.relative_to(shard.parents[1]).as_posix()] = entry
    (shard.parents[1] / "manifest.json").write_text(json.dumps(manifest))


def test_E5_a_folder_is_hashed_once_in_a_process(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    monkeypatch.setattr("lmbase.files.sha256s", lambda paths: pytest.fail("it is hashed again"))
    for _ in range(3):
        PreparedData.load(tmp_path)


def test_without_verifying_data_are_checked_by_size_and_structure(tmp_path: Path, processor: SentenceProcessor) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    shard = tmp_path / "train" / "00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"00000\.arrow has \d+ bytes instead of"):
        PreparedData.load(tmp_path, verify=False)
    shard.write_bytes(b"\xff" * len(whole))
    with pytest.raises(ValueError, match=r"00000\.arrow is damaged.*prepare"):
        PreparedData.load(tmp_path, verify=False).split("train")


def test_random_damage_never_gives_a_view_outside_the_file(tmp_path: Path, processor: SentenceProcessor) -> None:
    prepare(corpus_of(TEXTS[:8]), processor, tmp_path, num_workers=1)
    shard = tmp_path / "train" / "00000.arrow"
    whole = np.frombuffer(shard.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    told = []
    for _ in range(200):
        damaged = whole.copy()
        damaged[random.integers(len(whole), size=3)] = random.integers(256, size=3)
        shard.write_bytes(damaged.tobytes())
        try:
            part = PreparedData.load(tmp_path, verify=False).split("train")
        except ValueError as error:
            told.append("Delete the folder" in str(error))
        else:
            assert len(part.tokens(0, part.num_tokens)) == part.num_tokens
    assert told
    assert all(told)


def test_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no prepared data"):
        PreparedData.load(tmp_path)
