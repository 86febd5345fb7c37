"""Which text is train, valid and test: said by the names of files and folders, or else dealt out by share of text.

Dealing looks at all texts first. Most are held out whole, chosen by a hash of the text, so that equal ones are on one
side and a text of a large corpus stays where it is when others are added. A text that is long for its corpus gives its
last per cents instead, cut at paragraphs or sentences.
"""

import hashlib
import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath

import numpy as np

from sllm_data.borders import last_border
from sllm_data.readers import Document, Skip, without_types

SPLITS = ("train", "valid", "test")
WORDS = {"train": "train", "valid": "valid", "validation": "valid", "val": "valid", "dev": "valid", "test": "test"}
# train, train-00001-of-00010, test_2; and wiki-train where there is a wiki-test, too
_FILE = re.compile(
    rf"(?:(?P<set>.+)[-_.])?(?P<word>{'|'.join(WORDS)})(?:[-_.]?\d+(?:[-_.]of[-_.]\d+)?(?:[-_.][0-9a-f]{{8,}})?)?",
    re.IGNORECASE,
)
HELD_OUT, LEAST, MOST = 0.015, 0.01, 0.02  # shares of the text, for valid and for test each
LONG = 2**14  # bytes: the last per cents of a shorter text are hardly a sentence
SHORT = 1000  # bytes: a text that is not cut, whatever its share
TOO_MUCH = 0.1  # a text of this share is cut rather than held out whole
KEPT_BYTES = 64 * 2**20  # of documents that may be held out, so that they need not be looked for again
WINDOW = 200  # bytes, at least, in which a border is looked for


def named_splits(names: Sequence[str]) -> dict[str, str]:
    """The split of each file, where names decide: those of files that are a split's name, or else folders so named.

    Other files are train then. Empty if no name is a split's, or if some are train's and others nothing, which leaves
    nothing to hold out.

    Args:
        names: paths inside the corpus, with `/`.
    """
    found: dict[str, str] = {}
    sets: dict[tuple[str, str], set[str]] = {}
    matches = {}
    for name in names:
        path = PurePosixPath(name)
        if match := _FILE.fullmatch(without_types(path.name)):
            key = (str(path.parent), (match["set"] or "").lower())
            matches[name] = key, WORDS[match["word"].lower()]
            sets.setdefault(key, set()).add(matches[name][1])
        folders = [WORDS[folder.lower()] for folder in reversed(path.parts[:-1]) if folder.lower() in WORDS]
        if folders:
            found[name] = folders[0]
    for name, (key, split) in matches.items():
        if not key[1] or len(sets[key]) > 1:  # a title may end in such a word, but not those of a whole set
            found[name] = split
    if set(found.values()) <= {"train"} and len(found) < len(names):
        return {}
    return {name: found.get(name, "train") for name in names}


@dataclass
class Deal:
    """How the documents of a corpus are dealt out.

    Attributes:
        num_documents: that were looked at.
        report: what was decided, in a sentence.
        held_out: key of a text, or name of a part of one -> the split that it goes to whole.
        cuts: name of a document -> bytes of it up to the end of train and of valid, and of the window of their borders.
        kept: the documents of valid and test, if all of them are at hand.
    """

    num_documents: int = 0
    report: str = ""
    held_out: dict[int | str, str] = field(default_factory=dict)
    cuts: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    kept: dict[str, list[Document]] | None = None

    @property
    def splits(self) -> tuple[str, ...]:
        used = {"train", *self.held_out.values(), *(("valid", "test") if self.cuts else ())}
        return tuple(split for split in SPLITS if split in used)

    def parts(self, document: Document) -> Iterator[tuple[str, Document]]:
        """What of a document goes where; together the parts are its text."""
        if document.name in self.cuts:
            train, valid, window = self.cuts[document.name]
            data = document.text.encode()
            # Sizes are bytes, borders characters, which may have four bytes each.
            first, second, *windows = (
                len(part.decode(errors="ignore"))
                for part in (data[:train], data[:valid], *(data[max(0, at - window) : at] for at in (train, valid)))
            )
            if 0 < valid < len(data):
                second = last_border(document.text, second, windows[1])
            if 0 < train < len(data):
                first = last_border(document.text, min(first, second - 1), windows[0])
            ends = dict(train=(0, first), valid=(first, second), test=(second, len(document.text)))
            for split, (start, end) in ends.items():
                name = document.name if split == "train" else f"{document.name}:{split}"
                if start < end:
                    yield split, replace(document, text=document.text[start:end], name=name)
        else:
            key = document.name if document.part else _key_and_size(document.text)[0]
            yield self.held_out.get(key, "train"), document


def _key_and_size(text: str) -> tuple[int, int]:
    """A number of 64 bits that depends on the text alone, and its bytes; a text that holds none has no size."""
    try:
        data = text.encode() if not text.isspace() else b""
    except UnicodeEncodeError:  # a lone surrogate, which is left out
        data = b""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big"), len(data)


def deal(items: Iterable[Document | Skip], limit: int | None = None) -> Deal:
    """Decide how documents are dealt out.

    Args:
        limit: look at about so many bytes only.
    """
    texts = _Texts()
    for item in items:
        if isinstance(item, Document):
            texts.add(item)
            if limit and texts.total >= limit:
                break
    return texts.dealt()


class _Texts:
    """Keys and sizes of texts, 16 bytes each, and the names of those that may have to be cut."""

    def __init__(self) -> None:
        self.num_documents = self.total = 0
        self.begun = False  # the text whose parts are coming has an entry: its first parts may be white space
        self.keys, self.sizes = array("Q"), array("Q")
        self.parts: dict[int, list[tuple[str, int]]] = {}  # of long texts, and of the longest: names and bytes
        self.longest = (0, 0)  # bytes, key
        self.candidates: list[tuple[int, Document]] = []  # that their keys may hold out
        self.candidate_bytes = 0

    def add(self, document: Document) -> None:
        self.num_documents += 1
        key, size = _key_and_size(document.text)
        self.begun = self.begun and document.part > 1
        if not size:
            return
        self.total += size
        if key < 2 * HELD_OUT * 2**64 and not document.part and self.candidate_bytes < KEPT_BYTES:
            self.candidates.append((key, document))
            self.candidate_bytes += size
        if self.begun:
            self.sizes[-1] += size
        else:
            self.keys.append(key)
            self.sizes.append(size)
        self.begun = document.part > 0
        if document.part or size >= LONG or size > self.longest[0] or (size, key) == self.longest:
            self.parts.setdefault(len(self.keys) - 1, []).append((document.name, size))
            self.longest = max(self.longest, (size, key))

    def dealt(self) -> Deal:
        keys, sizes = np.array(self.keys, np.uint64), np.array(self.sizes, np.int64)
        cut = [i for i in self.parts if sizes[i] >= LONG and sizes[i] > LEAST * self.total]
        whole = np.ones(len(keys), bool)
        whole[cut] = False
        # Equal texts are dealt as one, in the order of their keys.
        unique, inverse = np.unique(keys[whole], return_inverse=True)
        weights = np.bincount(inverse, sizes[whole], len(unique)).astype(np.int64)
        filled = dict.fromkeys(("valid", "test"), int(HELD_OUT * sizes[cut].sum()))
        held_out = self._drawn(unique, weights, filled)
        if not all(filled.values()) and len(keys):
            free = [(size, key) for key, size in zip(unique.tolist(), weights.tolist(), strict=True)]
            if self._hold_out_least([pair for pair in free if pair[1] not in held_out], held_out, filled):
                cut = [i for i in self.parts if keys[i] == keys[sizes.argmax()]]
                filled = {split: size + int(HELD_OUT * sizes[cut].sum()) for split, size in filled.items()}
        parts: dict[int | str, str] = {
            name: held_out[self.keys[i]] for i in self.parts if self.keys[i] in held_out for name, _ in self.parts[i]
        }
        cuts = {name: place for i in cut for name, place in _cuts(self.parts[i])}
        found = Deal(self.num_documents, "", held_out | parts, cuts)
        all_kept = held_out.keys() <= {key for key, _ in self.candidates} and self.candidate_bytes < KEPT_BYTES
        if all_kept and not cuts:
            chosen = [(held_out.get(key), document) for key, document in self.candidates]
            found.kept = {split: [document for where, document in chosen if where == split] for split in SPLITS[1:]}
        found.report = self._report(filled, len(cut), len(keys) - len(np.unique(keys)))
        return found

    def _drawn(self, unique: np.ndarray, weights: np.ndarray, filled: dict[str, int]) -> dict[int | str, str]:
        """The texts that are held out whole: by their keys alone, if that gives the shares, else as many as do."""
        draws = unique / 2.0**64
        drawn = {"valid": draws < HELD_OUT, "test": (draws >= HELD_OUT) & (draws < 2 * HELD_OUT)}
        sums = {split: filled[split] + int(weights[chosen].sum()) for split, chosen in drawn.items()}
        if all(LEAST * self.total <= size <= MOST * self.total for size in sums.values()):
            filled |= sums
            return {key: split for split, chosen in drawn.items() for key in unique[chosen].tolist()}
        held_out: dict[int | str, str] = {}
        for key, size in zip(unique.tolist(), weights.tolist(), strict=True):
            split = min(filled, key=lambda s: filled[s])
            if filled[split] >= LEAST * self.total:
                break
            if filled[split] + size <= MOST * self.total:
                held_out[key] = split
                filled[split] += size
        return held_out

    def _hold_out_least(self, free: list[tuple[int, int]], held_out: dict, filled: dict[str, int]) -> bool:
        """Where there is too little text for the shares, hold out one text for each split: none that is longer than
        most. True if that would be too much, and cutting the longest text is better."""
        empty = [split for split in filled if not filled[split]]
        mean = sum(size for size, _ in free) / max(1, len(free))
        free.sort(key=lambda pair: (max(pair[0], mean), pair[1]))
        enough = len(free) > len(empty)
        if self.longest[0] >= SHORT and not (enough and free[len(empty) - 1][0] <= TOO_MUCH * self.total):
            return True
        if enough:
            for split, (size, key) in zip(empty, free, strict=False):
                held_out[key] = split
                filled[split] = size
        return False

    def _report(self, filled: dict[str, int], num_cut: int, repeats: int) -> str:
        if all(filled.values()):
            shares = ", ".join(f"{size / self.total:.1%} {split}" for split, size in filled.items())
            report = f"dealt out by share of text (about {shares}), as no name of a file or folder is a split's"
        else:
            report = "all is train: there is too little text to hold some out"
        if num_cut:
            report += f"; {num_cut:,} long {'text gives its' if num_cut == 1 else 'texts give their'} last per cents"
        if repeats:
            report += f"; {repeats:,} {'document repeats another' if repeats == 1 else 'documents repeat others'}, and"
            report += " equal ones are in one split"
        return report


def _cuts(parts: list[tuple[str, int]]) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """The parts of a text that are not train alone, and their cuts as in `Deal`."""
    total, start = sum(size for _, size in parts), 0
    window = max(WINDOW, int(0.3 * HELD_OUT * total))
    for name, size in parts:
        ends = [min(max(int((1 - share) * total) - start, 0), size) for share in (2 * HELD_OUT, HELD_OUT)]
        if ends[0] < size:
            yield name, (ends[0], ends[1], window)
        start += size
