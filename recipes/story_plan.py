"""How much a story trains: a few seconds' measurement of this machine, and what of the text there is."""

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from lmbase.durations import duration
from lmbase.files import read_json, write_text
from lmbase.modeling.devices import choose_device
from lmbase.modeling.pretrained import load_lm
from lmbase.modeling.token_lm import TokenLM
from lmbase.report.formats import short_count
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.batches import Dataset, count_tokens
from lmbase.training.pace import pass_seconds
from sllm import SLLM
from sllm_data.datasets import SentenceDataset, SentenceWindowDataset, TokenWindowDataset
from sllm_data.prepared import PreparedData
from sllm_recipes import pretrain_vae

FILE_NAME = "plan.json"
CONTEXT = 256  # positions of a training window, as in the demo's configurations; a test compares
MAX_SENTENCES = 24
BATCHES = {"lm": 8, "tuned": 8, "vae": 128, "sllm": 8, "mtp": 8, "drafting": 4}  # likewise
KEYS: dict[str, dict[str, Any]] = {  # where a story differs from those, for speed
    "lm": {"eval_windows": 32},
    "tuned": {"eval_windows": 32},
    "vae": {"batch_size": BATCHES["vae"], "eval_sentences": 1024},  # twice the tokens per second that 64 have
    "sllm": {"eval_windows": 32},
}
# Tokens of the demo. The baseline is trained on as many as autoencoder and SLLM together.
TOKENS = {"lm": 1_100_000, "vae": 400_000, "sllm": 600_000, "tuned": 1_000_000, "mtp": 150_000, "drafting": 100_000}
# Seconds per token: those of which measured model, times what.
COSTS = {"lm": ("lm", 1.0), "vae": ("vae", 1.0), "sllm": ("sllm", 1.0), "tuned": ("lm", 1.0), "mtp": ("lm", 2.3)}
COSTS["drafting"] = ("sllm", 1.0)
WATCHED = ("lm", "vae", "sllm", "tuned")  # are looked at while they are trained
PASSES = 4  # over the train split, of the trunk: more would be learnt by heart
LEAST_TOKENS = 10_000  # of the train split
FEW_TOKENS = 200_000  # fewer say little
LEAST_TRAINED = 5_000  # tokens of a part, however slow the machine
LEAST_STEPS = 100  # that a part is to have: the batches are made smaller for that
OTHER_SECONDS = 25.0  # imports, audits, samples, report
UPDATE = 1.15  # of a step, for what is not measured: optimizer, log, checkpoints
TRAINING = 0.4  # the least share of the time


@dataclass
class Plan:
    """What is trained and evaluated; by part: lm, vae, sllm, tuned, mtp, drafting, evaluate."""

    asked: dict[str, Any]  # for what it was made
    tokens: dict[str, int]
    seconds: dict[str, float]  # about
    keys: dict[str, dict[str, Any]] = field(default_factory=dict)  # further keys of the commands
    prompt: str = ""  # continued while training
    context: int = CONTEXT


def check_enough(data: PreparedData) -> None:
    """Tell what too little text, or text that cannot be held out, will do to the figures.

    Raises:
        ValueError: there is too little to train on, or nothing to evaluate on.
    """
    counts = {name: data.statistics[name] for name in data.splits}
    train = counts.get("train", {"tokens": 0, "bytes": 0})
    if train["tokens"] < LEAST_TOKENS:
        raise ValueError(
            f"{data.name} has {train['bytes']:,} bytes ({train['tokens']:,} tokens) to train on, too little to learn "
            f"from: give at least {LEAST_TOKENS:,} tokens (about {LEAST_TOKENS * 4 // 1000} kB), better 1 MB and more."
        )
    if "test" not in counts:
        raise ValueError(
            f"No text of {data.name} could be held out ({data.splits_are}), and without it nothing can be told: give "
            "more documents, a longer one, or files named train.txt, valid.txt and test.txt; then begin again in "
            "another output_dir."
        )
    if "valid" not in counts:
        print("No text is held out for valid: nothing is measured or shown while the models are trained.")
    if train["tokens"] < FEW_TOKENS:
        print(
            f"Little text ({train['tokens']:,} tokens to train on): the models will learn it by heart; 1 MB is a start."
        )
    if counts["test"]["documents"] == 1:
        print("One document is held out for the test: the table's ratios will have no intervals, which need several.")


def make_plan(config: Any, data: PreparedData) -> Plan:
    """The plan of an earlier call of the same command, or a new one, which is written down.

    Args:
        config: a `story.Config`.

    Raises:
        ValueError: the earlier call asked for something else.
    """
    path = Path(config.output_dir) / FILE_NAME
    asked = {name: getattr(config, name) for name in ("lm", "minutes", "quick", "seed", "dtype")}
    if path.is_file():
        plan = Plan(**read_json(path))
        differing = [f"{k}: {plan.asked.get(k)!r} -> {v!r}" for k, v in asked.items() if plan.asked.get(k) != v]
        if differing:
            raise ValueError(
                f"{config.output_dir} holds a story with other keys ({'; '.join(differing)}). Give them as they were "
                "to continue it, or choose another output_dir."
            )
        return replace(plan, prompt=config.prompt or plan.prompt)
    speed = Speed.measured(config, data)
    plan = _planned(config, data, speed, asked)
    write_text(path, json.dumps(asdict(plan), indent=1) + "\n")
    return plan


@dataclass
class Speed:
    """Of this machine."""

    seconds_per_token: dict[str, float]  # of training, by model: lm, vae, sllm
    seconds_per_word: float  # of writing a token
    context: int  # of which windows were

    @staticmethod
    def measured(config: Any, data: PreparedData) -> "Speed":
        """A few training steps of each model."""
        pretrained, device = not config.lm.startswith("random:"), choose_device(config.device)
        pad, train = data.processor.pad_token_id, data.split("train")
        vocab_size = vocabulary_size(data.processor.tokenizer)
        lm = load_lm(config.lm, vocab_size=vocab_size, max_positions=CONTEXT)
        context = min(CONTEXT, lm.config.max_position_embeddings)
        vae = pretrain_vae.build(pretrain_vae.Config(lm=config.lm, start_from_table=False), data)
        sllm = SLLM.graft(vae, lm, max_sentences=min(MAX_SENTENCES, context - 1))
        models: dict[str, tuple[Any, Dataset]] = {
            "lm": (TokenLM(lm), TokenWindowDataset(train, pad, context - 1)),
            "vae": (vae, SentenceDataset(train, pad)),
            "sllm": (sllm, SentenceWindowDataset(train, pad, sllm.config.max_sentences)),
        }
        seconds = {}
        for name, (model, items) in models.items():
            number = max(1, BATCHES[name] // 8) if pretrained else BATCHES[name]
            seconds[name] = UPDATE * _seconds_per_token(model.to(device), items, number, config.dtype)
        weights = 4 * sum(parameter.numel() for parameter in lm.parameters())
        return Speed(seconds, 0.0015 + weights / 1e10, context)


def _seconds_per_token(model: Any, items: Dataset, batch_size: int, dtype: str) -> float:
    """Of forward and backward passes."""
    chosen = np.linspace(0, len(items) - 1, min(batch_size, len(items))).astype(np.int64)
    batch = items.batch(chosen)
    return pass_seconds(model, batch, dtype) / max(count_tokens(batch), 1)


def _planned(config: Any, data: PreparedData, speed: Speed, asked: dict[str, Any]) -> Plan:
    pretrained = not config.lm.startswith("random:")
    parts = {part: n for part, n in TOKENS.items() if not (pretrained and part == "lm")}
    per_token = {part: speed.seconds_per_token[of] * factor for part, (of, factor) in COSTS.items()}
    evaluate, evaluation_seconds = _evaluation(config, data, speed)
    scale = 1.0
    if config.minutes:
        whole = 60 * config.minutes
        training = max(TRAINING * whole, whole - evaluation_seconds - OTHER_SECONDS)
        scale = training / sum(per_token[part] * n for part, n in parts.items())
        seen = max(TOKENS["lm"], TOKENS["tuned"]) if not pretrained else TOKENS["tuned"]
        scale = min(scale, PASSES * data.statistics["train"]["tokens"] / seen)
    tokens = {part: max(round(scale * n), LEAST_TRAINED) for part, n in parts.items()}
    tokens["tuned"] = tokens["vae"] + tokens["sllm"]
    sentence = data.statistics["train"]["tokens"] / data.statistics["train"]["sentences"]
    window_of = {"vae": sentence} | dict.fromkeys(("sllm", "drafting"), sentence * MAX_SENTENCES * 0.8)
    keys = {part: dict(KEYS.get(part, {})) for part in tokens}
    for part, n in tokens.items() if config.minutes else ():  # the configurations are made for the demo's
        window = window_of.get(part, speed.context * 0.8)  # some are the ends of documents
        batch = int(np.clip(n / window / LEAST_STEPS, 1, BATCHES[part]))
        steps = max(1, round(n / window / batch))
        if batch < BATCHES[part]:
            keys[part]["batch_size"] = batch
        if steps < 2 * LEAST_STEPS:  # fewer than the configurations are made for
            keys[part] |= {"warmup_steps": min(20, steps // 5), "log_every": max(1, min(20, steps // 5))}
            if part in WATCHED:
                keys[part]["eval_every"] = max(1, steps // 3)
    seconds = {part: round(n * per_token[part], 1) for part, n in tokens.items()}
    seconds["evaluate"] = round(evaluation_seconds, 1)
    keys["evaluate"] = evaluate
    return Plan(asked, tokens, seconds, keys, config.prompt or _opening(data), speed.context)


def _evaluation(config: Any, data: PreparedData, speed: Speed) -> tuple[dict[str, Any], float]:
    """Keys of `evaluate` with which it takes no more than a third of the time, as far as there is a limit, and how long
    it will take."""
    test = data.split("test")
    borders = test.sentence_tokens[test.document_sentences]
    per_token = 5 * max(speed.seconds_per_token.values())  # five models, forward passes only, each token about twice
    per_round = 8 * 128 * speed.seconds_per_word
    most = config.minutes * 60 / 6 if config.minutes else float("inf")
    keys = {}
    fitting = sum(total * per_token <= most for total in accumulate(np.diff(borders).tolist()))
    documents = min(max(fitting, 2), test.num_documents)
    if documents < test.num_documents:
        keys["max_documents"] = documents
    rounds = int(np.clip(most / per_round - 1, 1, 5)) if config.minutes else 5
    if rounds < 5:
        keys["rounds"] = rounds
    return keys, float(borders[documents]) * per_token + (rounds + 1) * per_round


def _opening(data: PreparedData) -> str:
    """The first words of a held-out text."""
    split = data.split("valid" if "valid" in data.splits else "test")
    text = data.processor.decode(split.tokens(0, min(split.num_tokens, 32)).tolist())
    words = text.split()
    return " ".join(words[:3])[:30]


def shown(plan: Plan, lm: str) -> str:
    """A plan in words."""
    whole = sum(plan.seconds.values()) + OTHER_SECONDS
    counts = ", ".join(f"{part} {short_count(n)}" for part, n in plan.tokens.items())
    return f"Planned: tokens to train on: {counts}. On this machine all of it takes about {duration(whole)}."
