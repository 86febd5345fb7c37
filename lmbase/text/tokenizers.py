"""Tokenizers: from a hub, from a folder, or trained here; all with the special ids that OPT uses."""

import hashlib
import json
from collections.abc import Callable, Iterator

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from lmbase.text import is_unicode
from lmbase.text.segmentation import check_unicode

# What surrounds vocabulary and merges in a plain byte-level tokenizer, such as OPT's and those made here.
PLAIN_SETTINGS: dict = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "added_tokens": [],
}
# OPT's order: 0 <s>, 1 <pad>, 2 </s> (which opens a text, closes it, and ends a sentence), 3 <unk>.
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]


def load_tokenizer(spec: str, texts: Callable[[], Iterator[str]] | None = None) -> PreTrainedTokenizerFast:
    """Load or train a byte-level tokenizer.

    Args:
        spec: `bpe:8192` (trained on `texts`), `bytes` (one token per UTF-8 byte), a folder, or a hub id.
        texts: called for a fresh iterator over the *train split*; only `bpe:N` needs it.
    """
    if spec == "bytes":
        return _wrap(_byte_level(models.BPE(vocab=_byte_vocabulary(), merges=[])))
    if spec.startswith("bpe:"):
        return _train_bpe(spec, texts)
    from transformers import AutoTokenizer  # brings torch, which workers of `prepare` do without

    tokenizer = AutoTokenizer.from_pretrained(spec)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"The tokenizer of {spec!r} has no fast (Rust) version; a byte-level one such as OPT's is needed."
        )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {spec!r} needs a pad and an end-of-sequence token; set both and save it again."
        )
    return tokenizer


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows that an embedding table needs (ids of a tokenizer may have holes)."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of all that decides which ids a text becomes: vocabulary, merges, normaliser, pre-tokeniser and added
    tokens. Special tokens of the vocabulary do not count as added: spelled out in a text, they are text."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    vocab = backend["model"].get("vocab")
    added = [token for token in backend["added_tokens"] if not (token["special"] and token["content"] in vocab)]
    settings = {key: backend[key] for key in ("normalizer", "pre_tokenizer")} | {"added_tokens": added}
    parts = [vocab, backend["model"].get("merges")]
    if settings != PLAIN_SETTINGS:  # plain ones keep the hash that is in the folders of earlier versions
        parts.append(settings)
    content = json.dumps(parts, sort_keys=True, ensure_ascii=True)
    return hashlib.sha256(content.encode("ascii")).hexdigest()


def check_same_tokenizer(spec: str, tokenizer: PreTrainedTokenizerFast, owner: str, other: str) -> None:
    """Raise ValueError unless the tokenizer of `spec` gives the same ids as `tokenizer`."""
    if tokenizer_hash(load_tokenizer(spec)) != tokenizer_hash(tokenizer):
        raise ValueError(
            f"The tokenizers of {owner} and of {other} differ, so their token ids mean other words. "
            f"Prepare the data (and train the autoencoder) with --tokenizer {spec}."
        )


def token_bytes(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> list[bytes]:
    """The UTF-8 bytes behind each token of a byte-level tokenizer (special tokens stand for none).

    Raises:
        ValueError: an id outside the vocabulary, or a tokenizer that is not byte-level.
    """
    special = set(tokenizer.all_special_ids)
    pieces = []
    for i, token in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token is None:
            raise ValueError(f"Token id {i} is outside the tokenizer's vocabulary of {len(tokenizer)}.")
        try:
            pieces.append(b"" if i in special else bytes(_CHAR_TO_BYTE[c] for c in token))
        except KeyError as error:
            raise ValueError(
                f"Token {token!r} is not a byte-level token; use a byte-level BPE such as OPT's."
            ) from error
    return pieces


def _train_bpe(spec: str, texts: Callable[[], Iterator[str]] | None) -> PreTrainedTokenizerFast:
    size_text = spec.removeprefix("bpe:")
    smallest = len(SPECIAL_TOKENS) + 256
    if not size_text.isdigit() or int(size_text) < smallest:
        raise ValueError(f"tokenizer={spec!r}: write bpe:N with N at least {smallest} (special tokens and 256 bytes).")
    if texts is None:
        raise ValueError(f"tokenizer={spec!r} must be trained, and no training text was given.")
    trainer = trainers.BpeTrainer(
        vocab_size=int(size_text),
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer = _byte_level(models.BPE())
    tokenizer.train_from_iterator((t for t in texts() if is_unicode(t)), trainer)
    return _wrap(tokenizer)


def _byte_level(model: models.Model) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="</s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def _byte_characters() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + shift)
    return table


def _byte_vocabulary() -> dict[str, int]:
    characters = _byte_characters()
    tokens = SPECIAL_TOKENS + [characters[byte] for byte in range(256)]
    return {token: i for i, token in enumerate(tokens)}


_CHAR_TO_BYTE = {character: byte for byte, character in _byte_characters().items()}


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """Ids of a whole text; special tokens that are spelled out in it are text."""
    tokenizer.backend_tokenizer.encode_special_tokens = True
    return tokenizer.backend_tokenizer.encode(check_unicode(text), add_special_tokens=False).ids
