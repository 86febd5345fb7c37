"""Prepared data: a corpus cut into sentences and tokenised once, as Arrow files that are mapped into memory.

    manifest.json           SHA-256 and size of every other file; it is written last: a folder that has one is whole
    statistics.json         counts per split, what was left out and why
    processor/              the SentenceProcessor that made the data
    train/00000.arrow ...   one row per document: input_ids, sentence_lengths, sentence_bytes, name

The Arrow files are streams that `datasets.Dataset.from_file` reads, too.
"""

import hashlib
from collections.abc import Iterator
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa

from lmbase.files import MANIFEST, read_json, verify_once
from lmbase.text.processor import SentenceProcessor

STATISTICS = "statistics.json"
PROCESSOR = "processor"
JOURNAL = "journal.jsonl"  # only while `prepare` has not finished
REMEDY = "Delete the folder and run `sllm prepare` again, or copy it again from where it is whole."


class PreparedSplit:
    """One split as flat arrays: D documents, S sentences, T tokens.

    Attributes:
        document_sentences: (D+1,) int64; sentences of document d are [d] up to [d+1].
        sentence_tokens: (S+1,) int64; tokens of sentence s are [s] up to [s+1] of the flat token stream.
        sentence_bytes: (S,) int32; UTF-8 bytes of each sentence.

    Raises:
        ValueError: a file is damaged; the message names it.
    """

    def __init__(self, paths: list[Path]):
        sentences, lengths, sizes = [np.zeros(1, np.int64)], [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
        self._tokens: list[np.ndarray] = []  # one view per record batch into the mapped file
        for path in paths:
            for batch in _read_batches(path):
                sentences.append(np.diff(batch["sentence_lengths"].offsets.to_numpy()))
                lengths.append(batch["sentence_lengths"].values.to_numpy())
                sizes.append(batch["sentence_bytes"].values.to_numpy())
                self._tokens.append(batch["input_ids"].values.to_numpy())
        self.document_sentences = np.cumsum(np.concatenate(sentences), dtype=np.int64)
        self.sentence_tokens = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        self.sentence_bytes = np.concatenate(sizes)
        self._starts = np.cumsum([0, *(len(tokens) for tokens in self._tokens)], dtype=np.int64)

    @property
    def num_documents(self) -> int:
        return len(self.document_sentences) - 1

    @property
    def num_sentences(self) -> int:
        return len(self.sentence_bytes)

    @property
    def num_tokens(self) -> int:
        return int(self.sentence_tokens[-1])

    def document_keys(self) -> Iterator[int]:
        """A number for each document: equal for equal documents, within this process, and for no others."""
        borders = self.sentence_tokens[self.document_sentences].tolist()
        return (hash(self.tokens(start, stop).tobytes()) for start, stop in pairwise(borders))

    def tokens(self, start: int, stop: int) -> np.ndarray:
        """Tokens start..stop of the flat stream, int32; read-only, a view into the file where no border is crossed."""
        assert 0 <= start <= stop <= self.num_tokens, (start, stop, self.num_tokens)
        if start == stop:
            return np.zeros(0, np.int32)
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left")) - 1
        views = [
            self._tokens[i][max(start - self._starts[i], 0) : stop - self._starts[i]] for i in range(first, last + 1)
        ]
        return views[0] if len(views) == 1 else np.concatenate(views)


class PreparedData:
    """A folder written by `prepare`.

    Attributes:
        name: the corpus's name.
        hash: SHA-256 of all documents read, in order; the same text has the same hash on any machine.
        splits: the splits that have documents, in the order train, valid, test.
        statistics: {split: counts}, see `sllm_data.encode.Statistics`; also `skipped` {reason: {count, names}} and
            `piecewise_to_whole_tokens`, 1.0 if cutting into sentences costs no tokens; and, of valid and test,
            `also_in_train`, how many of their documents are documents of train, too.
        splits_are: how the splits came about, in words.
        configuration: what the folder was made from.
    """

    def __init__(self, folder: Path, content: dict, files: list[str]):
        self.folder = folder
        self._files = files
        self.name: str = content["name"]
        self.hash: str = content["hash"]
        self.configuration: dict[str, str | int] = content["configuration"]
        self.splits_are: str = content.get("splits_are", "")  # data of earlier versions do not say
        self.statistics: dict[str, dict] = content["splits"]
        self.splits = tuple(split for split, counts in self.statistics.items() if counts["documents"])
        self._loaded: dict[str, PreparedSplit] = {}

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True) -> "PreparedData":
        """Open prepared data.

        Args:
            verify: compare all files with their checksums, once in a process; False checks their sizes only, which
                saves the time for reading very large data.

        Raises:
            ValueError: not a folder of prepared data, an unfinished one, or a damaged one.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            if (folder / JOURNAL).is_file():
                raise ValueError(
                    f"{str(folder)!r} is not finished. Run the same `sllm prepare` command again: it continues."
                )
            raise ValueError(
                f"{str(folder)!r} holds no prepared data (no {MANIFEST}). `sllm prepare` makes such a folder."
            )
        try:
            manifest = read_json(folder / MANIFEST)
            _check_sizes(folder, manifest)
            if verify:
                verify_once(folder)
            return cls(folder, read_json(folder / STATISTICS), sorted(manifest))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"The prepared data in {str(folder)!r} are damaged. {error} {REMEDY}") from error

    @property
    def training_hash(self) -> str:
        """SHA-256 of the text, and of how it is cut and tokenised: of what a training reads."""
        return hashlib.sha256(f"{self.hash}\0{self.configuration['processor']}".encode()).hexdigest()

    @cached_property
    def processor(self) -> SentenceProcessor:
        """The processor that made the data; ValueError if the folder now holds another one."""
        processor = SentenceProcessor.from_pretrained(self.folder / PROCESSOR)
        if processor.fingerprint != self.configuration["processor"]:
            raise ValueError(
                f"The processor in {str(self.folder / PROCESSOR)!r} is not the one that made the data. {REMEDY}"
            )
        return processor

    def split(self, name: str) -> PreparedSplit:
        """The arrays of a split.

        Raises:
            ValueError: no such split, or a damaged file.
        """
        if name not in self.splits:
            raise ValueError(
                f"The prepared data in {str(self.folder)!r} have no split {name!r}, only {', '.join(self.splits)}. "
                f"How they came about: {self.splits_are or 'it is not known'}. Files named train.jsonl, valid.jsonl, "
                "test.jsonl, or folders so named, make splits; prepare such data into another folder."
            )
        if name not in self._loaded:
            split = PreparedSplit([self.folder / file for file in self._files if file.startswith(f"{name}/")])
            counts = self.statistics[name]
            found = {"documents": split.num_documents, "sentences": split.num_sentences, "tokens": split.num_tokens}
            if any(counts[key] != n for key, n in found.items()):
                raise ValueError(
                    f"The files in {str(self.folder / name)!r} do not add up to {STATISTICS}: {found}. {REMEDY}"
                )
            self._loaded[name] = split
        return self._loaded[name]


def _check_sizes(folder: Path, manifest: dict[str, dict]) -> None:
    for name, entry in manifest.items():
        size = (folder / name).stat().st_size
        if size != entry["bytes"]:
            raise ValueError(
                f"{folder / name} has {size} bytes instead of {entry['bytes']}: it was cut off or overwritten."
            )


def _read_batches(path: Path) -> list[dict[str, pa.ListArray]]:
    """The list columns of each record batch, nothing copied; checked, so that no view leaves the file."""
    batches = []
    try:
        with pa.memory_map(str(path)) as source, pa.ipc.open_stream(source) as reader:
            for batch in reader:
                batch.validate(full=True)
                columns = {name: batch[name] for name in ("input_ids", "sentence_lengths", "sentence_bytes")}
                lengths = columns["sentence_lengths"].values.to_numpy()
                if lengths.min(initial=1) < 1 or lengths.sum(dtype=np.int64) != len(columns["input_ids"].values):
                    raise ValueError("its sentences and tokens do not add up")
                if len(lengths) != len(columns["sentence_bytes"].values):
                    raise ValueError("its sentences and their sizes do not add up")
                batches.append(columns)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise ValueError(f"{path} is damaged: {error}. {REMEDY}") from error
    return batches
