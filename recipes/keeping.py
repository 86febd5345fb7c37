"""Keys of finetune-sllm that let a graft keep more of what its language model knew; each is off by default."""

from dataclasses import dataclass
from typing import Any

from pydantic import NonNegativeFloat

from lmbase.config import option
from lmbase.modeling.trunk import blocks
from sllm import SLLM
from sllm_data.extra_cuts import ExtraCuts
from sllm_data.prepared import PreparedData
from sllm_data.teacher_cache import TeacherCache
from sllm_recipes.teaching import Teaching


@dataclass
class KeepingKeys:
    extra_cuts: float = option(
        0.0,
        "cut sentences further at first, into single tokens, and less and less over so large a share of the run; 0: no",
    )
    kept_cuts: float = option(0.0, "share of windows whose sentences are cut further at random until the run ends")
    window_dropout: float = option(
        0.0,
        "share of windows in training whose decoder sees no tokens of earlier sentences, so that it learns to use the "
        "trunk",
    )
    state_weight: NonNegativeFloat = option(
        0.0,
        "weight of how far what the upper layers read is from what the teacher's do (a graft by own layers, and a "
        "model as the teacher)",
    )


def check_keeping_keys(config: Any) -> None:
    """Before anything is prepared for a training.

    Raises:
        ValueError: a share that is none, or states to match without a model that has them.
    """
    for name, of_what in (("extra_cuts", "the run"), ("kept_cuts", "windows"), ("window_dropout", "windows")):
        if not 0 <= (value := getattr(config, name)) <= 1:
            raise ValueError(f"{name}={value:g} is no share of {of_what}: choose a number from 0, which is off, to 1.")
    if config.state_weight and config.teacher is None:
        raise ValueError(
            f"state_weight={config.state_weight:g}: there is no teacher whose states could be matched; give the model "
            "that was grafted (--teacher), or leave this out."
        )
    if config.state_weight and TeacherCache.is_at(config.teacher):
        raise ValueError(
            f"state_weight={config.state_weight:g}: the cache {config.teacher!r} holds probabilities and no states; "
            "give the model itself (--teacher), or leave this out."
        )


def check_teachable(model: SLLM, config: Any) -> None:
    """
    Raises:
        ValueError: a teacher for a model of which nothing would learn what it says.
    """
    why = None
    if model.draws_vectors:
        why = f"a head that draws the next sentence's vector (here {model.config.next_vector!r}) predicts no tokens"
    elif model.config.train_draft_heads_only:
        why = "train_draft_heads_only leaves all that it could teach as it is"
    if config.teacher is not None and why:
        also = f", state_weight={config.state_weight:g}" if config.state_weight else ""
        raise ValueError(f"teacher={config.teacher!r}{also}: {why}; leave the teacher out.")


def set_keeping(model: SLLM, config: Any, data: PreparedData, teaching: Teaching | None) -> ExtraCuts | None:
    """Set up a model for what the keys say; what is left is done to batches.

    Raises:
        ValueError: the model or the data have not what a key is about.
    """
    if config.window_dropout:
        _check_window(model, config)
        model.window_dropout = config.window_dropout
    if config.state_weight:
        _match_states(model, config, teaching)
    if not (config.extra_cuts or config.kept_cuts):
        return None
    if model.draws_vectors:
        raise ValueError(
            f"extra_cuts={config.extra_cuts:g}, kept_cuts={config.kept_cuts:g}: a head that draws the next sentence's "
            f"vector (here {model.config.next_vector!r}) would learn to draw pieces of sentences; leave both out."
        )
    split = data.split("train")
    if split.num_sentences == split.num_tokens:
        raise ValueError(
            f"extra_cuts={config.extra_cuts:g}, kept_cuts={config.kept_cuts:g}: every sentence of {config.data!r} is "
            f"one token (rule {data.processor.rule!r}, at most {data.processor.max_sentence_tokens}) and cannot be cut "
            "further; prepare the text with another rule or a larger max_sentence_tokens, or leave these keys out."
        )
    most = model.config.trunk.max_position_embeddings - 1
    return ExtraCuts(config.extra_cuts, config.kept_cuts, most, model.config.max_sentence_tokens)


def _check_window(model: SLLM, config: Any) -> None:
    what = f"window_dropout={config.window_dropout:g}"
    if model.own is None and not model.config.num_memory_tokens:
        raise ValueError(
            f"{what}: this model's decoder sees no tokens of earlier sentences anyhow; make a graft with "
            "--num_memory_tokens or by own layers, or leave the key out."
        )
    if model.config.train_draft_heads_only:
        raise ValueError(f"{what}: train_draft_heads_only leaves the decoder as it is; leave one of the two out.")


def _match_states(model: SLLM, config: Any, teaching: Teaching | None) -> None:
    what = f"state_weight={config.state_weight:g}"
    if model.own is None:
        raise ValueError(
            f"{what}: only a graft by own layers (--upper_layers) reads states that a language model has, too; leave "
            "the key out."
        )
    assert teaching is not None
    assert teaching.online is not None  # as `check_keeping_keys` made sure
    online = teaching.online
    if online.keep is not None:
        raise ValueError(f"{what}: the teacher {config.teacher!r} keeps a window of tokens; give one that keeps all.")
    own, theirs = model.trunk.config, online.lm.config
    shapes = [(shape.num_hidden_layers, shape.hidden_size) for shape in (own, theirs)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"{what}: the teacher {config.teacher!r} has {shapes[1][0]} layers of width {shapes[1][1]}, the model "
            f"{shapes[0][0]} of {shapes[0][1]}; only the language model that was grafted, or one that was trained "
            "further from it, has states to compare."
        )
    online.depth = len(blocks(model.trunk)) - model.config.upper_layers
    model.state_weight = config.state_weight
