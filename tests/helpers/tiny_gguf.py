"""A tiny Llama as llama.cpp's converter writes it: a GGUF file with metadata, tokenizer and weights."""

import json
from pathlib import Path

import gguf
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

# llama.cpp's names of a block's weights, and Transformers'.
BLOCK = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_gguf(
    path: Path,
    lm: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None = None,
    architecture: str = "llama",
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> None:
    """Args: kind: how matrices are stored; the vectors of norms stay in fp32."""
    config = lm.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_bos_token_id(config.bos_token_id)
    writer.add_eos_token_id(config.eos_token_id)
    writer.add_pad_token_id(config.pad_token_id)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)

    def add(name: str, weight: Tensor) -> None:
        data = weight.detach().numpy()
        if data.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(name, data)
        else:
            writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)

    weights = lm.state_dict()
    add("token_embd.weight", weights["model.embed_tokens.weight"])
    for number in range(config.num_hidden_layers):
        for theirs, ours in BLOCK.items():
            weight = weights[f"model.layers.{number}.{ours}.weight"]
            heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}.get(theirs)
            if heads:  # llama.cpp rotates neighbours, Transformers halves
                weight = weight.unflatten(0, (heads, 2, -1)).transpose(1, 2).flatten(0, 2).contiguous()
            add(f"blk.{number}.{theirs}.weight", weight)
    add("output_norm.weight", weights["model.norm.weight"])
    if not config.tie_word_embeddings:
        add("output.weight", weights["lm_head.weight"])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in _merges(tokenizer)])


def _merges(tokenizer: PreTrainedTokenizerFast) -> list[tuple[str, str]]:
    return json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
