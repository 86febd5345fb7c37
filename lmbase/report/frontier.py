"""Quality against speed: the line through the best token-level models, and on which side of it another model lies.

The line joins neighbours among the models that no other one beats in both figures, straight over the logarithm of
tokens per second. It ends with the slowest and the fastest of them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from lmbase.report.statistics import bits_per_byte, paired_bootstrap

CURVE = 24  # points of each stretch where the line is drawn over speeds, not over their logarithm


@dataclass(frozen=True)
class Point:
    name: str
    speed: float  # tokens per second
    bits: float  # per byte


@dataclass(frozen=True)
class Measurement:
    """A model in one way of writing: nats of each document, tokens per second of each round."""

    name: str
    nats: Sequence[float]
    speeds: Sequence[float]

    def point(self, sizes: Sequence[float], number: int | None = None) -> Point:
        """With the speed of one round, else the median; `sizes` are the bytes of the documents."""
        speed = median(self.speeds) if number is None else self.speeds[number]
        return Point(self.name, speed, bits_per_byte(self.nats, sizes))


def best_points(points: Sequence[Point]) -> list[Point]:
    """Those to which no other one is equal or better in both figures, the slowest (and best) first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda point: (-point.speed, point.bits)):
        if not best or point.bits < best[-1].bits:
            best.append(point)
    return best[::-1]


def neighbours(line: Sequence[Point], speed: float) -> tuple[Point, Point, float] | None:
    """The points of a line on both sides of a speed, and the share of the faster one there; None beyond its ends."""
    for slow, fast in pairwise(line):
        if slow.speed <= speed <= fast.speed:
            return slow, fast, math.log(speed / slow.speed) / math.log(fast.speed / slow.speed)
    return None


def bits_at(line: Sequence[Point], speed: float) -> float | None:
    """Bits per byte of the line at a speed; None beyond its ends."""
    found = neighbours(line, speed)
    return None if found is None else (1 - found[2]) * found[0].bits + found[2] * found[1].bits


def curve(line: Sequence[Point]) -> list[tuple[float, float]]:
    """The line as (speed, bits per byte), in steps short enough to be drawn straight over speeds."""
    stretches = (np.geomspace(a.speed, b.speed, CURVE).clip(a.speed, b.speed) for a, b in pairwise(line))
    speeds = [float(speed) for stretch in stretches for speed in stretch]
    return [(speed, bits) for speed in speeds if (bits := bits_at(line, speed)) is not None]


def beside_line(
    model: Measurement, rivals: Sequence[Measurement], sizes: Sequence[float], seed: int = 0
) -> dict[str, Any]:
    """Columns that say where a model lies beside the line through its rivals.

    `over_line` is its bits per byte over the line's at its own speed (below 1: beyond the line), with a 95% interval
    over documents, the speeds given, and the lowest and highest of the rounds, the documents given. The `verdict` is
    `beyond` or `behind` where both of these agree, else `level`; beyond the ends of the line nothing is extrapolated.

    Args:
        rivals: token-level models, timed in the same rounds and scored on the same documents.
        sizes: bytes of the documents.
    """
    point = model.point(sizes)
    line = best_points([rival.point(sizes) for rival in rivals])
    found = neighbours(line, point.speed)
    if found is None:
        return {"verdict": _beyond_the_ends(point, line)}
    slow, fast, share = found
    nats = {rival.name: np.asarray(rival.nats, dtype=float) for rival in rivals}
    of_line = (1 - share) * nats[slow.name] + share * nats[fast.name]
    bits = bits_per_byte(of_line, sizes)
    columns: dict[str, Any] = {"line_bits_per_byte": bits, "over_line": point.bits / bits}
    if len(sizes) < 2 or len(model.speeds) < 2:
        few = "one document" if len(sizes) < 2 else "one round"
        return columns | {"verdict": f"{few} is too little to say"}
    _, low, high = paired_bootstrap(model.nats, sizes, of_line, sizes, seed=seed)
    rounds = [
        _over(model.point(sizes, number), best_points([rival.point(sizes, number) for rival in rivals]))
        for number in range(len(model.speeds))
    ]
    columns |= {"over_line_low": low, "over_line_high": high}
    columns |= {"over_line_rounds_low": min(rounds), "over_line_rounds_high": max(rounds)}
    beyond, behind = max([high, *rounds]) < 1, min([low, *rounds]) > 1
    return columns | {"verdict": "beyond" if beyond else "behind" if behind else "level"}


def _over(point: Point, line: Sequence[Point]) -> float:
    """Bits per byte over the line's; beyond its ends over those of the end if it loses, or is lost to, in both figures,
    else 1: nothing is known."""
    at = bits_at(line, point.speed)
    if at is not None:
        return point.bits / at
    if point.speed > line[-1].speed:
        return min(1.0, point.bits / line[-1].bits)
    return max(1.0, point.bits / line[0].bits)


def _beyond_the_ends(point: Point, line: Sequence[Point]) -> str:
    slowest, fastest = line[0], line[-1]
    if point.speed > fastest.speed:
        better = "with fewer bits than the fastest" if point.bits < fastest.bits else "no line to compare with there"
        return f"faster than every token-level point: {better}"
    better = "with fewer bits than all of them" if point.bits < slowest.bits else f"behind {slowest.name} in both"
    return f"slower than the line: {better}"


def told(name: str, columns: dict[str, Any]) -> str:
    """A line for the screen."""
    if "over_line" not in columns:
        return f"{name}: {columns['verdict']}"
    percent = 100 * (columns["over_line"] - 1)
    text = f"{name}: {columns['verdict']}; {abs(percent):.1f}% {'more' if percent > 0 else 'fewer'} bits per byte than "
    text += "the token-level line at its speed"
    if "over_line_low" in columns:
        text += f" (95% over documents {columns['over_line_low'] - 1:+.1%} to {columns['over_line_high'] - 1:+.1%})"
    return text
