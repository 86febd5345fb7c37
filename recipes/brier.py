"""Judge what models write by samples alone: BrierLM and repeated runs of tokens, of models with a likelihood and
without.

    sllm brier --model runs/lm runs/sllm runs/sllm_energy --data runs/data
    sllm brier --model runs/sllm_energy runs/sllm_flow --data my_text/ --split valid --temperature 0.5 --places 500

At each of `places` beginnings of sentences a model draws two continuations of four tokens after the same `context`
tokens. BrierLM is a hundred times the geometric mean, over n = 1..4, of the mean of [x1 = y] + [x2 = y] - [x1 = x2] on
the first n tokens, y being what the text says: higher is better, and no model does better than one that knows the true
distribution. Intervals (95%) are over documents. `copy` writes the last sentence again. Where a head draws sentence
vectors (next_vector: energy, flow) `temperature` is theirs, and of each vector the likeliest tokens are written; of
other models it is that of tokens. It is a judge of samples: no figure here can be turned into bits per byte.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt

from lmbase.config import Seed, option, run, single_process
from lmbase.files import write_text
from lmbase.modeling.devices import choose_device
from lmbase.report.columns import filled_columns, markdown_table
from lmbase.report.rows import Row, check_place, write_metrics
from lmbase.text.processor import SentenceProcessor
from sllm.evaluation.brier import LONGEST, brier, brier_terms, repeated_share
from sllm.evaluation.drawing import ENDED, Draw, Place, check_tokenizers, copy_last, find_places, sampler_of
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model

RUNS = (4, 32)  # tokens of the runs whose repetition is counted
SHOWN = ("model", "brier_lm", "brier_lm_low", "brier_lm_high", *(f"brier_{n}" for n in range(1, LONGEST + 1)))


@dataclass
class Config:
    model: list[str] = option([], "runs, folders or hub ids, each as PATH or NAME=PATH; all of one tokenizer")
    data: str | list[str] = option("stdlib", "where the text comes from: a prepared folder, stdlib, hub:NAME, files")
    split: str = option("test", "which part of it")
    text_field: str = option("text", "the field of a record that holds the text")
    max_documents: PositiveInt | None = option(None, "texts to read; default: all of the split")
    places: PositiveInt = option(2000, "places that are continued, twice each, evenly spread over the texts")
    context: PositiveInt = option(64, "tokens before a place that are read, at most (whole sentences)")
    temperature: PositiveFloat = option(1.0, "of tokens, or of a head's sentence vectors (at most 1)")
    texts: NonNegativeInt = option(8, "longer texts that are written, for repetitions and samples.json")
    new_tokens: PositiveInt = option(128, "tokens of these")
    batch_size: PositiveInt = option(64, "places that are continued at a time")
    seed: Seed = option(0, "of draws and of the bootstrap")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    output_dir: str = option("runs/brier", "where metrics.json and samples.json are written")


def draw_all(draw: Draw, places: Sequence[Place], length: int, config: Config, second: int) -> list[list[int]]:
    """A continuation of each place; `second` tells one round of draws from another."""
    found: list[list[int]] = []
    for start in range(0, len(places), config.batch_size):
        batch = places[start : start + config.batch_size]
        seeds = [(config.seed, 3 * (start + i) + second) for i in range(len(batch))]
        found += draw(batch, length, seeds)
    return found


def judge(draw: Draw, places: Sequence[Place], config: Config) -> dict[str, float]:
    """Columns of one model."""
    first, second = (draw_all(draw, places, LONGEST, config, number) for number in range(2))
    terms = brier_terms(first, second, [place.after[:LONGEST] for place in places])
    return brier(terms, [place.document for place in places], config.seed).columns()


@single_process
def main(config: Config) -> list[Row]:
    if not config.model:
        raise ValueError("Nothing to judge: give --model PATH [PATH ...].")
    check_place(config)
    started = time.perf_counter()
    device = choose_device(config.device)
    models = [load_model(spec) for spec in config.model]
    check_tokenizers(models)
    samplers = {"copy": copy_last} | {loaded.name: sampler_of(loaded, config.temperature) for loaded in models}
    if len(samplers) <= len(models):
        raise ValueError(f"Two models have the same name ({', '.join(m.name for m in models)}): write NAME=PATH.")
    texts, corpus = read_texts(
        config.data, config.split, config.text_field, config.max_documents, config.model, config.output_dir
    )
    processor = processor_of(models)
    documents = [encoded.sentences() for encoded in processor.encode_batch(texts)]
    places = find_places(processor, documents, config.places, config.context, LONGEST)
    long = [places[i] for i in np.linspace(0, len(places) - 1, min(config.texts, len(places))).astype(int)]
    for one in models:
        longest = max(LONGEST, config.new_tokens if long else 0)
        needed = 1 + max(sum(map(len, place.before)) for place in places) + longest
        if one.room is not None and needed > one.room:
            if (read := needed - 1 - longest) > config.context:  # one sentence is read in any case
                raise ValueError(
                    f"{one.name} has {one.room} positions, and a sentence of {read} tokens before a place, read "
                    f"whole, takes {needed} with the new ones: leave the model out, or lower --new_tokens "
                    f"({config.new_tokens})."
                )
            raise ValueError(
                f"{one.name} has {one.room} positions, and context and new tokens take {needed}: lower --context "
                f"({config.context}) or --new_tokens ({config.new_tokens})."
            )
    print(f"{len(places):,} places in {len({place.document for place in places})} texts", flush=True)
    rows, samples = [], {}
    for name, draw in samplers.items():
        loaded = next((m for m in models if m.name == name), None)
        if loaded is not None:
            loaded.to(device)
        extra: dict = judge(draw, places, config) | {"places": len(places)}
        written = [[i for i in ids if i != ENDED] for ids in draw_all(draw, long, config.new_tokens, config, 2)]
        if written:
            extra |= {f"repeated_{n}": repeated_share(written, n) for n in RUNS}
            samples[name] = [
                {"before": processor.decode([i for s in place.before for i in s]), "text": processor.decode(ids)}
                for place, ids in zip(long, written, strict=True)
            ]
        row = loaded.row if loaded else partial(Row, name)  # `copy` has no model
        rows.append(row(data=corpus["name"], protocol="samples", extra=extra))
        print(f"{name}: BrierLM {extra['brier_lm']:.2f}", flush=True)
    print(markdown_table(rows, [x for x in SHOWN if x in filled_columns(rows)]))
    folder, seconds = Path(config.output_dir), time.perf_counter() - started
    write_text(folder / "samples.json", json.dumps(samples, indent=2, ensure_ascii=False) + "\n")
    write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
    return rows


def processor_of(models: Sequence[LoadedModel]) -> SentenceProcessor:
    """What says where sentences begin: that of the first sentence model, else the rule that suits the text."""
    of_sentences = [loaded.model.processor for loaded in models if loaded.by_sentence]
    return of_sentences[0] if of_sentences else SentenceProcessor(models[0].tokenizer, "auto")


if __name__ == "__main__":
    run(Config, main)
