"""Published figures can be made again: they come from a commit, and what does not is marked as such in one table."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "results" / "README.md"]
PAGES.append(ROOT / "lmbase" / "examples" / "README.md")
RESULTS = ROOT / "results" / "README.md"


def quoted_files() -> set[Path]:
    """The metrics.json files that tables of these pages are made of."""
    found = set()
    for page in PAGES:
        for table in re.findall(r"<!-- table (.*?) -->", page.read_text(encoding="utf-8")):
            found |= {(page.parent / name).resolve() for name in table.split() if name.endswith("metrics.json")}
    return found


def marked() -> dict[Path, str]:
    """File -> reason, as the table of exceptions has them."""
    text = RESULTS.read_text(encoding="utf-8").partition("## Not from a clean commit")[2]
    return {(RESULTS.parent / name).resolve(): why for name, why in re.findall(r"^\| `(.*?)` \| (.*?) \|", text, re.M)}


def is_clean(file: Path) -> bool:
    return re.fullmatch("[0-9a-f]{40}", json.loads(file.read_text(encoding="utf-8"))["git_revision"] or "") is not None


@pytest.mark.parametrize("file", sorted(quoted_files()), ids=lambda file: str(file.relative_to(ROOT)))
def test_F6_what_is_quoted_comes_from_a_clean_commit_or_is_marked(file):
    assert is_clean(file) != (file in marked()), "run it again from a clean commit, or mark it in results/README.md"


def test_F6_every_mark_has_a_reason_and_a_table():
    assert set(marked()) <= quoted_files()
    assert all(marked().values())
