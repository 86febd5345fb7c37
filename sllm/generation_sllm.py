"""Writing with an SLLM: sentence after sentence, each one token by token, then read back through the encoder.

B texts, S sentences, T tokens of a sentence, L tokens of a flat text, D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig, GenerationMixin, LogitsProcessorList
from transformers.utils import ModelOutput

from lmbase.collate import pad_sentences, pad_tokens
from lmbase.decoding import DEFAULT_NEW_TOKENS, Sampler, merge_generation_config
from lmbase.losses import close_token

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM, ReadingState

OVERFLOWS = ("stop", "slide")


@dataclass
class SentenceGenerateOutput(ModelOutput):
    """
    Args:
        sequences: (B, L) prompt + new ids, flat, no end marks; prompts padded on the left, new ids on the right.
        attention_mask: (B, L) True on real tokens.
        sentence_lengths: for each text the tokens of each sentence, the prompt's included.
        num_new_tokens: for each text.
        finish_reason: for each text `stop` (the model ended it), `length` (max_new_tokens or max_new_sentences) or
            `context` (the trunk's positions are used up).
        recut_share: share of the written sentences that cutting and tokenising their text again would change;
            None without a processor or without new sentences.
        texts: for each text the new part, decoded; None without a processor.
        past_key_values: the trunk's cache as it was left; None if nothing had to be read.
    """

    # A ModelOutput's fields need defaults; these five are always there.
    sequences: Tensor = None  # type: ignore[assignment]
    attention_mask: Tensor = None  # type: ignore[assignment]
    sentence_lengths: list[list[int]] = None  # type: ignore[assignment]
    num_new_tokens: list[int] = None  # type: ignore[assignment]
    finish_reason: list[str] = None  # type: ignore[assignment]
    recut_share: float | None = None
    texts: list[str] | None = None
    past_key_values: Cache | None = None


@dataclass
class _Text:
    """One text while it is being written."""

    sentences: list[list[int]]  # closed ones
    forced: list[int]  # the prompt's unfinished last sentence
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


class SentenceGenerationMixin(GenerationMixin):
    """`generate` for SLLM."""

    @torch.no_grad()
    def generate(  # type: ignore[override, misc]
        self: "SLLM",
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        streamer=None,
        *,
        text: str | Sequence[str] | None = None,
        max_new_sentences: int | None = None,
        overflow: str = "stop",
        seed: int | None = None,
        **kwargs,
    ) -> SentenceGenerateOutput:
        """Continue texts.

        Args:
            input_ids: (B, L) flat ids, cut into sentences here, or (B, S, T) sentences; or give `text`.
            attention_mask: of the same shape; default: everything but padding.
            generation_config, kwargs: as in Transformers: max_new_tokens, do_sample, temperature, top_k, top_p ...
            logits_processor: as in Transformers; called with the tokens of the sentence that is being written (B, T).
            streamer: a Transformers streamer (one text only); it is handed whole sentences.
            text: a text or a list of texts.
            max_new_sentences: stop after writing this many.
            overflow: when the trunk's positions are used up: `stop`, or `slide` to drop the oldest half and read again.
            seed: makes sampling repeatable.

        An unfinished last sentence of a prompt is not encoded: it is forced as the decoder's first tokens.

        Raises:
            ValueError: a text with a lone surrogate, ids outside the vocabulary, an unsupported setting.
        """
        if overflow not in OVERFLOWS:
            raise ValueError(f"overflow={overflow!r}: choose {' or '.join(OVERFLOWS)}.")
        config = merge_generation_config(self.generation_config, generation_config, kwargs)
        texts = _prompts(self, input_ids, attention_mask, text)
        if streamer is not None and len(texts) != 1:
            raise ValueError(f"A streamer shows one text, and {len(texts)} prompts were given.")
        sampler = Sampler(config, self.device, seed, logits_processor)
        limit = config.max_new_tokens
        if limit is None:
            limit = DEFAULT_NEW_TOKENS if max_new_sentences is None else 2**62
        sentence_limit = 2**62 if max_new_sentences is None else max_new_sentences
        if streamer is not None:
            streamer.put(torch.tensor(texts[0].ids()))
        state = _write(self, texts, sampler, limit, sentence_limit, config.min_new_tokens or 0, overflow, streamer)
        if streamer is not None:
            streamer.end()
        return _output(self, texts, state)


def _prompts(model: "SLLM", input_ids: Tensor | None, attention_mask: Tensor | None, text) -> list[_Text]:
    if (input_ids is None) == (text is None):
        raise ValueError("Give either input_ids or text.")
    if text is not None:
        documents = [
            e.sentences() for e in model.processor.encode_batch([text] if isinstance(text, str) else list(text))
        ]
        return [_open(model, sentences) for sentences in documents]
    assert input_ids is not None
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
        rows = [r[1:] if r and r[0] == model.config.bos_token_id else r for r in rows]
        return [_open(model, model.processor.split_ids(row)) for row in rows]
    documents = [
        [row[m.bool()].tolist() for row, m in zip(ids, mask, strict=True) if m.any()]
        for ids, mask in zip(input_ids, attention_mask, strict=True)
    ]
    return [_open(model, sentences) for sentences in documents]


def _open(model: "SLLM", sentences: list[list[int]]) -> _Text:
    """Take the last sentence off if it may still go on."""
    longest = max(map(len, sentences), default=0)
    if longest > model.config.max_sentence_tokens:
        raise ValueError(f"A sentence of {longest} tokens; the model reads at most {model.config.max_sentence_tokens}.")
    return _Text(sentences, []) if model._processor is None else _Text(*model.processor.split_open_end(sentences))


def _write(
    model: "SLLM",
    texts: list[_Text],
    sampler: Sampler,
    limit: int,
    sentence_limit: int,
    min_new_tokens: int,
    overflow: str,
    streamer,
) -> "ReadingState | None":
    """Write sentences until every text has a finish_reason; returns what was read."""
    positions = model.config.trunk.max_position_embeddings
    _slide_or_stop(texts, positions, overflow)
    state = _read_all(model, texts) if _alive(texts) else None
    num_sentences = 0
    while _alive(texts):
        assert state is not None
        if num_sentences >= sentence_limit or limit == 0:
            _finish(_alive(texts), "length")
            break
        stops = sampler.yes(model.stop_head(state.states[:, -1]).squeeze(-1).float()).tolist()
        for text, stop in zip(texts, stops, strict=True):
            if stop and not text.finish_reason and not text.forced and text.num_new_tokens >= min_new_tokens:
                text.finish_reason = "stop"
        if not _alive(texts):
            break
        rows = _write_sentence(model, texts, state, sampler, limit)
        num_sentences += 1
        if streamer is not None:
            streamer.put(torch.tensor(rows[0][1]))
        _finish([t for t in _alive(texts) if t.num_new_tokens >= limit], "length")
        if not _alive(texts) or num_sentences >= sentence_limit:
            continue
        if _slide_or_stop(texts, positions, overflow):
            state = _read_all(model, texts)
        elif _alive(texts):
            ids, mask = pad_tokens([sentence for sentence, _ in rows], model.config.pad_token_id)
            keep = torch.tensor([not text.finish_reason for text in texts])[:, None]
            ids, mask = _at_least_one_column(ids, mask & keep, model.config.pad_token_id)
            model.read_sentence(ids.to(model.device), mask.to(model.device), state)
    return state


def _write_sentence(
    model: "SLLM", texts: list[_Text], state: "ReadingState", sampler: Sampler, limit: int
) -> list[tuple[list[int], list[int]]]:
    """Write one sentence of every living text; for each the whole sentence and its new tokens (others: empty)."""
    embed, config = model.autoencoder.embed_tokens, model.config
    decoder_state = model.start_writing(state)
    tokens = [config.bos_token_id] * len(texts)
    rows: list[tuple[list[int], list[int]]] = [([], []) for _ in texts]
    writing = [not text.finish_reason for text in texts]
    written = torch.empty(len(texts), 0, dtype=torch.long, device=model.device)
    for position in range(config.max_sentence_tokens):
        inputs = torch.tensor(tokens, device=model.device)[:, None]  # (B,1)
        hidden = model.autoencoder.decoder.step(embed(inputs), decoder_state)[:, -1]  # (B,D)
        first = torch.full((len(texts),), position == 0, device=model.device)
        tokens = sampler(close_token(hidden @ embed.weight.T, first, config.eos_token_id), written).tolist()
        for b, text in enumerate(texts):
            if not writing[b]:
                continue
            forced = position < len(text.forced)
            if forced:
                tokens[b] = text.forced[position]
            elif tokens[b] == config.eos_token_id:
                writing[b] = False
                continue
            else:
                text.num_new_tokens += 1
                rows[b][1].append(tokens[b])
            rows[b][0].append(tokens[b])
            writing[b] = text.num_new_tokens < limit
        written = torch.cat([written, torch.tensor(tokens, device=model.device)[:, None]], dim=1)
        if not any(writing):
            break
    for text, (sentence, _) in zip(texts, rows, strict=True):
        if text.finish_reason:
            continue
        text.forced = []
        if text.num_new_tokens >= limit and len(sentence) < config.max_sentence_tokens:
            text.unfinished = sentence  # its end was never predicted
        else:
            text.sentences = [*text.sentences, sentence]
    return rows


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


def _read_all(model: "SLLM", texts: list[_Text]) -> "ReadingState":
    kept = [t.sentences[t.first_kept :] if not t.finish_reason else [] for t in texts]
    batch = pad_sentences(kept, model.config.pad_token_id)
    device = model.device
    return model.start_reading(
        batch.input_ids.to(device), batch.attention_mask.to(device), batch.sentence_mask.to(device)
    )


def _at_least_one_column(ids: Tensor, mask: Tensor, pad_token_id: int) -> tuple[Tensor, Tensor]:
    if ids.shape[1]:
        return ids, mask
    return ids.new_full((len(ids), 1), pad_token_id), mask.new_zeros(len(ids), 1)


def _alive(texts: list[_Text]) -> list[_Text]:
    return [text for text in texts if not text.finish_reason]


def _finish(texts: list[_Text], reason: str) -> None:
    for text in texts:
        text.finish_reason = reason


def _output(model: "SLLM", texts: list[_Text], state: "ReadingState | None") -> SentenceGenerateOutput:
    pad = model.config.pad_token_id
    prompt_width = max(t.num_prompt_tokens for t in texts)
    new_width = max(t.num_new_tokens for t in texts)
    rows, masks = [], []
    for text in texts:
        left, right = prompt_width - text.num_prompt_tokens, new_width - text.num_new_tokens
        rows.append([pad] * left + text.ids() + [pad] * right)
        masks.append([False] * left + [True] * len(text.ids()) + [False] * right)
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
        places = set(zip(_starts(again), map(tuple, again), strict=True))
        own = list(zip(_starts(text.sentences), map(tuple, text.sentences), strict=True))[text.num_prompt_sentences :]
        written += len(own)
        changed += sum(place not in places for place in own)
    return changed / written if written else None


def _starts(sentences: list[list[int]]) -> list[int]:
    return list(accumulate((len(s) for s in sentences), initial=0))[:-1]
