"""Quality against speed as a picture for a README: bits per byte over tokens per second, a dot per model, and, of rows
that `sllm frontier` wrote, the line through the best token-level models."""

import math
from collections.abc import Sequence
from pathlib import Path

from lmbase.files import write_text
from lmbase.report.charts import point_file
from lmbase.report.frontier import Point, best_points, curve
from lmbase.report.rows import Row, read_metrics

LEVELS = ("token", "sentence")  # of a model that a row of the frontier is about
AXES = ("tokens per second", "bits per byte (less is better)")


def write_figure(path: str | Path, metrics: Sequence[str | Path]) -> Path:
    """Write the picture of these metrics files as an SVG file and return its path.

    Rows without both figures are left out, and so are those that are not comparable.

    Raises:
        ValueError: no row has both figures; rows of different texts or protocols, whose bits per byte do not compare;
            a metrics file that is missing or damaged.
    """
    path = Path(path)
    if path.suffix != ".svg":
        raise ValueError(f"figure={path}: the picture is an SVG file; give a name that ends in .svg.")
    rows = [row for file in metrics for row in read_metrics(file)["rows"] if row.comparable]
    found = speed_points(rows)
    level = {row.model: row.extra["level"] for row in rows if "level" in row.extra}
    tints = {name: list(LEVELS).index(level[name]) if name in level else n for n, name in enumerate(found)}
    points = [(name, x, y, tints[name]) for name, (x, y) in found.items()]
    if not points:
        raise ValueError(
            f"No row of {', '.join(map(str, metrics)) or 'no file'} has both bits_per_byte and tokens_per_second; "
            "name metrics files of `sllm evaluate` after --metrics."
        )
    line = best_points([Point(name, x, y) for name, x, y, _ in points if level.get(name) == LEVELS[0]])
    write_text(path, point_file(points, *AXES, line=curve(line)))
    return path


def speed_points(rows: Sequence[Row]) -> dict[str, tuple[float, float]]:
    """model -> (tokens per second, bits per byte), by its first row with both figures."""
    points: dict[str, tuple[float, float]] = {}
    texts = set()
    for row in rows:
        if row.bits_per_byte is None or row.tokens_per_second is None:
            continue
        if math.isfinite(row.bits_per_byte) and math.isfinite(row.tokens_per_second):
            points.setdefault(row.model, (row.tokens_per_second, row.bits_per_byte))
            texts.add(f"{row.text} by {row.protocol}")
    if len(texts) > 1:
        raise ValueError(
            f"The rows are of {' and '.join(sorted(texts))}: bits per byte compare only on the same text by the same "
            "protocol. Draw a picture for each."
        )
    return points
