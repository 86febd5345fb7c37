"""Folders of every kind that this toolkit writes, mutated at random: what is loaded must be what was written.

A kind says how a folder of it is made and what of it is loaded, as something that can be compared.
"""

import hashlib
import json
import operator
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from damage import damaged
from families import make_family_heads, make_family_sllm, make_lm
from safetensors.torch import load_file
from small_corpora import TEXTS, corpus_of
from tiny import make_opt, make_processor, make_vae
from toy_config import Config
from toy_training import toy_train, weights

from lmbase.config import differing_keys, save_config
from lmbase.files import CHECKSUM, MANIFEST, sha256s, to_line, write_folder, write_text
from lmbase.report.collect import read_log
from lmbase.report.rows import Row, read_metrics, write_metrics
from lmbase.training.checkpoint import newest_checkpoint
from lmbase.training.cost import read_training, write_training
from sllm.loading import load_model
from sllm_data.prepare import prepare
from sllm_data.prepared import PreparedData

GOLDEN = Path(__file__).parents[1] / "data" / "golden"
LARGE = 70 * 2**20  # bytes of prepared data


@dataclass
class Kind:
    """A kind of folder.

    Attributes:
        make: writes one.
        load: what is read of it; ValueError where that cannot be.
        share: of all tries.
        same: whether what is loaded is what was written.
    """

    make: Callable[[Path], object]
    load: Callable[[Path], Any]
    share: float = 1.0
    same: Callable[[Any, Any], bool] = operator.eq


def digest(tensors: dict[str, torch.Tensor]) -> dict[str, str]:
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def model(make: Callable[[], Any], manifest: bool = True) -> Kind:
    """Without a manifest a flipped bit of a weight cannot be known: the folder is loaded, or told to be damaged."""

    def write(folder: Path) -> None:
        saved = make()

        def fill(target: Path) -> None:
            saved.save_pretrained(target)
            make_processor().tokenizer.save_pretrained(target)

        write_folder(folder, fill)
        if not manifest:
            (folder / MANIFEST).unlink()

    def load(folder: Path) -> Any:
        loaded = load_model(f"name={folder}")
        config = {key: value for key, value in loaded.model.config.to_dict().items() if key != "_name_or_path"}
        return digest(loaded.model.state_dict()), config, loaded.tokenizer.backend_tokenizer.to_str()

    return Kind(write, load) if manifest else Kind(write, load, share=0.5, same=lambda found, whole: True)


def read_checkpoint(folder: Path) -> Any:
    path, faults = newest_checkpoint(folder)
    if path is None:
        raise ValueError(" ".join(faults) or "no checkpoint")
    tensors = [digest(load_file(file)) for file in sorted(path.glob("*.safetensors"))]
    return path.name, tensors, json.loads((path / "state.json").read_text())


def read_data(folder: Path) -> Any:
    data = PreparedData.load(folder)
    parts = {name: data.split(name) for name in data.splits}
    tokens = {name: part.tokens(0, part.num_tokens).tolist() for name, part in parts.items()}
    lengths = {name: part.sentence_tokens.tolist() for name, part in parts.items()}
    return tokens, lengths, data.statistics, data.hash, data.configuration, data.processor.fingerprint


def write_data(folder: Path) -> None:
    prepare(corpus_of(TEXTS[:30]), make_processor(), folder, num_workers=1, shard_characters=2000)
    (folder / ".lock").unlink(missing_ok=True)


def write_large_data(folder: Path) -> None:
    """A shard is made long behind what is read of it."""
    write_data(folder)
    shard, manifest = folder / "train" / "00000.arrow", json.loads((folder / "manifest.json").read_text())
    with shard.open("r+b") as file:
        file.truncate(LARGE)
    manifest["train/00000.arrow"] = {"sha256": sha256s([shard])[0], "bytes": LARGE}
    write_text(folder / "manifest.json", json.dumps(manifest))


def write_files(folder: Path) -> None:
    """What lies in a run's folder beside weights."""
    folder.mkdir()
    save_config(Config(), folder / "config.yaml")
    rows = [Row("OPT", bits_per_byte=2.0312, bytes=900), Row("SLLM", bits_per_byte=2.0478, extra={"n": [1, 2]})]
    write_metrics(folder, rows, config={"a": 1}, seed=0, wall_seconds=30, corpus={"name": "d", "sha256": "ab"})
    write_training(folder, 1000, 12.5, 1e9, [], seed=1)
    lines = [{"step": step, "tokens": 100 * step, "loss": 3 / step, "losses": {"a": 1 / step}} for step in range(1, 30)]
    (folder / "log.jsonl").write_text("".join(map(to_line, lines)))


def read_files(folder: Path) -> Any:
    if differing := differing_keys(Config(), folder / "config.yaml") if (folder / "config.yaml").is_file() else []:
        raise ValueError(" ".join(differing))
    if (training := read_training(folder)) is None or not (folder / "log.jsonl").is_file():
        raise ValueError("there is none")
    metrics = read_metrics(folder)
    metrics.pop(CHECKSUM, None)
    return metrics, training, read_log(folder / "log.jsonl", "log").losses


def only_shorter(found: Any, whole: Any) -> bool:
    """The last record of a log may be lost, as when its writer was killed."""
    *rest, losses = found
    return rest == list(whole[:2]) and all(losses[name] == whole[2][name][: len(losses[name])] for name in losses)


def train_on(folder: Path) -> Any:
    """Begin a run, or go on with one."""
    model, _ = toy_train(folder, max_steps=4, save_every=2, log_every=1)
    return digest(weights(model))


MODELS: dict[str, Callable[[], Any]] = {
    "plain opt": make_opt,
    "plain llama": make_lm,
    "sentence-level": make_family_sllm,
    "several heads": make_family_heads,
    "autoencoder": make_vae,
}
KINDS = {
    **{name: model(make) for name, make in MODELS.items()},
    **{f"{name} without manifest": model(make, manifest=False) for name, make in MODELS.items()},
    "checkpoint": Kind(lambda f: shutil.copytree(GOLDEN / "runs" / "sllm" / "checkpoints", f), read_checkpoint),
    "run": Kind(train_on, train_on),
    "files of a run": Kind(write_files, read_files, share=2.0, same=only_shorter),
    "prepared data": Kind(write_data, read_data, share=2.0),
    "large prepared data": Kind(write_large_data, read_data, share=0.2),
}


def mutate(folder: Path, draw: random.Random) -> str:
    """Damage one file, or swap two, and say what was done. Files may have other names: each is written anew."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    path = draw.choice(files)
    data = path.read_bytes()
    way = draw.choice(["damage", "damage", "damage", "delete", "swap", "empty"])
    other = draw.choice([file for file in files if file != path])
    path.unlink()
    if way == "damage":
        path.write_bytes(damaged(data, draw) if data else b"x")
    elif way == "empty":
        path.touch()
    elif way == "swap":
        other.rename(path)
        other.write_bytes(data)
    return f"{way} {path.relative_to(folder)}" + f" {other.relative_to(folder)}" * (way == "swap")


@dataclass
class Tally:
    """What came of the tries."""

    tries: Counter[str] = field(default_factory=Counter)  # by kind
    told: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)  # loaded, and not what was written
    tracebacks: list[str] = field(default_factory=list)  # another error than ValueError


def try_mutations(where: Path, number: int, seed: int) -> Tally:
    """Mutate copies of folders of all kinds, and load them."""
    tally, draw, whole = Tally(), random.Random(seed), {}
    for name, kind in KINDS.items():
        kind.make(where / name)
        shutil.copytree(where / name, where / "copy")
        whole[name] = kind.load(where / "copy")
        shutil.rmtree(where / "copy")
    names, shares = list(KINDS), [kind.share for kind in KINDS.values()]
    for i in range(number):
        name = draw.choices(names, shares)[0]
        folder = where / f"try {i}"
        shutil.copytree(where / name, folder, copy_function=os.link)
        what = f"{i}: {name}, {mutate(folder, draw)}"
        tally.tries[name] += 1
        try:
            if not KINDS[name].same(KINDS[name].load(folder), whole[name]):
                tally.wrong.append(what)
        except ValueError:
            tally.told[name] += 1
        except Exception as error:
            tally.tracebacks.append(f"{what}: {error!r}")
        shutil.rmtree(folder)
    return tally
