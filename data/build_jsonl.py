"""Write a corpus out as train.jsonl, valid.jsonl and test.jsonl, to look at it or to keep it.

    python data/build_jsonl.py stdlib runs/stdlib_text
    python data/build_jsonl.py hub:wikimedia/wikipedia:20231101.simple runs/simple_wikipedia_text

A line is a document: {"name": ..., "text": ...}. `sllm prepare --data FOLDER` reads the folder, with the same splits.
The SHA-256 of each file is printed: by it, the text can be told from another version of it.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from sllm_data.corpora import Corpus, open_corpus


def write_split(corpus: Corpus, split: str, path: Path) -> str:
    """Write one split beside its place, then rename it; returns what was written, as a line of text."""
    digest, documents = hashlib.sha256(), 0
    beside = path.with_suffix(".jsonl.partial")
    with beside.open("wb") as file:
        for document in corpus.read(split):
            line = json.dumps({"name": document.name, "text": document.text}, ensure_ascii=False) + "\n"
            data = line.encode("utf-8", errors="replace")  # a lone surrogate, which `prepare` leaves out
            digest.update(data)
            file.write(data)
            documents += 1
    beside.replace(path)
    left_out = f", left out {corpus.skipped[split]}" if corpus.skipped[split].counts else ""
    return f"{path}: {documents:,} documents, {path.stat().st_size:,} bytes, SHA-256 {digest.hexdigest()}{left_out}"


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("data", nargs="+", help="stdlib, hub:NAME[:CONFIG], or files, folders and patterns")
    parser.add_argument("folder", type=Path, help="where the files go")
    parser.add_argument("--text_field", default="text", help="the field or column that holds the text")
    arguments = parser.parse_args(argv)
    try:
        corpus = open_corpus(arguments.data, arguments.text_field)
        arguments.folder.mkdir(parents=True, exist_ok=True)
        for split in corpus.splits:
            print(write_split(corpus, split, arguments.folder / f"{split}.jsonl"))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
