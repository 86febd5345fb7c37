"""Score the rules that cut text on the texts cut by hand in tests/data/cuts, and time them.

    python data/score_cuts.py --output_dir results/cuts

Prints the texts that are cut otherwise than by hand (`--show`) and writes metrics.json: a row per rule, then a row per
language. `exact` is the share of texts cut at all the right places and nowhere else, `f1` the balance of precision and
recall over cuts inside texts, `_held_out` the same for the third of the texts that nobody looks at. The splitters pysbd
and blingfire are scored and timed beside ours if they are installed; pysbd is told the language where it knows it.
"""

import argparse
import importlib
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate, pairwise
from pathlib import Path

from lmbase.report.rows import Row, write_metrics
from lmbase.text import choose_rule, segment
from lmbase.text.punkt import KEYS
from sllm_data.corpora import open_corpus

CUTS = Path(__file__).parents[1] / "tests" / "data" / "cuts"
UNTRAINED = {key: {} if key == "ortho_context" else [] for key in KEYS}  # the same with and without NLTK's data
FEW = 12  # languages with fewer texts are one row, "others"
SPEED_BYTES, SLOW_BYTES, ROUNDS = 4_000_000, 200_000, 5
Cut = Callable[[str, str], list[str]]  # text, language -> pieces


@dataclass
class Score:
    """Counts over texts; `agreed` cuts are both the rule's (`cut`) and the hand's (`by_hand`)."""

    texts: int = 0
    exact_texts: int = 0
    agreed: int = 0
    cut: int = 0
    by_hand: int = 0

    def add(self, cuts: set[int], by_hand: set[int]) -> None:
        self.texts += 1
        self.exact_texts += cuts == by_hand
        self.agreed += len(cuts & by_hand)
        self.cut += len(cuts)
        self.by_hand += len(by_hand)

    @property
    def exact(self) -> float:
        return self.exact_texts / self.texts

    @property
    def f1(self) -> float:
        return 2 * self.agreed / (self.cut + self.by_hand) if self.cut + self.by_hand else 1.0


def read_texts(name: str) -> list[dict]:
    """The texts of `CUTS`/name, one dict each as the README there says."""
    return [json.loads(line) for line in (CUTS / name).read_text(encoding="utf-8").splitlines()]


def cuts_of(pieces: Sequence[str]) -> set[int]:
    """Offsets inside a text behind which a piece ends, wherever the white space between pieces is put."""
    ends = accumulate(map(len, pieces[:-1]))
    text = "".join(pieces)
    return {len(text[:end].rstrip()) for end in ends} - {0, len(text.rstrip())}


def hand_cut(row: dict, rule: str) -> list[str]:
    """The pieces of a text by a rule."""
    return row.get(rule) or row["sentence"]


def score(rows: Iterable[dict], rule: str, cut: Cut, show: bool = False) -> Score:
    """How well `cut` finds the pieces that the hand made by a rule."""
    total = Score()
    for row in rows:
        by_hand = hand_cut(row, rule)
        pieces = cut("".join(by_hand), row.get("language", ""))
        total.add(cuts_of(pieces), cuts_of(by_hand))
        if show and not row["held_out"] and cuts_of(pieces) != cuts_of(by_hand):
            print(f"{rule} {row.get('language', '')} {row['kind']}:\n  {'|'.join(pieces)!r}\n  {'|'.join(by_hand)!r}")
    return total


def our_rule(rule: str) -> Cut:
    return lambda text, language: segment(text, rule, punkt=UNTRAINED)


def splitters() -> Iterator[tuple[str, Cut]]:
    """The other splitters that are installed."""
    try:
        pysbd = importlib.import_module("pysbd")
        known = importlib.import_module("pysbd.languages").LANGUAGE_CODES
        build = cache(lambda language: pysbd.Segmenter(language=language, clean=False))
        yield "pysbd", lambda text, language: build(language if language in known else "en").segment(text)
    except ImportError:
        print("pysbd is not installed: left out", file=sys.stderr)
    try:
        blingfire = importlib.import_module("blingfire")
    except ImportError:
        print("blingfire is not installed: left out", file=sys.stderr)
        return

    def cut(text: str, language: str) -> list[str]:
        spans = blingfire.text_to_sentences_and_offsets(text)[1]
        stops = [0, *(start for start, _ in spans[1:]), len(text)]
        return [text[a:b] for a, b in pairwise(stops)]

    yield "blingfire", cut


def speed(cut: Cut, texts: Sequence[str]) -> dict[str, float]:
    """MB (10^6 bytes) a second of CPU time over the texts: median and range of some rounds."""
    megabytes = sum(len(text.encode()) for text in texts) / 1e6
    rates = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for text in texts:
            cut(text, "en")
        rates.append(megabytes / (time.process_time() - started))
    key = "megabytes_per_second"
    return {key: statistics.median(rates), f"{key}_low": min(rates), f"{key}_high": max(rates)}


def some_texts(data: str, size: int) -> list[str]:
    """Documents of a corpus, about `size` bytes."""
    texts: list[str] = []
    for document in open_corpus(data, max_bytes=size).read("train"):
        texts.append(document.text)
        if (size := size - len(document.text.encode())) <= 0:
            break
    return texts


def rule_row(name: str, rule: str, rows: list[dict], cut: Cut, arguments: argparse.Namespace) -> Row:
    """A way of cutting, on all texts of a file."""
    everything = score(rows, rule, cut, arguments.show)
    held_out = score([row for row in rows if row["held_out"]], rule, cut)
    size = SLOW_BYTES if name == "pysbd" else SPEED_BYTES
    return Row(
        name,
        protocol="all texts",
        extra={
            "cut_as": rule,
            "texts": everything.texts,
            "exact": everything.exact,
            "f1": everything.f1,
            "exact_held_out": held_out.exact,
            "f1_held_out": held_out.f1,
            **speed(cut, some_texts(arguments.data, size)),
        },
    )


def language_rows(rows: list[dict], ways: Sequence[tuple[str, str, Cut]]) -> Iterator[Row]:
    """One row per language, a column for each way of cutting."""
    languages: dict[str, list[dict]] = {}
    for row in rows:
        languages.setdefault(row["language"], []).append(row)
    few = [row for group in languages.values() if len(group) < FEW for row in group]
    groups = {name: group for name, group in languages.items() if len(group) >= FEW}
    for language, group in {**groups, "others": few}.items():
        extra: dict[str, float] = {"texts": len(group)}
        for name, rule, cut in ways:
            counts = score(group, rule, cut)
            extra |= {f"exact_{name}": counts.exact, f"f1_{name}": counts.f1}
        yield Row(language, protocol="language", extra=extra)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output_dir", default="results/cuts", help="where metrics.json goes")
    parser.add_argument("--data", default="stdlib", help="the corpus that speed is measured on")
    parser.add_argument("--show", action="store_true", help="print what is cut otherwise, held-out texts excepted")
    arguments = parser.parse_args(argv)
    started = time.perf_counter()
    texts, lines = read_texts("texts.jsonl"), read_texts("lines.jsonl")
    ways = [(rule, rule, our_rule(rule)) for rule in ("punctuation", "sentence")]
    ways += [(name, "sentence", cut) for name, cut in splitters()]
    rows = [rule_row(name, rule, texts, cut, arguments) for name, rule, cut in ways]
    rows.append(rule_row("line", "line", lines, our_rule("line"), arguments))
    auto = [(row.get("auto", "punctuation"), row) for row in lines + texts]
    found = [choose_rule("".join(hand_cut(row, "line" if "line" in row else "sentence"))) for _, row in auto]
    if arguments.show:
        print(*(("auto", rule, row) for rule, (right, row) in zip(found, auto, strict=True) if rule != right), sep="\n")
    right = sum(rule == by_hand for rule, (by_hand, _) in zip(found, auto, strict=True))
    rows.append(Row("auto", protocol="all texts", extra={"texts": len(auto), "exact": right / len(auto)}))
    rows += language_rows(texts, ways)
    path = write_metrics(
        arguments.output_dir,
        rows,
        config=vars(arguments),
        seed=None,
        wall_seconds=time.perf_counter() - started,
        corpus={"name": "tests/data/cuts"},
    )
    for row in rows:
        print(row.model, *(f"{key}={value:.3g}" for key, value in row.extra.items() if not isinstance(value, str)))
    print("wrote", path)


if __name__ == "__main__":
    main()
