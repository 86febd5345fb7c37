"""`sllm frontier` with every kind of model: rows, the line, rivals that are made, mistakes, interruptions."""

import json
import signal

import pytest
from families import make_lm
from small_runs import other_tokenizer, refused, sllm
from tiny import make_processor

from lmbase.benchmarking.timing import Generation
from lmbase.processes import Stopped
from lmbase.report.frontier import beside_line
from lmbase.report.rows import read_metrics
from sllm.evaluation.likelihood import evaluate_likelihood
from sllm.evaluation.speed import LOOKUP
from sllm_recipes import frontier

FEW = "--prompt_tokens 8 --new_tokens 6 --rounds 1 --device cpu --max_documents 2"


@pytest.fixture(autouse=True)
def little_text(monkeypatch):
    """Audits take a few sentences, and so less time than all else."""
    monkeypatch.setattr("sllm.evaluation.likelihood.AUDIT_CHARACTERS", 120)


def rows_in(folder):
    return {row.model: row for row in read_metrics(folder)["rows"]}


def test_every_model_in_every_way_beside_the_line(runs, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    of_line: set[str] = set()

    def watched(model, rivals, *args):
        of_line.update(rival.name for rival in rivals)
        return beside_line(model, rivals, *args)

    monkeypatch.setattr(frontier, "beside_line", watched)
    models = f"tuned={runs}/opt-tuned {runs}/mtp {runs}/sllm"
    more = "--batch_size 2 --int8 true --int4 true --keep_window 8"
    sllm(f"frontier --model {models} --data {runs}/data --output_dir {out} {FEW} {more}")
    rows = rows_in(out)
    twins = ["tuned, int8", "tuned, int4", "sllm, int8", "sllm, int4"]
    copying = [name + LOOKUP for name in ("tuned", "mtp", "sllm", *twins)]
    assert set(rows) == {"tuned", "mtp", "sllm", "tuned, window 8", *twins, *copying}
    assert all(row.tokens_per_second > 0 and row.bits_per_byte > 0 for row in rows.values())
    assert rows["sllm"].extra["compared_with"] == "tuned"
    assert "ratio" not in rows["tuned"].extra
    assert rows["sllm"].extra["batch_tokens_per_second"] > 0
    low, high = rows["sllm"].extra["bits_per_byte_low"], rows["sllm"].extra["bits_per_byte_high"]
    assert low < rows["sllm"].bits_per_byte < high
    assert rows["tuned"].extra["read_per_token"] > rows["sllm"].extra["read_per_token"] > 0
    assert rows["tuned, window 8"].kv_bytes_per_token < rows["tuned"].kv_bytes_per_token
    for kind, apart in (("int8", 0.01), ("int4", 0.1)):
        rounded, whole = rows[f"sllm, {kind}"].bits_per_byte, rows["sllm"].bits_per_byte
        assert rounded != whole
        assert rounded == pytest.approx(whole, rel=apart)
    for name, row in rows.items():
        assert ("verdict" in row.extra) == name.startswith("sllm")
        assert ("on_line" in row.extra) != name.startswith("sllm")
    assert any(row.extra.get("on_line") for row in rows.values())
    assert of_line == {name for name in rows if not name.startswith("sllm")}
    told = capsys.readouterr().out
    assert f"sllm: {rows['sllm'].extra['verdict']}" in told
    assert "sllm was trained on" in told  # more than the baseline
    assert "tuned" in (out / "frontier.svg").read_text()


def test_compiled_steps_and_llama_cpp_are_further_rows(runs, tmp_path, monkeypatch, uncompiled, capsys):
    """A stand-in for the package; the model is read from a folder in place of a file."""

    class Llama:
        def __init__(self, file, num_positions):
            assert file == f"{runs}/opt"

        def time(self, ids, num_new_tokens):
            return Generation(0.001, 0.001, num_new_tokens)

    monkeypatch.setattr(frontier, "LlamaCpp", Llama)
    monkeypatch.setattr(frontier, "open_llama_cpp", lambda file, device: None)
    keys = f"--data {runs}/data --output_dir {tmp_path} {FEW} --lookup false --keep_window 8"
    sllm(f"frontier --model {runs}/opt {runs}/sllm --compile true --llama_cpp {runs}/opt {keys}")
    rows = rows_in(tmp_path)
    assert set(rows) == {"opt", "opt, window 8", "opt, compiled", "opt, llama.cpp", "sllm", "sllm, compiled"}
    assert rows["opt, llama.cpp"].tokens_per_second == pytest.approx(6000)
    assert rows["opt, llama.cpp"].bits_per_byte == rows["opt"].bits_per_byte
    assert rows["sllm, compiled"].tokens_per_second > 0
    asked_by = {function.__module__ for function in uncompiled}
    assert {"sllm.compiled_steps", "multitoken.compiled_step"} <= asked_by
    told = refused(f"frontier --model {runs}/opt {runs}/sllm --llama_cpp x.gguf {keys}", capsys)
    assert "is none of --model" in told


def test_rivals_are_trained_once_and_join_the_line(runs, tmp_path, capsys):
    out = tmp_path / "out"
    keys = "--context 128 --batch_size 4 --learning_rate 3e-3 --warmup_steps 1 --eval_windows 2"
    command = [*f"frontier --model {runs}/sllm --data {runs}/data --output_dir {out} {FEW} --lookup false".split()]
    command += [*f"--lm {runs}/opt --prune 1+1 1+0 --train_tokens 600 --teacher {runs}/opt-tuned".split()]
    frontier.cli.main([*command, f"--train={keys}"])
    rows = rows_in(out)
    assert list(rows) == ["sllm", "rival-1+1", "rival-1+0"]
    assert rows["rival-1+0"].parameters < rows["rival-1+1"].parameters
    assert rows["rival-1+1"].training_tokens > 600
    assert rows["sllm"].extra["compared_with"] == "rival-1+1"
    capsys.readouterr()
    frontier.cli.main([*command, f"--train={keys}"])
    told = "".join(capsys.readouterr())
    assert told.count("holds a finished run") == 2
    assert "scoring" not in told  # likelihoods are kept, speed is measured anew
    assert "timing 3 models" in told


def test_a_quick_frontier_trains_its_rivals_quickly(runs, tmp_path):
    """Whatever else says how long they are trained."""
    out = tmp_path / "out"
    command = f"frontier --model {runs}/opt --data {runs}/data --quick true --lookup false --output_dir {out}"
    keys = "--context 32 --batch_size 1 --max_steps 60 --eval_every 0"
    frontier.cli.main([*command.split(), "--lm", f"{runs}/opt", "--prune", "1+1", f"--train={keys}"])
    assert rows_in(out)["rival-1+1"].training_tokens < rows_in(out)["opt"].training_tokens + 20 * 32


def test_an_interrupted_frontier_goes_on_and_a_further_model_is_scored_alone(runs, tmp_path, monkeypatch):
    out, scored = tmp_path / "out", []

    def stopping(loaded, data):
        scored.append(loaded.name)
        if len(scored) == 2:
            raise Stopped(signal.SIGTERM)
        return evaluate_likelihood(loaded, data)

    monkeypatch.setattr("sllm_recipes.frontier.evaluate_likelihood", stopping)
    command = f"--data {runs}/data --output_dir {out} {FEW} --lookup false"
    with pytest.raises(SystemExit):
        sllm(f"frontier --model {runs}/opt {runs}/sllm {command}")
    assert not (out / "metrics.json").exists()
    sllm(f"frontier --model {runs}/opt {runs}/sllm {command}")
    assert scored == ["opt", "sllm", "sllm"]
    first = rows_in(out)["sllm"].bits_per_byte
    sllm(f"frontier --model {runs}/opt {runs}/sllm {runs}/opt-tuned {command}")
    assert scored[3:] == ["opt-tuned"]
    assert rows_in(out)["sllm"].bits_per_byte == first
    sllm(f"frontier --model {runs}/opt {runs}/sllm {command} --split valid")  # other text
    assert scored[4:] == ["opt", "sllm"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--model {}/opt", "alone makes no line"),
        ("", "No model alone makes no line"),
        ("--model {}/sllm again={}/sllm", "No plain token-level model among the models"),
        ("--model {}/opt {}/missing", "missing"),
        ("--model {}/opt {}/opt", "Two models have the same name"),
        ("--model {}/opt {}/vae", "it has no bits per byte"),
        ("--model {}/opt {}/other-tokenizer", "different tokenizers"),
        ("--model {}/opt {}/sllm --split dev", "no split 'dev'"),
        ("--model {}/opt {}/sllm --prune 1+1", "name the model that is cut down, --lm RUN"),
        ("--model {}/opt {}/sllm --lm {}/opt --prune 1-1", "write FIRST+LAST"),
        ("--model {}/opt {}/vae --lm {}/opt --prune 1+1 --train_tokens 9", "it has no bits per byte"),
        ("--model {}/opt {}/sllm --lm {}/opt --prune 1+1 --train=--device=cpu", "--device would not count"),
        ("--model {}/opt {}/sllm --lm {}/opt --prune 1+1 1+1", "prune names 1+1 twice"),
        ("--model {}/opt {}/sllm --teacher {}/opt", "teacher: these are for rivals that are made here"),
        ("--model {}/opt {}/sllm --prompt_tokens 128", "opt has 128 positions"),
        ("--model {}/opt {}/sllm --lm {}/opt --prune 1+1 9+9", "more than the"),
        ("--model {}/opt {}/sllm --lm {}/sllm --prune 1+1", "is no plain language model"),
        ("--model {}/opt {}/sllm --lm {}/opt --prune 1+1 --quick=true --train=--quick=false", "--quick would not"),
    ],
)
def test_mistakes_end_with_a_message_before_anything_is_scored(words, told, runs, tmp_path, capsys):
    other_tokenizer(runs)
    out = tmp_path / "out"
    assert told in refused(f"frontier {words.replace('{}', str(runs))} --data {runs}/data --output_dir {out}", capsys)
    assert not (out / "measured.json").exists()
    assert not (out / "rival-1+1").exists()  # nor anything trained


def test_a_name_that_ends_as_a_further_row_s_is_refused(runs, capsys):
    with pytest.raises(SystemExit):
        frontier.cli.main(["frontier", "--model", f"{runs}/opt", f"small, int8={runs}/sllm"])
    assert "ends as those of further rows do" in capsys.readouterr().err


def test_a_figure_is_drawn_again_from_its_metrics(tmp_path):
    """The picture of a page is made by `sllm report` from what was measured, with the line."""
    text = tmp_path / "text.txt"
    text.write_text("One, two, three. Four and five! " * 6)
    for name, seed, layers in (("deep", 1, 3), ("flat", 2, 1)):
        make_lm("llama", seed, num_hidden_layers=layers).save_pretrained(tmp_path / name)
        make_processor().tokenizer.save_pretrained(tmp_path / name)
    out = tmp_path / "out"
    sllm(f"frontier --model {tmp_path}/deep {tmp_path}/flat --data {text} --output_dir {out} {FEW}")
    assert json.loads((out / "metrics.json").read_text())["models"].keys() == {"deep", "flat"}
    sllm(f"report --figure {tmp_path}/again.svg --metrics {out}/metrics.json")
    assert (tmp_path / "again.svg").read_text() == (out / "frontier.svg").read_text()
