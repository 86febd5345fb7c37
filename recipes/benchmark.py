"""Speed and memory, side by side: SLLM against OPT through Transformers' own generate, and training of both.

    sllm benchmark --size small opt-125m
    sllm benchmark --size opt-125m opt-350m opt-1.3b --dtype bf16 --subset train generate

Weights do not change speed, so every size runs with random weights; sentence lengths are replayed from the test split
of `data`. Models run in one process, in turn (A B A B), after a warm-up; a cell is the median, with the lowest and
highest. Tokens are tokens of text: end marks and padding do not count. The clock runs from the prompt to the last
token.
"""

import functools
import gc
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from transformers import OPTForCausalLM

from lmbase.collate import pad_sentences, pad_tokens
from lmbase.config import option, run
from lmbase.devices import choose_device
from lmbase.metrics import Row, markdown_table, write_metrics, write_text
from lmbase.open_data import open_data
from lmbase.opt import TokenLM, load_opt, vector_shape
from lmbase.speed import Generation, alternate, median, pairwise_ratio, time_opt
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm import SLLM
from sllm.speed import time_sllm

VOCABULARY = 50272


@dataclass
class Config:
    size: list[str] = option(["small"], "tiny, small, opt-125m, opt-350m, opt-1.3b")
    subset: list[Literal["generate", "train"]] = option(["generate", "train"], "what is measured")
    data: str | list[str] = option(
        "stdlib", "where sentence lengths come from: a prepared folder, stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str = option("bpe:8192", "for data that are not prepared yet")
    rule: str = option("punctuation", "for data that are not prepared yet")
    num_encoder_layers: int = option(1, "1 to 4")
    num_decoder_layers: int = option(1, "1 to 4")
    dtype: Literal["fp32", "bf16"] = option("bf16", "of weights in generation, of the computation in training")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one")
    prompt_tokens: int = option(256, "tokens of the prompt")
    new_tokens: int = option(256, "tokens written")
    train_tokens: int = option(2048, "tokens of text in a training step")
    rounds: int = option(5, "timed rounds of each model, after a warm-up")
    quick: bool = option(False, "64 tokens each way and two rounds")
    output_dir: str = option("runs/benchmark", "where metrics.json and table.md go")


def build(size: str, config: Config) -> tuple[OPTForCausalLM, SLLM]:
    """OPT of a size, and the SLLM on a copy of it, both with random weights."""
    opt = load_opt(f"random:{size}", vocab_size=VOCABULARY)
    width, heads = vector_shape(opt)
    vae = SentenceVAE(
        SentenceVAEConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_attention_heads=heads,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
        )
    )
    return opt, SLLM.graft(vae, opt, max_sentences=512)


def random_sentences(lengths: list[int], num_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Sentences of random ids with the given lengths, `num_tokens` in all (the last is cut to fit)."""
    sentences: list[list[int]] = []
    missing = num_tokens
    for length in lengths:
        if missing <= 0:
            break
        sentences.append(rng.integers(4, VOCABULARY, min(length, missing)).tolist())
        missing -= length
    return sentences


def measure_generation(size: str, opt: OPTForCausalLM, sllm: SLLM, lengths: list[int], config: Config) -> list[Row]:
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    opt, sllm = opt.to(dtype).eval(), sllm.to(dtype).eval()  # type: ignore[arg-type]
    sentences = random_sentences(lengths, config.prompt_tokens, np.random.default_rng(0))
    flat = torch.tensor([[opt.config.bos_token_id, *(i for s in sentences for i in s)]], device=opt.device)
    nested = pad_sentences([sentences], sllm.config.pad_token_id).input_ids.to(sllm.device)
    after = lengths[len(sentences) :]
    found = alternate(
        {
            f"OPT {size}": functools.partial(time_opt, opt, flat, config.new_tokens),
            f"SLLM {size}": lambda: time_sllm(sllm, nested, config.new_tokens, after),
        },
        config.rounds,
    )
    return [_generation_row(name, runs, found[f"OPT {size}"], config) for name, runs in found.items()]


def _generation_row(name: str, runs: list[Generation], baseline: list[Generation], config: Config) -> Row:
    ratio, low, high = pairwise_ratio(runs, baseline)
    return Row(
        model=name,
        protocol=f"generate {config.prompt_tokens}+{config.new_tokens}",
        dtype=config.dtype,
        device=config.device,
        tokens_per_second=median([g.tokens_per_second for g in runs]),
        seconds_to_first_sentence=median([g.seconds_to_first_sentence for g in runs]),
        kv_bytes_per_token=median([g.cache_bytes_per_token for g in runs]),
        extra={
            "tokens_per_position": median([g.tokens_per_position for g in runs]),
            "speed_ratio": ratio,
            "speed_ratio_low": low,
            "speed_ratio_high": high,
        },
    )


def measure_training(size: str, opt: OPTForCausalLM, sllm: SLLM, lengths: list[int], config: Config) -> list[Row]:
    sentences = random_sentences(lengths, config.train_tokens, np.random.default_rng(0))
    ids, mask = pad_tokens([[i for s in sentences for i in s][: opt.config.max_position_embeddings - 1]], 1)
    nested = pad_sentences([sentences], sllm.config.pad_token_id)
    batches = {
        f"OPT {size}": (TokenLM(opt), dict(input_ids=ids, attention_mask=mask, ends=torch.ones(1, dtype=torch.bool))),
        f"SLLM {size}": (
            sllm,
            dict(input_ids=nested.input_ids, attention_mask=nested.attention_mask, sentence_mask=nested.sentence_mask),
        ),
    }
    device = opt.device
    steps = {}
    for name, (model, batch) in batches.items():
        model.float().train()
        on_device = {key: value.to(device) for key, value in batch.items()}
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
        steps[name] = functools.partial(_training_step, model, on_device, optimizer, config)
    found = alternate(steps, config.rounds)
    rows = []
    for name, runs in found.items():
        ratio, low, high = pairwise_ratio(runs, found[f"OPT {size}"])
        rows.append(
            Row(
                model=name,
                protocol=f"train {config.train_tokens}",
                dtype=config.dtype,
                device=config.device,
                parameters=sum(p.numel() for p in batches[name][0].parameters()),
                tokens_per_second=median([g.tokens_per_second for g in runs]),
                extra={"speed_ratio": ratio, "speed_ratio_low": low, "speed_ratio_high": high},
            )
        )
    return rows


def _training_step(model, batch: dict, optimizer: torch.optim.Optimizer, config: Config) -> Generation:
    started = time.perf_counter()
    with torch.autocast(batch["input_ids"].device.type, torch.bfloat16, enabled=config.dtype == "bf16"):
        loss = model(**batch).loss
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    float(loss.detach())  # waits for the GPU
    return Generation(time.perf_counter() - started, 0.0, int(batch["attention_mask"].sum()), 0, 1)


def main(config: Config) -> list[Row]:
    started = time.perf_counter()
    if config.quick:
        config.prompt_tokens = config.new_tokens = 64
        config.train_tokens, config.rounds = 512, 2
    config.device = choose_device(config.device)
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer,
        rule=config.rule,
        max_sentence_tokens=64,
        output_dir=config.output_dir,
    )
    lengths = np.diff(data.split("test").sentence_tokens).tolist()
    rows: list[Row] = []
    for size in config.size:
        opt, sllm = build(size, config)
        opt, sllm = opt.to(config.device), sllm.to(config.device)  # type: ignore[arg-type]
        if "train" in config.subset:
            rows += measure_training(size, opt, sllm, lengths, config)
        if "generate" in config.subset:
            rows += measure_generation(size, opt, sllm, lengths, config)
        del opt, sllm
        gc.collect()
    table = markdown_table(rows)
    print(table)
    folder = Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "table.md", table + "\n")
    seconds = time.perf_counter() - started
    corpus = {"name": data.name, "sha256": data.hash}
    write_metrics(folder, rows, config=config, seed=0, wall_seconds=seconds, corpus=corpus)
    return rows


if __name__ == "__main__":
    run(Config, main)
