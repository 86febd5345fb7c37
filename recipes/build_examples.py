"""Make the pair of small models that come with the package, `example:sllm` and `example:lm`.

    python data/build_books.py runs/childrens_books runs/clones
    sllm build-examples --data runs/childrens_books

An SLLM with drafting heads on its sentence decoder, and its token-level twin: the same trunk, trained further on as
many tokens as the SLLM's parts saw after it, then given heads, too. Both are written in bfloat16, half of what is
computed with, audited and scored as they lie there, and then put into the package with their figures (metrics.json) and
with what each says of a short text (check.json), by which a copy can be tried. The same command again continues where
it was interrupted; the card beside the models says what was tried before.
"""

import json
import shlex
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load_file, save_file

from lmbase.config import option, run, single_process
from lmbase.files import MANIFEST, write_folder, write_text
from lmbase.hub import EXAMPLES
from lmbase.training.cost import FILE_NAME as TRAINING
from sllm.loading import load_model
from sllm_recipes import cli

NAMES = ("sllm", "lm")  # in the package; the runs with heads are NAME-drafting
WEIGHTS = "model.safetensors"
MOST_BYTES = 10_000_000  # of both together
TEXT = (
    'Once upon a time, there was a little girl who lived near the sea. "Shall we go home?" she asked. But her brother, '
    "who was older than she, only laughed."
)


@dataclass
class Config:
    data: str | list[str] = option([], "the text, as prepare reads it; that of the shipped pair: see above")
    output_dir: str = option("runs/examples", "where the runs go; the same command again continues them")
    package: str = option(str(EXAMPLES), "where the finished pair goes")
    tokenizer: str = option("bpe:2048", "hub id, folder, bpe:N (trained on the train split) or bytes")
    dtype: Literal["fp32", "bf16"] = option("bf16", "of the computation in training")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    quick: bool = option(False, "a few steps of everything, to see that it runs")


def stages(config: Config) -> list[str]:
    """The command lines up to the two runs with heads, in order."""
    out = shlex.quote(config.output_dir)
    specs = [config.data] if isinstance(config.data, str) else config.data
    quick = " --quick true" if config.quick else ""
    common = f"--data {out}/data --device {config.device} --dtype {config.dtype}{quick}"
    window = f"{common} --context 512 --batch_size 4 --warmup_steps 100 --eval_every 500"
    return [
        f"prepare --data {shlex.join(specs)} --tokenizer {shlex.quote(config.tokenizer)} --rule punctuation "
        f"--output_dir {out}/data",
        f"train-lm lm_demo {window} --train_tokens 2000000 --learning_rate 3e-3 --output_dir {out}/trunk",
        f"pretrain-vae vae_demo {common} --lm {out}/trunk --train_tokens 600000 --output_dir {out}/vae",
        f"finetune-sllm sllm_demo {common} --vae {out}/vae --lm {out}/trunk --max_sentences 48 "
        f"--batch_size 4 --train_tokens 2000000 --learning_rate 4e-3 --eval_every 500 --output_dir {out}/sllm",
        f"finetune-sllm sllm_demo_drafting {common} --model {out}/sllm --train_tokens 300000 "
        f"--output_dir {out}/sllm-drafting",
        f"train-lm lm_demo {window} --lm {out}/trunk --train_tokens 2600000 --learning_rate 4e-3 --output_dir {out}/lm",
        f"finetune-mtp mtp_demo {window} --lm {out}/lm --train_tokens 300000 "
        f"--head_weights 1 0.2 0.2 --output_dir {out}/lm-drafting",
    ]


def evaluation(config: Config) -> str:
    """The command line that measures the pair as it is stored, beside the twin before it had heads."""
    out = shlex.quote(config.output_dir)
    return (
        f"evaluate --model lm-plain={out}/lm sllm={out}/pair/sllm lm={out}/pair/lm --baseline lm-plain "
        f"--data {out}/data --device {config.device}{' --quick true' if config.quick else ''} "
        f"--output_dir {out}/evaluate"
    )


@single_process
def main(config: Config) -> None:
    if not config.data:
        raise ValueError("No text: give --data (`python data/build_books.py` makes that of the shipped pair).")
    out = Path(config.output_dir)
    for command in stages(config):
        cli.run_command(command)
    for name in NAMES:
        write_folder(out / "pair" / name, partial(store, out / f"{name}-drafting"))
    cli.run_command(evaluation(config))
    put_into_package(out, Path(config.package))


def store(source: Path, folder: Path) -> None:
    """Write the model of a finished run into `folder`, its weights in bfloat16; loaders make fp32 of them again, which
    is what the configuration says."""
    copy_files(source / "model", folder)
    shutil.copyfile(source / TRAINING, folder / TRAINING)
    weights = load_file(source / "model" / WEIGHTS)
    rounded = {name: weight.to(torch.bfloat16) for name, weight in weights.items()}
    save_file(rounded, folder / WEIGHTS, metadata={"format": "pt"})


def copy_files(source: Path, folder: Path) -> None:
    """All files but the manifest, which a folder gets when it is whole."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST), dirs_exist_ok=True)


def put_into_package(out: Path, package: Path) -> None:
    """Copy the pair and its figures.

    Raises:
        ValueError: it is too large to be shipped.
    """
    size = sum(path.stat().st_size for path in (out / "pair").rglob("*") if path.is_file())
    if size > MOST_BYTES:
        raise ValueError(f"The pair has {size:,} bytes, and {MOST_BYTES:,} may be shipped: train smaller models.")
    for name in NAMES:
        write_folder(package / name, partial(copy_files, out / "pair" / name))
    shutil.copyfile(out / "evaluate" / "metrics.json", package / "metrics.json")
    said = {name: ask(str(package / name)) for name in NAMES}
    write_text(package / "check.json", json.dumps({"text": TEXT, **said}, indent=1) + "\n")
    print(f"{package}: {size / 1e6:.1f} MB. Try: sllm generate {shlex.quote(TEXT[:16])}")


def ask(model: str) -> dict[str, float]:
    """What a model says of the short text, audited on it once more."""
    loaded = load_model(model)
    report = loaded.audit(TEXT)
    report.raise_if_failed(model)
    return {"nats": loaded.model.score([TEXT]).nats[0], "audit_checks": report.num_checks}


if __name__ == "__main__":
    run(Config, main)
