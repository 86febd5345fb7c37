"""Write the chapters of Standard Ebooks out as train.jsonl, valid.jsonl and test.jsonl.

    python data/build_books.py runs/childrens_books runs/clones
    python data/build_books.py runs/my_books runs/clones --list my_books.yaml

A list (data/childrens_books.yaml) names each book by its repository at github.com/standardebooks and a commit, in its
split. Books that are not in the second folder yet are fetched into it; nothing else asks a network. A line is a
chapter: {"name": "BOOK/CHAPTER", "text": ...}, paragraphs a blank line apart, quotation marks and apostrophes as a
keyboard has them. The SHA-256 of each file is printed, and compared with the list's where it has one.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree as ET

import yaml

from lmbase.files import write_text

LIST = Path(__file__).with_name("childrens_books.yaml")
SOURCE = "https://github.com/standardebooks/"
EPUB = "src/epub/"
TYPE = "{http://www.idpf.org/2007/ops}type"
OPF = "{http://www.idpf.org/2007/opf}"
# Spaces that do not break or have another width become plain ones or go; curly quotes become straight.
PLAIN = str.maketrans("\u00a0\u2009“”‘’", "  \"\"''", "\u00ad\u200a\u2060")
BLOCKS = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "dt", "dd", "td")
LEFT_OUT = ("script", "figure", "img", "table")


def fetch(folder: Path, book: str, commit: str) -> Path:
    """The repository of a book below `folder`, with that commit, if with no other."""
    repository = folder / book
    there = ["git", "-C", str(repository), "cat-file", "-e", f"{commit}^{{commit}}"]
    if subprocess.run(there, stderr=subprocess.DEVNULL).returncode:
        subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], check=True)
        source = ["--depth", "1", SOURCE + book, commit]  # a whole history would be twenty megabytes of covers
        subprocess.run(["git", "-C", str(repository), "fetch", "--quiet", *source], check=True)
    return repository


def chapters(repository: Path, commit: str) -> Iterator[tuple[str, str]]:
    """Name and text of each part of a book that is no front or back matter, in the order of reading."""

    def show(path: str) -> bytes:
        command = ["git", "-C", str(repository), "show", f"{commit}:{EPUB}{path}"]
        return subprocess.run(command, check=True, capture_output=True).stdout

    package = ET.fromstring(show("content.opf"))
    hrefs = {item.get("id"): item.get("href") for item in package.iter(f"{OPF}item")}
    for item in package.iter(f"{OPF}itemref"):
        href = hrefs[item.get("idref")]
        body = ET.fromstring(show(str(href))).find("{*}body")
        if body is not None and "bodymatter" in body.get(TYPE, ""):
            paragraphs = list(blocks(body))
            if len(paragraphs) > 3:  # else a title of a part
                yield Path(str(href)).stem, "\n\n".join(paragraphs)


def blocks(element: ET.Element) -> Iterator[str]:
    """The texts of an element's paragraphs, headings and items."""
    for child in element:
        name = child.tag.partition("}")[2]
        if name in LEFT_OUT:
            continue
        if name in BLOCKS:
            text = plain(child)
            if text:
                yield text
        else:
            yield from blocks(child)


def plain(element: ET.Element) -> str:
    """The text of one paragraph: without marks of notes, lines of verse on lines of their own."""
    parts = []

    def walk(node: ET.Element) -> None:
        parts.append(re.sub(r"\s+", " ", (node.text or "").translate(PLAIN)))
        for child in node:
            if child.tag.endswith("}br"):
                parts.append("\n")
            elif child.get(TYPE) != "noteref":
                walk(child)
            parts.append(re.sub(r"\s+", " ", (child.tail or "").translate(PLAIN)))

    walk(element)
    return "\n".join(line.strip() for line in "".join(parts).splitlines()).strip()


def write_split(folder: Path, clones: Path, split: str, books: dict[str, str], wanted: str | None) -> None:
    lines = []
    for book, commit in books.items():
        for name, chapter in chapters(fetch(clones, book, commit), commit):
            lines.append(json.dumps({"name": f"{book}/{name}", "text": chapter}, ensure_ascii=False) + "\n")
    text = "".join(lines)
    data = text.encode()
    digest = hashlib.sha256(data).hexdigest()
    if wanted not in (None, digest):
        raise ValueError(f"{split}.jsonl has the SHA-256 {digest}, and the list says {wanted}: a book was changed.")
    write_text(folder / f"{split}.jsonl", text)
    print(f"{folder / split}.jsonl: {len(lines):,} chapters, {len(data):,} bytes, SHA-256 {digest}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("clones", type=Path, help="where the books' repositories are, or are fetched to")
    parser.add_argument("--list", type=Path, default=LIST, help="the books, with their commits")
    arguments = parser.parse_args(argv)
    try:
        listed = yaml.safe_load(arguments.list.read_text(encoding="utf-8"))
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for split, books in listed["books"].items():
            write_split(arguments.folder, arguments.clones, split, books, listed.get("sha256", {}).get(split))
    except (ValueError, OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
