"""The whole story on a laptop: text, tokenizer, small OPT, sentence autoencoder, graft, fair baseline, table, report.

    sllm demo

Everything is trained from nothing on the documentation inside your Python installation (about 2 MB of English), in
about ten minutes on two CPU cores. Each stage prints the command that does it alone; the same commands with other
configurations train OPT-125M to 1.3B. The same command again continues where it was interrupted.

At the end: a table on the screen and in OUTPUT_DIR/evaluate, and OUTPUT_DIR/report.html.

The two OPT rows: `opt` is the trunk as it was grafted; `opt-tuned` is the same trunk trained further on every token
that the SLLM's parts saw after it. The second is the one to beat.
"""

import shlex
import time
from dataclasses import dataclass

from lmbase.config import option, run
from sllm_recipes import cli


@dataclass
class Config:
    output_dir: str = option("runs/demo", "where everything goes")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: int = option(0, "seed of every training")
    quick: bool = option(False, "a few steps of everything, to see that it runs")


def stages(config: Config) -> list[tuple[str, str]]:
    """What is done, and the command line that does it."""
    out = config.output_dir
    data = f"--data {out}/data"
    quick = " --quick true" if config.quick else ""
    common = f"{data} --seed {config.seed} --device {config.device}{quick}"
    table = f"--model opt={out}/opt opt-tuned={out}/opt-tuned vae={out}/vae sllm={out}/sllm"
    return [
        (
            "Text: the documentation of this Python, cut into sentences and tokenised",
            f"prepare --data stdlib --tokenizer bpe:4096 --rule punctuation --output_dir {out}/data",
        ),
        (
            "Trunk: a small OPT, trained on it from random weights",
            f"train-opt opt_demo {common} --train_tokens 1600000 --output_dir {out}/opt",
        ),
        (
            "Autoencoder: a sentence in, one vector, the sentence out again",
            f"pretrain-vae vae_demo {common} --opt {out}/opt --train_tokens 500000 --output_dir {out}/vae",
        ),
        (
            "SLLM: the autoencoder grafted onto the trunk, and finetuned",
            f"finetune-sllm sllm_demo {common} --vae {out}/vae --opt {out}/opt --train_tokens 800000 "
            f"--output_dir {out}/sllm",
        ),
        (
            "Fair baseline: the same trunk, trained further on as many tokens",
            f"train-opt opt_demo {common} --opt {out}/opt --train_tokens 1300000 --output_dir {out}/opt-tuned",
        ),
        (
            "Evaluation: audited, every byte scored once, side by side",
            f"evaluate {table} {data} --device {config.device}{quick} --output_dir {out}/evaluate",
        ),
        ("Report", f"report --runs {out} --title 'Sentence-level language modelling, the demo'"),
    ]


def main(config: Config) -> None:
    started = time.perf_counter()
    commands = stages(config)
    for number, (what, command) in enumerate(commands, start=1):
        print(f"\n[{number}/{len(commands)}] {what}\n$ sllm {command}", flush=True)
        recipe, *argv = shlex.split(command)
        cli.run_recipe(recipe.replace("-", "_"), argv)
    minutes = (time.perf_counter() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {config.output_dir}/report.html")
    print(f'Try: sllm generate --model {config.output_dir}/sllm --prompt "Return the"')


if __name__ == "__main__":
    run(Config, main)
