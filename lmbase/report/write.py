"""The report of a folder of runs: one HTML page, one Markdown file, and their figures as JSON."""

from collections.abc import Sequence
from pathlib import Path

from lmbase.files import write_text
from lmbase.report.collect import collect
from lmbase.report.page import figures_json, page_values
from lmbase.report.render import render


def write_report(
    folder: str | Path,
    *,
    output_dir: str | Path | None = None,
    more_metrics: Sequence[str | Path] = (),
    title: str = "",
) -> tuple[Path, ...]:
    """Writes report.html (one file, needs no network), report.md and report.json from the runs in `folder`; returns
    their paths.

    `more_metrics` are further metrics files, such as published rows, whose rows join the table. They go to
    `output_dir`, or to `folder` itself. Raises ValueError when `folder` does not exist or holds nothing to report.
    """
    report = collect(folder, more_metrics=more_metrics, title=title)
    values, target = page_values(report), Path(output_dir or folder)
    texts = {f"report.{form}": render(f"report.{form}", **values) for form in ("html", "md")}
    texts["report.json"] = figures_json(report)
    for name, text in texts.items():
        write_text(target / name, text)
    return tuple(target / name for name in texts)
