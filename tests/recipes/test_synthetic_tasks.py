"""The recipe of the synthetic tasks: a table over sizes, heads and seeds, runs that continue, and what it refuses."""

import json
import shutil

import numpy as np
import pytest
import torch

from lmbase.config import load_config
from lmbase.report.rows import read_metrics
from multitoken import MultiTokenLM
from sllm_data.synthetic import polynomials
from sllm_data.synthetic.polynomials import PolynomialRows
from sllm_recipes import cli, synthetic_tasks
from sllm_recipes.synthetic_tasks import Config

QUICK = ["--quick", "--device", "cpu", "--num_future_tokens", "1", "2"]


@pytest.fixture(scope="module")
def induction_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("induction")
    cli.main(["synthetic-tasks", "induction", *QUICK, "--output_dir", str(folder)])
    return folder


def test_a_table_has_a_row_for_each_number_of_heads_with_mean_and_spread(induction_run):
    document = read_metrics(induction_run)
    assert [row.extra["num_future_tokens"] for row in document["rows"]] == [1, 2]
    for n, row in zip((1, 2), document["rows"], strict=True):
        values = [
            json.loads((induction_run / f"1M_n{n}_seed{seed}" / "accuracy.json").read_text())["figures"]["accuracy"]
            for seed in (0, 1)
        ]
        assert row.extra["accuracy"] == pytest.approx(np.mean(values))
        assert row.extra["accuracy_spread"] == pytest.approx(np.std(values, ddof=1))
        assert row.extra["num_seeds"] == 2
        assert row.training_tokens > 1000
    blocks = {row.extra["block_parameters"] for row in document["rows"]}
    assert len(blocks) == 1, "models are not of one size"
    assert 0.9e6 < blocks.pop() < 1.1e6
    assert "| 1M, n = 2 |" in (induction_run / "table.md").read_text()


def test_the_same_command_repeats_nothing_and_continues_what_is_missing(induction_run, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(induction_run, folder)
    command = ["synthetic-tasks", "induction", *QUICK, "--output_dir", str(folder)]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("accuracy.json")}
    shutil.rmtree(folder / "1M_n2_seed1")
    cli.main(command)
    captured = capsys.readouterr()
    assert captured.err.count("finished run") == 3
    assert "| 1M, n = 2 |" in captured.out
    after = {path: path.stat().st_mtime_ns for path in folder.rglob("accuracy.json")}
    assert len(before) == len(after) == 4
    assert sum(before[path] == after[path] for path in before) == 3
    rows, first = read_metrics(folder)["rows"], read_metrics(induction_run)["rows"]
    assert [row.extra for row in rows] == [row.extra for row in first]

    path = folder / "1M_n1_seed0" / "accuracy.json"
    path.write_text("damaged")
    with pytest.raises(SystemExit):  # another configuration in the same folder
        cli.main([*command, "--learning_rate", "1e-4"])
    assert "learning_rate: 0.00" in capsys.readouterr().err
    cli.main(command)
    assert json.loads(path.read_text())["figures"]


def test_polynomials_are_tested_by_number_of_operations(tmp_path):
    folder = str(tmp_path / "polynomials")
    keys = ["--seeds", "0", "--num_future_tokens", "2", "--max_operations", "2", "--test_operations", "3"]
    cli.main(["synthetic-tasks", "polynomials", "--quick", "--device", "cpu", *keys, "--output_dir", folder])
    (row,) = read_metrics(folder)["rows"]
    figures = {name for name in row.extra if name.startswith("accuracy") and not name.endswith("_spread")}
    assert figures == {"accuracy", "accuracy_beyond", "accuracy_1", "accuracy_2", "accuracy_3"}
    assert row.extra["accuracy_spread"] is None  # one seed has none


def test_a_whole_answer_is_right_where_greedy_decoding_writes_it():
    """Results that the model itself wrote, half of them spoilt at one place, are told apart in one pass."""
    torch.manual_seed(0)
    config = Config(task="polynomials", max_operations=2)
    model = MultiTokenLM(synthetic_tasks.model_config(config, "1M", 2)).eval()
    items = PolynomialRows("test", 0, 6, (1, 2), samples_per_row=1)
    rows = [items.row(i) for i in range(6)]
    written = []
    for number, (ids, answers) in enumerate(rows):
        prompt = torch.tensor([[2, *ids[: answers[0]]]])
        new = model.generate(prompt, max_new_tokens=5, min_new_tokens=5, num_draft=1).sequences[0, -5:].tolist()
        if number % 2:
            new[number // 2] = new[number // 2] % 10 + 1
        written.append(([*ids[: answers[0]], *new], answers))
    items.row = lambda index: written[index]  # type: ignore[method-assign]
    assert synthetic_tasks.accuracy(model, items, whole=True) == 0.5
    assert 0.5 < synthetic_tasks.accuracy(model, items, whole=False) < 1


def test_every_size_has_its_blocks_and_room_for_the_longest_sample():
    for task in ("induction", "polynomials"):
        config = Config(task=task)
        for size, published in (("1M", 1e6), ("3M", 3e6), ("10M", 10e6), ("30M", 30e6), ("100M", 100e6)):
            found = synthetic_tasks.model_config(config, size, 2)
            layers = found.trunk.num_hidden_layers + found.num_future_tokens
            assert 12 * layers * found.hidden_size**2 == pytest.approx(published, rel=0.1)
            assert found.max_position_embeddings > polynomials.max_tokens(10)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "sorting"], "task = 'sorting'"),
        (["--sizes", "2M"], "sizes"),
        (["--seeds", "0", "0"], "seeds=[0, 0]: one is given twice"),
        (["--num_future_tokens", "6", "--sizes", "1M"], "size 1M has 5 blocks"),
        (["--random_names", "2"], "random_names=2.0: it is a share"),
        (["--task", "polynomials", "--test_operations", "40"], "test_operations=40"),
        (["--task", "polynomials", "--seeds", "1", "1", "--num_future_tokens", "9"], "seeds=[1, 1]"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_is(words, message, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["synthetic-tasks", *words, "--output_dir", str(tmp_path / "none")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_all_faults_are_told_together():
    config = load_config(Config, ["--task", "polynomials", "--seeds", "1", "1", "--num_future_tokens", "9"])
    with pytest.raises(ValueError, match=r"(?s)seeds=.*size 1M has 5 blocks.*size 3M has 4 blocks"):
        synthetic_tasks.check(config)
