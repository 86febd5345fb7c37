"""Tiny models with random weights, wide apart enough that every output differs."""

from functools import partial

import torch
from transformers import AutoModelForCausalLM, OPTConfig, OPTForCausalLM, PreTrainedModel

from lmbase.modeling.attention import use_fast_attention
from lmbase.modeling.trunk import FAMILIES, new_config
from lmbase.text.padding import pad_sentences, pad_tokens
from lmbase.text.processor import SentenceProcessor
from lmbase.text.tokenizers import load_tokenizer
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE, SentenceVAEConfig
from sllm import SLLM

CAP = 12  # tokens of a sentence; the `bytes` tokenizer gives one for each byte
WIDTH = 16
MEMORY: dict = dict(num_memory_states=3, num_memory_tokens=5)
# Every family in the shape that sets it apart: grouped heads, heads whose widths do not add up to the model's, no
# padding token, vectors narrower than the layers.
LMS: dict[str, dict] = {family: dict(family=family) for family in FAMILIES} | {
    "opt-350m": dict(family="opt", hidden_size=64, word_embed_proj_dim=32, do_layer_norm_before=False),
    "gpt2": dict(family="gpt2", pad_token_id=None),
    "qwen3": dict(family="qwen3", head_dim=16),
}
LM_WIDTH = 32  # of the vectors that each of them reads


def make_processor(
    rule: str = "punctuation", cap: int = CAP, tokenizer: str = "bytes", punkt: dict | None = None
) -> SentenceProcessor:
    return SentenceProcessor(load_tokenizer(tokenizer), rule, cap, punkt)


def randomise(model: torch.nn.Module, seed: int = 0, std: float = 0.2) -> None:
    """Draw all weights anew: norms around 1, the end mark's row large, so that it often wins; gates stay,
    and the decoder reads the trunk's states as they are."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name in ("sentence_out.weight", "sentence_out.bias"):
                weight.copy_(torch.eye(len(weight)) if weight.ndim == 2 else torch.zeros(len(weight)))
            elif "gates" not in name:
                offset = float(("norm" in name or ".ln_" in name) and name.endswith("weight"))
                weight.copy_(offset + std * torch.randn(weight.shape, generator=generator))
            if "embed_tokens" in name or "wte" in name:
                weight[2] *= 4


def make_vae(seed: int = 0, processor: bool = True, **options) -> SentenceVAE:
    settings = dict(vocab_size=260, hidden_size=WIDTH, num_attention_heads=2, max_sentence_tokens=CAP) | options
    vae = SentenceVAE(SentenceVAEConfig(**settings)).eval()
    randomise(vae, seed)
    if processor:
        vae.processor = make_processor(cap=vae.config.max_sentence_tokens)
    return vae


def make_sentences(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask of random sentences of 1 to CAP tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, CAP + 1, (num,), generator=generator).tolist()
    return pad_tokens([torch.randint(4, 260, (n,), generator=generator).tolist() for n in lengths], 1)


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


def make_lm(shape: str, seed: int = 1, **overrides) -> PreTrainedModel:
    """A model of one of `LMS`; overrides are fields of its configuration."""
    settings: dict = dict(
        vocab_size=260,
        hidden_size=LM_WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        feed_forward=64,
        max_position_embeddings=32,
    )
    config = new_config(**settings | LMS[shape] | overrides)
    lm = AutoModelForCausalLM.from_config(config).eval()
    use_fast_attention(lm)
    randomise(lm, seed)
    return lm


def make_sllm(
    seed: int = 37,
    *,
    vae: dict | None = None,
    opt: dict | None = None,
    lm: PreTrainedModel | None = None,
    stop_bias: float = -1.0,
    **options,
) -> SLLM:
    """A grafted SLLM; `vae` and `opt` are options of its parts (or `lm` is its trunk), `stop_bias` makes short or long
    texts likely."""
    options.setdefault("max_sentences", 16)
    sllm = SLLM.graft(make_vae(**vae or {}), lm or make_opt(**opt or {}), **options).eval()
    randomise(sllm, seed)
    with torch.no_grad():
        sllm.stop_head.bias.fill_(stop_bias)
    return sllm


def make_own(
    shape: str = "llama",
    *,
    num_hidden_layers: int = 5,
    stop_bias: float = -4.0,
    cap: int = CAP,
    lm: dict | None = None,
    **options,
) -> SLLM:
    """A language model of one of `LMS` grafted by its own layers, its joints moved away from where they start."""
    if lm is None:
        lm = {}
    shown = make_lm(shape, num_hidden_layers=num_hidden_layers, max_position_embeddings=512, **lm)
    given = dict(upper_layers=2, lower_layers=1, lower_window=16, upper_window=14, max_sentences=16) | options
    model = SLLM.graft_own_layers(shown, cap, **given).eval()
    assert model.own is not None
    with torch.no_grad():
        generator = torch.Generator().manual_seed(5)
        joints = [*model.own.parameters(), model.stop_head.weight]
        joints += [head.proj.weight for head in model.draft_heads]
        joints += [model.end_head.weight] if model.end_head is not None else []
        for weight in joints:
            weight += 0.1 * torch.randn(weight.shape, generator=generator)
        model.stop_head.bias.fill_(stop_bias)
    return model


def pad(texts: list[list[list[int]]]) -> dict[str, torch.Tensor]:
    """Texts given as sentences -> arguments of an SLLM."""
    return vars(pad_sentences(texts, 1))


def read(model: SLLM, texts: list[str]) -> dict[str, torch.Tensor]:
    """The same of texts."""
    return vars(model.processor(texts))


def rows(output) -> list[list[int]]:
    """Prompt and new ids of each text that was written."""
    return [ids[mask].tolist() for ids, mask in zip(output.sequences, output.attention_mask, strict=True)]


SLLMS = {
    "plain": make_sllm,
    "memory": partial(make_sllm, 5, vae=dict(num_decoder_layers=2), **MEMORY, num_memory_vectors=2),
}


def make_mtp(
    seed: int = 5,
    num_future_tokens: int = 3,
    opt: dict | None = None,
    lm: PreTrainedModel | None = None,
    **options,
) -> MultiTokenLM:
    model = MultiTokenLM.from_lm(lm or make_opt(**opt or {}), num_future_tokens, **options)
    randomise(model, seed)
    return model
