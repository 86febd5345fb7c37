"""Tables in Markdown files that are made from metrics.json files, never typed.

    <!-- table results/novels/metrics.json columns=model,bits_per_byte -->
    ... replaced by the table ...
    <!-- end table -->

Several files may be named; their rows stand one after another. Paths are relative to the Markdown file. Only rows are
taken whose protocol begins with what the regular expression `protocol=` matches, and in whose model `models=` finds
something (both without spaces: `\\s`).
"""

import re
from pathlib import Path

from lmbase.files import write_text
from lmbase.report.columns import markdown_table
from lmbase.report.rows import read_metrics

OPTIONS = ("columns", "protocol", "models", "bold")
BLOCK = re.compile(r"(<!-- table (?P<words>[^>]*?) -->\n).*?(<!-- end table -->)", re.DOTALL)


def fill_tables(path: str | Path) -> int:
    """Rewrite every table block of a Markdown file from the metrics it names; returns how many there are.

    Raises:
        ValueError: no block, one without its end or with an option that is none, a metrics file that is missing or
            damaged.
    """
    path = Path(path)
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    ends = "\r\n" if "\r\n" in text else "\n"  # as the file has them
    text = text.replace("\r\n", "\n")
    blocks = len(BLOCK.findall(text))
    if blocks != text.count("<!-- table "):
        raise ValueError(f"{path}: a line `<!-- table ... -->` has no `<!-- end table -->` after it.")
    if not blocks:
        raise ValueError(
            f"{path} has no table to fill: write `<!-- table FILE -->` and `<!-- end table -->` around one."
        )
    filled = BLOCK.sub(lambda match: f"{match[1]}{_table(path.parent, match['words'])}\n{match[3]}", text)
    write_text(path, filled.replace("\n", ends))
    return blocks


def _table(folder: Path, words: str) -> str:
    files = [word for word in words.split() if "=" not in word]
    options = dict(word.split("=", 1) for word in words.split() if "=" in word)
    if unknown := sorted(options.keys() - set(OPTIONS)):
        raise ValueError(f"A table of {' '.join(files)} has {unknown[0]}=...; known are {', '.join(OPTIONS)}.")
    rows = [row for file in files for row in read_metrics(folder / file)["rows"]]
    try:
        rows = [row for row in rows if re.match(options.get("protocol", ""), row.protocol or "")]
        rows = [row for row in rows if re.search(options.get("models", ""), row.model)]
    except re.error as error:
        raise ValueError(f"A table of {words!r}: protocol= or models= is no regular expression ({error}).") from None
    if not rows:
        filters = [f"{name}={options[name]}" for name in ("protocol", "models") if name in options]
        raise ValueError(f"A table of {' '.join(files)} has no rows with {' and '.join(filters) or 'any figures'}.")
    columns = options["columns"].split(",") if "columns" in options else None
    return markdown_table(rows, columns, bold_best="bold" in options).strip()
