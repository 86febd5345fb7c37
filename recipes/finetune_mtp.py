"""Train a multi-token model: n heads on one trunk, head i predicts the i-th next token (arXiv 2404.19737).

    sllm finetune-mtp mtp_tiny
    sllm finetune-mtp --opt facebook/opt-125m --data my_text/*.txt --output_dir runs/mtp125m
    sllm finetune-mtp --model runs/mtp125m --draft_transitions true --train_transitions_only true --data my_text/*.txt
    sllm finetune-mtp --model runs/mtp125m --num_future_tokens 1 --data my_text/*.txt --output_dir runs/mtp125m_1
    torchrun --nproc-per-node 8 recipes/finetune_mtp.py mtp_opt1.3b --data my_text/*.jsonl

`--opt random:SIZE` trains from nothing, with as many blocks as that OPT has: n - 1 leave the trunk for heads. A
pretrained OPT keeps all of its blocks: the last becomes head 1, and the further heads start as its copies. `--model`
goes on with a multi-token model, with its first `num_future_tokens` heads.

Head 1 alone is an ordinary language model; the others pay in decoding: sllm generate --model RUN drafts with them.
Logged are the nats of each head (0 for heads that a curriculum leaves out) and, on the valid split, bits per byte of
head 1.
"""

import statistics
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import PositiveInt

from lmbase.config import option, run
from lmbase.modeling.folders import load_with_more, model_folder
from lmbase.modeling.trunk import load_lm, own_tokenizer, random_config
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from multitoken import MultiTokenLM, MultiTokenLMConfig
from sllm_data.prepared import PreparedData
from sllm_recipes.training_run import TokenTrainingConfig, open_for, train_on_windows


@dataclass
class Config(TokenTrainingConfig):
    output_dir: str = option(
        "runs/finetune-mtp", "the run's folder; the same command again continues it", may_differ=True
    )
    model: str | None = option(None, "a multi-token model to train further; default: heads on `opt`")
    opt: str | None = option(None, "hub id, folder, or random:tiny|small|bytes|opt-125m|opt-350m|opt-1.3b")
    num_future_tokens: PositiveInt | None = option(None, "heads; default: the model's, or 4")
    head_kind: Literal["parallel", "linear", "causal", "anticausal"] | None = option(
        None, "a block on the trunk, a linear layer on it, a block on a neighbour; default: the model's, or parallel"
    )
    own_unembeddings: bool | None = option(
        None, "a vocabulary matrix for each head (published for bytes); default: the model's, or false"
    )
    head_weights: list[float] | None = option(None, "factor of each head's loss; default: all 1")
    draft_transitions: bool | None = option(None, "guesses know the guess before them; default: the model's, or false")
    train_transitions_only: bool | None = option(
        None, "add them to a finished `model`, which stays as it is; default: the model's, or false"
    )
    draft_targets: Literal["text", "greedy"] | None = option(
        None, "what transitions alone learn: the text, or what head 1 itself writes; default: the model's, or text"
    )
    curriculum: Literal["static", "forward", "reverse"] = option(
        "static", "forward: 1, 2 .. n heads in equal parts of the training; reverse: n .. 1"
    )


def build(config: Config, data: PreparedData) -> MultiTokenLM:
    torch.manual_seed(config.seed)
    n = config.num_future_tokens
    names = ("draft_transitions", "train_transitions_only", "draft_targets")
    transitions = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.model:
        if config.opt:
            raise ValueError("Give either `model`, a multi-token model to go on with, or `opt`, not both.")
        folder = model_folder(config.model, "multi_token_lm")
        model_config = MultiTokenLMConfig.from_pretrained(folder)
        if transitions.get("draft_transitions", model_config.draft_transitions) != model_config.draft_transitions:
            model_config.draft_tree = None  # was measured with other guesses
        for name, value in transitions.items():
            setattr(model_config, name, value)
        model = load_with_more(MultiTokenLM, folder, model_config, ("draft_transitions.",))
        for name in ("head_kind", "own_unembeddings"):
            given, own = getattr(config, name), getattr(model.config, name)
            if given is not None and given != own:
                raise ValueError(
                    f"{name}={given}: the heads of {config.model} were made with {own}; --opt makes new ones."
                )
        if n is not None and n != model.config.num_future_tokens:
            if n == 1 and config.train_transitions_only:
                raise ValueError("train_transitions_only: a model with one head has none; take more heads.")
            model = model.with_heads(n)
        if model.config.train_transitions_only and config.curriculum != "static":
            raise ValueError(
                f"curriculum={config.curriculum}: only transitions are trained, all of them all the time; leave it "
                "out, or give --train_transitions_only false."
            )
        if config.head_weights is not None:
            model.config.head_weights = config.head_weights
            model.config.check()
        return model
    if config.train_transitions_only:
        raise ValueError(
            "train_transitions_only: heads on an OPT have to be trained first; give --model, such a model."
        )
    options = dict(transitions, head_weights=config.head_weights, own_unembeddings=bool(config.own_unembeddings))
    kind = config.head_kind or "parallel"
    spec = config.opt or "random:small"
    if not spec.startswith("random:"):
        return MultiTokenLM.from_lm(load_lm(spec), n or 4, kind, **options)
    vocab_size = vocabulary_size(data.processor.tokenizer)
    opt_config = random_config(spec, vocab_size=vocab_size, max_positions=config.context)
    return MultiTokenLM(MultiTokenLMConfig.matching(opt_config, n or 4, kind, **options))


def main(config: Config) -> TrainingResult:
    start = config.model or config.opt
    model = build(config, data := open_for(config, own_tokenizer(start)))

    model.trains_in_part = config.curriculum != "static"

    def before_step(model: MultiTokenLM, step: int) -> None:
        n = model.config.num_future_tokens
        stage = min(step * n // config.max_steps, n - 1)
        model.num_active_heads = {"static": n, "forward": stage + 1, "reverse": n - stage}[config.curriculum]

    def flops(num_tokens: int, context: int) -> float:
        n = model.config.num_future_tokens
        stages = [n] if config.curriculum == "static" else range(1, n + 1)  # as many steps each
        return statistics.mean(model.flops(num_tokens, context, num_heads) for num_heads in stages)

    return train_on_windows(
        model,
        config,
        data,
        save_weights=lambda model, folder: model.save_pretrained(folder),
        parents=[start],
        before_step=before_step,
        flops=flops,
    )


if __name__ == "__main__":
    run(Config, main)
