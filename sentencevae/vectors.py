"""The encoder as a module of sentence-transformers, so that others' tools can use and judge its vectors.

    SentenceTransformer("runs/vae_tiny/model", trust_remote_code=True).encode(["One text.", "Two sentences. Yes."])

B texts, N sentences of all of them, T tokens of a sentence, D width.
"""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor

from lmbase.text.padding import pad_tokens
from lmbase.text.processor import HUB_OPTIONS
from lmbase.text.texts import text_list
from sentencevae.sentence_vae import SentenceVAE

try:
    from sentence_transformers.base.modules.input_module import InputModule
except ImportError as error:
    raise ImportError("sentence-transformers 6 is not installed: pip install 'sllm[vectors]'.") from error

ENCODED = 1024  # sentences at a time, however long a text is


class SentenceVectors(InputModule):
    """Texts -> vectors (B, D): that of a text's sentence, the mean of those of its sentences, zeros for an empty text.

    Args:
        vae: an autoencoder with its processor.
    """

    def __init__(self, vae: SentenceVAE):
        super().__init__()
        self.vae, self.tokenizer = vae, vae.processor.tokenizer

    def preprocess(self, inputs: Sequence[Any], prompt: str | None = None, **kwargs: Any) -> dict[str, Tensor]:
        """Texts -> input_ids and attention_mask (N, T) of their sentences, num_sentences (B,).

        Raises:
            ValueError: something that is no text, or one with a lone surrogate.
        """
        texts = [(prompt or "") + text for text in text_list(inputs)]
        found = [encoded.sentences() for encoded in self.vae.processor.encode_batch(texts)]
        sentences = [ids for text in found for ids in text]
        ids, mask = pad_tokens(sentences, self.vae.config.pad_token_id)
        return {"input_ids": ids, "attention_mask": mask, "num_sentences": torch.tensor([*map(len, found)])}

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Adds `sentence_embedding` (B, D)."""
        counts = features["num_sentences"]
        owner = torch.arange(len(counts), device=counts.device).repeat_interleave(counts)  # (N,)
        mean = torch.zeros(len(counts), self.get_embedding_dimension(), dtype=self.vae.dtype, device=counts.device)
        for rows in torch.arange(len(owner)).split(ENCODED) if len(owner) else ():
            vectors = self.vae.encode(features["input_ids"][rows], features["attention_mask"][rows])  # (n, D)
            mean = mean.index_add(0, owner[rows], vectors)
        return features | {"sentence_embedding": mean / counts.clamp(min=1)[:, None].to(mean.dtype)}

    def get_embedding_dimension(self) -> int:
        return self.vae.config.hidden_size

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """As `SentenceVAE.save_pretrained`: always as safetensors."""
        self.vae.save_pretrained(output_path)

    @classmethod
    def load(  # type: ignore[override]
        cls,
        model_name_or_path: str,
        *,
        subfolder: str = "",
        cache_folder: str | None = None,
        model_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> Self:
        """From a run, a folder or a hub id with a SentenceVAE. No code of it is run, whatever the caller trusts.

        Args: as sentence-transformers hands them; of `model_kwargs` dtype counts, which is fp32 by default.
        """
        asked: dict[str, Any] = {name: options[name] for name in HUB_OPTIONS if name in options}
        asked |= dict(subfolder=subfolder, cache_dir=cache_folder)
        asked["dtype"] = (model_kwargs or {}).get("dtype", torch.float32)
        return cls(SentenceVAE.from_pretrained(model_name_or_path, **asked))
