"""Tiny models with random weights, wide apart enough that every output differs."""

from functools import partial

import torch
from transformers import OPTConfig, OPTForCausalLM

from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm import SLLM

CAP = 12  # tokens of a sentence; the `bytes` tokenizer gives one for each byte
WIDTH = 16
MEMORY: dict = dict(num_memory_states=3, num_memory_tokens=5)


def make_processor(rule: str = "punctuation", cap: int = CAP, tokenizer: str = "bytes") -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer(tokenizer), rule, cap)


def randomise(model: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Draw all weights anew: norms around 1, the end mark's row large, so that it often wins; gates stay,
    and the decoder reads the trunk's states as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "sentence_out" in name:
                weight.copy_(torch.eye(len(weight)) if weight.ndim == 2 else torch.zeros(len(weight)))
            elif "gates" not in name:
                offset = float("norm" in name and name.endswith("weight"))
                weight.copy_(offset + std * torch.randn(weight.shape, generator=generator))
            if "embed_tokens" in name:
                weight[2] *= 4


def make_vae(seed: int = 0, processor: bool = True, **options) -> SentenceVAE:
    settings = dict(vocab_size=260, hidden_size=WIDTH, num_attention_heads=2, max_sentence_tokens=CAP) | options
    vae = SentenceVAE(SentenceVAEConfig(**settings)).eval()
    randomise(vae, seed)
    if processor:
        vae.processor = make_processor(cap=vae.config.max_sentence_tokens)
    return vae


def make_opt(seed: int = 1, **options) -> OPTForCausalLM:
    settings = dict(
        vocab_size=260,
        hidden_size=WIDTH,
        word_embed_proj_dim=options.get("hidden_size", WIDTH),
        num_hidden_layers=2,
        num_attention_heads=2,
        ffn_dim=32,
        max_position_embeddings=32,
        dropout=0.0,
    )
    opt = OPTForCausalLM(OPTConfig(**settings | options)).eval()
    randomise(opt, seed)
    return opt


def make_sllm(
    seed: int = 37, *, vae: dict | None = None, opt: dict | None = None, stop_bias: float = -1.0, **options
) -> SLLM:
    """A grafted SLLM; `vae` and `opt` are options of its parts, `stop_bias` makes short or long texts likely."""
    options.setdefault("max_sentences", 16)
    sllm = SLLM.graft(make_vae(**vae or {}), make_opt(**opt or {}), **options).eval()
    randomise(sllm, seed)
    with torch.no_grad():
        sllm.stop_head.bias.fill_(stop_bias)
    return sllm


SLLMS = {
    "plain": make_sllm,
    "memory": partial(make_sllm, 3, **MEMORY),
}


def make_mtp(seed: int = 5, num_future_tokens: int = 3, opt: dict | None = None, **options) -> MultiTokenLM:
    model = MultiTokenLM.from_lm(make_opt(**opt or {}), num_future_tokens, **options)
    randomise(model, seed)
    return model
