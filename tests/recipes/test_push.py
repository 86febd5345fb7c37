"""`sllm push`: the card says what was measured of these weights, and nothing goes out that was not."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from huggingface_hub.errors import HfHubHTTPError, HTTPError
from small_runs import refused, sllm

from lmbase.files import with_checksum
from sllm_recipes.push import hub_dataset


@pytest.fixture(scope="module")
def evaluated(kinds):
    """The models of every kind, with figures beside them."""
    models = " ".join(f"{name}={kinds}/{name}" for name in ("plain", "heads", "sentences", "vae"))
    words = f"--data {kinds}/test.txt --speed false --samples 0 --device cpu"
    sllm(f"evaluate --model {models} {words} --output_dir {kinds}/figures")
    return kinds


@pytest.fixture
def folder(evaluated, tmp_path):
    """The same, to change."""
    shutil.copytree(evaluated, tmp_path / "all")
    return tmp_path / "all"


def change(folder, **entries):
    """Metrics of another kind of evaluation, or as somebody else wrote them."""
    path = folder / "figures" / "metrics.json"
    path.write_text(json.dumps(with_checksum({**json.loads(path.read_text()), **entries})))


@pytest.mark.parametrize("name", ["sentences", "heads", "plain", "vae"])
def test_a_dry_run_writes_what_would_be_uploaded(evaluated, tmp_path, name):
    sllm(f"push {evaluated}/{name} me/tiny --dry_run {tmp_path}/out --license mit")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"config.json", "model.safetensors", "tokenizer.json", "README.md", "metrics.json"}
    weights, config = (tmp_path / "out" / file for file in ("model.safetensors", "config.json"))
    assert weights.read_bytes() == (evaluated / name / weights.name).read_bytes()
    settings = json.loads(config.read_text())
    assert ("auto_map" in settings) == any(file.startswith("modeling_") for file in written) == (name != "plain")
    settings.pop("auto_map", None)
    assert settings == json.loads((evaluated / name / config.name).read_text())
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    metrics = json.loads((evaluated / "figures" / "metrics.json").read_text())
    rows = [row for row in metrics["rows"] if row["model"] == name]
    column = "reconstruction_exact_match" if name == "vae" else "bits_per_byte"
    assert [result.metric_value for result in card.data.eval_results] == [row[column] for row in rows]
    assert metrics["models"][name]["weights"]["model.safetensors"] in card.text
    assert f"sllm evaluate --model plain={evaluated}/plain" in card.text
    assert ("causality audit passed" in card.text) == (name != "vae")
    if name in ("sentences", "heads"):
        assert f"{rows[0]['ratio']:.4g} times those of `plain`" in card.text
        assert card.text.count("| plain |") == 1
    sllm(f"verify {tmp_path}/out")


def test_words_and_keys_say_the_same(evaluated, tmp_path):
    sllm(f"push --run {evaluated}/plain --repo me/tiny --dry_run {tmp_path}/a")
    sllm(f"push {evaluated}/plain --repo me/tiny --dry_run {tmp_path}/b")
    assert (tmp_path / "a" / "README.md").read_text() == (tmp_path / "b" / "README.md").read_text()


@pytest.mark.parametrize("word", ["true", "False", "1"])
def test_a_dry_run_is_a_folder_and_no_switch(evaluated, word, tmp_path, monkeypatch, capsys):
    """It wrote into a folder of that name; `false` uploaded nothing, either."""
    monkeypatch.chdir(tmp_path)
    assert "is no switch but the folder" in refused(f"push {evaluated}/plain me/tiny --dry_run {word}", capsys)
    assert not any(tmp_path.iterdir())


def test_a_name_that_the_hub_does_not_take_is_told_before(evaluated, tmp_path, capsys):
    assert "me/.." in refused(f"push {evaluated}/plain me/.. --dry_run {tmp_path}/out", capsys)
    assert not any(tmp_path.iterdir())


def test_figures_are_named_by_their_folder_too(evaluated, tmp_path):
    """As every other recipe takes them; half of a folder was written before that failed."""
    folder = next(evaluated.rglob("metrics.json")).parent
    sllm(f"push {evaluated}/plain me/tiny --metrics {folder} --dry_run {tmp_path}/out")
    assert (tmp_path / "out" / "metrics.json").read_bytes() == (folder / "metrics.json").read_bytes()


def test_no_folder_is_overwritten(evaluated, tmp_path, capsys):
    (tmp_path / "mine").write_text("kept")
    assert "nothing is overwritten" in refused(f"push {evaluated}/plain me/tiny --dry_run {tmp_path}", capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_dry_run_that_finds_no_room_leaves_nothing_in_the_way_of_the_next(evaluated, tmp_path, monkeypatch, capsys):
    copied: list[Path] = []

    def copy(source, target):  # tells it as shutil.copyfile does
        if copied:
            target.write_bytes(b"half")
            raise OSError(28, "No space left on device", str(source), None, str(target))
        copied.append(target)
        target.write_bytes(source.read_bytes())

    command = f"push {evaluated}/plain me/tiny --dry_run {tmp_path}/out"
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfile", copy)
        assert f"error: {tmp_path}/out: No space is left on the disk. Free some" in refused(command, capsys)
    assert copied
    assert not any((tmp_path / "out").iterdir())
    sllm(command)


def test_a_model_without_figures_of_its_own_is_refused(folder, capsys):
    shutil.copyfile(folder / "plain" / "model.safetensors", folder / "sentences" / "model.safetensors")
    out = f"--dry_run {folder}/out"
    for metrics in ("", f" --metrics {folder}/figures/metrics.json"):
        assert "of other weights" in refused(f"push {folder}/sentences me/tiny {out}{metrics}", capsys)
    (folder / "figures" / "metrics.json").rename(folder / "metrics.json")  # F15: beside the model, too
    assert "of other weights" in refused(f"push {folder}/sentences me/tiny {out}", capsys)
    (folder / "metrics.json").unlink()
    shutil.rmtree(folder / "figures")
    told = refused(f"push {folder}/plain me/tiny {out}", capsys)
    assert "no metrics.json in or beside it" in told
    assert "sllm evaluate" in told
    assert not (folder / "out").exists()


def test_figures_of_other_recipes_are_passed_over(folder, capsys):
    document = json.loads((folder / "figures" / "metrics.json").read_text())
    frontier = document["models"]["sentences"] | {"audit_checks": None}
    for recipe, models in (("frontier", {"sentences": frontier}), ("scaling", {"token": {"floor": 1.0}})):
        (folder / recipe).mkdir()
        other = json.dumps(with_checksum(document | {"recipe": recipe, "models": models}))
        (folder / recipe / "metrics.json").write_text(other)  # newer, beside the model
    sllm(f"push {folder}/sentences me/tiny --dry_run {folder}/out")
    assert json.loads((folder / "out" / "metrics.json").read_text())["recipe"] == "evaluate"
    told = refused(f"push {folder}/sentences me/tiny --metrics {folder}/scaling/metrics.json", capsys)
    assert "not of sllm evaluate" in told


def test_a_text_that_was_read_whole_is_no_split(folder):
    change(folder, corpus={"name": "mine", "sha256": "ab", "split": "whole"})
    sllm(f"push {folder}/plain me/tiny --dry_run {folder}/out")
    card = (folder / "out" / "README.md").read_text()
    assert "Data: mine, whole, SHA-256" in card
    assert "split: whole" in card


def test_metrics_that_were_edited_are_refused(folder, capsys):
    path = folder / "figures" / "metrics.json"
    path.write_text(path.read_text().replace('"bits_per_byte": ', '"bits_per_byte": 0'))
    command = f"push {folder}/plain me/tiny --dry_run {folder}/out"
    assert "has no figures" in refused(command, capsys)
    assert "not a metrics file" in refused(f"{command} --metrics {path}", capsys)


def test_a_model_that_failed_its_audit_is_refused(folder, capsys):
    models = json.loads((folder / "figures" / "metrics.json").read_text())["models"]
    for verdict in ({"audit_checks": 0}, {}):
        change(folder, models=models | {"sentences": {"weights": models["sentences"]["weights"]} | verdict})
        told = refused(f"push {folder}/sentences me/tiny --dry_run {folder}/out", capsys)
        assert "has not passed the causality audit" in told
    assert not (folder / "out").exists()


def test_rows_that_cannot_be_compared_are_refused(folder, capsys):
    rows = json.loads((folder / "figures" / "metrics.json").read_text())["rows"]
    change(folder, rows=[row | {"protocol": "paper"} for row in rows])
    assert "--protocol exact" in refused(f"push {folder}/plain me/tiny --dry_run {folder}/out", capsys)


@pytest.mark.parametrize("words", ["", "{}/plain", "{}/plain tiny", "{}/plain me/ti/ny", "{}/none me/tiny"])
def test_wrong_words_are_told(evaluated, words, capsys):
    refused("push " + words.format(evaluated), capsys)


def test_data_of_the_hub_have_results_in_its_format(folder, tmp_path):
    config = json.loads((folder / "figures" / "metrics.json").read_text())["config"]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.yaml").write_text("data: hub:some/corpus:small\n")
    change(folder, config=config | {"data": str(tmp_path / "data")})
    sllm(f"push {folder}/sentences me/tiny --dry_run {tmp_path}/out")
    entries = [yaml.safe_load(path.read_text()) for path in sorted((tmp_path / "out" / ".eval_results").iterdir())]
    parsed = [entry for found in entries for entry in parse_eval_result_entries(found)]
    assert [(e.dataset_id, e.task_id, e.notes) for e in parsed] == [
        ("some/corpus", "bits_per_byte", protocol) for protocol in ("full window", "equal context")
    ]
    assert ModelCard.load(tmp_path / "out" / "README.md").data.datasets == ["some/corpus"]
    assert hub_dataset("hub:wikitext:wikitext-103-raw-v1") == "wikitext"
    assert hub_dataset(["a.txt", "b.txt"]) is hub_dataset("stdlib") is None


class Hub:
    """Stands for `HfApi`; `files` of the repository, None if there is none."""

    def __init__(self, files=None, status=None):
        self.files, self.status, self.made, self.operations = files, status, None, []

    def repo_exists(self, repo):
        return self.files is not None

    def list_repo_files(self, repo):
        return self.files

    def create_repo(self, repo, private, exist_ok):
        if self.status:
            response: Any = SimpleNamespace(status_code=self.status, headers={}, request=None)
            raise HfHubHTTPError("no", response=response)
        if self.status == 0:
            raise HTTPError("no route")
        self.made = (repo, private)

    def create_commit(self, repo, operations, commit_message):
        self.operations = operations
        return SimpleNamespace(commit_url=f"https://hub/{repo}")


def push(evaluated, monkeypatch, hub, more=""):
    monkeypatch.setattr("sllm_recipes.push.HfApi", lambda: hub)
    sllm(f"push {evaluated}/sentences me/tiny{more}")


@pytest.mark.parametrize("files", [None, [], [".gitattributes"]])
def test_one_commit_holds_what_a_dry_run_writes(evaluated, monkeypatch, tmp_path, files, capsys):
    sllm(f"push {evaluated}/sentences me/tiny --dry_run {tmp_path}/out")
    hub = Hub(files)
    push(evaluated, monkeypatch, hub, " --private true")
    assert hub.made == ("me/tiny", True)
    for operation in hub.operations:
        with operation.as_file() as content:
            assert content.read() == (tmp_path / "out" / operation.path_in_repo).read_bytes()
    assert len(hub.operations) == len(list((tmp_path / "out").iterdir()))
    assert "https://hub/me/tiny" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("hub", "told"),
    [
        (Hub(["README.md"]), "has files already, and nothing is overwritten"),
        (Hub(status=401), "hf auth login, or HF_TOKEN, with a token that may write to me"),
        (Hub(status=403), "hf auth login"),
        (Hub(status=500), "The Hub refuses me/tiny"),
        (Hub(status=0), "The Hub cannot be reached (no route): check the network"),
    ],
)
def test_what_the_hub_says_is_told(evaluated, monkeypatch, hub, told, capsys):
    monkeypatch.setattr("sllm_recipes.push.HfApi", lambda: hub)
    assert told in refused(f"push {evaluated}/sentences me/tiny", capsys)
    assert not hub.operations
