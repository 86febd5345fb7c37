"""Models with random weights that benchmarks measure, at any size, and text of random ids for them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np
import torch
from transformers import PreTrainedModel

from lmbase.modeling.pretrained import load_lm, read_config
from lmbase.modeling.trunk import vector_heads, vector_width
from multitoken.benchmarks.replaying import FIRST_WORD
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm.benchmarks.replaying import ReplayedSLLM
from sllm.configuration_sllm import SLLMConfig

MOST_SENTENCES = 2048  # positions of the random models
COPIED = ("num_memory_states", "num_memory_tokens", "num_future_tokens", "draft_head_kind", "draft_transitions")


@dataclass(frozen=True)
class Build:
    """Which models: a token-level model of a size and the SLLM on a copy of it, both with random weights."""

    size: str  # as in random:SIZE
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

    @property
    def lm_name(self) -> str:
        """Of the token-level model in tables: its family and its size."""
        return f"{read_config(f'random:{self.size}').model_type.upper()} {self.size}"

    @property
    def sllm_name(self) -> str:
        return f"SLLM {self.size}"

    def lm(self) -> PreTrainedModel:
        return load_lm(f"random:{self.size}", vocab_size=self.vocab_size, seed=self.seed)

    def model(self, name: str) -> PreTrainedModel:
        """The one of the two that has this name; the other is let go."""
        return self.lm() if name == self.lm_name else self.sllm(self.lm())

    def vae(self, lm: PreTrainedModel) -> SentenceVAE:
        torch.manual_seed(self.seed)
        return SentenceVAE(
            SentenceVAEConfig(
                vocab_size=self.vocab_size,
                hidden_size=vector_width(lm.config),
                num_attention_heads=vector_heads(lm.config),
                num_encoder_layers=self.num_encoder_layers,
                num_decoder_layers=self.num_decoder_layers,
                max_sentence_tokens=self.max_sentence_tokens,
            )
        )

    def sllm(self, lm: PreTrainedModel) -> ReplayedSLLM:
        options = {name: getattr(self, name) for name in ("max_sentences", *COPIED)}
        return cast(ReplayedSLLM, ReplayedSLLM.graft(self.vae(lm), lm, **options))


def lengths_until(num_tokens: int, lengths: Sequence[int]) -> list[int]:
    """The given lengths of sentences, over and over, `num_tokens` in all (the last is cut to fit)."""
    found: list[int] = []
    missing = num_tokens
    while missing > 0:
        found.append(min(lengths[len(found) % len(lengths)], missing))
        missing -= found[-1]
    return found


def random_sentences(lengths: Sequence[int], num_tokens: int, vocab_size: int, seed: int = 0) -> list[list[int]]:
    """Sentences of random ids with these lengths, over and over, `num_tokens` in all."""
    rng = np.random.default_rng(seed)
    return [rng.integers(FIRST_WORD, vocab_size, length).tolist() for length in lengths_until(num_tokens, lengths)]
