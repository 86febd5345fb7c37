"""Evaluate models side by side: exact causal likelihood, reconstruction, generation speed, cache size; one table.

    sllm evaluate --model runs/lm_tiny runs/lm_tiny_tuned runs/vae_tiny runs/sllm_tiny --data runs/data_tiny
    sllm evaluate --model zero_shot=facebook/opt-125m tuned=runs/lm_opt-125m runs/sllm_opt-125m_h1 --data books/*.txt

Every byte of every text is scored once, in windows that overlap by half, in fp32. Each model is audited first: one
whose scores can see what they score gets no likelihood, and the recipe ends with the first finding. An SLLM has two
rows: its full window, and equal context, where no prediction sees earlier text than the baseline's window does.
With --keep_window 64 each plain model has a second row, keeping the newest 64 tokens and the sentence ends only.
`ratio` is bits per byte over the baseline's (below 1 is better), with a 95% interval over documents. Speed and cache
are measured last, in `dtype`. What has been measured is written as it comes: after an interruption the same command
goes on where it was.

--protocol paper scores as the published evaluation meant to: perplexity per own token, first sentence and stop flags
left out. Such rows are not comparable with any others.
"""

import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from lmbase.benchmarking.environment import environment
from lmbase.config import Seed, given_on_command_line, option, run, single_process
from lmbase.files import alone_in, clean_up, write_text
from lmbase.hub import name_and_source
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.modeling.folders import model_hashes
from lmbase.report.columns import OTHER_TOKENS, filled_columns, markdown_table
from lmbase.report.details import FILE_NAME as DETAILS
from lmbase.report.rows import Row, check_place, write_metrics
from sllm.evaluation.details import find_details
from sllm.evaluation.likelihood import audit_loaded, compare, evaluate_likelihood, paper_row
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.progress import Measured, identity
from sllm.evaluation.reconstruction import evaluate_reconstruction
from sllm.evaluation.samples import show_samples
from sllm.evaluation.speed import compare_generation
from sllm.evaluation.texts import Texts, make_texts, read_texts
from sllm.loading import KEEP_ENDS, load_keeping, load_model
from sllm.vector_losses import no_likelihood
from sllm_recipes.training_run import VERIFY


@dataclass
class MeasuringKeys:
    """Keys of what scores and times models side by side."""

    model: list[str] = option([], "runs, folders or hub ids, each as PATH or NAME=PATH")
    keep_window: list[int] | None = option(
        None, "plain models have further rows: with so many newest tokens, the opening one and sentence ends only"
    )
    keep_ends: str = option("own", KEEP_ENDS)
    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    split: str = option("test", "train, valid or test; files that have no splits and were not trained on: whole")
    text_field: str = option("text", "the field of a record that holds the text")
    max_documents: PositiveInt | None = option(None, "score the split's first documents only")
    prompt_tokens: NonNegativeInt = option(128, "tokens of the prompt when speed is measured")
    new_tokens: PositiveInt = option(128, "tokens written for that")
    rounds: PositiveInt = option(5, "timed rounds, after a warm-up")
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the weights while speed and cache are measured")
    quick: bool = option(False, "two documents, one timed round, few tokens, to try a command out")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: Seed = option(0, "of the bootstrap")
    verify: bool = option(True, VERIFY)


@dataclass
class Config(MeasuringKeys):
    rounds: PositiveInt = option(5, "timed rounds, after a warm-up; two or more if they would take over five minutes")
    baseline: str | None = option(
        None, "name of the plain token-level model to compare with; default: the last one in `model`"
    )
    protocol: Literal["exact", "paper"] = option("exact", "paper: as the published evaluation meant to")
    max_sentences: PositiveInt = option(4096, "sentences that an autoencoder reconstructs, evenly spread")
    speed: bool = option(True, "measure generation too")
    samples: NonNegativeInt = option(3, "texts to show: continuations, an autoencoder's reconstructions (samples.json)")
    output_dir: str = option("runs/evaluate", "where metrics.json and table.md go")


# What the screen shows; table.md and metrics.json have every column.
SHOWN = [
    "model", "protocol", "parameters", "training_tokens", "bits_per_byte", "ratio", "ratio_low", "ratio_high",
    "ppl_per_baseline_token", "reconstruction_exact_match", "ppl", "tokens_per_second", "kv_bytes_per_token",
]  # fmt: skip


def choose_baseline(models: list[LoadedModel], name: str | None) -> LoadedModel:
    candidates = [m for m in models if m.plain and name in (None, m.name)]
    if not candidates:
        wanted = f"named {name!r} " if name else ""
        raise ValueError(
            f"No plain token-level model {wanted}among the models ({', '.join(m.name for m in models)}): the table "
            "needs one as its baseline, for its tokenizer and its window."
        )
    return candidates[-1]


def load_all(config: MeasuringKeys, device: str) -> list[LoadedModel]:
    if not config.model:
        raise ValueError("Nothing to evaluate: give --model PATH [PATH ...].")
    models = [load_model(spec) for spec in config.model]
    windows: list[int | None] = [*dict.fromkeys(config.keep_window or [])] or [None]
    for spec, loaded in zip(config.model, models[:], strict=True):
        for window in windows if loaded.plain else []:
            kept = load_keeping(loaded, spec, window, config.keep_ends)
            if kept is not loaded:
                kept.name += f", window {window}" + ", no ends" * (config.keep_ends == "none")
                models.append(kept)
    names = [m.name for m in models]
    if len(set(names)) < len(names):
        raise ValueError(f"Two models have the same name ({', '.join(names)}): write NAME=PATH.")
    for loaded in models:
        if loaded.predicts and not loaded.has_likelihood:  # told before the others are scored
            raise ValueError(f"{loaded.name}: {no_likelihood(loaded.model.config.next_vector)} Leave this model out.")
        loaded.to(device)
    return models


def fit_lengths(models: list[LoadedModel], config: MeasuringKeys) -> None:
    """Have a prompt and what is written after it fit the positions of every model.

    Raises:
        ValueError: they do not, and the command line wants them so long.
    """
    rooms = {loaded.room: loaded.name for loaded in models if loaded.room is not None}
    room = min(rooms, default=None)
    if room is None or config.prompt_tokens + config.new_tokens <= room:
        return
    if room < 2 or {"prompt_tokens", "new_tokens"} & given_on_command_line(config):
        raise ValueError(
            f"{rooms[room]} has {room} positions, too few for </s>, {config.prompt_tokens} prompt tokens and "
            f"{config.new_tokens} new ones: lower prompt_tokens or new_tokens, or give --speed false --samples 0."
        )
    config.prompt_tokens, config.new_tokens = room // 2, room - room // 2
    told = f"{config.prompt_tokens} prompt tokens and {config.new_tokens} new ones"
    print(f"{rooms[room]} has {room} positions: speed is measured with {told}.")


def likelihood_rows(
    models: list[LoadedModel], baseline: LoadedModel, data: Texts, config: Config, measured: Measured
) -> list[Row]:
    """Rows of language models under each way of cutting windows, compared with the baseline's."""
    if config.protocol == "paper":
        return [measured.row(f"{m.name}: paper", partial(paper_row, m, data)) for m in models]
    scored = {}
    for number, loaded in enumerate(models, start=1):
        print(f"scoring {loaded.name} ({number} of {len(models)})", flush=True)
        scored[loaded.name] = measured.scores(f"{loaded.name}: likelihood", partial(evaluate_likelihood, loaded, data))
    reference = scored[baseline.name][0][1]
    rows = []
    for loaded in models:
        other = not loaded.counts_like(baseline)
        if other:
            print(f"{loaded.name} has another tokenizer than {baseline.name}: no equal context, no ratios of speed")
        for row, found in scored[loaded.name]:
            if other and row.protocol == "equal context":  # the baseline's window is so long in its own tokens only
                continue
            row.extra |= {OTHER_TOKENS: True} if other else {}
            if loaded is not baseline:
                compare(row, found, reference, baseline.name, config.seed)
            rows.append(row)
    return rows


def add_speed(rows: list[Row], models: list[LoadedModel], baseline: LoadedModel, text: str, config: Config) -> None:
    """Speed and cache of each model, on its row of the full window; from here on nothing may be scored."""
    for loaded in models:
        loaded.to(dtype=DTYPES[config.dtype])
    figures = compare_generation(models, baseline, text, config.prompt_tokens, config.new_tokens, config.rounds)
    for row in rows:
        if row.protocol == "full window":
            own = figures[row.model]
            row.tokens_per_second = own.pop("tokens_per_second")
            row.seconds_to_first_sentence = own.pop("seconds_to_first_sentence")
            row.kv_bytes_per_token = own.pop("kv_bytes_per_token")
            row.extra |= {"speed_dtype": config.dtype, **own}


@single_process
def main(config: Config) -> list[Row]:
    check_place(config)
    started = time.perf_counter()
    if config.quick:
        config.max_documents, config.rounds, config.prompt_tokens, config.new_tokens = 2, 1, 32, 16
    if config.protocol == "paper" and config.speed and "speed" in given_on_command_line(config):
        raise ValueError(
            "speed=True: rows of --protocol paper have no speed; leave the key out, or evaluate without it."
        )
    models = load_all(config, choose_device(config.device))
    baseline = choose_baseline(models[: len(config.model)], config.baseline)
    if config.speed or config.samples:
        fit_lengths(models, config)
    texts, corpus = read_texts(
        config.data, config.split, config.text_field, config.max_documents, config.model, config.output_dir
    )
    data = make_texts(texts, corpus["name"], baseline)
    language_models = [m for m in models if m.predicts]
    about: dict[str, dict] = {}
    for loaded, spec in zip(models, config.model, strict=False):  # windows have the weights of theirs
        about[loaded.name] = {"weights": model_hashes(name_and_source(spec)[1])}
    for loaded in language_models:
        report = audit_loaded(loaded, data.texts)
        report.raise_if_failed(loaded.name)
        about.setdefault(loaded.name, {})["audit_checks"] = report.num_checks
        print(f"{loaded.name}: passed the causality audit ({report.num_checks} checks)")
    folder = Path(config.output_dir)

    def write(rows: list[Row]) -> None:
        write_text(folder / "table.md", markdown_table(rows) + "\n")
        seconds = time.perf_counter() - started
        write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus, models=about)

    with alone_in(folder):
        clean_up(folder)
        specs = [identity(name_and_source(spec)[1]) for spec in config.model]
        of = asdict(config) | {"models": specs, "corpus": corpus, "baseline": baseline.name, "made_on": environment()}
        measured = Measured(folder, of)
        measured.tell()
        rows = measured_rows(models, baseline, data, config, measured)
        write(rows)  # whatever becomes of the rest
        if config.speed and config.protocol == "exact":
            add_speed(rows, language_models, baseline, max(data.texts[:100], key=len), config)
            write(rows)
        measured.finished()
    print(markdown_table(rows, [name for name in SHOWN if name in filled_columns(rows)]))
    return rows


def measured_rows(
    models: list[LoadedModel], baseline: LoadedModel, data: Texts, config: Config, measured: Measured
) -> list[Row]:
    """All rows but for what a clock says; samples are written beside."""
    rows = likelihood_rows([m for m in models if m.predicts], baseline, data, config, measured)
    for loaded in models:
        if not loaded.predicts:
            reconstruct = partial(evaluate_reconstruction, loaded, data, config.max_sentences)
            rows.append(measured.row(f"{loaded.name}: reconstruction", reconstruct))
    lengths = config.prompt_tokens // 4, config.new_tokens // 2
    samples = measured.once("samples", lambda: show_samples(models, data.texts[: config.samples], *lengths))
    write_text(measured.path.parent / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
    details = {}
    if config.protocol == "exact":
        prompts = data.texts if config.samples else []
        details = measured.once("details", lambda: find_details(models, data.texts, prompts, *lengths))
    write_text(measured.path.parent / DETAILS, json.dumps(details, ensure_ascii=False) + "\n")
    return rows


if __name__ == "__main__":
    run(Config, main)
