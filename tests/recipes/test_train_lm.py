"""`sllm train-lm` as a user types it: trunks of random weights, and baselines."""

import json
from typing import Any

import pytest
import torch
from small_runs import TRAIN, refused, sllm

from lmbase.modeling.pretrained import load_lm
from lmbase.text.tokenizers import load_tokenizer
from sllm.loading import load_model


def no_gguf(runs):
    path = runs / "none.gguf"
    path.write_bytes(b"GGUF" + bytes(20))
    return path


MISTAKES = {
    "windows longer than the trunk": (
        lambda runs: f"train-lm --lm {runs}/opt --data {runs}/data --context 129",
        "context=129: this model has 128 positions",
    ),
    "a window of no token": (lambda runs: f"train-lm --data {runs}/data --keep_window 0", "keep_window=0"),
    "sentence ends without a window": (
        lambda runs: f"train-lm --data {runs}/data --keep_ends false",
        "keep_ends=False: it belongs to a window",
    ),
    "a kept window longer than the text that is read": (
        lambda runs: f"train-lm --data {runs}/data --context 64 --keep_window 65",
        "keep_window=65: of the 64 positions that this model reads the newest 1 to 64 can be kept",
    ),
    "no such random model": (lambda runs: f"train-lm --lm random:bert-tiny --data {runs}/data", "random:llama-tiny"),
    "a file that is no GGUF": (lambda runs: f"train-lm --lm {no_gguf(runs)} --data {runs}/data", "none.gguf"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_end_with_a_message_and_no_traceback(runs, mistake, capsys):
    command, told = MISTAKES[mistake]
    assert told in refused(f"{command(runs)} --output_dir {runs}/mistake", capsys)


def test_layers_that_are_not_there_are_told_before_text_is_prepared(runs, tmp_path, capsys):
    out = f"--data {runs}/text --output_dir {tmp_path}/out"
    assert "more than the" in refused(f"train-lm --lm {runs}/opt --keep_layers 9+9 {out}", capsys)
    assert not (tmp_path / "out").exists()


def test_a_trunk_has_the_positions_of_its_windows_and_the_ids_of_the_data(runs):
    trunk, tokenizer = load_lm(str(runs / "opt")), load_tokenizer(str(runs / "opt" / "model"))
    assert trunk.config.max_position_embeddings == 128
    assert trunk.config.vocab_size == len(tokenizer) == 300
    last = json.loads((runs / "opt" / "log.jsonl").read_text().splitlines()[-1])
    assert {"token", "perplexity", "bits_per_byte"} <= last["eval"].keys()


@pytest.mark.parametrize(("name", "kind"), [("mtp", "multi_token_lm"), ("sllm", "sllm")])
def test_a_model_that_has_a_trunk_is_none_and_where_it_belongs_is_told(runs, name, kind, capsys):
    for recipe in ("train-lm", f"finetune-sllm --vae {runs}/vae"):
        told = refused(f"{recipe} --lm {runs}/{name} --data {runs}/data --output_dir {runs}/mistake", capsys)
        assert f"is no plain language model but a '{kind}'" in told
        assert "given as --model" in told


def test_a_sample_that_cannot_be_written_ends_no_training(runs, tmp_path, capsys):
    prompt = "the_cat_sees_" * 9
    out = f"{tmp_path}/run --sample_prompt {prompt} --eval_every 2"
    sllm(f"train-lm --lm random:tiny --data {runs}/data --context 16 {TRAIN} --output_dir {out}")
    assert "the model has 16 positions. Shorten it." in capsys.readouterr().err
    assert (tmp_path / "run" / "model").is_dir()


def test_a_window_is_trained_with_saved_and_kept_by_what_goes_on(runs):
    options = f"--data {runs}/data --context 64 {TRAIN} --max_steps 2"
    sllm(f"train-lm --lm random:tiny {options} --output_dir {runs}/all")
    sllm(f"train-lm --lm random:tiny {options} --keep_window 6 --sample_prompt The --output_dir {runs}/window")
    sllm(f"train-lm --lm {runs}/window {options} --output_dir {runs}/window-tuned")
    sllm(f"train-lm --lm {runs}/window {options} --keep_window 4 --keep_ends false --output_dir {runs}/no-ends")
    kept: dict[str, Any] = {name: load_model(f"{runs}/{name}") for name in ("window", "window-tuned", "no-ends")}
    assert [loaded.keep.window for loaded in kept.values()] == [6, 6, 4]
    assert [loaded.keep.processor is None for loaded in kept.values()] == [False, False, True]
    assert kept["window"].keep.processor.rule == "punctuation"
    same = zip(load_lm(f"{runs}/all").parameters(), kept["window"].model.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in same)  # it read less


def test_a_seed_makes_the_weights_and_the_earlier_name_the_same_model(runs):
    options = f"--lm random:tiny --data {runs}/data --context 64 {TRAIN} --max_steps 1"
    for name, words in (("a", "train-lm --seed 0"), ("b", "train-opt --seed 0"), ("c", "train-lm --seed 1")):
        sllm(f"{words} {options} --output_dir {runs}/seed-{name}")
    first, again, other = (list(load_lm(str(runs / f"seed-{name}")).parameters()) for name in "abc")
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))
