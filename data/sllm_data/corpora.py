"""Corpora: what a `data` spec names, as streams of documents, split into train, valid and test.

stdlib                  the documentation inside every Python installation
hub:NAME[:CONFIG]       a dataset of the Hugging Face hub, streamed
files, globs, folders   of the types in `sllm_data.readers.READERS`, compressed or not
"""

import glob
import hashlib
import os
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from sllm_data.readers import Document, Skip, file_kind, known_types, read_file, record_document
from sllm_data.splits import LEAST, SPLITS, WORDS, Deal, deal, named_splits
from sllm_data.stdlib import read_stdlib

SKIPPED_NAMES_KEPT = 100
COMPARED_BYTES = 2**30  # of files: up to here a changed letter is seen, above it names and sizes are compared
LEARNING_CHARACTERS = 256 * 2**20
NO_DOCUMENT_YET = 100_000  # records, after which it is told that the field may be a wrong one

Source = Callable[[], Iterator[Document | Skip]]


class SkipLog:
    """What was left out: for each reason how many, and the names of the first ones."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.names: dict[str, list[str]] = {}

    def add(self, skip: Skip) -> None:
        self.counts[skip.reason] = self.counts.get(skip.reason, 0) + 1
        names = self.names.setdefault(skip.reason, [])
        if len(names) < SKIPPED_NAMES_KEPT:
            names.append(f"{skip.name} ({skip.detail})" if skip.detail else skip.name)

    def update(self, other: dict[str, dict]) -> None:
        """Add what another log's `to_dict` gave."""
        for reason, entry in other.items():
            self.counts[reason] = self.counts.get(reason, 0) + entry["count"]
            names = self.names.setdefault(reason, [])
            names += entry["names"][: SKIPPED_NAMES_KEPT - len(names)]

    def to_dict(self) -> dict[str, dict]:
        """{reason: {"count": how many, "names": [the first ones]}}"""
        return {reason: {"count": n, "names": self.names[reason]} for reason, n in sorted(self.counts.items())}

    def lines(self) -> list[str]:
        """A line for each reason, the most frequent first: how often, and where first."""
        found = []
        for reason, count in sorted(self.counts.items(), key=lambda item: (-item[1], item[0])):
            names = self.names[reason][:3]
            places = [names[0], *(name.partition(" (")[0] for name in names[1:])]
            found.append(f"{count} x {reason}: {', '.join(places)}{' ...' if count > len(names) else ''}")
        return found

    def __str__(self) -> str:
        return "; ".join(self.lines())


class Corpus:
    """Documents in splits, streamed: reading a split holds one document (of Parquet: 256 rows) at a time.

    Args:
        name: what tables call it.
        fingerprint: changes when the data changes, as far as that can be told without reading it all.
        sources: for each split a function that starts reading it; or {None: function} for documents without a split,
            which are then dealt out (`sllm_data.splits`).
        max_bytes: read about so many bytes of each split only.
        report: how the sources came to their splits.
        contents: a function that gives a hash of all data; None if they are too large, or elsewhere.

    Attributes:
        splits: those that there are, in the order train, valid, test.
        skipped: for each split, what its last reading left out.
    """

    def __init__(
        self,
        name: str,
        fingerprint: str,
        sources: dict[str | None, Source],
        max_bytes: int | None = None,
        *,
        report: str = "",
        contents: Callable[[], str] | None = None,
    ):
        assert sources.keys() <= set(SPLITS) or sources.keys() == {None}, sources.keys()
        self.name = name if max_bytes is None else f"{name}-first-{max_bytes}"
        self.fingerprint = fingerprint if max_bytes is None else f"{fingerprint}-first-{max_bytes}"
        self.max_bytes, self.contents = max_bytes, contents
        self.skipped: dict[str, SkipLog] = {}
        self._sources, self._report = sources, report

    @cached_property
    def deal(self) -> Deal | None:
        """How documents without splits of their own are dealt out; finding it reads them all."""
        if None not in self._sources:
            return None
        return deal(self._sources[None](), int(self.max_bytes / LEAST) if self.max_bytes else None)

    @property
    def splits(self) -> tuple[str, ...]:
        return self.deal.splits if self.deal else tuple(split for split in SPLITS if split in self._sources)

    @property
    def report(self) -> str:
        """How the splits came about, in a sentence."""
        return self.deal.report if self.deal else self._report

    def read(self, split: str) -> Iterator[Document]:
        """Stream the documents of a split, always in the same order; what is left out is counted in `skipped[split]`.

        Raises:
            ValueError: there is no such split, or the records have no field of the name given.
        """
        if split not in self.splits:
            raise ValueError(
                f"The data {self.name!r} has no split {split!r}, only {', '.join(self.splits)}. {SPLIT_HINT}"
            )
        skipped = self.skipped[split] = SkipLog()
        size = 0
        for item in self._items(split):
            if isinstance(item, Skip):
                skipped.add(item)
                continue
            yield item
            size += len(item.text.encode("utf-8", errors="surrogatepass")) if self.max_bytes else 0
            if self.max_bytes and size >= self.max_bytes:
                return

    def is_undivided(self, split: str) -> bool:
        """Whether the data itself are in one piece, which is not named `split`."""
        return len(self._sources) == 1 and split not in self._sources

    def read_whole(self) -> Iterator[Document]:
        """Stream the documents of all splits, uncut."""
        for source in self._sources.values():
            yield from (item for item in source() if isinstance(item, Document))

    def texts(self, split: str = "train") -> Iterator[str]:
        """The texts alone, for what is learned from a split (a tokenizer, Punkt): the first 256 MB, which is plenty."""
        size = 0
        for document in self.read(split):
            yield document.text
            size += len(document.text)
            if size >= LEARNING_CHARACTERS:
                return

    def check_not_empty(self) -> "Corpus":
        """Raise ValueError if nothing at all can be read, naming what was left out and why."""
        skipped = SkipLog()
        for source in self._sources.values():
            for item in source():
                if isinstance(item, Document):
                    return self
                skipped.add(item)
                if sum(skipped.counts.values()) == NO_DOCUMENT_YET:
                    print(
                        f"No document in the first {NO_DOCUMENT_YET:,} records ({skipped}); reading on.",
                        file=sys.stderr,
                    )
        for reason, names in skipped.names.items():
            if reason.startswith("no field"):
                name, _, fields = names[0].removesuffix(")").partition(" (")
                raise ValueError(
                    f"{name} has {reason}; {fields}. No record that can be read has it: name the one that holds the "
                    f"text, --text_field NAME. Left out: {skipped}."
                )
        left_out = f" Left out: {skipped}." if skipped.counts else ""
        raise ValueError(f"The data {self.name!r} has no document that can be read.{left_out}")

    def _items(self, split: str) -> Iterator[Document | Skip]:
        if not self.deal:
            yield from self._sources[split]()
            return
        if split != "train" and self.deal.kept is not None:
            yield from self.deal.kept[split]
            return
        documents = 0
        for item in self._sources[None]():
            if isinstance(item, Document):
                yield from (part for where, part in self.deal.parts(item) if where == split)
                documents += 1
                if self.max_bytes and documents >= self.deal.num_documents:
                    return
            elif split == "train":  # told once
                yield item


SPLIT_HINT = "Files named train.jsonl, valid.jsonl and test.jsonl, or folders so named, make splits."


def open_corpus(data: str | list[str], text_field: str = "text", max_bytes: int | None = None) -> Corpus:
    """The corpus behind a `data` spec, or behind several specs of files.

    Names of files and folders make splits (`train.jsonl`, `test-00000-of-00002.parquet`, `valid/a.txt`); without such
    names texts are dealt out by share, see `sllm_data.splits`.

    Args:
        text_field: the field of `.jsonl`, `.json`, `.csv`, `.parquet` and hub records that holds the text.
        max_bytes: read about so many bytes of each split only.

    Raises:
        ValueError: no such file, a file type that no reader knows, nothing in it that can be read, or a wrong field.
    """
    specs = [data] if isinstance(data, str) else list(data)
    single = specs[0] if len(specs) == 1 else ""
    if single == "stdlib":
        name, splits = read_stdlib()
        sources: dict[str | None, Source] = {split: _source_of(documents) for split, documents in splits.items()}
        report = "whole modules, in the order of a hash of their names"
        return Corpus(name, name, sources, max_bytes, report=report, contents=lambda: name)
    if single.startswith("hub:"):
        return _open_hub(single, text_field, max_bytes)
    mixed = [spec for spec in specs if spec == "stdlib" or spec.startswith("hub:")]
    if mixed:
        raise ValueError(f"data={specs}: {mixed[0]!r} cannot be joined with others; give it alone, or files only.")
    return _open_files(specs, text_field, max_bytes)


def _source_of(documents: list[tuple[str, str]]) -> Source:
    return lambda: (Document(text, name) for name, text in documents)


# -- files -------------------------------------------------------------------------------------------------------------


def _open_files(specs: list[str], text_field: str, max_bytes: int | None) -> Corpus:
    unknown: list[Path] = []
    paths = sorted({path for spec in specs for path in _find(spec, unknown)})
    if not paths:
        seen = f" ({len(unknown)} of other types, such as {unknown[0].name})" if unknown else ""
        raise ValueError(f"data={_join(specs)!r}: no file to read there{seen}. {known_types()}")
    folders = [Path(os.path.abspath(Path(spec).expanduser())) for spec in specs]
    named = [folder for folder in folders if folder.is_dir()]  # all may lie in one folder of it, which may be a split's
    base = Path(os.path.commonpath([*named, *(path.parent for path in paths)]))
    names = {
        path: _printable(path.relative_to(base).as_posix()) for path in [*paths, *unknown] if path.is_relative_to(base)
    }
    in_name = named_splits([names[path] for path in paths])
    split_of = {path: in_name.get(names[path]) for path in paths}

    def source(split: str | None) -> Source:
        def read() -> Iterator[Document | Skip]:
            for path in paths:
                if split_of[path] == split:
                    yield from read_file(path, names[path], text_field)
            if split in ("train", None):
                yield from (Skip(names.get(path, str(path)), _why_unread(path)) for path in unknown)

        return read

    sizes = {path: path.stat().st_size for path in paths}
    described = "".join([text_field, "\0", *(f"{names[path]}\0{size}\0" for path, size in sizes.items())])
    fingerprint = hashlib.sha256(described.encode()).hexdigest()

    def contents() -> str:
        digest = hashlib.sha256()
        for path in paths:
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()

    name = paths[0].name.partition(".")[0] if len(paths) == 1 else base.name or "files"
    sources: dict[str | None, Source] = {split: source(split) for split in dict.fromkeys(split_of.values())}
    counts = Counter(split_of.values())
    report = "by names of files and folders: " + ", ".join(f"{split} {n}" for split, n in counts.items())
    compared = contents if sum(sizes.values()) <= COMPARED_BYTES else None
    corpus = Corpus(_printable(name), fingerprint, sources, max_bytes, report=report, contents=compared)
    return corpus.check_not_empty()


def files_of(data: str | list[str]) -> list[Path]:
    """The files that specs stand for; none for other specs and for files that are no longer there."""
    found: list[Path] = []
    for spec in [data] if isinstance(data, str) else data:
        with suppress(ValueError):
            found += _find(spec, [])
    return found


def _find(spec: str, unknown: list[Path]) -> Iterator[Path]:
    """The files that a path, folder or glob stands for; those of unknown types go to `unknown`."""
    path = Path(spec).expanduser()
    if not spec:
        raise ValueError("data='': an empty name; a variable without a value? `.` is the current folder.")
    if path.is_file():
        if file_kind(path) is None:
            raise ValueError(f"data={spec!r}: no reader for this file type: save it as text. {known_types()}")
        yield Path(os.path.abspath(path))
        return
    if path.is_dir():
        if any((path / name).is_file() for name in ("dataset_dict.json", "state.json")) and any(path.rglob("*.arrow")):
            raise ValueError(
                f"data={spec!r}: a folder of `save_to_disk` of the package datasets, which is not read as it is: write "
                f"each split as Parquet, datasets.load_from_disk({spec!r}).to_parquet('train.parquet'), and give that."
            )
        found, in_folder = _files_below(path), True
    else:
        in_folder = False
        patterns = [str(path), re.sub(r"\[(?![]!])", "[[]", str(path))]  # brackets may also be a name's own
        found = next(filter(None, ([Path(m) for m in glob.glob(p, recursive=True)] for p in patterns)), [])
        if not found:
            raise ValueError(
                f"data={spec!r}: no such file or folder, and nothing matches it as a pattern (from {os.getcwd()!r}). "
                "`stdlib` is the embedded corpus, `hub:NAME` a dataset of the Hugging Face hub."
            )
    for match in sorted(found):
        absolute = Path(os.path.abspath(match))  # links stay: their targets may have names without a suffix
        if match.is_file() and file_kind(match, in_folder=in_folder) is not None:
            yield absolute
        elif not match.is_dir() or not os.access(match, os.R_OK | os.X_OK):
            unknown.append(absolute)


def _files_below(folder: Path) -> list[Path]:
    """Every file below a folder but hidden ones, and folders that may not be read. Folders that links lead to are
    entered once those that stand here are, each once: a loop ends."""
    found: list[Path] = []
    folders, links = [folder], list[Path]()
    seen = set[str]()
    while folders or links:
        here = (folders or links).pop()
        real = os.path.realpath(here)
        if real in seen:
            continue
        seen.add(real)
        if not os.access(here, os.R_OK | os.X_OK):
            found.append(here)
            continue
        for path in sorted(here.iterdir(), reverse=True):
            if path.name.startswith("."):
                continue
            (found if not path.is_dir() else links if path.is_symlink() else folders).append(path)
    return found


def _why_unread(path: Path) -> str:
    if path.is_dir():
        return "folder that may not be read"
    return "link to nothing" if path.is_symlink() and not path.exists() else "unknown file type"


def _printable(name: str) -> str:
    """A file's name as valid Unicode (a name on disk may be any bytes)."""
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="replace")


def _join(specs: list[str]) -> str:
    return specs[0] if len(specs) == 1 else " ".join(specs)


# -- hub ---------------------------------------------------------------------------------------------------------------


def _open_hub(spec: str, text_field: str, max_bytes: int | None) -> Corpus:
    import datasets  # a second to import, and most corpora are files

    _, name, *config = spec.split(":", 2)
    if not name:
        raise ValueError(
            f"data={spec!r}: write hub:NAME or hub:NAME:CONFIG, for instance hub:wikitext:wikitext-103-raw-v1."
        )
    try:
        # What the library raises depends on what is wrong (name, configuration, network, login) and on its version.
        loaded = datasets.load_dataset(name, *config, streaming=True)
    except Exception as error:
        raise ValueError(
            f"data={spec!r} could not be opened: {error} ({type(error).__name__}). Check the name and the "
            "configuration (hub:NAME:CONFIG), the network, and `hf auth login` for gated data."
        ) from error
    declared = {WORDS[split]: split for split in loaded if split in WORDS}
    if not declared:
        raise ValueError(f"data={spec!r} has the splits {', '.join(loaded)}, none of them train, validation or test.")

    def source(split: str) -> Source:
        def read() -> Iterator[Document | Skip]:
            for number, record in enumerate(loaded[split], start=1):
                yield record_document(record, f"{split}:{number}", text_field)

        return read

    if set(declared) == {"train"}:
        sources: dict[str | None, Source] = {None: source(declared["train"])}
    else:
        sources = {split: source(original) for split, original in declared.items()}
    label = "-".join([name.strip("/").rpartition("/")[2], *config])
    fingerprint = hashlib.sha256(f"{spec}\0{text_field}".encode()).hexdigest()
    report = "the data set's own"
    return Corpus(label, fingerprint, sources, max_bytes, report=report).check_not_empty()
