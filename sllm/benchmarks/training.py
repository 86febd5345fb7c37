"""Training speed and memory of a token-level model, of the sentence autoencoder and of the SLLM, on the same text.

Random weights and ids: neither changes what a step takes. S sentences, T tokens of a sentence, L tokens.
"""

import functools
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lmbase.benchmarking.peak_memory import in_own_process, peak, start_of_peak
from lmbase.benchmarking.roofline import Machine
from lmbase.benchmarking.timing import alternate, median, ratio_columns, speeds
from lmbase.modeling.devices import moved
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.token_lm import TokenLM
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences, pad_tokens
from sllm.benchmarks.build import MOST_SENTENCES, Build, random_sentences

Batch = dict[str, Tensor]


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


@dataclass(frozen=True)
class StepSize:
    """Text of a training step, and how and how often it is computed."""

    num_tokens: int
    dtype: str
    device: str
    num_rounds: int


@dataclass
class Step:
    """One optimizer step."""

    seconds: float
    num_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


@dataclass
class Work:
    """A model and the text that it is trained on in a step."""

    model: nn.Module
    batch: Batch
    flops: float  # of a forward pass, by formula

    def prepared(self, size: StepSize) -> Callable[[], Step]:
        """The step as something to run in turn."""
        moved(self.model, size.device, torch.float32).train()
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, fused=True)
        on_device = {key: value.to(size.device) for key, value in self.batch.items()}
        return functools.partial(training_step, self.model, on_device, optimizer, size.dtype)


def training_step(model: nn.Module, batch: Batch, optimizer: torch.optim.Optimizer, dtype: str) -> Step:
    started = time.perf_counter()
    device = batch["input_ids"].device.type
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bf16"):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    float(loss.detach())  # waits for the GPU
    return Step(time.perf_counter() - started, int(batch["attention_mask"].sum()))


def measure_training(build: Build, lengths: Sequence[int], size: StepSize, machine: Machine) -> list[Row]:
    """A row each for the token-level model, the autoencoder and the SLLM: forward, backward and step of AdamW, A B A B.

    Args:
        lengths: tokens of the sentences of a text.
        machine: its matrix rate is what `mfu` is a share of.
    """
    sentences = random_sentences(lengths, size.num_tokens, build.vocab_size, np.random.default_rng(build.seed))
    lm = build.lm()
    positions = lm.config.max_position_embeddings
    if len(sentences) + 1 > positions:
        raise ValueError(
            f"train_tokens={size.num_tokens} are {len(sentences)} sentences; the trunk has {positions} positions."
        )
    sllm, vae, token_lm = build.sllm(lm), build.vae(lm), TokenLM(lm)
    tokens, window = size.num_tokens, min(positions, size.num_tokens + 1)
    work = {
        build.lm_name: Work(token_lm, token_batch(sentences, window), token_lm.flops(tokens, window)),
        f"autoencoder {build.size}": Work(vae, vae_batch(sentences), vae.flops(tokens, len(sentences))),
        build.sllm_name: Work(sllm, sllm_batch(sentences), sllm.flops(tokens, len(sentences))),
    }
    found = alternate({name: one.prepared(size) for name, one in work.items()}, size.num_rounds)
    rows = []
    for name, runs in found.items():
        seconds = median([run.seconds for run in runs])
        step_flops = FORWARD_AND_BACKWARD * work[name].flops
        extra = ratio_columns("speed_ratio", speeds(runs), speeds(found[build.lm_name]))
        extra |= {"step_flops": step_flops, "mfu": step_flops / seconds / machine.matrix_rate}
        rows.append(
            Row(
                model=name,
                protocol=f"train {tokens}",
                dtype=size.dtype,
                device=size.device,
                parameters=sum(p.numel() for p in work[name].model.parameters()),
                tokens_per_second=tokens / seconds,
                extra=extra,
            )
        )
    return rows


# -- memory ------------------------------------------------------------------------------------------------------------


def measure_memory(build: Build, lengths: Sequence[int], num_sentences: int, dtype: str, device: str) -> list[Row]:
    """Peak memory of forward and backward on a text of so many sentences, beyond the weights; gradients count. The
    token-level model reads the text in windows of all its positions."""
    lengths = [lengths[i % len(lengths)] for i in range(num_sentences)]
    if num_sentences >= MOST_SENTENCES:
        raise ValueError(f"memory_sentences={num_sentences}: the trunk has positions for {MOST_SENTENCES - 1}.")
    rows = []
    for name in (build.lm_name, build.sllm_name):
        found = in_own_process(
            "sllm.benchmarks.training", json.dumps(asdict(build)), name, json.dumps(lengths), dtype, device
        )
        rows.append(
            Row(
                model=name,
                protocol=f"memory of a training step, {num_sentences} sentences",
                dtype=dtype,
                device=device,
                parameters=found["parameters"],
                extra={"peak_megabytes": found["peak_bytes"] / 1e6, "text_tokens": sum(lengths)},
            )
        )
    return rows


def step_peak(build: Build, name: str, lengths: Sequence[int], dtype: str, device: str) -> dict[str, int]:
    """Peak bytes of forward and backward of one step, and the model's parameters; in this process.

    Args:
        name: of the build's model in its row.
    """
    lm = build.lm()
    text = random_sentences(lengths, sum(lengths), build.vocab_size, np.random.default_rng(build.seed))
    model: nn.Module
    make: Callable[[Sequence[list[int]]], Batch]
    if name == build.lm_name:
        model, make = TokenLM(lm), functools.partial(token_batch, window=lm.config.max_position_embeddings)
    else:
        model, make = build.sllm(lm), sllm_batch
    del lm
    moved(model, device).train()

    def run(batch: Batch) -> None:
        on_device = {key: value.to(device) for key, value in batch.items()}
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=dtype == "bf16"):
            loss = model(**on_device).loss
        loss.backward()
        model.zero_grad(set_to_none=True)

    run(make(text[:2]))  # a short one first: libraries load on first use
    gc.collect()
    before = start_of_peak(device)
    run(make(text))
    return dict(peak_bytes=peak(device) - before, parameters=sum(p.numel() for p in model.parameters()))


if __name__ == "__main__":
    settings, which, tokens, computed_in, where = sys.argv[1:]
    print(json.dumps(step_peak(Build(**json.loads(settings)), which, json.loads(tokens), computed_in, where)))
