"""Pages from the templates in the folder `templates`. In HTML everything that is not marked as safe is escaped."""

import json
import re
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from lmbase.report.formats import clean


def render(template: str, **values: Any) -> str:
    """The text of a template filled with `values`."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda item: clean(item) if isinstance(item, str) and not isinstance(item, Markup) else item,
    )
    environment.filters |= {"line": one_line, "fence": fence, "json": partial(json.dumps, indent=2, ensure_ascii=False)}
    return environment.get_template(template).render(values)


def one_line(text: Any) -> str:
    """The text without its line breaks."""
    return " ".join(str(text).split())


def fence(text: str, language: str = "") -> str:
    """A code block of Markdown whose fence is longer than any run of backticks in the text."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}{language}\n{text}\n{marks}"
