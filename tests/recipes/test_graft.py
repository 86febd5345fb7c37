"""`sllm graft`: a sentence model of a language model alone, and what trains it."""

import json
import shutil

import pytest
import torch
from small_runs import refused, sllm
from tiny import make_lm, make_processor

from lmbase.training.cost import Training, read_training
from sllm import SLLM, joint_fitting


def test_a_graft_is_made_shown_and_trained(tmp_path, capsys):
    made = tmp_path / "made"
    sllm(f"graft --lm random:llama-tiny --lower_layers 1 --upper_layers 1 --max_sentence_tokens 32 --output_dir {made}")
    told = capsys.readouterr().out
    assert "trunk         2" in told
    assert "parameters are read per token" in told
    assert "nothing is overwritten" in refused(f"graft --lm random:llama-tiny --output_dir {made}", capsys)
    alone = f"finetune-sllm --lm random:llama-tiny --lower_layers 1 --output_dir {tmp_path}/none"
    assert "give --upper_layers" in refused(alone, capsys)
    text = tmp_path / "text"
    text.mkdir()
    for split in ("train", "valid"):
        lines = [json.dumps({"text": f"This is text {i}. It says little, and ends."}) for i in range(40)]
        (text / f"{split}.jsonl").write_text("\n".join(lines))
    rates = "--joint_rate 3 --trunk_rate 0.5 --table_rate 0.1"
    tiny = "--max_steps 2 --batch_size 4 --eval_windows 2 --warmup_steps 1"
    sllm(f"finetune-sllm --model {made}/model --data {text} --output_dir {tmp_path}/tuned {rates} {tiny}")
    model = SLLM.from_pretrained(f"{tmp_path}/tuned/model")
    assert (model.config.lower_layers, model.config.upper_layers) == (1, 1)
    assert model.generate(text="This is", max_new_tokens=5).num_new_tokens[0] >= 0
    command = f"finetune-sllm --lm random:llama-tiny --upper_layers 1 --lower_layers 1 --max_sentences 20 --data {text}"
    sllm(f"{command} --output_dir {tmp_path}/direct {tiny}")
    assert SLLM.from_pretrained(f"{tmp_path}/direct/model").own is not None
    assert "The joints are not fitted" in capsys.readouterr().out
    stage = f"finetune-sllm --model {made}/model --data {text} --output_dir {tmp_path}/joints {tiny}"
    sllm(f"{stage} --outer_rate 0 --trunk_rate 0 --table_rate 0")
    before, after = (
        SLLM.from_pretrained(folder).state_dict() for folder in (f"{made}/model", f"{tmp_path}/joints/model")
    )
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert "own.carry.weight" in changed
    assert not any(name.startswith("trunk.") for name in changed)
    stage = f"finetune-sllm --model {made}/model --data {text} --output_dir {tmp_path}/nothing {tiny} --joint_rate 0"
    assert "nothing is left to train" in refused(f"{stage} --outer_rate 0 --trunk_rate 0 --table_rate 0", capsys)


@pytest.mark.long
def test_a_graft_learns_from_the_model_that_it_was(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(joint_fitting, "ENDS_PER_WIDTH", 1)
    data = f"--data {runs}/data"
    sllm(
        f"graft --lm {runs}/opt {data} --lower_layers 1 --upper_layers 1 --upper_window 64 --output_dir {tmp_path}/own"
    )
    assert SLLM.from_pretrained(f"{tmp_path}/own/model").processor.rule == "punctuation"
    assert "joints fitted to" in capsys.readouterr().out
    assert "no folder written by prepare" in refused(f"graft --lm {runs}/opt --data {tmp_path}", capsys)
    graft = f"finetune-sllm --lm {runs}/opt --upper_layers 1 --lower_layers 1 {data}"
    few = "--max_steps 2 --batch_size 4 --eval_windows 2 --warmup_steps 1 --upper_window 64"
    sllm(f"distil-cache --lm {runs}/opt {data} --context 64 --top 8 --output_dir {tmp_path}/told")
    losses = {}
    for name, teacher, begin in (("asked", f"{runs}/opt", ""), ("told", f"{tmp_path}/told", "--fit_tokens 0")):
        learns = f"--teacher {teacher} --teacher_weight 0.5 {begin} --output_dir {tmp_path}/{name}-run"
        sllm(f"{graft} {few} --max_sentences 1 {learns}")
        assert ("joints fitted to" in capsys.readouterr().out) == (name == "asked")
        lines = [json.loads(line) for line in (tmp_path / f"{name}-run" / "log.jsonl").read_text().splitlines()]
        losses[name] = lines[0]["losses"]
    assert all(loss["teacher"] > 0 for loss in losses.values())
    capsys.readouterr()
    assert "no share of the loss" in refused(f"{graft} --teacher {runs}/opt --teacher_weight 2", capsys)


def test_ids_that_a_language_model_leaves_open_are_its_tokenizer_s(tmp_path):
    """Padding that only the tokenizer has, and an end that is not the first of several, as chat models have them."""
    lm = make_lm("llama", num_hidden_layers=3, max_position_embeddings=64)
    lm.config.pad_token_id, lm.config.eos_token_id = None, [7, 2]
    lm.save_pretrained(tmp_path / "lm")
    make_processor().tokenizer.save_pretrained(tmp_path / "lm")
    shape = "--lower_layers 1 --upper_layers 1 --max_sentence_tokens 32"
    sllm(f"graft --lm {tmp_path}/lm {shape} --output_dir {tmp_path}/made")
    config = SLLM.from_pretrained(f"{tmp_path}/made/model").config
    assert (config.pad_token_id, config.eos_token_id) == (1, 2)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ("--upper_layers 9", "has 4 layers"),
        ("--upper_window 8", "shorter than a sentence"),
        ("--upper_layers 0", "upper_layers"),
    ],
)
def test_what_cannot_be_grafted_is_told(keys, told, tmp_path, capsys):
    assert told in refused(f"graft --lm random:llama-tiny --lower_layers 1 --output_dir {tmp_path}/out {keys}", capsys)
    assert not (tmp_path / "out").exists()


def record(run: str) -> Training:
    found = read_training(run)
    assert found is not None
    return found


@pytest.mark.parametrize("fit_tokens", [0, 700])
def test_what_a_graft_rests_on_is_not_forgotten(fit_tokens, runs, tmp_path):
    """By either door: grafted first, or in the training itself; the text that joints are fitted to, too."""
    shape = f"--lower_layers 1 --upper_layers 1 --upper_window 64 --max_sentences 1 --fit_tokens {fit_tokens}"
    sllm(f"graft --lm {runs}/opt --data {runs}/data {shape} --output_dir {tmp_path}/graft")
    before, graft = record(f"{runs}/opt"), record(f"{tmp_path}/graft/model")
    assert 0 < before.total_tokens <= graft.total_tokens - fit_tokens < before.total_tokens + 100
    assert (graft.total_flops > before.total_flops) == (fit_tokens > 0)
    train = f"--data {runs}/data --max_steps 1 --batch_size 2 --eval_windows 1"
    sllm(f"finetune-sllm --model {tmp_path}/graft/model {train} --output_dir {tmp_path}/after")
    sllm(f"finetune-sllm --lm {runs}/opt {shape} {train} --output_dir {tmp_path}/at_once")
    after, at_once = record(f"{tmp_path}/after"), record(f"{tmp_path}/at_once")
    assert (after.total_tokens, after.total_flops) == (at_once.total_tokens, at_once.total_flops)
    assert after.tokens + graft.tokens == at_once.tokens
    sllm(f"graft --lm random:llama-tiny --lower_layers 1 --upper_layers 1 --output_dir {tmp_path}/random")
    assert read_training(tmp_path / "random") is None  # which is not the same as no tokens


def test_a_graft_goes_among_no_other_files_and_leaves_none_behind(runs, tmp_path, capsys):
    graft = f"graft --lm {runs}/opt --lower_layers 1 --upper_layers 1 --upper_window 64 --max_sentences 1"
    shutil.copytree(runs / "data", tmp_path / "data")
    assert "holds 'manifest.json'" in refused(f"{graft} --output_dir {tmp_path}/data", capsys)
    (tmp_path / "training/checkpoints").mkdir(parents=True)  # not finished: there is no model yet
    assert "holds 'checkpoints'" in refused(f"{graft} --output_dir {tmp_path}/training", capsys)
    assert not (tmp_path / "training/model").exists()
    left = tmp_path / "killed/.model.0123abcd.partial"  # by a graft that was killed as it wrote
    left.mkdir(parents=True)
    sllm(f"{graft} --output_dir {tmp_path}/killed")
    assert (tmp_path / "killed/model").is_dir()
    assert not left.exists()
