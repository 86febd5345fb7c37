"""A teacher in a training: its keys, and what it says of each batch."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lmbase.config import given_on_command_line, option
from lmbase.modeling.distillation import OnlineTeacher, weights_hash
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.kept_window import KeptWindow
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.token_lm import TokenLM
from lmbase.text.tokenizers import check_same_tokenizer, tokenizer_hash, vocabulary_size
from lmbase.training.batches import Batch, BatchOrder
from sllm_data.prepared import PreparedData
from sllm_data.teacher_cache import TeacherCache


@dataclass
class TeacherKeys:
    """Keys of a training that may have a teacher."""

    teacher: str | None = option(
        None, "a token-level model whose probabilities are learned, too: a folder of distil-cache, or the model itself"
    )
    teacher_weight: float = option(0.5, "share of the teacher in the loss, up to 1; the text's own words have the rest")


@dataclass(frozen=True)
class Teaching:
    """A teacher as a training takes it: rows of a cache, or a model that is asked meanwhile.

    Attributes:
        hash: changes with whatever the teacher says.
        flops: of its forward passes over so many tokens while the student is trained.
    """

    source: str
    weight: float
    hash: str
    cache: TeacherCache | None
    online: OnlineTeacher | None
    flops: Callable[[int], float]

    def data_hash(self, of_data: str) -> str:
        """What a run is tied to: its data, and what the teacher says of them."""
        return hashlib.sha256(f"{of_data}\0{self.hash}".encode()).hexdigest()

    def flops_beside(self, student: Callable[[int, int], float]) -> Callable[[int, int], float]:
        """FLOPs of a student's forward pass, with as much more as its teacher takes: that has no backward pass."""
        return lambda num_tokens, number: student(num_tokens, number) + self.flops(num_tokens) / FORWARD_AND_BACKWARD

    def check_covers(self, items: Any, max_steps: int, batch_size: int, seed: int) -> None:
        """
        Raises:
            ValueError: a step of the training reads a token that is not in the cache.
        """
        if self.cache is None or self.cache.num_tokens >= items.stops.max():
            return
        order = BatchOrder(len(items), batch_size, seed)
        for step in range(max_steps):
            if (stop := int(items.stops[order.items(step)].max())) > self.cache.num_tokens:
                raise ValueError(
                    f"teacher={self.source!r} holds what a teacher says of the first {self.cache.num_tokens:,} tokens "
                    f"of the train split, and step {step + 1} of this training reads token {stop:,}: write a cache of "
                    "the whole split (sllm distil-cache without --train_tokens, into another folder), or give the "
                    "model itself as the teacher, which is then asked while the student is trained."
                )

    def items(self, items: Any) -> "TaughtItems":
        return TaughtItems(items, self.cache)


@dataclass(frozen=True)
class TaughtItems:
    """A dataset whose batches bring what a teacher says of each token, or say that it be asked."""

    items: Any  # has `positions`, see `sllm_data.datasets`
    cache: TeacherCache | None

    def __len__(self) -> int:
        return len(self.items)

    def batch(self, indices: np.ndarray) -> Batch:
        made: Batch = self.items.batch(indices)
        if self.cache is None:
            return made | {"ask_teacher": torch.ones(len(indices), dtype=torch.bool)}
        ids, log_probs = self.cache.rows(self.items.positions(indices))
        return made | {"teacher_ids": torch.from_numpy(ids), "teacher_log_probs": torch.from_numpy(log_probs)}


def check_teacher_keys(config: Any) -> None:
    """Before anything is prepared for a training.

    Raises:
        ValueError: a weight that is none, or one without a teacher.
    """
    weight = config.teacher_weight
    if not 0 <= weight <= 1:
        raise ValueError(f"teacher_weight={weight:g} is no share of the loss: choose a number above 0, and 1 at most.")
    if config.teacher is None:
        if "teacher_weight" in given_on_command_line(config):
            raise ValueError(
                f"teacher_weight={weight:g}: there is no teacher; give one (--teacher), or leave this out."
            )
        return
    if weight == 0 and not getattr(config, "state_weight", 0):
        raise ValueError(
            f"teacher_weight=0: the teacher {config.teacher!r} would say nothing; leave both keys out to train without."
        )
    if config.teacher.startswith("random:"):
        raise ValueError(f"teacher={config.teacher!r}: random weights have nothing to teach; name a trained model.")
    if not TeacherCache.is_at(config.teacher):
        own_tokenizer(config.teacher)


def open_teacher(config: Any, data: PreparedData, context: int, shortened_by: str = "context") -> Teaching | None:
    """The teacher that a training's keys name, None if they name none.

    Args:
        context: positions of the student's windows, the opening token's with them.
        shortened_by: the key that makes them shorter.

    Raises:
        ValueError: another vocabulary, a cache of other data, or a model with too few positions.
    """
    name, weight, tokenizer = config.teacher, config.teacher_weight, data.processor.tokenizer
    if name is None:
        return None
    if TeacherCache.is_at(name):
        cache = TeacherCache.load(name, verify=config.verify)
        cache.check_data(data, tokenizer_hash(tokenizer))
        return Teaching(name, weight, cache.hash, cache, None, lambda num_tokens: 0.0)
    lm = load_teacher(name, data, context, "teacher", shortened_by)
    online = ask_model(lm, data, context)
    return Teaching(
        name, weight, weights_hash(lm), None, online, lambda num_tokens: TokenLM(lm).flops(num_tokens, context)
    )


def ask_model(lm: Any, data: PreparedData, context: int) -> OnlineTeacher:
    """A model as a teacher of windows of `context` positions."""
    keep = KeptWindow.of(lm.config, lambda: data.processor, context)
    return OnlineTeacher(lm, vocabulary_size(data.processor.tokenizer), keep)


def load_teacher(name: str, data: PreparedData, context: int, key: str, shortened_by: str = "context") -> Any:
    """A model that knows the words of some data, and windows of `context` positions.

    Raises:
        ValueError: it does not.
    """
    own = own_tokenizer(name)
    if own is None:
        raise ValueError(f"{key}={name!r}: random weights have nothing to teach; name a trained model.")
    check_same_tokenizer(own, data.processor.tokenizer, "the data", f"the teacher {name}")
    lm = load_lm(name)
    if context > (positions := lm.config.max_position_embeddings):
        raise ValueError(
            f"{key}={name!r} has {positions} positions, and windows of {context} are to be read: give a smaller "
            f"--{shortened_by}, or another teacher."
        )
    return lm
