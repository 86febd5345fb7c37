"""Pretrain a sentence autoencoder: a sentence in, one vector, the same sentence out.

    sllm pretrain-vae vae_tiny
    sllm pretrain-vae vae_opt --lm facebook/opt-350m --layers 2 --data my_text/*.txt

With `lm` its width, its attention heads, its tokenizer and (with `start_from_table`) its vocabulary table come from
the trunk that it will be grafted onto; without it, set `hidden_size` and `num_attention_heads`.

Logged on the valid split: nats per token, perplexity with the true words before (teacher forcing), token accuracy and,
at the end, the share of sentences that free-running decoding writes exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch
from pydantic import NonNegativeInt, PositiveInt

from lmbase.config import given_on_command_line, option, run
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.trunk import input_table, vector_heads, vector_width
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from lmbase.training.validation import validation_loss
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm_data.datasets import SentenceDataset
from sllm_data.prepared import PreparedData
from sllm_recipes.model_keys import given_keys, with_keys_of
from sllm_recipes.training_run import FirstRunConfig, Recipe, open_for, train_on

# What data, trunk or an SLLM decide, or nobody changes.
DECIDED = (
    "vocab_size",
    "hidden_size",
    "num_attention_heads",
    "max_sentence_tokens",
    "memory_size",
    "num_memory_vectors",
    "activation_function",
    "init_std",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
)


@dataclass
@with_keys_of(SentenceVAEConfig, without=DECIDED)
class Config(FirstRunConfig):
    output_dir: str = option(
        "runs/pretrain-vae", "the run's folder; the same command again continues it", may_differ=True
    )
    lm: str | None = option(
        None, "the trunk to fit: hub id, folder, GGUF file or random:SIZE; default: none", also="opt"
    )
    start_from_table: bool = option(True, "begin with the trunk's vocabulary table (unless the trunk is random)")
    hidden_size: PositiveInt = option(256, "width of a sentence vector, where no trunk sets it")
    num_attention_heads: PositiveInt = option(4, "attention heads, where no trunk sets them")
    layers: PositiveInt | None = option(
        None, "of encoder and decoder each (sets num_encoder_layers and num_decoder_layers)"
    )
    kl_warmup_steps: NonNegativeInt = option(1000, "steps over which kl_weight grows from 0")
    eval_sentences: PositiveInt = option(4096, "sentences of the valid split that the log's figures are taken from")


def build(config: Config, data: PreparedData) -> SentenceVAE:
    """A new autoencoder for `data`, of the trunk's shape if there is one."""
    processor = data.processor
    fields = given_keys(config, SentenceVAEConfig)
    fields["vocab_size"] = vocabulary_size(processor.tokenizer)
    table = None
    if config.lm:
        lm = load_lm(config.lm, vocab_size=fields["vocab_size"])
        table = input_table(lm)
        fields["vocab_size"] = len(table)
        trunks = {"hidden_size": vector_width(lm.config), "num_attention_heads": vector_heads(lm.config)}
        for name, own in trunks.items():
            if name in given_on_command_line(config) and fields[name] != own:
                raise ValueError(
                    f"{name}={fields[name]}: the trunk {config.lm} sets it, to {own}; leave the key out, or --lm."
                )
        fields |= trunks
    torch.manual_seed(config.seed)
    fields["max_sentence_tokens"] = processor.max_sentence_tokens
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        fields[name] = getattr(processor, name)
    vae = SentenceVAE(SentenceVAEConfig(**fields))
    if table is not None and config.start_from_table and own_tokenizer(config.lm):
        with torch.no_grad():
            vae.embed_tokens.weight.copy_(table)
    vae.processor = processor
    return vae


def _settle_layers(config: Config) -> None:
    """`layers` is a shorter word for two keys; either of these, on the command line, is the more exact one."""
    if config.layers is not None:
        given = given_on_command_line(config)
        for name in ("num_encoder_layers", "num_decoder_layers"):
            if name not in given:
                setattr(config, name, config.layers)
        config.layers = None  # so that the saved configuration says it once


def check_latent_keys(config: Config) -> None:
    """Raise ValueError where the command line says what a KL divergence costs that is not there."""
    given = given_on_command_line(config) & {"kl_weight", "kl_warmup_steps", "free_bits"}
    latent = vars(config)["latent"]  # a key of the model's, which a type checker does not see
    if given and latent != "gaussian":
        raise ValueError(
            f"{', '.join(sorted(given))}: of a Gaussian latent, and latent={latent!r}; give --latent gaussian, "
            "or leave the key out."
        )


def figures(model: SentenceVAE, valid: SentenceDataset, num_sentences: int) -> dict[str, float]:
    """Of an autoencoder on the valid split."""
    found = validation_loss(model, valid, num_sentences, 256)
    del found["bits_per_byte"]  # an autoencoder has seen the text
    chosen = np.linspace(0, len(valid) - 1, min(512, len(valid))).astype(np.int64)
    batch = valid.batch(chosen)
    rows = [row[m].tolist() for row, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
    written = model.reconstruct_ids(rows)
    found["exact_match"] = sum(a == b for a, b in zip(rows, written, strict=True)) / len(rows)
    return found


def main(config: Config) -> TrainingResult:
    _settle_layers(config)
    check_latent_keys(config)
    data = open_for(config, own_tokenizer(config.lm))
    vae = build(config, data)

    def before_step(model: SentenceVAE, step: int) -> None:
        model.kl_scale = min(1.0, (step + 1) / max(config.kl_warmup_steps, 1))

    recipe = Recipe(
        items_of=lambda split: SentenceDataset(split, data.processor.pad_token_id),
        figures=lambda trained, valid: figures(trained, valid, config.eval_sentences),
        flops=vae.flops,
        parents=[config.lm if config.start_from_table else None],
        before_step=before_step,
    )
    return train_on(vae, config, data, recipe)


if __name__ == "__main__":
    run(Config, main)
