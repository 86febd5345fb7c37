"""What a table says, in three sentences and the few figures that carry them, by the rules of `docs/evaluation.md`: a
difference is named only where an interval shows it."""

from collections.abc import Sequence
from dataclasses import dataclass

from lmbase.report.columns import OTHER_TOKENS, PER_TOKEN, cell, figure, header, value
from lmbase.report.formats import number, short_count, size
from lmbase.report.rows import Row
from lmbase.report.tables import Table

KEY_FIGURES = {
    "bits_per_byte": "ratio",
    "tokens_per_second": "speed_ratio",
    "kv_bytes_per_token": None,
    "parameters": None,
    "training_tokens": None,
}


UNEQUAL = 0.05  # part by which tokens of training may differ before the verdict says so


@dataclass(frozen=True)
class Story:
    """The model that is told of, and what it is compared with."""

    subject: Row
    baseline: Row | None
    equal: Row | None  # the subject where no prediction sees more than the baseline's

    @property
    def sentences(self) -> list[str]:
        return [sentence for sentence in (self.quality(), self.speed(), self.size()) if sentence]

    def quality(self) -> str:
        """Level, ahead or behind, with its interval."""
        row, name = self.subject, self.subject.model
        if self.baseline is None or (found := _interval(row, "ratio")) is None:
            return (
                f"{name} takes {cell(row, 'bits_per_byte')} bits per byte of unseen text; no ratio to a baseline "
                "stands beside it, so this does not say whether that is much."
            )
        (ratio, low, high), other = found, self.baseline.model
        if low is None or high is None:
            return (
                f"{name} takes {ratio:.3f} times the bits per byte of {other}, which names no difference: one document "
                "has no interval."
            )
        times = f"{ratio:.3f} times its bits per byte of unseen text"
        told = f"{name} is {_word(low, high)} {other}: {times} (95% interval {low:.3f} to {high:.3f})"
        equal = _interval(self.equal, "ratio") if self.equal is not None else None
        if equal is not None and equal[1] is not None and equal[2] is not None:
            word = _word(equal[1], equal[2])
            also = "it is, too" if word == _word(low, high) else f"it is {word} it"
            told += f"; with equal context {also} ({equal[1]:.3f} to {equal[2]:.3f})"
        return f"{told}{self._unequal_training()}."

    def _unequal_training(self) -> str:
        """What a comparison is not fair by: text that one of the two has seen more of."""
        assert self.baseline is not None
        own, other = (figure(row, "training_tokens") for row in (self.subject, self.baseline))
        if not own or not other or abs(own - other) <= UNEQUAL * max(own, other):
            return ""
        favoured = self.subject if own > other else self.baseline
        counts = f"{short_count(own)} training tokens against {short_count(other)}"
        return f"; {counts} favour {favoured.model}"

    def speed(self) -> str:
        """How much faster, with the range of the rounds."""
        row, found = self.subject, _interval(self.subject, "speed_ratio")
        if self.baseline is None or found is None:
            speed = figure(row, "tokens_per_second")
            own = " (of its own tokenizer)" if row.extra.get(OTHER_TOKENS) else ""
            return f"It writes {number(speed)} tokens per second{own}." if speed else ""
        ratio, low, high = found
        other = self.baseline.model
        figures = (
            f"{cell(row, 'tokens_per_second')} against {cell(self.baseline, 'tokens_per_second')} tokens per second"
        )
        rounds = figure(row, "rounds")
        if low is None or high is None or (rounds is not None and rounds < 2):
            return f"It wrote {ratio:.2f} times as fast as {other} in one round, which names no difference: {figures}."
        spread = f"{low:.2f} to {high:.2f}" + (f" in {rounds:.0f} rounds" if rounds else "")
        if low <= 1 <= high:
            return f"It writes as fast as {other}, as far as the rounds tell ({spread}): {figures}."
        word = "faster" if low > 1 else "slower"
        return f"It writes {word}: {ratio:.2f} times the speed of {other} ({spread}), {figures}."

    def size(self) -> str:
        """How much smaller its cache is, and what it has in parameters for that. Both are counted, not measured."""
        if self.baseline is None:
            return ""
        told, name = [], self.baseline.model
        own, other = (figure(row, "kv_bytes_per_token") for row in (self.subject, self.baseline))
        if own and other and not self.subject.extra.get(OTHER_TOKENS):
            fixed = figure(self.subject, "fixed_cache_bytes")
            told.append(
                f"Its cache is {_times(own, other)} {name}'s: {number(round(own))} bytes a token of text against "
                f"{number(round(other))}{f', beside a fixed {size(fixed)}' if fixed else ''}"
            )
        own, other = (figure(row, "parameters") for row in (self.subject, self.baseline))
        if own and other:
            start = "in" if told else "In"
            counts = f"{short_count(own)} against {short_count(other)}"
            told.append(f"{start} parameters it is {_times(own, other)} {name}: {counts}")
        return "; ".join(told) + "." if told else ""

    def table(self) -> Table:
        """The figures behind the sentences."""
        lines = []
        for name, ratio in KEY_FIGURES.items():
            own, other = (value(row, name) if row else None for row in (self.subject, self.baseline))
            if own is None and other is None:
                continue
            if name in PER_TOKEN and self.subject.extra.get(OTHER_TOKENS):
                other = None  # no ratio
            line = [header(name), cell(self.subject, name)]
            if self.baseline is not None:
                interval = _interval(self.subject, ratio) if ratio else None
                line += [cell(self.baseline, name), _ratio(interval, own, other)]
            lines.append(line)
        head = ["", self.subject.model, *([self.baseline.model, "ratio"] if self.baseline else [])]
        return Table(head, lines, numeric={1, 2, 3}, caption="The figures behind these sentences")


def find_story(*tables: Sequence[Row]) -> Story | None:
    """About the first sentence-level model that is compared with a baseline, else the first model; None without
    likelihood. The baseline is that of its own table: another one may have a model of the same name, scored on another
    text or timed on another machine."""
    scored = [[row for row in rows if row.comparable and figure(row, "bits_per_byte") is not None] for rows in tables]
    if not any(scored):
        return None
    subject, table = min(
        ((row, rows) for rows in scored for row in rows),
        key=lambda pair: (
            figure(pair[0], "ratio") is None,
            pair[0].stop_nats is None,
            pair[0].protocol == "equal context",
        ),
    )
    same = [row for row in table if row.text == subject.text and row is not subject]
    compared_with = subject.extra.get("compared_with")
    baseline = next((row for row in same if row.model == compared_with), None)
    equal = next((r for r in same if r.model == subject.model and r.protocol == "equal context"), None)
    return Story(subject, baseline, equal)


def _interval(row: Row, name: str) -> tuple[float, float | None, float | None] | None:
    """A ratio and between what it lies, where that is known."""
    ratio = figure(row, name)
    return None if ratio is None else (ratio, figure(row, f"{name}_low"), figure(row, f"{name}_high"))


def _word(low: float, high: float) -> str:
    return "ahead of" if high < 1 else "behind" if low > 1 else "level with"


def _times(own: float, other: float) -> str:
    """How large something is, before the name of what it is compared with."""
    if f"{max(own, other) / min(own, other):.3g}" == "1":
        return "as large as"
    if own < other:
        return f"{other / own:.3g} times smaller than"
    return f"{own / other:.3g} times as large as"


def _ratio(interval: tuple[float, float | None, float | None] | None, own: object, other: object) -> str:
    if interval is not None:
        ratio, low, high = interval
        return f"{ratio:.3f}" + (
            f" ({low:.3f}\u00a0to\u00a0{high:.3f})" if low is not None and high is not None else ""
        )
    if isinstance(own, int | float) and isinstance(other, int | float) and other:
        return f"{own / other:.3f}"
    return "–"
