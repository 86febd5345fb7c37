"""Keys that let a graft keep more of what its model knew: refusals, and runs that go on as if never stopped."""

import json
import shutil
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from small_runs import refused, sllm
from tiny import make_lm, make_own, make_sllm

from lmbase.modeling.distillation import OnlineTeacher
from lmbase.training.validation import validation_loss
from sllm import SLLM
from sllm_data.datasets import SentenceWindowDataset
from sllm_data.prepared import PreparedData
from sllm_recipes.keeping import KeepingKeys, check_keeping_keys, check_teachable, set_keeping

FEW = "--max_steps 4 --batch_size 4 --micro_batch_size 2 --eval_windows 3 --warmup_steps 1 --save_every 2 --device cpu"
KEYS = "--extra_cuts 0.8 --kept_cuts 0.3 --window_dropout 0.5"


def config(**keys):
    made = KeepingKeys(**keys)
    return SimpleNamespace(**vars(made), teacher="some/model", data="some/data")


def data_of(num_sentences=10, num_tokens=50):
    split = SimpleNamespace(num_sentences=num_sentences, num_tokens=num_tokens)
    processor = SimpleNamespace(rule="lines", max_sentence_tokens=12)
    return SimpleNamespace(split=lambda name: split, processor=processor)


def asking(lm):
    return SimpleNamespace(online=OnlineTeacher(lm, 260))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (dict(extra_cuts=1.5), "extra_cuts=1.5 is no share of the run: .* from 0, which is off, to 1"),
        (dict(kept_cuts=-0.1), "kept_cuts=-0.1 is no share of windows"),
        (dict(window_dropout=float("nan")), "window_dropout=nan is no share of windows"),
    ],
)
def test_shares_are_shares(keys, told):
    with pytest.raises(ValueError, match=told):
        check_keeping_keys(config(**keys))


def test_states_need_a_model_to_ask():
    alone = config(state_weight=0.5)
    alone.teacher = None
    with pytest.raises(ValueError, match=r"state_weight=0.5: there is no teacher .*--teacher"):
        check_keeping_keys(alone)


def make_keeping_lm():
    lm = make_lm("llama", num_hidden_layers=5)
    teaching = asking(lm)
    teaching.online.keep = object()
    return teaching


@pytest.mark.parametrize(
    ("make", "keys", "teaching", "told"),
    [
        (make_own, dict(extra_cuts=0.3), None, "every sentence of 'some/data' is one token .rule 'lines', at most 12"),
        (
            lambda: make_sllm(vae=dict(latent="gaussian"), next_vector="energy"),
            dict(extra_cuts=0.3),
            None,
            "would learn to draw pieces of sentences",
        ),
        (make_sllm, dict(window_dropout=0.3), None, "no tokens of earlier sentences anyhow; .*--num_memory_tokens"),
        (
            lambda: make_sllm(num_memory_tokens=4, num_future_tokens=2, train_draft_heads_only=True),
            dict(window_dropout=0.3),
            None,
            "train_draft_heads_only leaves the decoder",
        ),
        (make_sllm, dict(state_weight=0.3), None, "only a graft by own layers"),
        (make_own, dict(state_weight=0.3), make_keeping_lm, "keeps a window of tokens"),
        (
            make_own,
            dict(state_weight=0.3),
            lambda: asking(make_lm("llama", num_hidden_layers=4)),
            "has 4 layers of width 32, the model 5 of 32",
        ),
    ],
)
def test_what_a_key_is_about_has_to_be_there(make, keys, teaching, told):
    data = data_of(50, 50) if "extra_cuts" in keys else data_of()
    with pytest.raises(ValueError, match=told):
        set_keeping(make(), config(**keys), data, teaching and teaching())


def test_all_is_off_unless_asked_for():
    model = make_own()
    assert set_keeping(model, config(), data_of(50, 50), None) is None
    assert (model.window_dropout, model.state_weight, model.draws) == (0.0, 0.0, False)


def test_states_are_told_where_the_upper_layers_begin():
    model, teaching = make_own(), asking(make_lm("llama", num_hidden_layers=5))
    set_keeping(model, config(state_weight=0.25), data_of(), teaching)
    assert (teaching.online.depth, model.state_weight) == (3, 0.25)


def weights(folder):
    return load_file(folder / "model" / "model.safetensors")


@pytest.mark.parametrize("graft", ["own", "published"])
def test_a_run_goes_on_as_if_never_stopped_and_is_judged_by_true_sentences(runs, tmp_path, graft, capsys):
    how = {
        "own": f"--lm {runs}/opt --lower_layers 1 --upper_layers 1 --upper_window 64 --max_sentences 1 --fit_tokens 0 "
        f"--teacher {runs}/opt --state_weight 0.5",
        "published": f"--vae {runs}/vae --lm {runs}/opt --max_sentences 8 --num_memory_tokens 8",
    }[graft]
    command = f"finetune-sllm {how} --data {runs}/data {FEW} {KEYS}"
    sllm(f"{command} --output_dir {tmp_path}/whole")
    shutil.copytree(tmp_path / "whole", tmp_path / "stopped")
    shutil.rmtree(tmp_path / "stopped" / "model")
    _, last = sorted((tmp_path / "stopped" / "checkpoints").iterdir())
    shutil.rmtree(last)
    sllm(f"{command} --output_dir {tmp_path}/stopped")
    assert "from step 2" in capsys.readouterr().err
    whole, stopped = weights(tmp_path / "whole"), weights(tmp_path / "stopped")
    assert all(torch.equal(weight, stopped[name]) for name, weight in whole.items())
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert ("states" in lines[0]["losses"]) == (graft == "own")
    model, data = SLLM.from_pretrained(tmp_path / "whole" / "model").eval(), PreparedData.load(runs / "data")
    valid = SentenceWindowDataset(data.split("valid"), 1, model.config.max_sentences)
    found = validation_loss(model, valid, 3, 3)["bits_per_byte"]
    assert lines[-1]["eval"]["bits_per_byte"] == pytest.approx(found, rel=1e-4)


def test_a_cache_has_no_states(runs, tmp_path, capsys):
    (tmp_path / "told").mkdir()
    (tmp_path / "told" / "teacher.json").write_text("{}")
    command = f"finetune-sllm --lm {runs}/opt --upper_layers 1 --data {runs}/data --teacher {tmp_path}/told"
    assert "holds probabilities and no states" in refused(f"{command} --state_weight 1", capsys)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: make_sllm(vae=dict(latent="gaussian"), next_vector="energy"), "here 'energy'. predicts no tokens"),
        (lambda: make_sllm(vae=dict(latent="gaussian"), next_vector="flow"), "here 'flow'. predicts no tokens"),
        (lambda: make_sllm(num_future_tokens=2, train_draft_heads_only=True), "train_draft_heads_only leaves all"),
        (lambda: make_own(num_future_tokens=2, train_draft_heads_only=True), "train_draft_heads_only leaves all"),
    ],
)
def test_a_teacher_of_whom_nothing_would_learn_is_refused(make, told):
    model = make()
    for weight, also in ((0.0, ""), (0.5, ", state_weight=0.5")):
        with pytest.raises(ValueError, match=f"teacher='some/model'{also}: .*{told}"):
            check_teachable(model, config(state_weight=weight))
    alone = config()
    alone.teacher = None
    check_teachable(model, alone)
    check_teachable(make_sllm(), config())


def test_a_teacher_of_drafting_heads_is_refused_before_it_is_loaded(runs, tmp_path, capsys):
    heads = "--num_future_tokens 3 --train_draft_heads_only true"
    command = f"finetune-sllm --model {runs}/sllm {heads} --data {runs}/data --output_dir {tmp_path}/run"
    assert "leave the teacher out" in refused(f"{command} --teacher {runs}/opt --teacher_weight 0.9", capsys)
