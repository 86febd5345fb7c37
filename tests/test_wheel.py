"""The wheel: what it holds, and that it works outside the clone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Import name of each package, and the folder that it lies in.
PACKAGES = {name: name for name in ("lmbase", "sentencevae", "multitoken", "sllm")}
PACKAGES |= {"sllm_data": "data/sllm_data", "sllm_recipes": "recipes"}
NOT_COPIED = shutil.ignore_patterns(".*", "__pycache__", "runs", "build", "dist", "*.egg-info")


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel, built without a network from a copy of the clone (building leaves files behind), and unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    shutil.copytree(ROOT, folder / "clone", ignore=NOT_COPIED)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-build-isolation", "--no-deps", "--no-index"]
    built = subprocess.run([*pip, "-w", str(folder), str(folder / "clone")], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "unpacked")
    return folder / "unpacked"


def run_outside(unpacked: Path, *words: str) -> str:
    """Standard output of Python, run beside the unpacked wheel, which comes before anything installed."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    done = subprocess.run(
        [sys.executable, *words], cwd=unpacked.parent, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_holds_the_packages_and_nothing_else(unpacked: Path) -> None:
    """No bare `data`, `recipes` or `tests`, which would land in everybody's site-packages."""
    top = {path.name for path in unpacked.iterdir() if path.suffix != ".dist-info"}
    assert top == set(PACKAGES)


def test_it_holds_every_module_recipe_configuration_and_template(unpacked: Path) -> None:
    for package, folder in PACKAGES.items():
        modules = {path.relative_to(ROOT / folder) for path in (ROOT / folder).rglob("*.py")}
        shipped = unpacked / package
        assert {path.relative_to(shipped) for path in shipped.rglob("*.py")} == modules
    templates = Path("lmbase") / "report" / "templates"
    assert {path.name for path in (unpacked / templates).iterdir()} == {p.name for p in (ROOT / templates).iterdir()}
    configs = {path.name for path in (ROOT / "recipes" / "configs").glob("*.yaml")}
    assert configs
    assert {path.name for path in (unpacked / "sllm_recipes" / "configs").iterdir()} == configs


def test_it_holds_the_example_models_and_writes_with_them(unpacked: Path) -> None:
    """What somebody types first."""
    examples = Path("lmbase") / "examples"
    files = {path.relative_to(ROOT) for path in (ROOT / examples).rglob("*") if path.is_file()}
    assert examples / "sllm" / "model.safetensors" in files
    assert {path.relative_to(unpacked) for path in (unpacked / examples).rglob("*") if path.is_file()} == files
    words = ("Once upon a time", "--max_new_tokens", "12", "--seed", "0", "--device", "cpu")
    written = run_outside(unpacked, "-m", "sllm_recipes.cli", "generate", *words)
    assert written.startswith("Once upon a time")
    assert len(written) > len(words[0]) + 12


def test_its_licence_and_command_are_declared(unpacked: Path) -> None:
    (info,) = unpacked.glob("*.dist-info")
    assert "License-Expression: MIT" in (info / "METADATA").read_text(encoding="utf-8")
    assert "MIT License" in (info / "licenses" / "LICENSE").read_text(encoding="utf-8")
    assert "sllm = sllm_recipes.cli:main" in (info / "entry_points.txt").read_text(encoding="utf-8")


def test_the_command_line_works_from_it(unpacked: Path) -> None:
    file = run_outside(unpacked, "-c", "import sllm_recipes.cli; print(sllm_recipes.cli.__file__)")
    assert Path(file.strip()) == unpacked / "sllm_recipes" / "cli.py"
    listing = run_outside(unpacked, "-m", "sllm_recipes.cli", "list")
    assert "train-lm" in listing
    assert "sllm pretrain-vae vae_tiny" in listing


def test_a_shipped_configuration_is_found_from_it(unpacked: Path) -> None:
    """The recipe reads its YAML from the wheel; that there is no such split is then its own word."""
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "sllm_recipes.cli", "prepare", "data_tiny", "--data", "missing.txt"]
    done = subprocess.run(command, cwd=unpacked.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert "missing.txt" in done.stderr
    assert "neither a file nor a shipped configuration" not in done.stderr


def test_G11_all_packages_say_that_they_have_types(unpacked: Path) -> None:
    assert all((unpacked / package / "py.typed").is_file() for package in PACKAGES)
