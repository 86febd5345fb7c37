"""The whole story on a laptop: text, tokenizer, small OPT, sentence autoencoder, graft, fair baseline, table, report.

    sllm demo

Everything is trained from nothing on the documentation inside your Python installation (about 2 MB of English; `--data`
takes another text), in five to ten minutes on two CPU cores. Each stage prints the command that does it alone; the same
commands with other configurations train OPT-125M to 1.3B. The same command again continues where it was interrupted.

At the end: a table on the screen and in OUTPUT_DIR/evaluate, and OUTPUT_DIR/report.html.

The two OPT rows: `opt` is the trunk as it was grafted; `opt-tuned` is the same trunk trained further on every token
that the SLLM's parts saw after it. The second is the one to beat. `mtp` is that one with three heads, trained a little
further: it writes what its head 1 would write alone, in fewer passes. `sllm-drafting` is `sllm` with such heads on its
sentence decoder.
"""

import shlex
import time
from dataclasses import dataclass
from typing import Literal

from lmbase.config import option, run, single_process
from sllm_recipes import cli


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "another text, as prepare reads it: hub:NAME, or files (a few MB will do)")
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str = option("bpe:4096", "hub id, folder, bpe:N (trained on the train split) or bytes")
    output_dir: str = option("runs/demo", "where everything goes; the same command again continues it")
    dtype: Literal["fp32", "bf16"] = option("bf16", "of the computation in training")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: int = option(0, "seed of every training")
    quick: bool = option(False, "a few steps of everything, to see that it runs")


def stages(config: Config) -> list[tuple[str, str]]:
    """What is done, and the command line that does it."""
    out = shlex.quote(config.output_dir)
    data = f"--data {out}/data"
    quick = " --quick true" if config.quick else ""
    common = f"{data} --seed {config.seed} --device {config.device} --dtype {config.dtype}{quick}"
    specs = [config.data] if isinstance(config.data, str) else config.data
    text = f"--data {shlex.join(specs)} --text_field {shlex.quote(config.text_field)}"
    names = ("opt", "opt-tuned", "vae", "sllm", "sllm-drafting", "mtp")
    table = "--model " + " ".join(f"{name}={out}/{name}" for name in names)
    return [
        (
            "Text, cut into sentences and tokenised"
            + (": the documentation of this Python" if specs == ["stdlib"] else ""),
            f"prepare {text} --tokenizer {shlex.quote(config.tokenizer)} --rule punctuation --output_dir {out}/data",
        ),
        (
            "Trunk: a small OPT, trained on it from random weights",
            f"train-lm lm_demo {common} --train_tokens 1600000 --output_dir {out}/opt",
        ),
        (
            "Autoencoder: a sentence in, one vector, the sentence out again",
            f"pretrain-vae vae_demo {common} --lm {out}/opt --train_tokens 500000 --output_dir {out}/vae",
        ),
        (
            "SLLM: the autoencoder grafted onto the trunk, and finetuned",
            f"finetune-sllm sllm_demo {common} --vae {out}/vae --lm {out}/opt --train_tokens 800000 "
            f"--output_dir {out}/sllm",
        ),
        (
            "Fair baseline: the same trunk, trained further on as many tokens",
            f"train-lm lm_demo {common} --lm {out}/opt --train_tokens 1300000 --output_dir {out}/opt-tuned",
        ),
        (
            "Multi-token prediction: three heads on the baseline, which draft what it then verifies",
            f"finetune-mtp mtp_demo {common} --lm {out}/opt-tuned --train_tokens 400000 --output_dir {out}/mtp",
        ),
        (
            "The same inside sentences: three heads on the SLLM's decoder, the rest as it is",
            f"finetune-sllm sllm_demo_drafting {common} --model {out}/sllm --train_tokens 150000 "
            f"--output_dir {out}/sllm-drafting",
        ),
        (
            "Evaluation: audited, every byte scored once, side by side",
            f"evaluate {table} {data} --baseline opt-tuned --device {config.device}{quick} --output_dir {out}/evaluate",
        ),
        ("Report", f"report --runs {out} --title 'Sentence-level language modelling, the demo'"),
    ]


@single_process
def main(config: Config) -> None:
    started = time.perf_counter()
    commands = stages(config)
    for number, (what, command) in enumerate(commands, start=1):
        print(f"\n[{number}/{len(commands)}] {what}\n$ sllm {command}", flush=True)
        recipe, *argv = shlex.split(command)
        cli.run_recipe(recipe.replace("-", "_"), argv)
    minutes = (time.perf_counter() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {config.output_dir}/report.html")
    print(f'Try: sllm generate --model {config.output_dir}/sllm --do_sample true --prompt "Return the"')


if __name__ == "__main__":
    run(Config, main)
