"""The one training loop, for every recipe: accumulation, bf16, several processes, exact resume, clean stops.

A model that can be trained here has

    model(**batch).losses        named sums over all targets of the batch, in nats (never means)
    model.loss_counts(**batch)   how many targets each of these sums has; known from the batch alone
    model.loss_weights           what each loss counts in the objective

The objective of one optimizer step is the sum over names of weight * (sum over all micro-batches and processes) /
(count over all micro-batches and processes). The counts are added up first, and the division happens once: how a
step is cut into micro-batches and processes does not change it.
"""

import contextlib
import copy
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor

from lmbase.config import config_to_dict
from lmbase.files import told_if_disk_is_full, write_folder
from lmbase.training import checkpoint
from lmbase.training.feed import PreparedStep, StepFeed, TrainingData
from lmbase.training.optimizer import WeightAverage, adamw, learning_rate
from lmbase.training.parallel import gradients_shared, parallelise, shards_gathered
from lmbase.training.run_folder import check_same_data, claim_folder
from lmbase.training.runlog import RunLog, StopSignal, resume_command, start_tracker
from lmbase.training.training_config import TrainingConfig

__all__ = ["Hooks", "TrainingConfig", "TrainingData", "TrainingResult", "train"]

QUICK_STEPS = 20


@dataclass(frozen=True)
class TrainingResult:
    """What a finished run did: steps, tokens, seconds of training (evaluation not counted), the last logged losses."""

    steps: int
    tokens: int
    seconds: float
    losses: dict[str, float]


@dataclass(frozen=True)
class Hooks:
    """What a run does with its model besides training it.

    Args:
        save_model: writes the finished model into a folder.
        evaluate: figures for the log. Called in every process, in evaluation mode, without gradients.
        before_step: called with the model and the step (from 0) before each step, for schedules inside the model.
    """

    save_model: Callable[[Any, Path], None]
    evaluate: Callable[[Any], dict[str, float]] | None = None
    before_step: Callable[[Any, int], None] | None = None


def train(
    model: nn.Module, data: TrainingData, config: TrainingConfig, output_dir: Path | str, hooks: Hooks
) -> TrainingResult:
    """Train `model` in place, or continue the run that `output_dir` holds.

    Args:
        model: see the head of this file. It is moved to the device, and left there in evaluation mode with the final
            weights (their average with `ema_decay`; with several processes and `fsdp` shards: load `output_dir/model`).
        output_dir: receives config.yaml, log.jsonl, checkpoints/ and, at the end, model/.

    Raises:
        ValueError: another configuration or other data in the same folder; items that cannot be shared out evenly.
        FloatingPointError: a loss or gradient was not finite; weights and checkpoints are as they were before the step.
        OSError: the disk is full; the last checkpoint is kept, and the same command continues from it.
        KeyboardInterrupt: after Ctrl-C or SIGTERM; a checkpoint was written and the command that continues printed.
    """
    if config.quick:
        config.max_steps = min(config.max_steps, QUICK_STEPS)
    run = _Run(model, data, config, Path(output_dir))
    if run.step == config.max_steps:
        run.log.say(f"{run.folder} holds a finished run of {run.step} steps.")
    with (
        told_if_disk_is_full(run.folder, "the checkpoints that are finished are kept"),
        run.log,
        StopSignal(patient=run.world_size > 1) as stop,
        contextlib.closing(run.feed.steps(run.step, config.max_steps)) as prepared_steps,
    ):
        for prepared in prepared_steps:
            if hooks.before_step:
                hooks.before_step(model, run.step)
            stopping = run.train_step(prepared, stop)
            last = run.step == config.max_steps
            if run.step == 1 or run.step % config.log_every == 0 or last or stopping:
                run.write_log()
            if last or stopping or (config.save_every and run.step % config.save_every == 0):
                run.save()
            if stopping and not last:
                run.log.say(
                    f"Stopped after step {run.step}; a checkpoint was written. To continue:\n  {resume_command()}"
                )
                raise KeyboardInterrupt
            if hooks.evaluate and (last or (config.eval_every and run.step % config.eval_every == 0)):
                run.evaluate(hooks.evaluate)
        run.finish(hooks.save_model)
    return TrainingResult(run.step, run.tokens, run.seconds, run.losses)


class _Run:
    """The state of one run in one process. The constructor continues from the newest checkpoint, if there is one."""

    def __init__(self, model: Any, data: TrainingData, config: TrainingConfig, folder: Path) -> None:
        self.model, self.config, self.folder = model, config, folder
        self.data_hash = data.hash
        self.accelerator = Accelerator(
            cpu=config.device == "cpu",
            log_with=None if config.tracker == "none" else config.tracker,
            project_dir=folder,
        )
        self.device, self.is_main = self.accelerator.device, self.accelerator.is_main_process
        self.rank, self.world_size = self.accelerator.process_index, self.accelerator.num_processes
        if config.device not in ("auto", self.device.type):
            raise ValueError(
                f"device = {config.device!r}, but here there is only {self.device.type!r}; known are auto, cpu, cuda "
                "and mps (CUDA_VISIBLE_DEVICES chooses among several GPUs)."
            )
        self.feed = StepFeed(model, data, config, self.accelerator)
        self.order = self.feed.order

        if self.is_main:
            claim_folder(folder, config)
        self.accelerator.wait_for_everyone()
        self.sharded = config.strategy == "fsdp" and self.world_size > 1
        self.whole_model = copy.deepcopy(model) if self.sharded and self.is_main else None  # what is saved at the end
        self.parallel = parallelise(model.to(self.device), config, self.world_size, self.device)
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = adamw(self.trained, config, self.device)
        self.average = WeightAverage(self.trained, config.ema_decay) if config.ema_decay else None
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.losses: dict[str, float] = {}
        faults = self._restore()
        self._new_interval()

        self.log = RunLog(folder, self.accelerator, self.step, config.max_steps)
        start_tracker(self.accelerator, config.tracker, config_to_dict(config), folder)
        for fault in faults:
            self.log.say(f"Passed over a checkpoint: {fault}")
        if self.step:
            self.log.say(f"Continuing {folder} from step {self.step}.")

    # --- one step ----------------------------------------------------------------------------------------------------

    def train_step(self, prepared: PreparedStep, stop: StopSignal) -> bool:
        """One optimizer step. Returns whether any process was asked to stop.

        Raises:
            FloatingPointError: in every process, before the weights change, if a loss or the gradient is not finite.
        """
        began = time.perf_counter()
        if not self.model.training:
            self.model.train()
        _seed_step(self.config.seed, self.step, self.rank)
        names = sorted(prepared.counts)
        *counts, tokens = self._sum_over_processes([*(prepared.counts[name] for name in names), prepared.tokens])
        sums = torch.zeros(len(names), device=self.device)
        for index, batch in enumerate(prepared.batches):
            batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            with gradients_shared(self.parallel, index == len(prepared.batches) - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bf16"):
                    losses = self.parallel(**batch).losses
                assert sorted(losses) == names, f"the model has the losses {sorted(losses)} and the counts {names}"
                weights = self.model.loss_weights
                objective = sum(
                    weights[name] * losses[name] / max(count, 1) for name, count in zip(names, counts, strict=True)
                )
                # DDP and FSDP average gradients over processes; the objective is a sum over them
                (objective * self.world_size).backward()
            sums += torch.stack([losses[name].detach().float() for name in names])
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        figures = torch.cat([sums, norm.reshape(1).to(sums)]).tolist()  # waits for the GPU, once a step
        *totals, norm_sum, stops = self._sum_over_processes([*figures, float(stop.requested)])
        grad_norm = norm_sum / self.world_size
        means = {name: total / max(count, 1) for name, total, count in zip(names, totals, counts, strict=True)}
        if not all(map(math.isfinite, [*totals, grad_norm])):
            raise FloatingPointError(self._not_finite(means, grad_norm))

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.step)
        self.step += 1
        self.tokens += round(tokens)
        self.seconds += prepared.seconds_waited + time.perf_counter() - began
        for name, total, count in zip(names, totals, counts, strict=True):
            earlier_total, earlier_count = self.interval.get(name, (0.0, 0.0))
            self.interval[name] = (earlier_total + total, earlier_count + count)
        self.grad_norm = grad_norm
        self.log.advance(self.step)
        return stops > 0

    def _sum_over_processes(self, values: list[float]) -> list[float]:
        if self.world_size == 1:
            return values
        return self.accelerator.reduce(torch.tensor(values, device=self.device), "sum").tolist()

    def _not_finite(self, means: dict[str, float], grad_norm: float) -> str:
        figures = ", ".join(f"{name} {value:.4g}" for name, value in [*means.items(), ("gradient norm", grad_norm)])
        newest, _ = checkpoint.newest_checkpoint(self.folder / "checkpoints")
        kept = f"The last checkpoint, {newest}, is kept." if newest else "No checkpoint had been written yet."
        return (
            f"Step {self.step + 1} is not finite ({figures}). Training stopped before it changed the weights. {kept} "
            f"Try a lower learning_rate (now {self.config.learning_rate:g}), a longer warm-up (warmup_steps, now "
            f"{self.config.warmup_steps}), grad_clip (now {self.config.grad_clip:g}) or dtype fp32, "
            "in another output_dir."
        )

    # --- log and evaluation ------------------------------------------------------------------------------------------

    def _new_interval(self) -> None:
        self.interval: dict[str, tuple[float, float]] = {}
        self.interval_start = (self.tokens, self.seconds)

    def write_log(self) -> None:
        """Log the mean losses since the last line, and begin a new interval."""
        self.losses = {name: total / max(count, 1) for name, (total, count) in self.interval.items()}
        tokens, seconds = self.interval_start
        self.log.training(
            {
                "step": self.step,
                "tokens": self.tokens,
                "seconds": round(self.seconds, 3),
                "lr": learning_rate(self.step - 1, self.config),
                "epoch": round(self.order.epoch(self.step), 4),
                "grad_norm": self.grad_norm,
                "tokens_per_second": round((self.tokens - tokens) / max(self.seconds - seconds, 1e-9), 1),
                "loss": sum(self.model.loss_weights[name] * value for name, value in self.losses.items()),
                "losses": self.losses,
            }
        )
        self._new_interval()

    def evaluate(self, evaluate: Callable[[Any], dict[str, float]]) -> None:
        """Log the figures of `evaluate(model)`, with the averaged weights if there are any."""
        self.model.eval()
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bf16")
        with torch.no_grad(), autocast, self._final_weights(), shards_gathered(self.model):
            self.log.evaluation(self.step, evaluate(self.model))

    def _final_weights(self) -> contextlib.AbstractContextManager:
        return self.average.swapped_in() if self.average else contextlib.nullcontext()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint of this step. Gathers shards, so every process takes part; the main one writes."""
        folder = self.folder / "checkpoints"
        tensors = {"model": checkpoint.model_tensors(self.model)}
        tensors["optimizer"] = checkpoint.optimizer_tensors(self.model, self.optimizer)
        if self.average:
            with self.average.swapped_in():
                averaged = checkpoint.model_tensors(self.model)
                tensors["ema"] = {name: tensor.clone() for name, tensor in averaged.items()}
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "losses": self.losses}
        state |= {"num_items": self.order.num_items, "data_hash": self.data_hash}

        def write(target: Path) -> None:
            for name, part in tensors.items():
                save_file(part, target / f"{name}.safetensors")
            (target / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")

        if self.is_main:
            write_folder(folder / f"step_{self.step:08d}", write)
            checkpoint.prune_checkpoints(folder, self.config.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def _restore(self) -> list[str]:
        """Continue from the newest checkpoint that verifies. Returns what was wrong with newer ones.

        The random state needs no saving: that of a step follows from (seed, step, process).
        """
        folder = self.folder / "checkpoints"
        newest, faults = checkpoint.newest_checkpoint(folder) if self.is_main else (None, [])
        if faults and newest is None:
            listed = "\n  ".join(faults)
            raise ValueError(
                f"No checkpoint of this run is whole:\n  {listed}\n--resume restart deletes them and begins again."
            )
        # only the main process verifies, so that all agree on one; 0 stands for none
        step = round(self._sum_over_processes([float(newest.name.removeprefix("step_")) if newest else 0.0])[0])
        if step == 0:
            return faults
        path = folder / f"step_{step:08d}"
        state = json.loads((path / "state.json").read_text(encoding="utf-8"))
        check_same_data(self.folder, state, self.order.num_items, self.data_hash)
        if self.average:
            checkpoint.load_model_tensors(self.model, load_file(path / "ema.safetensors"))
            self.average.copy_from_model()
        checkpoint.load_model_tensors(self.model, load_file(path / "model.safetensors"))
        checkpoint.load_optimizer_tensors(self.model, self.optimizer, load_file(path / "optimizer.safetensors"))
        self.step, self.tokens, self.seconds, self.losses = (
            state[key] for key in ("step", "tokens", "seconds", "losses")
        )
        return faults

    def finish(self, save_model: Callable[[Any, Path], None]) -> None:
        """Put the final weights into the model, and the finished model into the folder `model`."""
        if self.average:
            self.average.copy_to_model()
        self.model.eval()
        tensors = checkpoint.model_tensors(self.model) if self.sharded else {}
        if self.is_main:
            model = self.model
            if self.whole_model is not None:
                checkpoint.load_model_tensors(self.whole_model, tensors)
                model = self.whole_model
            write_folder(self.folder / "model", lambda target: save_model(model, target))
        self.accelerator.wait_for_everyone()


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout draws from (seed, step, process), so that a continued run draws what an uninterrupted one does."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1)
