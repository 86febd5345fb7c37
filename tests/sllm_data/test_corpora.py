"""Corpora: which files are read, splits, and what is left out."""

import glob
import gzip
from itertools import chain
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from record_files import everything, jsonl, skipped

from sllm_data import corpora
from sllm_data.corpora import open_corpus
from sllm_data.readers import Document, Skip


@pytest.mark.parametrize(
    ("files", "spec", "message"),
    [
        ({}, "none/*.txt", "no such file"),
        ({"a.pdf": b"x"}, "a.pdf", r"no reader for this file type.*\.parquet"),
        ({"a.pdf": b"x"}, "", "no file to read there"),
        ({"a.parquet.gz": b"x"}, "a.parquet.gz", "no reader"),
        ({"a.txt": b"\xff"}, "a.txt", r"no document that can be read.*1 x invalid UTF-8: a\.txt"),
        ({"a.jsonl": b""}, "a.jsonl", "no document that can be read"),
    ],
)
def test_nothing_to_read_is_an_error(tmp_path: Path, files: dict[str, bytes], spec: str, message: str) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=message):
        open_corpus(str(tmp_path / spec))


def test_names_of_files_and_folders_make_splits(tmp_path: Path) -> None:
    for name in ["train.txt", "wiki-validation.txt", "wiki-train.txt", "dev_2.txt", "test/a.txt", "contest/b.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    corpus = open_corpus(str(tmp_path))
    assert {split: {d.text for d in corpus.read(split)} for split in corpus.splits} == {
        "train": {"train.txt", "wiki-train.txt", "contest/b.txt"},
        "valid": {"wiki-validation.txt", "dev_2.txt"},
        "test": {"test/a.txt"},
    }
    assert corpus.report == "by names of files and folders: train 3, valid 2, test 1"
    with pytest.raises(ValueError, match="no split 'valid', only train"):
        open_corpus(str(tmp_path / "train.txt")).read("valid").__next__()


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_only_folder_of_a_folder_makes_a_split(tmp_path: Path, split: str) -> None:
    (tmp_path / "mine" / split).mkdir(parents=True)
    for number in range(3):
        (tmp_path / "mine" / split / f"{number}.txt").write_text(f"Text {number}.")
    corpus = open_corpus(str(tmp_path / "mine"))
    assert (corpus.name, corpus.splits, len(list(corpus.read(split)))) == ("mine", (split,), 3)
    assert not open_corpus(str(tmp_path / "mine" / split)).report.startswith("by names")  # the folder itself is given


def test_several_specs_and_patterns_name_each_file_once(tmp_path: Path) -> None:
    for name in ["a/x.txt", "b/x.txt"]:
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(name)
    corpus = open_corpus([str(tmp_path / "a"), str(tmp_path / "*" / "x.txt"), str(tmp_path / "a" / "x.txt")])
    assert [d.name for d in corpus.read("train")] == ["a/x.txt", "b/x.txt"]
    with pytest.raises(ValueError, match="cannot be joined"):
        open_corpus(["stdlib", str(tmp_path)])


@pytest.mark.parametrize("count", [1, 2, 3, 4, 30, 3000])
def test_documents_without_splits_are_dealt_out_by_their_names(tmp_path: Path, count: int) -> None:
    (tmp_path / "data.jsonl").write_bytes(jsonl([str(i) for i in range(count)]))
    corpus = open_corpus(str(tmp_path / "data.jsonl"))
    parts = {split: [d.text for d in corpus.read(split)] for split in corpus.splits}
    assert sorted(chain.from_iterable(parts.values())) == sorted(str(i) for i in range(count))
    assert all(parts.values())
    assert list(parts) == (["train"] if count < 3 else ["train", "valid", "test"])
    if count == 3000:
        assert 10 < len(parts["valid"]) < 60
        assert 10 < len(parts["test"]) < 60
        # A document stays where it is when others are added.
        (tmp_path / "data.jsonl").write_bytes(jsonl([str(i) for i in range(count + 500)]))
        assert set(parts["test"]) <= {d.text for d in open_corpus(str(tmp_path / "data.jsonl")).read("test")}


def test_max_bytes_reads_the_first_part(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_bytes(jsonl(["x" * 100] * 50))
    corpus = open_corpus(str(tmp_path / "train.jsonl"), max_bytes=1000)
    assert len(list(corpus.read("train"))) == 10
    assert corpus.fingerprint != open_corpus(str(tmp_path / "train.jsonl")).fingerprint


def test_hub_datasets_are_streamed_through_the_datasets_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "small"
    folder.mkdir()
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_bytes(jsonl([f"{split} {i}" for i in range(3)]))
    corpus = open_corpus(f"hub:{folder}")
    assert corpus.name == "small"
    assert corpus.splits == ("train", "valid")
    assert [d.text for d in corpus.read("valid")] == [f"validation {i}" for i in range(3)]
    with pytest.raises(ValueError, match="no field 'body'"):
        open_corpus(f"hub:{folder}", text_field="body")
    with pytest.raises(ValueError, match="could not be opened"):
        open_corpus(f"hub:{tmp_path / 'nowhere'}")


def test_long_lists_of_skips_stay_short() -> None:
    log = corpora.SkipLog()
    for i in range(1000):
        log.add(Skip(f"n{i}", "bad"))
    log.update(log.to_dict())
    assert log.counts == {"bad": 2000}
    assert len(log.names["bad"]) == corpora.SKIPPED_NAMES_KEPT
    assert str(log) == "2000 x bad: n0, n1, n2 ..."


def test_A10_a_first_record_without_the_field_and_stray_files_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"meta": "v1"}\n{}\n' + jsonl(["One.", "Two."]))
    (tmp_path / "package.json").write_text('{"name": "x", "version": 1}')
    (tmp_path / "z.csv").write_text("a,b\n1,2\n")
    pq.write_table(pa.table({"body": ["x"]}), tmp_path / "z.parquet")
    corpus = open_corpus(str(tmp_path))
    assert everything(corpus) == ["One.", "Two."]
    assert skipped(corpus) == {
        "no field 'text'": [
            "a.jsonl:1 (it has 'meta')",
            "a.jsonl:2 (it has none)",
            "package.json:1 (it has 'name', 'version')",
            "z.csv (it has 'a', 'b')",
            "z.parquet (it has 'body')",
        ]
    }


def test_A10_refused_where_no_record_has_the_field(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "x", "title": "y"}\n' * 5)
    (tmp_path / "z.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        ValueError, match=r"a\.jsonl:1 has no field 'text'; it has 'body', 'title'.*--text_field.*6 x no field"
    ):
        open_corpus(str(tmp_path))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpora, "NO_DOCUMENT_YET", 3)
        with pytest.raises(ValueError, match="no field 'text'"):
            open_corpus(str(tmp_path))
    assert "No document in the first 3 records (3 x no field 'text': a.jsonl:1" in capsys.readouterr().err


def test_A11_a_letter_that_changed_is_seen_up_to_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "train.txt"
    found = []
    for text in ("One letter.", "One better."):
        path.write_text(text)
        corpus = open_corpus(str(path))
        assert corpus.contents is not None
        found.append(corpus.contents())
    assert found[0] != found[1]
    monkeypatch.setattr(corpora, "COMPARED_BYTES", 5)
    assert open_corpus(str(path)).contents is None


@pytest.mark.parametrize("folder", ["my [old] texts", "[a-c]", "a]b["])
def test_A13_brackets_in_a_path_are_its_own(tmp_path: Path, folder: str) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a.txt").write_text("Text.")
    for pattern in ("", "a.txt", "*.txt", "**/*.txt"):
        assert everything(open_corpus(str(tmp_path / folder / pattern))) == ["Text."]
    assert everything(open_corpus(str(tmp_path / folder / "[a]*.txt").replace(folder, glob.escape(folder)))) == [
        "Text."
    ]


def test_linked_folders_are_read_once_and_what_is_not_read_is_told(tmp_path: Path) -> None:
    for name in ("top/own", "outside"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.txt").write_text(f"Text of {name}. " * 50)
    (tmp_path / "top" / "linked").symlink_to(tmp_path / "outside")
    (tmp_path / "top" / "again").symlink_to(tmp_path / "top" / "own")
    (tmp_path / "outside" / "loop").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "broken.txt").symlink_to(tmp_path / "nowhere.txt")
    corpus = open_corpus(str(tmp_path / "top"))
    assert [document.text[:15] for document in corpus.read_whole()] == ["Text of outside", "Text of top/own"]
    list(corpus.read("train"))
    assert corpus.skipped["train"].counts == {"link to nothing": 1}


@pytest.mark.parametrize("names", [["state.json", "data-00000-of-00001.arrow"], ["dataset_dict.json", "train/x.arrow"]])
def test_a_dataset_saved_to_disk_is_refused_with_what_to_do(tmp_path, names):
    (tmp_path / "train").mkdir()
    for name in names:
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r"load_from_disk\(.*to_parquet"):
        open_corpus(str(tmp_path))


def test_plain_text_is_read_where_it_is_asked_for(tmp_path: Path) -> None:
    """Sources and notes by a name or a pattern; in a folder of data a README is none."""
    for name in ("a.py", "b.py", "README.md", "c.txt"):
        (tmp_path / name).write_text(f"# {name}\nx = 1\n")
    (tmp_path / "d.py.gz").write_bytes(gzip.compress(b"# d.py\n"))

    def texts(*specs: str) -> list[str]:
        found = open_corpus([f"{tmp_path}/{spec}" for spec in specs]).read_whole()
        return sorted(document.text.splitlines()[0] for document in found if isinstance(document, Document))

    assert texts("*.py", "README.md") == ["# README.md", "# a.py", "# b.py"]
    assert texts("*.py.gz") == ["# d.py"]
    assert texts("") == ["# c.txt"]
    (tmp_path / "c.txt").unlink()
    with pytest.raises(ValueError, match=r"4 of other types.*Plain text such as .md, .py and .log is read where"):
        open_corpus(str(tmp_path))
