"""Laws, not points: loss over parameters and tokens for SLLM and token-level models, and what one needs of the other.

    sllm scaling --data 'books/*.txt' --sizes 64x2 96x3 128x4 192x6 --tokens 0.5e6 1e6 2e6 4e6
    sllm scaling --metrics runs/a/metrics.json runs/b/metrics.json

For each size and number of tokens two models are trained: a token-level one on all of the tokens, in one schedule, and
an SLLM whose trunk, autoencoder and finetuning share them out (`shares`). All are then audited and scored on the test
split, a law bits(N, D) = floor + a / N^alpha + b / D^beta is fitted to either kind, N being all parameters, and the
answer is one sentence: how many times the tokens, or the parameters, a token-level model needs for the bits per byte of
the largest SLLM on most tokens, with an interval over draws of the runs' own deviations from the law. With --metrics
rows that were measured elsewhere are taken instead.

Writes OUTPUT_DIR/scaling.svg, table.md and metrics.json. The same command again goes on where it stopped.
"""

import math
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib import import_module
from pathlib import Path

import numpy as np
from pydantic import NonNegativeFloat, PositiveFloat

from lmbase.config import Seed, class_of_keys, load_config, option, run, single_process
from lmbase.files import write_text
from lmbase.report.columns import markdown_table
from lmbase.report.formats import short_count
from lmbase.report.rows import Row, check_place, read_metrics, write_metrics
from lmbase.report.scaling import (
    Comparison,
    Law,
    Run,
    compare_laws,
    distinct,
    drawn_together,
    fewest,
    fit_law,
    told_factor,
    told_law,
)
from sllm_recipes import cli

KINDS = ("token", "sentence")
FEWEST_TOKENS = 1000  # to train on: fewer are meant as millions
QUICK_TOKENS = 40_000  # of the longest trainings when all are quick: fewer than their steps are limited to
OWN = ("data", "seed", "device", "eval_every", "lm", "vae", "train_tokens", "output_dir")  # keys of each training
STYLES = {"token": "--", "sentence": "-"}
SHOWN = ["model", "level", "parameters", "training_tokens", "bits_per_byte", "law_bits_per_byte", "token_factor"]


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "a folder written by prepare, or what prepare reads: stdlib, files")
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str = option("bpe:4096", "of text that is not prepared yet, as prepare has it")
    rule: str = option("auto", "how sentences of such text are cut")
    sizes: list[str] = option(
        ["64x2", "96x3", "128x4", "192x6"], "of the trunks: what may follow random:, as WIDTHxLAYERS"
    )
    tokens: list[PositiveFloat] = option([5e5, 1e6, 2e6, 4e6], "that each model is trained on in all, such as 1e6")
    shares: list[NonNegativeFloat] = option(
        [0.52, 0.19, 0.29], "of an SLLM's tokens: for its trunk, its autoencoder, and the finetuning"
    )
    lm_keys: str = option(
        "lm_demo", "a configuration and keys of train-lm, for token-level models and trunks", prose=True
    )
    vae_keys: str = option("vae_demo", "likewise of pretrain-vae", prose=True)
    sllm_keys: str = option("sllm_demo", "likewise of finetune-sllm", prose=True)
    metrics: list[str] = option([], "files of rows that are taken instead of training")
    sentence: str = option("sllm", "rows of those whose model's name begins so are sentence-level; of others:")
    token: str = option("opt", "rows of those whose model's name begins so are token-level; others are left out")
    seed: Seed = option(0, "of every training and of the bootstrap")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    quick: bool = option(False, "a few steps of everything, to see that it runs")
    output_dir: str = option("runs/scaling", "where scaling.svg, table.md and metrics.json go, and the runs")


def check_keys(config: Config) -> None:
    """Before anything is trained.

    Raises:
        ValueError: a grid to which no law can be fitted, shares that are none, sizes or keys of which a training would
            be refused, or an output_dir with figures that are not of this recipe.
    """
    if config.sentence == config.token:
        raise ValueError(
            f"sentence and token are both {config.token!r}: name rows of either kind by another beginning."
        )
    check_place(config, config.metrics)
    if config.metrics:
        return
    for count in config.tokens:
        if not FEWEST_TOKENS <= count < math.inf:
            raise ValueError(
                f"tokens={count:g}: give numbers from {FEWEST_TOKENS} on, all digits counted: 1e6 for a million."
            )
    sizes, counts = len(config.sizes), distinct(config.tokens)
    for name, values in (("sizes", config.sizes), ("tokens", [f"{count:.0f}" for count in config.tokens])):
        if len(set(values)) < len(values):
            raise ValueError(f"{name}={' '.join(values)} has one twice: give each once.")
    if sizes * counts < fewest(sizes, counts) or max(sizes, counts) < 3:
        raise ValueError(
            f"A grid of {sizes} size(s) and {counts} number(s) of tokens (those within 10% count as one) has "
            f"{sizes * counts} point(s) for each kind, too few for a law: give at least {fewest(sizes, counts)}, such "
            "as --tokens 5e5 1e6 2e6 4e6, with three or more different sizes or numbers of tokens."
        )
    if len(config.shares) != 3 or not math.isclose(sum(config.shares), 1, abs_tol=0.02) or 0 in config.shares:
        raise ValueError(
            f"shares={' '.join(map(str, config.shares))}: give three shares above 0 that add up to 1, of trunk, "
            "autoencoder and finetuning."
        )
    check_trainings(config)


def check_trainings(config: Config) -> None:
    """Sizes, and the keys of each part, as the trainings will read them.

    Raises:
        ValueError: one that they would refuse, hours later.
    """
    from lmbase.modeling.trunk import random_config  # here: torch takes seconds to import

    for size in config.sizes:
        try:
            random_config(f"random:{size}", vocab_size=8, max_positions=8)
        except ValueError as error:
            raise ValueError(f"sizes={size}: {error}") from None
    parts = ("lm_keys", "lm_keys", "vae_keys", "sllm_keys")
    for name, command in zip(parts, cell_of(config, "data", config.sizes[0], config.tokens[0]).commands, strict=True):
        try:
            recipe, *words = shlex.split(command)
            cli.check_part(name, getattr(config, name), recipe, OWN)
            module = import_module(f"{cli.__package__}.{recipe.replace('-', '_')}")
            load_config(class_of_keys(module, words), words, cli.FOLDER / "configs")
        except ValueError as error:
            raise ValueError(f"{name}={getattr(config, name)!r}: {error}") from None


@dataclass
class Cell:
    """A place of the grid, and the commands that train the two models of it, which lie in `folders`, by kind."""

    commands: list[str] = field(default_factory=list)
    folders: dict[str, str] = field(default_factory=dict)


def cell_of(config: Config, data: str, size: str, tokens: float) -> Cell:
    name = f"{size}-{tokens:.0f}"  # in full: 1.000e6 and 1.004e6 are two
    out = {part: f"{config.output_dir}/{name}/{part}" for part in ("opt", "trunk", "vae", "sllm")}
    keys = f"--data {shlex.quote(data)} --seed {config.seed} --device {config.device} --eval_every 0"
    if config.quick:  # shorter in proportion: of trainings of one length there is no law
        keys += " --quick true"
        tokens *= min(1, QUICK_TOKENS / max(config.tokens))
    trunk, vae, sllm = (max(1, round(share * tokens)) for share in config.shares)

    def command(recipe: str, of: str, more: str, count: float, part: str) -> str:
        return f"{recipe} {of} {keys} {more} --train_tokens {count:.0f} --output_dir {shlex.quote(out[part])}"

    lm, grafted = f"--lm random:{size}", f"--lm {shlex.quote(out['trunk'])}"
    return Cell(
        [
            command("train-lm", config.lm_keys, lm, tokens, "opt"),
            command("train-lm", config.lm_keys, lm, trunk, "trunk"),
            command("pretrain-vae", config.vae_keys, grafted, vae, "vae"),
            command("finetune-sllm", config.sllm_keys, f"{grafted} --vae {shlex.quote(out['vae'])}", sllm, "sllm"),
        ],
        {f"{config.token} {name}": out["opt"], f"{config.sentence} {name}": out["sllm"]},
    )


def trained(config: Config) -> list[str]:
    """Train the grid, smallest first, score it, and return the metrics files."""
    specs = [config.data] if isinstance(config.data, str) else config.data
    data = f"{config.output_dir}/data"
    if len(specs) == 1 and (Path(specs[0]) / "statistics.json").is_file():
        data = specs[0]
    else:
        cli.run_command(
            f"prepare --data {shlex.join(specs)} --text_field {shlex.quote(config.text_field)} --tokenizer "
            f"{shlex.quote(config.tokenizer)} --rule {shlex.quote(config.rule)} --output_dir {shlex.quote(data)}"
        )
    folders: dict[str, str] = {}
    for tokens in sorted(config.tokens):
        for size in config.sizes:
            cell = cell_of(config, data, size, tokens)
            for command in cell.commands:
                cli.run_command(command)
            folders |= cell.folders
    models = " ".join(shlex.quote(f"{name}={folder}") for name, folder in folders.items())
    more = f"--speed false --samples 0 --device {config.device}" + (" --quick true" if config.quick else "")
    out = shlex.quote(config.output_dir)
    cli.run_command(f"evaluate --model {models} --data {shlex.quote(data)} {more} --output_dir {out}/evaluate")
    return [f"{config.output_dir}/evaluate"]


def rows_of(config: Config, files: Sequence[str]) -> list[Row]:
    """The rows of full windows of both kinds, with their `level`.

    Raises:
        ValueError: none of a kind, rows of several texts, a figure that is missing.
    """
    rows, texts, seen = [], set(), set()
    level = {config.sentence: "sentence", config.token: "token"}
    documents = [read_metrics(file) for file in files]
    for row, corpus in ((row, document.get("corpus")) for document in documents for row in document["rows"]):
        begun = [prefix for prefix in level if row.model.startswith(prefix)]
        found = level[max(begun, key=len)] if begun else None  # of `m` and `m-opt` the one that says more
        if found is None or row.protocol != "full window" or row.bits_per_byte is None:
            continue
        figures = {name: getattr(row, name) for name in ("parameters", "training_tokens", "bits_per_byte")}
        for name, value in figures.items():
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(
                    f"{row.model} has {name}={value} in its row: a law needs a number above 0. Measure it again, or "
                    "leave the row out."
                )
        if (same := (row.model, row.data, *figures.values())) in seen:
            print(f"{row.model} is given twice, with the same figures: its second row is left out.")
            continue
        seen.add(same)
        digest = corpus.get("sha256") if isinstance(corpus, dict) else None
        texts.add((row.data, digest, row.bytes))
        rows.append(replace(row, extra={"level": found, "training_flops": row.extra.get("training_flops")}))
    for kind, prefix in zip(KINDS, (config.token, config.sentence), strict=True):
        if not any(row.extra["level"] == kind for row in rows):
            raise ValueError(
                f"No row of {', '.join(files)} is {kind}-level, of a model whose name begins with {prefix!r}: name the "
                f"beginning by --{kind}."
            )
    for name, values in zip(("text", "SHA-256 of the text", "bytes of text"), zip(*texts, strict=True), strict=True):
        if len(told := sorted({str(value) for value in values if value is not None})) > 1:
            raise ValueError(
                f"The rows are of several texts (by {name}: {', '.join(told)}), and a law is of one: evaluate all "
                "models on the same text."
            )
    return rows


def fitted(config: Config, rows: Sequence[Row]) -> tuple[dict[str, Law], list[tuple[Row, Comparison]]]:
    """The laws by kind, and what they say of each sentence-level row; columns of both are put into the rows.

    Raises:
        ValueError: too few rows, or token-level ones that are all alike in what sentence-level ones vary in.
    """
    laws, runs = {}, {}
    of = {kind: [row for row in rows if row.extra["level"] == kind] for kind in KINDS}
    for kind, some in of.items():
        runs[kind] = [Run(row.parameters or 0, row.training_tokens or 0, row.bits_per_byte or 0) for row in some]
        laws[kind] = fit_law(runs[kind], f"{kind}-level rows")
    if alike := [name for name in laws["sentence"].over if name not in laws["token"].over]:
        name = alike[0]
        raise ValueError(
            f"All token-level rows have about {short_count(getattr(runs['token'][0], name))} {name}, and "
            f"sentence-level ones differ in them: add token-level rows of other numbers of {name}, or leave the "
            "sentence-level ones out that differ."
        )
    drawn = drawn_together(runs["token"], laws["token"], runs["sentence"], laws["sentence"], config.seed)
    draws = dict(zip(KINDS, drawn, strict=True))
    for kind, some in of.items():
        for row, a_run in zip(some, runs[kind], strict=True):
            row.extra["law_bits_per_byte"] = laws[kind].bits(a_run.parameters, a_run.tokens)
    found = compare_laws(runs["sentence"], *([laws[kind], *draws[kind]] for kind in ("sentence", "token")))
    for row, comparison in zip(of["sentence"], found, strict=True):
        for name, interval in (("token", comparison.tokens), ("parameter", comparison.parameters)):
            for end, number in zip(("", "_low", "_high"), interval or [math.inf] * 3, strict=True):
                row.extra[f"{name}_factor{end}"] = number if math.isfinite(number) else None
    return laws, [*zip(of["sentence"], found, strict=True)]


def figure(rows: Sequence[Row], laws: dict[str, Law]) -> str:
    """Points and fits over training tokens, or over parameters where tokens are the same; a curve for each size."""
    from lmbase.report.charts import Series, law_file  # here: its plotting library takes a second to import

    over = "training_tokens" if distinct(row.training_tokens or 0 for row in rows) > 1 else "parameters"
    points = [
        (float(getattr(row, over)), float(row.bits_per_byte or 0), KINDS.index(row.extra["level"])) for row in rows
    ]
    curves = []
    for kind, law in laws.items():
        of = [row for row in rows if row.extra["level"] == kind]
        xs = np.geomspace(min(getattr(row, over) for row in of), max(getattr(row, over) for row in of), 40).tolist()
        for size in sorted({row.parameters or 0 for row in of}) if over == "training_tokens" else [0]:
            line = [(x, law.bits(size, x) if size else law.bits(x, of[0].training_tokens or 0)) for x in xs]
            name = f"{kind}, {short_count(size)}" if size else kind
            curves.append((Series(name, line, KINDS.index(kind)), STYLES[kind]))
    return law_file(points, curves, over.replace("_", " "), "bits per byte")


def answer(found: Sequence[tuple[Row, Comparison]], law: Law) -> str:
    """What is asked, in one sentence, of the largest model on most tokens; `law` is the token level's."""
    row, last = max(found, key=lambda pair: (pair[1].run.parameters, pair[1].run.tokens))
    asked = (("tokens", last.tokens), ("parameters", last.parameters))
    needs = [told_factor(interval, what, law) for what, interval in asked if interval]
    return (
        f"For the bits per byte of {row.model} ({short_count(row.parameters or 0)} parameters, "
        f"{short_count(row.training_tokens or 0)} tokens) a token-level model needs {', or '.join(needs)}."
    )


@single_process
def main(config: Config) -> list[Row]:
    started = time.perf_counter()
    check_keys(config)
    folder = Path(config.output_dir)
    files = config.metrics or trained(config)
    rows = rows_of(config, files)
    laws, found = fitted(config, rows)
    corpus = read_metrics(files[0]).get("corpus")
    write_text(folder / "scaling.svg", figure(rows, laws))
    write_text(folder / "table.md", markdown_table(rows) + "\n")
    seconds = time.perf_counter() - started
    about = {kind: asdict(law) for kind, law in laws.items()}
    write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus, models=about)
    print(markdown_table(rows, SHOWN))
    for kind, law in laws.items():
        print(told_law(f"{kind} level", law))
    print(answer(found, laws["token"]))
    print(f"wrote {folder / 'scaling.svg'}")
    return rows


if __name__ == "__main__":
    run(Config, main)
