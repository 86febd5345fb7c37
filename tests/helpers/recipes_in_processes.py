"""Recipes one after another in this process, or in each of those that torchrun started:

torchrun --nproc-per-node 2 recipes_in_processes.py JOBS.json      # [[recipe, word, ...], ...]

They train in float64, so that what differs is not rounding, which the optimizer enlarges.
"""

import importlib
import json
import sys
import typing
from pathlib import Path
from unittest import mock

from lmbase.config import load_config
from lmbase.processes import join_processes, leave_processes
from lmbase.training.loop import train
from sllm_recipes import training_run

CONFIGS = Path(importlib.import_module("sllm_recipes.cli").__file__ or "").parent / "configs"


def train_in_float64(model, *arguments):
    return train(model.double(), *arguments)


def run_jobs(jobs: list[list[str]]) -> None:
    with mock.patch.object(training_run, "train", train_in_float64):
        for name, *words in jobs:
            recipe = importlib.import_module(f"sllm_recipes.{name}")
            config = load_config(next(iter(typing.get_type_hints(recipe.main).values())), words, CONFIGS)
            join_processes(getattr(config, "device", "cpu"))
            recipe.main(config)


if __name__ == "__main__":
    run_jobs(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    leave_processes()
