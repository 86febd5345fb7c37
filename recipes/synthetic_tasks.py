"""Train small multi-token models on made-up tasks with exact answers, and compare numbers of heads over several seeds.

    sllm synthetic-tasks induction
    sllm synthetic-tasks polynomials --sizes 1M --seeds 0 1 2 3 4

`task` is one of two (arXiv 2404.19737, section 4):

    induction     stories whose names are two random tokens. Accuracy: how often head 1's first choice is right on the
                  second token of a name that occurred before. A guess among all is right once in 40
                  times, a guess among the story's names about once in three.
    polynomials   expressions over F7[X]/(X^5), trained on 1 to `max_operations` operations, tested on up to
                  `test_operations`. Accuracy: how often greedy decoding writes the whole result, all five coefficients;
                  `accuracy` is the mean over trained numbers of operations, `accuracy beyond` over larger ones, and
                  `accuracy 3` that of expressions with three.

Every size is trained with every number of heads and every seed, which draws weights and data. A model with n heads has
as many blocks as one with a single head, so head 1 stands on n - 1 fewer: of the 4 blocks of size 3M four heads leave
none to share, and a single block cannot look a name up. Nothing is read or stored: training samples are made as they
are needed, none twice, and the test set is the same for all. Results are computed in float32.

Each run has a folder of its own below `output_dir`. The same command again continues the one that was interrupted and
repeats none that is finished; more seeds, sizes or heads only add theirs. At the end: a table on the screen and in
`output_dir`, means over seeds, `spread` their standard deviation.
"""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from lmbase.config import Seed, option, run, single_process
from lmbase.files import MANIFEST, read_json, write_text
from lmbase.modeling.devices import choose_device
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.inference import inference_method
from lmbase.modeling.trunk import new_config
from lmbase.report.columns import filled_columns, markdown_table
from lmbase.report.rows import Row, check_place, write_metrics
from lmbase.training.batches import count_tokens
from lmbase.training.cost import write_training
from lmbase.training.loop import QUICK_STEPS, Hooks, TrainingConfig, TrainingData, train
from multitoken import MultiTokenLM, MultiTokenLMConfig
from sllm_data.synthetic import induction, polynomials
from sllm_data.synthetic.induction import InductionStories
from sllm_data.synthetic.polynomials import PolynomialRows

# The published sizes, by parameters of their blocks: with few words, tables are small beside them.
SIZES = {
    "1M": dict(hidden_size=128, num_hidden_layers=5, num_attention_heads=4),
    "3M": dict(hidden_size=256, num_hidden_layers=4, num_attention_heads=8),
    "10M": dict(hidden_size=384, num_hidden_layers=6, num_attention_heads=8),
    "30M": dict(hidden_size=512, num_hidden_layers=10, num_attention_heads=8),
    "100M": dict(hidden_size=768, num_hidden_layers=14, num_attention_heads=12),
}
TEST_BATCH = 50
Items = InductionStories | PolynomialRows


@dataclass
class Config:
    task: Literal["induction", "polynomials"] = option("induction", "what is learnt")
    sizes: list[Literal["1M", "3M", "10M", "30M", "100M"]] = option(["1M", "3M"], "parameters of the blocks")
    num_future_tokens: list[PositiveInt] = option([1, 2], "numbers of heads; 1 is an ordinary language model")
    seeds: list[Seed] = option([0, 1, 2], "one run for each; they draw weights and training samples")
    train_tokens: PositiveInt = option(5_000_000, "each run reads about so many tokens, none of them twice")
    random_names: float = option(
        1.0, "induction: share of training stories with random names; others' can be learnt by heart"
    )
    max_operations: PositiveInt = option(5, "polynomials: the most operations of a training sample")
    test_operations: PositiveInt = option(10, "polynomials: the most operations of a test sample")
    test_samples: PositiveInt = option(500, "test samples; polynomials: for each number of operations")
    batch_size: PositiveInt = option(16, "stories per step, or rows of three expressions")
    learning_rate: PositiveFloat = option(2e-3, "the highest learning rate")
    min_learning_rate_ratio: NonNegativeFloat = option(0.03, "the last learning rate as a share of the highest")
    weight_decay: NonNegativeFloat = option(0.01, "AdamW's decay, on matrices only")
    warmup_steps: NonNegativeInt = option(100, "steps over which the learning rate grows from 0")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the computation in training; weights and tests are float32")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    eval_every: NonNegativeInt = option(0, "steps between tests that go to the run's log; 0: none while training")
    save_every: NonNegativeInt = option(500, "steps between checkpoints; 0: at the end only")
    resume: Literal["auto", "restart"] = option("auto", "restart: delete the runs of this command and begin again")
    quick: bool = option(False, "the smallest size, two seeds and a few steps, to try a command out")
    output_dir: str = option("runs/synthetic-tasks", "the runs' folders, metrics.json and table.md go here")


@dataclass
class RunConfig(TrainingConfig):
    """What one run's folder keeps, so that it is not continued as another."""

    task: str = option("", "what is learnt")
    size: str = option("", "parameters of the blocks")
    num_future_tokens: PositiveInt = option(1, "heads")
    random_names: float = option(1.0, "share of the stories with random names")
    max_operations: PositiveInt = option(5, "the most operations of a training sample")


@dataclass
class Finished:
    """One trained and tested run."""

    figures: dict[str, float]
    tokens: int
    parameters: int
    block_parameters: int


def train_items(config: Config, seed: int, num_items: int) -> Items:
    if config.task == "induction":
        return InductionStories("train", seed, num_items, config.random_names)
    return PolynomialRows("train", seed, num_items, (1, config.max_operations))


def held_out_items(config: Config) -> dict[str, Items]:
    """Test sets by the name of their figure. Tested are names that nobody knows by heart, whatever was trained on."""
    if config.task == "induction":
        return {"accuracy": InductionStories("test", 0, config.test_samples)}
    most = max(config.max_operations, config.test_operations)
    return {
        f"accuracy_{m}": PolynomialRows("test", 0, config.test_samples, (m, m), samples_per_row=1)
        for m in range(1, most + 1)
    }


@inference_method
def accuracy(model: MultiTokenLM, items: Items, whole: bool) -> float:
    """Share of answers that head 1 gives by its first choices.

    Args:
        whole: an item counts as right if all of its answers' tokens are. With each first choice made after the true
            tokens before it, that is when greedy decoding writes this answer: up to its first mistake it reads them.
    """
    num_right = num_answers = 0
    device = next(model.parameters()).device
    for start in range(0, len(items), TEST_BATCH):
        indices = np.arange(start, min(start + TEST_BATCH, len(items)))
        ids, asked = items.batch(indices)["input_ids"].to(device), items.answers(indices).to(device)  # (B,L)
        before = F.pad(ids, (1, 0), value=model.config.bos_token_id)[:, :-1]
        right = model.logits(before, torch.ones_like(before)).argmax(-1) == ids  # padding stands behind all that counts
        num_right += int((right | ~asked).all(1).sum() if whole else (right & asked).sum())
        num_answers += len(ids) if whole else int(asked.sum())
    return num_right / num_answers


def measure(model: MultiTokenLM, config: Config) -> dict[str, float]:
    whole = config.task == "polynomials"
    figures = {name: accuracy(model, items, whole) for name, items in held_out_items(config).items()}
    if whole:
        values = list(figures.values())  # as many samples for each number of operations, so means are shares
        beyond = values[config.max_operations :]
        groups = {"accuracy": statistics.mean(values[: config.max_operations])}
        groups |= {"accuracy_beyond": statistics.mean(beyond)} if beyond else {}
        figures = groups | figures
    return figures


def model_config(config: Config, size: str, num_future_tokens: int) -> MultiTokenLMConfig:
    """n heads and a trunk that together have the size's blocks."""
    if config.task == "induction":
        vocab_size, max_tokens = len(induction.VOCABULARY), induction.MAX_TOKENS
    else:
        vocab_size = len(polynomials.VOCABULARY)
        max_tokens = PolynomialRows("train", 0, 1, (1, config.max_operations)).max_tokens
    width = SIZES[size]["hidden_size"]
    settings: dict[str, Any] = dict(SIZES[size], vocab_size=vocab_size, max_position_embeddings=max_tokens + 1)  # </s>
    return MultiTokenLMConfig.matching(new_config("opt", feed_forward=4 * width, **settings), num_future_tokens)


def build(config: Config, size: str, num_future_tokens: int, seed: int) -> MultiTokenLM:
    """A model with random weights.

    Matrices are drawn with a standard deviation of 1 / sqrt(width), since OPT's 0.02 is little at these widths, and
    positions start as waves of all frequencies, in which one step back is a rotation: looking names up begins with
    knowing the token before. In single trials at 1M, with one head, the story's names were told from other words after
    0.3 million tokens; with 0.02 and random positions after one to four million.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiTokenLM(model_config(config, size, num_future_tokens))
        scale = model.config.hidden_size**-0.5
        for module in model.modules():
            if isinstance(module, torch.nn.Linear | torch.nn.Embedding):
                torch.nn.init.normal_(module.weight, std=scale)
    with torch.no_grad():
        model.get_input_embeddings().weight[model.config.pad_token_id] = 0
        positions = cast(torch.nn.Embedding, model.trunk.get_submodule("decoder.embed_positions")).weight
        positions.copy_(waves(*positions.shape) * 2**0.5 * scale)
    return model


def waves(length: int, width: int) -> Tensor:
    """(L, D) sines and cosines of width / 2 frequencies, evenly spread up to half a turn per position."""
    frequencies = math.pi * (torch.arange(width // 2) + 0.5) / (width // 2)
    angles = torch.arange(length)[:, None] * frequencies  # (L,D/2)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def check(config: Config) -> None:
    """Raise one ValueError naming all that cannot be run, before anything is."""
    faults = []
    lists: dict[str, list] = {key: getattr(config, key) for key in ("sizes", "num_future_tokens", "seeds")}
    for key, values in lists.items():
        if not values:
            faults.append(f"{key}: at least one is needed")
        if len(set(values)) < len(values):
            faults.append(f"{key}={values}: one is given twice, which would count it twice")
    for size, n in product(config.sizes, config.num_future_tokens):
        if n > SIZES[size]["num_hidden_layers"]:
            faults.append(
                f"num_future_tokens={n}: size {size} has {SIZES[size]['num_hidden_layers']} blocks, and each head is "
                "one of them; take fewer heads or a deeper size"
            )
    if not 0 <= config.random_names <= 1:
        faults.append(f"random_names={config.random_names}: it is a share of the stories, from 0 to 1")
    if config.task == "polynomials":
        trained = PolynomialRows("train", 0, 1, (1, config.max_operations)).max_tokens
        if polynomials.max_tokens(config.test_operations) > trained:
            faults.append(
                f"test_operations={config.test_operations}: such samples have up to "
                f"{polynomials.max_tokens(config.test_operations)} tokens, and with max_operations="
                f"{config.max_operations} no position after {trained} is trained; test fewer or train more operations"
            )
    if faults:
        raise ValueError("These tasks cannot be run:\n  " + "\n  ".join(faults))


def run_config(config: Config, size: str, n: int, seed: int) -> RunConfig:
    rows = train_items(config, 0, 200)
    mean_tokens = count_tokens(rows.batch(np.arange(len(rows)))) / len(rows)
    steps = max(1, round(config.train_tokens / (mean_tokens * config.batch_size)))
    own = {"output_dir", "max_steps", "seed", "num_future_tokens"}
    shared = {f.name for f in fields(RunConfig)} & {f.name for f in fields(Config)} - own
    return RunConfig(
        output_dir=str(Path(config.output_dir) / f"{size}_n{n}_seed{seed}"),
        max_steps=min(steps, QUICK_STEPS) if config.quick else steps,
        seed=seed,
        size=size,
        num_future_tokens=n,
        **{name: getattr(config, name) for name in shared},
    )


def train_one(config: Config, size: str, n: int, seed: int) -> Finished:
    """Train (or continue, or only open) one run, and test it."""
    own = run_config(config, size, n, seed)
    model = build(config, size, n, seed)
    items = train_items(config, seed, own.max_steps * own.batch_size)
    sample = items.batch(np.arange(20) % len(items))["input_ids"].numpy()
    told_apart = hashlib.sha256(sample.tobytes()).hexdigest()  # another version may write other stories
    data = TrainingData(items, hash=told_apart)
    hooks = Hooks(
        save_model=lambda m, folder: m.save_pretrained(folder),
        evaluate=(lambda m: measure(m, config)) if config.eval_every else None,
    )
    result = train(model, data, own, own.output_dir, hooks)
    context = round(result.tokens / (result.steps * own.batch_size))
    flops = FORWARD_AND_BACKWARD * model.flops(result.tokens, context)
    write_training(own.output_dir, result.tokens, result.seconds, flops, [], seed=seed)
    tables = sum(table.weight.numel() for table in model.modules() if isinstance(table, torch.nn.Embedding))
    parameters = sum(weight.numel() for weight in model.parameters())
    figures = measure_once(model, config, Path(own.output_dir))
    return Finished(figures, result.tokens, parameters, parameters - tables)


def measure_once(model: MultiTokenLM, config: Config, folder: Path) -> dict[str, float]:
    """`measure`, or what it gave for the same weights and test sets before."""
    path = folder / "accuracy.json"
    keys = ("task", "max_operations", "test_operations", "test_samples")
    what = {key: getattr(config, key) for key in keys}
    what["weights"] = hashlib.sha256((folder / "model" / MANIFEST).read_bytes()).hexdigest()
    try:
        known = read_json(path)
        if known["of"] == what:
            return known["figures"]
    except (ValueError, KeyError, TypeError):
        pass  # not tested yet, or damaged
    figures = measure(model, config)
    write_text(path, json.dumps({"of": what, "figures": figures}, indent=2) + "\n")
    return figures


def summary(config: Config, finished: Mapping[tuple[str, int, int], Finished]) -> list[Row]:
    """A row for each size and number of heads: means over seeds, and their standard deviations."""
    rows = []
    for size, n in product(config.sizes, config.num_future_tokens):
        runs = [finished[size, n, seed] for seed in config.seeds]
        figures: dict[str, float | None] = {}
        for name in runs[0].figures:
            values = [one.figures[name] for one in runs]
            figures[name] = statistics.mean(values)
            figures[f"{name}_spread"] = statistics.stdev(values) if len(values) > 1 else None
        rows.append(
            Row(
                f"{size}, n = {n}",
                data=config.task,
                protocol="second token of repeated names" if config.task == "induction" else "whole result",
                dtype=config.dtype,
                device=choose_device(config.device),
                parameters=runs[0].parameters,
                training_tokens=round(statistics.mean(one.tokens for one in runs)),
                extra={
                    "num_future_tokens": n,
                    "block_parameters": runs[0].block_parameters,
                    "num_seeds": len(runs),
                    **figures,
                },
            )
        )
    return rows


@single_process
def main(config: Config) -> list[Row]:
    check_place(config)
    started = time.perf_counter()
    check(config)
    if config.quick:
        config.sizes, config.seeds = sorted(config.sizes, key=list(SIZES).index)[:1], config.seeds[:2]
        config.batch_size, config.test_samples = min(config.batch_size, 2), min(config.test_samples, 5)
    grid = list(product(config.sizes, config.num_future_tokens, config.seeds))
    decode = induction.decode if config.task == "induction" else polynomials.decode
    print(f"For example: {decode(train_items(config, 0, 1).batch(np.arange(1))['input_ids'][0].tolist())}")
    finished: dict[tuple[str, int, int], Finished] = {}
    for number, (size, n, seed) in enumerate(grid, start=1):
        print(f"[{number}/{len(grid)}] {size}, {n} head{'s' * (n > 1)}, seed {seed}", flush=True)
        finished[size, n, seed] = train_one(config, size, n, seed)
        print("  " + ", ".join(f"{k} {v:.3f}" for k, v in finished[size, n, seed].figures.items()), flush=True)
    rows = summary(config, finished)
    hidden = ("data", "protocol", "dtype", "device", "parameters", "num_future_tokens")
    columns = [name for name in filled_columns(rows) if name not in hidden and not name.endswith("_spread")]
    columns.insert(columns.index("accuracy") + 1, "accuracy_spread")
    print(markdown_table(rows, columns))
    write_text(Path(config.output_dir) / "table.md", markdown_table(rows) + "\n")
    seconds = time.perf_counter() - started
    corpus = {"name": config.task}
    write_metrics(config.output_dir, rows, config=config, seed=None, wall_seconds=seconds, corpus=corpus)
    return rows


if __name__ == "__main__":
    run(Config, main)
