"""What a training and a generation will take, before anything is allocated: parameters, memory, operations, the batch
that fits.

Nothing is estimated by formula that can be counted: a dry run (`lmbase.benchmarking.dry_run`) sends the shapes of one
micro-batch through the model's own code. n windows of a micro-batch, N processes.
"""

import functools
import itertools
import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from lmbase.benchmarking.dry_run import ACTIVATIONS, GRADIENTS, LOGITS, WEIGHTS, Step, dry_step
from lmbase.modeling.devices import DTYPES
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.pretrained import read_config
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import (
    OPT_SIZES,
    check_trunk,
    new_config,
    position_bytes,
    settle,
    special_ids,
    vector_heads,
    vector_width,
    with_layers,
)
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.training.batches import Batch
from lmbase.training.parallel import recompute_activations, sharded_blocks
from sentencevae import SentenceVAEConfig
from sllm import SLLM, SLLMConfig
from sllm.benchmarks.replaying import random_sentences
from sllm.evaluation.speed import decoder_cache_bytes
from sllm.evaluation.weights_read import read_by_sentences, read_by_tokens
from sllm.grafting import own_layers_config
from sllm.parts import part_of

OPTIMIZER, AVERAGE, BUCKETS, GATHERED, CACHE = "optimizer", "average", "buckets", "gathered", "cache"
SMALL = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
# A micro-batch of more tokens is told from two smaller ones: what it holds grows evenly.
MOST_DRY_TOKENS = {"cpu": 1024, "cuda": 8192}
# Published OPTs (arXiv 2205.01068, table 1): a name is enough, without a network. Layers, heads, width.
LARGER = {"2.7b": (32, 32, 2560), "6.7b": (32, 32, 4096), "13b": (40, 40, 5120), "30b": (48, 56, 7168)}
LARGER |= {"66b": (64, 72, 9216), "175b": (96, 96, 12288)}


def config_of(lm: str) -> PreTrainedConfig:
    """The configuration of a language model, weights untouched.

    Args:
        lm: hub id, folder, run, GGUF file, random:SIZE; a published OPT needs no network.

    Raises:
        ValueError: no such model, or one of a family that is not known.
    """
    name = lm.removeprefix("facebook/").lower()
    if name in OPT_SIZES:
        return read_config(f"random:{name}")
    if lm.lower() in (f"{owner}opt-{size}" for size in LARGER for owner in ("", "facebook/")):
        layers, heads, width = LARGER[name.removeprefix("opt-")]
        sizes = dict(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads)
        return new_config("opt", feed_forward=4 * width, vocab_size=50272, max_position_embeddings=2048, **sizes)
    return check_trunk(read_config(lm), f"lm={lm!r}")


def assumed_lengths(mean: float, cap: int) -> tuple[int, ...]:
    """Tokens of 64 sentences as clauses of prose have them, many short and few long: quantiles of an exponential."""
    shares = (np.arange(64) + 0.5) / 64
    lengths = np.clip(np.round(-(mean - 0.5) * np.log1p(-shares) + 0.5), 1, cap).astype(int)
    return tuple(np.random.default_rng(0).permutation(lengths).tolist())


@dataclass(frozen=True)
class How:
    """How a model is trained.

    Args:
        kernels: the kind of device: cpu, cuda.
        average: an average of the weights is kept (ema_decay).
        strategy: with N processes.
    """

    dtype: Literal["fp32", "bf16"] = "fp32"
    kernels: str = "cpu"
    average: bool = False
    gradient_checkpointing: bool = False
    strategy: Literal["ddp", "fsdp"] = "ddp"
    processes: int = 1


@dataclass(frozen=True)
class Design:
    """A model to plan for, of which nothing is built yet. `TokenDesign` and `SentenceDesign` are its kinds.

    Args:
        trunk: of the language model, whole.
        lengths: tokens of sentences, over and over.
    """

    trunk: PreTrainedConfig
    lengths: tuple[int, ...]

    name = ""
    outer_layers = 0  # blocks of the language model that are no trunk

    def build(self) -> Any:
        """The model as the training loop takes it, on the device that is the default."""
        raise NotImplementedError

    def windows(self, number: int) -> Batch:
        """A micro-batch of full windows of random ids."""
        raise NotImplementedError

    @property
    def window_tokens(self) -> float:
        """Tokens of text in a full window."""
        raise NotImplementedError

    def cache(self, dtype: torch.dtype, num_tokens: int) -> int:
        """Bytes of keys and values after so many tokens of one text."""
        raise NotImplementedError

    def read_weights(self) -> float:
        """Weights that a token of text reads, written one after another."""
        raise NotImplementedError

    def formula(self, number: int) -> float:
        """Operations of so many windows forward and backward by formula, without padding: what runs note down."""
        raise NotImplementedError

    @property
    def num_blocks(self) -> int:
        """Blocks of the trunk: what a deeper model has more of."""
        return self.trunk.num_hidden_layers - self.outer_layers

    def with_blocks(self, number: int) -> "Design":
        return replace(self, trunk=with_layers(self.trunk, self.outer_layers + number))

    def small(self) -> "Design":
        """One of the same kind that takes nearly nothing."""
        trunk = new_config("opt", vocab_size=64, max_position_embeddings=2048, feed_forward=32, **SMALL)
        return replace(self, trunk=trunk)

    @property
    def mean_length(self) -> float:
        return sum(self.lengths) / len(self.lengths)

    @functools.cached_property
    def outline(self) -> Any:
        """The model on the device `meta`: shapes, no weights."""
        with torch.device("meta"):
            return self.build()

    def parameters(self) -> dict[str, int]:
        """By part."""
        found: dict[str, int] = {}
        for name, weight in self.outline.named_parameters():
            part = self.part(name)
            found[part] = found.get(part, 0) + weight.numel()
        return found

    def part(self, name: str) -> str:
        """Which part of the model a weight belongs to."""
        raise NotImplementedError

    # -- training ----------------------------------------------------------------------------------------------------

    def step(self, number: int, how: How, again: bool = False) -> Step:
        """What a micro-batch of so many windows holds and multiplies, counted."""
        most = max(2, int(MOST_DRY_TOKENS[how.kernels] / self.window_tokens))
        if number > most:
            less, more = (self.step(n, how, again) for n in (most // 2, most))
            return more.beyond(less, (number - most) / (most - most // 2))
        return _counted(self, number, how.dtype, how.kernels, how.gradient_checkpointing, again)

    def training_memory(self, number: int, how: How, again: bool = False) -> dict[str, int]:
        """Bytes by part at the peak of an optimizer step, of one process; their sum is the peak.

        Args:
            number: windows of a micro-batch.
            again: a step has several.
        """
        # Copied, so that parts can be divided.
        held = {part: n for part, n in self.step(number, how, again).held.items() if n}
        trained = [weight for weight in self.outline.parameters() if weight.requires_grad]
        gradients, tensors = sum(weight.nbytes for weight in trained), len(trained)
        held[OPTIMIZER] = 2 * gradients + 4 * tensors  # AdamW: two averages of each weight, and a count of steps
        if how.average:
            held[AVERAGE] = gradients
        if how.processes > 1:
            held = self._shared(held, gradients, how, again)
        during = sum(held.get(part, 0) for part in (ACTIVATIONS, LOGITS, GRADIENTS))
        if during < gradients and how.processes == 1:  # then the peak is where the optimizer steps
            held = {part: n for part, n in held.items() if part not in (ACTIVATIONS, LOGITS)} | {GRADIENTS: gradients}
        return held

    def _shared(self, held: Mapping[str, int], gradients: int, how: How, again: bool) -> dict[str, int]:
        """The same of one of N processes."""
        if how.strategy == "ddp":  # what is exchanged is copied into buckets
            return {**held, BUCKETS: gradients}
        found = {part: n // how.processes if part in (WEIGHTS, OPTIMIZER, AVERAGE) else n for part, n in held.items()}
        sizes = [sum(weight.nbytes for weight in block.parameters()) for block in sharded_blocks(self.outline)]
        outside = held[WEIGHTS] - sum(sizes)
        most = max(sizes, default=0)
        found[GATHERED] = outside + 2 * most  # the next block is fetched while one computes
        # Between the micro-batches of a step gradients stay whole.
        whole = gradients if again else min(gradients, outside + most)
        found[GRADIENTS] = max(gradients // how.processes + whole - held.get(GRADIENTS, 0), held.get(GRADIENTS, 0))
        return found

    def most_windows(self, num_bytes: float, wanted: int, how: How) -> int:
        """Windows of the largest micro-batch that fits into so many bytes: `wanted` or a power of two; 0 if none."""
        sizes = [0, *(2**i for i in range(wanted.bit_length()) if 2**i < wanted), wanted]

        def fits(number: int) -> bool:
            return sum(self.training_memory(number, how, again=number < wanted).values()) <= num_bytes

        if fits(wanted):
            return wanted
        return sizes[bisect_left(sizes, True, lo=1, key=lambda number: not fits(number)) - 1]

    # -- generation --------------------------------------------------------------------------------------------------

    def generation_memory(self, dtype: str, num_tokens: int, batch_size: int) -> dict[str, int]:
        """Bytes by part after so many tokens of each text."""
        size = DTYPES[dtype].itemsize
        return {
            WEIGHTS: size * sum(self.parameters().values()),
            CACHE: batch_size * self.cache(DTYPES[dtype], num_tokens),
            LOGITS: batch_size * self.trunk.vocab_size * (size + 4),  # as they come, and in float32 to choose by
        }


@functools.cache
def _counted(design: Design, number: int, dtype: str, kernels: str, checkpointing: bool, again: bool) -> Step:
    with torch.device("meta"):
        model = design.build()
    if checkpointing:
        recompute_activations(model)
    batch, vocab_size = design.windows(number), design.trunk.vocab_size
    return dry_step(model, batch, kernels=kernels, bf16=dtype == "bf16", vocab_size=vocab_size, again=again)


@dataclass(frozen=True)
class TokenDesign(Design):
    """The language model itself, in windows of `context` positions."""

    context: int = 512

    name = "token level"

    def __post_init__(self) -> None:
        positions = self.trunk.max_position_embeddings
        if not 2 <= self.context <= positions:
            raise ValueError(f"context={self.context}: this model has {positions} positions; choose 2 to {positions}.")

    def __hash__(self) -> int:
        return hash((type(self), self.trunk.to_json_string(), self.lengths, self.context))

    def build(self) -> TokenLM:
        lm = AutoModelForCausalLM.from_config(self.trunk, trust_remote_code=False, dtype=torch.float32)
        settle(lm)
        return TokenLM(lm)

    @property
    def window_tokens(self) -> float:
        return self.context - 1

    def windows(self, number: int) -> Batch:
        ids = torch.randint(4, self.trunk.vocab_size, (number, self.context - 1)).tolist()
        input_ids, mask = pad_tokens(ids, special_ids(self.trunk).pad)
        return dict(input_ids=input_ids, attention_mask=mask, ends=torch.zeros(number, dtype=torch.bool))

    def part(self, name: str) -> str:
        return "table" if any(word in name for word in ("embed_tokens", "wte", "lm_head")) else "trunk"

    def cache(self, dtype: torch.dtype, num_tokens: int) -> int:
        return num_tokens * position_bytes(self.trunk, dtype)

    def read_weights(self) -> float:
        return read_by_tokens(self.outline.lm)

    def formula(self, number: int) -> float:
        return FORWARD_AND_BACKWARD * self.outline.flops(number * (self.context - 1), self.context)


@dataclass(frozen=True)
class SentenceDesign(Design):
    """An SLLM: the trunk with an encoder and a decoder of their own, or by own layers.

    Args:
        options: of `SLLMConfig`, as `SLLM.graft` takes them. layers: of encoder and decoder.
    """

    options: tuple[tuple[str, Any], ...] = ()
    layers: tuple[int, int] = (1, 1)
    max_sentence_tokens: int = 64

    name = "SLLM"

    def __hash__(self) -> int:
        parts = self.lengths, self.options, self.layers, self.max_sentence_tokens
        return hash((type(self), self.trunk.to_json_string(), *parts))

    @functools.cached_property
    def config(self) -> SLLMConfig:
        """
        Raises:
            ValueError: no such model can be built.
        """
        options, trunk = dict(self.options), self.trunk
        if options.get("upper_layers"):
            config = own_layers_config(trunk, self.max_sentence_tokens, options)
        else:
            ids = special_ids(trunk)
            sizes = SentenceVAEConfig(
                vocab_size=trunk.vocab_size,
                hidden_size=vector_width(trunk),
                num_attention_heads=vector_heads(trunk),
                num_encoder_layers=self.layers[0],
                num_decoder_layers=self.layers[1],
                max_sentence_tokens=self.max_sentence_tokens,
                pad_token_id=ids.pad,
                bos_token_id=ids.opening,
                eos_token_id=ids.end,
            )
            sizes.check()
            config = SLLMConfig(autoencoder=sizes, trunk=trunk, **options)
        config.check()
        return config

    @property
    def outer_layers(self) -> int:  # type: ignore[override]
        options = dict(self.options)
        return options.get("upper_layers", 0) + options.get("lower_layers", 0)

    def build(self) -> SLLM:
        return SLLM(self.config)

    @property
    def window_tokens(self) -> float:
        return self.config.max_sentences * self.mean_length

    def windows(self, number: int) -> Batch:
        size = self.config.max_sentences
        lengths = list(itertools.islice(itertools.cycle(self.lengths), number * size))
        ids = random_sentences(lengths, sum(lengths), self.trunk.vocab_size)
        texts = [ids[start : start + size] for start in range(0, len(ids), size)]
        return {
            **vars(pad_sentences(texts, self.config.pad_token_id)),
            "continues": torch.ones(number, dtype=torch.bool),
        }

    def part(self, name: str) -> str:
        part = part_of(name, self.config)
        if part != "outer":
            return part
        if not self.config.own_layers:
            return "encoder" if ".encoder." in name else "decoder"
        number = next((int(word) for word in name.split(".") if word.isdigit()), None)
        if number is None:  # positions and what widens tokens stand before the blocks, the last norm behind them
            return "encoder" if re.search("positions|wpe|project_in", name) else "decoder"
        return "encoder" if number < self.config.lower_layers else "decoder"

    def cache(self, dtype: torch.dtype, num_tokens: int) -> int:
        model = self.outline
        positions = 1 + math.ceil(num_tokens / self.mean_length)
        blocks = self.num_blocks * self.config.use_trunk
        beside = decoder_cache_bytes(model, num_tokens) * dtype.itemsize // model.dtype.itemsize
        return positions * position_bytes(self.trunk, dtype, 1) * blocks + beside

    def read_weights(self) -> float:
        return read_by_sentences(self.outline, self.mean_length)

    def formula(self, number: int) -> float:
        sentences = number * self.config.max_sentences
        return FORWARD_AND_BACKWARD * self.outline.flops(round(number * self.window_tokens), sentences)


def designs(trunk: PreTrainedConfig, lengths: Sequence[int], context: int, **sentences: Any) -> list[Design]:
    """The SLLM and, beside it, the token-level model. Args: sentences: of `SentenceDesign`."""
    return [SentenceDesign(trunk, tuple(lengths), **sentences), TokenDesign(trunk, tuple(lengths), context)]
