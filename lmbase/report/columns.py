"""The columns of a row of metrics.json: what tables call each, how they write its figures, which figure is best."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, Literal

from lmbase.report.formats import number, short_count
from lmbase.report.rows import COLUMNS, Row
from lmbase.report.tables import Table


@dataclass(frozen=True)
class Column:
    """`header` is the column's name in tables ("": the key in words), `show` writes a number of it."""

    header: str = ""
    show: Callable[[float], str] = number
    better: Literal["lower", "higher"] | None = None


percent = "{:.1%}".format
# The key of a column, or a pattern of keys; a column that is not here is shown as `Column()` says.
TABLE = {
    "parameters": Column(show=short_count),
    "training_tokens": Column("training tokens", short_count),
    "bits_per_byte": Column("bits/byte", "{:.4f}".format, better="lower"),
    "ppl_per_baseline_token": Column("PPL per baseline token", better="lower"),
    "stop_nats": Column("stop flag nats"),
    "reconstruction_exact_match": Column("exact reconstruction", percent, better="higher"),
    "reconstruction_token_accuracy": Column("token accuracy", percent, better="higher"),
    "tokens_per_second": Column("tokens/s", better="higher"),
    "seconds_to_first_sentence": Column("s to first sentence", "{:.3g}".format, better="lower"),
    "kv_bytes_per_token": Column("KV bytes/token", better="lower"),
    "training_flops": Column("training FLOPs", "{:.2e}".format),
    "megabytes_per_second": Column("MB/s"),
    "megabytes_per_second_low": Column("MB/s low"),
    "megabytes_per_second_high": Column("MB/s high"),
    "ppl": Column("PPL per own token"),
    "kv_ratio": Column("KV ratio to OPT"),
    "brier_lm": Column("BrierLM", "{:.2f}".format, better="higher"),
    "brier_*": Column(show="{:.2f}".format),
    "repeated_*": Column(show=percent),
    "drawn_token_accuracy": Column("token accuracy, vectors drawn", percent, better="higher"),
    "kl_nats": Column("KL nats per sentence", "{:.1f}".format),
    "exact*": Column(show=percent),
    "f1*": Column(show="{:.3f}".format),
    "published_kb_per_token": Column("KB/token as printed"),
    "*_parameters": Column(show=short_count),
    "*_flops": Column(show="{:.2e}".format),
    "seconds_*": Column(show="{:.3g}".format),
}

OTHER_TOKENS = "other_tokenizer"  # an extra column: this model's tokens are not the baseline's
MOST_LOG = 700.0  # of a number that floats hold
PER_TOKEN = ("tokens_per_second", "seconds_to_first_sentence", "kv_bytes_per_token")

MEANINGS = {
    "bits_per_byte": "what a byte of unseen text costs; lower is better, and comparable between all models",
    "ratio": "bits per byte over the baseline's; below 1 is better",
    "ratio_low": "with ratio high: its 95% interval over documents; where it holds 1, the models are level",
    "ppl_per_baseline_token": "the same likelihood per token as the baseline's tokenizer counts them",
    "stop_nats": "the part of the likelihood that an SLLM's stop flags cost",
    "training_tokens": "tokens of text that any part was trained on",
    "tokens_per_second": "greedy writing of one text, median of the rounds",
    "speed_ratio": "tokens per second over the baseline's, round by round; low and high are its range",
    "kv_bytes_per_token": "what the cache grows by with each token of text",
    "reconstruction_exact_match": "sentences that come back exactly from an autoencoder, which sees them",
    OTHER_TOKENS: "its tokens are not the baseline's: what it has per token, or tokens per second, does not compare",
    "brier_lm": "how near two samples come to what the text says; higher is better, and no likelihood is needed",
    "ppl": "per token of its own, the true beginning given; not comparable between kinds of models",
}


def column(name: str) -> Column:
    """How the column of this name is shown."""
    return TABLE.get(name) or next((TABLE[key] for key in TABLE if fnmatchcase(name, key)), Column())


def header(name: str) -> str:
    """A column's name as a table shows it."""
    return column(name).header or name.replace("_", " ")


def value(row: Row, name: str) -> Any:
    """The figure of a row in a column, be it a field or an extra one; None where there is none."""
    return getattr(row, name) if name in COLUMNS else row.extra.get(name)


def figure(row: Row, name: str) -> float | None:
    """The same where it is a finite number, else None."""
    item = value(row, name)
    known = isinstance(item, int | float) and not isinstance(item, bool) and math.isfinite(item)
    return float(item) if known else None


def cell(row: Row, name: str) -> str:
    """A row's figure as a table shows it: as many digits as mean something, "–" where there is none."""
    item = value(row, name)
    if item is None:
        return "–"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if isinstance(item, int | float):
        return column(name).show(item)
    return str(item) if name != "protocol" or row.comparable else f"{item} (not comparable)"


def filled_columns(rows: Sequence[Row]) -> list[str]:
    """The columns in which any row has a value, `Row`'s own first."""
    names = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row.extra)]
    return [name for name in names if name == "model" or any(value(row, name) is not None for row in rows)]


def is_number_column(rows: Sequence[Row], name: str) -> bool:
    """Whether a column holds numbers only, so that a table sets it flush right."""
    values = [value(row, name) for row in rows if value(row, name) is not None]
    return bool(values) and all(isinstance(item, int | float) and not isinstance(item, bool) for item in values)


def comparable_groups(rows: Sequence[Row], name: str) -> dict[tuple[str, str | None], list[int]]:
    """(text, protocol) -> indices of the rows with a figure in this column that may be laid beside each other."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    for index, row in enumerate(rows):
        if row.comparable and figure(row, name) is not None and not (name in PER_TOKEN and row.extra.get(OTHER_TOKENS)):
            groups.setdefault((row.text, row.protocol), []).append(index)
    return groups


def best_cells(rows: Sequence[Row], names: Iterable[str]) -> set[tuple[int, str]]:
    """(row index, column) of the best figures among comparable rows of the same text and protocol.

    Ties are all best, unless every row has the same figure. Where figures have intervals (over documents, or of timed
    rounds), the best one's must part from those of all others: else none is marked. A figure of one document or one
    round could lie anywhere.
    """
    best: set[tuple[int, str]] = set()
    for name in names:
        better = column(name).better
        for group in comparable_groups(rows, name).values() if better else ():
            figures = [figure(rows[index], name) or 0.0 for index in group]
            target = min(figures) if better == "lower" else max(figures)
            low, high = zip(*(_interval(rows[index], name) for index in group), strict=True)
            first = figures.index(target)
            parts = all(one == target or high[i] < low[first] or high[first] < low[i] for i, one in enumerate(figures))
            if parts and any(one != target for one in figures):
                best |= {(index, name) for index, one in zip(group, figures, strict=True) if one == target}
    return best


def _interval(row: Row, name: str) -> tuple[float, float]:
    """Between what a figure lies: its own `_low` and `_high`, of a likelihood those of the ratio to the baseline."""
    whole, low, high = (figure(row, f"{name}{end}") for end in ("", "_low", "_high"))
    assert whole is not None
    if name in ("bits_per_byte", "ppl_per_baseline_token") and (ratio := figure(row, "ratio")):
        low, high = figure(row, "ratio_low"), figure(row, "ratio_high")
        if low is None or high is None:
            return -math.inf, math.inf
        by_bits = name == "bits_per_byte"
        if by_bits:
            return whole * low / ratio, whole * high / ratio
        # of perplexities the logarithms, since a figure in a file may be of any size
        low, high = (min(math.log(max(whole, 1.0)) * end / ratio, MOST_LOG) for end in (low, high))
        return math.exp(low), math.exp(high)
    elif name in ("tokens_per_second", "seconds_to_first_sentence") and figure(row, "rounds") == 1:
        return -math.inf, math.inf
    return whole if low is None else low, whole if high is None else high


def meanings(names: Iterable[str]) -> dict[str, str]:
    """Header -> meaning of those columns that have one."""
    return {header(name): MEANINGS[name] for name in names if name in MEANINGS}


def table_of(rows: Sequence[Row], names: Sequence[str], *, mark_best: bool = False) -> Table:
    """These columns of the rows; `mark_best` marks the best figure of a column as `best_cells` says."""
    best = best_cells(rows, names) if mark_best else set()
    return Table(
        [header(name) for name in names],
        [[cell(row, name) for name in names] for row in rows],
        numeric={index for index, name in enumerate(names) if is_number_column(rows, name)},
        best={(index, names.index(name)) for index, name in best},
    )


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None, *, bold_best: bool = False) -> str:
    """A Markdown table of rows. `columns` defaults to those that any row fills, in `Row`'s order, extra ones last.

    `bold_best` marks the best figure of a column among rows of the same text and protocol (two rows at least);
    rows that are not comparable are never marked. A column that no row has is a ValueError.
    """
    names = filled_columns(rows) if columns is None else list(columns)
    unknown = [name for name in names if name not in COLUMNS and not any(name in row.extra for row in rows)]
    if unknown:
        raise ValueError(f"no row has the columns {unknown}; known are {list(COLUMNS)} and the rows' extra ones")
    return table_of(rows, names, mark_best=bold_best).markdown


def tables_by_kind(rows: Sequence[Row], hidden: Sequence[str] = ()) -> str:
    """A Markdown table for each kind of measurement, which the first word of a protocol names.

    Args:
        hidden: columns that only metrics.json has.
    """
    kinds: dict[str, list[Row]] = {}
    for row in rows:
        kinds.setdefault((row.protocol or "").split()[0], []).append(row)
    shown = ([name for name in filled_columns(of_kind) if name not in hidden] for of_kind in kinds.values())
    return "\n".join(markdown_table(of_kind, names) for of_kind, names in zip(kinds.values(), shown, strict=True))
