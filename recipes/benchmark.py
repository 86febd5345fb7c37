"""Speed and memory, side by side: SLLM against OPT through Transformers' own generate, and training of both.

    sllm benchmark --size small opt-125m
    sllm benchmark --size opt-125m opt-350m opt-1.3b --dtype bf16 --subset train generate
    sllm benchmark --subset pipeline --data my_text/*.txt --tokenizer facebook/opt-125m
    sllm benchmark --subset heads --size small --num_future_tokens 1 2 4 8
    sllm benchmark --subset replay --size opt-125m --acceptance_from runs/drafting

Weights do not change speed, so every size runs with random weights; sentence lengths are replayed from the test split
of `data`. Models run in one process, in turn (A B A B), after a warm-up; a cell is the median, with the lowest and
highest. Tokens are tokens of text: end marks and padding do not count. The clock runs from the prompt to the last
token.

The subset `pipeline` times the way from text to training data instead: `segment` by each rule and tokenising on one
core, `prepare` from end to end. `data` is then raw text, read anew in each round.

The subset `heads` trains multi-token models that have equally many blocks and 1, 2, 4 ... heads: time of a step beside
its operations, peak memory of the loss beside that of a loss that holds all heads' logits. The subset `replay` writes
by drafting with as many accepted guesses as `sllm drafting` found on a trained model (`acceptance_from`), against
Transformers' generate of the same OPT. Neither reads text.
"""

import functools
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from pydantic import PositiveInt
from transformers import OPTForCausalLM

from lmbase.collate import pad_sentences, pad_tokens
from lmbase.config import option, run, single_process
from lmbase.corpora import open_corpus
from lmbase.devices import choose_device
from lmbase.files import write_text
from lmbase.metrics import Row, markdown_table, write_metrics
from lmbase.open_data import is_prepared, make_processor, open_data
from lmbase.opt import TokenLM, load_opt, vector_shape
from lmbase.speed import Generation, alternate, median, pairwise_ratio, time_opt
from lmbase.throughput import measure_pipeline
from multitoken.replaying import build as build_replayed
from multitoken.replaying import measure_replay, read_acceptance
from multitoken.training_cost import Setting, measure_heads
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm import SLLM
from sllm.speed import time_sllm

VOCABULARY = 50272
MAX_SENTENCE_TOKENS = 64


@dataclass
class Config:
    size: list[str] = option(["small"], "tiny, small, opt-125m, opt-350m, opt-1.3b")
    subset: list[Literal["generate", "train", "pipeline", "heads", "replay"]] = option(
        ["generate", "train"], "what is measured"
    )
    data: str | list[str] = option(
        "stdlib", "where text and sentence lengths come from: a prepared folder, stdlib, hub:NAME, files"
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
    num_future_tokens: list[PositiveInt] = option([1, 2, 4, 8], "numbers of heads of the subset heads")
    num_blocks: PositiveInt = option(8, "of the subset heads: blocks of trunk and heads together")
    vocab_size: PositiveInt = option(VOCABULARY, "of the subsets heads and replay")
    acceptance_from: str | None = option(None, "of the subset replay: what `sllm drafting` wrote")
    text_megabytes: float = option(8.0, "of each split, about so much text goes through the pipeline")
    rounds: int = option(5, "timed rounds of each model, after a warm-up")
    seed: int = option(0, "of the random weights and token ids")
    quick: bool = option(False, "64 tokens each way, little text, few heads and two rounds")
    output_dir: str = option("runs/benchmark", "where metrics.json and table.md go")


def build(size: str, config: Config) -> tuple[OPTForCausalLM, SLLM]:
    """OPT of a size, and the SLLM on a copy of it, both with random weights."""
    opt = load_opt(f"random:{size}", vocab_size=VOCABULARY, seed=config.seed)
    width, heads = vector_shape(opt)
    torch.manual_seed(config.seed)
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
    sentences = random_sentences(lengths, config.prompt_tokens, np.random.default_rng(config.seed))
    flat = torch.tensor([[opt.config.bos_token_id, *(i for s in sentences for i in s)]], device=opt.device)
    nested = pad_sentences([sentences], sllm.config.pad_token_id).input_ids.to(sllm.device)
    after = lengths[len(sentences) :]
    runners: dict[str, Callable[[], Generation]] = {
        f"OPT {size}": functools.partial(time_opt, opt, flat, config.new_tokens),
        f"SLLM {size}": lambda: time_sllm(sllm, nested, config.new_tokens, after),
    }
    found = alternate(runners, config.rounds)
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
    sentences = random_sentences(lengths, config.train_tokens, np.random.default_rng(config.seed))
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


def measure_text(config: Config) -> tuple[list[Row], dict[str, str]]:
    """Rows of the pipeline, and what names the text."""
    specs = [config.data] if isinstance(config.data, str) else config.data
    if any(map(is_prepared, specs)):
        raise ValueError(f"data={specs}: prepared already, and the subset `pipeline` times that; give it the raw text.")
    corpus = open_corpus(config.data, config.text_field, max_bytes=int(config.text_megabytes * 1e6))
    processor = make_processor(corpus, config.tokenizer, config.rule, MAX_SENTENCE_TOKENS)
    rows, digest = measure_pipeline(corpus, processor, Path(config.output_dir), config.rounds)
    return rows, {"name": corpus.name, "sha256": digest}


def measure_models(config: Config) -> tuple[list[Row], dict[str, str]]:
    """Rows of every size, and what names the text that sentence lengths are from."""
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer,
        rule=config.rule,
        max_sentence_tokens=MAX_SENTENCE_TOKENS,
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
    return rows, {"name": data.name, "sha256": data.hash}


def measure_training_cost(config: Config) -> list[Row]:
    """Rows of every size and number of heads."""
    rows: list[Row] = []
    for size in config.size:
        settings = [
            Setting(size, config.num_blocks, n, config.vocab_size, config.train_tokens, config.dtype, config.device)
            for n in config.num_future_tokens
        ]
        rows += measure_heads(settings, config.rounds)
    return rows


def measure_replayed(config: Config) -> list[Row]:
    """Rows of every size and way of drafting."""
    if config.acceptance_from is None:
        raise ValueError("The subset `replay` needs --acceptance_from: what `sllm drafting` wrote for a trained model.")
    source, num_heads, ways = read_acceptance(config.acceptance_from, config.seed)
    dtype = torch.bfloat16 if config.dtype == "bf16" else torch.float32
    common = dict(
        protocol=f"replay {config.prompt_tokens}+{config.new_tokens}, acceptance of {source}",
        dtype=config.dtype,
        device=config.device,
    )
    rng = np.random.default_rng(config.seed)
    rows: list[Row] = []
    for size in config.size:
        model = build_replayed(size, num_heads, config.vocab_size, dtype, config.device, config.seed)
        ids = [model.config.bos_token_id, *rng.integers(4, config.vocab_size, config.prompt_tokens).tolist()]
        prompt = torch.tensor([ids], device=config.device)
        rows += measure_replay(model, size, ways, prompt, config.new_tokens, config.rounds, common)
        del model
        gc.collect()
    return rows


@single_process
def main(config: Config) -> list[Row]:
    started = time.perf_counter()
    if config.quick:
        config.prompt_tokens = config.new_tokens = 64
        config.train_tokens, config.rounds, config.text_megabytes = 512, 2, 0.2
        config.num_future_tokens, config.num_blocks, config.vocab_size = [1, 2], 2, 4096
    config.device = choose_device(config.device)
    rows: list[Row] = []
    corpus: dict[str, str] = {}
    if "pipeline" in config.subset:
        rows, corpus = measure_text(config)
    if {"generate", "train"} & set(config.subset):
        of_models, corpus = measure_models(config)
        rows = of_models + rows
    if "heads" in config.subset:
        rows += measure_training_cost(config)
    if "replay" in config.subset:
        rows += measure_replayed(config)
    table = markdown_table(rows)
    print(table)
    folder = Path(config.output_dir)
    write_text(folder / "table.md", table + "\n")
    seconds = time.perf_counter() - started
    write_metrics(folder, rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
    return rows


if __name__ == "__main__":
    run(Config, main)
