"""Does the decoder use the trunk? What an SLLM's tokens cost when the states that predict them are taken away.

B windows, S sentences of one, H width of states.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lmbase.modeling.inference import inference_method
from lmbase.modeling.noise import mixed, normal
from lmbase.text.padding import pad_sentences
from sllm.modeling_sllm import SLLMModel
from sllm.unpredicted_ends import without_end

PLACES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)  # first tokens of the classes of places in a sentence
SEED = 0


def controls(num_states: Tensor, donors: Sequence[Tensor]) -> dict[str, Callable[[Tensor], Tensor]]:
    """What is done to the trunk's states (B, S+1, H), of which each window has so many (B,). The first one, which no
    sentence was read for, stays: it is the same in every window, and attention rests there.

    Args: donors: `donors_of` the windows; empty: no state can come from another document.
    """
    generator = torch.Generator().manual_seed(SEED)

    def zero(states: Tensor) -> Tensor:
        return torch.cat([states[:, :1], torch.zeros_like(states[:, 1:])], dim=1)

    def shuffled(states: Tensor) -> Tensor:
        real = torch.arange(states.shape[1]) < num_states[:, None].cpu()  # (B,S+1)
        real[:, 0] = False
        order = torch.randperm(int(real.sum()), generator=generator).to(states.device)
        real = real.to(states.device)
        found = states.clone()
        found[real] = states[real][order]
        return found

    def of_another(states: Tensor) -> Tensor:
        place = torch.arange(states.shape[1] - 1, device=states.device)
        return torch.cat([states[:, :1], torch.stack([donor[place % len(donor)] for donor in donors])], dim=1)

    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "as_it_is": lambda states: states,
        "zero": zero,
        "shuffled": shuffled,
    }
    return changes | ({"another_document": of_another} if donors else {})


def donors_of(numbers: Sequence[int], states: Sequence[Tensor], kept: dict[int, Tensor]) -> list[Tensor]:
    """States of another document for each window of a batch: of the next window in the batch, else of what was kept.

    Args:
        numbers: of the windows' documents. states: (n, H) of each window.
        kept: by document; two are enough, and are kept here for the batches that follow.

    Returns:
        nothing where all windows are of one document.
    """
    for number, own in zip(numbers, states, strict=True):
        if len(kept) < 2:
            kept.setdefault(number, own)
    if len(kept) < 2:
        return []
    pairs = [*zip(numbers, states, strict=True)]
    around = ([*pairs[at:], *pairs[:at], *kept.items()] for at in range(len(pairs)))
    return [next(theirs for number, theirs in others if number != numbers[at]) for at, others in enumerate(around)]


@inference_method
def probe(model: SLLMModel, documents: list[list[list[int]]], num_bytes: list[int], batch_size: int = 4) -> dict:
    """Bits per byte of tokens and end marks (the flags between sentences left out), as it is and with each control, and
    bits per token by place in the sentence. Where there is one document only, none has the states of another.

    Args:
        documents: sentences of token ids; they are read in windows of `max_sentences`, not overlapping.

    Raises:
        ValueError: fewer than two windows, which there must be to exchange states.
    """
    size = model.config.max_sentences
    by_document = [
        [(document[at : at + size], at + size < len(document)) for at in range(0, len(document), size)]
        for document in documents
    ]
    # In turns, so that neighbours in a batch are of different documents, as far as there are several.
    pieces = [(n, *piece) for turn in zip_longest(*by_document) for n, piece in enumerate(turn) if piece]
    if len(pieces) < 2:
        raise ValueError(
            "One window of text only, and states are exchanged between windows: give more texts, or longer ones."
        )
    batches = [pieces[at : at + batch_size] for at in range(0, len(pieces), batch_size)]
    if len(batches[-1]) < 2:
        batches[-2:] = [batches[-2] + batches[-1]]
    sums: dict[str, float] = {}
    places = torch.zeros(2, len(PLACES), dtype=torch.double)
    kept: dict[int, Tensor] = {}
    for batch in batches:
        numbers, windows, continues = zip(*batch, strict=True)
        padded = pad_sentences(windows, model.config.pad_token_id).to(model.device)
        sentences = model.read(**vars(padded))
        states = model.trunk_states(sentences, padded.sentence_mask)
        endless = without_end(model.config, padded.sentence_mask, torch.tensor(continues, device=states.device))
        num_states = padded.sentence_mask.sum(1) + 1
        own = [of[1:n] for of, n in zip(states, num_states.tolist(), strict=True)]
        for name, change in controls(num_states, donors_of(numbers, own, kept)).items():
            for nats, place in _token_nats(model, sentences, change(states), endless):
                sums[name] = sums.get(name, 0.0) + float(nats.double().sum())
                if name == "as_it_is":
                    number = torch.bucketize(place + 1, torch.tensor(PLACES), right=True) - 1
                    places[0].index_add_(0, number, nats.double().cpu())
                    places[1].index_add_(0, number, torch.ones(len(nats), dtype=torch.double))
        if model.own is not None or model.config.num_memory_tokens:
            closed = torch.ones(len(states), dtype=torch.bool, device=states.device)
            for nats, _ in _token_nats(model, replace(sentences, closed=closed), states, endless):
                sums["closed_window"] = sums.get("closed_window", 0.0) + float(nats.double().sum())
        if model.draws:
            drawn = model.trunk_states(replace(sentences, embeds=_drawn(model, sentences)), padded.sentence_mask)
            for nats, _ in _token_nats(model, sentences, drawn, endless):
                sums["drawn_vectors"] = sums.get("drawn_vectors", 0.0) + float(nats.double().sum())
    bits = {name: total / torch.tensor(2.0).log().item() / sum(num_bytes) for name, total in sums.items()}
    by_place = {
        f"from_{first}": (total / count / torch.tensor(2.0).log()).item()
        for first, total, count in zip(PLACES, *places, strict=True)
        if count
    }
    return {"bits_per_byte": bits, "bits_per_token_by_place": by_place}


def _drawn(model: SLLMModel, sentences: Any) -> Tensor:
    """Vectors (N, D) drawn from what a Gaussian latent says of the sentences, in place of their means."""
    mean, log_var = model.autoencoder.posterior(sentences.pooled)
    keys = mixed(torch.arange(len(mean), device=mean.device) + SEED)
    return (mean + normal(keys, mean.shape[-1]) * (0.5 * log_var).exp()).to(sentences.embeds.dtype)


def _token_nats(
    model: SLLMModel, sentences: Any, states: Tensor, endless: Tensor | None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Nats of targets, and their places in their sentences. Args: endless: as for `SLLMModel.decode`."""
    for decoded in model.decode(sentences, states, endless=endless):
        cut = decoded.cut
        place = torch.arange(cut.mask.shape[1]).expand(cut.mask.shape)[cut.mask.cpu()]
        yield model.target_nats(*cut.gather(decoded.hidden)), place
