"""`prepare`: write a corpus as prepared data (`sllm_data.prepared`) in several processes, going on where it stopped."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path

import filelock
import pyarrow as pa
from tqdm import tqdm

from lmbase.files import (
    MANIFEST,
    clean_up,
    from_lines,
    sha256s,
    sync,
    sync_path,
    to_line,
    told_if_disk_is_full,
    write_folder,
    write_text,
)
from lmbase.text.processor import SentenceProcessor
from sllm_data.corpora import Corpus, SkipLog
from sllm_data.encode import CHUNK_CHARACTERS, SCHEMA, Chunk, EncodedChunk, Statistics, encode_in_order
from sllm_data.prepared import JOURNAL, PROCESSOR, STATISTICS, PreparedData, PreparedSplit
from sllm_data.readers import Document

SHARD_CHARACTERS = 64 * 2**20  # an interrupted run repeats one shard at most
CONTENTS = "corpus_contents"  # folders of earlier versions do not have it
KEPT = "the shards that are finished are kept"


@dataclass
class Shard:
    """A finished Arrow file: a line of the journal."""

    split: str
    index: int
    sha256: str
    bytes: int
    documents_read: int  # of the split, up to this shard's end
    digest: str  # SHA-256 of their names and texts
    statistics: Statistics
    skipped: dict[str, dict]  # left out of this shard; in a split's last shard, also what could not be read at all
    ends_split: bool

    @property
    def file(self) -> str:
        return shard_file(self.split, self.index)


def shard_file(split: str, index: int) -> str:
    """Where a shard lies in the folder."""
    return f"{split}/{index:05d}.arrow"


@dataclass
class Journal:
    """The shards that are finished, in a file that grows by one synced line per shard."""

    folder: Path
    configuration: dict[str, str | int]
    shards: list[Shard] = field(default_factory=list)

    @classmethod
    def open(cls, folder: Path, configuration: dict[str, str | int]) -> "Journal":
        """Read the journal of an interrupted run, or begin one. A line that was cut off or is damaged, and a shard that
        is not what was written, count as not done, with all that follows."""
        journal = cls(folder, configuration)
        text = (folder / JOURNAL).read_bytes().decode(errors="replace") if (folder / JOURNAL).is_file() else ""
        begun, *records = [record if isinstance(record, dict) else {} for record in from_lines(text)] or [{}]
        if begun:
            check_configuration(folder, begun, configuration)
        shards = []
        with suppress(TypeError, KeyError):  # a line that is none
            for record in records if begun else []:
                shards.append(Shard(**record | {"statistics": Statistics(**record["statistics"])}))
        there = [shard for shard in shards if (folder / shard.file).is_file()]
        for shard, digest in zip(there, sha256s([folder / shard.file for shard in there]), strict=True):
            if digest == shard.sha256 and shard.index == len(journal.of_split(shard.split)):
                journal.shards.append(shard)
        write_text(folder / JOURNAL, "".join(map(to_line, [configuration, *map(asdict, journal.shards)])))
        return journal

    def of_split(self, split: str) -> list[Shard]:
        return [shard for shard in self.shards if shard.split == split]

    def append(self, shard: Shard) -> None:
        with (self.folder / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(to_line(asdict(shard)))
            sync(file)
        self.shards.append(shard)


def prepare(
    corpus: Corpus,
    processor: SentenceProcessor,
    output_dir: str | Path,
    *,
    num_workers: int | None = None,
    shard_characters: int = SHARD_CHARACTERS,
    progress: bool = True,
) -> PreparedData:
    """Cut and tokenise a corpus into `output_dir`, or finish what an interrupted run of the same began there.

    The result is the same, byte for byte, for any number of workers and however often the work was interrupted. Memory
    holds a few MB of text per worker. Empty documents and those with a lone surrogate are left out and counted.

    Args:
        num_workers: processes that tokenise; by default one per CPU that this process may use.
        shard_characters: text per Arrow file.
        progress: show a bar, if stderr is a terminal.

    Raises:
        ValueError: the folder belongs to another corpus or processor, the corpus changed since the work began, or it
            has no document at all.
        OSError: the disk is full, or the folder cannot be written; what is finished is kept.
    """
    workers = num_workers if num_workers is not None else num_cpus()
    if workers < 1:
        raise ValueError(f"num_workers={num_workers}: at least one process is needed.")
    folder = Path(output_dir)
    configuration: dict[str, str | int] = {
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "processor": processor.fingerprint,
        "shard_characters": shard_characters,
    }
    if corpus.contents:
        configuration[CONTENTS] = corpus.contents()
    folder.mkdir(parents=True, exist_ok=True)
    with _only_one(folder), told_if_disk_is_full(folder, KEPT):
        clean_up(folder)
        if (folder / MANIFEST).is_file():
            data = PreparedData.load(folder)
            check_configuration(folder, data.configuration, configuration)
            return data
        journal = Journal.open(folder, configuration)
        if not (folder / PROCESSOR).is_dir():
            write_folder(folder / PROCESSOR, processor.save_pretrained)
        with tqdm(desc="prepare", unit="B", unit_scale=True, disable=None if progress else True) as bar:
            bar.update(sum(shard.statistics.bytes for shard in journal.shards))
            chunks = _chunks(corpus, journal, shard_characters)
            with closing(encode_in_order(chunks, processor, workers)) as stream:  # ends the workers whatever happens
                _write_shards(stream, corpus, journal, bar)
        _finish(corpus, journal)
        return PreparedData.load(folder)


def num_cpus() -> int:
    """CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_configuration(folder: Path, old: dict, new: dict) -> None:
    """ValueError if a folder holds something else than what `new` describes."""
    known = {key: value for key, value in new.items() if key in old or key != CONTENTS}
    differing = [f"{key}: {old.get(key)} -> {value}" for key, value in known.items() if old.get(key) != value]
    if differing:
        raise ValueError(
            f"{str(folder)!r} holds data prepared from something else ({'; '.join(differing)}). "
            "Choose another output_dir, or delete the folder."
        )


# -- reading in chunks -------------------------------------------------------------------------------------------------


def _chunks(corpus: Corpus, journal: Journal, shard_characters: int) -> Iterator[Chunk]:
    for split in corpus.splits:
        done = journal.of_split(split)
        if not (done and done[-1].ends_split):
            yield from _split_chunks(corpus, split, done, shard_characters)


def _split_chunks(corpus: Corpus, split: str, done: list[Shard], shard_characters: int) -> Iterator[Chunk]:
    """The rest of a split. What is done is read over, to make sure that it is still the same text."""
    digest = hashlib.sha256()
    documents = corpus.read(split)
    read = 0
    if done:
        for document in islice(documents, done[-1].documents_read):
            digest.update(f"{document.name}\0{document.text}\0".encode("utf-8", errors="surrogatepass"))
            read += 1
        if digest.hexdigest() != done[-1].digest:
            raise ValueError(
                f"The data {corpus.name!r} changed since its split {split!r} was begun: the first "
                f"{done[-1].documents_read} documents differ. Choose another output_dir, or delete the folder."
            )
    shard, chunk_size, shard_size = len(done), 0, 0
    pending: list[Document] = []
    for document in documents:
        if chunk_size >= CHUNK_CHARACTERS or shard_size >= shard_characters:
            ends_shard = shard_size >= shard_characters
            yield Chunk(pending, split, shard, ends_shard, False, read, digest.hexdigest())
            pending, chunk_size = [], 0
            if ends_shard:
                shard, shard_size = shard + 1, 0
        pending.append(document)
        # One more per document, so that a stream of empty ones ends a chunk, too.
        chunk_size += len(document.text) + 1
        shard_size += len(document.text) + 1
        digest.update(f"{document.name}\0{document.text}\0".encode("utf-8", errors="surrogatepass"))
        read += 1
    yield Chunk(pending, split, shard, True, True, read, digest.hexdigest())


# -- writing shards ----------------------------------------------------------------------------------------------------


def _write_shards(stream: Iterator[tuple[Chunk, EncodedChunk]], corpus: Corpus, journal: Journal, bar: tqdm) -> None:
    for first in stream:
        shard = _write_shard(chain([first], stream), journal.folder, bar)
        if shard.ends_split:  # only now is it known what could not be read
            skipped = SkipLog()
            skipped.update(shard.skipped)
            skipped.update(corpus.skipped[shard.split].to_dict())
            shard.skipped = skipped.to_dict()
        journal.append(shard)


def _write_shard(stream: Iterator[tuple[Chunk, EncodedChunk]], folder: Path, bar: tqdm) -> Shard:
    """Write chunks up to the one that ends a shard: beside, synced, then renamed."""
    first = next(stream)
    path = folder / shard_file(first[0].split, first[0].shard)
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(".arrow.partial")
    statistics, skipped = Statistics(), SkipLog()
    with beside.open("wb") as file:
        with pa.ipc.new_stream(file, SCHEMA) as writer:
            for chunk, encoded in chain([first], stream):
                writer.write_batch(encoded.batch)
                statistics.add(encoded.statistics)
                for skip in encoded.skips:
                    skipped.add(skip)
                bar.update(encoded.statistics.bytes)
                if chunk.ends_shard:
                    break
        sync(file)
    (sha256,), size = sha256s([beside]), beside.stat().st_size
    beside.replace(path)
    sync_path(path.parent)
    return Shard(
        chunk.split,
        chunk.shard,
        sha256,
        size,
        chunk.documents_read,
        chunk.digest,
        statistics,
        skipped.to_dict(),
        chunk.ends_split,
    )


def _finish(corpus: Corpus, journal: Journal) -> None:
    """Add up the shards, and write the manifest that makes the folder whole."""
    folder = journal.folder
    splits, content_hash, everything_skipped = {}, hashlib.sha256(), SkipLog()
    for split in corpus.splits:
        shards = journal.of_split(split)
        total, skipped = Statistics(), SkipLog()
        for shard in shards:
            total.add(shard.statistics)
            skipped.update(shard.skipped)
        everything_skipped.update(skipped.to_dict())
        content_hash.update(f"{split}\0{shards[-1].digest}\0".encode())
        ratio = total.piecewise_tokens / total.whole_tokens if total.whole_tokens else None
        splits[split] = asdict(total) | {"piecewise_to_whole_tokens": ratio, "skipped": skipped.to_dict()}
    if not any(counts["documents"] for counts in splits.values()):
        raise ValueError(f"The data {corpus.name!r} hold no text. Left out: {everything_skipped}.")
    for split, number in _repeated_from_train(journal).items():
        splits[split]["also_in_train"] = number
    content = {
        "name": corpus.name,
        "hash": content_hash.hexdigest(),
        "configuration": journal.configuration,
        "splits_are": corpus.report,
        "splits": splits,
    }
    write_text(folder / STATISTICS, json.dumps(content, indent=1) + "\n")
    manifest = {shard.file: {"sha256": shard.sha256, "bytes": shard.bytes} for shard in journal.shards}
    for path in [folder / STATISTICS, *sorted((folder / PROCESSOR).iterdir())]:
        data = path.read_bytes()
        entry = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        manifest[path.relative_to(folder).as_posix()] = entry
    write_text(folder / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    (folder / JOURNAL).unlink()


def _repeated_from_train(journal: Journal) -> dict[str, int]:
    """How many documents of each other split are documents of the train split, too: what is learned by heart there."""
    parts = {
        split: PreparedSplit([journal.folder / shard.file for shard in shards])
        for split in ("valid", "test", "train")
        if (shards := journal.of_split(split))
    }
    if "train" not in parts:
        return {}
    held_out = {split: Counter(part.document_keys()) for split, part in parts.items() if split != "train"}
    wanted = set().union(*held_out.values())
    found = wanted.intersection(parts["train"].document_keys()) if wanted else set()
    return {split: sum(keys[key] for key in found) for split, keys in held_out.items()}


# -- the disk ----------------------------------------------------------------------------------------------------------


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Two processes never write one folder: the second waits (as ranks of `torchrun` may), then finds the work done."""
    lock = filelock.FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        if "__mp_main__" in sys.modules:
            # A worker that runs an unguarded main script once more on its way up: waiting would be for ever.
            raise ValueError(f"{str(folder)!r} is being written by another process.") from None
        print(f"Waiting for another process that prepares {str(folder)!r} ...", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
