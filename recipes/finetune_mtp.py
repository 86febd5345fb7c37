"""Train a multi-token model: n heads on one trunk, head i predicts the i-th next token (arXiv 2404.19737).

    sllm finetune-mtp mtp_tiny
    sllm finetune-mtp mtp_opt --lm facebook/opt-350m --data my_text/*.txt
    sllm finetune-mtp --model runs/mtp_tiny --draft_transitions true --train_transitions_only true --data my_text/*.txt
    sllm finetune-mtp --model runs/mtp_tiny --num_future_tokens 1 --data my_text/*.txt --output_dir runs/mtp_tiny_1
    torchrun --nproc-per-node 8 -m sllm_recipes.finetune_mtp mtp_opt --lm facebook/opt-1.3b --data my_text/*.jsonl

`--lm random:SIZE` trains from nothing, with as many blocks as that model has: n - 1 leave the trunk for heads. A
pretrained model keeps all of its blocks: the last becomes head 1, and the further heads start as its copies. `--model`
goes on with a multi-token model, with its first `num_future_tokens` heads.

Head 1 alone is an ordinary language model; the others pay in decoding: sllm generate --model RUN drafts with them.
Logged are the nats of each head (0 for heads that a curriculum leaves out) and, on the valid split, bits per byte of
head 1.
"""

import statistics
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from lmbase.config import option, run
from lmbase.modeling.folders import model_folder, quiet_loading
from lmbase.modeling.pretrained import load_lm, own_tokenizer
from lmbase.modeling.text_model import take_open_ids
from lmbase.modeling.trunk import random_config
from lmbase.text.tokenizers import vocabulary_size
from lmbase.training.loop import TrainingResult
from multitoken import MultiTokenLM, MultiTokenLMConfig
from sllm_data.prepared import PreparedData
from sllm_recipes.model_keys import given_keys, with_keys_of
from sllm_recipes.training_run import WindowConfig, open_for, train_on, window_recipe


@dataclass
@with_keys_of(MultiTokenLMConfig, without=("trunk", "draft_tree"), of_model=True)
class Config(WindowConfig):
    output_dir: str = option(
        "runs/finetune-mtp", "the run's folder; the same command again continues it", may_differ=True
    )
    model: str | None = option(None, "a multi-token model to train further; default: heads on `lm`")
    lm: str | None = option(
        None, "hub id, folder, GGUF file, random:SIZE or random:FAMILY-SIZE; default: random:small", also="opt"
    )
    curriculum: Literal["static", "forward", "reverse"] = option(
        "static", "forward: 1, 2 .. n heads in equal parts of the training; reverse: n .. 1"
    )


def build(config: Config, data: PreparedData) -> MultiTokenLM:
    torch.manual_seed(config.seed)
    given = given_keys(config, MultiTokenLMConfig)
    if config.model:
        if config.lm:
            raise ValueError("Give either `model`, a multi-token model to go on with, or `lm`, not both.")
        return _further(config.model, given, config.curriculum)
    if given.get("train_transitions_only"):
        raise ValueError(
            "train_transitions_only: heads on a plain model have to be trained first; give --model, such a model."
        )
    n, kind = given.pop("num_future_tokens", 4), given.pop("head_kind", "parallel")
    spec = config.lm or "random:small"
    if not spec.startswith("random:"):
        lm = load_lm(spec)
        take_open_ids(lm.config, data.processor.tokenizer)
        return MultiTokenLM.from_lm(lm, n, kind, **given)
    vocab_size = vocabulary_size(data.processor.tokenizer)
    lm_config = random_config(spec, vocab_size=vocab_size, max_positions=config.context)
    return MultiTokenLM(MultiTokenLMConfig.matching(lm_config, n, kind, **given))


def _further(folder: str, given: dict[str, Any], curriculum: str) -> MultiTokenLM:
    """A multi-token model to go on with, perhaps with fewer heads or with new transitions."""
    source = model_folder(folder, "multi_token_lm")
    with quiet_loading(folder):
        config = MultiTokenLMConfig.from_pretrained(source)
    for name in ("head_kind", "own_unembeddings"):
        own = getattr(config, name)
        if given.get(name, own) != own:
            raise ValueError(f"{name}={given[name]}: the heads of {folder} were made with {own}; --lm makes new ones.")
    if given.get("draft_transitions", config.draft_transitions) != config.draft_transitions:
        config.draft_tree = None  # was measured with other guesses
    n = given.pop("num_future_tokens", config.num_future_tokens)
    weights = given.pop("head_weights", None)
    for name, value in given.items():
        setattr(config, name, value)
    if n == 1 < config.num_future_tokens and given.get("train_transitions_only"):
        raise ValueError("train_transitions_only: a model with one head has none; take more heads.")
    model = MultiTokenLM.from_pretrained(source, config=config, new_parts=("draft_transitions.",))
    if n != config.num_future_tokens:
        model = model.with_heads(n)
    if model.config.train_transitions_only and curriculum != "static":
        raise ValueError(
            f"curriculum={curriculum}: only transitions are trained, all of them all the time; leave it out, or give "
            "--train_transitions_only false."
        )
    if weights is not None:
        model.config.head_weights = weights
        model.config.check()
    return model


def main(config: Config) -> TrainingResult:
    own = model_folder(config.model, "multi_token_lm") if config.model else own_tokenizer(config.lm)
    model = build(config, data := open_for(config, own))
    model.tokenizer = data.processor.tokenizer
    model.trains_in_part = config.curriculum != "static"

    def before_step(model: MultiTokenLM, step: int) -> None:
        n = model.config.num_future_tokens
        if n > config.max_steps and config.curriculum != "static":
            raise ValueError(
                f"curriculum={config.curriculum}: {config.max_steps} steps are too few for {n} heads to join one after "
                "another; give a longer training or fewer heads."
            )
        stage = min(step * n // config.max_steps, n - 1)
        model.num_active_heads = {"static": n, "forward": stage + 1, "reverse": n - stage}[config.curriculum]

    def flops(num_tokens: int, _: int) -> float:
        n = model.config.num_future_tokens
        stages = [n] if config.curriculum == "static" else range(1, n + 1)  # as many steps each
        return statistics.mean(model.flops(num_tokens, config.context, num_heads) for num_heads in stages)

    recipe = window_recipe(model, config, data, [config.model or config.lm])
    return train_on(model, config, data, replace(recipe, before_step=before_step, flops=flops))


if __name__ == "__main__":
    run(Config, main)
