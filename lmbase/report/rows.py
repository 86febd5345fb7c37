"""Figures as they are written down: rows, metrics.json, Markdown tables, and the arithmetic behind them.

Two rules hold everywhere. Sums come first and are divided once (never a mean of means), and a figure that is not a
finite number is an error, not an empty cell. `docs/evaluation.md` defines each column.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from lmbase.benchmarking.environment import environment
from lmbase.files import write_text
from lmbase.report.formats import number, short_count

# Rows under these protocols answer another question than ours, so tables mark them and never call one of them best.
NOT_COMPARABLE = ("paper", "published")


@dataclasses.dataclass
class Row:
    """One model, measured on one corpus under one protocol. A column that does not apply is None.

    `nats`, `bytes` and `tokens` are sums over every scored document: nats of the text including end marks and stop
    flags, UTF-8 bytes of the text, and tokens that the baseline's tokenizer gives the same text. `stop_nats` is the
    part of `nats` that the flags "another sentence follows" cost. Rates of reconstruction lie in 0..1.
    `extra` holds further columns; they stand beside the others in metrics.json and in tables.
    """

    model: str
    data: str | None = None
    protocol: str | None = None
    dtype: str | None = None
    device: str | None = None
    parameters: int | None = None
    training_tokens: int | None = None
    bits_per_byte: float | None = None
    nats: float | None = None
    bytes: int | None = None
    tokens: int | None = None
    ppl_per_baseline_token: float | None = None
    stop_nats: float | None = None
    reconstruction_exact_match: float | None = None
    reconstruction_token_accuracy: float | None = None
    tokens_per_second: float | None = None
    seconds_to_first_sentence: float | None = None
    kv_bytes_per_token: float | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The row as metrics.json holds it: every column, null where it does not apply, `extra` flattened."""
        columns = {name: getattr(self, name) for name in COLUMNS}
        clash = sorted(set(self.extra) & {*COLUMNS, "extra"})
        if clash:
            raise ValueError(f"extra columns {clash} of model {self.model!r} have the name of a column; set the field")
        columns = {name: _plain(value) for name, value in {**columns, **self.extra}.items()}
        broken = [f"{name} = {value}" for name, value in columns.items() if _is_broken(value)]
        if broken:
            raise ValueError(
                f"model {self.model!r} has figures that are not finite numbers: {', '.join(broken)}; "
                "a NaN usually comes from training that diverged or from an empty set of documents, "
                "and a figure that was not measured is None"
            )
        return columns

    @classmethod
    def from_dict(cls, columns: Mapping[str, Any]) -> Row:
        """The inverse of `to_dict`; columns that no field holds go to `extra`."""
        if not isinstance(columns.get("model"), str):
            raise ValueError(f"a metrics row needs a model name, got keys {sorted(columns)}")
        known = {name: value for name, value in columns.items() if name in COLUMNS}
        return cls(**known, extra={name: value for name, value in columns.items() if name not in COLUMNS})

    @property
    def comparable(self) -> bool:
        """Whether the row follows this project's protocol."""
        return self.protocol not in NOT_COMPARABLE


COLUMNS = tuple(field.name for field in dataclasses.fields(Row) if field.name != "extra")


def _plain(value: Any) -> Any:
    """What JSON takes: numbers of NumPy and tensors become Python's, dataclasses dicts, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        items = sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value
        return [_plain(item) for item in items]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return str(value)


def _is_broken(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return any(_is_broken(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


# --- arithmetic -------------------------------------------------------------------------------------------------------


def bits_per_byte(nats: ArrayLike, num_bytes: ArrayLike) -> float:
    """Bits per UTF-8 byte: the sum of nats over the sum of bytes, over ln 2.

    Both arguments are one number, or one number per document (or per rank), which are added up before dividing.
    Raises ValueError where a figure is not finite or there are no bytes.
    """
    total_nats, total_bytes = _totals(nats, num_bytes, "bytes")
    return total_nats / math.log(2) / total_bytes


def perplexity(nats: ArrayLike, num_tokens: ArrayLike) -> float:
    """exp(sum of nats / sum of tokens); with the baseline tokenizer's counts this is `ppl_per_baseline_token`.

    Arguments and errors as in `bits_per_byte`. A model so bad that the exponential overflows is a ValueError too.
    """
    total_nats, total_tokens = _totals(nats, num_tokens, "tokens")
    try:
        return math.exp(total_nats / total_tokens)
    except OverflowError:
        raise ValueError(
            f"{total_nats / total_tokens:.0f} nats per token have no finite perplexity; are both of the same text?"
        ) from None


def _totals(nats: ArrayLike, counts: ArrayLike, unit: str) -> tuple[float, float]:
    total_nats, total_count = float(np.sum(_numbers(nats, "nats"))), float(np.sum(_numbers(counts, unit)))
    if total_count <= 0:
        raise ValueError(f"{total_count:.0f} {unit} were scored; is the split empty?")
    return total_nats, total_count


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        raise ValueError(
            f"{name} of document {broken[0]} is {numbers[broken[0]]} ({len(broken)} of {len(numbers)} are not finite); "
            "such documents are never dropped: find out why the model gives them no probability"
        )
    return numbers


def paired_bootstrap(
    nats_a: ArrayLike,
    bytes_a: ArrayLike,
    nats_b: ArrayLike,
    bytes_b: ArrayLike,
    seed: int = 0,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """How many bits per byte model a needs for one of model b, with a 95% interval over documents.

    Each argument has one number per document, and entry i of all four belongs to the same document. A draw takes
    documents with replacement, the same ones for both models, so what makes a document hard for both cancels.
    Returns (ratio, low, high): the ratio of the whole sums and the 2.5% and 97.5% quantiles of the drawn ratios
    (Efron's percentile interval). A ratio below 1 means that a is better; the interval is worth little below some
    twenty documents. Raises ValueError for lengths that differ and for fewer than two documents.
    """
    columns = [
        _numbers(values, name)
        for values, name in ((nats_a, "nats_a"), (bytes_a, "bytes_a"), (nats_b, "nats_b"), (bytes_b, "bytes_b"))
    ]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"a paired bootstrap needs the same documents for both models, got lengths {lengths}")
    num_documents = lengths[0]
    if num_documents < 2:
        raise ValueError(f"{num_documents} document(s) cannot be resampled; evaluate on two or more")
    if any((column <= 0).any() for column in columns):
        raise ValueError("nats and bytes must be positive in every document; leave empty documents out for both models")
    if draws < 1:
        raise ValueError(f"draws = {draws}; take 1,000 or more")

    sums = np.stack(columns, axis=1)  # (documents, 4)
    generator = np.random.default_rng(seed)
    share = np.full(num_documents, 1 / num_documents)
    drawn = []
    for start in range(0, draws, 1000):  # a thousand at a time bounds memory on corpora with many documents
        counts = generator.multinomial(num_documents, share, size=min(1000, draws - start))  # (draws, documents)
        drawn.append(counts @ sums)
    low, high = np.quantile(_ratio(np.concatenate(drawn)), [0.025, 0.975])
    return float(_ratio(sums.sum(axis=0))), float(low), float(high)


def _ratio(sums: np.ndarray) -> np.ndarray:
    nats_a, bytes_a, nats_b, bytes_b = np.moveaxis(sums, -1, 0)
    return (nats_a / bytes_a) / (nats_b / bytes_b)


# --- tables -----------------------------------------------------------------------------------------------------------

# What tables call the columns whose name is long or says too little.
HEADERS = {
    "training_tokens": "training tokens",
    "bits_per_byte": "bits/byte",
    "ppl_per_baseline_token": "PPL per baseline token",
    "stop_nats": "stop flag nats",
    "reconstruction_exact_match": "exact reconstruction",
    "reconstruction_token_accuracy": "token accuracy",
    "tokens_per_second": "tokens/s",
    "seconds_to_first_sentence": "s to first sentence",
    "kv_bytes_per_token": "KV bytes/token",
    "training_flops": "training FLOPs",
    "megabytes_per_second": "MB/s",
    "megabytes_per_second_low": "MB/s low",
    "megabytes_per_second_high": "MB/s high",
    "ppl": "PPL per own token",
    "kv_ratio": "KV ratio to OPT",
    "published_kb_per_token": "KB/token as printed",
}
LOWER_IS_BETTER = ("bits_per_byte", "ppl_per_baseline_token", "seconds_to_first_sentence", "kv_bytes_per_token")
HIGHER_IS_BETTER = ("reconstruction_exact_match", "reconstruction_token_accuracy", "tokens_per_second")


def markdown_table(rows: Sequence[Row], columns: Sequence[str] | None = None, *, bold_best: bool = False) -> str:
    """A Markdown table of rows. `columns` defaults to those that any row fills, in `Row`'s order, extra ones last.

    `bold_best` marks the best figure of a column among rows of the same data and protocol (two rows at least);
    rows that are not comparable are never marked. A column that no row has is a ValueError.
    """
    columns = filled_columns(rows) if columns is None else list(columns)
    unknown = [name for name in columns if name not in COLUMNS and not any(name in row.extra for row in rows)]
    if unknown:
        raise ValueError(f"no row has the columns {unknown}; known are {list(COLUMNS)} and the rows' extra ones")
    best = best_cells(rows, columns) if bold_best else set()
    lines = ["| " + " | ".join(_escape_cell(header(name)) for name in columns) + " |"]
    lines.append("|" + "|".join("---:" if is_number_column(rows, name) else "---" for name in columns) + "|")
    for index, row in enumerate(rows):
        cells = [_escape_cell(cell(row, name)) for name in columns]
        cells = [f"**{text}**" if (index, name) in best else text for name, text in zip(columns, cells, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def value(row: Row, column: str) -> Any:
    """The figure of a row in a column, be it a field or an extra one; None where there is none."""
    return getattr(row, column) if column in COLUMNS else row.extra.get(column)


def filled_columns(rows: Sequence[Row]) -> list[str]:
    """The columns in which any row has a value, `Row`'s own first."""
    names = [*COLUMNS, *dict.fromkeys(name for row in rows for name in row.extra)]
    return [name for name in names if name == "model" or any(value(row, name) is not None for row in rows)]


def is_number_column(rows: Sequence[Row], column: str) -> bool:
    """Whether a column holds numbers only, so that a table sets it flush right."""
    values = [value(row, column) for row in rows if value(row, column) is not None]
    return bool(values) and all(isinstance(item, (int, float)) and not isinstance(item, bool) for item in values)


def best_cells(rows: Sequence[Row], columns: Iterable[str]) -> set[tuple[int, str]]:
    """(row index, column) of the best figures among comparable rows of the same data and protocol.

    Ties are all best, unless every row has the same figure.
    """
    best: set[tuple[int, str]] = set()
    for column in columns:
        if column not in LOWER_IS_BETTER + HIGHER_IS_BETTER:
            continue
        groups: dict[tuple[str | None, str | None], list[tuple[float, int]]] = {}
        for index, row in enumerate(rows):
            if row.comparable and value(row, column) is not None:
                groups.setdefault((row.data, row.protocol), []).append((value(row, column), index))
        for group in groups.values():
            target = (min if column in LOWER_IS_BETTER else max)(group)[0]
            if any(figure != target for figure, _ in group):
                best |= {(index, column) for figure, index in group if figure == target}
    return best


def header(column: str) -> str:
    """A column's name as a table shows it."""
    return HEADERS.get(column, column.replace("_", " "))


def cell(row: Row, column: str) -> str:
    """A row's figure as a table shows it: as many digits as mean something, "–" where there is none."""
    item = value(row, column)
    if item is None:
        return "–"
    if column == "protocol":
        return str(item) if row.comparable else f"{item} (not comparable)"
    if isinstance(item, bool):
        return "yes" if item else "no"
    if not isinstance(item, (int, float)):
        return str(item)
    if column in ("parameters", "training_tokens") or column.endswith("_parameters"):
        return short_count(item)
    if column.startswith("reconstruction_"):
        return f"{100 * item:.1f}%"
    if column == "bits_per_byte":
        return f"{item:.4f}"
    if column.endswith("_flops"):
        return f"{item:.2e}"
    if column.startswith("seconds_"):
        return f"{item:.3g}"
    return number(item)


def _escape_cell(text: str) -> str:
    """One line, and no bar that would end the cell."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|")


# --- files ------------------------------------------------------------------------------------------------------------


def write_metrics(
    folder: str | Path, rows: Sequence[Row], *, config: Any, seed: int | None, wall_seconds: float, corpus: Any
) -> Path:
    """Writes folder/metrics.json, whole or not at all, and returns its path.

    `config` is the resolved configuration (a dataclass or a dict), `corpus` what names the text ({"name", "sha256"}
    where the hash is known), `wall_seconds` the time that the run took. Raises ValueError for a figure that is not a
    finite number.
    """
    document = {
        "rows": [row.to_dict() for row in rows],
        "config": _plain(config),
        **environment(),
        "seed": seed,
        "wall_seconds": round(float(wall_seconds), 3),
        "corpus": _plain(corpus),
    }
    path = Path(folder) / "metrics.json"
    write_text(path, json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    return path


def read_metrics(path: str | Path) -> dict[str, Any]:
    """What `write_metrics` wrote, "rows" as a list of `Row`. `path` is the file or its folder.

    Raises ValueError, naming the file, when it is not such a file.
    """
    path = Path(path)
    path = path / "metrics.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row.from_dict(row) for row in document["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise ValueError(f"{path} is not a metrics file ({error}); run the evaluation that wrote it again") from error
    return {**document, "rows": rows}
