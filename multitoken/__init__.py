"""Multi-token prediction: n heads on one trunk, and decoding that drafts with them (arXiv 2404.19737)."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.draft_tree import DraftTree
from multitoken.multi_token_lm import MultiTokenLM

AutoConfig.register(MultiTokenLMConfig.model_type, MultiTokenLMConfig)
AutoModel.register(MultiTokenLMConfig, MultiTokenLM)
AutoModelForCausalLM.register(MultiTokenLMConfig, MultiTokenLM)

__all__ = ["DraftTree", "MultiTokenLM", "MultiTokenLMConfig"]
