"""What every rule's cuts cost on held-out text, beside fixed lengths, entropy jumps, the learned rule and the optimum.

All are priced by the same costs (`stale_reader`), each rival with as many pieces as the rule that it stands beside.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from lmbase.text.learned import SHORTEST, LearnedCuts
from lmbase.text.segmentation import AUTO, SEGMENTERS, choose_rule
from sllm.cuts.fitting import Text, soon_enough
from sllm.cuts.optimum import Costs, at_rate, capped, cheapest, price

RULES = ("punctuation", "sentence", "line", AUTO)  # those whose number of pieces is what it is
Cuts = Callable[[float], list[list[int]]]  # a setting -> starts of the pieces of each text


class PricedCosts(Costs, Protocol):
    """As `stale_reader.DocumentCosts`."""

    entropies: np.ndarray


class Prices:
    """Prices of cuts of some texts. Args: longest: tokens of a piece at most; what the costs reach."""

    def __init__(self, texts: Sequence[Text], costs: Sequence[PricedCosts | None], learned: LearnedCuts, longest: int):
        kept = [i for i, text in enumerate(texts) if len(text.ids)]
        self.texts, self.costs = [texts[i] for i in kept], [cost for i in kept if (cost := costs[i])]
        self.learned, self.longest = learned, longest
        self.tokens = sum(len(text.ids) for text in self.texts)
        self.bytes = sum(text.num_bytes for text in self.texts)
        if not self.tokens:
            raise ValueError(
                "There is no text to price cuts on: give --price_on texts that are not empty, or --prices false."
            )
        # Rivals may begin a piece where rule `learned` may.
        self.places = [
            capped([0, *text.places(learned.token_units)[1].tolist()], len(text.ids), longest) for text in self.texts
        ]

    def rows(self) -> Iterator[dict[str, float | str]]:
        """Figures of each rule, and of its rivals with as many pieces; the learned rule at its own length last."""
        for rule in RULES:
            yield self._row(rule, self._of_rule(rule))
        yield self._row("learned", self._learned(self.learned.tokens_per_piece))

    def _row(self, name: str, starts: list[list[int]]) -> dict[str, float | str]:
        pieces = sum(map(len, starts))
        nats = self.nats(starts)
        found: dict[str, float | str] = {
            "rule": name,
            "tokens_per_piece": self.tokens / pieces,
            "nats_per_byte": nats,
        }
        for rival, (cut, low, high) in self._rivals().items():
            made = cut(at_rate(cut, pieces, low, high))
            if abs(sum(map(len, made)) - pieces) <= 0.03 * pieces:  # else it cannot make so few or so many
                found[f"{rival}_over_rule"] = self.nats(made) / nats
        return found

    def nats(self, starts: Sequence[Sequence[int]]) -> float:
        """Nats per byte."""
        return sum(price(cost, of_text) for cost, of_text in zip(self.costs, starts, strict=True)) / self.bytes

    def _of_rule(self, rule: str) -> list[list[int]]:
        found = []
        for text in self.texts:
            segmenter = SEGMENTERS[choose_rule(text.text) if rule == AUTO else rule]
            found.append(text.starts(list(segmenter.cuts(text.text, None)), self.longest))
        return found

    def _rivals(self) -> dict[str, tuple[Cuts, float, float]]:
        """How each is cut at a setting, and between what settings: more makes fewer pieces."""
        return {
            "fixed": (self._fixed, 1.0, float(self.longest)),
            "entropy": (self._entropy, 1e-3, 20.0),
            "learned": (self._learned, float(SHORTEST), float(self.longest)),
            "optimum": (self._optimum, 1e-3, 100.0),
        }

    def _fixed(self, length: float) -> list[list[int]]:
        found = []
        for text in self.texts:
            found.append(np.unique(np.arange(0, len(text.ids), max(length, 1.0)).astype(int)).tolist())
        return found

    def _entropy(self, least: float) -> list[list[int]]:
        """Cut where the next token is more uncertain than that."""
        found = []
        for cost, places in zip(self.costs, self.places, strict=True):
            chosen = [place for place in places[1:] if cost.entropies[place] > least]
            found.append(capped([0, *chosen], cost.size, self.longest))
        return found

    def _learned(self, length: float) -> list[list[int]]:
        longest = soon_enough(self.longest, length)
        rule = replace(self.learned, tokens_per_piece=max(length, SHORTEST), longest=longest)
        return [text.learned_starts(rule, self.longest) for text in self.texts]

    def _optimum(self, per_piece: float) -> list[list[int]]:
        pairs = zip(self.costs, self.places, strict=True)
        return [cheapest(cost, places, per_piece) for cost, places in pairs]
