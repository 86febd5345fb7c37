"""The report of a folder of runs: one HTML page, and its figures as JSON."""

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
) -> tuple[Path, Path]:
    """Writes report.html (one file, needs no network) and report.json from the runs in `folder`; returns both paths.

    `more_metrics` are further metrics files, such as published rows, whose rows join the table. They go to
    `output_dir`, or to `folder` itself. Raises ValueError when `folder` does not exist or holds nothing to report.
    """
    report = collect(folder, more_metrics=more_metrics, title=title)
    page, target = render("report.html", **page_values(report)), Path(output_dir or folder)
    html_path, json_path = target / "report.html", target / "report.json"
    write_text(html_path, page)
    write_text(json_path, figures_json(report))
    return html_path, json_path
