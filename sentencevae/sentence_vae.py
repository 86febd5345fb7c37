"""The sentence autoencoder as users meet it: text in, vectors and text out, saving and loading."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lmbase.modeling.text_model import ProcessorMixin
from sentencevae import generation_sentencevae as generation
from sentencevae.modeling_sentencevae import SentenceVAEModel

MODULE = {"idx": 0, "name": "0", "path": "", "type": "sentencevae.vectors.SentenceVectors"}


class SentenceVAE(ProcessorMixin, SentenceVAEModel):
    """Sentence autoencoder: N sentences -> N vectors -> the same sentences (arXiv 2408.00655, section 3).

    Text methods need `processor`, which `from_pretrained` loads with the weights.
    """

    def save_pretrained(
        self, save_directory: str | os.PathLike, is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As in Transformers, with processor, and with what tells sentence-transformers how to read the folder."""
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        if is_main_process:
            (Path(save_directory) / "modules.json").write_text(json.dumps([MODULE], indent=2) + "\n", encoding="utf-8")

    def encode_text(self, texts: str | Sequence[str]) -> Tensor:
        """Each text as one sentence -> (N, D).

        Raises:
            ValueError: an empty text, or one longer than a sentence may be.
        """
        return generation.encode_text(self, self.processor, texts)

    def decode(self, sentence_embeds: Tensor) -> list[list[int]]:
        """Sentence vectors (N, D) -> token ids of N sentences, greedy and free-running, end marks left out."""
        return generation.decode(self, sentence_embeds)

    def reconstruct(self, texts: str | Sequence[str], batch_size: int = 256) -> list[str]:
        """Write texts again from their sentence vectors alone: cut, encode, decode free-running, join."""
        return generation.reconstruct(self, self.processor, texts, batch_size)

    def reconstruct_ids(self, rows: list[list[int]], batch_size: int = 256) -> list[list[int]]:
        """Token ids of sentences -> the ids that free-running greedy decoding writes from their vectors."""
        return generation.reconstruct_ids(self, rows, batch_size)

    def interpolate(self, a: str, b: str, steps: int = 5) -> list[str]:
        """Sentences written from `steps` vectors on the straight line from `a`'s to `b`'s, both ends included."""
        return generation.interpolate(self, self.processor, a, b, steps)

    def sample(self, num_samples: int = 1, seed: int | None = None) -> list[str]:
        """Sentences written from draws of the standard normal prior (Gaussian latent only)."""
        return generation.sample(self, self.processor, num_samples, seed)
