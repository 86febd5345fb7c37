"""What more heads cost in training: seconds of a step, and the memory of the loss, by number of heads.

Models of one size in blocks (n - 1 leave the trunk for heads 2 to n), with random weights: they change no figure.
B windows, L tokens, M positions that predict something, n heads, V vocabulary.
"""

import functools
import gc
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lmbase.benchmarking.peak_memory import in_own_process, peak, start_of_peak
from lmbase.benchmarking.timing import alternate, clocked, median, ratio_columns
from lmbase.modeling.devices import moved
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.token_lm import shift
from lmbase.modeling.trunk import random_config, with_layers
from lmbase.report.rows import Row
from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.multi_token_lm import MultiTokenLM

WINDOW = 512  # tokens, at most
MEMORY_SHARE = 0.6  # of the machine's free memory that a measurement may be expected to take


@dataclass(frozen=True)
class Setting:
    """A training step: which model, on how much text."""

    size: str  # of a random model, for its width
    num_blocks: int  # of trunk and heads together
    num_future_tokens: int
    vocab_size: int
    num_tokens: int
    dtype: str  # bf16 or fp32, of the computation; weights are fp32
    device: str
    seed: int = 0

    @property
    def window(self) -> int:
        return min(WINDOW, self.num_tokens)

    def build(self) -> MultiTokenLM:
        """
        Raises:
            ValueError: no such size, or more heads than blocks.
        """
        config = random_config(f"random:{self.size}", vocab_size=self.vocab_size, max_positions=self.window + 1)
        torch.manual_seed(self.seed)
        whole = with_layers(config, self.num_blocks)
        model = moved(MultiTokenLM(MultiTokenLMConfig.matching(whole, self.num_future_tokens)), self.device)
        model.train()
        return model

    def batch(self) -> dict[str, Tensor]:
        """Whole windows of random ids, none of which ends a text."""
        generator = torch.Generator().manual_seed(self.seed)
        shape = (max(self.num_tokens // self.window, 1), self.window)
        ids = torch.randint(4, self.vocab_size, shape, generator=generator)
        mask, ends = torch.ones(shape, dtype=torch.bool), torch.zeros(shape[0], dtype=torch.bool)
        return {
            name: tensor.to(self.device)
            for name, tensor in (("input_ids", ids), ("attention_mask", mask), ("ends", ends))
        }


# -- one step ----------------------------------------------------------------------------------------------------------


def our_loss(model: MultiTokenLM, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch).loss


def naive_loss(model: MultiTokenLM, batch: dict[str, Tensor]) -> Tensor:
    """The same loss the straight way: all heads' logits first, then a cross-entropy of each."""
    windows = shift(**batch, ids=model.ids)
    logits, targets = [], []
    for i, states in model._all_states(windows, len(model.heads)):
        of_head, mask = windows.of_head(i)
        logits.append(model.finish(states[mask]) @ model.unembedding(i).T)  # (M,V)
        targets.append(of_head[mask])
    sums = [F.cross_entropy(x.float(), y, reduction="sum") for x, y in zip(logits, targets, strict=True)]
    return torch.stack(sums).sum() / len(targets[0])


LOSSES = {"ours": our_loss, "naive": naive_loss}


def forward_and_backward(model: MultiTokenLM, batch: dict[str, Tensor], dtype: str, loss: str = "ours") -> float:
    with torch.autocast(model.device.type, torch.bfloat16, enabled=dtype == "bf16"):
        value = LOSSES[loss](model, batch)
    value.backward()
    return float(value.detach())  # waits for the GPU


# -- time --------------------------------------------------------------------------------------------------------------


@dataclass
class StepTime:
    """Seconds of forward, backward and optimizer in each round; FLOPs of forward and backward by formula."""

    seconds: list[float]
    flops: float
    num_parameters: int


def time_steps(settings: Sequence[Setting], num_rounds: int) -> list[StepTime]:
    """All settings in turn, A B A B, after a warm-up of each."""
    models = [setting.build() for setting in settings]
    steps: dict[str, Callable[[], float]] = {}
    for number, (setting, model) in enumerate(zip(settings, models, strict=True)):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        steps[str(number)] = clocked(functools.partial(_step, model, setting.batch(), optimizer, setting.dtype))
    found = alternate(steps, num_rounds)
    return [
        StepTime(
            found[str(number)],
            FORWARD_AND_BACKWARD * model.flops(setting.num_tokens, setting.window),
            sum(p.numel() for p in model.parameters()),
        )
        for number, (setting, model) in enumerate(zip(settings, models, strict=True))
    ]


def _step(model: MultiTokenLM, batch: dict[str, Tensor], optimizer: torch.optim.Optimizer, dtype: str) -> None:
    forward_and_backward(model, batch, dtype)
    optimizer.step()
    optimizer.zero_grad()
    if model.device.type == "cuda":
        torch.cuda.synchronize()


# -- memory ------------------------------------------------------------------------------------------------------------


@dataclass
class StepMemory:
    """What forward and backward took at most, beyond weights and batch; gradients count."""

    peak_bytes: int
    largest_vocabulary_bytes: int  # the largest tensor of which one dimension is the vocabulary


class _LargestVocabularyTensor(TorchDispatchMode):
    """Looks at every tensor that an operation makes."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.vocab_size, self.num_bytes = vocab_size, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        made = func(*args, **kwargs or {})
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, Tensor) and self.vocab_size in tensor.shape:
                self.num_bytes = max(self.num_bytes, tensor.numel() * tensor.element_size())
        return made


def step_memory(setting: Setting, losses: Sequence[str] = ("ours", "naive")) -> dict[str, StepMemory]:
    """Of one step with each loss, in a process of its own: what was there before would be taken for free.

    Raises:
        ValueError: the process failed, for want of memory perhaps.
    """
    found = in_own_process("multitoken.benchmarks.training_cost", json.dumps(asdict(setting)), *losses)
    return {loss: StepMemory(**of_loss) for loss, of_loss in found.items()}


def step_memory_here(setting: Setting, losses: Sequence[str] = ("ours", "naive")) -> dict[str, StepMemory]:
    """The same in this process."""
    model, batch = setting.build(), setting.batch()
    few = {"input_ids": batch["input_ids"][:1, :16], "attention_mask": batch["attention_mask"][:1, :16]}
    found = {}
    for loss in losses:
        # a short one first: libraries load on first use
        forward_and_backward(model, {**few, "ends": batch["ends"][:1]}, setting.dtype, loss)
        model.zero_grad(set_to_none=True)
        gc.collect()
        before = start_of_peak(setting.device)
        with _LargestVocabularyTensor(setting.vocab_size) as largest:
            forward_and_backward(model, batch, setting.dtype, loss)
        found[loss] = StepMemory(peak(setting.device) - before, largest.num_bytes)
        model.zero_grad(set_to_none=True)
    return found


def _naive_fits(setting: Setting) -> bool:
    """Whether the naive way's logits and their log-probabilities would leave the machine some memory."""
    needed = (2 * setting.num_future_tokens + 2) * setting.num_tokens * setting.vocab_size * 4
    if setting.device.startswith("cuda"):
        return needed < MEMORY_SHARE * torch.cuda.mem_get_info()[0]
    path = Path("/proc/meminfo")
    match = re.search(r"MemAvailable:\s+(\d+) kB", path.read_text()) if path.exists() else None
    return match is None or needed < MEMORY_SHARE * int(match[1]) * 1024


# -- rows --------------------------------------------------------------------------------------------------------------


def measure_heads(settings: Sequence[Setting], num_rounds: int) -> list[Row]:
    """A row for each setting: the first is what others are compared with.

    Raises:
        ValueError: no rounds, or a model that cannot be.
    """
    if num_rounds < 1 or not settings:
        raise ValueError(f"rounds={num_rounds}, {len(settings)} numbers of heads: a figure needs one of each at least.")
    times = time_steps(settings, num_rounds)
    gc.collect()
    rows = []
    for setting, found in zip(settings, times, strict=True):
        flops_ratio = found.flops / times[0].flops
        seconds = median(found.seconds)
        extra: dict = {
            "num_future_tokens": setting.num_future_tokens,
            "seconds_per_step": seconds,
            **ratio_columns("time_ratio", found.seconds, times[0].seconds),
            "step_flops": found.flops,
            "flops_ratio": flops_ratio,
        }
        extra["time_over_flops_ratio"] = extra["time_ratio"] / flops_ratio
        for loss, memory in step_memory(setting, ("ours", "naive") if _naive_fits(setting) else ("ours",)).items():
            prefix = "" if loss == "ours" else f"{loss}_"
            extra[f"{prefix}peak_megabytes"] = memory.peak_bytes / 1e6
            extra[f"{prefix}largest_logits_megabytes"] = memory.largest_vocabulary_bytes / 1e6
        rows.append(
            Row(
                model=f"{setting.size}, {setting.num_blocks} blocks, n = {setting.num_future_tokens}",
                protocol=f"heads V={setting.vocab_size} tokens={setting.num_tokens}",
                dtype=setting.dtype,
                device=setting.device,
                parameters=found.num_parameters,
                tokens_per_second=setting.num_tokens / seconds,
                extra=extra,
            )
        )
    return rows


if __name__ == "__main__":
    measured = step_memory_here(Setting(**json.loads(sys.argv[1])), sys.argv[2:])
    print(json.dumps({name: asdict(memory) for name, memory in measured.items()}))
