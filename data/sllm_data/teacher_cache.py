"""What a teacher says of the tokens of prepared data: written once by `sllm distil-cache`, read by every student.

    manifest.json     SHA-256 and size of the other files; it is written last: a folder that has one is whole
    teacher.json      which teacher read which tokens, and how
    training.json     what it cost
    00000.npy ...     one row per token of the train split, in the order of its flat stream: the teacher's K most
                      probable ids, and their log-probabilities in fp16

A row is the teacher's distribution of that token, given what it read before it: one text in windows that overlap by
half, so that a token has at least half a window before it, or all of its text. The end of a text has no row.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from lmbase.files import CHECKSUM, MANIFEST, check_checksum, read_json, verify_once
from sllm_data.prepared import PreparedData, PreparedSplit

TEACHER = "teacher.json"
HASHED_AT_ONCE = 2**20
REMEDY = "Delete the folder and run `sllm distil-cache` again, or copy it again from where it is whole."


class TeacherCache:
    """A folder written by `sllm distil-cache`: N tokens, K ids each.

    Attributes:
        configuration: what it was made from: `teacher` and `teacher_hash`, `tokenizer` (hash), `data`, `data_hash`,
            `tokens` and `tokens_hash`, `top`, `num_ids`, `context`, `dtype`.
        num_tokens: N, how many tokens from the beginning of the train split have a row.
        hash: changes with anything that the rows depend on.
    """

    def __init__(self, folder: Path, configuration: dict[str, Any], shards: list[np.ndarray]):
        self.folder, self.configuration, self._shards = folder, configuration, shards
        self._starts = np.cumsum([0, *map(len, shards)], dtype=np.int64)
        self.num_tokens = int(self._starts[-1])
        self.top: int = configuration["top"]
        self.hash = hashlib.sha256(json.dumps(decisive(configuration), sort_keys=True).encode()).hexdigest()

    @staticmethod
    def is_at(name: str | Path) -> bool:
        """Whether a folder is such a cache, or the beginning of one."""
        return (Path(name) / TEACHER).is_file()

    @classmethod
    def load(cls, folder: str | Path, *, verify: bool = True) -> "TeacherCache":
        """Open a cache; its rows stay on the disk.

        Args:
            verify: compare all files with their checksums, once in a process; False saves the time for reading them.

        Raises:
            ValueError: no such folder, an unfinished one, or a damaged one.
        """
        folder = Path(folder)
        if not cls.is_at(folder):
            raise ValueError(
                f"{str(folder)!r} holds no teacher's cache (no {TEACHER}): `sllm distil-cache` writes such a folder."
            )
        if not (folder / MANIFEST).is_file():
            raise ValueError(
                f"{str(folder)!r} is not finished. Run the same `sllm distil-cache` command again: it continues."
            )
        try:
            if verify:
                verify_once(folder)
            content = read_configuration(folder)
            names = sorted(name for name in read_json(folder / MANIFEST) if name.endswith(".npy"))
            cache = cls(folder, content, [np.load(folder / name, mmap_mode="r") for name in names])
            if cache.num_tokens != content["tokens"] or any(s.dtype != row_type(content) for s in cache._shards):
                raise ValueError(f"its files hold {cache.num_tokens} rows, not those that {TEACHER} describes")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            remedy = "" if REMEDY in str(error) else f" {REMEDY}"
            raise ValueError(f"The teacher's cache in {str(folder)!r} is damaged. {error}{remedy}") from error
        return cache

    def rows(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What the teacher says of tokens.

        Args:
            positions: places in the flat token stream of the train split, of any shape; -1: there is no token.

        Returns:
            ids (..., K) int32 and log-probabilities (..., K) fp16; without a token 0 and -inf.

        Raises:
            ValueError: a token that is not in the cache.
        """
        flat = positions.reshape(-1)
        if flat.size and flat.max() >= self.num_tokens:
            raise ValueError(
                f"The teacher's cache {str(self.folder)!r} holds the first {self.num_tokens:,} tokens of the train "
                f"split, and token {flat.max():,} (counted from 0) was asked for: write one without --train_tokens."
            )
        ids = np.zeros((len(flat), self.top), np.int32)
        log_probs = np.full((len(flat), self.top), -np.inf, np.float16)
        shard_of = np.searchsorted(self._starts, flat, side="right") - 1
        for shard in np.unique(shard_of[flat >= 0]):
            there = np.flatnonzero((shard_of == shard) & (flat >= 0))
            found = self._shards[shard][flat[there] - self._starts[shard]]
            ids[there], log_probs[there] = found["ids"], found["log_probs"]
        shape = (*positions.shape, self.top)
        return ids.reshape(shape), log_probs.reshape(shape)

    def check_data(self, data: PreparedData, tokenizer_hash: str) -> None:
        """
        Raises:
            ValueError: the teacher has another tokenizer than these data, or read other ones.
        """
        if tokenizer_hash != self.configuration["tokenizer"]:
            raise ValueError(
                f"The teacher's cache {str(self.folder)!r} was made with another tokenizer than the data "
                f"{str(data.folder)!r}, so its token ids mean other words: prepare the data with the teacher's "
                f"tokenizer ({self.configuration['teacher']}), or choose a teacher of this vocabulary."
            )
        split = data.split("train")
        if (
            split.num_tokens < self.num_tokens
            or stream_hash(split, self.num_tokens) != (self.configuration["tokens_hash"])
        ):
            raise ValueError(
                f"The teacher's cache {str(self.folder)!r} was made from other data "
                f"({self.configuration['data']!r}, SHA-256 {self.configuration['data_hash'][:8]}) than "
                f"{str(data.folder)!r} ({data.name!r}, {data.hash[:8]}): the tokens of their train splits differ. Run "
                "`sllm distil-cache` on these data, or train on those."
            )


def decisive(configuration: dict[str, Any]) -> dict[str, Any]:
    """What the rows depend on: no names, whose places may change."""
    return {key: value for key, value in configuration.items() if key not in ("teacher", "data")}


def read_configuration(folder: Path) -> dict[str, Any]:
    """What a cache is made from; ValueError if that is damaged."""
    content = read_json(folder / TEACHER)
    try:
        check_checksum(content)
    except ValueError as error:
        raise ValueError(f"{str(folder / TEACHER)!r}: {error}. {REMEDY}") from None
    content.pop(CHECKSUM, None)
    return content


def row_type(configuration: dict[str, Any]) -> np.dtype:
    """A row on the disk; ids take two bytes where they fit."""
    id_type, top = "<u2" if configuration["num_ids"] <= 2**16 else "<i4", configuration["top"]
    return np.dtype([("ids", id_type, (top,)), ("log_probs", "<f2", (top,))])


def stream_hash(split: PreparedSplit, num_tokens: int) -> str:
    """SHA-256 of the first tokens of a split and of where its documents begin among them."""
    begins = split.sentence_tokens[split.document_sentences]
    found = hashlib.sha256(np.unique(begins[begins < num_tokens]).astype("<i8").tobytes())
    for start in range(0, num_tokens, HASHED_AT_ONCE):
        found.update(split.tokens(start, min(start + HASHED_AT_ONCE, num_tokens)).astype("<i4").tobytes())
    return found.hexdigest()
