"""The sentence autoencoder as users meet it: text in, vectors and text out, saving and loading."""

from torch import Tensor

from lmbase.modeling.text_model import ProcessorMixin
from sentencevae import generation_sentencevae as generation
from sentencevae.modeling_sentencevae import SentenceVAEModel


class SentenceVAE(ProcessorMixin, SentenceVAEModel):
    """Sentence autoencoder: N sentences -> N vectors -> the same sentences (arXiv 2408.00655, section 3).

    Text methods need `processor`, which `from_pretrained` loads with the weights.
    """

    def encode_text(self, texts: list[str]) -> Tensor:
        """Each text as one sentence -> (N, D).

        Raises:
            ValueError: an empty text, or one longer than a sentence may be.
        """
        return generation.encode_text(self, self.processor, texts)

    def decode(self, sentence_embeds: Tensor) -> list[list[int]]:
        """Sentence vectors (N, D) -> token ids of N sentences, greedy and free-running, end marks left out."""
        return generation.decode(self, sentence_embeds)

    def reconstruct(self, texts: list[str], batch_size: int = 256) -> list[str]:
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
