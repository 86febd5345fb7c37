"""Pretrain a sentence autoencoder: a sentence in, one vector, the same sentence out.

    sllm pretrain-vae vae_tiny
    sllm pretrain-vae vae_opt125m_h1 --data my_text/*.txt

With `opt` its width, its attention heads, its tokenizer and (with `start_from_table`) its vocabulary table come from
the trunk that it will be grafted onto; without it, set `hidden_size` and `num_attention_heads`.

Logged on the valid split: nats per token, perplexity with the true words before (teacher forcing), token accuracy and,
at the end, the share of sentences that free-running decoding writes exactly.
"""

from dataclasses import dataclass

import numpy as np
import torch

from lmbase.config import option, run
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.trunk import input_table, load_lm, own_tokenizer, vector_heads, vector_width
from lmbase.text.tokenizers import check_same_tokenizer, vocabulary_size
from lmbase.training.batches import count_tokens, steps_for
from lmbase.training.cost import write_training
from lmbase.training.loop import TrainingConfig, TrainingResult, train
from lmbase.training.validation import validation_loss
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm_data.datasets import SentenceItems
from sllm_data.open_data import open_data
from sllm_data.prepared import PreparedData


@dataclass
class Config(TrainingConfig):
    output_dir: str = option(
        "runs/pretrain-vae", "the run's folder; the same command again continues it", may_differ=True
    )
    opt: str | None = option(None, "the trunk to fit: hub id, folder or random:SIZE; default: none")
    start_from_table: bool = option(True, "begin with the trunk's vocabulary table (unless the trunk is random)")
    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str | None = option(None, "hub id, folder, bpe:N or bytes; default: the trunk's own, else bpe:8192")
    rule: str = option("auto", "how prepare cuts sentences: punctuation, sentence, line or auto")
    max_sentence_tokens: int = option(64, "tokens per sentence, at most")
    hidden_size: int = option(256, "width of a sentence vector, where no trunk sets it")
    num_attention_heads: int = option(4, "attention heads, where no trunk sets them")
    ffn_dim: int | None = option(None, "width of the feed-forward layers; default: 4 * hidden_size")
    num_encoder_layers: int = option(1, "1 to 4")
    num_decoder_layers: int = option(1, "1 to 4")
    pooling: str = option("learned", "learned, or sum (published)")
    latent: str = option("deterministic", "deterministic (published) or gaussian")
    kl_weight: float = option(1.0, "weight of the KL (gaussian)")
    kl_warmup_steps: int = option(1000, "steps over which that weight grows from 0")
    free_bits: float = option(0.05, "nats per latent dimension that cost nothing (gaussian)")
    latent_dropout: float = option(0.0, "share of sentences that the decoder learns to write without their vector")
    focal_gamma: float = option(0.0, "0: cross-entropy; the published focal loss has 2")
    dropout: float = option(0.0, "dropout probability")
    train_tokens: int | None = option(None, "train on about so many tokens (sets max_steps)")
    eval_sentences: int = option(4096, "sentences of the valid split that the log's figures are taken from")


def build(config: Config, data: PreparedData) -> SentenceVAE:
    """A new autoencoder for `data`, of the trunk's shape if there is one."""
    processor = data.processor
    vocab_size = vocabulary_size(processor.tokenizer)
    width, num_heads = config.hidden_size, config.num_attention_heads
    table = None
    if config.opt:
        opt = load_lm(config.opt, vocab_size=vocab_size)
        own = own_tokenizer(config.opt)
        if own:
            check_same_tokenizer(own, processor.tokenizer, "the data", f"the trunk {config.opt}")
        table = input_table(opt)
        vocab_size = len(table)
        width, num_heads = vector_width(opt.config), vector_heads(opt.config)
    torch.manual_seed(config.seed)
    vae = SentenceVAE(
        SentenceVAEConfig(
            vocab_size=vocab_size,
            hidden_size=width,
            num_attention_heads=num_heads,
            ffn_dim=config.ffn_dim,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            max_sentence_tokens=processor.max_sentence_tokens,
            pooling=config.pooling,
            latent=config.latent,
            kl_weight=config.kl_weight,
            free_bits=config.free_bits,
            latent_dropout=config.latent_dropout,
            focal_gamma=config.focal_gamma,
            dropout=config.dropout,
            pad_token_id=processor.pad_token_id,
            bos_token_id=processor.eos_token_id,
            eos_token_id=processor.eos_token_id,
        )
    )
    if table is not None and config.start_from_table and own_tokenizer(config.opt):
        with torch.no_grad():
            vae.embed_tokens.weight.copy_(table)
    vae.processor = processor
    return vae


def main(config: Config) -> TrainingResult:
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer or own_tokenizer(config.opt) or "bpe:8192",
        rule=config.rule,
        max_sentence_tokens=config.max_sentence_tokens,
        output_dir=config.output_dir,
    )
    vae = build(config, data)
    split = data.split("train")
    items = SentenceItems(split, data.processor.pad_token_id)
    if config.train_tokens:
        config.max_steps = steps_for(config.train_tokens, items, config.batch_size)

    evaluate = None
    if "valid" in data.splits:
        valid = SentenceItems(data.split("valid"), data.processor.pad_token_id)

        def evaluate(model: SentenceVAE) -> dict[str, float]:
            figures = validation_loss(model, valid, config.eval_sentences, 256)
            del figures["bits_per_byte"]  # an autoencoder has seen the text
            chosen = np.linspace(0, len(valid) - 1, min(512, len(valid))).astype(np.int64)
            batch = valid.batch(chosen)
            rows = [row[m].tolist() for row, m in zip(batch["input_ids"], batch["attention_mask"], strict=True)]
            written = model.reconstruct_ids(rows)
            figures["exact_match"] = sum(a == b for a, b in zip(rows, written, strict=True)) / len(rows)
            return figures

    def before_step(model: SentenceVAE, step: int) -> None:
        model.kl_scale = min(1.0, (step + 1) / max(config.kl_warmup_steps, 1))

    result = train(
        vae,
        len(items),
        items.batch,
        config,
        config.output_dir,
        count_tokens=count_tokens,
        lengths=items.lengths,
        evaluate=evaluate,
        before_step=before_step,
        save_model=lambda model, folder: model.save_pretrained(folder),
        data_hash=data.hash,
    )
    num_sentences = round(result.tokens * split.num_sentences / split.num_tokens)
    flops = FORWARD_AND_BACKWARD * vae.flops(result.tokens, num_sentences)
    parents = [config.opt if config.start_from_table else None]
    write_training(config.output_dir, result.tokens, result.seconds, flops, parents, seed=config.seed)
    return result


if __name__ == "__main__":
    run(Config, main)
