"""Training speed and memory of OPT, of the sentence autoencoder and of the SLLM at any size, on the same text.

Random weights and ids: neither changes what a step takes. S sentences, T tokens of a sentence, L tokens.
"""

import functools
import gc
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn
from transformers import OPTForCausalLM

from lmbase.benchmarking.peak_memory import in_own_process, peak, start_of_peak
from lmbase.benchmarking.roofline import Machine
from lmbase.benchmarking.timing import alternate, median
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import load_lm, vector_heads, vector_width
from lmbase.report.rows import Row
from lmbase.text.padding import pad_sentences, pad_tokens
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm.benchmarks.generation import random_sentences
from sllm.benchmarks.replaying import ReplayedSLLM
from sllm.configuration_sllm import SLLMConfig

MOST_SENTENCES = 2048  # OPT's positions


COPIED = ("num_memory_states", "num_memory_tokens", "num_future_tokens", "draft_head_kind", "draft_transitions")


@dataclass(frozen=True)
class Build:
    """Which models: an OPT of a size and the SLLM on a copy of it, both with random weights."""

    size: str
    vocab_size: int
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    num_memory_states: int = 1
    num_memory_tokens: int = 0
    num_future_tokens: int = 1
    draft_head_kind: str = "block"
    draft_transitions: bool = False
    max_sentences: int = 512
    max_sentence_tokens: int = 64
    seed: int = 0

    def like(self, config: SLLMConfig) -> "Build":
        """With another SLLM's drafting heads and memory of the decoder."""
        return replace(self, **{name: getattr(config, name) for name in COPIED})

    def opt(self) -> OPTForCausalLM:
        return load_lm(f"random:{self.size}", vocab_size=self.vocab_size, seed=self.seed)

    def vae(self, opt: OPTForCausalLM) -> SentenceVAE:
        width, heads = vector_width(opt.config), vector_heads(opt.config)
        torch.manual_seed(self.seed)
        return SentenceVAE(
            SentenceVAEConfig(
                vocab_size=self.vocab_size,
                hidden_size=width,
                num_attention_heads=heads,
                num_encoder_layers=self.num_encoder_layers,
                num_decoder_layers=self.num_decoder_layers,
                max_sentence_tokens=self.max_sentence_tokens,
            )
        )

    def sllm(self, opt: OPTForCausalLM) -> ReplayedSLLM:
        options = {name: getattr(self, name) for name in ("max_sentences", *COPIED)}
        return ReplayedSLLM.graft(self.vae(opt), opt, **options)  # type: ignore[return-value]


Batch = dict[str, Tensor]


def opt_batch(sentences: Sequence[list[int]], window: int) -> Batch:
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


@dataclass
class Step:
    """One optimizer step."""

    seconds: float
    num_tokens: int

    @property
    def tokens_per_second(self) -> float:
        return self.num_tokens / self.seconds


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


def measure_training(
    build: Build, lengths: Sequence[int], num_tokens: int, dtype: str, device: str, num_rounds: int, machine: Machine
) -> list[Row]:
    """A row each for OPT, autoencoder and SLLM: forward, backward and step of AdamW, A B A B.

    Args:
        lengths: tokens of the sentences of a text.
        num_tokens: of text in a step, the same for all.
        machine: its matrix rate is what `mfu` is a share of.
    """
    sentences = random_sentences(lengths, num_tokens, build.vocab_size, np.random.default_rng(build.seed))
    opt = build.opt()
    positions = opt.config.max_position_embeddings
    if len(sentences) + 1 > positions:
        raise ValueError(
            f"train_tokens={num_tokens} are {len(sentences)} sentences; the trunk has {positions} positions."
        )
    sllm, vae, token_lm = build.sllm(opt), build.vae(opt), TokenLM(opt)
    window = min(opt.config.max_position_embeddings, num_tokens + 1)
    work: dict[str, tuple[nn.Module, Batch, float]] = {
        f"OPT {build.size}": (token_lm, opt_batch(sentences, window), token_lm.flops(num_tokens, window)),
        f"autoencoder {build.size}": (vae, vae_batch(sentences), vae.flops(num_tokens, len(sentences))),
        f"SLLM {build.size}": (sllm, sllm_batch(sentences), sllm.flops(num_tokens, len(sentences))),
    }
    steps: dict[str, Callable[[], Step]] = {}
    for name, (model, batch, _) in work.items():
        model.to(device).float().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        on_device = {key: value.to(device) for key, value in batch.items()}
        steps[name] = functools.partial(training_step, model, on_device, optimizer, dtype)
    found = alternate(steps, num_rounds)
    rows = []
    baseline = found[f"OPT {build.size}"]
    for name, runs in found.items():
        model, _, flops = work[name]
        ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(runs, baseline, strict=True)]
        seconds = median([run.seconds for run in runs])
        step_flops = FORWARD_AND_BACKWARD * flops
        extra = {
            "speed_ratio": median(ratios),
            "speed_ratio_low": min(ratios),
            "speed_ratio_high": max(ratios),
            "step_flops": step_flops,
            "mfu": step_flops / seconds / machine.matrix_rate,
        }
        rows.append(
            Row(
                model=name,
                protocol=f"train {num_tokens}",
                dtype=dtype,
                device=device,
                parameters=sum(p.numel() for p in model.parameters()),
                tokens_per_second=num_tokens / seconds,
                extra=extra,
            )
        )
    return rows


# -- memory ------------------------------------------------------------------------------------------------------------


def measure_memory(build: Build, lengths: Sequence[int], num_sentences: int, dtype: str, device: str) -> list[Row]:
    """Peak memory of forward and backward on a text of so many sentences, beyond the weights; gradients count. OPT
    reads the text in windows of all its positions."""
    lengths = [lengths[i % len(lengths)] for i in range(num_sentences)]
    if num_sentences >= MOST_SENTENCES:
        raise ValueError(f"memory_sentences={num_sentences}: the trunk has positions for {MOST_SENTENCES - 1}.")
    rows = []
    for kind in ("OPT", "SLLM"):
        found = in_own_process(
            "sllm.benchmarks.training", json.dumps(asdict(build)), kind, json.dumps(lengths), dtype, device
        )
        rows.append(
            Row(
                model=f"{kind} {build.size}",
                protocol=f"memory of a training step, {num_sentences} sentences",
                dtype=dtype,
                device=device,
                parameters=found["parameters"],
                extra={"peak_megabytes": found["peak_bytes"] / 1e6, "text_tokens": sum(lengths)},
            )
        )
    return rows


def step_peak(build: Build, kind: str, lengths: Sequence[int], dtype: str, device: str) -> dict[str, int]:
    """Peak bytes of forward and backward of one step, and the model's parameters; in this process."""
    opt = build.opt()
    text = random_sentences(lengths, sum(lengths), build.vocab_size, np.random.default_rng(build.seed))
    window = opt.config.max_position_embeddings
    model: nn.Module = TokenLM(opt) if kind == "OPT" else build.sllm(opt)
    del opt
    model.to(device).train()
    make: Callable[[Sequence[list[int]]], Batch] = (
        functools.partial(opt_batch, window=window) if kind == "OPT" else sllm_batch
    )

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
