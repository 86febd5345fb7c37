"""What Transformers' Trainer, collators and callers give a `forward`: labels, a copy of the ids, NO_LABEL where nothing
is predicted; and arguments by habit.

B rows, L columns.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.utils import ModelOutput

from lmbase.text.padding import as_mask

NO_LABEL = -100
BY_HABIT = ("use_cache", "token_type_ids")  # change nothing here


class SentenceModelOutput(ModelOutput):
    """What a model of sentences returns: the ends of sentences are predictions, too, so there are no logits that would
    fit the labels of a row."""

    def __getitem__(self, key: Any) -> Any:
        if key == "logits":
            raise ValueError(
                f"{type(self).__name__} has no logits, of which a Trainer makes the loss with label_smoothing_factor "
                "or a compute_loss_func: leave them out, or train a MultiTokenLM; `loss` is the model's own."
            )
        return super().__getitem__(key)


def per_item(loss: Tensor, num_targets: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """The mean loss of a batch as a Trainer adds it up over the batches of a step.

    Args:
        num_targets: what the mean was taken over.
        num_items_in_batch: labels of all these batches together; None leaves the mean as it is.
    """
    return loss if num_items_in_batch is None else loss * num_targets / num_items_in_batch


def check_rows(input_ids: Any, attention_mask: Any, labels: Any, vocab_size: int, dims: Sequence[int] = (2,)) -> None:
    """What every `forward` is given: ids of the vocabulary in rows, and of each whether it is read and what is learnt.

    Args: dims: that the ids may have.

    Raises:
        ValueError: no rows, other things than ids, a mask or labels of another shape (stretched or cut they would be
            those of another text), values that mean nothing.
    """
    if not _are_ids(input_ids) or input_ids.dim() not in dims or not len(input_ids):
        raise ValueError(
            f"input_ids is {_described(input_ids)}: give a (B, L) tensor of whole numbers (int64), B at least 1, as a "
            "tokenizer does with return_tensors='pt'."
        )
    for name, given in (("attention_mask", attention_mask), ("labels", labels)):
        if given is not None and (not isinstance(given, Tensor) or given.shape != input_ids.shape):
            shown = tuple(given.shape) if isinstance(given, Tensor) else f"(a {type(given).__name__})"
            raise ValueError(f"{name} {shown} and input_ids {tuple(input_ids.shape)} differ: give a tensor as large.")
    if labels is not None and not _are_ids(labels):
        raise ValueError(f"labels are {_described(labels)}: give whole numbers (int64), a copy of input_ids.")
    if torch.compiler.is_compiling():
        return
    read = None if attention_mask is None else as_mask(attention_mask)
    _check_ids("input_ids", input_ids, read, vocab_size)
    if labels is not None:
        _check_ids("labels", labels, labels != NO_LABEL, vocab_size)


def check_row_flags(name: str, flags: Any, input_ids: Tensor) -> None:
    """Raise ValueError unless there is one for each row: one alone would count for all of them."""
    if flags is None or (isinstance(flags, Tensor) and flags.shape == input_ids.shape[:1]):
        return
    raise ValueError(f"{name} is {_described(flags)}: give a tensor with one for each of the {len(input_ids)} rows.")


def _check_ids(name: str, ids: Tensor, counted: Tensor | None, vocab_size: int) -> None:
    outside = (ids < 0) | (ids >= vocab_size)
    outside = outside if counted is None else outside & counted
    if outside.any():
        raise ValueError(
            f"{name} holds {ids[outside][0].item()}, and the vocabulary has ids 0 to {vocab_size - 1}: they are of "
            f"another model's tokenizer, or mean padding; pad ids with pad_token_id, and labels with {NO_LABEL}."
        )


def _are_ids(given: Any) -> bool:
    return isinstance(given, Tensor) and given.dtype in (torch.int32, torch.int64)  # what embeddings read


def _described(given: Any) -> str:
    is_tensor = isinstance(given, Tensor)
    return f"of shape {tuple(given.shape)} and type {given.dtype}" if is_tensor else f"a {type(given).__name__}"


def check_labels(labels: Tensor | None, input_ids: Tensor, attention_mask: Tensor | None, config: Any) -> None:
    """Raise ValueError if labels leave out tokens of text, or are others: a model of sentences is trained on all of its
    ids, and on nothing else.

    Args: labels: checked by `check_rows`.
    """
    if labels is None:
        return
    read = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask.bool()
    if (read & (labels != NO_LABEL) & (labels != input_ids)).any():
        raise ValueError(
            "labels are others than input_ids: a model of sentences learns the text that it reads. Give a copy, not "
            "shifted; targets of their own are for a MultiTokenLM."
        )
    special = torch.tensor([config.pad_token_id, config.bos_token_id, config.eos_token_id], device=input_ids.device)
    if (read & (labels == NO_LABEL) & ~torch.isin(input_ids, special)).any():
        raise ValueError(
            f"labels are {NO_LABEL} at tokens of text: a sentence is learnt whole. Train on the text that is to be "
            "learnt alone, or train a MultiTokenLM, which leaves out what its labels leave out."
        )


def check_unread(given: Mapping[str, Any]) -> None:
    """Raise ValueError for arguments of `forward` that ask for something that it does not do: passed over in silence
    they would give the figures of other positions, other texts, no labels."""
    asked = [name for name, value in given.items() if name not in BY_HABIT and value is not None]
    asked = [name for name in asked if not (isinstance(given[name], int) and not given[name])]
    if asked:
        raise ValueError(
            f"forward() does not know {', '.join(asked)}: it reads whole rows of input_ids, counts positions along "
            "attention_mask, learns labels, and has no cache (generate has); leave it out, or correct its name."
        )
