"""What Transformers' Trainer, collators and callers give a `forward`: labels, a copy of the ids, NO_LABEL where nothing
is predicted; and arguments by habit.

B rows, L columns.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100
BY_HABIT = ("use_cache", "token_type_ids")  # change nothing here


def per_item(loss: Tensor, num_targets: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """The mean loss of a batch as a Trainer adds it up over the batches of a step.

    Args:
        num_targets: what the mean was taken over.
        num_items_in_batch: labels of all these batches together; None leaves the mean as it is.
    """
    return loss if num_items_in_batch is None else loss * num_targets / num_items_in_batch


def check_labels(labels: Tensor | None, input_ids: Tensor, attention_mask: Tensor | None, config: Any) -> None:
    """Raise ValueError if labels leave out tokens of text, or are others: a model of sentences is trained on all of its
    ids, and on nothing else."""
    if labels is None:
        return
    if labels.shape != input_ids.shape:
        raise ValueError(f"labels {tuple(labels.shape)} and input_ids {tuple(input_ids.shape)} differ.")
    others = (labels != NO_LABEL) & (labels != input_ids)
    if (others if attention_mask is None else others & attention_mask.bool()).any():
        raise ValueError(
            "labels are others than input_ids: a model of sentences learns the text that it reads. Give a copy, not "
            "shifted; targets of their own are for a MultiTokenLM."
        )
    special = torch.tensor([config.pad_token_id, config.bos_token_id, config.eos_token_id], device=input_ids.device)
    left_out = (labels == NO_LABEL) & ~torch.isin(input_ids, special)
    if (left_out if attention_mask is None else left_out & attention_mask.bool()).any():
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
