"""The whole story on your own text: trunk, sentence autoencoder, graft, fair baseline, drafting heads, table, report.

    sllm story --data 'books/*.txt'
    sllm story --data my_text/ --lm facebook/opt-125m --minutes 120
    sllm story --data my_text/ --lm random:small --minutes 60

Without `lm` a small trunk is trained from nothing. A few seconds' measurement says how many tokens this machine can
train on in `minutes`; what is planned, and how long it will take, is told before it begins. Each stage prints the
command that does it alone. The first sentences are written while the trunk is still trained. The same command again
continues where it was interrupted, with the same plan (OUTPUT_DIR/plan.json).

At the end: a table on the screen and in OUTPUT_DIR/evaluate, and OUTPUT_DIR/report.html. `lm` is the trunk as it was
grafted; `lm-tuned` is the same trunk trained further on as many tokens as the SLLM's parts saw: the one to beat. `mtp`
is that one with three heads, `sllm-drafting` is `sllm` with such heads on its sentence decoder.
"""

import shlex
import time
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveFloat

from lmbase.config import Seed, option, run, single_process
from lmbase.durations import duration
from lmbase.modeling.pretrained import own_tokenizer
from lmbase.modeling.trunk import random_config
from sllm_data.prepared import PreparedData
from sllm_recipes import cli
from sllm_recipes.story_plan import CONTEXT, Plan, check_enough, make_plan, shown

# Learning rates on a pretrained trunk, as in lm_opt, vae_opt ..., and on one that was trained here, where both sides
# have the best of those tried with all of the demo's tokens. The others are those of lm_demo, vae_demo, sllm_demo ...
RATES = {"vae": 7e-4, "sllm": 2e-4, "tuned": 1e-4, "mtp": 1e-4}
RATES_AFTER_OURS = {"tuned": 4e-3}


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "your text, as prepare reads it: files, folders, patterns, hub:NAME")
    text_field: str = option("text", "the field of a record that holds the text")
    lm: str = option("random:tiny", "the trunk: a hub id, folder or GGUF file; random:SIZE is trained here", also="opt")
    tokenizer: str | None = option(None, "hub id, folder, bpe:N or bytes; default: the trunk's own, else bpe:4096")
    rule: str = option("auto", "how sentences are cut, as prepare has it")
    minutes: PositiveFloat | None = option(10.0, "how long all of it may take, about; null: as many tokens as the demo")
    prompt: str | None = option(None, "what is continued while it trains; default: the text's own words", prose=True)
    output_dir: str = option("runs/story", "where everything goes; the same command again continues it")
    dtype: Literal["fp32", "bf16"] = option("bf16", "of the computation in training")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: Seed = option(0, "seed of every training")
    quick: bool = option(False, "a few steps of everything, to see that it runs")


def text_stage(config: Config, pretrained: bool) -> tuple[str, str]:
    """What is done first, and the command line that does it."""
    specs = [config.data] if isinstance(config.data, str) else config.data
    tokenizer = config.tokenizer or (own_tokenizer(config.lm) if pretrained else None) or "bpe:4096"
    what = "Text, cut into sentences and tokenised"
    return (
        what + (": the documentation of this Python" if specs == ["stdlib"] else ""),
        f"prepare --data {shlex.join(specs)} --text_field {shlex.quote(config.text_field)} "
        f"--tokenizer {shlex.quote(tokenizer)} --rule {shlex.quote(config.rule)} "
        f"--output_dir {shlex.quote(config.output_dir)}/data",
    )


def training_stages(config: Config, plan: Plan, pretrained: bool, trunk: str) -> list[tuple[str, str, str]]:
    """The stages after the text: a part of the plan, what is done, and the command line that does it.

    Args:
        trunk: how the trunk is called in tables.
    """
    out = shlex.quote(config.output_dir)
    data = f"--data {out}/data"
    quick = " --quick true" if config.quick else ""
    common = f"{data} --seed {config.seed} --device {config.device} --dtype {config.dtype}{quick}"
    source = shlex.quote(config.lm) if pretrained else f"{out}/{trunk}"
    context = f" --context {plan.context}" if plan.context != CONTEXT else ""
    prompt = f" --sample_prompt={shlex.quote(plan.prompt)}" if plan.prompt else ""
    rates = RATES if pretrained else RATES_AFTER_OURS

    def keys(part: str) -> str:
        more = ({"learning_rate": rates[part]} if part in rates else {}) | plan.keys.get(part, {})
        return f"--train_tokens {plan.tokens.get(part, 0)}" + "".join(
            f" --{name} {value}" for name, value in more.items()
        )

    stages = [
        (
            "lm",
            "Trunk: a small language model, trained on it from random weights",
            f"train-lm lm_demo {common} --lm {config.lm}{context} {keys('lm')}{prompt} --output_dir {out}/{trunk}",
        ),
        (
            "vae",
            "Autoencoder: a sentence in, one vector, the sentence out again",
            f"pretrain-vae vae_demo {common} --lm {source} {keys('vae')}{prompt} --output_dir {out}/vae",
        ),
        (
            "sllm",
            "SLLM: the autoencoder grafted onto the trunk, and finetuned",
            f"finetune-sllm sllm_demo {common} --vae {out}/vae --lm {source} {keys('sllm')}{prompt} "
            f"--output_dir {out}/sllm",
        ),
        (
            "tuned",
            "Fair baseline: the same trunk, trained further on as many tokens",
            f"train-lm lm_demo {common} --lm {source}{context} {keys('tuned')}{prompt} "
            f"--output_dir {out}/{trunk}-tuned",
        ),
        (
            "mtp",
            "Multi-token prediction: three heads on the baseline, which draft what it then verifies",
            f"finetune-mtp mtp_demo {common} --lm {out}/{trunk}-tuned{context} {keys('mtp')} --output_dir {out}/mtp",
        ),
        (
            "drafting",
            "The same inside sentences: three heads on the SLLM's decoder, the rest as it is",
            f"finetune-sllm sllm_demo_drafting {common} --model {out}/sllm {keys('drafting')} "
            f"--output_dir {out}/sllm-drafting",
        ),
    ]
    return stages[pretrained:] + last_stages(config, plan, source, trunk)


def last_stages(config: Config, plan: Plan, source: str, trunk: str) -> list[tuple[str, str, str]]:
    """Those that look at what was trained. `source` is where the trunk lies, quoted."""
    out = shlex.quote(config.output_dir)
    names = [f"{trunk}-tuned", "vae", "sllm", "sllm-drafting", "mtp"]
    table = f"--model {trunk}={source} " + " ".join(f"{name}={out}/{name}" for name in names)
    more = "".join(f" --{name} {value}" for name, value in plan.keys.get("evaluate", {}).items())
    quick = " --quick true" if config.quick else ""
    return [
        (
            "evaluate",
            "Evaluation: audited, every byte scored once, side by side",
            f"evaluate {table} --data {out}/data --baseline {trunk}-tuned --device {config.device}{more}{quick} "
            f"--output_dir {out}/evaluate",
        ),
        ("", "Report", f"report --runs {out} --title={shlex.quote(title(config))}"),
    ]


def title(config: Config) -> str:
    specs = [config.data] if isinstance(config.data, str) else config.data
    return f"Sentence-level language modelling, {', '.join(specs)}"


@single_process
def main(config: Config) -> None:
    tell(config, "lm")


def tell(config: Config, trunk: str) -> None:
    """All of it.

    Args:
        trunk: how the trunk is called in tables.
    """
    started = time.perf_counter()
    pretrained = not config.lm.startswith("random:")
    if not pretrained:  # told before text is prepared for it
        random_config(config.lm, vocab_size=8, max_positions=8)
    total = 9 - pretrained
    what, command = text_stage(config, pretrained)
    print(f"\n[1/{total}] {what}")
    cli.run_command(command)
    data = PreparedData.load(f"{config.output_dir}/data")
    check_enough(data)
    plan = make_plan(config, data)
    print(f"\n{shown(plan, config.lm)}", flush=True)
    for number, (part, what, command) in enumerate(training_stages(config, plan, pretrained, trunk), start=2):
        seconds = plan.seconds.get(part)
        about = f" (about {duration(seconds)})" if seconds and not config.quick else ""
        print(f"\n[{number}/{total}] {what}{about}")
        cli.run_command(command)
    minutes = (time.perf_counter() - started) / 60
    print(f"\nDone in {minutes:.1f} minutes. Open {config.output_dir}/report.html")
    model = shlex.quote(f"{config.output_dir}/sllm")
    print(f"Try: sllm generate --model {model} --do_sample true --prompt={shlex.quote(plan.prompt)}")


if __name__ == "__main__":
    run(Config, main)
