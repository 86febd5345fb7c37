"""A grid is trained by commands that exist, fitted and answered in one sentence; the trainings are tested elsewhere."""

import json
import math
import shlex
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest

from lmbase.config import load_config
from lmbase.report.rows import Row, read_metrics, write_metrics
from lmbase.report.scaling import Law
from sllm_recipes import cli, scaling

CONFIGS = Path(scaling.__file__).parent / "configs"
LAWS = {"opt": Law(0.9, 30, 0.3, 96, 0.35), "sllm": Law(0.9, 30, 0.3, 80, 0.35)}
SIZES = {"32x1": 3e5, "64x2": 1e6, "96x3": 4e6}


def planted(folder, names):
    """What `evaluate` would have written of these models if the laws held."""
    rows = []
    for name in names:
        kind, cell = name.split()
        size, tokens = cell.split("-")
        number = float(tokens)
        parameters = SIZES[size] * (1.3 if kind == "sllm" else 1)
        bits = LAWS[kind].bits(parameters, number)
        full = dict(model=name, data="it", parameters=int(parameters), training_tokens=int(number), bits_per_byte=bits)
        rows.append(Row(**full, protocol="full window"))
        rows += [Row(**full | {"bits_per_byte": 9.0}, protocol="equal context")] if kind == "sllm" else []
    write_metrics(folder, rows, config={}, seed=0, wall_seconds=1.0, corpus={"name": "it"})


@pytest.fixture
def commands(monkeypatch):
    """Commands as they would be run; `evaluate` writes planted figures."""
    found = []

    def run_command(command):
        found.append(command)
        recipe, *words = shlex.split(command)
        if recipe == "evaluate":
            models = [word for word in words[words.index("--model") + 1 :] if "=" in word]
            planted(words[words.index("--output_dir") + 1], [model.split("=")[0] for model in models])

    monkeypatch.setattr(cli, "run_command", run_command)
    return found


def test_a_rule_s_folder_may_have_a_space(tmp_path, commands):
    scaling.trained(scaling.Config(sizes=[], rule="my cuts", output_dir=str(tmp_path)))
    assert "my cuts" in shlex.split(commands[0])


def test_quick_trainings_keep_their_proportions(tmp_path):
    """Of trainings that all have the same few steps there is no law: the command would end in an error."""
    config = scaling.Config(tokens=[5e5, 2e6], quick=True, output_dir=str(tmp_path))
    words = [shlex.split(scaling.cell_of(config, "data", "64x2", tokens).commands[0]) for tokens in config.tokens]
    few, many = (int(each[each.index("--train_tokens") + 1]) for each in words)
    assert 4 * few == many == scaling.QUICK_TOKENS
    assert all("--quick" in each for each in words)


def test_a_grid_is_trained_fitted_and_answered(tmp_path, commands, capsys):
    config = scaling.Config(sizes=[*SIZES], tokens=[5e5, 1e6, 2e6], output_dir=str(tmp_path / "it"))
    rows = scaling.main(config)
    assert [command.split()[0] for command in commands[:5]] == [
        "prepare", "train-lm", "train-lm", "pretrain-vae", "finetune-sllm",
    ]  # fmt: skip
    assert len(commands) == 2 + 4 * 9
    tokens = [float(command.split("--train_tokens ")[1].split()[0]) for command in commands[1:5]]
    assert tokens[0] == sum(tokens[1:]) == 5e5
    for command in commands:
        recipe, *words = shlex.split(command)
        load_config(import_module(f"sllm_recipes.{recipe.replace('-', '_')}").Config, words, CONFIGS)
    assert len(rows) == 18
    said = capsys.readouterr().out
    assert (
        "For the bits per byte of sllm 96x3-2000000 (5.20M parameters, 2.00M tokens) a token-level model needs" in said
    )
    last = rows[-1].extra
    assert last["token_factor"] == pytest.approx(1.2 ** (1 / 0.35), rel=0.02)
    assert last["token_factor_low"] <= last["token_factor"] <= last["token_factor_high"]
    assert rows[0].extra["law_bits_per_byte"] == pytest.approx(rows[0].bits_per_byte, rel=1e-3)
    assert "<svg" in (tmp_path / "it" / "scaling.svg").read_text()
    assert read_metrics(tmp_path / "it")["models"]["token"]["beta"] == pytest.approx(0.35, rel=0.1)

    again = scaling.main(scaling.Config(metrics=[str(tmp_path / "it" / "evaluate")], output_dir=str(tmp_path / "b")))
    assert [row.to_dict() for row in again] == [row.to_dict() for row in rows]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (dict(sizes=["64x2"], tokens=[1e6]), r"A grid of 1 size\(s\) and 1 number\(s\) of tokens .* has 1 point\(s\)"),
        (dict(sizes=["64x2", "96x3"], tokens=[1e6, 2e6]), "give at least 6"),
        (dict(sizes=["64x2", "64x2", "96x3"]), "sizes=64x2 64x2 96x3 has one twice"),
        (dict(sizes=["64x2", "banana", "3x"]), "sizes=banana: .* random weights come in the sizes"),  # F5
        (dict(vae_keys="vae_demo --nosuch 1"), "vae_keys='vae_demo --nosuch 1': .*\\n.*nosuch"),  # F5
        (dict(lm_keys="lm_demo --seed 5"), "lm_keys=.*--seed would not count, .* leave it out of lm_keys"),
        (dict(sllm_keys="sllm_demo --opt x"), "sllm_keys=.*--lm would not count"),
        (dict(lm_keys="lm_demo --lm 'x"), "lm_keys=.*No closing quotation"),  # F5
        (dict(tokens=[math.inf, 1e6, 2e6]), "tokens=inf: give numbers from 1000 on"),  # F5
        (dict(sizes=["64x2"], tokens=[1e6, 1.05e6, 1.1e6, 1.15e6]), "1 number\\(s\\) of tokens"),  # F5
        (dict(tokens=[0.5, 1, 2, 4]), "tokens=0.5: give numbers from 1000 on.* 1e6 for a million"),  # F9
        (dict(sentence="opt"), "sentence and token are both 'opt'"),
        (dict(shares=[0.5, 0.5]), "shares=0.5 0.5: give three"),
        (dict(shares=[0.5, 0.5, 0.0]), "above 0"),
        (dict(shares=[0.5, 0.5, 0.5]), "add up to 1"),
    ],
)
def test_bad_grids_are_refused_before_anything_is_trained(tmp_path, commands, keys, message):
    with pytest.raises(ValueError, match=message):
        scaling.main(scaling.Config(**keys, output_dir=str(tmp_path)))
    assert not commands


def test_rows_that_make_no_law_are_refused(tmp_path):
    names = [f"{kind} {size}-{tokens}" for kind in LAWS for size in SIZES for tokens in (500000, 1000000, 2000000)]
    planted(tmp_path / "all", names)
    planted(tmp_path / "few", [*names[:9], *names[9:11]])

    def fit(folder, **keys):
        return scaling.main(scaling.Config(metrics=[str(tmp_path / folder)], output_dir=str(tmp_path / "out"), **keys))

    with pytest.raises(ValueError, match=r"sentence-level rows: 2 run\(s\)"):
        fit("few")
    with pytest.raises(ValueError, match=r"No row of .* is token-level, of a model whose name begins with 'lm'"):
        fit("all", token="lm")
    document = json.loads((tmp_path / "all" / "metrics.json").read_text())
    rows = [Row.from_dict(row) for row in document["rows"]]
    rows[0].data = "another"
    write_metrics(tmp_path / "two", rows, config={}, seed=0, wall_seconds=1.0, corpus={})
    with pytest.raises(ValueError, match=r"of several texts \(by text: another, it\)"):
        fit("two")
    rows[0].data, rows[0].parameters = "it", None
    write_metrics(tmp_path / "none", rows, config={}, seed=0, wall_seconds=1.0, corpus={})
    with pytest.raises(ValueError, match="has parameters=None in its row"):
        fit("none")


def folders_of(tmp_path, kinds, rows=lambda n, d: True, **changes):
    """A metrics folder for each kind, of those places of a grid of three by three that are wanted."""
    for kind in kinds:
        names = [f"{kind} {size}-{d}" for size in SIZES for d in (500000, 1000000, 2000000) if rows(size, d)]
        planted(tmp_path / kind, names)
    return [str(tmp_path / kind) for kind in kinds]


def change(folder, corpus=None, **columns):
    """The same folder with columns of its first row changed."""
    rows = read_metrics(folder)["rows"]
    rows[0] = replace(rows[0], **columns)
    write_metrics(folder, rows, config={}, seed=0, wall_seconds=1.0, corpus=corpus or {"name": "it"})


def fit(tmp_path, files):
    return scaling.main(scaling.Config(metrics=files, output_dir=str(tmp_path / "out")))


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (lambda size, tokens: size == "64x2", "All token-level rows have about 1.00M parameters"),
        (lambda size, tokens: tokens == 500000, "All token-level rows have about 500k tokens"),
    ],
)
def test_nothing_is_said_of_what_the_token_level_was_not_run_on(tmp_path, monkeypatch, wanted, message):
    monkeypatch.setitem(SIZES, "128x4", 9e6)
    files = folders_of(tmp_path, ["opt"], wanted) + folders_of(tmp_path, ["sllm"])
    if "tokens" in message:  # a law of one term takes four rows
        assert len(read_metrics(files[0])["rows"]) == 4
    else:
        planted(tmp_path / "opt", [f"opt 64x2-{d}" for d in (500000, 1000000, 2000000, 4000000)])
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, files)


def test_figures_that_are_not_of_this_recipe_are_not_overwritten(tmp_path):
    files = folders_of(tmp_path, LAWS)
    before = (tmp_path / "opt" / "metrics.json").read_bytes()
    for file in (files[0], f"{files[0]}/metrics.json"):
        with pytest.raises(ValueError, match="is what is read here, and would be overwritten"):
            scaling.main(scaling.Config(metrics=[file, files[1]], output_dir=files[0]))
    assert (tmp_path / "opt" / "metrics.json").read_bytes() == before


def test_rows_that_are_given_twice_count_once(tmp_path, capsys):
    files = folders_of(tmp_path, LAWS)
    assert len(scaling.rows_of(scaling.Config(), [*files, files[0]])) == 18
    assert "opt 32x1-500000 is given twice" in capsys.readouterr().out


def test_of_two_beginnings_the_longer_one_counts(tmp_path):
    rows = [
        Row(name, "it", "full window", parameters=1, training_tokens=1, bits_per_byte=1.0) for name in ("m", "m-opt")
    ]
    write_metrics(tmp_path, rows, config={}, seed=0, wall_seconds=1.0, corpus=None)
    found = scaling.rows_of(scaling.Config(sentence="m", token="m-opt"), [str(tmp_path)])
    assert [row.extra["level"] for row in found] == ["sentence", "token"]


def test_texts_of_one_name_are_told_apart(tmp_path):
    files = folders_of(tmp_path, LAWS)
    change(files[0], {"name": "it", "sha256": "aa"})
    assert len(scaling.rows_of(scaling.Config(), files)) == 18  # of the other nothing is known
    change(files[1], {"name": "it", "sha256": "bb"})
    with pytest.raises(ValueError, match=r"several texts \(by SHA-256 of the text: aa, bb"):
        fit(tmp_path, files)
    change(files[0], bytes=10)
    change(files[1], bytes=20)
    with pytest.raises(ValueError, match=r"several texts \(by bytes of text: 10, 20"):
        fit(tmp_path, files)


@pytest.mark.parametrize("column", ["parameters", "training_tokens", "bits_per_byte"])
def test_figures_that_no_law_has_are_refused(tmp_path, column):
    files = folders_of(tmp_path, LAWS)
    change(files[0], **{column: 0})
    with pytest.raises(ValueError, match=f"opt 32x1-500000 has {column}=0 in its row"):
        fit(tmp_path, files)


def test_cells_whose_tokens_look_alike_have_folders_of_their_own():
    near = [scaling.cell_of(scaling.Config(), "d", "64x2", tokens) for tokens in (1e6, 1.004e6)]
    assert not {*near[0].folders} & {*near[1].folders}
    assert not {*near[0].commands} & {*near[1].commands}
