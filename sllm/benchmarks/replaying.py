"""Models with random weights at any size, which stand for trained ones where the wall clock is measured.

Weights do not change how long a step takes, only what it says. So everything is computed as ever, and then the
decoder's choices are replaced: sentences end after given numbers of tokens, and of each draft as many tokens are
accepted as a trained model accepted. The step that predicts an end mark is run and not counted.

B texts, R rows of a pass.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel

from lmbase.modeling.pretrained import load_lm, read_config
from lmbase.modeling.trunk import vector_heads, vector_width
from multitoken.benchmarks.replaying import FIRST_WORD, ReplayedLoop
from multitoken.draft_loop import DraftLoop, Stretch
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm.assistant import SentenceAssistant
from sllm.sllm import SLLM

MOST_SENTENCES = 2048  # positions of the random models
MEMORY = ("num_memory_states", "num_memory_tokens", "num_memory_vectors")
COPIED = (*MEMORY, "num_future_tokens", "draft_head_kind", "draft_transitions")


class ReplayedSLLM(SLLM):
    """An SLLM with random weights: its sentences are as long, and as many draft tokens accepted, as it is told."""

    _lengths: Sequence[int] = (8,)
    _counts: Iterator[int] = itertools.repeat(0)

    def replay(self, lengths: Sequence[int], counts: Iterator[int]) -> None:
        """Each later call of `generate` writes sentences of these lengths, one of each text after another, over and
        over, and accepts as many tokens of each draft as `counts` says, which goes on from call to call."""
        self._lengths, self._counts = lengths, counts

    def draft_loop(self, *args) -> DraftLoop:
        return ReplayedSentences(self._lengths, self._counts, *args)


class ReplayedSentences(ReplayedLoop):
    """Ends sentences after given numbers of tokens, too."""

    def __init__(self, lengths: Sequence[int], counts: Iterator[int], *args):
        super().__init__(counts, *args)
        self.lengths = itertools.cycle(lengths)

    def run(self, stretches: Sequence[Stretch]) -> Iterator[None]:
        self.wanted = [min(next(self.lengths), self.reader.longest) for _ in stretches]
        return super().run(stretches)

    def replayed(self, b: int, between: list[list[int]], chosen: list[int]) -> list[int]:
        wanted, length = self.wanted[self.texts[b]], len(self.stretches[b].ids)
        chosen = super().replayed(b, between, [FIRST_WORD])  # without a draft, too, no sentence ends before its time
        return [
            self.reader.end if length + len(path) == wanted else token
            for token, path in zip(chosen, between, strict=True)
        ]


class ReplayedAssistant(SentenceAssistant):
    """An assistant of a model with random weights: the text goes on as it is told to, and so do accepted drafts.

    Args:
        text: ids of the prompt and of what is written after it.
        counts: draft tokens accepted in each pass, without end; fewer where fewer were made.
    """

    def __init__(self, sllm: SLLM, num_tokens: int, text: Sequence[int], counts: Iterator[int]):
        super().__init__(sllm, num_tokens)
        self._text, self._counts = list(text), counts

    def _verified(
        self, logits: Tensor, ids: Tensor, guesses: list[int], processors: LogitsProcessorList, do_sample: bool
    ) -> list[int]:
        count, before = min(next(self._counts), len(guesses)), ids.shape[1] - len(guesses)
        for r in range(count + 1):  # choosing each of them costs what it costs
            super()._verified(logits[:, r : r + 1], ids[:, : before + r], [], processors, do_sample)
        return self._text[before : before + count + 1]


# -- models and texts --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Build:
    """Which models: a token-level model of a size and the SLLM on a copy of it, both with random weights."""

    size: str  # as in random:SIZE
    vocab_size: int
    num_encoder_layers: int = 1
    num_decoder_layers: int = 1
    num_memory_states: int = 1
    num_memory_tokens: int = 0
    num_memory_vectors: int = 0
    num_future_tokens: int = 1
    draft_head_kind: str = "block"
    draft_transitions: bool = False
    max_sentences: int = 512
    max_sentence_tokens: int = 64
    seed: int = 0

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
