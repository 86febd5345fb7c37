"""One HTML page from a folder of runs, with its figures as JSON.

    sllm report --runs runs/demo

reads every log.jsonl, metrics.json, details.json, statistics.json and samples.json below the folder and writes
report.html (self-contained: charts and styles inside, no network, no script) and its figures as report.json. The page
begins with a verdict and the figures behind it, then shows texts side by side; all else is folded: every figure, where
in a text the bits go, what a token costs, drafts, sentence vectors, curves.

`--metrics results/published.json` lays the published figures beside the measured ones, marked as not comparable.

    sllm report --fill README.md results/README.md

makes the tables in Markdown files anew from the metrics files that their comments name (see lmbase.report.fill).

    sllm report --figure docs/figures/demo.svg --metrics results/demo/metrics.json

draws bits per byte against tokens per second, a dot per model with both figures, as one SVG file.
"""

from dataclasses import dataclass
from pathlib import Path

from lmbase.config import option, run, single_process
from lmbase.report.figure import write_figure
from lmbase.report.fill import fill_tables
from lmbase.report.write import write_report


@dataclass
class ReportConfig:
    runs: str = option("runs/demo", "folder of runs; those below it are found at any depth")
    output_dir: str = option("", "where report.html and report.json go; empty: into the folder of runs")
    metrics: list[str] = option(
        [], "further metrics files whose rows join the table; those that a figure is drawn from"
    )
    title: str = option("", "heading of the report; empty: the name of the folder", prose=True)
    fill: list[str] = option([], "Markdown files whose tables are made anew; nothing else is done then")
    figure: str = option("", "an SVG file to draw instead: bits per byte against tokens per second of `metrics`")


@single_process
def main(config: ReportConfig) -> tuple[Path, ...]:
    """Writes the report, or what `fill` or `figure` asks for instead, and returns the paths of the files written."""
    if config.fill:
        for path in config.fill:
            print(f"{path}: {fill_tables(path)} tables")
        return tuple(map(Path, config.fill))
    if config.figure:
        paths: tuple[Path, ...] = (write_figure(config.figure, config.metrics),)
    else:
        paths = write_report(
            config.runs, output_dir=config.output_dir or None, more_metrics=config.metrics, title=config.title
        )
    print("wrote", *paths)
    return paths


if __name__ == "__main__":
    run(ReportConfig, main)
