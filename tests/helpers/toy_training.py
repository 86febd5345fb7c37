"""A tiny model and data set for the tests of training. As a script it is one process of a distributed test:

torchrun --nproc-per-node 2 toy_training.py FOLDER
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_model
from torch import nn
from transformers.utils import ModelOutput

from lmbase.files import alone_in, from_lines
from lmbase.processes import leave_processes
from lmbase.training.loop import Hooks, TrainingConfig, TrainingData, TrainingResult, train

VOCABULARY, WIDTH, NUM_ITEMS = 11, 8, 60
_random = np.random.default_rng(0)
LENGTHS = _random.integers(3, 9, NUM_ITEMS)
SEQUENCES = [_random.integers(1, VOCABULARY, length) for length in LENGTHS]


@dataclass
class ToyOutput(ModelOutput):
    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None


class Block(nn.Module):
    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden + self.dropout(torch.tanh(self.linear(self.norm(hidden))))


class ToyModel(nn.Module):
    """Next-token model with a tied table, two blocks and two named losses whose counts differ."""

    _no_split_modules = ["Block"]

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, WIDTH)
        self.blocks = nn.Sequential(Block(dropout), Block(dropout))
        self.out = nn.Linear(WIDTH, VOCABULARY, bias=False)
        self.out.weight = self.embed.weight
        self.loss_weights = {"token": 1.0, "size": 0.5}
        self.poisoned = False

    def loss_counts(self, ids: torch.Tensor) -> dict[str, int]:
        return {"token": int((ids[:, 1:] > 0).sum()), "size": len(ids)}

    def forward(self, ids: torch.Tensor) -> ToyOutput:
        hidden = self.blocks(self.embed(ids))
        logits = self.out(hidden)[:, :-1].flatten(0, 1).float()
        nats = nn.functional.cross_entropy(logits, ids[:, 1:].flatten(), ignore_index=0, reduction="sum")
        if self.poisoned:
            nats = nats * float("nan")
        return ToyOutput(loss=nats, losses={"token": nats, "size": hidden[:, 0].square().sum()})


def make_batch(items: np.ndarray) -> dict[str, torch.Tensor]:
    ids = torch.zeros(len(items), int(max(LENGTHS[items])), dtype=torch.long)
    for row, item in enumerate(items):
        ids[row, : LENGTHS[item]] = torch.from_numpy(SEQUENCES[item])
    return {"ids": ids}


@dataclass
class ToyItems:
    """The first of the items."""

    num_items: int = NUM_ITEMS
    batch: Callable[[np.ndarray], dict[str, torch.Tensor]] = make_batch

    def __len__(self) -> int:
        return self.num_items


def toy_data(items: ToyItems, data_hash: str | None = None, earlier_hash: str | None = None) -> TrainingData:
    return TrainingData(items, LENGTHS, lambda batch: int((batch["ids"] > 0).sum()), data_hash, earlier_hash)


def toy_config(make_config: type[TrainingConfig] = TrainingConfig, **changes) -> TrainingConfig:
    defaults = dict(
        max_steps=12, batch_size=8, learning_rate=0.01, warmup_steps=3, log_every=4, save_every=0, device="cpu"
    )
    return make_config(**{**defaults, **changes})


def toy_train(folder: Path | str, model: ToyModel | None = None, **arguments) -> tuple[ToyModel, TrainingResult]:
    """Train the toy model; keys of `TrainingConfig`, hooks and what sets the data apart may be given alike."""
    items = ToyItems(arguments.pop("num_items", NUM_ITEMS), arguments.pop("make_batch", make_batch))
    data = toy_data(items, arguments.pop("data_hash", None), arguments.pop("earlier_hash", None))
    hooks = Hooks(
        save_model=lambda model, target: save_model(model, str(target / "model.safetensors")),
        evaluate=arguments.pop("evaluate", None),
        before_step=arguments.pop("before_step", None),
    )
    model = model or ToyModel()
    return model, train(model, data, toy_config(**arguments), folder, hooks)


def interrupt_at(step: int, number: int = signal.SIGINT):
    """A `before_step` that sends this process a signal."""

    def before_step(model: nn.Module, current: int) -> None:
        if current == step:
            os.kill(os.getpid(), number)

    return before_step


def weight_size(model: nn.Module) -> dict[str, float]:
    """An evaluation that reads weights outside of forward."""
    return {"size": float(sum(parameter.double().abs().sum() for parameter in model.parameters()))}


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def largest_difference(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def log(folder: Path) -> list[dict[str, Any]]:
    """Lines of a run's log."""
    records = list(from_lines((folder / "log.jsonl").read_text()))
    assert not any(isinstance(record, ValueError) for record in records)
    return [record for record in records if isinstance(record, dict)]


def losses(folder: Path) -> dict[int, dict[str, float]]:
    """Losses by step."""
    return {line["step"]: line["losses"] for line in log(folder) if "losses" in line}


def checkpoints(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def _distributed(folder: Path) -> None:
    common: dict[str, Any] = dict(micro_batch_size=2, ema_decay=0.9, evaluate=weight_size)
    toy_train(folder / "ddp", **common)
    toy_train(folder / "fsdp", strategy="fsdp", **common)
    try:
        toy_train(folder / "stopped", strategy="fsdp", before_step=interrupt_at(6, signal.SIGTERM), **common)
    except KeyboardInterrupt:
        (folder / f"interrupted_{os.environ['RANK']}").touch()
    for strategy in ("ddp", "fsdp"):
        toy_train(folder / f"uneven_{strategy}", batch_size=7, micro_batch_size=3, strategy=strategy)
        toy_train(folder / f"fewer_{strategy}", batch_size=1, max_steps=4, strategy=strategy)
    holder = alone_in(folder / "in_use") if os.environ["RANK"] == "0" else nullcontext()
    with holder:
        try:
            toy_train(folder / "in_use")
        except ValueError as error:
            (folder / f"refused_{os.environ['RANK']}").write_text(str(error))
    model = ToyModel()
    model.poisoned = os.environ["RANK"] == "1"
    try:
        toy_train(folder / "poisoned", model)
    except FloatingPointError as error:
        (folder / f"poisoned_{os.environ['RANK']}").write_text(str(error))


if __name__ == "__main__":
    _distributed(Path(sys.argv[1]))
    leave_processes()
