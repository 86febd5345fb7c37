"""What the guides to the code say of it: files and functions that they name exist, and ways are as long as they say."""

import ast
import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path

import pytest
from rooms import ROOT
from tiny import make_mtp, make_opt, make_vae
from ways import ways

from sllm import SLLM

CODE = (ROOT / "docs" / "code.md").read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", CODE, re.MULTILINE | re.DOTALL))
GUIDES = ("code.md", "extending.md")


def prose(name: str) -> str:
    """A guide without its blocks of code."""
    text = (ROOT / "docs" / name).read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@cache
def names_in(path: Path) -> set[str]:
    """Functions, classes, `Class.method`s and constants of a module."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{child.name}" for child in node.body if isinstance(child, ast.FunctionDef)}
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


@cache
def words_of_the_code() -> set[str]:
    folders = ("lmbase", "data", "sentencevae", "multitoken", "sllm", "recipes", "tests")
    paths = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return {word for path in paths for word in re.findall(r"\w+", path.read_text(encoding="utf-8"))}


def snippets(path: Path) -> str:
    """The Python of a page, in the order of the page."""
    return "\n".join(re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL))


PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "lmbase" / "examples" / "README.md"]
# the examples of extending.md are run, and what they define is used, by tests/test_extending.py
WITH_PYTHON = [path for path in PAGES if snippets(path) and path.name != "extending.md"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Tiny models where the pages say that the demo's are."""
    folder = tmp_path_factory.mktemp("docs")
    vae, opt = make_vae(max_sentence_tokens=40), make_opt(max_position_embeddings=64)
    models = {"vae": vae, "opt": opt, "sllm": SLLM.graft(vae, opt, max_sentences=24), "mtp": make_mtp(lm=opt)}
    models["mtp"].tokenizer = vae.processor.tokenizer
    for name, model in models.items():
        model.save_pretrained(folder / "runs" / "demo" / name / "model")
    vae.processor.tokenizer.save_pretrained(str(folder / "runs" / "demo" / "opt" / "model"))
    return folder


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda path: path.name)
def test_G6_python_of_the_pages_runs(page, demo, monkeypatch, uncompiled):
    if "sentence_transformers" in snippets(page):
        pytest.importorskip("sentence_transformers")
    monkeypatch.chdir(demo)
    exec(compile(snippets(page), page.name, "exec"), {"__name__": "page"})


def test_G6_pages_with_python_are_found():
    assert {path.name for path in WITH_PYTHON} >= {"README.md", "multi-token.md"}


def test_the_site_builds_and_loads_nothing_from_elsewhere():
    if not (ROOT / ".venv" / "bin" / "zensical").exists():
        pytest.skip("needs the environment of `make test`")
    done = subprocess.run(["make", "-o", ".venv/.installed", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr  # a link to a page or heading that is not there, too
    for page in (ROOT / "build" / "site").rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|link|img)[^>]*(?:src|href)=\"(https?:[^\"]+)", page.read_text(encoding="utf-8")
        )
        assert loaded == [], page
    assert "Exact -log p of each text" in (ROOT / "build" / "site" / "docs" / "api.html").read_text(encoding="utf-8")


def test_every_extra_has_a_line_that_says_what_it_is_for():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE)) == set(extras)


def test_the_readme_names_every_file_of_the_model_rooms():
    listed = re.search(r"^```\nrecipes/ .*?^```", PAGES[0].read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert listed
    rooms = re.split(r"^(\w+)/ ", listed[0], flags=re.MULTILINE)
    for room, lines in zip(rooms[1::2], rooms[2::2], strict=True):
        if room in ("sllm", "multitoken", "sentencevae"):
            files = {path.name for path in (ROOT / room).glob("*.py")} - {"__init__.py"}
            folders = {f"{path.parent.name}/" for path in (ROOT / room).glob("*/__init__.py")}
            assert set(re.findall(r"(?:^  |, )(\w+(?:\.py|/))", lines, re.MULTILINE)) == files | folders


@pytest.mark.parametrize("guide", GUIDES)
def test_files_exist(guide):
    named = {span for span in re.findall(r"`([^`\s]+)`", prose(guide)) if "/" in span and not re.search("[*A-Z]", span)}
    added = {"lmbase/text/paragraphs.py", "tests/lmbase/text/test_paragraphs.py"}  # by whoever follows the guide
    assert len(named) > 10
    assert [span for span in sorted(named - added) if not (ROOT / span).exists()] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_functions_stand_in_the_files_named_before_them(guide):
    found = re.findall(r"`([\w/]+\.py)`: ((?:`[\w.]+`(?:, )?)+)", prose(guide))
    named = [(path, name) for path, names in found for name in re.findall(r"`([\w.]+)`", names)]
    assert guide != "code.md" or len(named) > 60
    assert [one for one in named if one[1] not in names_in(ROOT / one[0])] == []


@pytest.mark.parametrize("guide", GUIDES)
def test_names_are_words_of_the_code(guide):
    spans = re.findall(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`", prose(guide))
    words = {
        word for span in spans if "/" not in span for word in span.split(".") if not span.endswith((".py", ".json"))
    }
    assert words - words_of_the_code() == set()


@pytest.mark.parametrize(
    ("section", "way", "most"), [("One training sample", "train", 7), ("One written sentence", "generate", 8)]
)
def test_a_walk_passes_all_files_and_few_have_to_be_read(section, way, most):
    text = SECTIONS[section]
    steps = re.findall(r"^### \d+\. `([\w/]+\.py)`", text, re.MULTILINE)
    assert len(steps) == len(set(steps)) <= most
    assert set(steps) <= set(ways()[way])
    assert set(ways()[way]) <= set(re.findall(r"`([\w/]+\.py)`", text))


def test_steps_of_a_training_sample_stand_in_the_order_of_first_call():
    steps = re.findall(r"^### \d+\. `([\w/]+\.py)`", SECTIONS["One training sample"], re.MULTILINE)
    assert steps == [path for path in ways()["train"] if path in steps]


def test_all_files_of_preparing_are_named():
    assert set(re.findall(r"^\| `([\w/]+\.py)`", SECTIONS["From a text to prepared data"], re.MULTILINE)) == set(
        ways()["prepare"]
    )
