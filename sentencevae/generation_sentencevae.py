"""Text in and out of a sentence autoencoder: vectors of texts, sentences written from vectors.

Each function is a method of `sentencevae.SentenceVAE`; `processor` is the one it carries.

N sentences, T tokens of a sentence, D width.
"""

import numbers
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from lmbase.modeling.decoding import draws_of, seed_or_random
from lmbase.modeling.inference import inference_method
from lmbase.modeling.losses import close_token
from lmbase.modeling.settings import check_number
from lmbase.modeling.trunk import own_weight
from lmbase.text.padding import pad_tokens
from lmbase.text.processor import SentenceProcessor
from lmbase.text.texts import text_list
from sentencevae.modeling_sentencevae import SentenceVAEModel


@inference_method
def encode_text(model: SentenceVAEModel, processor: SentenceProcessor, texts: str | Sequence[str]) -> Tensor:
    """Each text as one sentence -> (N, D); a text alone is one of one.

    Raises:
        ValueError: an empty text, or one longer than a sentence may be.
    """
    rows = [_one_sentence(model, processor, text) for text in text_list(texts)]
    input_ids, attention_mask = pad_tokens(rows, model.config.pad_token_id)
    return model.encode(input_ids.to(model.device), attention_mask.to(model.device))


def _one_sentence(model: SentenceVAEModel, processor: SentenceProcessor, text: str) -> list[int]:
    ids = processor.encode(text).input_ids
    if not 1 <= len(ids) <= model.config.max_sentence_tokens:
        raise ValueError(
            f"{text[:60]!r} has {len(ids)} tokens, and a sentence has 1 to {model.config.max_sentence_tokens}; "
            "cut it first (lmbase.text.segment), or use reconstruct(), which does."
        )
    return ids


@inference_method
def decode(model: SentenceVAEModel, sentence_embeds: Tensor | np.ndarray) -> list[list[int]]:
    """Sentence vectors (N, D) -> token ids of N sentences, greedy and free-running, end marks left out.

    Raises:
        ValueError: vectors of another shape, or of numbers that are none.
    """
    if isinstance(sentence_embeds, str):
        raise ValueError(f"{sentence_embeds[:60]!r} is a text: reconstruct() writes texts again, decode() vectors.")
    sentence_embeds, width = torch.as_tensor(sentence_embeds), model.config.hidden_size
    if sentence_embeds.dim() != 2 or sentence_embeds.shape[1] != width:
        raise ValueError(
            f"Sentence vectors are of shape (N, {width}) for this model, and these are {tuple(sentence_embeds.shape)}; "
            "one alone is vector[None]."
        )
    if not sentence_embeds.isfinite().all():
        raise ValueError("Sentence vectors hold NaN or infinite numbers, of which nothing can be written: check them.")
    sentence_embeds = sentence_embeds.to(model.device, model.dtype)
    n = len(sentence_embeds)
    if not n:
        return []
    state = model.decoder.start(sentence_embeds)
    tokens = torch.full((n, 1), model.config.bos_token_id, device=sentence_embeds.device)
    alive = torch.ones(n, dtype=torch.bool, device=sentence_embeds.device)
    written, lengths = [], torch.zeros(n, dtype=torch.long, device=sentence_embeds.device)
    for position in range(model.config.max_sentence_tokens):
        hidden = model.decoder.step(model.embed_tokens(tokens), state)[:, -1]  # (N,D)
        first = torch.full_like(alive, position == 0)
        logits = close_token(hidden @ own_weight(model.embed_tokens).T, first, model.config.eos_token_id)
        tokens = logits.argmax(-1, keepdim=True)  # (N,1)
        alive &= tokens[:, 0] != model.config.eos_token_id
        if not alive.any():
            break
        written.append(tokens)
        lengths += alive
    ids = torch.cat(written, dim=1).tolist() if written else [[] for _ in range(n)]
    return [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]


@inference_method
def reconstruct(
    model: SentenceVAEModel, processor: SentenceProcessor, texts: str | Sequence[str], batch_size: int = 256
) -> list[str]:
    """Write texts again from their sentence vectors alone: cut, encode, decode free-running, join."""
    documents = [encoded.sentences() for encoded in processor.encode_batch(texts)]
    rows = [ids for sentences in documents for ids in sentences]
    written = reconstruct_ids(model, rows, batch_size)
    texts_out, position = [], 0
    for sentences in documents:
        ids = [i for row in written[position : position + len(sentences)] for i in row]
        texts_out.append(processor.decode(ids))
        position += len(sentences)
    return texts_out


@inference_method
def reconstruct_ids(model: SentenceVAEModel, rows: list[list[int]], batch_size: int = 256) -> list[list[int]]:
    """Token ids of sentences -> the ids that free-running greedy decoding writes from their vectors."""
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r}: give a whole number of 1 or more.")
    written: list[list[int]] = [[] for _ in rows]
    by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(rows), batch_size):
        batch = by_length[start : start + batch_size]
        input_ids, attention_mask = pad_tokens([rows[i] for i in batch], model.config.pad_token_id)
        embeds = model.encode(input_ids.to(model.device), attention_mask.to(model.device))
        for i, ids in zip(batch, decode(model, embeds), strict=True):
            written[i] = ids
    return written


@inference_method
def interpolate(model: SentenceVAEModel, processor: SentenceProcessor, a: str, b: str, steps: int = 5) -> list[str]:
    """Sentences written from `steps` vectors on the straight line from `a`'s to `b`'s, both ends included."""
    if not isinstance(steps, numbers.Integral) or steps < 2:
        raise ValueError(f"steps={steps!r}: give a whole number of 2 or more; interpolation has at least its two ends.")
    ends = encode_text(model, processor, [a, b])
    weights = torch.linspace(0, 1, steps, device=model.device)[:, None]
    return [processor.decode(ids) for ids in decode(model, torch.lerp(ends[:1], ends[1:], weights))]


@inference_method
def sample(
    model: SentenceVAEModel, processor: SentenceProcessor, num_samples: int = 1, seed: int | None = None
) -> list[str]:
    """Sentences written from draws of the standard normal prior (Gaussian latent only)."""
    if not model.latent_kind.has_kl:
        raise ValueError('sample() needs latent="gaussian": a deterministic autoencoder has no prior to draw from.')
    num_samples, seed, width = check_number("num_samples", num_samples), seed_or_random(seed), model.config.hidden_size
    draws = [draws_of(seed, number).standard_normal(width) for number in range(num_samples)]
    z = torch.tensor(np.array(draws).reshape(-1, width), dtype=model.dtype, device=model.device)
    return [processor.decode(ids) for ids in decode(model, z)]
