"""Sentence-level language models: an autoencoder grafted onto a pretrained trunk (arXiv 2408.00655)."""

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from sllm.configuration_sllm import SLLMConfig
from sllm.sllm import SLLM

AutoConfig.register(SLLMConfig.model_type, SLLMConfig)
AutoModel.register(SLLMConfig, SLLM)
AutoModelForCausalLM.register(SLLMConfig, SLLM)

__all__ = ["SLLM", "SLLMConfig"]
