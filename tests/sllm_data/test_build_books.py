"""Chapters out of a book's repository, as its commit has them."""

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest

from sllm_data.corpora import open_corpus

PATH = Path(__file__).parents[2] / "data" / "build_books.py"
SPEC = importlib.util.spec_from_file_location("build_books", PATH)
assert SPEC is not None
assert SPEC.loader is not None
build_books = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(build_books)

PACKAGE = (
    """<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{spine}</spine></package>"""
)
PAGE = """<html xmlns="http://www.w3.org/1999/xhtml" xmlns:epub="http://www.idpf.org/2007/ops">
<body epub:type="{kind}"><section>{body}</section></body></html>"""
CHAPTER = """<hgroup><h2>I</h2><p>The\u00a0Egg</p></hgroup>
<p>\u201cIt\u2019s <em>an</em> egg,\u201d\u200a
  he said.<a epub:type="noteref" href="#n">1</a> Done.</p><figure><p>no text</p></figure>
<blockquote><p><span>Twas brillig,</span><br/><span>and slithy</span></p></blockquote>"""


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=A", "-c", "user.email=a@b"]
    return subprocess.run(["git", "-C", str(folder), *who, *words], check=True, capture_output=True, text=True).stdout


@pytest.fixture
def clones(tmp_path: Path) -> Path:
    """A folder with one book of two chapters, which were changed after the commit that is wanted."""
    text = tmp_path / "clones" / "one" / "src" / "epub" / "text"
    text.mkdir(parents=True)
    names = ["imprint", "part-1", "chapter-2", "chapter-10"]  # in the order of reading
    items = "".join(f'<item id="{name}" href="text/{name}.xhtml"/>' for name in names)
    spine = "".join(f'<itemref idref="{name}"/>' for name in names)
    (text.parent / "content.opf").write_text(PACKAGE.format(items=items, spine=spine))
    for name in names:
        kind = "backmatter" if name == "imprint" else "bodymatter z3998:fiction"
        body = "<h2>Part</h2>" if name == "part-1" else CHAPTER
        (text / f"{name}.xhtml").write_text(PAGE.format(kind=kind, body=body), encoding="utf-8")
    book = tmp_path / "clones" / "one"
    git(book, "init", "-q")
    git(book, "add", "-A")
    git(book, "commit", "-qm", "x")
    (tmp_path / "list.yaml").write_text(f"books: {{train: {{one: {git(book, 'rev-parse', 'HEAD').strip()}}}}}\n")
    git(book, "rm", "-rq", "src")
    git(book, "commit", "-qm", "y")
    return tmp_path


def test_chapters_in_their_order_with_plain_quotes_and_no_notes(clones: Path, capsys: pytest.CaptureFixture) -> None:
    build_books.main([str(clones / "out"), str(clones / "clones"), "--list", str(clones / "list.yaml")])
    assert "2 chapters" in capsys.readouterr().out
    lines = (clones / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["name"] for line in lines] == ["one/chapter-2", "one/chapter-10"]
    (first, _) = open_corpus(str(clones / "out")).read("train")
    assert first.text == 'I\n\nThe Egg\n\n"It\'s an egg," he said. Done.\n\nTwas brillig,\nand slithy'


def test_a_book_is_fetched_at_its_commit_and_only_once(clones: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(clones / "out"), str(clones / "fetched"), "--list", str(clones / "list.yaml")]
    monkeypatch.setattr(build_books, "SOURCE", f"file://{clones}/clones/")
    build_books.main(words)
    monkeypatch.setattr(build_books, "SOURCE", f"file://{clones}/nowhere/")
    build_books.main(words)
    assert len((clones / "out" / "train.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    (clones / "list.yaml").write_text("books: {train: {two: abcdef}}")
    with pytest.raises(SystemExit, match="error: "):
        build_books.main(words)


def test_a_text_that_is_not_the_listed_one_is_told(clones: Path) -> None:
    with (clones / "list.yaml").open("a") as file:
        file.write(f"sha256: {{train: '{'0' * 64}'}}\n")
    with pytest.raises(SystemExit, match="the list says 0000"):
        build_books.main([str(clones / "out"), str(clones / "clones"), "--list", str(clones / "list.yaml")])
    assert not list((clones / "out").iterdir())
