"""What an SLLM is trained on whose head draws the next sentence's vector: there is no likelihood, so the head learns
the encoder's posterior of the sentence, and the decoder, if it learns at all, to write sentences from their own
vectors.

N real sentences, D width.
"""

from typing import Any

import torch
from torch import Tensor

from lmbase.modeling.noise import mixed, new_keys
from sllm.sentences import Sentences, SLLMOutput
from sllm.token_loss import token_loss


def no_likelihood(kind: str) -> ValueError:
    """Why a text has no score."""
    return ValueError(
        f"next_vector={kind!r}: the next sentence's vector is drawn, and how likely a text is would be an average over "
        "all vectors, so there are no score and no bits per byte; `sllm brier` judges samples, beside other models'."
    )


def drawn_weights(model: Any) -> dict[str, float]:
    """What each loss counts; those of the autoencoder as in its own training."""
    weights = {"vector": 1.0, "stop": model.config.stop_weight}
    if model.config.freeze_autoencoder:
        return weights
    return weights | {"rebuilt": 1.0, "kl": model.config.autoencoder.kl_weight}


def drawn_counts(model: Any, targets: Tensor, sentences: Tensor) -> dict[str, Tensor]:
    """Targets behind each sum, of so many target tokens and sentences."""
    counts = {"vector": sentences, "stop": targets}
    return counts if model.config.freeze_autoencoder else counts | {"rebuilt": targets, "kl": targets}


def drawn_output(
    model: Any,
    sentences: Sentences,
    states: Tensor,
    keys: Tensor | None,
    counts: dict[str, Tensor],
    stop_logits: Tensor,
    stop: Tensor,
) -> SLLMOutput:
    """What `SLLMModel.forward` returns; `correct` tokens are those that were rebuilt as the first choice.

    Args:
        states: (B, S+1, D) of the trunk.
        keys: (B,) as for `forward`; outside training the same is drawn every time.
        counts: by which the losses are divided.
        stop_logits, stop: (B, S+1) of the flags, and their nats.
    """
    places = sentences.places
    if keys is not None:
        keys = mixed(keys[sentences.rows] + places)  # (N,)
    else:
        keys = new_keys(len(places), places.device) if model.training else mixed(torch.arange(len(places)).to(places))
    # The targets move only with what the autoencoder's own losses want: else they would flee to where drawing is easy.
    with torch.no_grad():
        mean, log_var = model.autoencoder.posterior(sentences.pooled)
    before = states[sentences.rows, places]  # (N,D): sentence k+1 is drawn from state k
    losses = {"vector": model.vector_head.loss(before, mean, log_var, keys).sum(), "stop": stop.sum()}
    correct = states.new_zeros(())
    if not model.config.freeze_autoencoder:
        nothing = sentences.ids.new_zeros(0)
        gathered = [(states.new_zeros(0, model.config.hidden_size), nothing, nothing.bool())]
        gathered += [decoded.cut.gather(decoded.hidden) for decoded in model.decode(sentences, states)]
        found = token_loss(model, *map(torch.cat, zip(*gathered, strict=True)), teacher=None)
        losses |= {"rebuilt": found.loss, "kl": model.autoencoder.latent(sentences.pooled)[1].sum()}
        correct = found.correct
    loss = torch.stack([w * losses[x] / counts[x].clamp(min=1) for x, w in drawn_weights(model).items()]).sum()
    return SLLMOutput(states, loss, losses, correct, stop_logits)
