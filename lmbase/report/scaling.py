"""Laws: how loss falls with parameters N and training tokens D, fitted to runs of two kinds and laid side by side.

    bits(N, D) = floor + a / N^alpha + b / D^beta      (Hoffmann et al., arXiv 2203.15556, approach 3)

Where runs differ in one of the two only, that term alone is fitted. The exponents are searched on a grid that is made
finer thrice; for each pair of them floor, a and b, none below zero, follow by least squares of relative errors.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np

EXPONENTS = np.geomspace(0.05, 2.0, 12)
DRAWS = 200
FAR = 4.0  # times what was run: what a law says beyond is told to be a guess
POOR = 0.05  # a relative error from which on a run is told to lie off its law
APART = 1.1  # values that differ by less count as one: trainings overshoot their tokens by a part of a batch


@dataclass(frozen=True)
class Run:
    """A finished training, measured."""

    parameters: float
    tokens: float
    bits: float  # per byte of held-out text


@dataclass(frozen=True)
class Law:
    """A fit; `errors` are relative, one for each run. A factor of zero was found to be zero where the runs vary in its
    quantity (`over`), and was not fitted where they do not: then the law says nothing about it."""

    floor: float
    a: float
    alpha: float
    b: float
    beta: float
    errors: tuple[float, ...] = ()
    over: tuple[str, ...] = ("parameters", "tokens")

    def bits(self, parameters: float, tokens: float) -> float:
        """Bits per byte of a model of so many parameters after so many tokens."""
        return self.floor + self.a * parameters**-self.alpha + self.b * tokens**-self.beta

    def tokens_for(self, bits: float, parameters: float) -> float:
        """Training tokens that bring a model of so many parameters to these bits per byte; infinity if none do."""
        return _inverse(bits - self.floor - self.a * parameters**-self.alpha, self.b, self.beta)

    def parameters_for(self, bits: float, tokens: float) -> float:
        """Parameters that bring a training on so many tokens to these bits per byte; infinity if none do."""
        return _inverse(bits - self.floor - self.b * tokens**-self.beta, self.a, self.alpha)


def _inverse(rest: float, factor: float, exponent: float) -> float:
    """x of rest = factor / x^exponent."""
    if rest <= 0 or factor == 0:
        return math.inf
    logarithm = math.log(factor / rest) / exponent
    return math.exp(logarithm) if logarithm < 700 else math.inf


class Interval(NamedTuple):
    """An estimate and the 2.5% and 97.5% quantiles of its bootstrap draws; any of them may be infinite."""

    value: float
    low: float
    high: float


def fewest(sizes: int, counts: int) -> int:
    """Runs that a law needs: one more than it has numbers, which are five where sizes and tokens differ, else three."""
    return 4 if 1 in (sizes, counts) else 6


def distinct(values: Iterable[float]) -> int:
    """How many different values there are."""
    return len(set(_steps([*values])))


def _steps(values: Sequence[float]) -> list[int]:
    """Which of the different values, counted from the smallest, each one is."""
    ordered = sorted(values)
    above = [b for a, b in pairwise(ordered) if b > APART * a]
    return [sum(value >= start for start in above) for value in values]


def _places(runs: Sequence[Run]) -> list[tuple[int, int]]:
    """Where in their grid runs stand: which number of tokens, which size."""
    return [*zip(_steps([run.tokens for run in runs]), _steps([run.parameters for run in runs]), strict=True)]


def fit_law(runs: Sequence[Run], name: str = "these runs") -> Law:
    """The law of runs of one kind.

    Raises:
        ValueError: too few runs, or runs that differ in neither parameters nor tokens enough to fit. Runs of one size
            and number of tokens, such as seeds, count as one.
    """
    sizes, counts = distinct(run.parameters for run in runs), distinct(run.tokens for run in runs)
    places = set(_places(runs))
    if len(places) < fewest(sizes, counts) or max(sizes, counts) < 3:
        raise ValueError(
            f"{name}: {len(runs)} run(s) at {len(places)} place(s), of {sizes} size(s) and {counts} number(s) of "
            f"tokens, are too few to fit a law to: give at least {fewest(sizes, counts)} that differ in them, with "
            "three or more different sizes or numbers of tokens."
        )
    return _Fitting.of(runs).law(np.array([run.bits for run in runs], dtype=float))


@dataclass(frozen=True)
class _Fitting:
    """What of a fit does not depend on the bits: sizes and tokens over their geometric means."""

    parameters: np.ndarray  # (R,)
    tokens: np.ndarray  # (R,)
    middle: tuple[float, float]

    @staticmethod
    def of(runs: Sequence[Run]) -> "_Fitting":
        table = np.array([(run.parameters, run.tokens) for run in runs], dtype=float)
        middle = np.exp(np.log(table).mean(axis=0))
        parameters, tokens = (table / middle).T
        return _Fitting(parameters, tokens, (float(middle[0]), float(middle[1])))

    def law(self, bits: np.ndarray) -> Law:
        alphas, betas = (EXPONENTS if distinct(of) > 1 else np.ones(1) for of in (self.parameters, self.tokens))
        for _ in range(4):
            alpha, beta, (floor, a, b) = self._best(bits, alphas, betas)
            alphas, betas = _finer(alphas, alpha), _finer(betas, beta)
        over = [("parameters", len(alphas)), ("tokens", len(betas))]
        varied = tuple(name for name, count in over if count > 1)
        law = Law(floor, a * self.middle[0] ** alpha, alpha, b * self.middle[1] ** beta, beta, over=varied)
        found = floor + a * self.parameters**-alpha + b * self.tokens**-beta
        return replace(law, errors=tuple((bits / found - 1).tolist()))

    def _best(self, bits: np.ndarray, alphas: np.ndarray, betas: np.ndarray) -> tuple[float, float, list[float]]:
        """The exponents of a grid with the least squares, and their factors."""
        alpha, beta = (grid.ravel() for grid in np.meshgrid(alphas, betas, indexing="ij"))  # (G,)
        terms = [np.ones((len(alpha), len(bits)))]  # the floor; a term that does not vary is part of it
        terms += [self.parameters ** -alpha[:, None]] if len(alphas) > 1 else []
        terms += [self.tokens ** -beta[:, None]] if len(betas) > 1 else []
        columns = np.stack(terms, axis=-1) / bits[:, None]  # (G, R, terms): errors relative to the bits
        error, factors = _least_squares(columns)
        best = int(error.argmin())
        floor, *others = factors[best].tolist()
        a = others.pop(0) if len(alphas) > 1 else 0.0
        return float(alpha[best]), float(beta[best]), [floor, a, others.pop() if others else 0.0]


def _finer(grid: np.ndarray, best: float) -> np.ndarray:
    """As many exponents between the neighbours of the best one."""
    if len(grid) == 1:
        return grid
    place = int(np.abs(grid - best).argmin())
    return np.linspace(grid[max(place - 1, 0)], grid[min(place + 1, len(grid) - 1)], len(grid))


def _least_squares(columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors, none below zero, with which columns come nearest to 1.

    Args:
        columns: (G, R, K).

    Returns:
        the sum of squares (G,) and the factors (G, K) of each problem. Of few columns every choice of those that are
        not zero is tried.
    """
    problems, _, width = columns.shape
    least, factors = np.full(problems, np.inf), np.zeros((problems, width))
    for number in range(1, width + 1):
        for chosen in map(list, combinations(range(width), number)):
            part = columns[:, :, chosen]
            moments = part.transpose(0, 2, 1) @ part + 1e-12 * np.eye(number)
            found = np.linalg.solve(moments, part.sum(axis=1)[..., None])[..., 0]  # (G, number)
            errors = (((part @ found[..., None])[..., 0] - 1) ** 2).sum(axis=1)
            better = (found >= 0).all(axis=1) & (errors < least)
            least[better] = errors[better]
            factors[better] = 0
            factors[np.ix_(better, chosen)] = found[better]
    return least, factors


def drawn_laws(runs: Sequence[Run], law: Law, seed: int | tuple[int, int] = 0, draws: int = DRAWS) -> list[Law]:
    """Laws of as many runs whose bits differ from the fit by errors of other runs: a bootstrap of residuals, made
    larger for the numbers that were fitted. Which errors are drawn depends on the runs' places in their grid, not on
    their order."""
    fitting, generator = _Fitting.of(runs), np.random.default_rng(seed)
    fitted = np.array([law.bits(run.parameters, run.tokens) for run in runs])
    numbers = fewest(distinct(fitting.parameters), distinct(fitting.tokens)) - 1
    errors: np.ndarray = np.array(law.errors) * math.sqrt(len(runs) / (len(runs) - numbers))
    order = sorted(range(len(runs)), key=_places(runs).__getitem__)
    back = np.argsort(order)
    return [fitting.law(fitted * (1 + generator.choice(errors[order], len(runs))[back])) for _ in range(draws)]


def drawn_together(
    runs: Sequence[Run], law: Law, others: Sequence[Run], of_others: Law, seed: int, draws: int = DRAWS
) -> list[list[Law]]:
    """Draws of two kinds. Where both have the same grid, runs of a place deviate alike and are drawn together; else
    either kind is drawn for itself."""
    same = sorted(_places(runs)) == sorted(_places(others))
    other_seed = seed if same else (seed, 1)
    return [drawn_laws(runs, law, seed, draws), drawn_laws(others, of_others, other_seed, draws)]


@dataclass(frozen=True)
class Comparison:
    """How many times the tokens, or the parameters, of a sentence-level run the token level needs for its bits; None
    where the token-level runs do not vary in them."""

    run: Run
    tokens: Interval | None
    parameters: Interval | None


def compare_laws(runs: Sequence[Run], sentence: Sequence[Law], token: Sequence[Law]) -> list[Comparison]:
    """For each sentence-level run; the first law of either kind is the fit, the others are its draws. The token level's
    runs vary in all that the sentence level's vary in: of what does not vary a law knows nothing."""
    assert {*sentence[0].over} <= {*token[0].over}

    def interval(factor: Callable[[Law, Law], float]) -> Interval:
        first, *drawn = (factor(ours, theirs) for ours, theirs in zip(sentence, token, strict=True))
        ordered = sorted(drawn)
        cut = int(0.025 * len(ordered))
        return Interval(first, ordered[cut], ordered[-1 - cut])

    found = []
    for run in runs:
        size, count = run.parameters, run.tokens
        factors = {
            "tokens": lambda s, t, n=size, d=count: t.tokens_for(s.bits(n, d), n) / d,
            "parameters": lambda s, t, n=size, d=count: t.parameters_for(s.bits(n, d), d) / n,
        }
        found.append(Comparison(run, **{n: interval(f) if n in token[0].over else None for n, f in factors.items()}))
    return found


def told_law(name: str, law: Law) -> str:
    """A law as a line for the screen."""
    terms = [f"{law.floor:.3f}"]
    terms += [f"{law.a:.3g} / N^{law.alpha:.3f}"] if law.a else []
    terms += [f"{law.b:.3g} / D^{law.beta:.3f}"] if law.b else []
    worst = max((abs(error) for error in law.errors), default=0.0)
    poor = ": THE LAW DOES NOT FIT, trust nothing that follows from it" if worst > POOR else ""
    return f"{name}: bits/byte = {' + '.join(terms)} (no run further off than {worst:.1%}{poor})"


def told_factor(interval: Interval, what: str, law: Law) -> str:
    """`1.20 times the tokens (95% 1.10 to 1.35)`, what infinity means by the token level's law included."""
    if not (law.a if what == "parameters" else law.b):
        return f"an unknown number of {what}, as its bits do not fall with them in these rows"
    if math.isinf(interval.value):
        return f"more {what} than any number of them, by the fit"
    high = "without end" if math.isinf(interval.high) else f"{interval.high:.2f}"
    far = ", far beyond what was run" if interval.value > FAR else ""
    return f"{interval.value:.2f} times the {what} (95% {interval.low:.2f} to {high}{far})"
