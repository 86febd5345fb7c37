"""How well an autoencoder gives sentences back."""

import math

import numpy as np
import torch

from lmbase.modeling.noise import mixed, normal
from lmbase.report.rows import Row
from lmbase.text.padding import pad_tokens
from sentencevae import SentenceVAE
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import Texts

MOST_ROWS = 2048  # sentences whose posterior is looked at


@torch.no_grad()
def evaluate_reconstruction(loaded: LoadedModel, data: Texts, max_sentences: int, batch_size: int = 256) -> Row:
    """A row of free-running greedy reconstruction beside the teacher-forced perplexity (T tokens and the end mark)."""
    model = loaded.model
    rows = [ids for e in model.processor.encode_batch(data.texts) for ids in e.sentences()]
    chosen = np.linspace(0, len(rows) - 1, min(max_sentences, len(rows))).astype(int)
    rows = [rows[i] for i in chosen]
    written = model.reconstruct_ids(rows, batch_size)
    exact = sum(a == b for a, b in zip(rows, written, strict=True))
    same = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in zip(rows, written, strict=True))
    longer = sum(max(len(a), len(b)) for a, b in zip(rows, written, strict=True))
    nats = targets = 0.0
    for start in range(0, len(rows), batch_size):
        ids, mask = pad_tokens(rows[start : start + batch_size], model.config.pad_token_id)
        output = model(ids.to(model.device), mask.to(model.device))
        nats += float(output.losses["token"])
        targets += float(model.loss_counts(ids, mask)["token"])
    extra: dict = {"ppl": math.exp(nats / targets), "sentences": len(rows)}
    if model.config.latent == "gaussian":
        extra |= _of_posterior(model, rows[:MOST_ROWS], batch_size)
    return loaded.row(
        data.corpus,
        "reconstruction",
        reconstruction_exact_match=exact / len(rows),
        reconstruction_token_accuracy=same / longer,
        extra=extra,
    )


def _of_posterior(model: SentenceVAE, rows: list[list[int]], batch_size: int) -> dict:
    """What a Gaussian latent keeps of sentences, and what is left of them when their vectors are drawn."""
    means, kls, same, longer = [], [], 0, 0
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        ids, mask = (x.to(model.device) for x in pad_tokens(batch, model.config.pad_token_id))
        mean, log_var = model.posterior(model.pool_packed(model.pack(ids, mask), ids, mask)[0])
        means.append(mean)
        kls.append(0.5 * (mean**2 + log_var.exp() - 1 - log_var).sum(-1))
        keys = torch.arange(start, start + len(batch), device=mean.device)
        drawn = mean + normal(mixed(keys), mean.shape[-1]) * (0.5 * log_var).exp()
        for a, b in zip(batch, model.decode(drawn.to(model.dtype)), strict=True):
            same += sum(x == y for x, y in zip(a, b, strict=False))
            longer += max(len(a), len(b))
    return {
        # Active units (Burda et al., arXiv 1509.00519): dimensions whose mean moves with the sentence.
        "active_units": int((torch.cat(means).var(0) > 0.01).sum()),
        "units": model.config.hidden_size,
        "kl_nats": float(torch.cat(kls).mean()),  # of a sentence, none of them free
        "drawn_token_accuracy": same / longer,
    }
