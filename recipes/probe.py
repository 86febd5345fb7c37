"""Does the decoder use the trunk? Bits per byte of an SLLM with its sentence states as they are, set to zero, shuffled,
and taken from another document; where the decoder sees tokens of earlier sentences, also without these; of an
autoencoder with a Gaussian latent also with the sentence vectors drawn that the trunk reads.

    sllm probe --model runs/sllm --data runs/data
    sllm probe --model runs/sllm --data my_text/ --split valid --max_documents 20

If shuffled states cost less than 1%, the trunk is decoration, and the line says so. Bits per token by the place in the
sentence show where a state that grows old costs most. The figures are of tokens and ends of sentences, in windows that
do not overlap: comparable with one another, not with those of `evaluate`.
"""

import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import PositiveInt

from lmbase.config import option, run, single_process
from lmbase.modeling.devices import choose_device
from lmbase.report.rows import Row, check_place, write_metrics
from sllm.evaluation.probing import probe
from sllm.evaluation.texts import read_texts
from sllm.loading import load_model

LEAST = 0.01  # what shuffled states have to cost
SHOWN = {
    "as_it_is": "as it is",
    "zero": "states set to zero",
    "shuffled": "states shuffled",
    "another_document": "states of another document",
    "drawn_vectors": "vectors drawn from what the encoder says of a sentence",
    "closed_window": "window closed where the sentence begins",
}


@dataclass
class Config:
    model: str | None = option(None, "an SLLM: a run, a folder or a hub id")
    data: str | list[str] = option("stdlib", "where the text comes from: a prepared folder, stdlib, hub:NAME, files")
    split: str = option("test", "which part of it")
    text_field: str = option("text", "the field of a record that holds the text")
    max_documents: PositiveInt = option(20, "texts to read")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    output_dir: str = option("runs/probe", "where metrics.json is written")


@single_process
def main(config: Config) -> list[Row]:
    if not config.model:
        raise ValueError("Nothing to probe: give --model PATH, an SLLM.")
    check_place(config)
    started = time.perf_counter()
    device = choose_device(config.device)
    loaded = load_model(config.model)
    if not loaded.by_sentence:
        raise ValueError(f"{loaded.name} is {loaded.shown}: only an SLLM has sentence states. Give one.")
    loaded.to(device)
    texts, corpus = read_texts(
        config.data, config.split, config.text_field, config.max_documents, [config.model], config.output_dir
    )
    encoded = loaded.model.processor.encode_batch(texts)
    sizes = [sum(text.sentence_bytes) for text in encoded]
    found = probe(loaded.model, [text.sentences() for text in encoded], sizes)
    bits, places = found["bits_per_byte"], found["bits_per_token_by_place"]
    rows = []
    for name, value in bits.items():
        more = value / bits["as_it_is"] - 1
        extra = {"control": name, "over_as_it_is": 1 + more} | (places if name == "as_it_is" else {})
        rows.append(Row(loaded.name, corpus["name"], "tokens and ends", bits_per_byte=value, extra=extra))
        print(f"{SHOWN[name]:40}  {value:.4f} bits per byte  {more:+.2%}")
    if bits["shuffled"] < (1 + LEAST) * bits["as_it_is"]:
        print(f"Shuffled states cost less than {LEAST:.0%}: the trunk is not used.")
    by_place = ", ".join(f"{name.removeprefix('from_')}: {value:.2f}" for name, value in places.items())
    print(f"bits per token, by place in the sentence (first place of each class): {by_place}")
    seconds = time.perf_counter() - started
    write_metrics(Path(config.output_dir), rows, config=config, seed=0, wall_seconds=seconds, corpus=corpus)
    return rows


if __name__ == "__main__":
    run(Config, main)
