"""What a training will cost, before anything is loaded: parameters, memory, time and money, for an SLLM and for the
token-level model beside it.

    sllm plan --lm facebook/opt-1.3b --data 10B --gpus h100 x8 --price 2.5
    sllm plan --lm random:small --data 4M
    sllm plan --lm my_model/ --data runs/data_opt --gpus rtx4090 --dtype bf16
    sllm plan --lm facebook/opt-350m --data 1B --gpus a100-40 --upper_layers 8 --lower_layers 4 --max_sentences 31
    sllm plan --lm facebook/opt-125m --data 1B --gpus runs/benchmark

`lm` is a hub id (only its configuration is read), a folder, a GGUF file, a size with random weights, or the name of a
published OPT, for which no network is needed. No weights are loaded or made. Memory and operations are counted: the
shapes of a micro-batch of full windows go through the model's own code. Time is those operations over the rate of the
machine: measured here in some seconds (`--gpus here`, the default), found by `sllm benchmark --subset train` (`--gpus
FOLDER`), or as data sheets list it (`--gpus h100 x8`), of which training reaches the assumed share `utilisation`.
"""

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field, PositiveFloat, PositiveInt

from lmbase.benchmarking.accelerators import LISTED
from lmbase.config import Decay, given_on_command_line, option, run, single_process
from lmbase.durations import duration
from lmbase.report.formats import number, short_count, size
from lmbase.report.tables import Table
from lmbase.text.tokenizers import vocabulary_size
from sllm import SLLMConfig
from sllm.benchmarks.fitting import Fit, Wish, fit
from sllm.benchmarks.machines import UTILISATION, machine_for
from sllm.benchmarks.planning import Design, How, SentenceDesign, TokenDesign, assumed_lengths, config_of
from sllm_data.datasets import SentenceWindowDataset, TokenWindowDataset
from sllm_data.open_data import load_prepared
from sllm_data.prepared import PreparedSplit
from sllm_recipes.model_keys import given_keys, with_keys_of

UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
SAMPLE = 4096  # sentences of prepared data whose lengths are taken
NOT_KNOWN = (
    "Not known, and not in these figures: what GPUs lose by waiting for each other and for data, evaluations and "
    "checkpoints in between, runs that are repeated, and how good the model will be."
)


@dataclass
@with_keys_of(SLLMConfig, without=("autoencoder", "trunk"), of_model=True)
class Config:
    lm: str | None = option(None, "the language model: hub id, folder, GGUF file, opt-1.3b, random:SIZE", also="opt")
    data: str | None = option(
        None, "tokens to train on (3e9, 10B, 5M), or a folder written by prepare: one pass over it"
    )
    gpus: list[str] = option(
        ["here"], f"KIND xN, of {', '.join(LISTED)}; here: this machine, measured; or a folder of sllm benchmark"
    )
    dtype: Literal["fp32", "bf16"] = option("bf16", "of the computation in training, of the weights in generation")
    batch_size: PositiveInt = option(32, "windows of an optimizer step, over all GPUs")
    micro_batch_size: PositiveInt | None = option(None, "windows of one pass of one GPU; default: the most that fit")
    context: PositiveInt = option(512, "positions of a window of the token-level model")
    strategy: Literal["auto", "ddp", "fsdp"] = option(
        "auto", "with several GPUs; auto: ddp if the model fits into each"
    )
    ema_decay: Decay = option(0.0, "as in training: above 0 an average of the weights is kept")
    gradient_checkpointing: bool = option(False, "recompute activations in the backward pass")
    num_encoder_layers: PositiveInt = option(1, "of the autoencoder that is grafted, 1 to 4")
    num_decoder_layers: PositiveInt = option(1, "likewise")
    max_sentence_tokens: PositiveInt = option(64, "tokens per sentence, at most")
    tokens_per_sentence: PositiveFloat = option(
        10.0, "the mean, where data is a number: clauses have 8, sentences 16 or more; prepared data tell theirs"
    )
    vocab_size: Annotated[int, Field(ge=4)] | None = option(
        None, "of a model with random weights; default: that of prepared data, or 50272"
    )
    new_tokens: PositiveInt = option(2048, "tokens of each text in generation, prompt and all")
    texts: PositiveInt = option(1, "texts that are generated at once")
    utilisation: Annotated[float, Field(gt=0, le=1)] = option(
        UTILISATION, "share of a listed rate that training reaches"
    )
    price: PositiveFloat | None = option(None, "of one GPU for an hour, in any currency; without it no cost is told")
    tflops: PositiveFloat | None = option(None, "of one GPU that is not listed, in `dtype` and without sparsity")
    gpu_gigabytes: PositiveFloat | None = option(None, "memory of such a GPU, 10^9 bytes")
    gpu_bandwidth: PositiveFloat | None = option(None, "GB/s from its memory: tells how fast it writes")


@dataclass(frozen=True)
class Reading:
    """What is read: how many tokens, and in what sentences and windows."""

    tokens: float
    lengths: tuple[int, ...]
    split: PreparedSplit | None = None
    vocab_size: int | None = None  # of the data's tokenizer

    def fullness(self, design: Design) -> float:
        """Tokens of a window of this text over those of a full one."""
        if self.split is None:
            return 1.0
        if isinstance(design, SentenceDesign):
            lengths = SentenceWindowDataset(self.split, 0, design.config.max_sentences).lengths
        else:
            assert isinstance(design, TokenDesign)
            lengths = TokenWindowDataset(self.split, 0, design.context - 1).lengths
        return min(float(lengths.mean()) / design.window_tokens, 1.0)


def reading(config: Config) -> Reading:
    """
    Raises:
        ValueError: no data, or what is no number above 0 and no prepared folder.
    """
    if config.data is None:
        raise ValueError("Say how much text: --data 10B (tokens), or --data FOLDER, written by sllm prepare.")
    if found := re.fullmatch(r"(-?[\d_,.]+(?:e[+-]?\d+)?) ?([kmbgt]?)", config.data.strip().lower()):
        try:
            if "," in found[1] and not re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", found[1]):
                raise ValueError("a comma that parts no thousands")  # 1,5M is no 15M
            tokens = float(found[1].replace(",", "")) * UNITS[found[2]]
        except ValueError:
            raise ValueError(f"data={config.data!r} is no number of tokens: write 3e9, 10B or 1.5M.") from None
        if not 1 <= tokens <= 1e18:
            raise ValueError(
                f"data={config.data!r}: a number of tokens from 1 on (to 1e18) is needed, such as 3e9, 10B or 5M."
            )
        if not 1 <= config.tokens_per_sentence <= config.max_sentence_tokens:
            raise ValueError(
                f"tokens_per_sentence={config.tokens_per_sentence:g}: choose 1 to max_sentence_tokens, "
                f"{config.max_sentence_tokens}."
            )
        return Reading(tokens, assumed_lengths(config.tokens_per_sentence, config.max_sentence_tokens))
    prepared = load_prepared(config.data, verify=False)
    if prepared is None:
        raise ValueError(
            f"data={config.data!r} is neither a number of tokens (3e9, 10B, 5M) nor a folder that sllm prepare wrote."
        )
    own = prepared.processor.max_sentence_tokens
    for name in ("tokens_per_sentence", "max_sentence_tokens"):
        if name in given_on_command_line(config) and getattr(config, name) != own:
            raise ValueError(
                f"{name}={getattr(config, name):g}: the data in {config.data!r} tell what their sentences are; leave "
                "the key out, or give a number of tokens as --data."
            )
    split = prepared.split("train")
    # Spread over all texts: the first ones may have other sentences than the rest.
    chosen = np.unique(np.linspace(0, split.num_sentences - 1, SAMPLE).astype(int))
    lengths = (split.sentence_tokens[chosen + 1] - split.sentence_tokens[chosen]).tolist()
    config.max_sentence_tokens = own
    return Reading(split.num_tokens, tuple(lengths), split, vocabulary_size(prepared.processor.tokenizer))


def designs(config: Config, read: Reading) -> list[Design]:
    """The SLLM, and the token-level model beside it."""
    if config.lm is None:
        raise ValueError("Say which language model: --lm opt-1.3b, a hub id, a folder, a GGUF file or random:SIZE.")
    trunk, options = config_of(config.lm), given_keys(config, SLLMConfig)
    if config.lm.startswith("random:"):
        trunk.vocab_size = config.vocab_size or read.vocab_size or trunk.vocab_size
    elif config.vocab_size:
        raise ValueError(f"vocab_size={config.vocab_size}: {config.lm} has its own vocabulary; leave the key out.")
    layers, given = (config.num_encoder_layers, config.num_decoder_layers), given_on_command_line(config)
    for name in sorted(given & {"num_encoder_layers", "num_decoder_layers"} if options.get("upper_layers") else ()):
        raise ValueError(
            f"{name}={getattr(config, name)}: a graft by own layers (--upper_layers) has no autoencoder; leave the key "
            "out."
        )
    if "context" in given and config.context > trunk.max_position_embeddings:
        raise ValueError(f"context={config.context}: {config.lm} has {trunk.max_position_embeddings} positions.")
    sentences = SentenceDesign(trunk, read.lengths, tuple(options.items()), layers, config.max_sentence_tokens)
    context = min(config.context, trunk.max_position_embeddings)
    return [sentences, TokenDesign(trunk, read.lengths, context)]


def lines_of(design: Design, found: Fit, config: Config, bandwidth: float) -> dict[str, str]:
    """A column of the table."""
    parameters, how = design.parameters(), found.how
    lines = {"parameters": short_count(sum(parameters.values()))}
    lines |= {f"- {part}": short_count(count) for part, count in sorted(parameters.items())}
    lines["memory of training, each process"] = size(sum(found.memory.values()))
    lines |= {f"- {part}": size(count) for part, count in found.memory.items()}
    lines["windows of a micro-batch"] = str(found.micro_batch_size)
    lines["micro-batches of a step"] = str(found.micro_batches)
    if how.processes > 1:
        lines["processes"] = f"{how.processes}, {how.strategy}"
    lines["tokens of a full window"] = number(round(design.window_tokens))
    lines["steps"] = number(found.steps)
    lines["operations of a step"] = f"{found.operations:.3g}"
    lines["operations in all"] = f"{found.operations * found.steps:.3g}"
    lines["time"] = duration(found.seconds)
    lines["GPU hours"] = number(found.gpu_hours())
    if config.price is not None:
        lines["cost"] = number(found.gpu_hours() * config.price)
    memory = design.generation_memory(config.dtype, config.new_tokens, config.texts)
    lines["memory of generation"] = size(sum(memory.values()))
    lines |= {f"- of it {part}": size(count) for part, count in memory.items()}
    read = design.read_weights()
    lines["weights read for a token"] = short_count(read)
    if bandwidth:
        per_second = bandwidth / (read * memory["weights"] / sum(parameters.values()))
        lines["tokens per second at most"] = number(per_second)
    return lines


@single_process
def main(config: Config) -> dict[str, Fit]:
    read = reading(config)
    by_hand = dict(tflops=config.tflops, gigabytes=config.gpu_gigabytes, bandwidth=config.gpu_bandwidth)
    machine = machine_for(config.gpus, config.dtype, config.utilisation, by_hand)
    if "utilisation" in given_on_command_line(config) and not hasattr(machine, "utilisation"):
        raise ValueError(
            f"utilisation={config.utilisation:g}: what training reaches is measured on gpus={' '.join(config.gpus)!r}, "
            "not assumed; leave the key out."
        )
    how = How(config.dtype, machine.kernels, config.ema_decay > 0, config.gradient_checkpointing)
    found, columns = {}, {}
    for design in designs(config, read):
        wish = Wish(read.tokens, config.batch_size, config.micro_batch_size, config.strategy, read.fullness(design))
        found[design.name] = fit(design, wish, how, machine)
        columns[design.name] = lines_of(design, found[design.name], config, machine.bandwidth)
    names = list(dict.fromkeys(name for column in columns.values() for name in column if name))
    table = Table(
        [f"{config.lm}, {short_count(read.tokens)} tokens, {config.dtype}", *columns],
        [[name, *(column.get(name, "–") for column in columns.values())] for name in names],
        numeric={1, 2},
    )
    print(table.markdown)
    print("\n".join(machine.said(config.dtype == "bf16")))
    print(assumptions(config, read, found))
    print(NOT_KNOWN if config.price else f"{NOT_KNOWN} Nor is the price of a GPU: --price.")
    return found


def assumptions(config: Config, read: Reading, found: dict[str, Fit]) -> str:
    """What else the figures rest on."""
    mean = sum(read.lengths) / len(read.lengths)
    whence = "as in the data" if read.split is not None else "assumed (--tokens_per_sentence)"
    lines = [f"sentences have {number(mean)} tokens, {whence}; windows of the peak are full"]
    if not any(fit.pace.measured for fit in found.values()) and config.gpus[0] == "here":
        lines.append("too large to be timed here in seconds: the time is operations over rate, at 35% of it")
    if not given_keys(config, SLLMConfig).get("upper_layers"):
        lines.append("the SLLM's autoencoder is trained before (sllm pretrain-vae), which is not in its time")
    return "\n".join(lines)


if __name__ == "__main__":
    run(Config, main)
