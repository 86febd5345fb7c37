"""Runs of every recipe on a small text, as a user types them; the fixture `runs` of tests/recipes makes them."""

import json
import random
import shutil
from pathlib import Path

import pytest

from sllm_recipes import cli

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "house",
    "tree",
    "sees",
    "likes",
    "finds",
    "small",
    "old",
    "red",
    "quiet",
    "and",
    "then",
]
SEEDS = {"train": range(30), "valid": range(30, 34), "test": range(34, 38)}  # of the stories in each split
TRAIN = "--max_steps 6 --batch_size 4 --learning_rate 3e-3 --warmup_steps 2 --log_every 2 --device cpu --dtype fp32"


def story(seed: int) -> str:
    rng = random.Random(seed)
    sentences = [" ".join(rng.choices(WORDS, k=rng.randint(3, 8))).capitalize() + "." for _ in range(12)]
    return " ".join(sentences) + "\n\nThe end, said " + rng.choice(["Ann", "Ben"]) + "! \N{OWL}"


def sllm(command: str) -> None:
    cli.main(command.split())


def refused(command: str, capsys: pytest.CaptureFixture[str]) -> str:
    """The message that a mistake ends with; there is no traceback."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as stopped:
        sllm(command)
    message = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "Traceback" not in message
    return message


def make_runs(folder: Path) -> Path:
    """Data, a trunk, an autoencoder, their graft, a tuned trunk and heads on it."""
    text = folder / "text"
    text.mkdir()
    for split, seeds in SEEDS.items():
        lines = [json.dumps({"text": story(seed)}) for seed in seeds]
        (text / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    data = f"--data {folder}/data"
    sllm(f"prepare --data {text} --tokenizer bpe:300 --rule punctuation --num_workers 1 --output_dir {folder}/data")
    sllm(f"train-lm --lm random:tiny {data} --context 128 {TRAIN} --output_dir {folder}/opt")
    sllm(f"pretrain-vae --lm {folder}/opt {data} {TRAIN} --output_dir {folder}/vae")
    graft = f"--vae {folder}/vae --lm {folder}/opt --max_sentences 16 --num_memory_tokens 8"
    sllm(f"finetune-sllm {graft} {data} {TRAIN} --output_dir {folder}/sllm")
    sllm(f"train-lm --lm {folder}/opt {data} --context 128 {TRAIN} --output_dir {folder}/opt-tuned")
    heads = "--num_future_tokens 3 --curriculum forward --context 128"
    sllm(f"finetune-mtp --lm {folder}/opt {data} {heads} {TRAIN} --output_dir {folder}/mtp")
    return folder


def other_tokenizer(runs: Path) -> Path:
    """The trunk with two merges swapped in its tokenizer."""
    copy = runs / "other-tokenizer"
    shutil.copytree(runs / "opt" / "model", copy, dirs_exist_ok=True)
    (copy / "manifest.json").unlink()
    path = copy / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    merges = content["model"]["merges"]
    merges[0], merges[1] = merges[1], merges[0]
    path.write_text(json.dumps(content), encoding="utf-8")
    return copy
