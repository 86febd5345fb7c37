"""`sllm finetune-sllm` as a user types it: what cannot be grafted, and what heads leave alone."""

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import TRAIN, other_tokenizer, refused, sllm

from sllm import SLLM, joint_fitting


def other_width(runs):
    """An autoencoder that fits no `tiny` trunk."""
    sllm(f"pretrain-vae --data {runs}/data --hidden_size 64 {TRAIN} --output_dir {runs}/vae64")
    return runs / "vae64"


MISTAKES = {
    "an OPT is no autoencoder": (lambda runs: f"finetune-sllm --vae {runs}/opt --lm {runs}/opt", "sentence_vae"),
    "width": (
        lambda runs: f"finetune-sllm --vae {other_width(runs)} --lm {runs}/opt --data {runs}/data",
        "vectors are 64 wide",
    ),
    "tokenizer of another model": (
        lambda runs: f"finetune-sllm --vae {runs}/vae --lm {other_tokenizer(runs)} --data {runs}/data",
        "tokenizers",
    ),
    "too many sentences for the trunk": (
        lambda runs: f"finetune-sllm --vae {runs}/vae --lm {runs}/opt --data {runs}/data --max_sentences 500",
        "max_sentences=500",
    ),
    "no autoencoder": (lambda runs: f"finetune-sllm --lm {runs}/opt --data {runs}/data", "grafted from two parts"),
    "an SLLM and its parts": (
        lambda runs: f"finetune-sllm --model {runs}/sllm --vae {runs}/vae --data {runs}/data",
        "not both",
    ),
    "another memory for a finished SLLM": (
        lambda runs: f"finetune-sllm --model {runs}/sllm --num_memory_tokens 4 --data {runs}/data",
        "was made with 8; make a new graft",
    ),
    "windows of own layers": (
        lambda runs: (
            f"finetune-sllm --vae {runs}/vae --lm {runs}/opt --data {runs}/data --max_sentences 9 --lower_window 9"
        ),
        "lower_window: of a graft by own layers",
    ),
    "layers of a finished SLLM": (
        lambda runs: f"finetune-sllm --model {runs}/sllm --data {runs}/data --layers 3",
        "layers=3: the layers are those of `vae`",
    ),
    "an autoencoder of other layers": (
        lambda runs: f"finetune-sllm --vae {runs}/vae --lm {runs}/opt --data {runs}/data --layers 2",
        "has 1; pretrain one",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(runs, mistake, capsys):
    command, told = MISTAKES[mistake]
    assert told in refused(f"{command(runs)} --output_dir {runs}/mistake", capsys)


def test_heads_on_a_finished_sllm_change_neither_its_score_nor_its_text(runs, capsys):
    heads = "--num_future_tokens 3 --train_draft_heads_only true --draft_transitions true"
    sllm(f"finetune-sllm --model {runs}/sllm {heads} --data {runs}/data {TRAIN} --output_dir {runs}/sllm-drafting")
    plain, drafting = (SLLM.from_pretrained(runs / name / "model") for name in ("sllm", "sllm-drafting"))
    own = drafting.state_dict()
    assert all(torch.equal(weight, own[name]) for name, weight in plain.state_dict().items())
    text = ["The cat sees a dog. Then"]
    assert drafting.score(text).nats == pytest.approx(plain.score(text).nats, rel=1e-6)
    texts = set()
    for name, drafts in (("sllm", "auto"), ("sllm-drafting", "1"), ("sllm-drafting", "3"), ("sllm-drafting", "auto")):
        capsys.readouterr()
        sllm(f"generate --model {runs}/{name} --prompt Hello --max_new_tokens 12 --num_draft {drafts} --device cpu")
        told = capsys.readouterr()
        texts.add(told.out)
        assert ("per forward pass" in told.err) == (name == "sllm-drafting")
    assert len(texts) == 1


def test_a_restart_fits_the_joints_as_a_fresh_folder_does(runs, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(joint_fitting, "ENDS_PER_WIDTH", 0.3)
    shape = "--upper_layers 1 --lower_layers 1 --upper_window 64 --max_sentences 1"
    common = f"--data {runs}/data {TRAIN} --max_steps 1 --eval_windows 2 --fit_tokens 700"
    command = f"finetune-sllm --lm {runs}/opt {shape} {common} --output_dir {tmp_path}/run"
    sllm(command)
    assert "joints fitted to" in capsys.readouterr().out
    fresh = load_file(tmp_path / "run/model/model.safetensors")
    sllm(f"{command} --resume restart")
    again = load_file(tmp_path / "run/model/model.safetensors")
    assert all(torch.equal(weight, again[name]) for name, weight in fresh.items())
    capsys.readouterr()
    sllm(command)
    assert "joints fitted to" not in capsys.readouterr().out  # it is finished
    sllm(f"graft --lm {runs}/opt {shape} --rule punctuation --output_dir {tmp_path}/graft")  # without text
    sllm(f"finetune-sllm --model {tmp_path}/graft {common} --output_dir {tmp_path}/fitted")
    assert "joints fitted to" in capsys.readouterr().out
    told = refused(f"finetune-sllm --model {runs}/sllm {common} --output_dir {tmp_path}/no", capsys)
    assert "fit_tokens=700: only the joints of a graft by own layers" in told


def test_a_teacher_needs_positions_for_the_train_split_alone(runs, tmp_path, capsys):
    for split, times in (("train", 1), ("valid", 30), ("test", 30)):
        text = "The cat sees a dog. " * 2 * times
        (tmp_path / f"{split}.jsonl").write_text(json.dumps({"text": text}) + "\n")
    make = f"prepare --data {tmp_path}/*.jsonl --tokenizer {runs}/opt/model --rule punctuation --num_workers 1"
    sllm(f"{make} --output_dir {tmp_path}/data")
    command = f"finetune-sllm --vae {runs}/vae --lm {runs}/opt --max_sentences 60 --data {tmp_path}/data {TRAIN}"
    sllm(f"{command} --max_steps 1 --eval_windows 1 --teacher {runs}/opt --output_dir {tmp_path}/run")
    (tmp_path / "train.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    sllm(f"{make} --output_dir {tmp_path}/long")
    command = command.replace(f"{tmp_path}/data", f"{tmp_path}/long")
    told = refused(f"{command} --teacher {runs}/opt --output_dir {tmp_path}/no", capsys)
    assert "has 128 positions" in told
    assert "give a smaller --max_sentences" in told
