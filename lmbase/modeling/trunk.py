"""Trunks: loaded or with random weights."""

import torch
from transformers import OPTConfig, OPTForCausalLM

from lmbase.modeling.attention import use_fast_attention
from lmbase.modeling.folders import model_folder

# The published sizes (arXiv 2205.01068), two small ones for CPUs, and a deep and narrow one for models of bytes.
SIZES: dict[str, dict] = {
    "tiny": dict(hidden_size=128, num_hidden_layers=4, num_attention_heads=4, ffn_dim=512),
    "small": dict(hidden_size=256, num_hidden_layers=6, num_attention_heads=4, ffn_dim=1024),
    "bytes": dict(hidden_size=128, num_hidden_layers=32, num_attention_heads=4, ffn_dim=512),
    "opt-125m": dict(hidden_size=768, num_hidden_layers=12, num_attention_heads=12, ffn_dim=3072),
    "opt-350m": dict(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=16,
        ffn_dim=4096,
        word_embed_proj_dim=512,
        do_layer_norm_before=False,
    ),
    "opt-1.3b": dict(hidden_size=2048, num_hidden_layers=24, num_attention_heads=32, ffn_dim=8192),
}


def load_opt(
    spec: str,
    *,
    vocab_size: int = 50272,
    max_positions: int = 2048,
    dropout: float = 0.0,
    seed: int = 0,
) -> OPTForCausalLM:
    """An OPT from a hub id or a folder (safetensors only), or `random:SIZE` with fresh weights.

    Args:
        vocab_size, max_positions: of a random model; a loaded one keeps its own.
    """
    if not spec.startswith("random:"):
        source = model_folder(spec, "opt")
        opt = OPTForCausalLM.from_pretrained(source, use_safetensors=True, dtype=torch.float32, dropout=dropout)
        use_fast_attention(opt)
        return opt
    config = random_config(spec, vocab_size=vocab_size, max_positions=max_positions, dropout=dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        opt = OPTForCausalLM(config)
    use_fast_attention(opt)
    return opt


def random_config(spec: str, *, vocab_size: int, max_positions: int, dropout: float = 0.0) -> OPTConfig:
    """The configuration that `random:SIZE` names."""
    size = spec.removeprefix("random:")
    if size not in SIZES:
        raise ValueError(f"opt={spec!r}: random weights come in the sizes {', '.join(SIZES)}.")
    return OPTConfig(vocab_size=vocab_size, max_position_embeddings=max_positions, dropout=dropout, **SIZES[size])


def vector_shape(opt: OPTForCausalLM) -> tuple[int, int]:
    """Width of the vectors that this trunk reads, and how many attention heads as wide as its own fit into it."""
    width = opt.get_input_embeddings().weight.shape[1]
    return width, opt.config.num_attention_heads * width // opt.config.hidden_size


def own_tokenizer(spec: str | None) -> str | None:
    """Where the tokenizer of an OPT is found: beside its weights; None for random weights."""
    return None if spec is None or spec.startswith("random:") else model_folder(spec)
