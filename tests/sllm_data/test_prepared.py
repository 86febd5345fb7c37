"""Prepared data: what comes back is what went in, whatever was interrupted, parallel, damaged or full."""

import errno
import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data import encode as encoding
from sllm_data import prepare as preparing
from sllm_data.corpora import Corpus
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData
from sllm_data.readers import Document, Skip

TEXTS = [f"Sentence {i} is here, it says. And   {'then ' * (i % 90)}ends!\r\nÜber 😀 {i}.\n" for i in range(120)]


@pytest.fixture(scope="module")
def processor() -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)


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


def test_what_the_corpus_could_not_read_is_in_the_statistics(tmp_path: Path, processor: SentenceProcessor) -> None:
    corpus = Corpus("c", "f", {"train": lambda: iter([Skip("a.txt", "invalid UTF-8"), Document("Good.", "b.txt")])})
    data = prepare(corpus, processor, tmp_path, num_workers=1)
    assert data.statistics["train"]["skipped"] == {"invalid UTF-8": {"count": 1, "names": ["a.txt"]}}


def test_the_datasets_library_reads_the_shards(tmp_path: Path, processor: SentenceProcessor) -> None:
    prepare(corpus_of(TEXTS[:5]), processor, tmp_path / "data", num_workers=1)
    table = datasets.Dataset.from_file(str(tmp_path / "data" / "train" / "00000.arrow"))
    assert table.column_names == ["input_ids", "sentence_lengths", "sentence_bytes", "name"]
    assert table[3]["name"] == "train:3"
    assert table[3]["input_ids"] == processor.encode(TEXTS[3]).input_ids


def test_the_result_is_the_same_for_any_number_of_workers(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    for workers in (1, 2):
        prepare(corpus_of(TEXTS), processor, tmp_path / str(workers), num_workers=workers, shard_characters=3000)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_a_failure_in_a_worker_reaches_the_caller(processor: SentenceProcessor) -> None:
    bad = encoding.Chunk([Document(3, "n")], "train", 0, False, False, 1, "")  # type: ignore[arg-type]
    with pytest.raises(AttributeError):
        list(encoding.encode_in_order([bad] * 6, processor, 2))


class Interrupted(Exception):
    pass


def interrupted_corpus(texts: list[str], after: int) -> Corpus:
    def source() -> Iterator[Document]:
        for i, text in enumerate(texts):
            if i == after:
                raise Interrupted
            yield Document(text, f"train:{i}")

    corpus = corpus_of(texts)
    corpus._sources["train"] = source
    return corpus


@pytest.mark.parametrize("after", [1, 37, 119])
def test_an_interrupted_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    small_chunks(monkeypatch)
    prepare(corpus_of(TEXTS), processor, tmp_path / "whole", num_workers=1, shard_characters=3000)
    with pytest.raises(Interrupted):
        prepare(interrupted_corpus(TEXTS, after), processor, tmp_path / "b", num_workers=1, shard_characters=3000)
    with pytest.raises(ValueError, match="not finished"):
        PreparedData.load(tmp_path / "b")
    done = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").glob("train/*.arrow")}
    assert bool(done) == (after > 1)
    prepare(corpus_of(TEXTS), processor, tmp_path / "b", num_workers=1, shard_characters=3000)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "b")
    assert all(path.stat().st_mtime_ns == written for path, written in done.items())


def test_a_cut_journal_and_a_cut_shard_count_as_not_done(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    prepare(corpus_of(TEXTS), processor, tmp_path / "whole", num_workers=1, shard_characters=3000)
    with pytest.raises(Interrupted):
        prepare(interrupted_corpus(TEXTS, 100), processor, tmp_path / "b", num_workers=1, shard_characters=3000)
    journal = tmp_path / "b" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) > 4
    journal.write_text(journal.read_text()[:-30])
    shard = tmp_path / "b" / "train" / "00001.arrow"
    shard.write_bytes(shard.read_bytes()[:-100])
    prepare(corpus_of(TEXTS), processor, tmp_path / "b", num_workers=1, shard_characters=3000)
    assert files_of(tmp_path / "whole") == files_of(tmp_path / "b")


def test_a_corpus_that_changed_meanwhile_is_refused(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    with pytest.raises(Interrupted):
        prepare(interrupted_corpus(TEXTS, 100), processor, tmp_path, num_workers=1, shard_characters=3000)
    with pytest.raises(ValueError, match="changed since its split 'train' was begun"):
        prepare(corpus_of(["Another.", *TEXTS[1:]]), processor, tmp_path, num_workers=1, shard_characters=3000)


def test_a_finished_folder_is_not_written_again_and_not_for_something_else(
    tmp_path: Path, processor: SentenceProcessor
) -> None:
    prepare(corpus_of(TEXTS[:3]), processor, tmp_path, num_workers=1)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    prepare(corpus_of(TEXTS[:3]), processor, tmp_path, num_workers=1)
    assert before == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    with pytest.raises(ValueError, match="corpus_fingerprint: f -> other"):
        prepare(corpus_of(TEXTS[:3], fingerprint="other"), processor, tmp_path)
    with pytest.raises(ValueError, match=r"processor: .*Choose another output_dir"):
        prepare(corpus_of(TEXTS[:3]), SentenceProcessor(processor.tokenizer, "line"), tmp_path)


def test_a_corpus_without_text_is_refused(tmp_path: Path, processor: SentenceProcessor) -> None:
    with pytest.raises(ValueError, match=r"no text.*2 x empty document"):
        prepare(corpus_of([""], [""]), processor, tmp_path, num_workers=1)
    with pytest.raises(ValueError, match="not finished"):
        PreparedData.load(tmp_path)


def test_a_split_without_text_is_not_a_split(tmp_path: Path, processor: SentenceProcessor) -> None:
    data = prepare(corpus_of(["Text."], ["\udc80"]), processor, tmp_path, num_workers=1)
    assert data.splits == ("train",)
    with pytest.raises(ValueError, match="no split 'valid', only train"):
        data.split("valid")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_full_disk_is_told_and_nothing_half_written_is_taken_as_done(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_chunks(monkeypatch)
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "00002.arrow.partial").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on the disk; the shards that are finished are kept") as caught:
        prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1, shard_characters=3000)
    assert caught.value.errno == errno.ENOSPC
    assert sorted(path.name for path in (tmp_path / "train").glob("*.arrow")) == ["00000.arrow", "00001.arrow"]
    (tmp_path / "train" / "00002.arrow.partial").unlink()
    data = prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1, shard_characters=3000)
    assert list(documents_of(data, "train")) == TEXTS


def cut_off(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize("file", ["train/00000.arrow", "statistics.json", "manifest.json", "processor/tokenizer.json"])
@pytest.mark.parametrize("damage", [cut_off, flipped, lambda data: b"", None])
def test_damage_is_found_when_small_data_are_loaded(
    tmp_path: Path, processor: SentenceProcessor, file: str, damage
) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    if damage:
        (tmp_path / file).write_bytes(damage((tmp_path / file).read_bytes()))
    else:
        (tmp_path / file).unlink()
    with pytest.raises(ValueError, match=r"(damaged.*again)|(holds no prepared data.*prepare)"):
        PreparedData.load(tmp_path)


def test_large_data_are_checked_by_size_and_structure_and_in_full_on_demand(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(corpus_of(TEXTS), processor, tmp_path, num_workers=1)
    monkeypatch.setattr("sllm_data.prepared.VERIFIED_AT_LOAD_BYTES", 0)
    shard = tmp_path / "train" / "00000.arrow"
    whole = shard.read_bytes()
    shard.write_bytes(flipped(whole))
    with pytest.raises(ValueError, match=r"00000\.arrow"):
        PreparedData.load(tmp_path).verify()
    shard.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"00000\.arrow has \d+ bytes instead of"):
        PreparedData.load(tmp_path)
    shard.write_bytes(b"\xff" * len(whole))
    with pytest.raises(ValueError, match=r"00000\.arrow is damaged.*prepare"):
        PreparedData.load(tmp_path).split("train")
    shard.write_bytes(whole)
    PreparedData.load(tmp_path).verify()


def test_random_damage_never_gives_a_view_outside_the_file(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(corpus_of(TEXTS[:8]), processor, tmp_path, num_workers=1)
    monkeypatch.setattr("sllm_data.prepared.VERIFIED_AT_LOAD_BYTES", 0)
    shard = tmp_path / "train" / "00000.arrow"
    whole = np.frombuffer(shard.read_bytes(), np.uint8)
    random = np.random.default_rng(0)
    told = []
    for _ in range(200):
        damaged = whole.copy()
        damaged[random.integers(len(whole), size=3)] = random.integers(256, size=3)
        shard.write_bytes(damaged.tobytes())
        try:
            part = PreparedData.load(tmp_path).split("train")
        except ValueError as error:
            told.append("Delete the folder" in str(error))
        else:
            assert len(part.tokens(0, part.num_tokens)) == part.num_tokens
    assert told
    assert all(told)


def test_folder_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no prepared data"):
        PreparedData.load(tmp_path)


SCRIPT = """
import sys
from sllm_data import encode as encoding
from sllm_data import prepare as preparing
from sllm_data.corpora import Corpus
from lmbase.text.processor import SentenceProcessor
from sllm_data.readers import Document
from lmbase.text.tokenizers import load_tokenizer

def endless():
    i = 0
    while True:
        yield Document(f"Document {i}. " * 50, str(i))
        i += 1

if __name__ == "__main__":
    preparing.CHUNK_CHARACTERS = 20_000
    processor = SentenceProcessor(load_tokenizer("bytes"), "punctuation")
    corpus = Corpus("endless", "f", {"train": endless})
    preparing.prepare(corpus, processor, sys.argv[1], num_workers=2, shard_characters=100_000)
"""


def worker_ids(parent: int) -> list[int]:
    """All descendants of a process."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, new = [], [parent]
    while new:
        new = [process for process, above in parents.items() if above in new]
        found += new
    return found


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_ctrl_c_and_kill_leave_whole_shards_and_no_processes(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    folders = {signal.SIGINT: tmp_path / "interrupted", signal.SIGKILL: tmp_path / "killed"}
    processes = {
        sign: subprocess.Popen(
            [sys.executable, tmp_path / "script.py", folder],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
            # a test run in the background of a shell has Ctrl-C ignored, and so would its children
            preexec_fn=functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        for sign, folder in folders.items()
    }
    deadline = time.monotonic() + 300
    for sign, process in processes.items():
        while len(list(folders[sign].glob("train/*.arrow"))) < 3:
            assert process.poll() is None, process.stderr.read() if process.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        workers = worker_ids(process.pid)
        assert len(workers) >= 2
        process.send_signal(sign)
        _, errors = process.communicate(timeout=200)
        assert "ForkServerProcess" not in errors  # no traceback of a worker
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < deadline, "workers outlived their parent"
            time.sleep(0.05)
        lines = (folders[sign] / "journal.jsonl").read_text().splitlines()
        for line in lines[1:]:
            shard = json.loads(line)
            assert (folders[sign] / f"train/{shard['index']:05d}.arrow").stat().st_size == shard["bytes"]


@pytest.mark.distributed
def test_a_script_that_is_not_guarded_is_told(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT.replace('__name__ == "__main__"', "True"))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "data")]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 1
    assert "ValueError: A worker process died" in result.stderr
    assert "if __name__ == '__main__':" in result.stderr
