"""The sentence autoencoder: a sentence in, one vector, the sentence out again (arXiv 2408.00655)."""

from transformers import AutoConfig, AutoModel

from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.sentence_vae import SentenceVAE

AutoConfig.register(SentenceVAEConfig.model_type, SentenceVAEConfig)
AutoModel.register(SentenceVAEConfig, SentenceVAE)

__all__ = ["SentenceVAE", "SentenceVAEConfig"]
