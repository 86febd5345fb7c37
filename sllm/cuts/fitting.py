"""Fit rule `learned` to what fresh states were worth in a train split.

P places of a document, K features, W rows of the table.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil

import numpy as np
from transformers import PreTrainedTokenizerFast

from lmbase.text.codec import TokenCodec, codec_of
from lmbase.text.learned import BLOCK, MOST_AGE, PRIOR, UNITS, VERSION, LearnedCuts
from lmbase.text.places import CLASSES, TABLE, Places, character_classes, places_of
from lmbase.text.tokenizers import tokenizer_hash
from lmbase.text.told_ends import whole_tokens
from sllm.cuts.optimum import Costs, at_rate, capped

HORIZON = 8  # tokens behind a cut whose gain is counted
AGES = range(2, 20)  # of the state that a cut replaces
REACH = AGES[-1] + HORIZON  # tokens of a piece that are looked at
NATS = 1000  # worths are counted in 1/1000 nat
FEWEST = 256  # places that something can be learned from
SEEN = 200  # characters of a class from which its size is known
SAMPLES = {2: "абвгдежзиклмнопрст", 3: "的一是不了人我在有他这中大来上国个到说们", 4: "😀😁😂🤣😃😄😅😆😉😊"}


@dataclass
class Text:
    """A document with its tokens, and where a rule may cut it.

    Attributes:
        ids: (N,) its tokens, as they are of the whole document.
        token_ends: (N,) how many bytes of it each token and all before it have.
        byte_offsets: (characters + 1,) how many bytes stand before each character.
    """

    text: str
    ids: np.ndarray
    token_ends: np.ndarray
    byte_offsets: np.ndarray

    @classmethod
    def of(cls, text: str, codec: TokenCodec) -> "Text":
        ids = np.asarray(codec.encode(text), np.int32)
        sizes = character_classes(text)[1]
        return cls(text, ids, np.cumsum(codec.sizes[ids]), np.concatenate([[0], np.cumsum(sizes)]))

    @property
    def num_bytes(self) -> int:
        return int(self.byte_offsets[-1])

    def tokens_at(self, offsets: np.ndarray) -> np.ndarray:
        """The first token that begins at or behind each character."""
        before = np.concatenate([[0], self.token_ends])
        return np.searchsorted(before, self.byte_offsets[offsets])

    @cached_property
    def whole_tokens(self) -> tuple[np.ndarray, np.ndarray]:
        """As `told_ends.whole_tokens`."""
        return whole_tokens(self.text, self.token_ends)

    def places(self, units: Sequence[int]) -> tuple[Places, np.ndarray]:
        """The places where rule `learned` may cut, and the first token of the piece that would begin there."""
        offsets, tokens = self.whole_tokens
        found = merged(places_of(self.text, units, offsets))
        return found, tokens[np.searchsorted(offsets, found.offsets)]

    def learned_starts(self, rule: LearnedCuts, longest: int, part: int | None = None) -> list[int]:
        """First tokens of the pieces that it makes, with the cap. Args: part: characters that are cut as a text."""
        offsets, tokens = self.whole_tokens
        starts, size = [0], part or len(self.text)
        for begin in range(0, len(self.text), size):
            first, last = np.searchsorted(offsets, [begin + 1, begin + size])
            text, inside = self.text[begin : begin + size], offsets[first:last] - begin
            starts += tokens[first + np.searchsorted(inside, list(rule.cuts(text, inside)))].tolist()
        return capped(starts, len(self.ids), longest)

    def starts(self, offsets: Sequence[int], longest: int) -> list[int]:
        """First tokens of the pieces that a rule's cuts make, with the cap."""
        found = np.unique(self.tokens_at(np.asarray([0, *offsets], np.int64)))
        return capped(found[found < len(self.ids)].tolist(), len(self.ids), longest)


def gains(costs: Costs, starts: Sequence[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a fresh state brings: nats that the next `HORIZON` tokens cost less than with an older one.

    Returns: arrays of one length: the index of a start, the age in tokens of the state that it replaces, and the gain.
    """
    rows = np.cumsum(costs.of(starts), axis=1, dtype=np.float64)  # (S,T)
    found = []
    for back, later, age in compared(np.asarray(starts), costs.size, rows.shape[1]):
        stale = rows[later - back, age + HORIZON - 1] - rows[later - back, age - 1]
        found.append((later, age, stale - rows[later, HORIZON - 1]))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))  # type: ignore[return-value]


def compared(starts: np.ndarray, size: int, reach: int) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Starts whose states are compared with that of the start `back` before: `back`, their indices, that one's ages."""
    for back in range(1, len(AGES)):
        later = np.arange(back, len(starts))
        age = starts[later] - starts[later - back]
        fits = (age >= AGES[0]) & (age <= AGES[-1]) & (age + HORIZON <= reach) & (starts[later] + HORIZON <= size)
        yield back, later[fits], age[fits]


def check_enough(texts: Sequence[Text], codec: TokenCodec) -> None:
    """
    Raises:
        ValueError: the documents have too few places to learn anything, whatever their costs.
    """
    units = token_units(texts, codec)
    found = sum(len(later) for text in texts for _, later, _ in compared(text.places(units)[1], len(text.ids), REACH))
    if found < FEWEST:
        raise ValueError(
            f"The train split has {found} places where a cut could be worth something: too few to learn from, at "
            f"least {FEWEST} are needed. Give more text, or use --rule auto, which learns nothing."
        )


def fit(
    texts: Sequence[Text], costs: Sequence[Costs], tokenizer: PreTrainedTokenizerFast, wanted: float, longest: int
) -> LearnedCuts:
    """Learn from documents whose costs are known, and that are enough (`check_enough`).

    Args:
        wanted: tokens per piece. longest: of a piece.
    """
    units = token_units(texts, codec_of(tokenizer))
    features, worths, ages, index, total = [], [], [], [], 0
    for text, cost in zip(texts, costs, strict=True):
        places, starts = text.places(units)
        if len(starts) < 2:
            continue
        number, age, gain = gains(cost, starts.tolist())
        features.append(places.features)
        index.append(number + total)
        ages.append(age)
        worths.append(gain)
        total += len(starts)
    age, gain, row = np.concatenate(ages), np.concatenate(worths), np.concatenate(index)
    by_age = np.array([gain[age == a].mean() if (age == a).any() else 0.0 for a in AGES])
    old = by_age[len(AGES) // 2 :].mean()
    discount = np.zeros(MOST_AGE)
    discount[AGES[0] : AGES[-1] + 1] = old - np.maximum.accumulate(np.minimum(by_age, old))
    number = np.bincount(row, minlength=total)
    mean = np.bincount(row, gain + discount[age], minlength=total) / np.maximum(number, 1)
    rows = np.concatenate(features, axis=1)
    table = ridge(rows[:, number > 0], mean[number > 0])
    learned = LearnedCuts(
        np.clip(np.round(table * NATS), -32768, 32767).astype(np.int16),
        np.round(discount * NATS).astype(np.int32),
        np.zeros(PRIOR, np.int32),
        units,
        1,
        wanted,
        1.0,
        soon_enough(longest, wanted),
        tokenizer_hash(tokenizer),
        VERSION,
    )
    return calibrated(learned, texts, wanted, longest)


def soon_enough(longest: int, wanted: float) -> int:
    """Tokens after which a rule takes the next place, so that few pieces reach the cap before there is one."""
    return max(longest * 3 // 4, ceil(wanted))


def ridge(features: np.ndarray, wanted: np.ndarray, penalty: float = 30.0, steps: int = 40) -> np.ndarray:
    """(W,) weights whose sums over the features (K, P) come near the wanted (P,) values, by conjugate gradients."""

    def forward(weights: np.ndarray) -> np.ndarray:
        return sum(weights[row] for row in features)

    def backward(values: np.ndarray) -> np.ndarray:
        return sum(np.bincount(row, values, TABLE) for row in features)  # type: ignore[return-value]

    weights = np.zeros(TABLE)
    residual = backward(wanted)
    direction, size = residual.copy(), float(residual @ residual)
    for _ in range(steps):
        if size < 1e-10:
            break
        product = backward(forward(direction)) + penalty * direction
        step = size / float(direction @ product)
        weights += step * direction
        residual -= step * product
        before, size = size, float(residual @ residual)
        direction = residual + size / before * direction
    return weights


def calibrated(learned: LearnedCuts, texts: Sequence[Text], wanted: float, longest: int) -> LearnedCuts:
    """The same rule for pieces of so many tokens, and with the worths that these texts have as its prior."""
    places = [text.places(learned.token_units)[0] for text in texts]
    worths = np.concatenate([learned.worths(of_text) for of_text in places])
    prior = np.quantile(worths, (np.arange(PRIOR) + 0.5) / PRIOR).astype(np.int32)
    units = sum(of_text.unit_marks[-1] for of_text in places if of_text.unit_marks)
    prior_units = max(1, round(units * PRIOR / len(worths)))
    learned = replace(learned, prior=prior, prior_units=prior_units, tokens_per_piece=wanted)

    def cut(inverse: float) -> list[list[int]]:
        # In parts so short that the rule does not correct itself: it would make up for any pressure.
        rule = replace(learned, pressure=1 / inverse)
        return [text.learned_starts(rule, longest, BLOCK) for text in texts]

    tokens = sum(len(text.ids) for text in texts)
    return replace(learned, pressure=1 / at_rate(cut, tokens / wanted, 0.1, 5.0))


def merged(parts: Iterable[Places]) -> Places:
    """The places of all parts of a text."""
    parts = list(parts)
    return Places(
        0,
        parts[-1].stop if parts else 0,
        np.concatenate([np.zeros(0, np.int64), *(part.offsets for part in parts)]),
        np.concatenate([part.features for part in parts], axis=1) if parts else np.zeros((1, 0), np.int64),
        np.concatenate([np.zeros(0, np.int64), *(part.sizes for part in parts)]),
        [mark for part in parts for mark in part.unit_marks],
    )


def token_units(texts: Sequence[Text], codec: TokenCodec) -> list[int]:
    """Size of a character of each class in 1/UNITS of a token, as these texts have it: a token counts for each of its
    bytes in equal parts. Classes that they lack take their size from a few characters."""
    shares, numbers = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for text in texts:
        classes, lengths = character_classes(text.text)
        sizes = codec.sizes[text.ids]
        np.add.at(shares, np.repeat(classes, lengths), np.repeat(1 / sizes, sizes))
        numbers += np.bincount(classes, minlength=len(CLASSES))
    for number, (_, length) in enumerate(CLASSES):
        if numbers[number] < SEEN:
            sample = SAMPLES.get(length, "a1,")
            shares[number], numbers[number] = len(codec.encode(sample)), len(sample)
    return np.maximum(1, np.round(UNITS * shares / numbers)).astype(int).tolist()
