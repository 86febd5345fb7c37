"""Add what post-training changed in a token-level model, weight * (TUNED - BASE), to a model that was made of BASE.

    sllm merge-delta runs/sllm --from facebook/opt-1.3b --to facebook/opt-iml-1.3b --output_dir runs/sllm_iml
    sllm merge-delta runs/tuned --from runs/lm --to runs/lm_style --weight 0.5 --output_dir runs/tuned_style

The model is an SLLM that was grafted from BASE, or BASE trained further. Every weight of its trunk gets the change of
the weight of that name; all else stays as it is, bit for bit, and nothing is trained. An autoencoder's vocabulary table
gets it with --table. What joins trunk and autoencoder stays as well: `sllm evaluate` says whether they still fit.
"""

import shutil
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import FiniteFloat
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from lmbase.config import option, run, save_config, single_process
from lmbase.files import MANIFEST, clean_up, write_folder
from lmbase.modeling.folders import model_folder
from lmbase.modeling.inspection import weight_files
from lmbase.modeling.pretrained import load_lm, read_config
from lmbase.modeling.trunk import check_trunk, input_table, key_value_shape, output_table
from lmbase.text.tokenizers import load_tokenizer, tokenizer_hash
from lmbase.training.cost import FILE_NAME as TRAINING
from lmbase.training.cost import write_training
from sllm.loading import load_model
from sllm_recipes.training_run import VERIFY

POSITIONAL = "model"
COPIED = (".json", ".jinja", ".txt", ".model")  # of a model's folder: configuration, tokenizer, processor
TRUNK, HEAD, TABLE = "trunk.", "lm_head.weight", "autoencoder.embed_tokens.weight"  # in an SLLM
REMEDY = "Give the model that it was made from as --from, and what post-training made of that very model as --to."


@dataclass
class Config:
    model: str = option("", "an SLLM, or a token-level model, that was made from `base`: a run or a folder")
    base: str = option("", "BASE, a token-level model: hub id, run, folder or GGUF file", also="from")
    tuned: str = option("", "TUNED, what post-training made of it", also="to")
    weight: FiniteFloat = option(1.0, "how much of the change is added; a negative one takes it away")
    table: bool = option(False, "change an autoencoder's vocabulary table, too, which must have begun as BASE's")
    output_dir: str = option("runs/merge-delta", "the run of the new model: a folder that is empty or new")
    verify: bool = option(True, VERIFY)


@single_process
def main(config: Config) -> None:
    out = Path(config.output_dir)
    if not (config.model and config.base and config.tuned):
        raise ValueError("Three models are needed: sllm merge-delta RUN --from BASE --to TUNED --output_dir OUT.")
    remains = set(out.glob(".model.*.partial"))  # by a run that was killed as it wrote
    if out.is_file() or (out.is_dir() and {*out.iterdir()} - remains):
        raise ValueError(f"output_dir={str(out)!r} is not empty, and nothing is overwritten: name another folder.")
    by_sentence = check(config)
    folder = Path(model_folder(config.model))
    delta = Delta(load_lm(config.base), load_lm(config.tuned), config.weight)
    pairs = counterparts(folder, delta, by_sentence, config.table)
    clean_up(out)
    write_folder(out / "model", lambda target: write(folder, target, delta, pairs))
    try:
        write_training(out, 0, 0.0, 0.0, [config.model, config.base, config.tuned])
        save_config(config, out / "config.yaml")
    except BaseException:  # or the same command would find the model in its way
        shutil.rmtree(out / "model", ignore_errors=True)
        (out / TRAINING).unlink(missing_ok=True)
        raise
    changed = {id(delta.base[name]) for name in pairs.values()}  # a shared table has two names
    left = {id(its): name for name, its in reversed(delta.base.items()) if not its.equal(delta.tuned[name])}
    told = " and ".join(name for its, name in left.items() if its not in changed)
    print(
        f"{out}: the change has {delta.part(delta.change)} of BASE's size, and {config.weight:g} times as much went to "
        f"{len(pairs)} weights, which had come {delta.part(delta.distance)} away from BASE"
        + (f"; there is no place for that of {told}." if told else ".")
    )


def check(config: Config) -> bool:
    """Look at the three models before BASE and TUNED are loaded; whether the one to change is an SLLM.

    Raises:
        ValueError: a kind of model without such weights, or models of different shapes or tokenizers.
    """
    model = load_model(config.model)
    if not (model.plain or model.by_sentence):
        raise ValueError(
            f"model={config.model!r} is {model.shown}: the change is for the trunk of an SLLM or for a plain "
            "token-level model. Change what this one was made from, and make it again."
        )
    if not Path(model_folder(config.model)).is_dir():
        raise ValueError(f"model={config.model!r} is no folder here: save it as one (save_pretrained).")
    trunk = getattr(model.model.config, "trunk", model.model.config)
    wanted, tokenizer = _make(config.base, "--from")
    for what, name, (found, its) in (
        ("--to", config.tuned, _make(config.tuned, "--to")),
        ("model", config.model, (shape(trunk), tokenizer_hash(model.tokenizer))),
    ):
        differing = [f"{key} {value}, not {wanted[key]}" for key, value in found.items() if value != wanted[key]]
        if its != tokenizer:
            differing.append("another tokenizer")
        if differing:
            told = "; ".join(differing)
            raise ValueError(f"{what} {name!r} is not of one make with --from {config.base!r}: {told}. {REMEDY}")
    return model.by_sentence


def _make(spec: str, key: str) -> tuple[dict[str, Any], str]:
    """Shape of a token-level model, and hash of its tokenizer."""
    config = check_trunk(read_config(spec), f"{key} {spec!r}")
    return shape(config), tokenizer_hash(load_tokenizer(model_folder(spec)))


def shape(config: PreTrainedConfig) -> dict[str, Any]:
    """What decides what the weights of a trunk stand for."""
    return {
        "family": config.model_type,
        "layers": config.num_hidden_layers,
        "width": config.hidden_size,
        "heads": config.num_attention_heads,
        "key-value heads and their width": key_value_shape(config),
        "rotation": getattr(config, "rope_parameters", None),
    }


class Delta:
    """TUNED - BASE, weight by weight, in fp32; and what it was added to."""

    def __init__(self, base: PreTrainedModel, tuned: PreTrainedModel, weight: float):
        self.base, self.tuned, self.weight = named_weights(base), named_weights(tuned), weight
        check_same(self.base.keys(), self.tuned.keys(), "--from and --to")
        self.prefix = f"{base.base_model_prefix}."
        tables = [id(input_table(base)), id(output_table(base))]
        self.tables = [name for name, its in self.base.items() if id(its) in tables]
        self.change = self.distance = self.size = 0.0  # sums of squares: of TUNED - BASE, model - BASE, and BASE

    @torch.no_grad()
    def added_to(self, stored: Tensor, own_name: str, name: str) -> Tensor:
        """A weight with its share of the change, in the dtype that it has.

        Args:
            own_name: of the weight in its model. name: in BASE.

        Raises:
            ValueError: another shape, a table that did not begin as BASE's, or a sum that the dtype cannot hold.
        """
        base, tuned = self.base[name], self.tuned[name]
        if not stored.shape == base.shape == tuned.shape:
            shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (stored, base, tuned))
            raise ValueError(f"{own_name} has different shapes in the model, in --from and in --to: {shapes}. {REMEDY}")
        own, delta = stored.float(), self.weight * (tuned - base)
        distance, size = float((own - base).square().sum()), float(base.square().sum())
        if own_name == TABLE and distance >= size:
            raise ValueError(
                f"table=true: the autoencoder's vocabulary table is {(distance / size) ** 0.5:.0%} of its size away "
                "from the one of --from, and so did not begin as that: leave the key out."
            )
        # Where nothing was trained since, weights of 0 and 1 give BASE and TUNED themselves; no change, no new bit.
        result = torch.where(
            stored == base.to(stored.dtype), torch.lerp(base, tuned, torch.tensor(self.weight)), own + delta
        )
        result = torch.where(delta == 0, stored, result.to(stored.dtype))
        if not result.isfinite().all():
            raise ValueError(f"weight={self.weight}: {own_name} would hold infinite numbers; choose a smaller weight.")
        self.change += float((tuned - base).square().sum())
        self.distance, self.size = self.distance + distance, self.size + size
        return result

    def part(self, squares: float) -> str:
        return f"{(squares / self.size) ** 0.5:.2%}"


def named_weights(lm: PreTrainedModel) -> dict[str, Tensor]:
    """Those of a token-level model, by their names in its trunk; a shared table under each of its names."""
    prefix = f"{lm.base_model_prefix}."
    return {name.removeprefix(prefix): its for name, its in lm.named_parameters(remove_duplicate=False)}


def check_same(these: Set[str], those: Set[str], what: str) -> None:
    if odd := sorted(these ^ those):
        raise ValueError(f"Of {what}, one has {len(odd)} weights that the other has not, {odd[0]} the first. {REMEDY}")


def counterparts(folder: Path, delta: Delta, by_sentence: bool, table: bool) -> dict[str, str]:
    """Names of the weights in a model's folder that get a change, with those of BASE's whose change it is.

    Raises:
        ValueError: its trunk has other weights than BASE.
    """
    pairs = {}
    for file in weight_files(folder):
        with safe_open(folder / file, "pt") as weights:
            for own_name in weights.keys():  # noqa: SIM118  # it is no dict
                name = own_name.removeprefix(TRUNK).removeprefix(delta.prefix)
                if own_name == TABLE and table:
                    pairs[own_name] = delta.tables[0]
                elif own_name.startswith(TRUNK) or own_name == HEAD if by_sentence else name in delta.base:  # no buffer
                    pairs[own_name] = name
    tables = set(delta.tables)
    check_same(set(pairs.values()) - tables, delta.base.keys() - tables, "the model and --from")
    return pairs


def write(folder: Path, target: Path, delta: Delta, pairs: dict[str, str]) -> None:
    """A model's folder once more, with the change; one file of weights is held at a time."""
    for path in folder.iterdir():
        if path.suffix in COPIED and path.name not in (MANIFEST, TRAINING):
            shutil.copyfile(path, target / path.name)
    for file in weight_files(folder):
        with safe_open(folder / file, "pt") as weights:
            new = {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
            metadata = weights.metadata()
        new |= {name: delta.added_to(new[name], name, pairs[name]) for name in new if name in pairs}
        save_file(new, target / file, metadata=metadata)


if __name__ == "__main__":
    run(Config, main)
