"""Splits: by names that are splits' names, else by share of text, whatever the number and size of the texts."""

import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_files import jsonl

from sllm_data import readers
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.readers import Document, Skip
from sllm_data.splits import SPLITS, deal, named_splits


def prose(size: int, seed: int = 0) -> str:
    """About so many bytes of sentences in paragraphs."""
    draw = random.Random(seed)
    text = ""
    while len(text) < size:
        words = " ".join(draw.choice(["river", "stone", "walks", "and", "green"]) for _ in range(draw.randrange(3, 15)))
        text += f"{words.capitalize()}.{draw.choice([' ', ' ', ' ', chr(10) * 2])}"
    return text[:size]


def texts_of(corpus: Corpus) -> dict[str, list[str]]:
    return {split: [document.text for document in corpus.read(split)] for split in corpus.splits}


def shares_of(corpus: Corpus) -> dict[str, float]:
    sizes = {split: sum(len(text.encode()) for text in texts) for split, texts in texts_of(corpus).items()}
    return {split: size / sum(sizes.values()) for split, size in sizes.items()}


def check_shares(corpus: Corpus, most: float = 0.021) -> None:
    assert corpus.splits == SPLITS, corpus.report
    shares = shares_of(corpus)
    assert 0.0095 <= shares["valid"] <= most, shares
    assert 0.0095 <= shares["test"] <= most, shares


# -- names -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train.jsonl", "validation.csv.gz", "test-00001-of-00010.parquet"], ["train", "valid", "test"]),
        (["Train.txt", "DEV.TXT", "test_2.txt"], ["train", "valid", "test"]),
        (["train-00000-of-00001-0123abcdef.parquet", "a/test/x.txt"], ["train", "test"]),
        (["train/a.txt", "valid/b.txt", "rest/c.txt"], ["train", "valid", "train"]),
        (["train/test.txt", "train/dev/a.txt"], ["test", "valid"]),
        (["wiki-train.jsonl", "wiki-valid.jsonl"], ["train", "valid"]),
        (["train.jsonl"], ["train"]),
        (["test.jsonl", "more.jsonl"], ["test", "train"]),
    ],
)
def test_names_that_are_splits(names: list[str], splits: list[str]) -> None:
    assert named_splits(names) == dict(zip(names, splits, strict=True))


@pytest.mark.parametrize(
    "names",
    [
        ["Train to Busan.txt", "a.txt"],
        ["dev notes.txt", "final test.txt", "a.txt"],
        ["final-test.txt", "a.txt"],
        ["the_long_test.txt", "the_short_train.txt"],
        ["latest.txt", "contest.txt", "attest/a.txt"],
        ["train.txt", "a.txt"],  # the rest would be train, too, and nothing held out
    ],
)
def test_A3_titles_are_no_splits(names: list[str]) -> None:
    assert named_splits(names) == {}


def test_A3_a_title_among_others_holds_out_as_ever(tmp_path: Path) -> None:
    for i, name in enumerate(["Train to Busan", "dev notes", "final test", *map(str, range(200))]):
        (tmp_path / f"{name}.txt").write_text(prose(500, i))
    corpus = open_corpus(str(tmp_path))
    check_shares(corpus)
    assert corpus.report.startswith("dealt out by share of text")
    assert "no name of a file or folder is a split's" in corpus.report


# -- shares ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mebibytes", [16, 17, 33, 44, 60, 96])
def test_A1_one_huge_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mebibytes: int) -> None:
    """Everything 128 times smaller."""
    monkeypatch.setattr(readers, "MAX_TEXT_FILE_BYTES", 2**17)
    text = prose(mebibytes * 2**13)
    (tmp_path / "huge.txt").write_text(text)
    corpus = open_corpus(str(tmp_path))
    check_shares(corpus)
    found = texts_of(corpus)
    # In the file's order, nothing lost, each side in one piece
    assert "".join(part for split in SPLITS for part in found[split]) == text
    for split in ("train", "valid"):
        assert found[split][-1][-1] == "."
    assert "1 long text gives its last per cents" in corpus.report


def test_A1_a_huge_file_whose_first_parts_are_white_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_TEXT_FILE_BYTES", 2**16)
    text = "\n" * 150_000 + prose(400_000)
    (tmp_path / "1.txt").write_text(text)
    alone = texts_of(open_corpus(str(tmp_path)))
    assert "".join(part for split in SPLITS for part in alone[split]) == text
    (tmp_path / "0.txt").write_text(prose(2000, 1))  # the text before it, of which they are no parts
    found = texts_of(open_corpus(str(tmp_path)))
    assert "".join(part for split in SPLITS for part in found[split]) == prose(2000, 1) + text
    for split in ("valid", "test"):
        assert 0.0095 <= sum(map(len, found[split])) / 402_000 <= 0.021


def test_A1_long_files_among_short_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "MAX_TEXT_FILE_BYTES", 2**16)
    for i in range(300):
        (tmp_path / f"{i}.txt").write_text(prose(1000, i))
    for i in range(4):
        (tmp_path / f"long {i}.txt").write_text(prose(70_000 * (i + 1), i))
    corpus = open_corpus(str(tmp_path))
    check_shares(corpus)
    documents = {split: [d.name for d in corpus.read(split)] for split in SPLITS}
    assert len({name for names in documents.values() for name in names}) == sum(map(len, documents.values()))


def test_A2_one_book_gives_its_last_per_cents(tmp_path: Path) -> None:
    text = prose(1_000_000)
    (tmp_path / "book.txt").write_text(text)
    corpus = open_corpus(str(tmp_path / "book.txt"))
    check_shares(corpus)
    found = texts_of(corpus)
    assert found["train"][0] + found["valid"][0] + found["test"][0] == text
    assert found["valid"][0].startswith("\n\n")  # cut at a paragraph
    assert [document.name for split in SPLITS for document in corpus.read(split)] == [
        "book.txt",
        "book.txt:valid",
        "book.txt:test",
    ]


@pytest.mark.parametrize("letter", ["x", "é", "界", "😀"])
@pytest.mark.parametrize("paragraph", [0.958, 0.976])  # where one begins: the last per cents do not, as it is too far
def test_a_book_in_letters_of_several_bytes_gives_the_same_shares(letter: str, paragraph: float) -> None:
    sentences = [letter * 20 + "。"] * (300_000 // len((letter * 20 + "。").encode()))
    sentences.insert(int(paragraph * len(sentences)), "\n\n")
    document = Document("".join(sentences), "book.txt")
    sizes = {split: len(part.text.encode()) for split, part in deal([document]).parts(document)}
    assert sizes["valid"] / sum(sizes.values()) == pytest.approx(0.015, abs=0.001)
    assert sizes["test"] / sum(sizes.values()) == pytest.approx(0.015, abs=0.001)


def test_A2_a_book_beside_two_notes_is_train(tmp_path: Path) -> None:
    for name, size in {"a": 450, "book": 1_100_000, "c": 450}.items():
        (tmp_path / f"{name}.txt").write_text(prose(size, size))
    check_shares(open_corpus(str(tmp_path)))


@pytest.mark.parametrize("size", [20_000, 60_000])
@pytest.mark.parametrize("count", [1, 2, 3, 10, 40, 60, 99, 101])
def test_A2_any_number_of_equally_long_texts(tmp_path: Path, count: int, size: int) -> None:
    (tmp_path / "a.jsonl").write_bytes(jsonl([prose(size, i) for i in range(count)]))
    check_shares(open_corpus(str(tmp_path)), most=0.026 if count < 3 and size < 50_000 else 0.021)


def corpus_of(items: Sequence[Document | Skip]) -> Corpus:
    return Corpus("c", "f", {None: lambda: iter(items)})


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 300) | st.integers(0, 60_000), min_size=1, max_size=60), st.integers(0, 9))
def test_dealing_loses_nothing_and_leaves_text_to_train(sizes: list[int], seed: int) -> None:
    texts = [prose(size, seed + i % 7) for i, size in enumerate(sizes)]
    corpus = corpus_of([Document(text, f"d:{i}") for i, text in enumerate(texts)])
    found = texts_of(corpus)
    assert sum(map(len, (text for part in found.values() for text in part))) == sum(map(len, texts))
    assert all(any(part) for part in found.values()) or not any(texts)
    if any(texts):
        sizes_of = {split: sum(map(len, part)) for split, part in found.items()}
        assert max(sizes_of, key=lambda split: sizes_of[split]) == "train" or sum(sizes_of.values()) < 10_000


def test_A4_empty_records_do_not_count() -> None:
    for seed in range(30):
        draw = random.Random(seed)
        texts = [
            prose(draw.randrange(50, 400), seed * 100 + i) if draw.random() < 0.4 else draw.choice(["", " \n"])
            for i in range(100)
        ]
        found = texts_of(corpus_of([Document(text, f"d:{i}") for i, text in enumerate(texts)]))
        assert all(any(text.strip() for text in found[split]) for split in SPLITS)


def test_A5_equal_texts_are_on_one_side_and_counted() -> None:
    texts = [prose(200, i % 60) for i in range(500)]
    corpus = corpus_of([Document(text, f"d:{i}") for i, text in enumerate(texts)])
    found = {split: set(part) for split, part in texts_of(corpus).items()}
    assert all(found[split] for split in SPLITS)
    assert not found["train"] & (found["valid"] | found["test"])
    assert not found["valid"] & found["test"]
    assert "440 documents repeat others, and equal ones are in one split" in corpus.report
    same = corpus_of([Document("All the same.", f"d:{i}") for i in range(500)])
    assert same.splits == ("train",)
    assert same.report.startswith("all is train: there is too little text")


def test_A5_long_texts_that_are_equal_are_cut_alike() -> None:
    corpus = corpus_of([Document(prose(30_000), f"d:{i}") for i in range(3)])
    assert {len(set(part)) for part in texts_of(corpus).values()} == {1}


def test_tiny_texts_are_train_and_said() -> None:
    corpus = corpus_of([Document("One. Two.", "a"), Document("Three.", "b")])
    assert texts_of(corpus) == {"train": ["One. Two.", "Three."]}
    assert "too little text" in corpus.report
    small = corpus_of([Document(prose(3000), "a")])
    assert small.splits == SPLITS
    assert shares_of(small)["train"] > 0.85


def test_what_is_left_out_is_told_once() -> None:
    items = [Document(prose(50, i), f"d:{i}") for i in range(300)]
    corpus = corpus_of([*items, Skip("bad", "reason"), Document("\ud800", "lone")])
    texts_of(corpus)
    assert {split: log.counts for split, log in corpus.skipped.items()} == {
        "train": {"reason": 1},
        "valid": {},
        "test": {},
    }
    assert "lone" in [document.name for document in corpus.read("train")]


def test_a_text_of_a_large_corpus_stays_where_it_is() -> None:
    items = [Document(prose(60, i), f"d:{i}") for i in range(6000)]
    before = texts_of(corpus_of(items[:4000]))
    after = texts_of(corpus_of([*items[4000:], *items[:4000]]))
    for split in ("valid", "test"):
        assert set(before[split]) <= set(after[split])


def test_a_limit_looks_at_the_beginning_only() -> None:
    items = [Document(prose(100, i), f"d:{i}") for i in range(1000)]
    found = deal(items, limit=50_000)
    assert found.num_documents == 500
