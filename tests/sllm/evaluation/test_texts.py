"""The texts that are evaluated, and what names them."""

import hashlib
import json

import pytest
from families import loaded_as, make_lm

from sllm.evaluation.texts import make_texts, read_texts


def test_the_first_documents_of_a_split_and_their_hash(tmp_path):
    lines = [json.dumps({"text": text}) for text in ("One.", "Two.", "Three.")]
    (tmp_path / "test.jsonl").write_text("\n".join(lines) + "\n")
    texts, corpus = read_texts(str(tmp_path / "test.jsonl"), "test", "text", 2)
    assert texts == ["One.", "Two."]
    assert corpus["sha256"] == hashlib.sha256(b"One.\0Two.\0").hexdigest()


def test_figures_do_not_go_into_the_folder_of_the_texts_that_are_read(tmp_path):
    jsonl_of(tmp_path / "test.jsonl", ["One.", "Two."])
    for below in ("", "runs/evaluate"):
        with pytest.raises(ValueError, match=r"output_dir=.*lies in the folder of texts"):
            read_texts(str(tmp_path), "test", "text", None, [], str(tmp_path / below))
    assert read_texts(str(tmp_path), "test", "text", None, [], str(tmp_path.parent / "elsewhere"))[0] == [
        "One.",
        "Two.",
    ]


def jsonl_of(path, texts):
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(path)


def test_F5_a_file_is_scored_whole_unless_it_was_trained_on(tmp_path, capsys):
    ten = [f"Text number {i}." for i in range(10)]
    data = jsonl_of(tmp_path / "ten.jsonl", ten)
    texts, corpus = read_texts(data, "test", "text", None, [])
    assert (texts, corpus["split"]) == (ten, "whole")
    assert "ten, whole, as it has no such split of its own: 10 documents, 140 bytes" in capsys.readouterr().out
    assert read_texts(data, "test", "text", 3, ["facebook/opt-125m"])[0] == ten[:3]
    # a run on the file itself, on data prepared from its folder, or begun with such a run
    for name in ("direct", "prepared", "data", "later"):
        (tmp_path / name).mkdir()
    (tmp_path / "direct" / "config.yaml").write_text(f"data: {data}\n")
    (tmp_path / "data" / "config.yaml").write_text(f"data: [{tmp_path}]\n")
    (tmp_path / "data" / "manifest.json").write_text("{}")
    (tmp_path / "prepared" / "config.yaml").write_text(f"data: {tmp_path / 'data'}\n")
    (tmp_path / "later" / "config.yaml").write_text(f"data: stdlib\nvae: {tmp_path / 'prepared'}\n")
    for model in ("direct", "prepared", "later", "direct/model"):
        texts, _ = read_texts(data, "test", "text", None, ["x", f"name={tmp_path / model}"])
        assert len(texts) == 1, model
        out = capsys.readouterr().out
        assert "ten, split test, for " in out
        assert "was trained on the rest: 1 documents, 14 bytes" in out


def test_F5_what_a_run_was_trained_on_is_known_or_told(tmp_path):
    data = jsonl_of(tmp_path / "ten.jsonl", ["One.", "Two."])
    for text in ("data: [", "data: \x00", "[" * 5000):
        (tmp_path / "config.yaml").write_text(text)
        with pytest.raises(ValueError, match=r"config.yaml' cannot be read.*Copy it again"):
            read_texts(data, "test", "text", None, [str(tmp_path)])
    (tmp_path / "config.yaml").write_text("data: 5")
    assert len(read_texts(data, "test", "text", None, [str(tmp_path)])[0]) == 2


def test_F5_splits_of_the_data_are_kept_to(tmp_path):
    jsonl_of(tmp_path / "train.jsonl", ["One."])
    jsonl_of(tmp_path / "valid.jsonl", ["Two."])
    assert read_texts(str(tmp_path), "valid", "text", None, [])[0] == ["Two."]
    with pytest.raises(ValueError, match="no split 'test', only train, valid"):
        read_texts(str(tmp_path), "test", "text", None, [])
    assert read_texts(str(tmp_path / "valid.jsonl"), "test", "text", None, [])[0] == ["Two."]


def test_empty_texts_are_left_out_and_tokens_are_the_baselines():
    data = make_texts(["", "abc", "de"], "some", loaded_as(make_lm()))
    assert (data.texts, data.num_baseline_tokens, data.baseline_window) == (["abc", "de"], 5, 63)
    with pytest.raises(ValueError, match="the split is empty"):
        make_texts([""], "some", loaded_as(make_lm()))


def test_a_split_is_kept_to_where_nobody_knows_what_a_model_was_trained_on(tmp_path, monkeypatch, capsys):
    """Its run was moved, or its model copied out of it, or the command is given in another folder."""
    (tmp_path / "here").mkdir()
    data = jsonl_of(tmp_path / "here" / "ten.jsonl", [f"Text number {i}." for i in range(10)])
    for name in ("run", "copy"):
        (tmp_path / name).mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: here/t*.jsonl\n")
    (tmp_path / "copy" / "sentence_processor.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    for model, cwd in (("run", "."), ("../run", "here"), (str(tmp_path / "run"), "/"), ("copy", tmp_path)):
        monkeypatch.chdir(cwd)
        assert len(read_texts(data, "test", "text", None, [model])[0]) == 1
    assert "for it is not known here what copy was trained on" in capsys.readouterr().out
