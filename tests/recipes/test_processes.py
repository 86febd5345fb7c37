"""Every training recipe with its shipped configuration in several processes, DDP and FSDP, does what one does."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import recipes_in_processes
from recipes_in_processes import run_jobs
from soak import SOAK, only_in_soak

from lmbase.training.runlog import log_records

STEPS = 20
AGREE = 2e-6  # of the logged losses, relative
pytestmark = pytest.mark.distributed

GRAFT, FURTHER = "--vae {}/vae --lm {}/lm", "--lm none --model {}/mtp"
# Shipped configurations, and what else sets parts of a model apart that shards or copies treat in their own way.
CASES = {
    "sllm": ("finetune_sllm", "sllm_tiny", GRAFT),
    "lm": ("train_lm", "lm_tiny", ""),
    "vae": ("pretrain_vae", "vae_tiny", "--lm {}/lm"),
    "mtp": ("finetune_mtp", "mtp_tiny", ""),
    "gaussian": ("pretrain_vae", "vae_tiny", "--lm {}/lm --latent gaussian"),
    "heads": ("finetune_sllm", "sllm_tiny", f"{GRAFT} --num_future_tokens 3 --draft_transitions true"),
    "drafting": ("finetune_sllm", "sllm_demo_drafting", "--model {}/sllm --eval_every 0"),
    "frozen": ("finetune_sllm", "sllm_tiny", f"{GRAFT} --freeze_trunk_layers 1 --freeze_autoencoder true"),
    "gaussian_sllm": ("finetune_sllm", "sllm_tiny", "--vae {}/gaussian --lm {}/lm"),
    "curriculum": ("finetune_mtp", "mtp_tiny", "--curriculum forward"),
    "taught": ("train_lm", "lm_tiny", "--teacher {}/rows"),
    "asked": ("train_lm", "lm_tiny", "--teacher {}/lm --teacher_weight 0.9"),
    "transitions": ("finetune_mtp", "mtp_tiny", f"{FURTHER} --draft_transitions true --train_transitions_only true"),
}
QUICK = ("sllm",)


def job(folder: Path, case: str, name: str, more: str = "") -> list[str]:
    """A batch of 5, which no even number of processes can share out evenly, in micro-batches."""
    recipe, config, own = CASES[case]
    words = (
        f"{config} {own.replace('{}', str(folder))} --data {folder}/data --batch_size 5 --micro_batch_size 2 "
        f"--log_every 1 --output_dir {folder}/{name} {more or f'--max_steps {STEPS}'}"
    )
    return [recipe, *words.split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Data, and each case trained by one process."""
    folder = tmp_path_factory.mktemp("processes")
    rng = random.Random(0)
    words = ["the", "a", "cat", "dog", "bird", "tree", "sees", "likes", "finds", "small", "old", "quiet", "and"]
    (folder / "text").mkdir()
    for split, number in (("train", 40), ("valid", 2)):
        texts = [
            " ".join(" ".join(rng.choices(words, k=rng.randint(2, 14))).capitalize() + "." for _ in range(6))
            for _ in range(number)
        ]
        lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
        (folder / "text" / f"{split}.jsonl").write_text(lines)
    run_jobs([f"prepare --data {folder}/text --tokenizer bpe:300 --num_workers 1 --output_dir {folder}/data".split()])
    run_jobs([job(folder, case, case, "" if SOAK else "--max_steps 2") for case in ("lm", "vae")])
    if SOAK:
        run_jobs(
            [f"distil_cache --lm {folder}/lm --data {folder}/data --context 64 --output_dir {folder}/rows".split()]
        )
    run_jobs([job(folder, case, case) for case in (CASES if SOAK else QUICK)])
    return folder


def run_in(processes: int, folder: Path, jobs: list[list[str]], timeout: int) -> subprocess.CompletedProcess[str]:
    path = folder / "jobs.json"
    path.write_text(json.dumps(jobs))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.run(
        [*command, str(recipes_in_processes.__file__), str(path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def losses(run: Path) -> list[float]:
    return [value for record in log_records(run / "log.jsonl") for value in record.get("losses", {}).values()]


def figures(run: Path) -> dict[str, float]:
    return log_records(run / "log.jsonl")[-1]["eval"]


def check_agreement(folder: Path, processes: int, cases: tuple[str, ...], timeout: int) -> None:
    names = {(case, strategy): f"{case}_{strategy}_{processes}" for case in cases for strategy in ("ddp", "fsdp")}
    jobs = [
        job(folder, case, name, f"--max_steps {STEPS} --strategy {strategy}")
        for (case, strategy), name in names.items()
    ]
    done = run_in(processes, folder, jobs, timeout)
    assert done.returncode == 0, done.stderr[-3000:]
    for (case, strategy), name in names.items():
        expected, found = losses(folder / case), losses(folder / name)
        assert len(found) == len(expected) >= STEPS
        apart = max(abs(a - b) / max(abs(a), 1e-9) for a, b in zip(expected, found, strict=True))
        assert apart < AGREE, (case, strategy, apart)
        assert figures(folder / name) == pytest.approx(figures(folder / case), rel=AGREE), name


@pytest.mark.long
def test_G1_G2_two_processes_equal_one(folder):
    check_agreement(folder, 2, QUICK, 180)


@only_in_soak
@pytest.mark.parametrize("processes", [2, 4])
def test_G1_every_recipe_in_several_processes(folder, processes):
    check_agreement(folder, processes, tuple(CASES), 1800)
