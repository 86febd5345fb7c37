"""Writing with an SLLM: sentence after sentence, each one token by token, then read back through the encoder.

B texts, S sentences, T tokens of a sentence, L tokens of a flat text, D width.
"""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import ModelOutput

from lmbase.modeling.cache import RowCache
from lmbase.modeling.decoding import DEFAULT_NEW_TOKENS, Sampler, merge_generation_config
from lmbase.modeling.inference import inference_method
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.tokenizers import token_bytes
from multitoken.copying import make_lookups
from multitoken.speculation import DraftTree, SpeculationStatistics, check_drafts
from sllm.compiled_steps import CompiledSteps
from sllm.reading import ReadingState
from sllm.sentence_writer import Sentence, SentenceWriter

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM

OVERFLOWS = ("stop", "slide")


@dataclass
class SentenceGenerateOutput(ModelOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids, flat, no end marks; prompts padded on the left, new ids on the right. After
            a flat prompt of L columns the new ids are `sequences[:, L:]`.
        attention_mask: (B, L) True on real tokens.
        sentence_lengths: for each text the tokens of each sentence, the prompt's included (its start token is not).
        num_new_tokens: for each text.
        finish_reason: for each text `stop` (the model ended it), `length` (max_new_tokens or max_new_sentences) or
            `context` (the trunk's positions are used up).
        recut_share: share of the written sentences that cutting and tokenising their text again would change;
            None without a processor or without new sentences.
        texts: for each text the new part, decoded; None without a processor.
        past_key_values: the trunk's cache as it was left; None if nothing had to be read. One of fixed size serves the
            model's next call, too.
        statistics: what drafting inside sentences brought, end marks counted as tokens.
    """

    # A ModelOutput's fields need defaults; these five are always there.
    sequences: Tensor = None  # type: ignore[assignment]
    attention_mask: Tensor = None  # type: ignore[assignment]
    sentence_lengths: list[list[int]] = None  # type: ignore[assignment]
    num_new_tokens: list[int] = None  # type: ignore[assignment]
    finish_reason: list[str] = None  # type: ignore[assignment]
    recut_share: float | None = None
    texts: list[str] | None = None
    past_key_values: Cache | RowCache | None = None
    statistics: SpeculationStatistics | None = None


@dataclass
class _Text:
    """One text while it is being written."""

    sentences: list[list[int]]  # closed ones
    forced: list[int]  # the prompt's unfinished last sentence
    opening: list[int] = field(default_factory=list)  # a flat prompt's start token: returned, but not read
    num_prompt_sentences: int = 0
    num_prompt_tokens: int = 0
    num_new_tokens: int = 0
    finish_reason: str = ""
    unfinished: list[int] = field(default_factory=list)  # a sentence cut off by max_new_tokens
    first_kept: int = 0  # sentences before this one slid out of the context

    def __post_init__(self) -> None:
        self.num_prompt_sentences = len(self.sentences)
        self.num_prompt_tokens = sum(map(len, self.sentences)) + len(self.forced)

    def all_sentences(self) -> list[list[int]]:
        tail = self.unfinished or self.forced
        return [*self.sentences, tail] if tail else self.sentences

    def ids(self) -> list[int]:
        return [i for sentence in self.all_sentences() for i in sentence]

    def marked_ids(self, end: int) -> list[int]:
        """Flat, with an end mark after each closed sentence."""
        return [i for sentence in self.sentences for i in (*sentence, end)] + self.forced


class SentenceGenerationMixin(GenerationMixin):
    """`generate` for SLLM."""

    @inference_method
    def generate(  # type: ignore[override, misc]
        self: "SLLM",
        input_ids: Tensor | str | Sequence[str] | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer=None,
        *,
        text: str | Sequence[str] | None = None,
        max_new_sentences: int | None = None,
        overflow: str = "stop",
        num_draft: int | str = "auto",
        tree: DraftTree | Sequence[Sequence[int]] | None = None,
        seed: int | None = None,
        **kwargs,
    ) -> SentenceGenerateOutput:
        """Continue texts.

        Args:
            input_ids: (B, L) flat ids, cut into sentences here, or (B, S, T) sentences; or the same as `text`.
            attention_mask: of the same shape; default: everything but padding.
            generation_config, kwargs: as in Transformers: max_new_tokens, do_sample, temperature, top_k, top_p ...;
                with return_dict_in_generate=False only the tensor `sequences` is returned; prompt_lookup_num_tokens=k
                drafts up to k tokens of a sentence by copying what followed the newest ones (max_matching_ngram_size,
                default 2) earlier in the text, instead of with heads.
            logits_processor: as in Transformers; called for one text at a time with the tokens of the sentence that is
                being written (1, T).
            streamer: a Transformers streamer (one text only); it is handed whole sentences.
            text: a text or a list of texts.
            max_new_sentences: stop after writing this many.
            overflow: when the trunk's positions are used up: `stop`, or `slide` to drop the oldest half and read again.
            num_draft: k writes sentences with heads 1 to k of the decoder, 1 is token by token; `auto` drafts, or
                copies, as long as it pays. The text is the same, in sampling with the same seed.
            tree: draft several candidates of each head (paths, see `DraftTree`); `num_draft` limits its depth. Default:
                each head's first.
            seed: makes sampling repeatable.

        cache_implementation="static" (Transformers' word; with a compile_config, if that is to say how, or with
        disable_compile) gives caches of fixed size and compiled steps: the first call takes up to minutes, later ones
        are faster where one text is written at a time, and the caches stay with the model. Rounding apart the text is
        the same. Drafts of heads with attention (`draft_head_kind: block`), or of other than the largest size, are made
        uncompiled.

        An unfinished last sentence of a prompt is not encoded: it is forced as the decoder's first tokens.

        Raises:
            ValueError: a text with a lone surrogate, ids outside the vocabulary, an unsupported setting.
        """
        if overflow not in OVERFLOWS:
            raise ValueError(f"overflow={overflow!r}: choose {' or '.join(OVERFLOWS)}.")
        config = merge_generation_config(self.generation_config, generation_config, kwargs)
        if (input_ids is None) == (text is None):
            raise ValueError("Give either input_ids or text.")
        prompt = input_ids if text is None else text
        texts = _read_ids(self, prompt, attention_mask) if isinstance(prompt, Tensor) else _read_text(self, prompt)
        if streamer is not None and len(texts) != 1:
            raise ValueError(f"A streamer shows one text, and {len(texts)} prompts were given.")
        sampler = Sampler(config, len(texts), self.config.vocab_size, self.device, seed, logits_processor)
        end = self.config.eos_token_id
        lookups = make_lookups(config, (text.marked_ids(end) for text in texts), end)
        drafts, automatic = check_drafts(
            num_draft, tree, self.config.num_future_tokens, self.config.vocab_size, config.prompt_lookup_num_tokens
        )
        limit = config.max_new_tokens
        if limit is None:
            limit = DEFAULT_NEW_TOKENS if max_new_sentences is None else 2**62
        sentence_limit = 2**62 if max_new_sentences is None else max_new_sentences
        steps = None
        if config.cache_implementation == "static":
            steps = CompiledSteps(self, config, len(texts), len(drafts.nodes), limit, sentence_limit)
        writer = self.sentence_writer(len(texts), sampler, drafts, automatic, lookups, steps)
        if streamer is not None:
            streamer.put(torch.tensor(texts[0].ids()))
        state = _write(self, texts, writer, limit, sentence_limit, config.min_new_tokens or 0, overflow, streamer)
        if streamer is not None:
            streamer.end()
        if steps is not None:
            steps.give_back()
        output = _output(self, texts, state, prompt.shape[1] if isinstance(prompt, Tensor) and prompt.dim() == 2 else 0)
        output.statistics = writer.statistics
        if config.return_dict_in_generate is False:
            return output.sequences  # type: ignore[return-value]  # for code that was written for Transformers' models
        return output

    def sentence_writer(self: "SLLM", *args) -> SentenceWriter:  # type: ignore[misc]
        """What writes the sentences of one call."""
        return SentenceWriter(self, *args)


def _read_text(model: "SLLM", prompt: str | Sequence[str] | None) -> list[_Text]:
    texts = [prompt] if isinstance(prompt, str) else list(prompt or [])
    if not texts or not all(isinstance(text, str) for text in texts):
        raise ValueError("The prompt is neither a tensor of ids nor a text nor a list of texts.")
    return [_open(model, encoded.sentences()) for encoded in model.processor.encode_batch(texts)]


def _read_ids(model: "SLLM", input_ids: Tensor, attention_mask: Tensor | None) -> list[_Text]:
    if input_ids.dim() not in (2, 3):
        raise ValueError(f"input_ids has shape {tuple(input_ids.shape)}: give (B, L) flat ids or (B, S, T) sentences.")
    if attention_mask is None:
        attention_mask = input_ids != model.config.pad_token_id
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)} and input_ids {tuple(input_ids.shape)} differ.")
    outside = (input_ids < 0) | (input_ids >= model.config.vocab_size)
    if (outside & attention_mask.bool()).any():
        raise ValueError(f"input_ids holds ids outside the model's vocabulary of {model.config.vocab_size}.")
    if input_ids.dim() == 2:
        rows = [ids[mask.bool()].tolist() for ids, mask in zip(input_ids, attention_mask, strict=True)]
        # Transformers' tokenizers put the start token in front of a text; here the start state stands for it.
        borders = [int(row[:1] == [model.config.bos_token_id]) for row in rows]
        return [
            _open(model, model.processor.split_ids(row[border:]), row[:border])
            for row, border in zip(rows, borders, strict=True)
        ]
    _check_no_special_tokens(model, input_ids[attention_mask.bool()])
    documents = [
        [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True) if m.any()]
        for ids, mask in zip(input_ids, attention_mask, strict=True)
    ]
    return [_open(model, sentences) for sentences in documents]


def _check_no_special_tokens(model: "SLLM", ids: Tensor) -> None:
    config = model.config
    special = {config.pad_token_id, config.bos_token_id, config.eos_token_id}
    if model._processor is not None:
        special |= set(model.processor.tokenizer.all_special_ids)
    if found := sorted(special & set(ids.unique().tolist())):
        raise ValueError(f"Sentences hold special tokens {found}: give text tokens only, without end marks.")


def _open(model: "SLLM", sentences: list[list[int]], opening: list[int] | None = None) -> _Text:
    """Take the last sentence off if it may still go on."""
    longest = max(map(len, sentences), default=0)
    if longest > model.config.max_sentence_tokens:
        raise ValueError(f"A sentence of {longest} tokens; the model reads at most {model.config.max_sentence_tokens}.")
    forced: list[int] = []
    if model._processor is not None:
        sentences, forced = model.processor.split_open_end(sentences)
    return _Text(sentences, forced, opening or [])


def _write(
    model: "SLLM",
    texts: list[_Text],
    writer: SentenceWriter,
    limit: int,
    sentence_limit: int,
    min_new_tokens: int,
    overflow: str,
    streamer,
) -> ReadingState | None:
    """Write sentences until every text has a finish_reason; returns what was read."""
    positions = model.config.trunk.max_position_embeddings
    _slide_or_stop(texts, positions, overflow)
    state = _read_all(model, texts, writer.steps) if _alive(texts) else None
    num_sentences = 0
    while _alive(texts):
        assert state is not None
        if num_sentences >= sentence_limit or limit == 0:
            _finish(_alive(texts), "length")
            break
        stops = writer.sampler.yes(model.stop_head(state.states[:, -1]).squeeze(-1).float()).tolist()
        for text, stop in zip(texts, stops, strict=True):
            if stop and not text.finish_reason and not text.forced and text.num_new_tokens >= min_new_tokens:
                text.finish_reason = "stop"
        if not _alive(texts):
            break
        sentences = _write_sentence(texts, state, writer, limit)
        num_sentences += 1
        if streamer is not None:
            streamer.put(torch.tensor(sentences[0].new))
        _finish([t for t in _alive(texts) if t.num_new_tokens >= limit], "length")
        if not _alive(texts) or num_sentences >= sentence_limit:
            continue
        if _slide_or_stop(texts, positions, overflow):
            state = _read_all(model, texts, writer.steps)
        elif _alive(texts):
            ids, mask = pad_tokens([sentence.ids for sentence in sentences], model.config.pad_token_id)
            keep = torch.tensor([not text.finish_reason for text in texts])[:, None]
            ids, mask = _at_least_one_column(ids, mask & keep, model.config.pad_token_id)
            (writer.steps or model).read_sentence(ids.to(model.device), mask.to(model.device), state)
    return state


def _write_sentence(texts: list[_Text], state: ReadingState, writer: SentenceWriter, limit: int) -> list[Sentence]:
    """Write one sentence of every living text; those of others stay empty."""
    sentences = [
        Sentence(list(text.forced), limit - text.num_new_tokens, writing=not text.finish_reason) for text in texts
    ]
    writer.write(state, sentences)
    for text, sentence in zip(texts, sentences, strict=True):
        if text.finish_reason:
            sentence.ids = []
            continue
        text.forced = []
        text.num_new_tokens += len(sentence.new)
        if sentence.closed:
            text.sentences = [*text.sentences, sentence.ids]
        else:
            text.unfinished = sentence.ids  # its end was never predicted
    return sentences


def _slide_or_stop(texts: list[_Text], positions: int, overflow: str) -> bool:
    """Deal with texts whose next state has no position left; True if the texts must be read again."""
    slid = False
    for text in _alive(texts):
        held = len(text.sentences) - text.first_kept
        if held + 1 <= positions:
            continue
        if overflow == "stop":
            text.finish_reason = "context"
        else:
            text.first_kept = len(text.sentences) - positions // 2
            slid = True
    return slid


def _read_all(model: "SLLM", texts: list[_Text], steps: CompiledSteps | None) -> ReadingState:
    kept = [t.sentences[t.first_kept :] if not t.finish_reason else [] for t in texts]
    batch = pad_sentences(kept, model.config.pad_token_id)
    device = model.device
    state = model.start_reading(
        batch.input_ids.to(device), batch.attention_mask.to(device), batch.sentence_mask.to(device)
    )
    return state if steps is None else steps.fix(state)


def _at_least_one_column(ids: Tensor, mask: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    if ids.shape[1]:
        return ids, mask
    return ids.new_full((len(ids), 1), pad_token_id), mask.new_zeros(len(ids), 1)


def _alive(texts: list[_Text]) -> list[_Text]:
    return [text for text in texts if not text.finish_reason]


def _finish(texts: list[_Text], reason: str) -> None:
    for text in texts:
        text.finish_reason = reason


def _output(model: "SLLM", texts: list[_Text], state: ReadingState | None, prompt_width: int) -> SentenceGenerateOutput:
    """Args: prompt_width: columns that prompts take at least (as they were given, with their padding)."""
    pad = model.config.pad_token_id
    prompt_width = max(prompt_width, *(len(t.opening) + t.num_prompt_tokens for t in texts))
    new_width = max(t.num_new_tokens for t in texts)
    rows, masks = [], []
    for text in texts:
        ids = text.opening + text.ids()
        right = new_width - text.num_new_tokens
        left = prompt_width + new_width - right - len(ids)
        rows.append([pad] * left + ids + [pad] * right)
        masks.append([False] * left + [True] * len(ids) + [False] * right)
    has_processor = model._processor is not None
    return SentenceGenerateOutput(
        sequences=torch.tensor(rows, dtype=torch.long).view(len(texts), -1),
        attention_mask=torch.tensor(masks, dtype=torch.bool).view(len(texts), -1),
        sentence_lengths=[[len(s) for s in t.all_sentences()] for t in texts],
        num_new_tokens=[t.num_new_tokens for t in texts],
        finish_reason=[t.finish_reason for t in texts],
        recut_share=_recut_share(model, texts) if has_processor else None,
        texts=[model.processor.decode(t.ids()[t.num_prompt_tokens :]) for t in texts] if has_processor else None,
        past_key_values=state.past_key_values if state is not None else None,
    )


def _recut_share(model: "SLLM", texts: list[_Text]) -> float | None:
    """Written sentences that would become others if their text were cut and tokenised anew."""
    written = changed = 0
    for text in texts:
        again = model.processor.encode(model.processor.decode(text.ids())).sentences()
        places = set(zip(_starts(model, again), map(tuple, again), strict=True))
        own = list(zip(_starts(model, text.sentences), map(tuple, text.sentences), strict=True))
        own = own[text.num_prompt_sentences :]
        written += len(own)
        changed += sum(place not in places for place in own)
    return changed / written if written else None


def _starts(model: "SLLM", sentences: list[list[int]]) -> list[int]:
    """Bytes before each sentence in the decoded text, where broken characters are shown as U+FFFD."""
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    pieces = [b"".join(token_bytes(model.processor.tokenizer, sentence)) for sentence in sentences]
    return list(accumulate((len(decoder.decode(piece).encode()) for piece in pieces), initial=0))[:-1]
