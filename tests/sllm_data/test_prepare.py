"""Preparing: the same bytes whatever was interrupted, parallel, changed or full."""

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

import pytest
from small_corpora import TEXTS, corpus_of, documents_of, files_of, small_chunks

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from sllm_data import encode as encoding
from sllm_data.corpora import Corpus
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData
from sllm_data.readers import Document, Skip


@pytest.fixture(scope="module")
def processor() -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer("bytes"), "punctuation", 32)


def test_what_the_corpus_could_not_read_is_in_the_statistics(tmp_path: Path, processor: SentenceProcessor) -> None:
    corpus = Corpus("c", "f", {"train": lambda: iter([Skip("a.txt", "invalid UTF-8"), Document("Good.", "b.txt")])})
    data = prepare(corpus, processor, tmp_path, num_workers=1)
    assert data.statistics["train"]["skipped"] == {"invalid UTF-8": {"count": 1, "names": ["a.txt"]}}


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


@pytest.mark.parametrize("file", ["train/00001.arrow", "journal.jsonl"])
def test_E11_what_was_damaged_meanwhile_is_made_again(
    tmp_path: Path, processor: SentenceProcessor, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    small_chunks(monkeypatch)
    prepare(corpus_of(TEXTS), processor, tmp_path / "whole", num_workers=1, shard_characters=3000)
    with pytest.raises(Interrupted):
        prepare(interrupted_corpus(TEXTS, 100), processor, tmp_path / "b", num_workers=1, shard_characters=3000)
    data = bytearray((tmp_path / "b" / file).read_bytes())
    place = data.rindex(b'"sentences": ') + 13 if file.endswith("jsonl") else len(data) // 2
    data[place] ^= 1  # another number of sentences, or another token
    (tmp_path / "b" / file).write_bytes(data)
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
