"""Training of token-level language models: the keys that their recipes share, and the way from data to a run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lmbase.config import option
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.text.tokenizers import check_same_tokenizer
from lmbase.training.batches import count_tokens, steps_for
from lmbase.training.cost import write_training
from lmbase.training.loop import TrainingConfig, TrainingResult, train
from lmbase.training.validation import validation_loss
from sllm_data.datasets import TokenWindowItems
from sllm_data.open_data import open_data
from sllm_data.prepared import PreparedData


@dataclass
class TokenTrainingConfig(TrainingConfig):
    """Keys of the recipes that train on windows of tokens."""

    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str | None = option(None, "hub id, folder, bpe:N or bytes; default: the model's own, else bpe:8192")
    rule: str = option("auto", "how prepare cuts sentences: punctuation, sentence, line or auto")
    max_sentence_tokens: int = option(64, "tokens per sentence, at most")
    context: int = option(512, "positions of a training window; those of a model with random weights")
    train_tokens: int | None = option(None, "train on about so many tokens (sets max_steps)")
    eval_windows: int = option(64, "windows of the valid split that the log's figures are taken from")


def open_for(config: TokenTrainingConfig, own: str | None) -> PreparedData:
    """The data of a run; `own` is where the tokenizer of a model with weights is found."""
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer or own or "bpe:8192",
        rule=config.rule,
        max_sentence_tokens=config.max_sentence_tokens,
        output_dir=config.output_dir,
    )
    if own:
        check_same_tokenizer(own, data.processor.tokenizer, "the data", f"the model {own}")
    return data


def train_on_windows(
    model: Any,
    config: TokenTrainingConfig,
    data: PreparedData,
    *,
    save_weights: Callable[[Any, Path], None],
    parents: list[str | None],
    before_step: Callable[[Any, int], None] | None = None,
    flops: Callable[[int, int], float] | None = None,
) -> TrainingResult:
    """Train a model that reads `</s>` and the tokens of a window (`lmbase.modeling.token_lm.TokenLM`, for instance).

    Args:
        model: besides what `train` asks for, `config` (a PreTrainedConfig) and `flops(num_tokens, context)`.
        parents: the runs that it started from.
        flops: of forward passes over so many tokens in such windows, where they are not always the model's.
    """
    positions = model.config.max_position_embeddings
    if config.context > positions:
        raise ValueError(f"context={config.context}: this model has {positions} positions.")
    model.config.training_context = config.context
    processor = data.processor
    items = TokenWindowItems(data.split("train"), processor.pad_token_id, config.context - 1)
    if config.train_tokens:
        config.max_steps = steps_for(config.train_tokens, items, config.batch_size)

    def save(trained: Any, folder: Path) -> None:
        save_weights(trained, folder)
        processor.save_pretrained(folder)

    evaluate = None
    if "valid" in data.splits:
        valid = TokenWindowItems(data.split("valid"), processor.pad_token_id, config.context - 1)
        micro = config.micro_batch_size or config.batch_size
        evaluate = lambda model: validation_loss(model, valid, config.eval_windows, micro)  # noqa: E731
    result = train(
        model,
        len(items),
        items.batch,
        config,
        config.output_dir,
        count_tokens=count_tokens,
        lengths=items.lengths,
        evaluate=evaluate,
        before_step=before_step,
        save_model=save,
        data_hash=data.hash,
    )
    spent = FORWARD_AND_BACKWARD * (flops or model.flops)(result.tokens, config.context)
    write_training(config.output_dir, result.tokens, result.seconds, spent, parents, seed=config.seed)
    return result
