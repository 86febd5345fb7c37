"""Graft a sentence autoencoder onto an OPT trunk and finetune the whole: a language model that reads and predicts
one vector per sentence.

    sllm finetune-sllm sllm_tiny
    sllm finetune-sllm sllm_opt125m_h1 --data my_text/*.txt
    torchrun --nproc-per-node 8 recipes/finetune_sllm.py sllm_opt1.3b_h1 --strategy fsdp

With `num_future_tokens` the sentence decoder has drafting heads: it writes the same text, in fewer passes. They can be
trained together with the rest, or added to a finished model, which then stays as it is:

    sllm finetune-sllm --model runs/sllm_tiny --num_future_tokens 4 --draft_head_kind residual --data runs/data_tiny \
        --draft_transitions true --train_draft_heads_only true --draft_targets greedy

`vae` is a run of pretrain-vae, `opt` the trunk; `model` instead of both goes on with an SLLM. Logged on the valid
split: nats per token, nats of the stop flag, bits per byte in training windows; `sllm evaluate` gives the exact,
audited figures beside the baselines.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt

from lmbase.config import option, run
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.modeling.folders import load_with_more, model_folder
from lmbase.modeling.trunk import load_lm, own_tokenizer
from lmbase.text.tokenizers import check_same_tokenizer
from lmbase.training.batches import count_tokens, steps_for
from lmbase.training.cost import write_training
from lmbase.training.loop import TrainingConfig, TrainingResult, train
from lmbase.training.validation import validation_loss
from sentencevae import SentenceVAE
from sllm import SLLM, SLLMConfig
from sllm_data.datasets import SentenceWindowItems
from sllm_data.open_data import open_data


@dataclass
class Config(TrainingConfig):
    output_dir: str = option(
        "runs/finetune-sllm", "the run's folder; the same command again continues it", may_differ=True
    )
    model: str | None = option(None, "an SLLM to train further; default: graft `vae` onto `opt`")
    vae: str | None = option(None, "a run of pretrain-vae")
    opt: str | None = option(None, "the trunk: hub id, folder or random:SIZE")
    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    max_sentences: int | None = option(None, "sentences of a window, in training and scoring; default: 64")
    num_memory_states: int | None = option(None, "the decoder reads so many of the latest trunk states; default: 1")
    num_memory_tokens: int | None = option(
        None, "the decoder also reads so many tokens before its sentence; default: 0"
    )
    freeze_trunk_layers: int | None = option(None, "k: train only the trunk's first and last k layers; null: all")
    freeze_autoencoder: bool | None = option(None, "train the trunk and the joints only; default: false")
    stop_weight: float | None = option(None, "weight of the stop flag's loss; default: 1, exact likelihood")
    num_future_tokens: PositiveInt | None = option(
        None, "heads of the sentence decoder, those after the first draft; default: the model's, or 1"
    )
    draft_head_kind: Literal["block", "residual"] | None = option(
        None, "a layer like the decoder's, or one linear layer; default: the model's, or block"
    )
    draft_transitions: bool | None = option(None, "guesses know the guess before them; default: the model's, or false")
    train_draft_heads_only: bool | None = option(None, "add drafting heads to a finished `model`, which stays as it is")
    draft_targets: Literal["text", "greedy"] | None = option(
        None,
        "what drafting heads alone learn: the text, or the model's own choices; default: the model's, or text",
    )
    train_tokens: int | None = option(None, "train on about so many tokens (sets max_steps)")
    eval_windows: int = option(64, "windows of the valid split that the log's figures are taken from")


def build(config: Config) -> SLLM:
    """The model to train, its processor with it."""
    torch.manual_seed(config.seed)
    names = (
        "max_sentences",
        "freeze_trunk_layers",
        "freeze_autoencoder",
        "stop_weight",
        "num_future_tokens",
        "draft_head_kind",
        "draft_transitions",
        "train_draft_heads_only",
        "draft_targets",
    )
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    memory = {name: getattr(config, name) for name in ("num_memory_states", "num_memory_tokens")}
    memory = {name: value for name, value in memory.items() if value is not None}
    if config.model:
        if config.vae or config.opt:
            raise ValueError("Give either `model`, an SLLM to go on with, or `vae` and `opt` to graft, not both.")
        folder = model_folder(config.model, "sllm")
        model_config = SLLMConfig.from_pretrained(folder)
        for name, value in memory.items():
            if getattr(model_config, name) != value:
                raise ValueError(
                    f"{name}={value}: the decoder of {config.model} was grafted with {getattr(model_config, name)}; "
                    "only a new graft (--vae, --opt) can change its memory."
                )
        kind = given.get("draft_head_kind", model_config.draft_head_kind)
        if model_config.num_future_tokens > 1 and kind != model_config.draft_head_kind:
            raise ValueError(
                f"draft_head_kind={kind}: the heads of {config.model} are of the kind {model_config.draft_head_kind}."
            )
        for name, value in given.items():
            setattr(model_config, name, value)
        return load_with_more(SLLM, folder, model_config, ("draft_heads.", "draft_transitions."))
    if not (config.vae and config.opt):
        raise ValueError("An SLLM is grafted from two parts: give --vae (a run of pretrain-vae) and --opt (the trunk).")
    vae = SentenceVAE.from_pretrained(model_folder(config.vae, "sentence_vae"))
    own = own_tokenizer(config.opt)
    if own:
        check_same_tokenizer(own, vae.processor.tokenizer, f"the autoencoder {config.vae}", f"the trunk {config.opt}")
    opt = load_lm(config.opt, vocab_size=vae.config.vocab_size, seed=config.seed)
    return SLLM.graft(vae, opt, **given, **memory)


def main(config: Config) -> TrainingResult:
    model = build(config)
    processor = model.processor
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=model_folder(config.model or str(config.vae)),
        rule=processor.rule,
        max_sentence_tokens=processor.max_sentence_tokens,
        output_dir=config.output_dir,
    )
    if data.processor.fingerprint != processor.fingerprint:
        raise ValueError(
            f"{config.data} was prepared with another tokenizer, rule or sentence length than the autoencoder was "
            f"trained with ({processor.rule}, {processor.max_sentence_tokens} tokens). Prepare it again with "
            f"--tokenizer {config.model or config.vae}/model --rule {processor.rule}."
        )
    split = data.split("train")
    items = SentenceWindowItems(split, processor.pad_token_id, model.config.max_sentences)
    if config.train_tokens:
        config.max_steps = steps_for(config.train_tokens, items, config.batch_size)
    evaluate = None
    if "valid" in data.splits:
        valid = SentenceWindowItems(data.split("valid"), processor.pad_token_id, model.config.max_sentences)
        micro = config.micro_batch_size or config.batch_size
        evaluate = lambda m: validation_loss(m, valid, config.eval_windows, micro)  # noqa: E731
    result = train(
        model,
        len(items),
        items.batch,
        config,
        config.output_dir,
        count_tokens=count_tokens,
        lengths=items.lengths,
        evaluate=evaluate,
        save_model=lambda m, folder: m.save_pretrained(folder),
        data_hash=data.hash,
    )
    num_sentences = round(result.tokens * split.num_sentences / split.num_tokens)
    flops = FORWARD_AND_BACKWARD * model.flops(result.tokens, num_sentences)
    parents = [config.model, config.vae, config.opt]
    write_training(config.output_dir, result.tokens, result.seconds, flops, parents, seed=config.seed)
    return result


if __name__ == "__main__":
    run(Config, main)
