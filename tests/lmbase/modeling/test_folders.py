"""Folders of models are verified: once per process and state, and again when anything changed."""

import os

import pytest
import torch
from safetensors.torch import save_file

from lmbase import files
from lmbase.files import write_folder
from lmbase.modeling.folders import model_folder


@pytest.fixture
def run(tmp_path):
    """A finished run."""

    def write(folder):
        (folder / "config.json").write_text('{"model_type": "opt"}')
        save_file({"weight": torch.zeros(10)}, folder / "model.safetensors")

    write_folder(tmp_path / "run" / "model", write)
    return tmp_path / "run"


@pytest.fixture
def verified(monkeypatch):
    """The folders that were verified, in order."""
    seen = []
    verify = files.verify_folder

    def count(folder):
        seen.append(folder.name)
        verify(folder)

    monkeypatch.setattr(files, "verify_folder", count)
    return seen


def test_a_folder_is_verified_once_whatever_it_is_called(run, verified, monkeypatch):
    for name in (run, run / "model", str(run)):
        assert model_folder(name, "opt") == str(run / "model")
    monkeypatch.chdir(run)
    assert model_folder("model") == "model"
    assert verified == ["model"]


def later(path, data):
    """Write a file a second later than it was written before."""
    status = path.stat()
    path.write_bytes(data)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 10**9))


CHANGES = {
    "other contents of the same size": (
        lambda f: later(f / "model.safetensors", (f / "model.safetensors").read_bytes()[:-1] + b"\1"),
        "damaged",
    ),
    "cut off": (lambda f: later(f / "model.safetensors", bytes(60)), "60 bytes instead of"),
    "deleted": (lambda f: (f / "model.safetensors").unlink(), "missing"),
    "another manifest": (lambda f: later(f / "manifest.json", b"{"), "not written completely"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_caught_every_time(run, verified, change):
    model_folder(run)
    damage, told = CHANGES[change]
    damage(run / "model")
    for _ in range(2):  # a folder that failed is not taken for verified
        with pytest.raises(ValueError, match=told):
            model_folder(run)
    assert len(verified) == 3


def test_a_replaced_folder_is_verified_anew(run, verified):
    model_folder(run)
    write_folder(run / "model", lambda folder: (folder / "config.json").write_text('{"model_type": "sllm"}'))
    assert model_folder(run, "sllm") == str(run / "model")
    assert len(verified) == 2
