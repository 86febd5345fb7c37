"""What each token of a text costs a model; and how likely a text is after a context when nothing is said about what
follows it.

`score` takes a text as whole: its last sentence ends, and no further one follows. A `Continuation` leaves the end open,
so that parts add up: the nats of a + b are those of a and those of b after a. How the last sentence of a context ends
belongs to the text after it, and how the text's own last sentence ends to nobody.

B windows, S sentences, T tokens of a sentence.
"""

import math
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, islice
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from lmbase.modeling.inference import inference_method
from lmbase.modeling.losses import signed_nats, token_nats
from lmbase.modeling.token_lm import TokenScorer, score_ids
from lmbase.text.codec import TokenCodec, codec_of
from lmbase.text.padding import pad_sentences
from lmbase.text.texts import text_list
from lmbase.text.windows import windows
from sllm.sllm import SLLM

Sentences = Sequence[Sequence[int]]
Pair = tuple[str, str]  # a context, perhaps empty, and the text after it
EVEN = math.log(2) + 1e-6  # nats of a flag that is as likely as not


# -- token by token ----------------------------------------------------------------------------------------------------


def costs_of_tokens(scorer: TokenScorer, sentences: Sentences, window: int) -> list[list[float]]:
    """-log p of each token of each sentence of a text, and last of the text's end, under a token-level model."""
    (nats,) = score_ids(scorer, [[*chain(*sentences)]], window=window)
    left = iter(nats)
    return [[*islice(left, size)] for size in (*map(len, sentences), 1)]


def costs_in_sentences(model: SLLM, sentences: Sentences) -> list[list[float]]:
    """The same of an SLLM: an end mark counts with the token before it, a flag with the token after it. Where ends are
    told, the one mark that costs something counts with the text's end."""
    ((*found, (end, _)),) = nats_in_sentences(model, [sentences], [0])
    costs = []
    for flag, (*nats, mark) in found:
        nats[0] += flag
        if model.config.told_ends:
            end += mark
        else:
            nats[-1] += mark
        costs.append(nats)
    return [*costs, [end]]


@inference_method
def nats_in_sentences(
    model: SLLM, documents: Sequence[Sentences], firsts: Sequence[int], measure: Any = token_nats
) -> list[list[tuple[float, list[float]]]]:
    """Of each text's sentences from the first that is scored on: nats of the flag before it, and of its tokens and its
    end mark as they are measured; and last the flag at the text's end.

    Args:
        documents: one window of each is read at a time.
        firsts: sentences before these are context.
    """
    config = model.config
    jobs = [
        (number, window)
        for number, (sentences, first) in enumerate(zip(documents, firsts, strict=True))
        for window in windows(len(sentences), config.max_sentences, first)
    ]
    found: list[list[tuple[float, list[float]]]] = [[] for _ in documents]
    for begin in range(0, len(jobs), len(documents) or 1):
        part = jobs[begin : begin + len(documents)]
        batch = pad_sentences([documents[d][w.start : w.stop] for d, w in part], config.pad_token_id).to(model.device)
        wanted = torch.zeros_like(batch.sentence_mask)  # (B, S)
        for row, (_, w) in zip(wanted, part, strict=True):
            row[w.scored - w.start : w.stop - w.start] = True
        continues = torch.tensor([w.stop < len(documents[d]) for d, w in part], device=model.device)
        nats = model.nats(**vars(batch), continues=continues, wanted=wanted, measure=measure)
        for (d, w), flags, tokens in zip(part, nats.stop.tolist(), nats.token.cpu(), strict=True):
            if found[d]:  # the window before has seen more in front of the flag between them
                flags[w.scored - w.start] = found[d].pop()[0]
            sizes = map(len, documents[d][w.scored : w.stop])
            for i, size in enumerate(sizes, start=w.scored - w.start):
                found[d].append((flags[i], tokens[i, : size + 1].tolist()))
            found[d].append((flags[w.stop - w.start], []))
    return found


# -- after a context ---------------------------------------------------------------------------------------------------


@dataclass
class Continuation:
    """What a text costs after its context."""

    nats: float = 0.0
    greedy: bool = True  # it begins what greedy writing writes after the context

    def add(self, signed: Iterable[float]) -> None:
        """Count targets, given as `signed_nats`."""
        for value in signed:
            self.nats += abs(value)
            self.greedy &= math.copysign(1.0, value) < 0


def continue_tokens(
    scorer: TokenScorer, tokenizer: PreTrainedTokenizerFast, pairs: Sequence[Pair], window: int
) -> list[Continuation]:
    """Of a token-level model.

    Args:
        window: tokens that it sees at most.

    Raises:
        ValueError: something that is no text, or one with a lone surrogate.
    """
    codec, found = codec_of(tokenizer), [Continuation() for _ in pairs]
    documents = codec.encode_batch(_joined(pairs))
    known = [_num_known(codec, context, ids) for (context, _), ids in zip(pairs, documents, strict=True)]
    nats = score_ids(scorer, documents, known, window, batch_size=len(pairs) or 1, measure=signed_nats)
    for mine, start, (*signed, _) in zip(found, known, nats, strict=True):
        mine.add(signed[start:])
    return found


def continue_sentences(model: SLLM, pairs: Sequence[Pair]) -> list[Continuation]:
    """Of an SLLM. A context and its text are cut as the one text that they are.

    Raises:
        ValueError: something that is no text, or one with a lone surrogate.
    """
    processor, found = model.processor, [Continuation() for _ in pairs]
    longest = 0 if model.config.told_ends else model.config.max_sentence_tokens  # of sentences whose ends are chosen
    documents: list[list[list[int]]] = []
    places: list[tuple[int, int, bool]] = []  # the first scored sentence; of it the tokens given; the context closes it
    for whole, (context, _) in zip(processor.encode_batch(_joined(pairs)), pairs, strict=True):
        known = _num_known(processor.codec, context, whole.input_ids)
        ended, going_on = processor.split_open_end(whole.sentences())
        sentences = [*ended, going_on] if going_on else ended  # white space at the end: "Yes. He ", not "He" and " "
        ends = list(accumulate(map(len, sentences)))
        first = bisect_left(ends, known)  # the sentence of the context's last token
        forced = known - (ends[first] - len(sentences[first])) if sentences else 0
        closed = not processor.split_open_end([*sentences[:first], sentences[first][:forced]])[1] if known else False
        documents.append(sentences)
        places.append((first, forced, closed))
    nats = nats_in_sentences(model, documents, [first for first, *_ in places], signed_nats)
    for mine, sentences, (first, forced, closed), (*scored, _) in zip(found, documents, places, nats, strict=True):
        if forced == sum(map(len, sentences[first:])):
            continue  # nothing stands after the context
        for number, (flag, signed) in enumerate(scored, start=first):
            size, given = len(sentences[number]), forced if number == first else 0
            if not given:  # that this sentence follows
                mine.nats += flag
                mine.greedy &= flag <= EVEN
            mine.add(signed[given:size])
            if number + 1 < len(sentences) and size < longest:  # it has an end mark
                if given == size and closed:
                    mine.nats += abs(signed[size])
                else:
                    mine.add(signed[size:])
            if closed and 0 < given < size:  # "He left." and "com": nobody writes that
                mine.greedy = False
    return found


def _joined(pairs: Sequence[Pair]) -> list[str]:
    contexts, texts = text_list([c for c, _ in pairs], "contexts"), text_list([t for _, t in pairs])
    return [context + text for context, text in zip(contexts, texts, strict=True)]


def _num_known(codec: TokenCodec, context: str, ids: list[int]) -> int:
    """Tokens of the whole that lie in the context. One that goes on behind it belongs to the text: so the likelihood is
    at most that of the text after this context."""
    return int(np.searchsorted(np.cumsum(codec.sizes[ids]), len(context.encode()), side="right"))
