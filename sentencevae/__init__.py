"""The sentence autoencoder: a sentence in, one vector, the sentence out again (arXiv 2408.00655)."""

from transformers import AutoConfig, AutoModel

from sentencevae.configuration_sentencevae import SentenceVAEConfig
from sentencevae.modeling_sentencevae import SentenceVAE

AutoConfig.register(SentenceVAEConfig.model_type, SentenceVAEConfig)
AutoModel.register(SentenceVAEConfig, SentenceVAE)

__all__ = ["SentenceVAE", "SentenceVAEConfig"]
