"""Multi-token prediction: n heads on one trunk, and decoding that drafts with them (arXiv 2404.19737)."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from multitoken.configuration_multitoken import MultiTokenLMConfig
from multitoken.draft_tree import DraftTree
from multitoken.multi_token_lm import MultiTokenLM

AutoConfig.register(MultiTokenLMConfig.model_type, MultiTokenLMConfig)
AutoModel.register(MultiTokenLMConfig, MultiTokenLM)
AutoModelForCausalLM.register(MultiTokenLMConfig, MultiTokenLM)
# By these names a Trainer with label_smoothing_factor decides whether labels are shifted against logits.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[MultiTokenLMConfig.model_type] = MultiTokenLM.__name__

__all__ = ["DraftTree", "MultiTokenLM", "MultiTokenLMConfig"]
