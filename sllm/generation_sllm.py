"""Writing with an SLLM: sentence after sentence, each one token by token, then read back through the encoder.

B texts, S sentences, T tokens of a sentence, L tokens of a flat text, D width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import Cache

from lmbase.modeling.cache import RowCache
from lmbase.modeling.settings import DEFAULT_NEW_TOKENS, check_number, text_limits
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.processor import SentenceProcessor
from lmbase.text.streaming import written_text
from lmbase.text.told_ends import ToldEnds
from multitoken.draft_loop import Stretch
from multitoken.request import (
    ALWAYS_GIVEN,
    Call,
    GenerateOutput,
    NoRoomError,
    Request,
    check_text_ids,
    open_call,
    prompt_mask,
    warn_of_last_space,
)
from sllm import reading
from sllm.modeling_sllm import SLLMModel
from sllm.reading import AnyState
from sllm.recutting import recut_share
from sllm.sentence_writer import AnySteps, SentenceWriter, VectorDraws, open_steps

OVERFLOWS = ("stop", "slide")
ENDLESS = 2**62


@dataclass
class SentenceGenerateOutput(GenerateOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids, flat, no end marks; prompts padded on the left, new ids on the right. After
            a flat prompt of L columns the new ids are `sequences[:, L:]`.
        left_padding: for each text the columns of padding before it.
        sentence_lengths: for each text the tokens of each sentence, the prompt's included (its start token is not).
        recut_share: share of the written sentences that cutting and tokenising their text again would change;
            None without a processor or without new sentences.
        cache: the trunk's cache as it was left; None if nothing had to be read. One of fixed size serves the
            model's next call, too.
        statistics: what drafting inside sentences brought, end marks counted as tokens.
    """

    left_padding: list[int] = ALWAYS_GIVEN
    sentence_lengths: list[list[int]] = ALWAYS_GIVEN
    recut_share: float | None = None
    cache: Cache | RowCache | None = None

    @property
    def past_key_values(self) -> Cache | RowCache | None:
        """`cache` by the name that it had in Transformers before 5.24."""
        return self.cache

    @property
    def attention_mask(self) -> Tensor:
        """(B, L) True on real tokens. No item of the output: pipelines would show it beside each text."""
        columns = torch.arange(self.sequences.shape[1])
        first, new = torch.tensor(self.left_padding), torch.tensor(self.num_new_tokens)
        return (columns >= first[:, None]) & (columns < len(columns) - (new.max() - new)[:, None])


@dataclass
class _Text:
    """One text while it is being written."""

    sentences: list[list[int]]  # closed ones
    forced: list[int]  # the prompt's unfinished last sentence
    given: list[int] = field(default_factory=list)  # a flat prompt as it is returned; default: the ids that are read
    limit: int = ENDLESS  # new tokens
    fewest: int = 0  # before which the text may not end
    num_prompt_sentences: int = 0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    finish_reason: str = ""
    unfinished: list[int] = field(default_factory=list)  # a sentence cut off by max_new_tokens
    first_kept: int = 0  # sentences before this one slid out of the context
    told: ToldEnds | None = None  # where ends are told; has read the text so far

    def __post_init__(self) -> None:
        self.num_prompt_sentences = len(self.sentences)
        read = self.ids()
        self.num_prompt_tokens = len(read)
        self.given = self.given or read

    def all_sentences(self) -> list[list[int]]:
        tail = self.unfinished or self.forced
        return [*self.sentences, tail] if tail else self.sentences

    def ids(self) -> list[int]:
        return [i for sentence in self.all_sentences() for i in sentence]

    def returned_ids(self) -> list[int]:
        """The prompt as it was given, and what is new."""
        return self.given + self.ids()[self.num_prompt_tokens :]

    def marked_ids(self, end: int) -> list[int]:
        """Flat, with an end mark after each closed sentence where they are written."""
        if self.told is not None:
            return self.ids()
        return [i for sentence in self.sentences for i in (*sentence, end)] + self.forced


@dataclass
class _Limits:
    """When writing ends."""

    sentences: int  # new ones
    slides: bool  # the oldest sentences give way where the trunk's positions are used up


def generate(
    model: SLLMModel,
    request: Request,
    processor: SentenceProcessor | None,
    max_new_sentences: int | None,
    overflow: str,
    vector_temperature: float | None = None,
) -> SentenceGenerateOutput:
    """`SLLM.generate`."""
    draws = VectorDraws.of(model, request.seed, vector_temperature)
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow={overflow!r}: choose {' or '.join(OVERFLOWS)}.")
    max_new_sentences = check_number("max_new_sentences", max_new_sentences)
    config = request.resolve(model)
    prompt = request.prompt()
    if isinstance(prompt, Tensor):
        texts = _read_ids(model, processor, prompt, request.attention_mask)
    else:
        assert processor is not None
        warn_of_last_space(processor.tokenizer, prompt)
        texts = [_open(model, processor, encoded.sentences()) for encoded in processor.encode_batch(prompt)]
    tokenizer = None if processor is None else processor.tokenizer
    marked = [text.marked_ids(model.config.eos_token_id) for text in texts]
    call = open_call(model, request, config, marked, tokenizer, framed=True)
    opened = not isinstance(prompt, Tensor)  # a text's opening id counts as it does where it is returned
    default = DEFAULT_NEW_TOKENS if max_new_sentences is None else ENDLESS
    for text in texts:
        text.limit, text.fewest = text_limits(config, len(text.given) + opened, default)
    limits = _Limits(ENDLESS if max_new_sentences is None else max_new_sentences, overflow == "slide")
    if not limits.slides:
        _check_prompts_fit(model, texts)
    writer = _open_writer(model, call, texts, limits, draws)
    call.stream.put(torch.tensor(texts[0].ids(), dtype=torch.long))
    for sentences in _sentences(model, texts, writer, limits):
        call.stream.follow(sentences[0])
        call.endings.show()
    call.stream.close()
    if writer.steps is not None:
        writer.steps.give_back()
    width = prompt.shape[1] if isinstance(prompt, Tensor) and prompt.dim() == 2 else 0
    output = _output(model, processor, texts, width)
    if processor is not None:
        output.texts = [call.endings.shown(b, _new_text(processor, text)) for b, text in enumerate(texts)]
    output.cache = writer.state.past_key_values if writer.state is not None else None
    output.statistics = writer.loop.statistics
    return call.hand_out(output)


def _check_prompts_fit(model: SLLMModel, texts: list[_Text]) -> None:
    for number, text in enumerate(texts):
        if not model.config.has_room([len(sentence) for sentence in text.sentences]):
            room = model.config.trunk.max_position_embeddings - 1  # one position is the start state's
            has, units = text.num_prompt_sentences, "sentences"
            if model.config.own_layers:
                room -= model.config.max_sentence_tokens  # the next sentence's
                has, units = sum(map(len, text.sentences)), "tokens"
            raise NoRoomError(
                f"Prompt {number} has {has} {units}, and the trunk has positions for {room}: --overflow slide "
                "(overflow='slide') goes on from the latest half of them; or shorten the prompt."
            )


def _open_writer(
    model: SLLMModel, call: Call, texts: list[_Text], limits: _Limits, draws: VectorDraws | None
) -> SentenceWriter:
    steps = None
    if call.fixed:
        rows, tokens = len(call.drafting.tree.nodes), max(text.limit for text in texts)
        steps = open_steps(model, call.config, len(texts), rows, tokens, limits.sentences)
    writer = SentenceWriter(model, len(texts), call.sampler, call.drafting, call.endings, steps, draws)
    if call.stream.shows_drafts:  # then what a pass brings is shown at once, else a sentence is shown whole
        writer.loop.show_draft = call.stream.put_draft
        writer.after_pass = lambda sentences: call.stream.follow(sentences[0])
    return writer


def _read_ids(
    model: SLLMModel, processor: SentenceProcessor | None, input_ids: Tensor, attention_mask: Tensor | None
) -> list[_Text]:
    if input_ids.dim() not in (2, 3):
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: give (B, L) flat ids or (B, S, T) sentences.")
    mask = prompt_mask(input_ids, attention_mask, model.config)
    tokenizer, texts = None if processor is None else processor.tokenizer, []
    if input_ids.dim() == 2:
        split_ids = _needed(processor).read_ids
        for ids, real in zip(input_ids, mask, strict=True):
            row = ids[real].tolist()
            # Transformers' tokenizers put the start token in front of a text; here the start state stands for it.
            read = row[row[:1] == [model.config.bos_token_id] :]
            check_text_ids(read, model.config, tokenizer)
            texts.append(_open(model, processor, split_ids(read), row))
        return texts
    check_text_ids(input_ids[mask].tolist(), model.config, tokenizer)
    for document, real_tokens in zip(input_ids, mask, strict=True):
        sentences = [row[real].tolist() for row, real in zip(document, real_tokens, strict=True) if real.any()]
        texts.append(_open(model, processor, sentences))
    return texts


def _needed(processor: SentenceProcessor | None) -> SentenceProcessor:
    if processor is None:
        raise ValueError("Flat ids are cut into sentences by a processor, and this SLLM has none: give (B, S, T) ids.")
    return processor


def _open(
    model: SLLMModel,
    processor: SentenceProcessor | None,
    sentences: list[list[int]],
    given: list[int] | None = None,
) -> _Text:
    """Take the last sentence off if it may still go on."""
    longest = max(map(len, sentences), default=0)
    if longest > model.config.max_sentence_tokens:
        raise ValueError(f"A sentence of {longest} tokens; the model reads at most {model.config.max_sentence_tokens}.")
    forced: list[int] = []
    told = _needed(processor).told_ends() if model.config.told_ends else None
    if told is not None:
        if sentences and not told.add(i for sentence in sentences for i in sentence):
            sentences, forced = sentences[:-1], sentences[-1]
    elif processor is not None:
        sentences, forced = processor.split_open_end(sentences)
    return _Text(sentences, forced, given or [], told=told)


def _sentences(
    model: SLLMModel, texts: list[_Text], writer: SentenceWriter, limits: _Limits
) -> Iterator[list[Stretch]]:
    """Write sentences until every text has a finish_reason; yields one sentence of each text."""
    _slide_or_stop(model, texts, limits.slides)
    state = writer.state = _read_all(model, texts, writer.steps) if _alive(texts) else None
    num_sentences = 0
    while _alive(texts):
        assert state is not None
        _finish([t for t in _alive(texts) if t.limit == 0 or num_sentences >= limits.sentences], "length")
        if not _alive(texts):
            return
        log_odds = model.stop_head(state.states[:, -1]).squeeze(-1)  # (B,)
        stops = writer.loop.sampler.yes(log_odds, [(b, num_sentences) for b in range(len(texts))])
        for text, stop in zip(texts, stops, strict=True):
            if stop and not text.finish_reason and not text.forced and text.num_new_tokens >= text.fewest:
                text.finish_reason = "stop"
        if not _alive(texts):
            return
        sentences = _write_sentence(texts, state, writer)
        num_sentences += 1
        yield sentences
        _finish([t for t in _alive(texts) if t.num_new_tokens >= t.limit], "length")
        if not _alive(texts) or num_sentences >= limits.sentences:
            continue
        if _slide_or_stop(model, texts, limits.slides):
            state = writer.state = _read_all(model, texts, writer.steps)
        elif _alive(texts):
            ids, mask = pad_tokens([sentence.ids for sentence in sentences], model.config.pad_token_id)
            keep = torch.tensor([not text.finish_reason for text in texts])[:, None]
            ids, mask = ids.to(model.device), (mask & keep).to(model.device)
            if writer.steps is None:
                reading.step(model, ids, mask, state)
            else:
                writer.steps.step(ids, mask, state)


def _write_sentence(texts: list[_Text], state: AnyState, writer: SentenceWriter) -> list[Stretch]:
    """Write one sentence of every living text; those of others stay empty."""
    opening = writer.reader.opening
    sentences = [
        Stretch(
            list(text.forced),
            text.limit - text.num_new_tokens,
            fewest=_fewest(text),
            told=text.told,
            before=[opening, *(i for s in text.sentences for i in s)] if writer.loop.looks_back else [],
            fewest_of_text=text.fewest - text.num_new_tokens,
            writing=not text.finish_reason,
        )
        for text in texts
    ]
    writer.write(state, sentences)
    for text, sentence in zip(texts, sentences, strict=True):
        if text.finish_reason:
            sentence.ids = []
            continue
        text.forced = []
        text.num_new_tokens += len(sentence.new)
        if sentence.ended or sentence.full:
            text.sentences = [*text.sentences, sentence.ids]
        else:
            text.unfinished = sentence.ids  # its end was never predicted
        text.finish_reason = sentence.reason
        if sentence.ended and text.told is not None:
            text.finish_reason = "stop"  # an end that nothing told is the text's
    return sentences


def _fewest(text: _Text) -> int:
    """New tokens before which its next sentence may not end: none is without a token, and where ends are told, one that
    is predicted is the text's."""
    least = 0 if text.forced else 1
    return least if text.told is None else max(least, text.fewest - text.num_new_tokens)


def _slide_or_stop(model: SLLMModel, texts: list[_Text], slides: bool) -> bool:
    """Deal with texts whose next state has no position left; True if the texts must be read again."""
    slid = False
    for text in _alive(texts):
        lengths = [len(sentence) for sentence in text.sentences[text.first_kept :]]
        if model.config.has_room(lengths):
            continue
        if not slides:
            text.finish_reason = "context"
        else:
            text.first_kept = len(text.sentences) - model.config.latest_half(lengths)
            slid = True
    return slid


def _read_all(model: SLLMModel, texts: list[_Text], steps: AnySteps) -> AnyState:
    kept = [t.sentences[t.first_kept :] if not t.finish_reason else [] for t in texts]
    state = reading.prefill(model, **vars(pad_sentences(kept, model.config.pad_token_id).to(model.device)))
    return state if steps is None else steps.fix(state)


def _alive(texts: list[_Text]) -> list[_Text]:
    return [text for text in texts if not text.finish_reason]


def _finish(texts: list[_Text], reason: str) -> None:
    for text in texts:
        text.finish_reason = reason


def _output(
    model: SLLMModel, processor: SentenceProcessor | None, texts: list[_Text], prompt_width: int
) -> SentenceGenerateOutput:
    """Args: prompt_width: columns that prompts take at least (as they were given, with their padding)."""
    pad = model.config.pad_token_id
    prompt_width = max(prompt_width, *(len(t.given) for t in texts))
    new_width = max(t.num_new_tokens for t in texts)
    rows, left_padding = [], []
    for text in texts:
        ids = text.returned_ids()
        right = new_width - text.num_new_tokens
        left = prompt_width + new_width - right - len(ids)
        rows.append([pad] * left + ids + [pad] * right)
        left_padding.append(left)
    written = [(text.sentences, text.num_prompt_sentences, text.ids()) for text in texts]
    return SentenceGenerateOutput(
        sequences=torch.tensor(rows, dtype=torch.long).view(len(texts), -1),
        left_padding=left_padding,
        sentence_lengths=[[len(s) for s in t.all_sentences()] for t in texts],
        num_new_tokens=[t.num_new_tokens for t in texts],
        finish_reason=[t.finish_reason for t in texts],
        recut_share=None if processor is None else recut_share(processor, written),
    )


def _new_text(processor: SentenceProcessor, text: _Text) -> str:
    ids, given = text.ids(), text.num_prompt_tokens
    return written_text(processor.tokenizer, ids[given:], ids[:given])
