"""Every command of README, docs and the headers of configurations is typed, with tiny settings in a tiny world: models
of random weights lie in folders that are called as models of the hub, and `runs/` holds what a page presupposes."""

import re
import shlex
import shutil
import subprocess
import textwrap
from glob import glob

import pytest
from page_commands import blocks, commands, header, spans
from rooms import ROOT
from served import served
from small_runs import story
from tiny import make_opt, make_processor

from lmbase.config import load_config
from sllm.loading import load_model
from sllm_data.stdlib import read_stdlib
from sllm_recipes import cli

CONFIGS = cli.FOLDER / "configs"
PAGES = ["README.md", "CONTRIBUTING.md", "data/README.md", "lmbase/examples/README.md"]
PAGES += sorted(str(path.relative_to(ROOT)) for path in (ROOT / "docs").glob("*.md"))
FAMILIES = ["small", "opt", "demo"]  # a family's headers are one page: they build on each other; see `world` for tiny
OTHERS = ["induction", "polynomials", "mtp_bytes", "scaling_small"]
MEASURED = ["results/README.md"]  # hours of measurements: their commands are only read
WITH_SPANS = [*(ROOT / page for page in [*PAGES, *MEASURED, "docs/tour.ipynb"]), *sorted(CONFIGS.glob("*.yaml"))]

TINY_STEPS = "--max_steps 2 --batch_size 2 --micro_batch_size 2 --log_every 1 --dtype fp32"
TINY_TRAINING = f"{TINY_STEPS} --device cpu"
TINY = {
    "prepare": "--num_workers 1",
    "train-lm": f"{TINY_TRAINING} --context 64 --eval_windows 4",
    "distil-cache": "--context 64 --quick true --device cpu",
    "learn-cuts": "--train_tokens 500 --cost_tokens 3000 --price_tokens 100 --max_sentence_tokens 32 --context 64 "
    "--sentence_tokens 8 --device cpu",
    "graft": "--lower_layers 0 --upper_layers 1",
    "finetune-mtp": f"{TINY_TRAINING} --context 64 --eval_windows 4",
    "pretrain-vae": TINY_TRAINING,
    "finetune-sllm": f"{TINY_TRAINING} --max_sentences 16",
    "evaluate": "--quick true --device cpu --dtype fp32",
    "frontier": "--quick true --device cpu --dtype fp32 --prune 2+1 --train "
    f"'lm_tiny_tuned {TINY_STEPS} --context 64 --eval_windows 4'",
    "plan": "--context 64 --max_sentences 4 --batch_size 2",
    "generate": "--max_new_tokens 4 --device cpu",
    "story": "--quick true --minutes 0.01 --device cpu",
    "synthetic-tasks": "--quick true --sizes 1M --num_future_tokens 1 --device cpu --dtype fp32",
}
# What is not typed here, by how it begins, and why. Recipes among them must at least know every word.
NOT_TYPED = {
    r"git clone|cd sllm": "needs a network",
    r"pip ": "installs",
    r"make ": "tests, checks and long runs; targets must exist",
    r"sllm --processes 8|torchrun ": "starts several processes: tests/recipes/test_launch.py, test_processes.py",
    r"lm-eval |python -m sllm.harness": "its task is downloaded: tests/sllm/test_harness.py has a local one",
    r"sllm (serve|play)\b": "does not end: tests/sllm/serving",
    r"sllm push (?!.*--dry_run)": "uploads: tests/recipes/test_push.py",
    r"python data/build_books.py|sllm build-examples": "its text is downloaded: tests/recipes/test_build_examples.py",
    r"sllm story .*random:small": "minutes of training; the story is typed with other trunks",
    r"sllm train-lm .*--keep_layers 8\+6": "layers that no tiny model has: tests/recipes/test_distil_cache.py",
    r"sllm brier ": "two samples at 2,000 places: tests/recipes/test_brier.py",
    r"sllm learn-cuts|sllm prepare .*runs/cuts|sllm pretrain-vae .*data_cuts": "tests/recipes/test_learn_cuts.py",
    r"sllm scaling ": "sixteen trainings: tests/recipes/test_scaling.py",
    r"sllm benchmark .*opt-1.3b": "a model of 5 GB: tests/sllm/benchmarks",
}
# What a page says was made before: a folder here, and the one of the tiny family that stands in for it.
GIVEN = {
    "docs/multi-token.md": {"sllm_tiny": "sllm_tiny", "data_tiny": "data_tiny"},
    "docs/your-own-data.md": {"data_tiny": "data_tiny"},
    "docs/other-tools.md": {name: name for name in ("data_tiny", "sllm_tiny", "lm_tiny_tuned", "lm_tiny")},
}
DEMO = {"data": "data_tiny", "opt": "lm_tiny", "opt-tuned": "lm_tiny_tuned", "vae": "vae_tiny", "sllm": "sllm_tiny"}


def commands_of(page: str) -> list[str]:
    """Those of a page, or of the headers of a family of configurations."""
    if page.endswith(".md"):
        return commands(blocks((ROOT / page).read_text(encoding="utf-8")))
    steps = ["data", "lm", "vae", "sllm", "lm_*_tuned", "evaluate", "frontier", "mtp", "sllm_*_drafting"]
    names = [step.replace("*", page) if "*" in step else f"{step}_{page}" for step in steps]
    names += ["sllm_own_layers"] * (page == "opt")
    paths = [path for name in ([page] if page in OTHERS else names) if (path := CONFIGS / f"{name}.yaml").exists()]
    return [one for path in paths for one in commands(header(path.read_text(encoding="utf-8")))]


def reason(command: str) -> str | None:
    return next((pattern for pattern in NOT_TYPED if re.match(pattern, command)), None)


def understood(command: str) -> None:
    """Fails where a recipe, script or target is unknown, or a word of it."""
    program, *words = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), command
    if program == "python" and words[0] != "-m":
        assert (ROOT / words[0]).is_file(), command
    if program == "torchrun":
        name = next(word for word in words if word.startswith("sllm_recipes."))
        program, words = "sllm", [name.removeprefix("sllm_recipes."), *words[words.index(name) + 1 :]]
    if program == "sllm" and words[0] in ("list", *cli.TOOLS):
        return
    if program == "sllm" and len(words) == 1:
        with pytest.raises(SystemExit) as left:
            cli.main([*words, "--help"])
        assert not left.value.code, command
    elif program == "sllm":
        words = words[2:] if words[0] == "--processes" else words
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lmbase.config.run", lambda keys, main, argv: load_config(keys, argv, CONFIGS))
            cli.main(words)


def tiny(words: list[str]) -> list[str]:
    """The words of a recipe with settings that take a second, and the text that other commands of a family name."""
    if words[:2] in (["prepare", "data_opt"], ["prepare", "data_small"]) and "--data" not in words:
        words += ["--data", "my_text/"]
    more = shlex.split(TINY.get(words[0], ""))
    for key in {word for word in more if word.startswith("--")} | {"--train_tokens"}:
        while key in words:
            start = words.index(key)
            rest = [at for at in range(start + 1, len(words)) if words[at].startswith("--")]
            del words[start : rest[0] if rest else None]
    return words + more


def type_in(command: str) -> None:
    command = re.sub(r"(?<=\s)[\w/.-]*\*", lambda pattern: " ".join(sorted(glob(pattern[0]))), command.split(" > ")[0])
    program, *words = shlex.split(command)
    if program == "curl":
        with served({"sllm": load_model("runs/demo/sllm")}) as address:
            words = [re.sub(r"http://127.0.0.1:\d+", address, word) for word in words]
            done = subprocess.run(["curl", "--fail", *words], capture_output=True, text=True)
        assert '"choices"' in done.stdout, done.stderr
        return
    assert program == "sllm", f"{command}: neither typed here nor among NOT_TYPED"
    cli.main(tiny(words))


@pytest.fixture(scope="session", autouse=True)
def little_documentation():
    """The embedded corpus, with a few of its modules."""
    name, splits = read_stdlib()
    few = {split: documents[:20] for split, documents in splits.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sllm_data.corpora.read_stdlib", lambda: (name, few))
        yield


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Texts, models under the names of OPTs, and the runs of the tiny family, made as its headers say."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "my_text").mkdir()
    for split, seeds in {"train": range(200), "valid": range(200, 204), "test": range(204, 208)}.items():
        text = "\n\n".join(story(seed) for seed in seeds)
        (folder / "my_text" / f"{split}.txt").write_text(text, encoding="utf-8")
    shutil.copytree(folder / "my_text", folder / "books")
    for size in ("125m", "350m"):
        opt = make_opt(max_position_embeddings=1100, num_hidden_layers=11)
        opt.save_pretrained(folder / "facebook" / f"opt-{size}")
        make_processor().tokenizer.save_pretrained(folder / "facebook" / f"opt-{size}")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for command in commands_of("tiny"):
            type_in(command)
    for name, run in DEMO.items():
        shutil.copytree(folder / "runs" / run, folder / "demo" / name)
    return folder


@pytest.mark.parametrize("page", [*PAGES, *FAMILIES, *OTHERS])
def test_commands(page, world, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    if commands_of(page):
        for name in ("my_text", "books", "facebook"):
            (tmp_path / name).symlink_to(world / name)
        shutil.copytree(ROOT / "results", tmp_path / "results")
        shutil.copy(ROOT / "README.md", tmp_path)
        shutil.copytree(world / "demo", tmp_path / "runs" / "demo")
        for name, run in GIVEN.get(page, {}).items():
            shutil.copytree(world / "runs" / run, tmp_path / "runs" / name)
    for command in commands_of(page):
        print(f"$ {command}")
        if reason(command):
            understood(command)
        else:
            type_in(command)


@pytest.mark.parametrize("page", MEASURED)
def test_commands_of_measurements_are_understood(page):
    for command in commands_of(page):
        understood(command)


@pytest.mark.parametrize("path", WITH_SPANS, ids=lambda path: path.name)
def test_commands_in_running_text_are_understood(path):
    for command in spans(path.read_text(encoding="utf-8")):
        try:
            understood(f"sllm {command}")
        except SystemExit as left:
            if left.code:
                raise
        except ValueError as error:  # they name the keys in question only, and leave out what is needed, too
            if re.search(r"unknown key|expected", str(error)):
                raise


def test_what_is_not_typed_stands_on_a_page():
    found = {reason(command) for page in [*PAGES, *FAMILIES, *OTHERS, "tiny"] for command in commands_of(page)}
    assert set(NOT_TYPED) - found == set()


def test_every_configuration_is_among_the_pages():
    typed = {word for page in [*FAMILIES, *OTHERS, "tiny"] for command in commands_of(page) for word in command.split()}
    assert {path.stem for path in CONFIGS.glob("*.yaml")} - typed == set()


def test_a_page_is_read_as_a_shell_would_read_it():
    page = """\
    Text.

        MODEL=some/model           # or a folder
        sllm train-lm lm_opt --lm $MODEL \\
            --seed 1               # a comment

    ```
    for LR in 1e-3 2e-3; do
        sllm train-lm lm_opt --learning_rate $LR
    done
    git clone X && cd X
    ```

    ```python
    print("no command")
    ```
    """
    assert commands(blocks(textwrap.dedent(page))) == [
        "sllm train-lm lm_opt --lm some/model --seed 1",
        "sllm train-lm lm_opt --learning_rate 1e-3",
        "sllm train-lm lm_opt --learning_rate 2e-3",
        "git clone X",
        "cd X",
    ]


@pytest.mark.parametrize("command", ["sllm train-lm lm_optt", "sllm serve --prot 1", "sllm fly", "make fly", "rm x"])
def test_what_does_not_exist_is_found(command, capsys):
    with pytest.raises((AssertionError, ValueError, SystemExit)):
        understood(command) if command != "rm x" else type_in(command)
