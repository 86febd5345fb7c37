"""Rows of figures and the file that holds them, metrics.json. `docs/evaluation.md` defines each column.

A figure that is not a finite number is an error, not an empty cell.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from pydantic_core import to_jsonable_python

from lmbase.benchmarking.environment import environment
from lmbase.config.options import recipe_of
from lmbase.files import check_checksum, read_json, with_checksum, write_text

METRICS = "metrics.json"
# Rows under these protocols answer another question than ours, so tables mark them and never call one of them best.
NOT_COMPARABLE = ("paper", "published", "tokens and ends")


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
    def from_dict(cls, columns: Mapping[str, Any]) -> Self:
        """The inverse of `to_dict`; columns that no field holds go to `extra`."""
        if not isinstance(columns.get("model"), str):
            raise ValueError(f"a metrics row needs a model name, got keys {sorted(columns)}")
        known = {name: value for name, value in columns.items() if name in COLUMNS}
        for name, value in known.items():
            kinds = str if name in WORDS else int | float
            if not (value is None or isinstance(value, kinds)) or isinstance(value, bool):
                raise ValueError(f"model {columns['model']!r} has {name}={value!r}, which is no {TOLD[name in WORDS]}")
        return cls(**known, extra={name: value for name, value in columns.items() if name not in COLUMNS})

    @property
    def text(self) -> str:
        """What names the scored text: the splits of a corpus share its name only."""
        return f"{self.data} ({self.bytes:,} bytes)" if self.bytes else f"{self.data}"

    @property
    def comparable(self) -> bool:
        """Whether the row follows this project's protocol."""
        return self.protocol not in NOT_COMPARABLE


WORDS = ("model", "data", "protocol", "dtype", "device")  # columns that hold no number
TOLD = ("number", "text")
COLUMNS = tuple(field.name for field in dataclasses.fields(Row) if field.name != "extra")


def _plain(value: Any) -> Any:
    """What JSON takes: numbers of NumPy and tensors become Python's, dataclasses dicts, paths strings."""
    return to_jsonable_python(value, fallback=lambda item: item.tolist() if hasattr(item, "tolist") else str(item))


def _is_broken(value: Any) -> bool:
    if isinstance(value, (list, dict)):
        return any(_is_broken(item) for item in (value.values() if isinstance(value, dict) else value))
    return isinstance(value, float) and not math.isfinite(value)


def metrics_text(
    rows: Sequence[Row],
    *,
    config: Any,
    seed: int | None,
    wall_seconds: float,
    corpus: Any,
    models: Mapping[str, Any] | None = None,
) -> str:
    """What a metrics.json holds.

    `config` is the resolved configuration (a dataclass, whose recipe is named, or a dict),
    `corpus` what names the text ({"name", "sha256"}
    where the hash is known), `wall_seconds` the time that the run took, `models` what is known of each model, by
    name (hashes of its weights, how many checks of the audit it passed). Raises ValueError for a figure that is not a
    finite number.
    """
    recipe = recipe_of(type(config)) if dataclasses.is_dataclass(config) else None
    document = {
        "rows": [row.to_dict() for row in rows],
        **({"recipe": recipe} if recipe else {}),
        "config": _plain(config),
        **environment(),
        "seed": seed,
        "wall_seconds": round(float(wall_seconds), 3),
        "corpus": _plain(corpus),
        **({"models": _plain(models)} if models else {}),
    }
    return json.dumps(with_checksum(document), indent=2, ensure_ascii=False) + "\n"


def write_metrics(folder: str | Path, rows: Sequence[Row], **about: Any) -> Path:
    """Writes folder/metrics.json, whole or not at all, says so on the screen, and returns its path; `about` as in
    `metrics_text`."""
    path = Path(folder) / METRICS
    write_text(path, metrics_text(rows, **about))
    print(f"wrote {path}")
    return path


def check_place(config: Any, sources: Sequence[str] = ()) -> None:
    """Called before the work of a recipe: what it will write replaces nothing but what it wrote.

    Args:
        config: its configuration, with an `output_dir`.
        sources: metrics files, or folders of them, that it reads.

    Raises:
        ValueError: output_dir is no folder, has the metrics.json of another recipe, or one that is read.
    """
    path = Path(config.output_dir) / METRICS
    if there := next((place for place in path.parents if place.exists() and not place.is_dir()), None):
        raise ValueError(f"output_dir={str(config.output_dir)!r}: {str(there)!r} is a file. Choose another output_dir.")
    if not path.is_file():
        return
    own = recipe_of(type(config))
    try:
        document = read_metrics(path)
    except ValueError:  # damaged: nothing to lose
        return
    of, keys = document.get("recipe"), document.get("config") or {}
    # Files of earlier versions do not name their recipe; keys were added since, but hardly any went.
    same = of == own if of else bool(keys) and {*keys} <= {field.name for field in dataclasses.fields(config)}
    read = any(Path(source).resolve() in (path.resolve(), path.resolve().parent) for source in sources)
    if read or not same:
        what = "is what is read here" if read else f"holds the figures of {of or 'another recipe'}, not of {own}"
        raise ValueError(f"{str(path)!r} {what}, and would be overwritten: choose another output_dir.")


def read_metrics(path: str | Path) -> dict[str, Any]:
    """What `write_metrics` wrote, "rows" as a list of `Row`. `path` is the file or its folder.

    Raises ValueError, naming the file, when it is not such a file.
    """
    path = Path(path)
    path = path / METRICS if path.is_dir() else path
    if not path.exists():
        raise ValueError(
            f"{path}: no such file; give the metrics.json, or the folder of it, that sllm evaluate or another recipe "
            "wrote."
        )
    try:
        document = read_json(path)
        check_checksum(document)
        rows = [Row.from_dict(row) for row in document["rows"]]
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # bad UTF-8 and bad JSON are ValueErrors
        raise ValueError(f"{path} is not a metrics file ({error}); run the evaluation that wrote it again") from error
    return {**document, "rows": rows}
