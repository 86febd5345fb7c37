"""Tokenizers: from a hub, from a folder, from a GGUF file, or trained here; and what their special ids are for."""

import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from lmbase.files import read_json
from lmbase.hub import check_source, local_name
from lmbase.text.codec import check_settings, codec_of, token_names
from lmbase.text.segmentation import is_unicode
from lmbase.text.token_kinds import BYTE_TO_CHARACTER

if TYPE_CHECKING:  # torch takes longer to import than a worker process of `prepare` needs for its first megabyte
    from torch import Tensor

# What surrounds vocabulary and merges in a plain byte-level tokenizer, such as OPT's and those made here.
PLAIN_SETTINGS: dict = {
    "normalizer": None,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "added_tokens": [],
}
# Settings of the model itself that decide about ids, where they are set to anything.
MODEL_SETTINGS = ("byte_fallback", "ignore_merges", "dropout", "continuing_subword_prefix", "end_of_word_suffix")
# OPT's order: 0 <s>, 1 <pad>, 2 </s> (which opens a text, closes it, and ends a sentence), 3 <unk>.
SPECIAL_TOKENS = ["<s>", "<pad>", "</s>", "<unk>"]
LONGEST_WORD = 2000  # characters, of a tokenizer's training
_LONG_RUN = re.compile(r"[^\W\d_]{N}|\d{N}|(?:[^\w\s]|_){N}|\s{N}".replace("N", str(LONGEST_WORD)))
_SPACES = re.compile(rf"\s{{{LONGEST_WORD}}}")


def load_tokenizer(
    spec: str, texts: Callable[[], Iterator[str]] | None = None, **hub_options: Any
) -> PreTrainedTokenizerFast:
    """Load or train a tokenizer that can give back every text.

    A tokenizer without a pad token gets one that is there already (`padding_token`), so that its vocabulary does not
    grow.

    Args:
        spec: `bpe:8192` (trained on `texts`), `bytes` (one token per UTF-8 byte), a folder (of a tokenizer, a model,
            a run or prepared data), a hub id, or a GGUF file.
        texts: called for a fresh iterator over the *train split*; only `bpe:N` needs it.
        hub_options: which files of a hub id, as for a model: revision, subfolder, token, cache_dir ...

    Raises:
        ValueError: no fast tokenizer, one without an end-of-sequence token, or one of a kind that loses text.
    """
    if spec == "bytes":
        return _wrap(_byte_level(models.BPE(vocab=_byte_vocabulary(), merges=[])))
    if spec.startswith("bpe:"):
        return _train_bpe(spec, texts)
    from transformers import AutoTokenizer  # brings torch, which workers of `prepare` do without

    tokenizer: Any
    if spec.lower().endswith(".gguf"):
        tokenizer = _read_gguf(Path(spec))
    else:
        spec = local_name(spec)
        check_source(spec, **hub_options)
        if not hub_options.get("subfolder"):  # which says where it is
            spec = str(part_with("tokenizer.json", spec) or spec)
        _check_files(spec, hub_options)
        try:
            tokenizer = AutoTokenizer.from_pretrained(spec, trust_remote_code=False, **hub_options)
        except Exception as error:  # of whatever kind a missing or damaged file leads to
            if not any(Path(spec).glob("*token*")) and Path(spec).is_dir():
                raise ValueError(
                    f"tokenizer={spec!r}: there is no tokenizer in this folder (no tokenizer.json). Give the folder of "
                    "a model, a run or prepared data, or bpe:N to train one."
                ) from error
            told = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            raise ValueError(
                f"No tokenizer could be read from {spec!r} ({told}): its files are missing or damaged. Copy them "
                "again, or save the tokenizer beside the model."
            ) from error
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ValueError(
            f"The tokenizer of {spec!r} has no fast (Rust) version, which is needed; use the model's tokenizer.json, "
            "or another model."
        )
    if tokenizer.eos_token_id is None:
        raise ValueError(
            f"The tokenizer of {spec!r} has no end-of-sequence token, which ends sentences and texts: set its "
            "eos_token and save it again."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = padding_token(tokenizer)
    codec_of(tokenizer)  # refuses those that lose text
    return tokenizer


def part_with(file_name: str, folder: str) -> Path | None:
    """Where such a file lies: in the folder itself, or where prepared data and runs have what belongs to their text."""
    parts = [Path(folder, part) for part in ("", "processor", "model")]
    return next((part for part in parts if (part / file_name).is_file()), None)


def _check_files(spec: str, hub_options: dict[str, Any]) -> None:
    """Look at a tokenizer's files before anything is built of them: no code of theirs runs, and what they would do to a
    text is known."""
    options = dict(hub_options, _raise_exceptions_for_missing_entries=False)
    if path := cached_file(spec, "tokenizer_config.json", **options):
        settings = read_json(Path(path))
        name = settings.get("tokenizer_class")
        own_code = isinstance(settings.get("auto_map"), dict) and "AutoTokenizer" in settings["auto_map"]
        if own_code and not (isinstance(name, str) and hasattr(transformers, name)):
            raise ValueError(
                f"{spec!r} wants to run code of its own for its tokenizer {name!r} (auto_map in "
                "tokenizer_config.json), which is never done here: use a model whose tokenizer Transformers knows."
            )
    if path := cached_file(spec, "tokenizer.json", **options):
        try:
            check_settings(read_json(Path(path)), spec)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path!r} is no tokenizer ({type(error).__name__}: {error}): it is damaged.") from None


def _read_gguf(path: Path) -> Any:
    from transformers import AutoTokenizer

    if not path.is_file():
        raise ValueError(f"tokenizer={str(path)!r}: no such GGUF file.")
    try:
        # What is raised depends on what is wrong (a file cut short, an unknown architecture, no package `gguf`).
        return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name, trust_remote_code=False)
    except Exception as error:
        raise ValueError(
            f"The tokenizer in {str(path)!r} could not be read: {error} ({type(error).__name__}). Check that the file "
            "is whole and that the package `gguf` is installed, or give a folder with a tokenizer.json."
        ) from error


def padding_token(tokenizer: PreTrainedTokenizerFast) -> str:
    """The token that fills up rows: one that exists, as the first of these rules says.

    1. the tokenizer's own pad token;
    2. a special token with `pad` in its name (`<|finetune_right_pad_id|>` of Llama 3.1);
    3. the unknown token, unless it opens or ends texts (`<unk>` of Llama 2);
    4. a special token that is reserved or unused by name (`<|reserved_special_token_0|>` of Llama 3);
    5. the end-of-sequence token (GPT-2). Masks, not ids, say what is padding.
    """
    if tokenizer.pad_token is not None:
        return str(tokenizer.pad_token)
    added = tokenizer.backend_tokenizer.get_added_tokens_decoder()
    taken = (tokenizer.bos_token, tokenizer.eos_token)
    special = [token.content for _, token in sorted(added.items()) if token.special and token.content not in taken]
    by_name = [[name for name in special if word in name.lower()] for word in ("pad", "reserved", "unused")]
    unknown = [token for token in [tokenizer.unk_token] if token is not None and token not in taken]
    choices = [*by_name[0], *unknown, *by_name[1], *by_name[2], tokenizer.eos_token]
    return str(choices[0])


def opening_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """The id that opens a text: the beginning-of-sequence token, else the end-of-sequence token (which OPT uses)."""
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    assert eos is not None, "load_tokenizer refuses tokenizers without an end-of-sequence token"
    return eos if bos is None else bos


def vocabulary_size(tokenizer: PreTrainedTokenizerFast) -> int:
    """Rows that an embedding table needs (ids of a tokenizer may have holes)."""
    return max(tokenizer.get_vocab().values()) + 1


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of all that decides which ids a text becomes: vocabulary, merges, normaliser, pre-tokeniser and added
    tokens. Special tokens of the vocabulary do not count as added: spelled out in a text, they are text."""
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    model, names = backend["model"], token_names(backend)
    added = [token for token in backend["added_tokens"] if not (token["special"] and token["content"] in names)]
    settings = {key: backend[key] for key in ("normalizer", "pre_tokenizer")} | {"added_tokens": added}
    settings |= {key: model[key] for key in MODEL_SETTINGS if model.get(key)}
    parts = [model.get("vocab"), model.get("merges")]
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


def encode_text(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    """The ids of a whole text, exactly (see `codec.TokenCodec`)."""
    return codec_of(tokenizer).encode(text)


def decode_ids(tokenizer: PreTrainedTokenizerFast, ids: "Sequence[int] | Tensor") -> str:
    """The text behind flat ids; special tokens are left out. Decoded ids of pieces join to the text of the whole."""
    return codec_of(tokenizer).decode(ids)


# -- made here ---------------------------------------------------------------------------------------------------------


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
    read = texts
    failed: list[BaseException] = []  # told afterwards: the library's threads never end once its source has raised

    def pieces() -> Iterator[str]:
        try:
            for text in filter(is_unicode, read()):
                yield from _without_long_words(text)
        except BaseException as error:
            failed.append(error)

    _heeding_signals(lambda: tokenizer.train_from_iterator(pieces(), trainer))
    if failed:
        raise failed[0]
    return _wrap(tokenizer)


def _without_long_words(text: str) -> list[str]:
    """A text to learn from, cut inside of runs that the tokenizer takes for one word and that are longer than any word:
    time grows with the square of a word's length. Nearly every text comes back whole."""
    if len(text) <= LONGEST_WORD or not (max(map(len, text.split()), default=0) > LONGEST_WORD or _SPACES.search(text)):
        return [text]
    ends = [run.end() for run in _LONG_RUN.finditer(text)]
    return [text[start:end] for start, end in zip([0, *ends], [*ends, len(text)], strict=True) if end > start]


def _heeding_signals(work: Callable[[], None]) -> None:
    """Do something native that takes minutes in a thread beside, so that Ctrl-C and SIGTERM end the program meanwhile:
    Python looks at signals between its own instructions only."""
    failed: list[BaseException] = []

    def act() -> None:
        try:
            work()
        except BaseException as error:  # raised again below
            failed.append(error)

    thread = threading.Thread(target=act, daemon=True)  # whose work nobody waits for at the end
    thread.start()
    while thread.is_alive():
        thread.join(0.1)
    if failed:
        raise failed[0]


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


def _byte_vocabulary() -> dict[str, int]:
    tokens = SPECIAL_TOKENS + [BYTE_TO_CHARACTER[byte] for byte in range(256)]
    return {token: i for i, token in enumerate(tokens)}
