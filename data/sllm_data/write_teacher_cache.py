"""Write a teacher's cache (`sllm_data.teacher_cache`) shard by shard, going on where it stopped."""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lmbase.files import (
    MANIFEST,
    alone_in,
    check_free_space,
    clean_up,
    from_lines,
    sha256s,
    sync,
    sync_path,
    to_line,
    told_if_disk_is_full,
    with_checksum,
    write_text,
)
from lmbase.text.windows import Window, windows
from sllm_data.prepare import check_configuration
from sllm_data.prepared import JOURNAL, PreparedSplit
from sllm_data.teacher_cache import TEACHER, TeacherCache, decisive, read_configuration, row_type

SHARD_TOKENS = 2**16  # an interrupted run repeats one shard at most

# Token ids of some windows, and the first token of each that is asked for -> ids and log-probabilities (n, K) of all
# that is asked for, one window after another.
Ask = Callable[[list[np.ndarray], list[int]], tuple[np.ndarray, np.ndarray]]


def write_teacher_cache(
    folder: Path,
    split: PreparedSplit,
    configuration: dict[str, Any],
    ask: Ask,
    *,
    batch_size: int = 8,
    write_cost: Callable[[float], object] = lambda seconds: None,
) -> TeacherCache:
    """Ask a teacher for its rows of the first tokens of a split, or finish what an interrupted run of the same began.

    Args:
        configuration: see `TeacherCache`.
        ask: what the teacher says of some windows, `batch_size` at a time.
        write_cost: called before the folder is whole with the seconds that it took, interrupted runs included.

    Raises:
        ValueError: the folder holds something else, or another process writes there.
        OSError: the disk is full; the shards that are finished are kept.
    """
    with alone_in(folder), told_if_disk_is_full(folder, "the shards that are finished are kept"):
        clean_up(folder)
        if (folder / TEACHER).is_file():
            check_configuration(folder, read_configuration(folder), decisive(configuration))
        elif others := [path.name for path in folder.iterdir() if not path.name.startswith(".")]:
            raise ValueError(
                f"output_dir={str(folder)!r} holds {min(others)!r}, which distil-cache did not write, and its rows do "
                "not go among other files: name a folder that is empty or new."
            )
        else:
            write_text(folder / TEACHER, json.dumps(with_checksum(configuration), indent=1) + "\n")
        if (folder / MANIFEST).is_file():
            return TeacherCache.load(folder)
        shards = _finished_shards(folder)
        done, num_tokens = sum(shard["tokens"] for shard in shards), configuration["tokens"]
        needed = (num_tokens - done) * row_type(configuration).itemsize
        check_free_space(folder, needed, f"What a teacher says of {num_tokens - done:,} tokens")
        with tqdm(desc="distil-cache", unit="token", total=num_tokens, initial=done, disable=None) as bar:
            for read in islice(_shards(split, configuration), len(shards), None):
                began = time.perf_counter()
                rows = np.empty(read[-1].stop - read[0].scored, row_type(configuration))
                read_by_length = sorted(read, key=lambda window: window.stop - window.start)
                for batch in (read_by_length[i : i + batch_size] for i in range(0, len(read), batch_size)):
                    bar.update(_fill(rows, batch, read[0].scored, split, ask))
                shard = _write_shard(folder / f"{len(shards):05d}.npy", rows)
                shards.append(shard | {"tokens": len(rows), "seconds": time.perf_counter() - began})
                with (folder / JOURNAL).open("a", encoding="utf-8") as file:
                    file.write(to_line(shards[-1]))
                    sync(file)
        write_cost(sum(shard["seconds"] for shard in shards))
        _finish(folder, shards)
        return TeacherCache.load(folder)


def reading_windows(split: PreparedSplit, size: int, num_tokens: int) -> Iterator[Window]:
    """Windows over each document in which a teacher reads the first tokens of a split, in places of its flat stream:
    of at most `size` tokens, overlapping by half."""
    for first, last in pairwise(split.sentence_tokens[split.document_sentences].tolist()):
        for window in windows(last - first, size) if last > first else []:
            if first + window.scored >= num_tokens:
                return
            yield Window(first + window.start, min(first + window.stop, num_tokens), first + window.scored)


def _shards(split: PreparedSplit, configuration: dict[str, Any]) -> Iterator[list[Window]]:
    """The windows of each shard."""
    read: list[Window] = []
    for window in reading_windows(split, configuration["context"] - 1, configuration["tokens"]):
        read.append(window)
        if window.stop - read[0].scored >= SHARD_TOKENS:
            yield read
            read = []
    if read:
        yield read


def _fill(rows: np.ndarray, batch: list[Window], start: int, split: PreparedSplit, ask: Ask) -> int:
    """Put what the teacher says of some windows into a shard that begins at token `start`; how many rows that were."""
    ids, log_probs = ask(
        [split.tokens(window.start, window.stop) for window in batch],
        [window.scored - window.start for window in batch],
    )
    places = np.concatenate([np.arange(window.scored, window.stop) for window in batch]) - start
    rows["ids"][places], rows["log_probs"][places] = ids, log_probs
    return len(places)


def _finished_shards(folder: Path) -> list[dict[str, Any]]:
    """What the journal of an interrupted run tells: a line that was cut off or is damaged, and a shard that is not what
    was written, count as not done, with all that follows."""
    text = (folder / JOURNAL).read_bytes().decode(errors="replace") if (folder / JOURNAL).is_file() else ""
    shards: list[dict[str, Any]] = []
    for record in from_lines(text):
        path = folder / f"{len(shards):05d}.npy"
        if isinstance(record, ValueError) or not path.is_file() or sha256s([path]) != [record["sha256"]]:
            break
        shards.append(record)
    write_text(folder / JOURNAL, "".join(map(to_line, shards)))
    return shards


def _write_shard(path: Path, rows: np.ndarray) -> dict[str, Any]:
    """Beside, synced, then renamed."""
    beside = path.with_name(f".{path.name}.partial")
    with beside.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
        sync(file)
    (sha256,), size = sha256s([beside]), beside.stat().st_size
    beside.replace(path)
    sync_path(path.parent)
    return {"sha256": sha256, "bytes": size}


def _finish(folder: Path, shards: list[dict[str, Any]]) -> None:
    """Write the manifest that makes the folder whole."""
    manifest = {f"{i:05d}.npy": {key: shard[key] for key in ("sha256", "bytes")} for i, shard in enumerate(shards)}
    (sha256,) = sha256s([folder / TEACHER])
    manifest[TEACHER] = {"sha256": sha256, "bytes": (folder / TEACHER).stat().st_size}
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (folder / JOURNAL).unlink()
