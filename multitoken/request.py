"""A call of `generate`, whatever the model: what was asked for, checked, and how its output is handed out.

B texts, L columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import ModelOutput, logging

from lmbase.modeling.decoding import Sampler, Seed, check_seed
from lmbase.modeling.endings import Endings
from lmbase.modeling.settings import merge_generation_config, settle_ids
from lmbase.text.codec import codec_of
from lmbase.text.padding import as_mask, between_padding
from lmbase.text.texts import text_list
from multitoken.copying import make_lookups
from multitoken.draft_loop import Drafting
from multitoken.draft_tree import DraftTree
from multitoken.speculation import SpeculationStatistics, check_drafts
from multitoken.stream import Stream

logger = logging.get_logger(f"transformers.{__name__}")  # below Transformers' own, so that its verbosity holds

ALWAYS_GIVEN: Any = None  # a ModelOutput's fields need defaults, those that are always there, too


class NoRoomError(ValueError):
    """A prompt that leaves a model no position to write at."""


@dataclass
class GenerateOutput(ModelOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids, also those that spell a stop string.
        num_new_tokens: for each text, end marks not counted.
        finish_reason: for each text `stop` (the model, a stop string or a stopping criterion ended it), `length` (what
            was asked for is written), `time` (max_time is over) or `context` (the trunk's positions are used up).
        texts: for each text the new part, decoded, up to a stop string; None without a tokenizer.
        statistics: what drafting brought.
    """

    sequences: Tensor = ALWAYS_GIVEN
    num_new_tokens: list[int] = ALWAYS_GIVEN
    finish_reason: list[str] = ALWAYS_GIVEN
    texts: list[str] | None = None
    statistics: SpeculationStatistics = ALWAYS_GIVEN


@dataclass
class Request:
    """The arguments of `generate` that all models share; see `multitoken.MultiTokenLM.generate`."""

    input_ids: Tensor | np.ndarray | str | Sequence[str] | None = None
    attention_mask: Tensor | None = None
    generation_config: GenerationConfig | None = None
    logits_processor: Sequence[Callable] | None = None
    stopping_criteria: Sequence[Callable] | None = None
    streamer: Any = None
    text: str | Sequence[str] | None = None
    num_draft: int | str = "auto"
    tree: DraftTree | Sequence[Sequence[int]] | None = None
    seed: Seed = None
    settings: dict[str, Any] = field(default_factory=dict)  # Transformers' own, by keyword

    def __post_init__(self) -> None:
        self.tokenizer = self.settings.pop("tokenizer", None)  # Transformers wants it beside stop_strings
        if self.input_ids is None:
            self.input_ids = self.settings.pop("inputs", None)  # Transformers' name for the first argument
        for name in ("input_ids", "text"):  # what can be read once only is read once
            given = getattr(self, name)
            kept = isinstance(given, str | bytes | list | Tensor | np.ndarray | Mapping) or hasattr(given, "columns")
            if isinstance(given, Iterable) and not kept:
                setattr(self, name, list(given))
        shows = all(callable(getattr(self.streamer, name, None)) for name in ("put", "end"))
        if self.streamer is not None and not shows:
            raise ValueError(f"streamer={self.streamer!r:.60}: give a streamer of Transformers, with put and end.")
        if isinstance(self.attention_mask, np.ndarray | list):
            self.attention_mask = torch.as_tensor(self.attention_mask)
        if not isinstance(self.attention_mask, Tensor | None):
            given = type(self.attention_mask).__name__
            raise ValueError(f"attention_mask is a {given}: give a tensor as large as input_ids.")

    def resolve(self, model: PreTrainedModel) -> GenerationConfig:
        """The settings of the call; every prompt stands as often as sequences are to be returned for it from now on.

        Raises:
            ValueError: a setting that is not known or not supported.
        """
        config = merge_generation_config(model.generation_config, self.generation_config, self.settings)
        settle_ids(config, model.config.eos_token_id, model.config.vocab_size)
        if (number := config.num_return_sequences or 1) > 1:
            prompt = self.prompt()
            if isinstance(prompt, Tensor):
                self.input_ids = prompt.repeat_interleave(number, 0)
            else:
                self.input_ids, self.text = None, [text for text in prompt for _ in range(number)]
            if self.attention_mask is not None:
                self.attention_mask = self.attention_mask.repeat_interleave(number, 0)
        return config

    def prompt(self) -> Tensor | list[str]:
        """Ids, or texts: an empty one where nothing was given.

        Raises:
            ValueError: both were given, or something that is neither; a mask beside a text.
        """
        if self.input_ids is not None and self.text is not None:
            raise ValueError("Give either input_ids or text.")
        given = self.input_ids if self.text is None else self.text
        if isinstance(given, np.ndarray) and given.dtype.kind in "iu":
            given = self.input_ids = torch.from_numpy(given.astype(np.int64))
        if isinstance(given, Tensor | np.ndarray):
            return _checked_ids(given)
        if isinstance(given, list) and not given:
            raise ValueError("The prompt is neither a tensor of ids nor a text nor a list of texts: it is empty.")
        # None is Transformers' word for a text from its beginning.
        texts = text_list(given or "", "The prompt is neither a tensor of ids nor a text nor a list of texts")
        if self.attention_mask is not None:
            raise ValueError("attention_mask is for a tensor of input_ids: texts are read whole; leave it out.")
        return texts


def _checked_ids(ids: Tensor | np.ndarray) -> Tensor:
    """Whole numbers, and some; which shapes it takes, a model tells itself."""
    whole = isinstance(ids, Tensor) and not ids.is_floating_point() and not ids.is_complex() and ids.dtype != torch.bool
    if not isinstance(ids, Tensor) or not whole or 0 in ids.shape[:1]:
        raise ValueError(
            f"input_ids is of shape {tuple(ids.shape)} and type {ids.dtype}: give a (B, L) tensor of whole numbers, B "
            "at least 1, as a tokenizer does with return_tensors='pt'; or give text."
        )
    return ids


def no_continuous_batching(model: PreTrainedModel, *args: Any, **kwargs: Any) -> Any:
    """Transformers' doors to texts that join a batch while it is written; its caches are not those of models here."""
    raise ValueError(
        f"{type(model).__name__} has no continuous batching: generate takes a list of texts, and `sllm serve` "
        "writes for several users at once."
    )


@dataclass
class Call:
    """A request, checked against a model."""

    config: GenerationConfig
    sampler: Sampler
    endings: Endings
    drafting: Drafting
    stream: Stream

    @property
    def fixed(self) -> bool:
        """Caches of fixed size and compiled steps are wanted."""
        return self.config.cache_implementation == "static"

    def hand_out(self, output: GenerateOutput) -> Any:
        """The output, or its tensor alone for code that was written for Transformers' models."""
        return output.sequences if self.config.return_dict_in_generate is False else output


def prompt_mask(input_ids: Tensor, attention_mask: Tensor | None, config: Any) -> Tensor:
    """Where prompts of ids are text: by default everywhere between their padding.

    Raises:
        ValueError: a mask of another shape or of other values, or ids outside the vocabulary.
    """
    mask = between_padding(input_ids, config.pad_token_id) if attention_mask is None else as_mask(attention_mask)
    if mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(mask.shape)} and input_ids {tuple(input_ids.shape)} differ.")
    if (((input_ids < 0) | (input_ids >= config.vocab_size)) & mask).any():
        raise ValueError(f"input_ids holds ids outside the model's vocabulary of {config.vocab_size}.")
    return mask


def check_text_ids(ids: Iterable[int], config: Any, tokenizer: PreTrainedTokenizerFast | None) -> None:
    """One rule for prompts of ids, whatever the model: the opening id may stand first (it is not among these), padding
    is hidden by the mask, and all else is ids of text. An end mark inside would end a text that goes on.

    Raises:
        ValueError: special ids of the model, or ids that its tokenizer gives for no text.
    """
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    if tokenizer is not None:
        special |= codec_of(tokenizer).special_ids
    if found := sorted(special & set(ids)):
        raise ValueError(
            f"Prompt ids hold special tokens {found}: give ids of text, padding masked out; only the opening id "
            f"{config.bos_token_id} may stand first, once."
        )


def open_call(
    model: PreTrainedModel,
    request: Request,
    config: GenerationConfig,
    texts: Sequence[Sequence[int]],
    tokenizer: PreTrainedTokenizerFast | None,
    framed: bool = False,
) -> Call:
    """Check a request.

    Args:
        model: its `config` has vocab_size and num_future_tokens.
        config: what the request was resolved to.
        texts: the ids of each prompt.
        framed: its end mark ends sentences: the opening id, which is the same, is not to be penalised as a repetition,
            and drafts are not copied across marks.

    Raises:
        ValueError: drafts that cannot be made, a streamer for several texts, what cannot end a text.
    """
    if request.streamer is not None and len(texts) != 1:
        raise ValueError(
            f"A streamer shows one text, and {len(texts)} prompts were given (num_return_sequences counts): write "
            "them one by one, or without a streamer."
        )
    vocab_size, copied = model.config.vocab_size, config.prompt_lookup_num_tokens
    lookups = make_lookups(config, texts, model.config.eos_token_id if framed else None)
    drafts, automatic = check_drafts(
        request.num_draft, request.tree, model.config.num_future_tokens, vocab_size, copied
    )
    tokenizer = tokenizer or request.tokenizer
    endings = Endings(config, request.stopping_criteria, tokenizer, texts, model.device)
    return Call(
        config,
        Sampler(
            config,
            vocab_size,
            model.device,
            check_seed(request.seed, len(texts)),
            request.logits_processor,
            int(framed),
        ),
        endings,
        Drafting(drafts, automatic, lookups),
        Stream(request.streamer, endings.strings[0] if endings.strings else None, tokenizer),
    )


def warn_of_last_space(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    """A model with tokens such as " word" has hardly seen a space of its own: after one it writes a second."""
    if any(text.endswith(" ") for text in texts) and codec_of(tokenizer).spaces_open_words:
        logger.warning(
            "The prompt ends in a space, which this tokenizer puts in front of the next word: a double space, or a "
            "new line, may follow. Leave the last space out."
        )


_told_outside: ContextVar[tuple[Any, ...]] = ContextVar("told_outside", default=())  # whose end a caller will tell


@contextmanager
def ended(streamer: Any) -> Iterator[None]:
    """A streamer's end is told, once, whatever happens: who waits for it in another thread would wait for ever."""
    outside = _told_outside.get()
    if streamer is None or any(streamer is other for other in outside):
        yield
        return
    token = _told_outside.set((*outside, streamer))
    try:
        yield
    finally:
        _told_outside.reset(token)
        streamer.end()
