"""Tiny tokenizers built like those of well-known models, from nothing but the `tokenizers` library.

`make_tokenizer(NAME)` gives a new one, for NAME in `BYTE_LEVEL` or `BYTE_FALLBACK`; some have no pad token, as their
models have none.
"""

import json
from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = "the cat sat on the mat, and the cat ate the rat. It's 1234 o'clock!\n\nnaïve 你好  the  end\n"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # Llama 3
)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")


def _learned(normalizer: Any, pre_tokenizer: Any, alphabet: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Tokens and merges of a BPE of about sixty merges."""
    tokenizer = Tokenizer(models.BPE())
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=len(alphabet) + 100, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]]


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


def _byte_level(pre_tokenizer: Any, special: list[str], normalizer: Any = None, **model_options: Any) -> Tokenizer:
    """Special tokens come last, as in GPT-2, Llama 3 and Qwen."""
    tokens, merges = _learned(normalizer, pre_tokenizer, pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab=_numbered(tokens), merges=merges, **model_options))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    return tokenizer


def _words(pattern: str) -> Any:
    split = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def gpt2() -> PreTrainedTokenizerFast:
    end = "<|endoftext|>"
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), [end])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=end, eos_token=end, unk_token=end)


def llama3() -> PreTrainedTokenizerFast:
    special = ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>"]
    tokenizer = _byte_level(_words(LLAMA3), special, ignore_merges=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])


def qwen2() -> PreTrainedTokenizerFast:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(_words(QWEN2), special, normalizers.NFC())
    tokenizer.add_tokens([AddedToken("<think>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=special[2], pad_token=special[0])


def smollm2() -> PreTrainedTokenizerFast:
    digits = pre_tokenizers.Digits(individual_digits=True)
    steps = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"]
    tokenizer = _byte_level(steps, special)
    names = dict(bos_token=special[1], eos_token=special[2], pad_token=special[2], unk_token=special[0])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _byte_tokens() -> list[str]:
    return [f"<0x{byte:02X}>" for byte in range(256)]


def _sentencepiece(special: list[str], normalizer: Any, pre_tokenizer: Any, strip: bool) -> Tokenizer:
    """A BPE with byte fallback: special tokens first, then bytes, then what was learned."""
    metaspace = pre_tokenizers.Metaspace(split=True)
    tokens, merges = _learned(None, metaspace, ["▁"])
    vocabulary = _numbered([*special, *_byte_tokens(), *tokens])
    tokenizer = Tokenizer(
        models.BPE(vocab=vocabulary, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    _surround(tokenizer, normalizer, pre_tokenizer, strip)
    tokenizer.add_special_tokens(special)
    return tokenizer


def _surround(tokenizer: Tokenizer, normalizer: Any, pre_tokenizer: Any, strip: bool) -> None:
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pre_tokenizer is not None:
        tokenizer.pre_tokenizer = pre_tokenizer
    steps: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)


LLAMA2_NAMES = dict(unk_token="<unk>", bos_token="<s>", eos_token="</s>")


def llama2() -> PreTrainedTokenizerFast:
    prefix = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = _sentencepiece(["<unk>", "<s>", "</s>"], prefix, None, strip=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **LLAMA2_NAMES)


def mistral() -> PreTrainedTokenizerFast:
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = _sentencepiece(["<unk>", "<s>", "</s>"], None, metaspace, strip=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **LLAMA2_NAMES)


def gemma() -> PreTrainedTokenizerFast:
    special = ["<pad>", "<eos>", "<bos>", "<unk>"]
    split = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer = _sentencepiece(special, normalizers.Replace(" ", "▁"), split, strip=False)
    tokenizer.add_tokens([AddedToken(run, normalized=False) for run in ("\n\n", "▁▁", "<b>")])
    names = dict(pad_token="<pad>", eos_token="<eos>", bos_token="<bos>", unk_token="<unk>")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def unigram() -> PreTrainedTokenizerFast:
    """SentencePiece's other model, with byte fallback."""
    pieces = ["▁", "▁the", "▁c", "at", "a", "t", "h", "e", "c", "."]
    vocabulary = [(token, 0.0) for token in ["<unk>", "<s>", "</s>", *_byte_tokens()]]
    vocabulary += [(piece, -1.0 - 0.1 * i) for i, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0, byte_fallback=True))
    _surround(tokenizer, None, pre_tokenizers.Metaspace(), strip=True)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **LLAMA2_NAMES)


BYTE_LEVEL: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "gpt2": gpt2,
    "llama3": llama3,
    "qwen2": qwen2,
    "smollm2": smollm2,
}
BYTE_FALLBACK: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    "llama2": llama2,
    "mistral": mistral,
    "gemma": gemma,
    "unigram": unigram,
}


def make_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """A new tokenizer built as NAME's are."""
    return (BYTE_LEVEL | BYTE_FALLBACK)[name]()
