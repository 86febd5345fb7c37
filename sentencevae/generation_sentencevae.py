"""Text in and out of a sentence autoencoder: vectors of texts, sentences written from vectors.

N sentences, T tokens of a sentence, D width.
"""

# mypy: disable-error-code="misc"
# `self` is the whole model, which the mixin's own class does not show.

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmbase.modeling.inference import inference_method
from lmbase.modeling.losses import close_token
from lmbase.text.padding import pad_tokens

if TYPE_CHECKING:
    from sentencevae.modeling_sentencevae import SentenceVAE


class SentenceVAEGenerationMixin:
    """`encode_text`, `decode`, `reconstruct`, `interpolate` and `sample` for SentenceVAE."""

    @inference_method
    def encode_text(self: "SentenceVAE", texts: list[str]) -> Tensor:
        """Each text as one sentence -> (N, D).

        Raises:
            ValueError: an empty text, or one longer than a sentence may be.
        """
        rows = [self._one_sentence(text) for text in texts]
        input_ids, attention_mask = pad_tokens(rows, self.config.pad_token_id)
        return self.encode(input_ids.to(self.device), attention_mask.to(self.device))

    def _one_sentence(self: "SentenceVAE", text: str) -> list[int]:
        ids = self.processor.encode(text).input_ids
        if not 1 <= len(ids) <= self.config.max_sentence_tokens:
            raise ValueError(
                f"{text[:60]!r} has {len(ids)} tokens, and a sentence has 1 to {self.config.max_sentence_tokens}; "
                "cut it first (lmbase.text.segment), or use reconstruct(), which does."
            )
        return ids

    @inference_method
    def decode(self: "SentenceVAE", sentence_embeds: Tensor) -> list[list[int]]:
        """Sentence vectors (N, D) -> token ids of N sentences, greedy and free-running, end marks left out."""
        n = len(sentence_embeds)
        state = self.decoder.start(sentence_embeds)
        tokens = torch.full((n, 1), self.config.bos_token_id, device=sentence_embeds.device)
        alive = torch.ones(n, dtype=torch.bool, device=sentence_embeds.device)
        written, lengths = [], torch.zeros(n, dtype=torch.long, device=sentence_embeds.device)
        for position in range(self.config.max_sentence_tokens):
            hidden = self.decoder.step(self.embed_tokens(tokens), state)[:, -1]  # (N,D)
            first = torch.full_like(alive, position == 0)
            logits = close_token(hidden @ self.embed_tokens.weight.T, first, self.config.eos_token_id)
            tokens = logits.argmax(-1, keepdim=True)  # (N,1)
            alive &= tokens[:, 0] != self.config.eos_token_id
            if not alive.any():
                break
            written.append(tokens)
            lengths += alive
        ids = torch.cat(written, dim=1).tolist() if written else [[] for _ in range(n)]
        return [row[:length] for row, length in zip(ids, lengths.tolist(), strict=True)]

    @inference_method
    def reconstruct(self: "SentenceVAE", texts: list[str], batch_size: int = 256) -> list[str]:
        """Write texts again from their sentence vectors alone: cut, encode, decode free-running, join."""
        documents = [encoded.sentences() for encoded in self.processor.encode_batch(texts)]
        rows = [ids for sentences in documents for ids in sentences]
        written = self.reconstruct_ids(rows, batch_size)
        texts_out, position = [], 0
        for sentences in documents:
            ids = [i for row in written[position : position + len(sentences)] for i in row]
            texts_out.append(self.processor.decode(ids))
            position += len(sentences)
        return texts_out

    @inference_method
    def reconstruct_ids(self: "SentenceVAE", rows: list[list[int]], batch_size: int = 256) -> list[list[int]]:
        """Token ids of sentences -> the ids that free-running greedy decoding writes from their vectors."""
        written: list[list[int]] = [[] for _ in rows]
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]))
        for start in range(0, len(rows), batch_size):
            batch = by_length[start : start + batch_size]
            input_ids, attention_mask = pad_tokens([rows[i] for i in batch], self.config.pad_token_id)
            embeds = self.encode(input_ids.to(self.device), attention_mask.to(self.device))
            for i, ids in zip(batch, self.decode(embeds), strict=True):
                written[i] = ids
        return written

    @inference_method
    def interpolate(self: "SentenceVAE", a: str, b: str, steps: int = 5) -> list[str]:
        """Sentences written from `steps` vectors on the straight line from `a`'s to `b`'s, both ends included."""
        if steps < 2:
            raise ValueError(f"steps={steps}: interpolation needs at least its two ends.")
        ends = self.encode_text([a, b])
        weights = torch.linspace(0, 1, steps, device=self.device)[:, None]
        return [self.processor.decode(ids) for ids in self.decode(torch.lerp(ends[:1], ends[1:], weights))]

    @inference_method
    def sample(self: "SentenceVAE", num_samples: int = 1, seed: int | None = None) -> list[str]:
        """Sentences written from draws of the standard normal prior (Gaussian latent only)."""
        if self.to_gaussian is None:
            raise ValueError('sample() needs latent="gaussian": a deterministic autoencoder has no prior to draw from.')
        generator = torch.Generator().manual_seed(seed) if seed is not None else None
        z = torch.randn(num_samples, self.config.hidden_size, generator=generator).to(self.device, self.dtype)
        return [self.processor.decode(ids) for ids in self.decode(z)]
