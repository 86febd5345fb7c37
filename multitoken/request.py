"""A call of `generate`, whatever the model: what was asked for, checked, and how its output is handed out.

B texts, L columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import ModelOutput, logging

from lmbase.modeling.decoding import DEFAULT_NEW_TOKENS, Sampler, merge_generation_config
from lmbase.text.codec import codec_of
from lmbase.text.texts import text_list
from multitoken.copying import PromptLookup, make_lookups
from multitoken.draft_tree import DraftTree
from multitoken.speculation import SpeculationStatistics, check_drafts

logger = logging.get_logger(f"transformers.{__name__}")  # below Transformers' own, so that its verbosity holds

ALWAYS_GIVEN: Any = None  # a ModelOutput's fields need defaults, those that are always there, too


@dataclass
class GenerateOutput(ModelOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids.
        num_new_tokens: for each text, end marks not counted.
        finish_reason: for each text `stop` (the model ended it), `length` (what was asked for is written) or `context`
            (the trunk's positions are used up).
        texts: for each text the new part, decoded; None without a tokenizer.
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

    input_ids: Tensor | str | Sequence[str] | None = None
    attention_mask: Tensor | None = None
    generation_config: GenerationConfig | None = None
    logits_processor: Sequence[Callable] | None = None
    streamer: Any = None
    text: str | Sequence[str] | None = None
    num_draft: int | str = "auto"
    tree: DraftTree | Sequence[Sequence[int]] | None = None
    seed: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)  # Transformers' own, by keyword

    def prompt(self) -> Tensor | list[str]:
        """Ids, or texts: an empty one where nothing was given.

        Raises:
            ValueError: both were given, or something that is neither.
        """
        if self.input_ids is not None and self.text is not None:
            raise ValueError("Give either input_ids or text.")
        given = self.input_ids if self.text is None else self.text
        if given is None:  # Transformers' word for a text from its beginning
            return [""]
        if isinstance(given, Tensor):
            return given
        if not isinstance(given, str) and not given:
            raise ValueError("The prompt is neither a tensor of ids nor a text nor a list of texts: it is empty.")
        return text_list(given or "", "The prompt is neither a tensor of ids nor a text nor a list of texts")


@dataclass
class Call:
    """A request, checked against a model."""

    config: GenerationConfig
    limit: int  # new tokens of each text, at most
    fewest: int  # before which it may not end
    sampler: Sampler
    drafts: DraftTree  # the largest draft
    automatic: bool  # draft as long as it pays
    lookups: list[PromptLookup]

    @property
    def fixed(self) -> bool:
        """Caches of fixed size and compiled steps are wanted."""
        return self.config.cache_implementation == "static"

    def hand_out(self, output: GenerateOutput) -> Any:
        """The output, or its tensor alone for code that was written for Transformers' models."""
        return output.sequences if self.config.return_dict_in_generate is False else output


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


def open_call(model: PreTrainedModel, request: Request, texts: Sequence[Sequence[int]], end: int | None = None) -> Call:
    """Check a request.

    Args:
        model: its `config` has vocab_size and num_future_tokens.
        texts: the ids of each prompt. end: one that drafts are not copied across.

    Raises:
        ValueError: a setting that is not known or not supported, drafts that cannot be made, a streamer for several
            texts.
    """
    if request.streamer is not None and len(texts) != 1:
        raise ValueError(f"A streamer shows one text, and {len(texts)} prompts were given.")
    config = merge_generation_config(model.generation_config, request.generation_config, request.settings)
    vocab_size, copied = model.config.vocab_size, config.prompt_lookup_num_tokens
    lookups = make_lookups(config, texts, end)
    drafts, automatic = check_drafts(
        request.num_draft, request.tree, model.config.num_future_tokens, vocab_size, copied
    )
    return Call(
        config,
        DEFAULT_NEW_TOKENS if config.max_new_tokens is None else config.max_new_tokens,
        config.min_new_tokens or 0,
        Sampler(config, vocab_size, model.device, request.seed, request.logits_processor),
        drafts,
        automatic,
        lookups,
    )


def warn_of_last_space(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> None:
    """A model with tokens such as " word" has hardly seen a space of its own: after one it writes a second."""
    if any(text.endswith(" ") for text in texts) and codec_of(tokenizer).spaces_open_words:
        logger.warning(
            "The prompt ends in a space, which this tokenizer puts in front of the next word: a double space, or a "
            "new line, may follow. Leave the last space out."
        )


@contextmanager
def ended(streamer: Any) -> Iterator[None]:
    """A streamer's end is told whatever happens: who waits for it in another thread would wait for ever."""
    try:
        yield
    finally:
        if streamer is not None:
            streamer.end()


def shower(streamer: Any, prompt: Tensor) -> Callable[[Sequence[int]], None]:
    """Shows the prompt; returns a function that shows new ids."""
    if streamer is None:
        return lambda ids: None
    streamer.put(prompt.cpu())

    def show(ids: Sequence[int]) -> None:
        if len(ids):
            streamer.put(torch.tensor(ids))

    return show
