"""Quality against speed: sentence-level models beside the line through token-level ones; a figure, a table, verdicts.

    sllm frontier --model runs/tuned small=runs/pruned runs/sllm --data runs/data
    sllm frontier --model runs/tuned runs/sllm --data runs/data --lm runs/tuned --prune 8+6 10+10 \\
        --train_tokens 10000000 --teacher runs/tuned --train="--context 1024 --learning_rate 1e-4"

A token-level model can be made faster, too: by leaving layers out, by drafts, by eight bits. A sentence-level model is
worth something where it lies beyond the line through all these: fewer bits per byte at the same tokens per second. The
line is straight between neighbours over the logarithm of speed; where it ends, nothing is said.

Likelihoods are those of `sllm evaluate`: audited, exact, in fp32. Speed is measured with all models in one process, in
turns, prompt text in and text out; with --lookup true also with drafts copied out of the text, with --compile true also
in compiled steps, with --llama_cpp FILE also by llama.cpp, with --batch_size 8 also of so many texts at once. With
--prune the rivals are trained first, each by `sllm train-lm` into OUTPUT_DIR/rival-8+6.

The same command again goes on where it stopped, and a further model costs its own scoring only: scores are kept in
OUTPUT_DIR/measured.json as long as text, code and machine are the same. Speed is measured anew each time.
"""

import hashlib
import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

from pydantic import NonNegativeInt, PositiveInt

from lmbase.benchmarking.environment import environment
from lmbase.benchmarking.llama_cpp import LlamaCpp, open_llama_cpp
from lmbase.benchmarking.timing import Generation, alternate, speeds, spread_columns
from lmbase.config import option, run, single_process
from lmbase.files import alone_in, clean_up, write_text
from lmbase.hub import name_and_source
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.modeling.folders import model_folder, model_hashes
from lmbase.modeling.packed import KINDS, round_weights
from lmbase.modeling.pretrained import read_config
from lmbase.modeling.pruning import layers_to_keep
from lmbase.modeling.token_lm import DocumentNats
from lmbase.modeling.trunk import check_trunk, output_table
from lmbase.report.columns import filled_columns, markdown_table
from lmbase.report.frontier import Measurement, beside_line, best_points, told
from lmbase.report.rows import Row, check_place, write_metrics
from lmbase.report.statistics import bits_interval
from lmbase.text.tokenizers import encode_text, opening_id
from sllm.evaluation.kept_window import KeptWindowLM
from sllm.evaluation.likelihood import audit_loaded, compare, evaluate_likelihood
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.progress import Measured, identity
from sllm.evaluation.speed import LOOKUP, generation_runners, opening, speed_columns, tell_noise, time_texts
from sllm.evaluation.texts import Texts, make_texts, read_texts
from sllm.evaluation.weights_read import weights_read
from sllm.loading import load_model
from sllm_data.open_data import load_prepared
from sllm_recipes import cli
from sllm_recipes.evaluate import MeasuringKeys, choose_baseline, fit_lengths, load_all

BATCH = ", batch"
PACKED = {f", {kind}": kind for kind in KINDS}
COMPILED = ", compiled"
LLAMA_CPP = ", llama.cpp"
WAYS = (BATCH, *PACKED, LOOKUP, COMPILED, LLAMA_CPP)
UNEQUAL = 1.05  # training tokens of two models that are told
RIVAL_KEYS = ("lm", "train_tokens", "teacher", "train")
# What the screen shows; table.md and metrics.json have every column.
SHOWN = [
    "model", "parameters", "read_per_token", "training_tokens", "training_flops", "bits_per_byte", "ratio", "ratio_low",
    "ratio_high", "tokens_per_second", "batch_tokens_per_second", "kv_bytes_per_token", "over_line", "verdict",
]  # fmt: skip


@dataclass
class Config(MeasuringKeys):
    prompt_tokens: NonNegativeInt = option(256, "tokens of the prompt when speed is measured")
    new_tokens: PositiveInt = option(256, "tokens written for that")
    lookup: bool = option(True, "each model that can also writes with drafts copied out of the text")
    compile: bool = option(False, "each model also writes in compiled steps, which takes minutes to begin with")
    llama_cpp: str | None = option(
        None, "a GGUF file, one of `model`, that llama.cpp writes with, too (pip install 'sllm[llama]')"
    )
    batch_size: PositiveInt = option(1, "measure speed with so many texts at once, too; 1: one text only")
    int8: bool = option(False, "plain models and SLLMs have further rows: with weights in eight bits, on a CPU")
    int4: bool = option(False, "the same in four bits")
    lm: str | None = option(None, "what rivals are cut out of: a run, a folder or a hub id")
    prune: list[str] = option([], "rivals to make of it: the first and last layers that each keeps, such as 8+6 10+10")
    train_tokens: PositiveInt | None = option(None, "tokens that each rival is trained on")
    teacher: str | None = option(None, "what rivals learn from, as in train-lm")
    train: str = option("", "a configuration and keys of train-lm for everything else about their training", prose=True)
    output_dir: str = option("runs/frontier", "where metrics.json, table.md and frontier.svg go, and the rivals' runs")


@dataclass
class Scored:
    """A model with its row and what documents cost it."""

    loaded: LoadedModel
    row: Row
    documents: list[DocumentNats]


def check_keys(config: Config) -> None:
    """Before anything is trained or scored.

    Raises:
        ValueError: too few models, a rival given twice or in another notation, keys of rivals without one.
    """
    if idle := [key for key in RIVAL_KEYS if getattr(config, key) and not config.prune]:
        raise ValueError(f"{', '.join(idle)}: these are for rivals that are made here; give --prune 8+6, say, too.")
    if config.prune and config.lm is None:
        raise ValueError(f"prune={' '.join(config.prune)}: name the model that is cut down, --lm RUN.")
    if twice := {layers for layers in config.prune if config.prune.count(layers) > 1}:
        raise ValueError(f"prune names {', '.join(sorted(twice))} twice: each rival once.")
    if config.prune:
        trunk = check_trunk(read_config(str(config.lm)), f"lm={config.lm!r}")
        for layers in config.prune:  # all before the first is trained
            layers_to_keep(layers, trunk.num_hidden_layers)
        own = ["lm", "keep_layers", "data", "text_field", "device", "output_dir"]
        own += [key for key in ("train_tokens", "teacher", "quick") if getattr(config, key)]
        cli.check_part("train", config.train, "train-lm", own)
    if (packed := packed_kinds(config)) and choose_device(config.device) != "cpu":
        device = choose_device(config.device)
        raise ValueError(f"{packed[0]}=true is for CPUs, and device is {device}: give --device cpu.")
    if len(config.model) + len(config.prune) < 2:
        raise ValueError(
            f"{' '.join(config.model) or 'No model'} alone makes no line: give --model two or more, token-level ones "
            "among them, or --lm and --prune."
        )
    if config.llama_cpp is not None:
        open_llama_cpp(config.llama_cpp, choose_device(config.device))
        if config.llama_cpp not in map(source_of, config.model):
            raise ValueError(
                f"llama_cpp={config.llama_cpp!r} is none of --model: name the file there, too, so that it has "
                "bits per byte."
            )
    for spec in config.model:
        name = name_and_source(spec)[0] or spec
        if name.removeprefix("rival-") in config.prune:
            raise ValueError(f"The name {name!r} is that of a rival that is made here: choose another.")
        if name.endswith(WAYS):
            raise ValueError(f"The name {name!r} ends as those of further rows do ({' '.join(WAYS)}): choose another.")
        model_folder(source_of(spec))


def source_of(spec: str) -> str:
    return name_and_source(spec)[1]


def level_of(loaded: LoadedModel) -> str:
    """`sentence` or `token`: a graft whose trunk was left out is a smaller token-level model that tells where sentences
    end."""
    by_sentence = loaded.by_sentence and loaded.model.config.use_trunk
    return "sentence" if by_sentence else "token"


def packed_kinds(config: Config) -> list[str]:
    return [kind for kind in KINDS if getattr(config, kind)]


def make_rivals(config: Config) -> list[str]:
    """Train token-level models with fewer layers, each in a run of its own; returns them as `--model` takes them."""
    specs = []
    data = [config.data] if isinstance(config.data, str) else config.data
    for layers in config.prune:
        folder = Path(config.output_dir) / f"rival-{layers}"
        words = ["train-lm", *shlex.split(config.train), "--lm", str(config.lm), "--keep_layers", layers]
        words += ["--data", *data, "--text_field", config.text_field]
        words += ["--train_tokens", str(config.train_tokens)] if config.train_tokens else []
        words += ["--teacher", config.teacher] if config.teacher else []
        words += ["--quick", "true"] if config.quick else []
        cli.run_command(shlex.join([*words, "--device", config.device, "--output_dir", str(folder)]))
        specs.append(f"{folder.name}={folder}")
    return specs


def load_models(config: Config, specs: list[str], device: str) -> tuple[list[LoadedModel], dict[str, str]]:
    """Those that are named, first of all, then the same with a window and in fewer bits; and where each comes from."""
    models = load_all(replace(config, model=specs), device)
    of_weights = {id(one.model): source_of(spec) for one, spec in zip(models, specs, strict=False)}
    sources = {loaded.name: of_weights[id(loaded.model)] for loaded in models}  # one with a window shares weights
    for loaded, kind in product(models[: len(specs)], packed_kinds(config)):
        if loaded.plain or loaded.by_sentence:
            twin = load_model(f"{loaded.name}, {kind}={sources[loaded.name]}")
            twin.to(device)
            table = twin.model.output_table if twin.by_sentence else output_table(twin.model)
            round_weights(twin.model, table, kind)
            models.append(twin)
            sources[twin.name] = sources[loaded.name]
    return models, sources


def check_models(models: Sequence[LoadedModel], baseline: LoadedModel) -> None:
    """
    Raises:
        ValueError: a model that predicts no text, or one with another tokenizer.
    """
    for loaded in models:
        if not loaded.predicts:
            raise ValueError(f"{loaded.name} is {loaded.shown}: it has no bits per byte. Leave it out.")
        if not loaded.counts_like(baseline):
            raise ValueError(
                f"{loaded.name} and {baseline.name} have different tokenizers, and tokens per second of the two do not "
                "compare: leave one out, or make a frontier for each (sllm evaluate has both in one table)."
            )


def score(loaded: LoadedModel, data: Texts) -> list[tuple[Row, list[DocumentNats]]]:
    print(f"scoring {loaded.name}", flush=True)
    report = audit_loaded(loaded, data.texts)
    report.raise_if_failed(loaded.name)
    found = evaluate_likelihood(loaded, data)
    for row, _ in found:
        row.extra["audit_checks"] = report.num_checks
    return found


def scored(loaded: LoadedModel, state: list, data: Texts, measured: Measured) -> Scored:
    """With the row of its own full window; what it reads for a token stands in it, too.

    Args: state: what its score depends on beside its name and the data.
    """
    digest = hashlib.sha256(json.dumps(state).encode()).hexdigest()[:12]
    by_protocol = {
        row.protocol: (row, found)
        for row, found in measured.scores(f"{loaded.name} ({digest})", partial(score, loaded, data))
    }
    row, documents = by_protocol["full window"]
    if "equal context" in by_protocol:
        row.extra["equal_context_bits_per_byte"] = by_protocol["equal context"][0].bits_per_byte
    if len(documents) > 1:
        interval = bits_interval([d.nats for d in documents], [d.num_bytes for d in documents])
        row.extra["bits_per_byte_low"], row.extra["bits_per_byte_high"] = interval
    lengths = [len(sentence) for text in data.texts for sentence in loaded.split(text)]
    row.extra["level"] = level_of(loaded)
    row.extra["read_per_token"] = weights_read(loaded, sum(lengths) / len(lengths))
    return Scored(loaded, row, documents)


def timed(models: Sequence[LoadedModel], texts: Sequence[str], config: Config) -> dict[str, list[Generation]]:
    """All models in turns; from here on nothing may be scored."""
    for loaded in models:
        loaded.to(dtype=DTYPES[config.dtype])
        for name, kind in PACKED.items():
            if loaded.name.endswith(name):
                loaded.pack(kind, config.compile)
    longest = sorted(texts[:100], key=len, reverse=True)
    runners = generation_runners(models, longest[0], config.prompt_tokens, config.new_tokens, config.lookup)
    prompt = opening(models[0], longest[0], config.prompt_tokens)
    if config.llama_cpp is not None:
        sources = [*map(source_of, config.model)]
        read = models[sources.index(config.llama_cpp)]
        ids = [opening_id(read.tokenizer), *encode_text(read.tokenizer, prompt)]
        llama = LlamaCpp(config.llama_cpp, len(ids) + config.new_tokens)
        runners[read.name + LLAMA_CPP] = partial(llama.time, ids, config.new_tokens)
    if config.compile:
        for loaded in models:
            if isinstance(loaded, KeptWindowLM):  # forgets while it writes, which no compiled step does
                continue
            runners[loaded.name + COMPILED] = partial(time_texts, loaded, [prompt], config.new_tokens, compiled=True)
    if config.batch_size > 1:
        several = [longest[number % len(longest)] for number in range(config.batch_size)]
        prompts = [opening(models[0], text, config.prompt_tokens) for text in several]
        for loaded in models:
            runners[loaded.name + BATCH] = partial(time_texts, loaded, prompts, config.new_tokens)
    print(f"timing {len(models)} models: a warm-up and {config.rounds} rounds", flush=True)
    found = alternate(runners, config.rounds)
    tell_noise(found, config.rounds)
    return found


def rows_of(all_scored: Sequence[Scored], found: dict[str, list[Generation]], config: Config) -> list[Row]:
    """A row for each model in each way of writing, sentence-level ones with their place beside the line."""
    rows, token_level, measurements = [], [], []
    sizes = [d.num_bytes for d in all_scored[0].documents]
    for one in all_scored:
        for way in ("", LOOKUP, COMPILED, LLAMA_CPP):
            runs = found.get(one.row.model + way)
            if runs is None:
                continue
            plain = way in ("", LOOKUP)  # of the others only the speed is known
            figures = speed_columns(runs) if plain else spread_columns("tokens_per_second", speeds(runs))
            figures |= one.loaded.cache_columns() if plain else {}
            row = replace(one.row, model=one.row.model + way, extra=dict(one.row.extra))
            for name in ("tokens_per_second", "seconds_to_first_sentence", "kv_bytes_per_token"):
                setattr(row, name, figures.pop(name, None))
            if together := found.get(row.model + BATCH):
                figures |= spread_columns("batch_tokens_per_second", speeds(together))
            row.extra |= {"speed_dtype": "GGUF" if way == LLAMA_CPP else config.dtype, **figures}
            measurements.append(Measurement(row.model, [d.nats for d in one.documents], speeds(runs)))
            token_level += measurements[-1:] if one.row.extra["level"] == "token" else []
            rows.append(row)
    line = {point.name for point in best_points([rival.point(sizes) for rival in token_level])}
    for row, measurement in zip(rows, measurements, strict=True):
        if row.extra["level"] == "token":
            row.extra["on_line"] = row.model in line
        else:
            row.extra |= beside_line(measurement, token_level, sizes, config.seed)
    return rows


def tell(rows: Sequence[Row], baseline: str) -> None:
    """The table, what makes a comparison unfair, and the verdicts."""
    shown = [name for name in SHOWN if name in filled_columns(rows)]
    print(markdown_table(rows, shown))
    tokens = {row.model: row.training_tokens for row in rows if row.training_tokens}
    for name, number in tokens.items():
        low, high = sorted((number, tokens.get(baseline, number)))
        if high > UNEQUAL * low and not name.endswith(WAYS):
            print(f"{name} was trained on {number:,} tokens, {baseline} on {tokens[baseline]:,}")
    for row in rows:
        if row.extra["level"] == "sentence":
            print(told(row.model, row.extra))


def _check_named(config: Config, device: str) -> None:
    """Errors as of `check_models`. The models are not held in memory while rivals are trained."""
    named = load_all(config, device)
    check_models(named, next((one for one in named if one.plain), named[0]))


@single_process
def main(config: Config) -> list[Row]:
    check_place(config)
    started = time.perf_counter()
    if config.quick:
        config.max_documents, config.rounds, config.prompt_tokens, config.new_tokens = 2, 1, 32, 16
        config.train_tokens = config.train_tokens and min(config.train_tokens, 1000)
    check_keys(config)
    device = choose_device(config.device)
    # Raw text that rivals are trained on below is read as a training divides it.
    trained = None if config.prune and load_prepared(config.data) is None else config.model
    texts, corpus = read_texts(
        config.data, config.split, config.text_field, config.max_documents, trained, config.output_dir
    )
    if config.prune and config.model:  # told before rivals are trained for hours
        _check_named(config, device)
    specs = [*config.model, *make_rivals(config)]
    models, sources = load_models(config, specs, device)
    baseline = choose_baseline(models[: len(specs)][::-1], None)
    check_models(models, baseline)
    fit_lengths(models, config)
    data = make_texts(texts, corpus["name"], baseline)
    folder = Path(config.output_dir)
    with alone_in(folder):
        clean_up(folder)
        of = {"corpus": corpus, "texts": [config.split, config.max_documents], "made_on": environment()}
        measured = Measured(folder, of | {"baseline": [baseline.name, baseline.window]})
        measured.tell()
        states = {loaded.name: [identity(sources[loaded.name]), config.keep_ends] for loaded in models}
        all_scored = [scored(loaded, states[loaded.name], data, measured) for loaded in models]
        (reference,) = (one.documents for one in all_scored if one.loaded is baseline)
        for one in all_scored:
            if one.loaded is not baseline:
                compare(one.row, one.documents, reference, baseline.name, config.seed)
        rows = rows_of(all_scored, timed(models, data.texts, config), config)
        about = {loaded.name: {"weights": model_hashes(sources[loaded.name])} for loaded in models}
        seconds = time.perf_counter() - started
        write_text(folder / "table.md", markdown_table(rows) + "\n")
        path = write_metrics(
            folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus, models=about
        )
        from lmbase.report.figure import write_figure  # here: its plotting library takes a second to import

        print(f"wrote {write_figure(folder / 'frontier.svg', [path])}")
    tell(rows, baseline.name)
    return rows


if __name__ == "__main__":
    run(Config, main)
