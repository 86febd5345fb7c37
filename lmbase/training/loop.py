"""The one training loop, for every recipe: accumulation, bf16, several processes, exact resume, clean stops.

A model that can be trained here has

    model(**batch).losses        named sums over all targets of the batch, in nats (never means)
    model.loss_counts(**batch)   how many targets each of these sums has; known from the batch alone
    model.loss_weights           what each loss counts in the objective

and, if it draws random numbers for each item, `model.draws`, which is then true: its batches have `keys`, one for each
item, that decide about them (`lmbase.modeling.noise`).

The objective of one optimizer step is the sum over names of weight * (sum over all micro-batches and processes) /
(count over all micro-batches and processes). The counts are added up first, and the division happens once: how a
step is cut into micro-batches and processes does not change it.
"""

import contextlib
import copy
import math
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor

from lmbase.config import config_to_dict
from lmbase.files import alone_in, check_free_space, told_if_disk_is_full, verify_folder, write_folder
from lmbase.processes import Stopped, join_processes
from lmbase.training import checkpoint
from lmbase.training.feed import PreparedStep, StepFeed, TrainingData
from lmbase.training.not_finite import bad_tensor, figures_text, spoilt, what_to_try, where_not_finite
from lmbase.training.optimizer import WeightAverage, adamw, learning_rate
from lmbase.training.parallel import gradients_shared, in_main_process, new_accelerator, parallelise, shards_gathered
from lmbase.training.run_folder import CHECKPOINTS, MODEL, check_same_data, claim_folder, forget_earlier
from lmbase.training.runlog import RunLog, StopSignal
from lmbase.training.trackers import start_tracker
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
        write: something to read that the model wrote, shown after each evaluation.
    """

    save_model: Callable[[Any, Path], None]
    evaluate: Callable[[Any], dict[str, float]] | None = None
    before_step: Callable[[Any, int], None] | None = None
    write: Callable[[Any], str] | None = None


def train(
    model: nn.Module, data: TrainingData, config: TrainingConfig, output_dir: Path | str, hooks: Hooks
) -> TrainingResult:
    """Train `model` in place, or continue the run that `output_dir` holds.

    Args:
        model: see the head of this file. It is moved to the device, and left there in evaluation mode with the final
            weights (their average with `ema_decay`; with several processes and `fsdp` shards: load `output_dir/model`).
        output_dir: receives config.yaml, log.jsonl, checkpoints/ and, at the end, model/.

    Raises:
        ValueError: another configuration or other data in the same folder, another process that trains there, or a run
            whose checkpoints are gone.
        FloatingPointError: a loss or gradient was not finite: weights and checkpoints are as they were before the step.
            Or the weights that a step made, or their evaluation, were not: no model is written.
        OSError: the disk is full; the last checkpoint is kept, and the same command continues from it.
        Stopped: (a KeyboardInterrupt) after Ctrl-C, SIGTERM, SIGUSR1 or SIGHUP; a checkpoint was written.
    """
    if config.quick:
        config.max_steps = min(config.max_steps, QUICK_STEPS)
    folder = Path(output_dir)
    join_processes(config.device)
    accelerator = new_accelerator(config, folder)
    with contextlib.ExitStack() as context:
        in_main_process(accelerator, lambda: context.enter_context(alone_in(folder)))
        run = _Run(accelerator, model, data, config, folder)
        context.enter_context(told_if_disk_is_full(folder, "the checkpoints that are finished are kept"))
        context.enter_context(run.log)
        stop = context.enter_context(StopSignal(patient=run.world_size > 1))
        if run.step and hooks.evaluate and run.evaluation_is_missing():  # it was killed there
            if hooks.before_step:
                hooks.before_step(model, run.step - 1)
            run.evaluate(hooks, stop)
        for prepared in context.enter_context(contextlib.closing(run.feed.steps(run.step, config.max_steps))):
            if hooks.before_step:
                hooks.before_step(model, run.step)
            stopping = run.train_step(prepared, stop)
            last = run.step == config.max_steps
            due = hooks.evaluate is not None and run.evaluation_is_due()
            if run.step == 1 or run.step % config.log_every == 0 or last:
                run.write_log()
            # Shards cannot be counted on where a signal ended an evaluation, so that a checkpoint comes before it.
            if last or (config.save_every and run.step % config.save_every == 0) or (due and run.sharded):
                run.save()
            if stopping:
                run.stop(stop)
            if hooks.evaluate and due:
                run.evaluate(hooks, stop)
        run.finish(hooks.save_model)
    return TrainingResult(run.step, run.tokens, run.seconds, run.losses)


class _Run:
    """The state of one run in one process. The constructor continues from the newest checkpoint, if there is one."""

    def __init__(
        self, accelerator: Accelerator, model: Any, data: TrainingData, config: TrainingConfig, folder: Path
    ) -> None:
        self.model, self.config, self.folder = model, config, folder
        self.data, self.accelerator = data, accelerator
        self.device, self.is_main = accelerator.device, accelerator.is_main_process
        self.rank, self.world_size = accelerator.process_index, accelerator.num_processes
        self.feed = StepFeed(model, data, config, accelerator)
        self.order = self.feed.order

        said = in_main_process(accelerator, lambda: claim_folder(folder, config, data.hash))
        self.sharded = config.strategy == "fsdp" and self.world_size > 1
        self.whole_model = copy.deepcopy(model) if self.sharded and self.is_main else None  # what is saved at the end
        self.parallel = parallelise(model.to(self.device), config, self.world_size, self.device)
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self.trained = [parameter for _, parameter in named]
        self.optimizer = adamw(named, config, self.device, getattr(model, "rate_of", None))
        self.average = WeightAverage(self.trained, config.ema_decay) if config.ema_decay else None
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.losses: dict[str, float] = {}
        self._new_interval()
        faults = self._restore()
        self.saved_step = self.step
        in_main_process(accelerator, self._check_free_space)

        self.log = RunLog(folder, accelerator, self.step, config.max_steps, config.eval_every)
        start_tracker(accelerator, config.tracker, config_to_dict(config), folder, self.step)
        for fault in faults:
            self.log.say(f"Passed over a checkpoint: {fault}")
        if said:
            self.log.say(said)
        if self.step == config.max_steps and (folder / MODEL).exists():
            self.log.say(f"{folder} holds a finished run of {self.step} steps.")
        elif self.step:
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
        for index, (batch, items) in enumerate(zip(prepared.batches, prepared.items, strict=True)):
            batch = {key: value.to(self.device, non_blocking=True) for key, value in batch.items()}
            share = float(len(items) > 0)  # 0: a batch that only keeps this process in step with the others
            with gradients_shared(self.parallel, index == len(prepared.batches) - 1):
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bf16"):
                    losses = self.parallel(**batch).losses
                assert sorted(losses) == names, f"the model has the losses {sorted(losses)} and the counts {names}"
                weights = self.model.loss_weights
                objective = sum(
                    weights[name] * losses[name] / max(count, 1) for name, count in zip(names, counts, strict=True)
                )
                # DDP and FSDP average gradients over processes; the objective is a sum over them
                (objective * self.world_size * share).backward()
            sums += share * torch.stack([losses[name].detach().float() for name in names])
        norm = nn.utils.clip_grad_norm_(self.trained, self.config.grad_clip or math.inf)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        figures = torch.cat([sums, norm.reshape(1).to(sums)]).tolist()  # waits for the GPU, once a step
        *totals, norm_sum, stopping = self._sum_over_processes([*figures, float(stop.requested)])
        grad_norm = norm_sum / self.world_size
        means = {name: total / max(count, 1) for name, total, count in zip(names, totals, counts, strict=True)}
        if not all(map(math.isfinite, [*totals, grad_norm])):
            raise FloatingPointError(self._not_finite(prepared, means, grad_norm))

        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, self.config) * group.get("scale", 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(self.step)
        self.step += 1
        self.tokens += round(tokens)
        seconds = prepared.seconds_waited + time.perf_counter() - began
        self.seconds += seconds
        for name, total, count in zip(names, totals, counts, strict=True):
            earlier_total, earlier_count = self.interval.get(name, (0.0, 0.0))
            self.interval[name] = (earlier_total + total, earlier_count + count)
        self.grad_norm = grad_norm
        self.log.advance(self.step, seconds)
        return stopping > 0

    def _sum_over_processes(self, values: list[float]) -> list[float]:
        if self.world_size == 1:
            return values
        return self.accelerator.reduce(torch.tensor(values, device=self.device), "sum").tolist()

    def _not_finite(self, prepared: PreparedStep, means: dict[str, float], grad_norm: float) -> str:
        self.optimizer.zero_grad(set_to_none=True)
        _seed_step(self.config.seed, self.step, self.rank)
        bf16 = self.config.dtype == "bf16"
        place = where_not_finite(self.parallel, self.model, prepared, self.feed, self.step, self.accelerator, bf16)
        advice = what_to_try(self.folder / CHECKPOINTS, self.step, self.config)
        figures = figures_text(means | {"gradient norm": grad_norm})
        return f"Step {self.step + 1} is not finite ({figures}): {place}. The weights are those before it. {advice}"

    # --- log and evaluation ------------------------------------------------------------------------------------------

    def _new_interval(self) -> None:
        self.interval: dict[str, Sequence[float]] = {}
        self.interval_start: Sequence[float] = (self.tokens, self.seconds)

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

    def evaluation_is_due(self) -> bool:
        every = self.config.eval_every
        return self.step == self.config.max_steps or (every > 0 and self.step % every == 0)

    def evaluation_is_missing(self) -> bool:
        """One was due at the step that the run continues from, and the log has none."""
        missing = self.is_main and self.evaluation_is_due() and not self.log.has_evaluation(self.step)
        return self._sum_over_processes([float(missing)])[0] > 0

    def evaluate(self, hooks: Hooks, stop: StopSignal) -> None:
        """Log the figures of `hooks.evaluate`, with the averaged weights if there are any, and show what `hooks.write`
        gives.

        Raises:
            Stopped: a signal came meanwhile; a checkpoint was written.
            FloatingPointError: in every process, if a figure is not finite in any.
        """
        self.model.eval()
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.dtype == "bf16")
        began = time.perf_counter()

        def measure() -> tuple[dict[str, float], str]:  # without waiting for others, whom a signal may reach later
            assert hooks.evaluate is not None
            with torch.no_grad(), autocast:
                return hooks.evaluate(self.model), hooks.write(self.model) if hooks.write else ""

        with self._final_weights(), shards_gathered(self.model):
            found = stop.unless_stopped(measure)
        figures, written = found or ({}, "")
        finite = all(map(math.isfinite, figures.values()))
        bad, stopping = self._sum_over_processes([float(not finite), float(stop.requested)])
        if bad:
            raise spoilt(f"its evaluation ({figures_text(figures)})", self.folder / CHECKPOINTS, self.step, self.config)
        if found is not None:
            self.log.evaluation(self.step, figures, time.perf_counter() - began)
            if written:
                self.log.say(f"  {written}")
        if stopping:
            self.stop(stop)

    def _final_weights(self) -> contextlib.AbstractContextManager:
        return self.average.swapped_in() if self.average else contextlib.nullcontext()

    # --- checkpoints -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write the checkpoint of this step, if it is finite. Gathers shards, so every process takes part."""
        if self.saved_step == self.step:
            return
        tensors = checkpoint.training_tensors(self.model, self.optimizer, self.average)
        if bad := bad_tensor(self.model, tensors):
            raise spoilt(bad, self.folder / CHECKPOINTS, self.step, self.config)
        state = {"step": self.step, "tokens": self.tokens, "seconds": self.seconds, "losses": self.losses}
        state |= {"num_items": self.order.num_items, "data_hash": self.data.hash}
        state |= {"interval": self.interval, "interval_start": self.interval_start}

        def write() -> None:
            checkpoint.write_checkpoint(self.folder / CHECKPOINTS, tensors, state)
            checkpoint.prune_checkpoints(self.folder / CHECKPOINTS, self.config.keep_checkpoints)
            forget_earlier(self.folder)

        in_main_process(self.accelerator, write)
        self.saved_step = self.step

    def stop(self, stop: StopSignal) -> NoReturn:
        """
        Raises:
            Stopped: in every process; a checkpoint was written.
        """
        stop.agreed()
        self.save()
        raise Stopped(stop.number or signal.SIGTERM, f"Stopped after step {self.step}; a checkpoint was written.")

    def _check_free_space(self) -> None:
        """Before the work begins: of what the run keeps at a time, room for what is not there yet."""
        if self.step == self.config.max_steps:
            return
        weights, size = checkpoint.sizes(self.model, self.trained, self.average is not None)
        every = self.config.save_every or self.config.max_steps
        saves = -(-(self.config.max_steps - self.step) // every)
        existing = len(checkpoint.list_checkpoints(self.folder / CHECKPOINTS))
        number = min(saves, max(self.config.keep_checkpoints + 1 - existing, 1))
        check_free_space(
            self.folder, number * size + weights, f"what this run writes ({number} checkpoints and a model)"
        )

    def _restore(self) -> list[str]:
        """Continue from the newest checkpoint that verifies. Returns what was wrong with newer ones.

        The random state needs no saving: that of a step follows from (seed, step, process).
        """
        path, faults = in_main_process(self.accelerator, self._newest_checkpoint)
        if path is None:
            return faults
        state = checkpoint.read_state(path)
        check_same_data(self.folder, state, self.order.num_items, self.data.hash, self.data.earlier_hash)
        checkpoint.load_training_tensors(path, self.model, self.optimizer, self.average)
        self.step, self.tokens, self.seconds, self.losses = (
            state[key] for key in ("step", "tokens", "seconds", "losses")
        )
        if "interval" in state:  # checkpoints of earlier versions have none
            self.interval, self.interval_start = state["interval"], state["interval_start"]
        else:
            self._new_interval()
        return faults

    def _newest_checkpoint(self) -> tuple[Path | None, list[str]]:
        newest, faults = checkpoint.newest_checkpoint(self.folder / CHECKPOINTS)
        if faults and newest is None:
            listed = "\n  ".join(faults)
            raise ValueError(
                f"No checkpoint of this run is whole:\n  {listed}\n--resume restart puts them aside and begins again."
            )
        return newest, faults

    def finish(self, save_model: Callable[[Any, Path], None]) -> None:
        """Put the final weights into the model, and the finished model into the folder `model`, unless it is there."""
        if self.average:
            self.average.copy_to_model()
        self.model.eval()
        tensors = checkpoint.model_tensors(self.model) if self.sharded else {}
        in_main_process(self.accelerator, lambda: self._write_model(save_model, tensors))

    def _write_model(self, save_model: Callable[[Any, Path], None], tensors: dict[str, torch.Tensor]) -> None:
        folder = self.folder / MODEL
        with contextlib.suppress(ValueError):
            verify_folder(folder)
            return  # that of a finished run: it is whole, and replacing it could only harm
        model = self.model
        if self.whole_model is not None:
            checkpoint.load_model_tensors(self.whole_model, tensors)
            model = self.whole_model
        write_folder(folder, lambda target: save_model(model, target))


def _seed_step(seed: int, step: int, rank: int) -> None:
    """Dropout draws from (seed, step, process), so that a continued run draws what an uninterrupted one does."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]) >> 1)
