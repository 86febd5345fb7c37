"""Speed and memory, side by side: SLLM against OPT through Transformers' own generate, and training of both.

    sllm benchmark --size small opt-125m
    sllm benchmark --size opt-125m opt-350m opt-1.3b --subset generate --drafts_from runs/sllm_drafting
    sllm benchmark --size opt-125m --subset generate --prompt_tokens 256 1024 4096 --batch_size 1 8 32
    sllm benchmark --size opt-125m --subset train memory --dtype fp32
    sllm benchmark --subset pipeline --data my_text/*.txt --tokenizer facebook/opt-125m
    sllm benchmark --subset evaluate --size small --data runs/novels --window_tokens 511 --window_sentences 48
    sllm benchmark --subset cache --size opt-125m opt-1.3b --data my_text/*.txt --tokenizer facebook/opt-125m
    sllm benchmark --subset heads --size small --num_future_tokens 1 2 4 8
    sllm benchmark --subset replay --size opt-125m --acceptance_from runs/drafting
    sllm benchmark --subset replay --size opt-125m --acceptance_from runs/drafting --ways auto --rounds 20
    sllm benchmark --subset assist --size opt-1.3b opt-125m --assist_pair runs/opt_tuned runs/sllm --data runs/novels

Weights do not change speed, so every size runs with random weights; sentence lengths are replayed from the test split
of `data`, accepted guesses from a trained model. Models run in one process, in turn (A B A B), after a warm-up; a cell
is the median, with the lowest and highest. Tokens are tokens of text: end marks and padding do not count. The clock
runs from the prompt to the last token.

`generate`: `of_limit` is the time of the weight products that a token cannot do without, each measured alone in this
run, over the time it took (`limit_ms_*` are its parts); `read_share` is how fast those weights were read, of what this
machine's memory allows. `train`: forward, backward and optimizer on the same text; `mfu` is the model's operations per
second over those of a large matrix product here. `memory`: peak of a training step, in a process of its own;
`resident`: what such a process grows by per token of context.

The subset `pipeline` times the way from text to training data instead: `segment` by each rule and tokenising on one
core, `prepare` from end to end. `data` is then raw text, read anew in each round. The subset `cache` cuts the raw text
of the test split by each rule and counts the bytes of keys and values that this makes per token.

The subset `evaluate` times exact scoring as `sllm evaluate` does it, on the opening of the test split of `data`, with
its tokenizer's vocabulary and in fp32: seconds per MB (10^6 bytes) of text for OPT in windows of `window_tokens`, for
the SLLM in windows of `window_sentences`, and for the SLLM under both protocols in one pass, as `sllm evaluate` takes
them. `speed_ratio` is over OPT, `threads` those that PyTorch uses.

The subset `heads` trains multi-token models that have equally many blocks and 1, 2, 4 ... heads: time of a step beside
its operations, peak memory of the loss beside that of a loss that holds all heads' logits. The subset `replay` writes
by drafting with as many accepted guesses as `sllm drafting` found on a trained model (`acceptance_from`), against
Transformers' generate of the same OPT; its last row is what `auto` loses where no guess ever comes true. Neither reads
text.

The subset `assist` measures an SLLM that drafts for an OPT: a trained pair (`assist_pair`) after prompts from the test
split of `data`, then the same acceptance at two sizes, the first that of the OPT, the second that of the SLLM's trunk.
"""

import gc
import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from lmbase.benchmarking.roofline import Machine
from lmbase.config import option, run, single_process
from lmbase.files import write_text
from lmbase.modeling.devices import DTYPES, choose_device
from lmbase.report.columns import filled_columns, markdown_table
from lmbase.report.rows import Row, write_metrics
from lmbase.text import is_unicode
from multitoken.benchmarks.replaying import build as build_replayed
from multitoken.benchmarks.replaying import measure_replay, read_acceptance
from multitoken.benchmarks.training_cost import Setting, measure_heads
from sllm.benchmarks.assisting import Trial, load_pair, measure_assisting
from sllm.benchmarks.cache_size import lengths_by_rule, measure_cache, measure_resident
from sllm.benchmarks.generation import Case, Contest, measure_generation
from sllm.benchmarks.replaying import TrainedDrafts, trained_drafts
from sllm.benchmarks.scoring import measure_scoring
from sllm.benchmarks.training import Build, measure_memory, measure_training
from sllm.evaluation.likelihood import read_texts
from sllm.loading import write_in_int8
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.open_data import is_prepared, make_processor, open_data
from sllm_data.throughput import measure_pipeline

VOCABULARY = 50272
MAX_SENTENCE_TOKENS = 64


@dataclass
class Config:
    size: list[str] = option(["small"], "tiny, small, opt-125m, opt-350m, opt-1.3b")
    subset: list[
        Literal["generate", "train", "memory", "resident", "evaluate", "cache", "pipeline", "heads", "replay", "assist"]
    ] = option(["generate", "train"], "what is measured")
    data: str | list[str] = option(
        "stdlib", "where text and sentence lengths come from: a prepared folder, stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str = option("bpe:8192", "for data that are not prepared yet")
    rule: str = option("punctuation", "for data that are not prepared yet")
    num_encoder_layers: int = option(1, "1 to 4")
    num_decoder_layers: int = option(1, "1 to 4")
    num_memory_states: PositiveInt = option(1, "trunk states that the decoder reads; with drafts_from, that model's")
    num_memory_tokens: NonNegativeInt = option(0, "tokens before its sentence that the decoder reads; likewise")
    dtype: Literal["fp32", "bf16"] = option("bf16", "of weights in generation, of the computation in training")
    weights: Literal["dtype", "int8"] = option("dtype", "of the subset generate: int8, all models' in eight bits")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    prompt_tokens: list[PositiveInt] = option(
        [256], "of the prompt; several: speed over context (replay, assist: the 1st)"
    )
    batch_size: list[PositiveInt] = option([1], "texts written at once")
    drafts_from: str | None = option(None, "a trained SLLM with drafting heads: as many of its guesses are accepted")
    compiled: bool = option(
        False, "of generate and replay: also with caches of fixed size and compiled steps, which takes minutes"
    )
    memory_sentences: PositiveInt = option(512, "of the subset memory: sentences of the text of a training step")
    context_tokens: list[PositiveInt] = option([256, 1024, 2047], "of the subset resident: where memory is looked at")
    new_tokens: PositiveInt = option(256, "tokens written")
    train_tokens: PositiveInt = option(2047, "tokens of text in a training step; by default a whole window of OPT")
    window_tokens: PositiveInt = option(511, "of the subset evaluate: OPT's windows")
    window_sentences: PositiveInt = option(48, "of the subset evaluate: the SLLM's windows")
    score_megabytes: float = option(0.3, "of the subset evaluate: about so much text is scored")
    num_future_tokens: list[PositiveInt] = option([1, 2, 4, 8], "numbers of heads of the subset heads")
    num_blocks: PositiveInt = option(8, "of the subset heads: blocks of trunk and heads together")
    vocab_size: PositiveInt = option(VOCABULARY, "of all models, whatever the data's tokenizer has")
    acceptance_from: str | None = option(None, "of the subset replay: what `sllm drafting` wrote")
    ways: list[str] | None = option(None, "of the subset replay: only these ways of drafting, as its table names them")
    assist_pair: list[str] | None = option(None, "of the subset assist: a trained OPT and an SLLM that drafts for it")
    num_guesses: list[PositiveInt] = option([4], "of the subset assist: guesses of a pass, at most")
    temperature: PositiveFloat | None = option(None, "of the subset assist: the trained OPT's; default: greedy")
    text_megabytes: float = option(8.0, "of each split, about so much text goes through the pipeline or is cut")
    rounds: PositiveInt = option(5, "timed rounds of each model, after a warm-up")
    seed: int = option(0, "of the random weights and token ids")
    quick: bool = option(False, "64 tokens each way, little text, few heads and two rounds")
    output_dir: str = option("runs/benchmark", "where metrics.json, table.md and plots.html go")


Measured = tuple[list[Row], dict[str, str] | None]  # rows, and what names the text they were measured on


def raw_text(config: Config) -> Corpus:
    """The first `text_megabytes` of each split."""
    specs = [config.data] if isinstance(config.data, str) else config.data
    if any(map(is_prepared, specs)):
        raise ValueError(
            f"data={specs}: cut already, and the subsets `pipeline` and `cache` do that; give the raw text."
        )
    return open_corpus(config.data, config.text_field, max_bytes=int(config.text_megabytes * 1e6))


def measure_text(config: Config) -> Measured:
    """Rows of the pipeline."""
    corpus = raw_text(config)
    processor = make_processor(corpus, config.tokenizer, config.rule, MAX_SENTENCE_TOKENS)
    rows, digest = measure_pipeline(corpus, processor, Path(config.output_dir), config.rounds)
    return rows, {"name": corpus.name, "sha256": digest}


def measure_rules(config: Config) -> Measured:
    """Rows of every size with every rule."""
    corpus = raw_text(config)
    processor = make_processor(corpus, config.tokenizer, "sentence", MAX_SENTENCE_TOKENS)  # learns Punkt, too
    texts = [text for text in corpus.texts("test") if is_unicode(text)]
    lengths = lengths_by_rule(texts, processor)
    rows = [row for size in config.size for row in measure_cache(make_build(config, size), lengths, config.dtype)]
    digest = hashlib.sha256(b"".join(text.encode() + b"\0" for text in texts)).hexdigest()
    return rows, {"name": corpus.name, "sha256": digest}


def make_build(config: Config, size: str) -> Build:
    return Build(
        size,
        config.vocab_size,
        config.num_encoder_layers,
        config.num_decoder_layers,
        num_memory_states=config.num_memory_states,
        num_memory_tokens=config.num_memory_tokens,
        seed=config.seed,
    )


def measure_models(config: Config) -> Iterator[Measured]:
    """Rows of every size, measurement by measurement."""
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer,
        rule=config.rule,
        max_sentence_tokens=MAX_SENTENCE_TOKENS,
        output_dir=config.output_dir,
    )
    lengths = np.diff(data.split("test").sentence_tokens).tolist()
    dtype = DTYPES[config.dtype]
    machine = Machine(dtype, config.device)
    if not lengths:
        raise ValueError(f"{data.name} has no test sentences, whose lengths are replayed.")
    source = open_drafts(config)
    ways = source.ways if source else []
    corpus = {"name": data.name, "sha256": data.hash}
    for size in config.size:
        build = make_build(config, size)
        if "resident" in config.subset:
            yield measure_resident(build, lengths, config.context_tokens, config.dtype, config.device), corpus
        if "train" in config.subset:
            steps = config.train_tokens, config.dtype, config.device, config.rounds
            yield measure_training(build, lengths, *steps, machine), corpus
        if "memory" in config.subset:
            yield measure_memory(build, lengths, config.memory_sentences, config.dtype, config.device), corpus
        if "evaluate" in config.subset:
            own = replace(build, vocab_size=len(data.processor.tokenizer))
            sizes = config.window_tokens, config.window_sentences
            num_bytes = int(config.score_megabytes * 1e6)
            yield measure_scoring(own, data, num_bytes, sizes, config.device, config.rounds), corpus
        if "generate" in config.subset:
            opt = build.opt()
            sllm = (build.like(source.config) if source else build).sllm(opt).to(dtype).to(config.device).eval()  # type: ignore[arg-type]
            opt = opt.to(dtype).to(config.device).eval()  # type: ignore[arg-type]
            if config.weights == "int8":
                write_in_int8(opt)
                write_in_int8(sllm)
            kind = config.dtype if config.weights == "dtype" else f"{config.dtype}, weights int8"
            common = dict(dtype=kind, device=config.device, data=source.name if source else None)
            contest = Contest(size, opt, sllm, lengths, ways, machine, config.rounds, config.compiled)
            for case in cases(config):
                yield measure_generation(contest, case, common), corpus
            del opt, sllm, contest
            torch.compiler.reset()  # or shapes of one size would count against those of the next
        gc.collect()


def cases(config: Config) -> list[Case]:
    """Every prompt length with the first batch size, and every batch size with the first prompt length."""
    first, *longer = config.prompt_tokens
    pairs = [(first, size) for size in config.batch_size] + [(prompt, config.batch_size[0]) for prompt in longer]
    return [Case(prompt, config.new_tokens, size) for prompt, size in pairs]


def open_drafts(config: Config) -> TrainedDrafts | None:
    if config.drafts_from is None:
        return None
    if "generate" not in config.subset:
        raise ValueError("drafts_from is of the subset `generate`, which is not among --subset.")
    texts, _ = read_texts(config.data, "test", config.text_field, None)
    return trained_drafts(config.drafts_from, texts, config.new_tokens, config.device)


def measure_training_cost(config: Config) -> Iterator[Measured]:
    """Rows of every size and number of heads."""
    for size in config.size:
        settings = [
            Setting(size, config.num_blocks, n, config.vocab_size, config.train_tokens, config.dtype, config.device)
            for n in config.num_future_tokens
        ]
        yield measure_heads(settings, config.rounds), None


def measure_replayed(config: Config) -> Iterator[Measured]:
    """Rows of every size and way of drafting."""
    assert config.acceptance_from is not None
    drafts = read_acceptance(config.acceptance_from, config.seed)
    ways = drafts.ways
    if config.ways is not None:
        if unknown := sorted(set(config.ways) - {way.way for way in ways}):
            raise ValueError(f"ways={unknown}: {drafts.model} was measured with {', '.join(way.way for way in ways)}.")
        ways = [way for way in ways if way.way in config.ways]
    dtype = DTYPES[config.dtype]
    common = dict(
        protocol=f"replay {config.prompt_tokens[0]}+{config.new_tokens}, acceptance of {drafts.model}",
        dtype=config.dtype,
        device=config.device,
    )
    rng = np.random.default_rng(config.seed)
    for size in config.size:
        model = build_replayed(size, drafts, config.vocab_size, dtype, config.device, config.seed)
        ids = [model.config.bos_token_id, *rng.integers(4, config.vocab_size, config.prompt_tokens[0]).tolist()]
        prompt = torch.tensor([ids], device=config.device)
        rounds, both = config.rounds, config.compiled
        yield measure_replay(model, size, ways, prompt, config.new_tokens, rounds, common, both), None
        del model
        torch.compiler.reset()
        gc.collect()


def measure_assistant(config: Config) -> Measured:
    """Rows of the trained pair and of the two sizes."""
    pair = load_pair(config.assist_pair, config.device)
    texts, corpus = read_texts(config.data, "test", config.text_field, None)
    builds = [make_build(config, size) for size in config.size]
    trial = Trial(config.prompt_tokens[0], config.new_tokens, config.num_guesses, config.rounds, config.temperature)
    common = dict(data=corpus["name"], device=config.device)
    return measure_assisting(pair, texts, builds, trial, config.dtype, common), corpus


def measure(config: Config) -> Iterator[Measured]:
    """All that is asked for, in parts."""
    subset = set(config.subset)
    if "pipeline" in subset:
        yield measure_text(config)
    if "cache" in subset:
        yield measure_rules(config)
    if {"generate", "train", "memory", "resident", "evaluate"} & subset:
        yield from measure_models(config)
    if "heads" in subset:
        yield from measure_training_cost(config)
    if "replay" in subset:
        yield from measure_replayed(config)
    if "assist" in subset:
        yield measure_assistant(config)


def tables(rows: list[Row]) -> str:
    """One for each kind of measurement, which the first word of a protocol names."""
    kinds = dict.fromkeys((row.protocol or "").split()[0] for row in rows)
    parts = [[row for row in rows if (row.protocol or "").startswith(kind)] for kind in kinds]
    return "\n".join(markdown_table(part, filled_columns(part)) for part in parts)


@single_process
def main(config: Config) -> list[Row]:
    started = time.perf_counter()
    if config.quick:
        config.prompt_tokens, config.new_tokens, config.memory_sentences = [64], 64, 32
        config.train_tokens, config.rounds, config.text_megabytes = 512, 2, 0.2
        config.num_future_tokens, config.num_blocks, config.vocab_size = [1, 2], 2, 4096
        config.score_megabytes, config.context_tokens = 0.03, [64, 128]
    config.device = choose_device(config.device)
    if config.weights == "int8" and config.device != "cpu":
        raise ValueError(f"weights=int8 are for CPUs, and device is {config.device}: measure bf16 there.")
    if "replay" in config.subset and config.acceptance_from is None:
        raise ValueError("The subset `replay` needs --acceptance_from: what `sllm drafting` wrote for a trained model.")
    rows: list[Row] = []
    corpus: dict[str, str] = {}
    folder = Path(config.output_dir)
    for more, named in measure(config):  # written after each, so that what fails later loses nothing
        rows += more
        corpus = named or corpus
        write_text(folder / "table.md", tables(rows) + "\n")
        from lmbase.report.speed_page import render_speed  # here, because only a report needs Matplotlib

        if plots := render_speed(rows):
            write_text(folder / "plots.html", plots)
        seconds = time.perf_counter() - started
        write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
    print(tables(rows))
    return rows


if __name__ == "__main__":
    run(Config, main)
