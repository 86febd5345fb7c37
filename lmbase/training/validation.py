"""Figures of a validation set while a model is trained."""

import numpy as np
import torch

from lmbase.training.batches import Dataset

MOST_NATS = 700.0  # whose exponential is a number


@torch.no_grad()
def validation_loss(model, items: Dataset, max_items: int, batch_size: int) -> dict[str, float]:
    """Mean of each loss per target over evenly spread items; where tokens have a likelihood, their perplexity and
    bits per byte, too.

    A quick figure to watch a run by; `evaluate` scores every byte in overlapping windows instead.
    """
    chosen = np.unique(np.linspace(0, len(items) - 1, min(max_items, len(items))).astype(np.int64))
    chosen = chosen[np.argsort(items.lengths[chosen], kind="stable")]
    device = next(model.parameters()).device
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    correct = 0.0
    for start in range(0, len(chosen), batch_size):
        batch = {k: v.to(device) for k, v in items.batch(chosen[start : start + batch_size]).items()}
        output = model(**batch)
        correct += float(output.correct)
        for name, count in model.loss_counts(**batch).items():
            sums[name] = sums.get(name, 0.0) + float(output.losses[name])
            counts[name] = counts.get(name, 0.0) + float(count)
    figures = {name: sums[name] / counts[name] for name in sums if counts[name]}  # short items leave some without any
    if "token" not in figures:
        return figures
    if figures["token"] < MOST_NATS:  # beyond it a bad start has none, and is no reason to stop
        figures["perplexity"] = float(np.exp(figures["token"]))
    figures["token_accuracy"] = correct / counts["token"]
    total = sums["token"] + sums.get("stop", 0.0)
    figures["bits_per_byte"] = total / np.log(2) / float(items.num_bytes[chosen].sum())
    return figures
