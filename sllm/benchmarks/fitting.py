"""How a training is cut so that it fits: processes, strategy, micro-batches; and what it then takes."""

import math
from dataclasses import dataclass, replace
from typing import Literal

from lmbase.report.formats import size
from sllm.benchmarks.machines import Benchmarked, Here, Listed, Pace
from sllm.benchmarks.planning import Design, How

MOST_GPUS = 4096
Machine = Listed | Here | Benchmarked


@dataclass(frozen=True)
class Wish:
    """What a training is to be.

    Args:
        tokens: of text that is read. fullness: of windows, as the text has them: 1 where all are full.
        batch_size: windows of a step. micro_batch_size: of one pass; None: the most that fit.
        strategy: with several GPUs; auto: ddp where a model fits into each, else fsdp.
    """

    tokens: float
    batch_size: int = 32
    micro_batch_size: int | None = None
    strategy: Literal["auto", "ddp", "fsdp"] = "auto"
    fullness: float = 1.0


@dataclass(frozen=True)
class Fit:
    """A training that fits, and what it takes."""

    how: How
    micro_batch_size: int
    micro_batches: int  # of one process in a step: gradient accumulation
    memory: dict[str, int]  # by part, of one process at its peak
    steps: int
    operations: float  # of a step, all processes
    pace: Pace

    @property
    def seconds(self) -> float:
        """Of the whole training."""
        return self.steps * (self.micro_batches * self.pace.micro_batch + self.pace.update)

    def gpu_hours(self) -> float:
        return self.how.processes * self.seconds / 3600


def fit(design: Design, wish: Wish, how: How, machine: Machine) -> Fit:
    """
    Raises:
        ValueError: it does not fit; the message says into what it would.
    """
    share = -(-wish.batch_size // machine.number)  # windows of a process in a step
    wanted = min(wish.micro_batch_size or share, share)
    strategies: list[Literal["ddp", "fsdp"]] = ["ddp", "fsdp"] if wish.strategy == "auto" else [wish.strategy]
    found, tried = 0, replace(how, processes=machine.number, kernels=machine.kernels)
    for strategy in strategies if machine.number > 1 else strategies[:1]:
        tried = replace(tried, strategy=strategy)
        found = _micro_batch(design, wish, tried, machine, wanted, share)
        if found:
            break
    if not found:
        raise ValueError(_too_large(design, wish, tried, machine, wanted))
    micro_batches = -(-share // found)
    step_tokens = wish.batch_size * design.window_tokens * wish.fullness
    pace = machine.pace(design, found, tried)
    pace = replace(pace, micro_batch=pace.micro_batch * wish.fullness)
    return Fit(
        how=tried,
        micro_batch_size=found,
        micro_batches=micro_batches,
        memory=design.training_memory(found, tried, again=micro_batches > 1),
        steps=max(1, math.ceil(wish.tokens / step_tokens)),
        operations=design.step(found, tried).operations * wish.batch_size / found * wish.fullness,
        pace=pace,
    )


def _micro_batch(design: Design, wish: Wish, how: How, machine: Machine, wanted: int, share: int) -> int:
    if wish.micro_batch_size is None:
        return design.most_windows(machine.memory, wanted, how)
    needed = sum(design.training_memory(wanted, how, again=wanted < share).values())
    return wanted if needed <= machine.memory else 0


def _too_large(design: Design, wish: Wish, how: How, machine: Machine, wanted: int) -> str:
    smallest = 1 if wish.micro_batch_size is None else wanted
    again = smallest * machine.number < wish.batch_size
    needed = sum(design.training_memory(smallest, how, again).values())
    told = (
        f"Training the {design.name} model with {smallest} windows at a time takes {size(needed)} of each process's "
        f"memory, and there are {size(machine.memory)}: "
    )
    less = "shorter windows (--max_sentences, --context) or --gradient_checkpointing true need less"
    if isinstance(machine, Here) and machine.kernels == "cpu":
        return f"{told}{less}, or name GPUs (--gpus h100 x8)."
    for number in (2**i for i in range(1, MOST_GPUS.bit_length())):
        spread = replace(how, processes=number, strategy="fsdp")
        if number > machine.number and sum(design.training_memory(1, spread, False).values()) <= machine.memory:
            return f"{told}it fits into {number} GPUs (x{number}) with fsdp; {less}."
    return f"{told}no number of GPUs of this kind is enough, since one window and the layers in use take more; {less}."
