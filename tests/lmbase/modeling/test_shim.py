"""A copy with a few lines of code loads for who never imported the package; whoever did runs none of them."""

import json
import subprocess
import sys
from typing import Any, cast

import pytest
import transformers
from packaging.version import Version
from tiny import make_mtp, make_sllm, make_vae
from transformers import AutoModel, pipeline
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from lmbase.files import verify_folder, write_folder
from lmbase.modeling.shim import shim_files, write_shim
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm import SLLM

STRANGER = """
import sys
from typing import Any, cast
from transformers import AutoConfig, AutoModelForCausalLM

(folder,) = sys.argv[1:]
try:
    AutoConfig.from_pretrained(folder, trust_remote_code=False)
except ValueError as error:
    assert "trust_remote_code" in str(error)
assert "sllm" not in sys.modules
model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
model.save_pretrained(folder + "/again")
again = AutoModelForCausalLM.from_pretrained(folder + "/again", trust_remote_code=True)
print(again.generate(text="He", max_new_tokens=5).texts)
"""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A saved model of each kind."""
    models = {"sllm": make_sllm(), "heads": make_mtp(), "autoencoder": make_vae()}
    folder = tmp_path_factory.mktemp("models")
    for name, model in models.items():
        model.save_pretrained(folder / name)
        write_shim(folder / name)
    return folder, models


def test_the_code_is_short_and_imports_the_package(folders):
    folder, _ = folders
    shim = (folder / "sllm" / "modeling_sllm.py").read_text()
    assert len(shim.splitlines()) < 10
    assert "import sllm\n" in shim


def test_who_never_heard_of_the_package_loads_a_copy(folders, tmp_path, monkeypatch):
    folder, models = folders
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path))
    words = [sys.executable, "-c", STRANGER, str(folder / "sllm")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(models["sllm"].generate(text="He", max_new_tokens=5).texts)


@pytest.mark.parametrize("name", ["sllm", "heads", "autoencoder"])
def test_what_the_code_defines_is_the_model(folders, name, tmp_path, monkeypatch):
    folder, models = folders
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))
    named = json.loads((folder / name / "config.json").read_text())["auto_map"]
    assert ("AutoModelForCausalLM" in named) == models[name].can_generate()
    keys = ("AutoConfig", "AutoModel")
    config, model = (cast(Any, get_class_from_dynamic_module(named[key], str(folder / name))) for key in keys)
    assert issubclass(config, type(models[name].config))
    assert issubclass(model, type(models[name]))
    loaded = model.from_pretrained(folder / name)
    assert loaded.num_parameters() == models[name].num_parameters()


OLDER = Version(transformers.__version__) < Version("5.23")
TRUSTED = pytest.param(True, marks=pytest.mark.skipif(OLDER, reason="older releases run what they are told to trust"))


@pytest.mark.parametrize("trust", [None, False, TRUSTED])
def test_who_imported_the_package_runs_nothing_of_a_folder(folders, trust):
    """Not even of a stranger's, which names itself as one of ours."""
    folder, models = folders
    for name, package in (("sllm", "sllm"), ("heads", "multitoken"), ("autoencoder", "sentencevae")):
        (folder / name / f"modeling_{package}.py").write_text("raise SystemExit('code of the folder was run')")
        for load in (AutoModel.from_pretrained, type(models[name]).from_pretrained):
            assert type(load(folder / name, trust_remote_code=trust)) in (SLLM, MultiTokenLM, SentenceVAE)
    written = pipeline("text-generation", str(folder / "sllm"), trust_remote_code=trust)("He", max_new_tokens=2)
    assert written[0]["generated_text"].startswith("He")


def test_a_model_that_is_saved_again_names_no_code(folders, tmp_path):
    folder, _ = folders
    AutoModel.from_pretrained(folder / "sllm").save_pretrained(tmp_path)
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())


def test_a_manifest_knows_the_code_and_models_of_transformers_have_none(opt, tmp_path):
    write_folder(tmp_path / "ours", make_vae().save_pretrained)
    write_shim(tmp_path / "ours")
    verify_folder(tmp_path / "ours", alone=True)
    opt.save_pretrained(tmp_path / "opt")
    assert shim_files(tmp_path / "opt") == {}
