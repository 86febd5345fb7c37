"""Time and memory of training steps: of a token-level model, the sentence autoencoder and the SLLM on the same text
(subsets `train` and `memory`), and of a multi-token model by its number of heads (`heads`).

Random weights and ids: neither changes what a step takes. In `heads` all models have equally many blocks: n - 1 leave
the trunk for heads 2 to n. S sentences, T tokens of a sentence, L tokens, M positions that predict something, n heads,
V vocabulary.
"""

import functools
import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import PositiveInt
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lmbase.benchmarking.peak_memory import free_bytes, in_own_process, peak, start_of_peak
from lmbase.benchmarking.timing import alternate, clocked, ratio_columns
from lmbase.config import option
from lmbase.modeling.devices import moved
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.token_lm import TokenLM, shift
from lmbase.modeling.trunk import random_config, with_layers
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.training.batches import Batch
from multitoken import MultiTokenLM, MultiTokenLMConfig
from sllm.benchmarks.keys import LengthKeys, Part, SizeKeys, StepKeys, TimedKeys, measured
from sllm.benchmarks.replaying import MOST_SENTENCES, Build, random_sentences

WINDOW = 512  # tokens of the subset heads, at most
MEMORY_SHARE = 0.6  # of the machine's free memory that a measurement may be expected to take


def token_batch(sentences: Sequence[list[int]], window: int) -> Batch:
    """The sentences as one text, in as few and as even windows as so many positions allow."""
    ids = [i for sentence in sentences for i in sentence]
    size = -(-len(ids) // -(-len(ids) // (window - 1)))
    rows = [ids[start : start + size] for start in range(0, len(ids), size)]
    input_ids, mask = pad_tokens(rows, 1)
    ends = torch.tensor([False] * (len(rows) - 1) + [True])
    return dict(input_ids=input_ids, attention_mask=mask, ends=ends)


def sllm_batch(sentences: Sequence[list[int]]) -> Batch:
    return vars(pad_sentences([sentences], 1))


def vae_batch(sentences: Sequence[list[int]]) -> Batch:
    input_ids, mask = pad_tokens(sentences, 1)
    return dict(input_ids=input_ids, attention_mask=mask)


# -- one step ----------------------------------------------------------------------------------------------------------


def naive_loss(model: MultiTokenLM, batch: Batch) -> Tensor:
    """The same loss the straight way: all heads' logits first, then a cross-entropy of each."""
    windows = shift(**batch, ids=model.ids)
    logits, targets = [], []
    for i, states in model._all_states(windows, len(model.heads)):
        of_head, mask = windows.of_head(i)
        logits.append(model.finish(states[mask]) @ model.unembedding(i).T)  # (M,V)
        targets.append(of_head[mask])
    sums = [F.cross_entropy(x.float(), y, reduction="sum") for x, y in zip(logits, targets, strict=True)]
    return torch.stack(sums).sum() / len(targets[0])


# By prefix of their columns.
LOSSES: dict[str, Callable[[Any, Batch], Tensor]] = {"": lambda model, batch: model(**batch).loss, "naive_": naive_loss}


def forward_and_backward(model: nn.Module, batch: Batch, dtype: str, loss: str = "") -> None:
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=dtype == "bf16"):
        value = LOSSES[loss](model, batch)
    value.backward()


def timed_step(model: nn.Module, batch: Batch, dtype: str, device: str) -> Callable[[], float]:
    """Forward, backward and step of AdamW as something to run in turn: it tells its seconds."""
    moved(model, device, torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    batch = {key: value.to(device) for key, value in batch.items()}

    def step() -> None:
        forward_and_backward(model, batch, dtype)
        optimizer.step()
        optimizer.zero_grad()

    return clocked(step)


def step_peak(
    model: nn.Module,
    few: Batch,
    batch: Batch,
    dtype: str,
    device: str,
    loss: str = "",
    within: AbstractContextManager | None = None,
) -> int:
    """Peak bytes of forward and backward beyond weights and batch; gradients count.

    Args:
        few: a short batch that comes first: libraries load on first use.
    """
    few, batch = ({key: value.to(device) for key, value in given.items()} for given in (few, batch))
    moved(model, device).train()
    forward_and_backward(model, few, dtype, loss)
    model.zero_grad(set_to_none=True)
    gc.collect()
    before = start_of_peak(device)
    with within or nullcontext():
        forward_and_backward(model, batch, dtype, loss)
    model.zero_grad(set_to_none=True)
    return peak(device) - before


# -- a text in three models --------------------------------------------------------------------------------------------


@dataclass
class Train(LengthKeys, StepKeys, TimedKeys):
    """Steps of training of all models on the same text."""

    def parts(self, build: Build, lengths: Sequence[int]) -> Iterator[Callable[[], list[Row]]]:
        yield functools.partial(self.rows, build, lengths)

    def rows(self, build: Build, lengths: Sequence[int]) -> list[Row]:
        """One for each model, all in turns."""
        tokens, lm = self.train_tokens, build.lm()
        sentences = random_sentences(lengths, tokens, build.vocab_size, build.seed)
        positions = lm.config.max_position_embeddings
        if len(sentences) + 1 > positions:
            raise ValueError(
                f"train_tokens={tokens} are {len(sentences)} sentences; the trunk has {positions} positions."
            )
        sllm, vae, token_lm = build.sllm(lm), build.vae(lm), TokenLM(lm)
        window, num_sentences = min(positions, tokens + 1), len(sentences)
        work: dict[str, tuple[nn.Module, Batch, float]] = {  # and FLOPs of a forward pass, by formula
            build.lm_name: (token_lm, token_batch(sentences, window), token_lm.flops(tokens, window)),
            f"autoencoder {build.size}": (vae, vae_batch(sentences), vae.flops(tokens, num_sentences)),
            build.sllm_name: (sllm, sllm_batch(sentences), sllm.flops(tokens, num_sentences)),
        }
        steps = {name: timed_step(model, batch, self.dtype, self.device) for name, (model, batch, _) in work.items()}
        found = alternate(steps, self.rounds)
        rows = []
        for name, seconds in found.items():
            model, _, flops = work[name]
            step_flops = FORWARD_AND_BACKWARD * flops
            extra: dict[str, float] = ratio_columns("speed_ratio", found[build.lm_name], seconds)
            extra |= {"step_flops": step_flops, "mfu": step_flops / median(seconds) / self.machine.matrix_rate}
            columns: dict = dict(parameters=num_parameters(model), tokens_per_second=tokens / median(seconds))
            rows.append(self.row(name, f"train {tokens}", extra, **columns))
        return rows


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@dataclass
class Memory(LengthKeys):
    """Peak memory of a training step."""

    memory_sentences: PositiveInt = option(512, "of the subset memory: sentences of the text of a training step")

    QUICK = {"memory_sentences": 32}

    def parts(self, build: Build, lengths: Sequence[int]) -> Iterator[Callable[[], list[Row]]]:
        number = self.memory_sentences
        if number >= MOST_SENTENCES:
            raise ValueError(f"memory_sentences={number}: the trunk has positions for {MOST_SENTENCES - 1}.")
        lengths = [lengths[i % len(lengths)] for i in range(number)]
        for name in (build.lm_name, build.sllm_name):
            yield functools.partial(self.rows, build, name, lengths)

    def rows(self, build: Build, name: str, lengths: Sequence[int]) -> list[Row]:
        """Beyond the weights and the text; gradients count. The token-level model reads the text in windows of all its
        positions."""
        peak_bytes, parameters = in_own_process(self.peak_of_step, build, name, lengths)
        extra = {"peak_megabytes": peak_bytes / 1e6, "text_tokens": sum(lengths)}
        return [self.row(name, f"memory of a training step, {len(lengths)} sentences", extra, parameters=parameters)]

    def peak_of_step(self, build: Build, name: str, lengths: Sequence[int]) -> tuple[int, int]:
        """Peak bytes of one step in this process, and the model's parameters."""
        model: Any = build.model(name)
        text = random_sentences(lengths, sum(lengths), build.vocab_size, build.seed)
        few, batch = sllm_batch(text[:2]), sllm_batch(text)
        if name == build.lm_name:
            window = model.config.max_position_embeddings
            model, few, batch = TokenLM(model), token_batch(text[:2], window), token_batch(text, window)
        return step_peak(model, few, batch, self.dtype, self.device), num_parameters(model)


# -- more heads --------------------------------------------------------------------------------------------------------


class LargestVocabularyTensor(TorchDispatchMode):
    """Looks at every tensor that an operation makes: bytes of the largest of which one dimension is the vocabulary."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size, self.num_bytes = vocab_size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and self.vocab_size in tensor.shape:
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return made


@dataclass
class Heads(SizeKeys, StepKeys, TimedKeys):
    """What more heads cost in training."""

    num_future_tokens: list[PositiveInt] = option([1, 2, 4, 8], "numbers of heads of the subset heads")
    num_blocks: PositiveInt = option(8, "of the subset heads: blocks of trunk and heads together")

    QUICK = {"num_future_tokens": [1, 2], "num_blocks": 2}

    def measure(self) -> Iterator[Part]:
        for size in self.size:
            yield functools.partial(measured, functools.partial(self.rows, size))

    def rows(self, size: str) -> list[Row]:
        """One for each number of heads: the first is what others are compared with.

        Raises:
            ValueError: no such size, or more heads than blocks.
        """
        if not self.num_future_tokens:
            raise ValueError("num_future_tokens=[]: a figure needs one number of heads at least.")
        tokens = self.batch()["input_ids"].numel()
        models = [self.model(size, n) for n in self.num_future_tokens]
        flops = [FORWARD_AND_BACKWARD * model.flops(tokens, self.window) for model in models]
        parameters = [num_parameters(model) for model in models]
        steps = {i: timed_step(model, self.batch(), self.dtype, self.device) for i, model in enumerate(models)}
        found = alternate(steps, self.rounds)
        del models, steps  # each measurement of memory has a process of its own, beside this one
        gc.collect()
        rows = []
        for (i, seconds), n in zip(found.items(), self.num_future_tokens, strict=True):
            extra: dict[str, Any] = {"num_future_tokens": n, "seconds_per_step": median(seconds)}
            extra |= ratio_columns("time_ratio", seconds, found[0])
            extra |= {"step_flops": flops[i], "flops_ratio": flops[i] / flops[0]}
            extra["time_over_flops_ratio"] = extra["time_ratio"] / extra["flops_ratio"]
            for prefix, (peak_bytes, largest) in in_own_process(self.peaks, size, n, self.losses(n)).items():
                extra[f"{prefix}peak_megabytes"] = peak_bytes / 1e6
                extra[f"{prefix}largest_logits_megabytes"] = largest / 1e6
            name, protocol = f"{size}, {self.num_blocks} blocks, n = {n}", f"heads V={self.vocab_size} tokens={tokens}"
            columns: dict = dict(parameters=parameters[i], tokens_per_second=tokens / median(seconds))
            rows.append(self.row(name, protocol, extra, **columns))
        return rows

    @property
    def window(self) -> int:
        return min(WINDOW, self.train_tokens)

    def model(self, size: str, num_future_tokens: int) -> MultiTokenLM:
        config = random_config(f"random:{size}", vocab_size=self.vocab_size, max_positions=self.window + 1)
        torch.manual_seed(self.seed)
        return MultiTokenLM(MultiTokenLMConfig.matching(with_layers(config, self.num_blocks), num_future_tokens))

    def batch(self) -> Batch:
        """As many whole windows of random ids as `train_tokens` has, none of which ends a text."""
        shape = (max(self.train_tokens // self.window, 1), self.window)
        ids = torch.randint(4, self.vocab_size, shape, generator=torch.Generator().manual_seed(self.seed))
        mask, ends = torch.ones(shape, dtype=torch.bool), torch.zeros(shape[0], dtype=torch.bool)
        return dict(input_ids=ids, attention_mask=mask, ends=ends)

    def peaks(self, size: str, num_future_tokens: int, losses: Sequence[str]) -> dict[str, tuple[int, int]]:
        """Of one step with each loss, here: bytes of its peak and of its largest tensor over the vocabulary."""
        model, batch = self.model(size, num_future_tokens), self.batch()
        few = {key: value[:1][..., :16] for key, value in batch.items()}
        found = {}
        for loss in losses:
            largest = LargestVocabularyTensor(self.vocab_size)
            peak_bytes = step_peak(model, few, batch, self.dtype, self.device, loss, largest)
            found[loss] = (peak_bytes, largest.num_bytes)
        return found

    def losses(self, num_future_tokens: int) -> list[str]:
        """Without the naive one where its logits and their log-probabilities would leave the machine little memory."""
        needed = (2 * num_future_tokens + 2) * self.batch()["input_ids"].numel() * self.vocab_size * 4
        free = free_bytes(self.device)
        return [""] if free is not None and needed >= MEMORY_SHARE * free else list(LOSSES)
