"""Pages from the templates in the folder `templates`. In HTML everything that is not marked as safe is escaped."""

import json
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
    environment.filters["json"] = partial(json.dumps, indent=2, ensure_ascii=False)
    return environment.get_template(template).render(values)
