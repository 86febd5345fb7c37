"""The report of a folder of runs: one HTML page and one Markdown file."""

from collections.abc import Sequence
from pathlib import Path

from lmbase.files import write_text
from lmbase.report.collect import collect
from lmbase.report.page import page_values
from lmbase.report.render import render


def write_report(
    folder: str | Path,
    *,
    output_dir: str | Path | None = None,
    more_metrics: Sequence[str | Path] = (),
    title: str = "",
) -> tuple[Path, Path]:
    """Writes report.html (one file, needs no network) and report.md from the runs in `folder`; returns both paths.

    `more_metrics` are further metrics files, such as published rows, whose rows join the table. They go to
    `output_dir`, or to `folder` itself. Raises ValueError when `folder` does not exist or holds nothing to report.
    """
    values = page_values(collect(folder, more_metrics=more_metrics, title=title))
    target = Path(output_dir or folder)
    html_path, markdown_path = target / "report.html", target / "report.md"
    write_text(html_path, render("report.html", **values))
    write_text(markdown_path, render("report.md", **values))
    return html_path, markdown_path
