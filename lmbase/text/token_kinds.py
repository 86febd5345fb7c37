"""Kinds of tokenizers: which bytes each token stands for, and how a tokenizer is made to change no text.

A tokenizer is looked at as its settings, the content of its `tokenizer.json`. Two kinds can give back every text:

- byte-level: tokens are spelled in GPT-2's alphabet, one character for each byte. GPT-2, OPT, Llama 3, Qwen, SmolLM2,
  and those made here.
- byte fallback (SentencePiece's way): `▁` stands for a space, and what the vocabulary lacks is spelled in tokens like
  `<0x0A>`. Llama 2, Mistral, Gemma.

A new kind is one class here and one line in `KINDS`.
"""

import re
from collections.abc import Iterator
from typing import Any, Protocol

Settings = dict[str, Any]

SPACE = "▁"
WHITE_SPACE = " \n\r\t"
# Patterns that cut words, of which no match holds a visible character and a space behind it, and which look ahead from
# white space only: those of Llama 3 and of Qwen 2 and 3. Line breaks may follow a mark in one match.
LETTERS_AND_MARKS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|%s"
WORD_PATTERNS = {
    LETTERS_AND_MARKS % (digits, r"\s*[\r\n]+|\s+(?!\S)|\s+") for digits in (r"\p{N}", r"\p{N}{1,3}", r"\p{N}+")
}


# A group that repeats something and is itself repeated: the time for a match can double with every character.
REPEATED_REPEATS = re.compile(r"[+*}]\)[+*{]")


class TokenKind(Protocol):
    """What is common to the tokenizers of a kind."""

    name: str

    def matches(self, settings: Settings) -> bool:
        """Whether a tokenizer is of this kind."""

    def token_bytes(self, token: str) -> bytes:
        """The bytes that a token of the vocabulary stands for."""

    def byte_token(self, byte: int) -> str:
        """The token that stands for one byte and nothing else."""

    def check(self, settings: Settings) -> None:
        """Raise ValueError, with the cause, if texts cannot be had back from their ids."""


class ByteLevel:
    name = "byte-level"

    def matches(self, settings: Settings) -> bool:
        steps = [*steps_of(settings["pre_tokenizer"]), *steps_of(settings["decoder"])]
        return any(step["type"] == "ByteLevel" for step in steps)

    def token_bytes(self, token: str) -> bytes:
        try:
            return bytes(_CHARACTER_TO_BYTE[character] for character in token)
        except KeyError:  # a token that was added later and is spelled as it stands in a text
            return token.encode("utf-8")

    def byte_token(self, byte: int) -> str:
        return BYTE_TO_CHARACTER[byte]

    def check(self, settings: Settings) -> None:
        _check_steps(settings, rewriting={"NFC"}, cutting={"ByteLevel", "Split", "Digits", "Punctuation"})


class ByteFallback:
    name = "byte fallback"

    _BYTE = re.compile(r"<0x([0-9A-F]{2})>")

    def matches(self, settings: Settings) -> bool:
        return bool(settings["model"].get("byte_fallback"))

    def token_bytes(self, token: str) -> bytes:
        byte = self._BYTE.fullmatch(token)
        return bytes([int(byte.group(1), 16)]) if byte else token.replace(SPACE, " ").encode("utf-8")

    def byte_token(self, byte: int) -> str:
        return f"<0x{byte:02X}>"

    def check(self, settings: Settings) -> None:
        rewriting = {"NFC", "Prepend", "Replace"}
        _check_steps(settings, rewriting, cutting={"Metaspace", "Split", "Digits", "Punctuation"})
        for step in steps_of(settings["normalizer"]):
            if step["type"] == "Replace" and (step["pattern"], step["content"]) != ({"String": " "}, SPACE):
                raise ValueError(f"it replaces {step['pattern']} by {step['content'][:80]!r}")
            if step["type"] == "Prepend" and step["prepend"] != SPACE:
                raise ValueError(f"it puts {step['prepend'][:80]!r} in front of a text")


KINDS: list[TokenKind] = [ByteLevel(), ByteFallback()]


def kind_of(settings: Settings) -> TokenKind:
    """The kind of a tokenizer.

    Raises:
        ValueError: it is of no kind here, or changes texts for good; the message is the cause alone.
    """
    for kind in KINDS:
        if kind.matches(settings):
            kind.check(settings)
            return kind
    known = ", ".join(kind.name for kind in KINDS)
    raise ValueError(f"its model {settings['model']['type']} has no tokens for single bytes (known kinds: {known})")


def exact_settings(settings: Settings) -> Settings:
    """The settings of the same tokenizer without all that adds to a text, changes it or cuts it off.

    No space is put in front of a text: there would be one in front of every sentence. No Unicode normalisation (NFC):
    a text that is not normalised keeps its bytes, and one that is gets the same ids. No dropout.
    """
    exact = settings | {"truncation": None, "padding": None}
    if settings["model"].get("dropout"):
        exact["model"] = settings["model"] | {"dropout": None}
    kept = [step for step in steps_of(settings["normalizer"]) if step["type"] not in ("NFC", "Prepend")]
    exact["normalizer"] = _joined(kept, "normalizers")
    steps = []
    for step in steps_of(settings["pre_tokenizer"]):
        if step["type"] == "ByteLevel":
            step = step | {"add_prefix_space": False}
        elif step["type"] == "Metaspace":
            step = step | {"prepend_scheme": "never"}
        steps.append(step)
    exact["pre_tokenizer"] = _joined(steps, "pretokenizers")
    return exact


def joining_white_space(settings: Settings) -> str:
    """White space before which a text may be cut, behind a visible character, without changing an id.

    Such pieces may be tokenised as one text, which is faster. It holds where words are cut by patterns that never match
    across such a place and look ahead from white space only, and where no added token holds white space. Everywhere
    else, nothing is claimed: the empty string.
    """
    if settings["model"]["type"] != "BPE" or settings["normalizer"] is not None:
        return ""
    for token in settings["added_tokens"]:
        touches = token["lstrip"] or token["rstrip"] or token["single_word"] or re.search(r"\s", token["content"])
        if touches and not token["special"]:
            return ""
    found: set[str] = set(WHITE_SPACE)
    cuts = False
    for step in steps_of(settings["pre_tokenizer"]):
        if step["type"] == "ByteLevel" and step["use_regex"]:
            cuts = True
        elif step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
            if step["pattern"].get("Regex") not in WORD_PATTERNS:
                return ""
            cuts = True
            found &= {" "}
        elif step["type"] not in ("ByteLevel", "Digits"):  # digits are cut from what stands beside them, one by one
            return ""
    return "".join(sorted(found)) if cuts else ""


def steps_of(part: Settings | None) -> Iterator[Settings]:
    """The steps of a normaliser, pre-tokeniser or decoder, one after the other."""
    if part is None:
        return
    if part["type"] != "Sequence":
        yield part
        return
    for key in ("normalizers", "pretokenizers", "decoders"):
        for step in part.get(key, ()):
            yield from steps_of(step)


def _joined(steps: list[Settings], key: str) -> Settings | None:
    if len(steps) > 1:
        return {"type": "Sequence", key: steps}
    return steps[0] if steps else None


def _check_steps(settings: Settings, rewriting: set[str], cutting: set[str]) -> None:
    for step in steps_of(settings["normalizer"]):
        if step["type"] not in rewriting:
            raise ValueError(f"it rewrites a text before it cuts it ({step['type']})")
    for step in steps_of(settings["pre_tokenizer"]):
        if step["type"] not in cutting or step.get("behavior") == "Removed":
            raise ValueError(f"it drops what stands between words ({step['type']})")
        if REPEATED_REPEATS.search(str(step.get("pattern", {}).get("Regex", ""))):
            raise ValueError(f"it cuts words by a pattern that can take forever ({step['pattern']['Regex'][:80]!r})")


def _byte_characters() -> dict[int, str]:
    """Byte -> the printable character that stands for it in byte-level vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    table = {byte: chr(byte) for byte in printable}
    for shift, byte in enumerate(b for b in range(256) if b not in table):
        table[byte] = chr(256 + shift)
    return table


BYTE_TO_CHARACTER = _byte_characters()
_CHARACTER_TO_BYTE = {character: byte for byte, character in BYTE_TO_CHARACTER.items()}
