"""What a recipe prepares on its way: once, and never another text than the one asked for."""

import shutil
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from lmbase.files import MANIFEST
from lmbase.text.tokenizers import load_tokenizer
from sllm_data import open_data as module
from sllm_data.open_data import load_prepared, open_data, with_rule

ASKED: dict = dict(text_field="text", tokenizer="bpe:300", rule="punctuation", max_sentence_tokens=16)


@pytest.fixture
def files(tmp_path):
    paths = [tmp_path / name for name in ("train.txt", "valid.txt", "test.txt")]
    for number, path in enumerate(paths):
        path.write_text(f"Text {number} begins, and it ends. " * 20)
    return [str(path) for path in paths]


@pytest.fixture
def run(tmp_path):
    return str(tmp_path / "run")


@pytest.fixture
def learned(monkeypatch):
    """The tokenizers that were asked for, as a list that grows."""
    specs, load = [], module.load_tokenizer

    def noted(spec, texts):
        specs.append(spec)
        return load(spec, texts)

    monkeypatch.setattr(module, "load_tokenizer", noted)
    return specs


def test_several_files_are_prepared_once(files, run, learned):
    data = open_data(files, **ASKED, output_dir=run)
    assert data.splits == ("train", "valid", "test")
    assert open_data(files, **ASKED, output_dir=run).hash == data.hash
    assert learned == ["bpe:300"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("text_field", "body"), ("tokenizer", "bytes"), ("rule", "line"), ("max_sentence_tokens", 20)],
)
def test_another_request_in_the_same_folder_is_refused(files, run, key, value):
    open_data(files, **ASKED, output_dir=run)
    with pytest.raises(ValueError, match=rf"{key}: {ASKED[key]} -> {value}.*another output_dir"):
        open_data(files, **ASKED | {key: value}, output_dir=run)


def test_other_text_in_the_same_folder_is_refused(files, run):
    open_data(files, **ASKED, output_dir=run)
    with pytest.raises(ValueError, match=r"data: .*another output_dir"):
        open_data(files[0], **ASKED, output_dir=run)
    with open(files[0], "a") as file:
        file.write("One more sentence.")
    with pytest.raises(ValueError, match=r"corpus_fingerprint: .*another output_dir"):
        open_data(files, **ASKED, output_dir=run)


@pytest.mark.parametrize("key", ["rule", "tokenizer"])
def test_a_folder_that_changed_under_its_name_is_refused(files, run, tmp_path, key):
    """The name of a rule's or tokenizer's folder says nothing of what lies there now."""
    folder, asked = tmp_path / "named", ASKED | {key: str(tmp_path / "named")}
    with_rule(load_tokenizer("bytes"), "punctuation", 16).save_pretrained(folder)
    made = open_data(files, **asked, output_dir=run)
    assert open_data(files, **asked, output_dir=run).hash == made.hash
    other = load_tokenizer("bpe:300", lambda: iter(["as other text has it"])) if key == "tokenizer" else None
    with_rule(other or load_tokenizer("bytes"), "line", 16).save_pretrained(folder)
    with pytest.raises(ValueError, match=rf"with what {key}=.*lies there now.*another output_dir"):
        open_data(files, **asked, output_dir=run)
    shutil.rmtree(folder)  # gone is not changed
    assert open_data(files, **asked, output_dir=run).hash == made.hash


def test_a_run_below_the_folder_of_its_text_is_refused_at_once(files, tmp_path):
    """Else the same command, which is to go on with it, would find other text there."""
    with pytest.raises(ValueError, match="lies in the folder of texts"):
        open_data(str(tmp_path), **ASKED, output_dir=str(tmp_path / "runs" / "run"))
    assert not (tmp_path / "runs").exists()
    pattern = str(tmp_path / "*.txt")
    first = open_data(pattern, **ASKED, output_dir=str(tmp_path / "runs" / "run"))
    assert open_data(pattern, **ASKED, output_dir=str(tmp_path / "runs" / "run")).hash == first.hash


def test_a_mistake_claims_no_folder(files, run):
    with pytest.raises(ValueError, match="no such file"):
        open_data("nowhere.txt", **ASKED, output_dir=run)
    with pytest.raises(ValueError, match="bpe:many"):
        open_data(files, **ASKED | {"tokenizer": "bpe:many"}, output_dir=run)
    assert open_data(files, **ASKED, output_dir=run).splits


def test_the_tokenizer_of_an_interrupted_run_is_used_again(files, run, learned, monkeypatch):
    def cut_off(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("sllm_data.prepare._write_shards", cut_off)
        with pytest.raises(KeyboardInterrupt):
            open_data(files, **ASKED, output_dir=run)
    with pytest.raises(ValueError, match="rule: punctuation -> line"):
        open_data(files, **ASKED | {"rule": "line"}, output_dir=run)
    assert open_data(files, **ASKED, output_dir=run).splits
    assert learned == ["bpe:300"]


def test_prepared_data_are_given_alone(files, run, tmp_path):
    folder = open_data(files, **ASKED, output_dir=run).folder
    shutil.copytree(folder, tmp_path / "elsewhere")
    loaded = load_prepared([str(tmp_path / "elsewhere")])
    assert loaded is not None
    assert (loaded.folder / MANIFEST).is_file()
    assert load_prepared(files) is None
    with pytest.raises(ValueError, match="cannot be joined"):
        load_prepared([str(folder), *files])


def test_E5_one_of_several_processes_verifies_the_data(files, run, monkeypatch):
    whole = open_data(files, **ASKED, output_dir=run)
    second = SimpleNamespace(is_local_main_process=False, local_main_process_first=nullcontext)
    monkeypatch.setattr("sllm_data.open_data.PartialState", lambda: second)
    monkeypatch.setattr("sllm_data.prepared.verify_once", lambda folder: pytest.fail("it is verified again"))
    assert open_data(files, **ASKED, output_dir=run).hash == whole.hash
    assert open_data(str(whole.folder), **ASKED, output_dir=run).hash == whole.hash
