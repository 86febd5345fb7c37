"""Labels, as Transformers' Trainer and its collators make them: a copy of the ids, NO_LABEL where nothing is predicted.

B rows, L columns.
"""

from typing import Any

import torch
from torch import Tensor

NO_LABEL = -100


def per_item(loss: Tensor, num_targets: Tensor | int, num_items_in_batch: Tensor | int | None) -> Tensor:
    """The mean loss of a batch as a Trainer adds it up over the batches of a step.

    Args:
        num_targets: what the mean was taken over.
        num_items_in_batch: labels of all these batches together; None leaves the mean as it is.
    """
    return loss if num_items_in_batch is None else loss * num_targets / num_items_in_batch


def check_labels(labels: Tensor | None, input_ids: Tensor, attention_mask: Tensor | None, config: Any) -> None:
    """Raise ValueError if labels leave out tokens of text: a model of sentences is trained on all of them."""
    if labels is None:
        return
    special = torch.tensor([config.pad_token_id, config.bos_token_id, config.eos_token_id], device=input_ids.device)
    left_out = (labels == NO_LABEL) & ~torch.isin(input_ids, special)
    if (left_out if attention_mask is None else left_out & attention_mask.bool()).any():
        raise ValueError(
            f"labels are {NO_LABEL} at tokens of text: a sentence is learnt whole. Train on the text that is to be "
            "learnt alone, or train a MultiTokenLM, which leaves out what its labels leave out."
        )
