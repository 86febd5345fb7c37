"""What the four trainings share: the keys, the way from a text to data, and from data to a finished run."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from pydantic import PositiveInt
from torch import Tensor

from lmbase.config import given_on_command_line, option
from lmbase.modeling.devices import choose_device
from lmbase.modeling.flops import FORWARD_AND_BACKWARD
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import check_same_tokenizer
from lmbase.training.batches import Batch, Dataset, Items, steps_for
from lmbase.training.cost import write_training
from lmbase.training.loop import Hooks, TrainingConfig, TrainingData, TrainingResult, train
from lmbase.training.validation import validation_loss
from sllm.evaluation.kept_window import as_configured
from sllm.evaluation.kinds import kind_of
from sllm.evaluation.loaded import Writing
from sllm_data.datasets import TokenWindowDataset
from sllm_data.extra_cuts import ExtraCuts
from sllm_data.open_data import RULE_KEY, open_data
from sllm_data.prepared import PreparedData, PreparedSplit
from sllm_recipes.teaching import Teaching

VERIFY = "compare models and data with their checksums; false: sizes and structure only, for very large folders"
SHORT_CONTEXT = "a window holds the opening token and a token at least; give 2 at least."
SAMPLE_TOKENS = 24  # written after an evaluation


@dataclass
class RunConfig(TrainingConfig):
    """Keys of every training on text."""

    data: str | list[str] = option(
        "stdlib", "a folder written by prepare, or what prepare reads: stdlib, hub:NAME, files"
    )
    text_field: str = option("text", "the field of a record that holds the text")
    train_tokens: PositiveInt | None = option(None, "train on about so many tokens (sets max_steps)")
    verify: bool = option(True, VERIFY, may_differ=True)
    sample_prompt: str | None = option(
        None,
        "a text that is continued after each evaluation (by an autoencoder: written out again), to read how it comes "
        "along",
        may_differ=True,
        prose=True,
    )


@dataclass
class FirstRunConfig(RunConfig):
    """Keys of a training that may begin with raw text; one that goes on takes these from the model."""

    tokenizer: str | None = option(None, "hub id, folder, bpe:N or bytes; default: the model's own, else bpe:8192")
    rule: str = option("auto", RULE_KEY)
    max_sentence_tokens: PositiveInt = option(64, "tokens per sentence, at most")


@dataclass
class WindowConfig(FirstRunConfig):
    """Keys of a training on windows of tokens."""

    context: PositiveInt = option(512, "positions of a training window; those of a model with random weights")
    eval_windows: PositiveInt = option(64, "windows of the valid split that the log's figures are taken from")


def open_for(config: FirstRunConfig, own: str | None) -> PreparedData:
    """The data of a run; `own` is where the tokenizer of a model with weights is found."""
    choose_device(config.device)  # complains before the text is prepared
    if isinstance(config, WindowConfig) and config.context < 2:
        raise ValueError(f"context={config.context}: {SHORT_CONTEXT}")
    data = open_data(
        config.data,
        text_field=config.text_field,
        tokenizer=config.tokenizer or own or "bpe:8192",
        rule=config.rule,
        max_sentence_tokens=config.max_sentence_tokens,
        output_dir=config.output_dir,
        asked=given_on_command_line(config),
    )
    if own:
        check_same_tokenizer(own, data.processor.tokenizer, "the data", f"the model {own}")
    return data


@dataclass(frozen=True)
class Recipe:
    """What sets one recipe's training on text apart from another's."""

    items_of: Callable[[PreparedSplit], Dataset]  # what is read of a split
    figures: Callable[[Any, Any], dict[str, float]]  # of a model on the valid split's items
    flops: Callable[[int, int], float]  # of a forward pass over so many tokens and sentences
    parents: list[str | None]  # the runs that it started from
    save_model: Callable[[Any, Path], None] = lambda model, folder: model.save_pretrained(folder)
    before_step: Callable[[Any, int], None] | None = None  # as in `Hooks`
    writer: Callable[[Any], Any] = lambda model: model  # the part of a model that `generate` is asked of
    teaching: Teaching | None = None  # what the model's batches bring of a teacher
    cuts: ExtraCuts | None = None  # sentences are cut further
    fit_tokens: int = 0  # that were read before the first step
    fit_flops: float = 0.0  # which that cost


def train_on(model: Any, config: RunConfig, data: PreparedData, recipe: Recipe) -> TrainingResult:
    """Train a model on the train split, with figures of the valid split in the log, and write down what it cost.

    Raises:
        ValueError: both `max_steps` and `train_tokens` on the command line, a token that a teacher's cache lacks, or an
            output_dir whose model the run starts from.
    """
    _check_apart(config.output_dir, [*recipe.parents, recipe.teaching.source if recipe.teaching else None])
    split = data.split("train")
    items = recipe.items_of(split)
    _settle_steps(config, items)
    if PartialState().is_main_process:
        print("".join(f"{line}\n" for line in odd_lengths(config, items)), end="")
    valid = recipe.items_of(data.split("valid")) if "valid" in data.splits else None
    prompt = config.sample_prompt
    hooks = Hooks(
        save_model=recipe.save_model,
        evaluate=None if valid is None else lambda trained: recipe.figures(trained, valid),
        before_step=recipe.before_step,
        write=None if not prompt else lambda trained: sample(recipe.writer(trained), data.processor, prompt),
    )
    read: Items = items
    hashes = [data.training_hash, data.hash]  # the latter is what earlier versions wrote down
    parents, flops = recipe.parents, recipe.flops
    if recipe.teaching:
        parents, flops = [*parents, recipe.teaching.source], recipe.teaching.flops_beside(flops)
        recipe.teaching.check_covers(items, config.max_steps, config.batch_size, config.seed)
        read, hashes = recipe.teaching.items(items), [recipe.teaching.data_hash(each) for each in hashes]
    cuts, change = recipe.cuts, None
    if cuts is not None:

        def change(batch: Batch, keys: Tensor, step: int) -> Batch:
            return cuts(batch, keys, step / config.max_steps)

    prepared = TrainingData(read, items.lengths, hash=hashes[0], earlier_hash=hashes[1], change=change)
    result = train(model, prepared, config, config.output_dir, hooks)
    num_sentences = round(result.tokens * split.num_sentences / split.num_tokens)
    if cuts is not None:
        num_sentences += round(cuts.mean_probability * (result.tokens - num_sentences))
    spent = recipe.fit_flops + FORWARD_AND_BACKWARD * flops(result.tokens, num_sentences)
    tokens = recipe.fit_tokens + result.tokens
    write_training(config.output_dir, tokens, result.seconds, spent, parents, seed=config.seed)
    return result


def sample(model: Any, processor: SentenceProcessor, prompt: str) -> str:
    """What a model makes of a prompt while it is trained, on one line. One that it cannot read ends no training."""
    loaded = as_configured(kind_of(model.config.model_type)("the model", model, processor.tokenizer), lambda: processor)
    try:
        if loaded.predicts:
            text = f"writes: {prompt}{loaded.write(prompt, Writing(SAMPLE_TOKENS, num_draft=1)).text}"
        else:
            text = f"writes out again: {prompt} -> {model.reconstruct([prompt])[0]}"
    except ValueError as error:
        text = f"sample_prompt: {error}"
    return " ".join(text.split())[:200]


def window_recipe(
    model: Any,
    config: WindowConfig,
    data: PreparedData,
    parents: list[str | None],
    writer: Callable[[Any], Any] = lambda model: model,
) -> Recipe:
    """How `train_on` trains a model that reads `</s>` and the tokens of a window, such as a `TokenLM`.

    Args:
        model: besides what `train` asks for, `config` (a PreTrainedConfig) and `flops(num_tokens, context)`.
        writer: the part of the model that writes texts and is saved.
    """
    positions = model.config.max_position_embeddings
    if config.context > positions:
        raise ValueError(f"context={config.context}: this model has {positions} positions.")
    model.config.training_context = config.context
    processor = data.processor

    def save_model(trained: Any, folder: Path) -> None:
        writer(trained).save_pretrained(folder)
        processor.save_pretrained(folder)

    return Recipe(
        items_of=lambda split: TokenWindowDataset(split, processor.pad_token_id, config.context - 1),
        figures=lambda trained, valid: window_figures(trained, valid, config.eval_windows, config),
        flops=lambda num_tokens, _: model.flops(num_tokens, config.context),
        parents=parents,
        save_model=save_model,
        writer=writer,
    )


def window_figures(model: Any, valid: Any, num_windows: int, config: TrainingConfig) -> dict[str, float]:
    """Losses on some windows of the valid split, read as many at a time as in training."""
    return validation_loss(model, valid, num_windows, config.micro_batch_size or config.batch_size)


def _check_apart(output_dir: str, parents: list[str | None]) -> None:
    """A run in the place of what it starts from could not be continued, and the cost of that would be forgotten."""
    folder = Path(output_dir).resolve()
    for parent in parents:
        if parent and Path(parent).exists() and folder in (Path(parent).resolve(), Path(parent).resolve().parent):
            raise ValueError(
                f"output_dir={output_dir!r} holds {parent!r}, which this training starts from and would replace: "
                "choose another output_dir."
            )


def odd_lengths(config: RunConfig, items: Any) -> list[str]:
    """What of a training's length is hardly meant: more tokens than were asked for, a rate that is never reached."""
    found = []
    of_step = float(items.lengths.mean()) * config.batch_size
    if config.train_tokens and of_step > 2 * config.train_tokens:
        found.append(
            f"train_tokens={config.train_tokens}: one step reads about {of_step:,.0f} tokens (batch_size="
            f"{config.batch_size}), and is trained all the same; a smaller batch_size reads fewer."
        )
    if config.warmup_steps > config.max_steps and not config.quick:
        share = config.max_steps / config.warmup_steps
        found.append(
            f"warmup_steps={config.warmup_steps}: the training has {config.max_steps} steps, so that its rate only "
            f"grows, to {share:.0%} of learning_rate={config.learning_rate:g}."
        )
    return found


def _settle_steps(config: RunConfig, items: Any) -> None:
    """Two keys say how long a training is: the one on the command line counts, else `train_tokens`."""
    given = given_on_command_line(config)
    if {"max_steps", "train_tokens"} <= given:
        raise ValueError("max_steps and train_tokens both say how long the training is: give one of them.")
    if "max_steps" in given:
        config.train_tokens = None  # the saved configuration says the same
    elif config.train_tokens:
        config.max_steps = steps_for(config.train_tokens, items, config.batch_size)
