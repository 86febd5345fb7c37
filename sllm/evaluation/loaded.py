"""What evaluation asks of a model, of whatever kind: its likelihood, an audit, a text, a timed call."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from transformers import PreTrainedTokenizerFast

from lmbase.benchmarking.timing import Generation
from lmbase.modeling.causality import AuditReport
from lmbase.modeling.decoding import Seed
from lmbase.modeling.devices import moved
from lmbase.modeling.token_lm import DocumentNats
from lmbase.report.rows import Row
from lmbase.text.tokenizers import encode_text, tokenizer_hash
from lmbase.training.cost import Training
from multitoken.request import ended
from multitoken.speculation import SpeculationStatistics
from sentencevae import SentenceVAE
from sllm.assistant import SentenceAssistant
from sllm.evaluation.costs import Continuation, Pair, Sentences
from sllm.parts import unused_parts


@dataclass
class Writing:
    """How a text is continued."""

    max_new_tokens: int | None  # None: what the settings say
    max_new_sentences: int | None = None  # of an SLLM
    overflow: str = "stop"  # of an SLLM
    num_draft: int | str = "auto"  # digits, too
    seed: Seed = None
    assistant: SentenceAssistant | None = None  # drafts for a plain model
    settings: dict[str, Any] = field(default_factory=dict)  # of `generate`, beside those; logits_processor, too

    def __post_init__(self) -> None:
        if isinstance(self.num_draft, str) and self.num_draft.isdecimal():
            self.num_draft = int(self.num_draft)
        if (number := self.settings.get("num_return_sequences", 1)) != 1:
            raise ValueError(
                f"num_return_sequences={number!r}: one text is written here; write it again with another seed, or call "
                "the model's own generate."
            )

    @property
    def arguments(self) -> dict[str, Any]:
        """Settings of `generate`, the number of tokens with them."""
        limit = {} if self.max_new_tokens is None else {"max_new_tokens": self.max_new_tokens}
        return limit | self.settings


@dataclass
class Written:
    """What was written."""

    text: str
    num_tokens: int  # end marks are no tokens of text
    finish_reason: str
    drafts: SpeculationStatistics | None = None  # where tokens may be drafted
    recut_share: float | None = None  # of the sentences: those that cutting their text anew would change

    @property
    def tokens_per_forward(self) -> float | None:
        return None if self.drafts is None else self.drafts.tokens_per_forward


@dataclass
class LoadedModel(ABC):
    """A model with its name in tables, its tokenizer and, where it is known, what its training cost."""

    name: str
    model: Any
    tokenizer: PreTrainedTokenizerFast
    training: Training | None = None

    shown: ClassVar[str]  # in messages
    predicts: ClassVar[bool] = True  # it is a language model
    plain: ClassVar[bool] = False  # a model of Transformers: a baseline, and what an assistant can draft for
    by_sentence: ClassVar[bool] = False  # an SLLM: its drafts can assist a plain model

    @staticmethod
    @abstractmethod
    def load(source: str, folder: str) -> Any:
        """The weights in fp32.

        Args:
            source: what the user named. folder: where its files are.
        """

    @property
    def num_parameters(self) -> int:
        """Shared tables count once, and what never runs does not."""
        parts = [self.model, *(unused_parts(self.model) if self.by_sentence else [])]
        whole, *unused = [sum(p.numel() for p in part.parameters()) for part in parts]
        return whole - sum(unused)

    @property
    def num_heads(self) -> int:
        """Heads of a multi-token model; 0 of other models."""
        return 0

    @property
    def most_drafts(self) -> int:
        """What `Writing.num_draft` may be at most: 1 where nothing is drafted."""
        return max(1, self.num_heads)

    def row(self, data: str, protocol: str, **columns: Any) -> Row:
        """A row of figures of this model as it is scored: in fp32, where it is."""
        return Row(
            self.name,
            data=data,
            protocol=protocol,
            dtype="fp32",
            device=str(self.model.device),
            parameters=self.num_parameters,
            training_tokens=self.training.total_tokens if self.training else None,
            **columns,
        )

    def counts_like(self, other: "LoadedModel") -> bool:
        """Whether tokens of the two are the same, so that figures per token compare."""
        return tokenizer_hash(self.tokenizer) == tokenizer_hash(other.tokenizer)

    def to(self, device: str | torch.device | None = None, dtype: torch.dtype | None = None) -> None:
        moved(self.model, device, dtype)

    def pack(self, weights: str, compiled: bool = False) -> None:
        """Hold weights in fewer bits, `int8` or `int4`, to write on a CPU.

        Args:
            compiled: it is going to write in compiled steps, too, for which a plain model is packed twice.

        Raises:
            ValueError: an autoencoder, or what `PackedLinear` does not do.
        """
        if not self.predicts:
            raise ValueError(f"weights={weights} are for models that predict text, not {self.shown}: leave it out.")
        self.model.write_in(weights)

    def audit(self, text: str) -> AuditReport:
        """The causality audit on the opening of a text.

        Raises:
            ValueError: an autoencoder, which predicts no text, or a text of fewer than 3 sentences (else tokens), which
                would let too much pass.
        """
        raise self._predicts_nothing("audit")

    def score(self, texts: Sequence[str], baseline_window: int) -> dict[str, list[DocumentNats]]:
        """-log p of each text, by the name of the protocol: how windows are cut.

        Args:
            baseline_window: tokens that the token-level model sees which others are compared with.
        """
        raise self._predicts_nothing("score")

    def continuations(self, pairs: Sequence[Pair]) -> list[Continuation]:
        """What each text costs after its context, ends left open, and whether greedy writing would give it."""
        raise self._predicts_nothing("continue")

    def paper_perplexity(self, texts: Sequence[str]) -> float:
        """Perplexity as the published evaluation meant to take it: per own token and end mark; of an SLLM without the
        first sentence and the flags."""
        raise self._predicts_nothing("score")

    def split(self, text: str) -> list[list[int]]:
        """The ids of a text as `costs` takes them: the sentences of an SLLM; else all in one."""
        return [encode_text(self.tokenizer, text)]

    def costs(self, sentences: Sentences) -> list[list[float]]:
        """-log p of each token of the sentences, however a text was cut into them, and last of the text's end: together
        its `score`. An end mark counts with the token before it, a flag with the token after it."""
        raise self._predicts_nothing("score")

    def flops_by_part(self, num_tokens: int, num_sentences: int) -> dict[str, float]:
        """FLOPs of a forward pass over so many tokens in sentences, by formula, of its parts."""
        return {}

    @property
    def has_likelihood(self) -> bool:
        """Whether a text has a probability under it: not where the vectors of sentences are drawn."""
        return self.predicts and not getattr(self.model, "draws_vectors", False)

    def nats_by_head(self, texts: Sequence[str]) -> list[float | None]:
        """Mean nats of each head of a multi-token model, None of one that the texts are too short for; of other models
        nothing."""
        return []

    @property
    def window(self) -> int:
        """Tokens of a window of a token-level model: as many as it was trained on here, else all its positions; one is
        the opening token's."""
        raise NotImplementedError

    @property
    def room(self) -> int | None:
        """Tokens of a prompt and of what is written after it, the opening one not counted; None: without limit."""
        return None

    def write(self, prompt: str, how: Writing, streamer: Any = None) -> Written:
        """Continue a text; a streamer is handed the prompt and what follows as it is written, and told the end also
        where writing fails."""
        with ended(streamer):
            return self._write([prompt], how, streamer)[0]

    def write_texts(self, prompts: list[str], how: Writing) -> list[Written]:
        """Continue texts together, each as it would be alone, rounding apart. What shows or ends single ones is a
        `Listener` among the stopping criteria."""
        return self._write(prompts, how, None)

    def _write(self, prompts: list[str], how: Writing, streamer: Any) -> list[Written]:
        raise self._predicts_nothing("write")

    @property
    def autoencoder(self) -> SentenceVAE | None:
        """What makes a vector of a sentence and writes it out again, with its processor; None: nothing does."""
        return None

    def cache_bytes(self, num_tokens: int, num_sentences: int) -> int:
        """Bytes of the keys and values while a text of so many tokens and sentences is continued."""
        raise self._predicts_nothing("write")

    def time(self, prompt: str, num_new_tokens: int, num_copied: int | None = None) -> Generation:
        """One timed call, greedy, text in and text out; end marks are disabled.

        Args:
            num_copied: tokens of a draft that is copied out of the text.
        """
        raise self._predicts_nothing("time")

    def can_copy(self, num_tokens: int, num_copied: int) -> bool:
        """Whether so many tokens of prompt and new text can be written with copied drafts."""
        return True

    def cache_columns(self) -> dict[str, float]:
        """Columns about its cache, beside those of every model."""
        return {}

    def as_assistant(self, helped: "LoadedModel") -> SentenceAssistant:
        """Something that drafts for a plain model with the same tokenizer.

        Raises:
            ValueError: this is no SLLM, `helped` is no plain model, or two tokenizers.
        """
        if not helped.plain:
            raise ValueError(
                f"--assistant drafts for a plain token-level model, and {helped.name} is {helped.shown}: it drafts "
                "for itself. Leave --assistant out."
            )
        if not self.by_sentence:
            raise ValueError(f"--assistant is an SLLM, and {self.name} is {self.shown}.")
        if not self.counts_like(helped):
            raise ValueError(f"{helped.name} and {self.name} have different tokenizers: no draft would come true.")
        weight = next(helped.model.parameters())
        return SentenceAssistant(moved(self.model, weight.device, weight.dtype))

    def _predicts_nothing(self, task: str) -> ValueError:
        return ValueError(f"{self.name} is {self.shown}: it predicts no text, so there is nothing to {task}.")

    def _check_long_enough(self, found: int, unit: str) -> None:
        if found < 3:
            raise ValueError(
                f"{self.name} cannot be audited: the longest of the texts has {found} {unit}, and at least 3 are "
                "needed. Give --data with a longer text among the first of its split."
            )
