"""How likely a text is after a context when nothing is said about what follows it.

`score` takes a text as whole: its last sentence ends, and no further one follows. Here the end is left open, so that
parts add up: the nats of a + b are those of a and those of b after a. How the last sentence of a context ends belongs
to the text after it, and how the text's own last sentence ends to nobody.

B windows, S sentences, T tokens of a sentence, L tokens.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from lmbase.modeling.inference import inference
from lmbase.modeling.losses import signed_nats
from lmbase.modeling.trunk import special_ids
from lmbase.text.codec import TokenCodec, codec_of
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.texts import text_list
from lmbase.text.windows import Window, windows
from sllm.sllm import SLLM

Pair = tuple[str, str]  # a context, perhaps empty, and the text after it
EVEN = math.log(2) + 1e-6  # nats of a flag that is as likely as not


@dataclass
class Continuation:
    """What a text costs after its context."""

    nats: float = 0.0
    greedy: bool = True  # it begins what greedy writing writes after the context

    def add(self, signed: Tensor) -> None:
        """Count targets, given as `signed_nats`."""
        self.nats += float(signed.abs().sum(dtype=torch.float64))
        self.greedy &= bool(signed.signbit().all())


def continue_tokens(
    scorer: Any, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], window: int
) -> list[Continuation]:
    """Of a token-level model.

    Args:
        scorer: see `lmbase.modeling.token_lm.TokenScorer`.
        window: tokens that it sees at most.

    Raises:
        ValueError: something that is no text, or one with a lone surrogate.
    """
    codec, found = codec_of(tokenizer), [Continuation() for _ in pairs]
    jobs: list[tuple[list[int], Window, Continuation]] = []
    for ids, (context, _), mine in zip(codec.encode_batch(_joined(pairs)), pairs, found, strict=True):
        known = _num_known(codec, context, ids)
        jobs += [(ids, w, mine) for w in windows(len(ids), window, known) if known < len(ids)]
    device = next(scorer.parameters()).device
    for start in range(0, len(jobs), len(pairs)):
        batch = jobs[start : start + len(pairs)]
        input_ids, mask = pad_tokens([ids[w.start : w.stop] for ids, w, _ in batch], special_ids(scorer.config).pad)
        first = torch.tensor([w.scored - w.start for _, w, _ in batch])
        ends = torch.zeros(len(batch), dtype=torch.bool)
        with inference(scorer):
            nats = scorer.nats(*(t.to(device) for t in (input_ids, mask, ends, first)), measure=signed_nats).cpu()
        for (_, w, mine), row in zip(batch, nats, strict=True):  # (L+1,)
            mine.add(row[w.scored - w.start : w.stop - w.start])
    return found


@dataclass
class _Job:
    """A window of one context and text."""

    sentences: list[list[int]]
    window: Window
    found: Continuation
    forced: int  # tokens of the first scored sentence that the context holds
    closed: bool  # writing takes that sentence as ended by the context

    def add(self, token: Tensor, stop: Tensor, cap: int) -> None:
        """Args: token (S, T+1) as `signed_nats`, stop (S+1,) nats. cap: tokens of a sentence that needs no end mark."""
        start = self.window.start
        for i in range(self.window.scored, self.window.stop):
            size, forced = len(self.sentences[i]), self.forced if i == self.window.scored else 0
            if not forced:  # that this sentence follows
                self.found.nats += float(stop[i - start])
                self.found.greedy &= float(stop[i - start]) <= EVEN
            self.found.add(token[i - start, forced:size])
            if i + 1 < len(self.sentences) and size < cap:
                if forced == size and self.closed:
                    self.found.nats += abs(float(token[i - start, size]))
                else:
                    self.found.add(token[i - start, size])
            if self.closed and 0 < forced < size:  # "He left." and "com": nobody writes that
                self.found.greedy = False


def continue_sentences(model: SLLM, pairs: Sequence[Pair]) -> list[Continuation]:
    """Of an SLLM. A context and its text are cut as the one text that they are.

    Raises:
        ValueError: something that is no text, or one with a lone surrogate.
    """
    processor, config, found = model.processor, model.config, [Continuation() for _ in pairs]
    jobs: list[_Job] = []
    for whole, (context, _), mine in zip(processor.encode_batch(_joined(pairs)), pairs, found, strict=True):
        known = _num_known(processor.codec, context, whole.input_ids)
        if known == len(whole.input_ids):
            continue
        ended, going_on = processor.split_open_end(whole.sentences())
        sentences = [*ended, going_on] if going_on else ended  # white space at the end: "Yes. He ", not "He" and " "
        ends = list(accumulate(map(len, sentences)))
        first = bisect_left(ends, known)  # the sentence of the context's last token
        forced = known - (ends[first] - len(sentences[first]))
        closed = not processor.split_open_end([*sentences[:first], sentences[first][:forced]])[1] if known else False
        for number, w in enumerate(windows(len(sentences), config.max_sentences, first)):
            jobs.append(_Job(sentences, w, mine, 0 if number else forced, closed))
    for start in range(0, len(jobs), len(pairs)):
        part = jobs[start : start + len(pairs)]
        batch = pad_sentences([job.sentences[job.window.start : job.window.stop] for job in part], config.pad_token_id)
        wanted = torch.zeros_like(batch.sentence_mask)  # (B, S)
        for row, job in zip(wanted, part, strict=True):
            row[job.window.scored - job.window.start : job.window.stop - job.window.start] = True
        tensors = {name: value.to(model.device) for name, value in (vars(batch) | {"wanted": wanted}).items()}
        with inference(model):
            nats = model.nats(**tensors, measure=signed_nats)
        for job, token, stop in zip(part, nats.token.cpu(), nats.stop.cpu(), strict=True):
            job.add(token, stop, config.max_sentence_tokens)
    return found


def _joined(pairs: Sequence[Pair]) -> list[str]:
    contexts, texts = text_list([c for c, _ in pairs], "contexts"), text_list([t for _, t in pairs])
    return [context + text for context, text in zip(contexts, texts, strict=True)]


def _num_known(codec: TokenCodec, context: str, ids: list[int]) -> int:
    """Tokens of the whole that lie in the context. One that goes on behind it belongs to the text: so the likelihood is
    at most that of the text after this context."""
    return int(np.searchsorted(np.cumsum(codec.sizes[ids]), len(context.encode()), side="right"))
