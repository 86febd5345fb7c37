"""What drafting brings a trained multi-token model: candidates that come true, the best tree, speed, and losslessness.

    sllm drafting --model runs/mtp_small --data runs/data_small
    sllm drafting --model runs/mtp_small --data runs/data_small --nodes 12 --save_tree true

Prompts are spread over a split, and the model continues them: with head 1 alone, with 2 to n heads, with a tree of
candidates, and with `auto`, which drafts while it pays. Three tables come out of it. `candidates`: how often the token
that head 1 writes is the first, second ... choice of each further head, which decides about the tree. `drafting`: for
each way and batch size tokens per forward pass, acceptance by position, break-even (what a forward pass with a draft
costs, in plain ones), wall clock over plain decoding, and for how many prompts the same ids were written as by plain
decoding of that prompt alone. `sampling`: drawn texts against the probabilities of head 1, by a chi-square test.

A text that differs, but for a tie (logits within 1e-4 of each other in fp32), or draws that are not the model's are
shown in the tables, and the recipe ends with exit status 2.
"""

import itertools
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from lmbase.config import Seed, option, run, single_process
from lmbase.files import write_text
from lmbase.hub import name_and_source
from lmbase.modeling.devices import DTYPES, choose_device, moved
from lmbase.modeling.folders import model_folder
from lmbase.report.columns import tables_by_kind
from lmbase.report.rows import Row, check_place, write_metrics
from multitoken import DraftTree, MultiTokenLM
from multitoken.benchmarks.losslessness import Comparison, compare_texts, sampling_test
from multitoken.benchmarks.measuring import (
    PLAIN,
    Way,
    accepted_counts,
    candidate_rates,
    check_positions,
    compare_speed,
    save_tree,
    spread_prompts,
    ways_of,
    write,
)
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model

FOR_PROGRAMS = ("accepted_counts", "draft_tree", "draft_transitions", "differences")  # in metrics.json, not in tables
SAMPLED_PROMPT_TOKENS = 8  # a short prompt is read faster, 20,000 times


@dataclass
class Config:
    model: str | None = option(None, "a multi-token model: a run, a folder or a hub id, as PATH or NAME=PATH")
    data: str | list[str] = option("stdlib", "prepared data, or what prepare reads: stdlib, hub:NAME, files")
    split: str = option("test", "train, valid or test")
    text_field: str = option("text", "the field of a record that holds the text")
    num_prompts: PositiveInt = option(200, "prompts, evenly spread over the split")
    prompt_tokens: PositiveInt = option(64, "tokens of a prompt")
    new_tokens: PositiveInt = option(64, "tokens written after it")
    batch_size: list[PositiveInt] = option([1, 8], "texts written at once")
    nodes: PositiveInt = option(8, "draft tokens of the tree")
    save_tree: bool = option(False, "write the tree into the model's configuration")
    dtypes: list[Literal["fp64", "fp32", "bf16"]] = option(
        ["fp64", "fp32"], "in which texts are compared; in bf16 differences are counted and no fault"
    )
    dtype: Literal["fp32", "bf16"] = option("fp32", "of the weights while speed is measured")
    pairs: PositiveInt = option(5, "timed rounds of each way, after a warm-up")
    timed_prompts: PositiveInt = option(8, "prompts written in a timed round, rounded up to whole batches")
    draws: NonNegativeInt = option(20_000, "sampled texts for each way and temperature; 0: none")
    temperature: list[PositiveFloat] = option([0.7, 1.0, 1.5], "of sampling")
    quick: bool = option(False, "few prompts, pairs and draws, to try a command out")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    seed: Seed = option(0, "of sampling")
    output_dir: str = option("runs/drafting", "where metrics.json and table.md go")


def load(config: Config) -> LoadedModel:
    if not config.model:
        raise ValueError("Nothing to measure: give --model PATH.")
    loaded = load_model(config.model)
    if not loaded.num_heads:
        raise ValueError(f"model={config.model!r}: only a multi-token model drafts; sllm finetune-mtp trains one.")
    if loaded.num_heads < 2:
        raise ValueError(f"model={config.model!r} has one head, so it drafts nothing; take one with two or more.")
    positions = loaded.model.config.max_position_embeddings
    check_positions("the model", positions, config.prompt_tokens, config.new_tokens)
    return loaded


def drafting_row(way: Way, batch_size: int, comparison: Comparison, speed: dict[str, float], config: Config) -> Row:
    found = comparison.statistics
    extra: dict[str, Any] = {"way": way.name, "num_draft": way.num_draft, "batch_size": batch_size}
    extra |= {"tokens_per_forward": found.tokens_per_forward}
    if way != PLAIN:
        extra |= {name: figure for name, figure in speed.items() if name != "tokens_per_second"}
        extra |= {"accepted_counts": accepted_counts(found)}
        extra |= {f"acceptance_{i}": rate for i, rate in enumerate(found.acceptance, start=1)}
    if way.tree is not None:
        extra["draft_tree"] = [list(path) for path in way.tree.nodes[1:]]
    extra |= {"prompts": config.num_prompts, "lossless": comparison.verdict}
    for dtype, parted in comparison.parted.items():
        extra[f"equal_{dtype}"] = config.num_prompts - len(parted)
        if dtype == "fp32":
            extra["ties_fp32"] = len(parted) - len(comparison.faults(dtype))
        if dtype == "bf16" and parted:
            extra["largest_gap_bf16"] = max(found.gap or 0.0 for found in parted)
    extra["differences"] = comparison.parted
    return Row("", protocol="drafting", dtype=config.dtype, tokens_per_second=speed["tokens_per_second"], extra=extra)


def sampling_rows(model: MultiTokenLM, prompt: list[int], ways: list[Way], config: Config) -> list[Row]:
    rows: list[Row] = []
    for temperature, way in itertools.product(config.temperature, ways):
        test = sampling_test(model, prompt, way, temperature, config.draws, seed=config.seed + 1 + len(rows))
        extra: dict[str, Any] = {"way": way.name, "temperature": temperature, "draws": test.num_draws}
        extra |= {"cells": test.num_cells, "p_value": test.p_value, "lossless": test.verdict}
        rows.append(Row("", protocol="sampling", dtype="fp32", extra=extra))
        print(f"sampled at temperature {temperature}, {way.name}: lossless {test.verdict}")
    return rows


def raise_if_lossy(rows: list[Row]) -> None:
    """The tables and metrics.json are written by then."""
    told = "DRAFTING IS NOT LOSSLESS: texts differ from those of plain decoding.\n"
    for row in (row.extra for row in rows if row.extra.get("lossless", "yes").startswith("NO")):
        size = f"batches of {row['batch_size']}" if "batch_size" in row else f"temperature {row['temperature']}"
        told += f"  {row['way']}, {size}: {row['lossless']}\n"
    if told.count("\n") > 1:
        raise ValueError(
            f"{told}metrics.json has each place (`differences`). A fault of the decoder, or non-deterministic kernels."
        )


@single_process
def main(config: Config) -> list[Row]:
    check_place(config)
    started = time.perf_counter()
    if config.quick:
        config.num_prompts, config.prompt_tokens, config.new_tokens, config.timed_prompts = 4, 16, 16, 2
        config.pairs, config.draws, config.batch_size, config.temperature = 2, min(config.draws, 500), [1, 2], [1.0]
    device = choose_device(config.device)
    loaded = load(config)
    model = moved(loaded.model, device)
    texts, corpus = read_texts(
        config.data, config.split, config.text_field, None, [config.model or ""], config.output_dir
    )
    prompts = spread_prompts(
        loaded.tokenizer, texts, config.num_prompts, config.prompt_tokens, model.config.bos_token_id
    )
    continuations = write(model, prompts, PLAIN, max(config.batch_size), config.new_tokens).ids
    rates = candidate_rates(model, prompts, continuations)
    tree = DraftTree.from_acceptance(rates, config.nodes)
    print(f"best tree of {len(tree.paths)} draft tokens: {[list(path) for path in tree.nodes[1:]]}")
    ways = ways_of(len(model.heads), tree)
    rows = []
    for head, of_head in enumerate(rates, start=2):
        extra = {"head": head, **{f"rank_{rank}": rate for rank, rate in enumerate(of_head)}}
        rows.append(Row("", protocol="candidates", dtype="fp32", extra=extra))
    sampled: list[Row] = []
    if config.draws:
        deepest = [way for way in ways if way.name == "tree" or way.num_draft == len(model.heads)]
        sampled = sampling_rows(model, prompts[0][: 1 + SAMPLED_PROMPT_TOKENS], deepest, config)
    compared = compare_texts(model, prompts, ways, config.batch_size, config.new_tokens, config.dtypes)
    print(f"{len(prompts)} greedy texts compared in {', '.join(config.dtypes)}")
    moved(model, dtype=DTYPES[config.dtype])
    for batch_size in config.batch_size:
        timed = prompts[: -(-config.timed_prompts // batch_size) * batch_size]
        speeds = compare_speed(model, timed, ways, batch_size, config.new_tokens, config.pairs)
        for way in ways:
            rows.append(drafting_row(way, batch_size, compared[way.name, batch_size], speeds[way.name], config))
            rows[-1].extra |= {"draft_transitions": True} if model.draft_transitions else {}
    rows += sampled
    for row in rows:
        row.model, row.data, row.device, row.parameters = loaded.name, corpus["name"], device, loaded.num_parameters
    text = tables_by_kind(rows, hidden=FOR_PROGRAMS)
    print(text)
    folder = Path(config.output_dir)
    write_text(folder / "table.md", text)
    seconds = time.perf_counter() - started
    write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
    raise_if_lossy(rows)
    if config.save_tree:
        assert config.model is not None
        save_tree(Path(model_folder(name_and_source(config.model)[1])), tree)
    return rows


if __name__ == "__main__":
    run(Config, main)
