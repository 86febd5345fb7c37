"""A plain token-level model that keeps a window of tokens and the sentence ends, as recipes have it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig

from lmbase.benchmarking.timing import PUBLISHED_SENTENCE_TOKENS, Arrivals, Generation
from lmbase.modeling.causality import CACHE_TOLERANCE, AuditReport, close
from lmbase.modeling.inference import inference
from lmbase.modeling.kept_window import KeptReader, KeptWindow, KeptWriter
from lmbase.modeling.token_lm import TokenLM
from lmbase.modeling.trunk import position_bytes, special_ids
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import encode_text
from sllm.evaluation.costs import costs_of_tokens
from sllm.evaluation.kinds import AUDIT_TOKENS, PlainLM
from sllm.evaluation.loaded import LoadedModel, Writing


@dataclass
class KeptWindowLM(PlainLM):
    """Scored, audited and written with as it was trained, or should be used: what is not kept counts nowhere."""

    keep: KeptWindow = field(kw_only=True)

    shown = "a token-level model with a window"

    def pack(self, weights: str, compiled: bool = False) -> None:
        super().pack(weights)  # no compiled step forgets

    @property
    def scorer(self) -> Any:
        return TokenLM(self.model, self.keep).eval()

    def step_nats(self, ids: list[int]) -> Tensor:
        reader, nats = KeptReader(self.model, self.keep, 1), []
        with inference(self.model):
            for read, target in zip([special_ids(self.model.config).opening, *ids], ids, strict=False):
                row = torch.tensor([[read]], device=self.model.device)
                nats.append(
                    -reader.read(row, torch.ones_like(row, dtype=torch.bool))[0].float().log_softmax(-1)[target]
                )
        return torch.stack(nats)

    def audit(self, text: str) -> AuditReport:
        """Read step by step also as far as tokens are forgotten."""
        report = super().audit(text)
        ids = encode_text(self.tokenizer, text)[: min(self.window, 2 * self.keep.window + AUDIT_TOKENS)]
        (scores, _) = costs_of_tokens(self.scorer, [ids], self.window)
        for i, (score, stepped) in enumerate(zip(torch.tensor(scores), self.step_nats(ids).cpu(), strict=True)):
            told = f"token {i + 1} scores otherwise when what is not kept is forgotten"
            report.check(close(score, stepped, CACHE_TOLERANCE), told)
        return report

    def cache_bytes(self, num_tokens: int, num_sentences: int) -> int:
        left = max(0, num_tokens - self.keep.window)  # tokens before the window
        ends = 0 if self.keep.processor is None else num_sentences * left // max(1, num_tokens)
        return (1 + num_tokens - left + ends) * position_bytes(self.model.config, self.model.dtype)

    def can_copy(self, num_tokens: int, num_copied: int) -> bool:
        return False

    def time(self, prompt: str, num_new_tokens: int, num_copied: int | None = None) -> Generation:
        assert num_copied is None, "see can_copy"
        arrivals = Arrivals(self.tokenizer)
        writer = KeptWriter(self.keep, arrivals)
        ids = [special_ids(self.model.config).opening, *encode_text(self.tokenizer, prompt)]
        inputs = torch.tensor([ids], device=self.model.device)
        self.model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=num_new_tokens,
            min_new_tokens=num_new_tokens,
            do_sample=False,
            custom_generate=writer,
        )
        assert writer.reader is not None
        cache = writer.reader.cache
        return Generation(
            arrivals.seconds,
            arrivals.seconds_until(PUBLISHED_SENTENCE_TOKENS),
            num_new_tokens,
            cache.num_bytes,
            num_cached_tokens=int(writer.reader.num_read),
            num_cached_positions=cache.positions.shape[1],
            steady_rate=arrivals.steady_rate,
        )

    def _assistant(self, how: Writing, config: GenerationConfig) -> Any:
        for asked, name in (
            (how.assistant, "--assistant"),
            (config.prompt_lookup_num_tokens, "--prompt_lookup_num_tokens"),
            ("cache_implementation" in how.settings or None, "--compile (or cache_implementation)"),
        ):
            if asked is not None:
                raise ValueError(
                    f"{name} does not go with keep_window={self.keep.window}: {self.name} forgets tokens while it "
                    "writes, one token after the other. Leave one of the two out."
                )
        return KeptWriter(self.keep)


def as_configured(loaded: LoadedModel, own_processor: Callable[[], SentenceProcessor]) -> LoadedModel:
    """A model with what its configuration says that it keeps, if it says so."""
    keep = KeptWindow.of(loaded.model.config, own_processor) if loaded.plain else None
    return loaded if keep is None else keeping(loaded, keep)


def keeping(loaded: LoadedModel, keep: KeptWindow) -> KeptWindowLM:
    """A plain token-level model, its weights shared, with what it keeps; ValueError as `KeptWindow.checked`."""
    keep.checked(loaded.window + 1)
    return KeptWindowLM(loaded.name, loaded.model, loaded.tokenizer, loaded.training, keep=keep)
