"""Texts to token ids and back, with no byte lost, for every kind of tokenizer that can do it."""

import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lmbase.text.segmentation import check_unicode
from lmbase.text.token_kinds import Settings, TokenKind, exact_settings, joining_white_space, kind_of

if TYPE_CHECKING:  # torch takes longer to import than a worker process of `prepare` needs for its first megabyte
    from torch import Tensor


class MissingTokenError(ValueError):
    """A text has a character that no token and no byte tokens spell (SmolLM2 lacks some control characters)."""


class TokenCodec:
    """What one tokenizer makes of texts, exactly: the bytes behind the ids of a text are the bytes of the text.

    Special tokens stand for no bytes, and special tokens that are spelled out in a text are text. No space is put in
    front of a text, and the text is not normalised (see `token_kinds.exact_settings`).

    Attributes:
        special_ids: ids that no text becomes.
        sizes: (V,) int64, the bytes that each token stands for.
        joining_white_space: see `token_kinds.joining_white_space`.

    Raises:
        ValueError: the tokenizer cannot give back every text; the message names it, the cause and the remedy.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        backend = tokenizer.backend_tokenizer
        settings: Settings = json.loads(backend.to_str())
        self.name = tokenizer.name_or_path or type(tokenizer).__name__
        self._kind = check_settings(settings, self.name)
        self.special_ids = {token["id"] for token in settings["added_tokens"] if token["special"]}
        self.special_ids |= set(tokenizer.all_special_ids)
        self.special_ids |= unreachable_ids(settings)
        exact = exact_settings(settings)
        # One of its own: every call of the tokenizer leaves its truncation, padding and special tokens in its backend.
        self._backend = Tokenizer.from_str(json.dumps(exact))
        self._backend.no_truncation()
        self._backend.no_padding()
        self._backend.encode_special_tokens = True  # "</s>" written in a text is four characters, not an end mark
        self.joining_white_space = joining_white_space(exact)
        self._vocabulary = backend.get_vocab()
        self._bytes: list[bytes | None] = [None] * (max(self._vocabulary.values(), default=-1) + 1)
        for token, i in self._vocabulary.items():
            self._bytes[i] = b"" if i in self.special_ids else self._kind.token_bytes(token)
        model_vocabulary = token_names(settings)
        for token in settings["added_tokens"]:
            if not token["special"] and token["content"] not in model_vocabulary:
                self._bytes[token["id"]] = token["content"].encode("utf-8")
        self.sizes = np.array([len(piece or b"") for piece in self._bytes], np.int64)
        self._is_proven = self._cannot_lose(exact)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of texts without lone surrogates.

        Raises:
            MissingTokenError: a text has a character that no tokens spell.
        """
        found = [encoding.ids for encoding in self._backend.encode_batch_fast(list(texts), add_special_tokens=False)]
        if not self._is_proven:
            for k, text in enumerate(texts):
                if self._joined(found[k]) != text.encode():
                    found[k] = self._encode_by_parts(text)
        return found

    def encode(self, text: str) -> list[int]:
        """The ids of a text; ValueError with the offset of a lone surrogate, if it has one."""
        return self.encode_batch([check_unicode(text)])[0]

    def num_tokens_of(self, context: str, ids: Sequence[int]) -> int:
        """How many of the ids of a text are those of the context that it begins with.

        Raises:
            ValueError: a token holds the end of the context and more.
        """
        ends, size = np.cumsum(self.sizes[list(ids)]), len(context.encode())
        number = int(np.searchsorted(ends, size - 1, side="right")) + 1 if size else 0
        if size and ends[number - 1] != size:
            token = (self._bytes[ids[number - 1]] or b"").decode(errors="replace")
            raise ValueError(
                f"A context ends inside the token {token!r} of context and text together ({context[-20:]!r} and what "
                "follows), so the text has no likelihood of its own after it: move the border to the front of that "
                "token, such as a space from the context's end to the text."
            )
        return number

    def token_bytes(self, ids: Iterable[int]) -> list[bytes]:
        """The bytes that each token stands for; ValueError for an id outside the vocabulary."""
        pieces = []
        for i in ids:
            piece = self._bytes[i] if 0 <= i < len(self._bytes) else None
            if piece is None:
                raise ValueError(f"Token id {i} is outside the tokenizer's vocabulary of {len(self._vocabulary)}.")
            pieces.append(piece)
        return pieces

    def decode(self, ids: "Sequence[int] | Tensor") -> str:
        """Flat ids -> text. Special tokens, and ids for which there is no token, are left out."""
        flat: list[int] = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        return self.known_bytes(flat).decode("utf-8", errors="replace")

    def known_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of all ids together; special tokens, and ids for which there is no token, have none."""
        return b"".join(self._bytes[i] or b"" for i in ids if 0 <= i < len(self._bytes))

    @cached_property
    def spaces_open_words(self) -> bool:
        """Whether there are tokens of a space and letters, so that a space at the end of a prompt is one too many."""
        return any(piece is not None and piece[:1] == b" " and piece.strip() for piece in self._bytes)

    def _joined(self, ids: list[int]) -> bytes:
        table = self._bytes
        return b"".join([table[i] or b"" for i in ids])

    def _cannot_lose(self, settings: Settings) -> bool:
        """Whether the tokenizer's construction alone says that it is exact, so that no text has to be compared.

        True of a byte-level BPE with all 256 bytes and without added tokens, of which no merge makes a special token.
        """
        model = settings["model"]
        if self._kind.name != "byte-level" or model["type"] != "BPE" or settings["normalizer"] is not None:
            return False
        special = {token["content"] for token in settings["added_tokens"]}
        merged = {"".join(pair) for pair in model["merges"]}
        return (
            all(token["special"] for token in settings["added_tokens"])
            and all(self._byte_id(byte) is not None for byte in range(256))
            and not model.get("ignore_merges")
            and not model.get("continuing_subword_prefix")
            and not special & merged
        )

    def _byte_id(self, byte: int) -> int | None:
        i = self._vocabulary.get(self._kind.byte_token(byte))
        return None if i in self.special_ids else i

    def _encode_by_parts(self, text: str) -> list[int]:
        """The ids of a text that the tokenizer changes somewhere: halves, and what cannot be halved as bytes.

        `▁` in a text is an example: SentencePiece takes it for a space.
        """
        ids = self._backend.encode(text, add_special_tokens=False).ids
        if self._joined(ids) == text.encode():
            return ids
        if len(text) == 1:
            spelled = [self._byte_id(byte) for byte in text.encode()]
            if None in spelled:
                raise MissingTokenError(
                    f"The tokenizer {self.name!r} has no tokens for the character {text!r} (U+{ord(text):04X}) nor for "
                    "its bytes. Remove the character from the text, or use a model whose tokenizer knows all bytes."
                )
            return [i for i in spelled if i is not None]
        space = text.rfind(" ", 1, len(text) // 2 + 1)
        middle = space if space > 0 else len(text) // 2
        return self._encode_by_parts(text[:middle]) + self._encode_by_parts(text[middle:])


def check_settings(settings: Settings, name: str) -> TokenKind:
    """The kind of a tokenizer; ValueError with cause and remedy for one that cannot give back every text."""
    try:
        return kind_of(settings)
    except ValueError as error:
        raise ValueError(
            f"The tokenizer {name!r} cannot give back every text: {error}. Use a model with a byte-level tokenizer "
            "(GPT-2, OPT, Llama 3, Qwen, SmolLM2) or one with byte fallback (Llama 2, Mistral, Gemma)."
        ) from error


def unreachable_ids(settings: Settings) -> set[int]:
    """Ids of a byte-level BPE that no text becomes although they are not marked as special, such as OPT's `<s>`: no
    byte, no merge and no added token makes them."""
    model = settings["model"]
    if model["type"] != "BPE" or model.get("ignore_merges") or kind_of(settings).name != "byte-level":
        return set()
    made = {"".join(pair) if isinstance(pair, list | tuple) else pair.replace(" ", "") for pair in model["merges"]}
    made |= {token["content"] for token in settings["added_tokens"]}
    return {i for token, i in model["vocab"].items() if len(token) > 1 and token not in made}


def token_names(settings: Settings) -> set[str]:
    """The names of the tokens in a model's vocabulary, which is a dict or, of Unigram models, a list of pairs."""
    vocabulary = settings["model"].get("vocab") or {}
    return set(vocabulary) if isinstance(vocabulary, dict) else {token for token, _ in vocabulary}


_codecs: "WeakKeyDictionary[PreTrainedTokenizerFast, tuple[tuple, TokenCodec]]" = WeakKeyDictionary()


def codec_of(tokenizer: PreTrainedTokenizerFast) -> TokenCodec:
    """The codec of a tokenizer, made once and again when tokens were added to it."""
    state = (len(tokenizer), *tokenizer.all_special_ids)
    known = _codecs.get(tokenizer)
    if known is None or known[0] != state:
        _codecs[tokenizer] = known = (state, TokenCodec(tokenizer))
    return known[1]
