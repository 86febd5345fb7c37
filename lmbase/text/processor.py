"""SentenceProcessor: text -> sentences -> token ids, the same for training, scoring and generation.

B texts, S sentences of a text, T tokens of a sentence.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors.numpy import save_file
from transformers import PreTrainedTokenizerFast
from transformers.utils import cached_file

from lmbase.files import read_json
from lmbase.text.codec import TokenCodec, codec_of
from lmbase.text.learned import ARRAYS_NAME, LearnedCuts, apart, hashes, read_arrays
from lmbase.text.segmentation import AUTO, LEARNED, check_rule, choose_rule, is_open, segment
from lmbase.text.texts import text_list
from lmbase.text.tokenizers import load_tokenizer, opening_id, tokenizer_hash
from lmbase.text.told_ends import TELLING_RULES, ToldEnds, told_sentences, told_stops

if TYPE_CHECKING:  # torch takes longer to import than a worker process of `prepare` needs for its first megabyte
    from torch import Tensor

FILE_NAME = "sentence_processor.json"
HUB_OPTIONS = ("revision", "subfolder", "token", "cache_dir", "local_files_only", "force_download")
# Longer pieces are cut here first, at a space where there is one: keeps a megabyte without any punctuation from being
# tokenised as one word. Sentences are far shorter, but for runs of one character that few tokens hold.
MAX_PIECE_CHARACTERS = 4096
MAX_RUN_CHARACTERS = 2**16  # of what is tokenised at once: keeps a whole library in one document from filling memory


@dataclass
class EncodedText:
    """One text as sentences: flat token ids, and each sentence's share of tokens and UTF-8 bytes."""

    input_ids: list[int]
    sentence_lengths: list[int]  # tokens per sentence; they add up to len(input_ids)
    sentence_bytes: list[int]  # UTF-8 bytes per sentence; they add up to the text's

    def sentences(self) -> list[list[int]]:
        """The token ids, one list per sentence."""
        ends = list(accumulate(self.sentence_lengths))
        return [self.input_ids[end - length : end] for end, length in zip(ends, self.sentence_lengths, strict=True)]


class SentenceProcessor:
    """Cuts text into sentences of at most `max_sentence_tokens` tokens and tokenises them.

    Nothing is lost: a longer sentence becomes several, cut between characters. Special tokens that are spelled out in
    a text are text. The processor is saved inside every checkpoint.

    Args:
        tokenizer: a fast tokenizer with an end-of-sequence and a pad token, as `load_tokenizer` gives it.
        rule: how texts are cut, one of `lmbase.text.RULES` (see `lmbase.text.segment`).
        max_sentence_tokens: tokens per sentence, at most; at least 4, since one character may take four byte tokens.
        punkt: what the rule learned from the train split (`lmbase.text.learn_parameters`): JSON values, and arrays.

    Raises:
        ValueError: an unknown rule, too small a sentence, a tokenizer that cannot give back every text, or parameters
            that are damaged or were learned with another tokenizer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        rule: str = "auto",
        max_sentence_tokens: int = 64,
        punkt: dict | None = None,
    ):
        check_rule(rule)
        if max_sentence_tokens < 4:
            raise ValueError(
                f"max_sentence_tokens={max_sentence_tokens} is too small: one character may need 4 tokens."
            )
        if tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ValueError(
                f"The tokenizer {tokenizer.name_or_path!r} lacks an end-of-sequence or a pad token: set it, or load "
                "the tokenizer with lmbase.text.tokenizers.load_tokenizer, which finds a token to pad with."
            )
        codec_of(tokenizer)  # refuses those that lose text
        self.tokenizer = tokenizer
        self.rule = rule
        self.max_sentence_tokens = max_sentence_tokens
        self.punkt = punkt
        if rule == LEARNED and punkt is not None:
            made_with = LearnedCuts.of(punkt).tokenizer_hash
            if made_with not in ("", self.tokenizer_hash):
                raise ValueError(
                    f"The cuts of rule 'learned' were learned with another tokenizer than {tokenizer.name_or_path!r}: "
                    "their sentences would be longer or shorter than they say. Give the folder of the cuts as "
                    "--tokenizer, too, or learn them again with this tokenizer (sllm learn-cuts --tokenizer)."
                )

    @property
    def pad_token_id(self) -> int:
        return self.tokenizer.pad_token_id

    @property
    def bos_token_id(self) -> int:
        """What opens a text: for some tokenizers, OPT's among them, the same as `eos_token_id`."""
        return opening_id(self.tokenizer)

    @property
    def eos_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def codec(self) -> TokenCodec:
        """Exact translation between texts and ids."""
        return codec_of(self.tokenizer)

    @property
    def tells_ends(self) -> bool:
        """Whether the end of a sentence follows from the text up to it (`lmbase.text.told_ends`)."""
        return self.rule in TELLING_RULES

    def told_ends(self) -> ToldEnds:
        """What tells them, from the beginning of a text on."""
        assert self.tells_ends
        return ToldEnds(self.tokenizer, self.punkt, self.max_sentence_tokens)

    @property
    def tokenizer_hash(self) -> str:
        return tokenizer_hash(self.tokenizer)  # tokens may have been added

    @property
    def fingerprint(self) -> str:
        """Hash of all that decides which ids a text becomes."""
        values, arrays = apart(self.punkt)
        parts = [self.tokenizer_hash, self.rule, self.max_sentence_tokens, values]
        parts += [hashes(arrays)] if arrays else []
        parts += ["told"] if self.tells_ends else []  # there was a time when they were not
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    # -- text -> ids -------------------------------------------------------------------------------------------------

    def encode_batch(self, texts: str | Sequence[str]) -> list[EncodedText]:
        """Cut and tokenise texts; one alone is a list of one.

        Raises:
            ValueError: a text has a lone surrogate (it has no UTF-8 form), and the message gives its offset; or (a
                `codec.MissingTokenError`) a character for which the tokenizer has no tokens.
        """
        codec, texts = self.codec, text_list(texts)  # what can be read once only is read once
        runs_of = [self._runs(self._pieces(text), codec.joining_white_space) for text in texts]
        ids_of_runs = iter(codec.encode_batch(["".join(run) for runs in runs_of for run in runs]))
        encoded = []
        for text, runs in zip(texts, runs_of, strict=True):
            document = EncodedText([], [], [])
            if self.tells_ends:
                self._append_told(document, text, [i for _ in runs for i in next(ids_of_runs)], codec)
            else:
                for run in runs:
                    self._append_run(document, run, next(ids_of_runs), codec)
            encoded.append(document)
        return encoded

    def encode(self, text: str) -> EncodedText:
        """Cut and tokenise one text."""
        return self.encode_batch([text])[0]

    def __call__(self, texts: str | Sequence[str]) -> Any:
        """Texts -> `lmbase.text.padding.SentenceBatch`: input_ids, attention_mask (B, S, T), sentence_mask (B, S)."""
        from lmbase.text.padding import pad_sentences

        return pad_sentences([e.sentences() for e in self.encode_batch(texts)], self.pad_token_id)

    def split_open_end(self, sentences: list[list[int]]) -> tuple[list[list[int]], list[int]]:
        """The closed sentences of a text, and the tokens of its last one if that may still go on, as in most prompts.

        White space that ends a text is a sentence of its own, unless more text would show that it stands inside one:
        the open end of "Yes. He " is " He ".
        """
        if not sentences or len(sentences[-1]) >= self.max_sentence_tokens:
            return sentences, []
        if self.tells_ends:
            over = self.told_ends().add(i for sentence in sentences for i in sentence)
            return (sentences, []) if over else (sentences[:-1], sentences[-1])
        rule = self.rule
        if rule == AUTO:
            rule = choose_rule(self.decode([i for sentence in sentences for i in sentence]))
        last = self.decode(sentences[-1])
        joined = [i for sentence in sentences[-2:] for i in sentence]
        if last.isspace() and len(sentences) > 1 and len(joined) < self.max_sentence_tokens:
            continued = self.decode(joined) + "Next"
            if segment(continued, rule, punkt=self.punkt) == [continued]:
                return sentences[:-2], joined
        return (sentences[:-1], sentences[-1]) if is_open(last, rule, punkt=self.punkt) else (sentences, [])

    def _pieces(self, text: str) -> list[str]:
        pieces = []
        for piece in self._segment(text):
            while len(piece) > MAX_PIECE_CHARACTERS:
                cut = piece.rfind(" ", 1, MAX_PIECE_CHARACTERS)
                cut = cut if cut > 0 else MAX_PIECE_CHARACTERS
                pieces.append(piece[:cut])
                piece = piece[cut:]
            pieces.append(piece)
        return pieces

    def _segment(self, text: str) -> list[str]:
        if self.tells_ends:  # tokens are those of the whole text: cuts follow from them
            return [text] if text else []
        return segment(text, rule=self.rule, punkt=self.punkt)

    @staticmethod
    def _runs(pieces: list[str], joining_white_space: str) -> list[list[str]]:
        """Group pieces that can be tokenised as one text, which is faster, with the same ids as one by one."""
        runs: list[list[str]] = []
        size = 0
        for piece in pieces:
            joins = piece[0] in joining_white_space and runs and not runs[-1][-1][-1].isspace()
            if joins and size + len(piece) <= MAX_RUN_CHARACTERS:
                runs[-1].append(piece)
                size += len(piece)
            else:
                runs.append([piece])
                size = len(piece)
        return runs

    def _append_run(self, document: EncodedText, pieces: list[str], ids: list[int], codec: TokenCodec) -> None:
        sizes = [len(piece) if piece.isascii() else len(piece.encode()) for piece in pieces]
        # A piece's tokens end where its bytes end.
        stops = np.searchsorted(np.cumsum(codec.sizes[ids]), np.cumsum(sizes)) + 1
        lengths = np.diff(stops, prepend=0).tolist()
        if max(lengths) <= self.max_sentence_tokens:
            document.input_ids += ids
            document.sentence_lengths += lengths
            document.sentence_bytes += sizes
            return
        for stop, length in zip(stops.tolist(), lengths, strict=True):
            for part in self.apply_cap(ids[stop - length : stop]):
                document.input_ids += part
                document.sentence_lengths.append(len(part))
                document.sentence_bytes.append(int(codec.sizes[part].sum()))

    def _append_told(self, document: EncodedText, text: str, ids: list[int], codec: TokenCodec) -> None:
        if not ids:
            return
        token_ends = np.cumsum(codec.sizes[ids])
        stops = told_stops(text, token_ends, self.punkt, self.max_sentence_tokens)
        document.input_ids += ids
        document.sentence_lengths += np.diff(stops, prepend=0).tolist()
        document.sentence_bytes += np.diff(token_ends[stops - 1], prepend=0).tolist()

    def apply_cap(self, ids: list[int]) -> list[list[int]]:
        """One sentence's ids -> sentences of at most `max_sentence_tokens` tokens, cut between characters."""
        if len(ids) <= self.max_sentence_tokens:
            return [ids]
        raw = self.codec.token_bytes(ids)
        parts, start = [], 0
        while start < len(ids):
            stop = limit = min(start + self.max_sentence_tokens, len(ids))
            # A token may end inside a character: then its successor opens with a continuation byte.
            while start < stop < len(ids) and raw[stop][0] & 0xC0 == 0x80:
                stop -= 1
            stop = stop if stop > start else limit  # no token of these opens a character
            parts.append(ids[start:stop])
            start = stop
        return parts

    # -- ids -> sentences, ids -> text -------------------------------------------------------------------------------

    def read_ids(self, ids: Sequence[int]) -> list[list[int]]:
        """The sentences of flat ids, as the text would be read that they stand for.

        Where the tokenizer alone gives these ids for the text, they become those of the text's sentences: a tokenizer
        that sees no sentences joins white space across their borders. Otherwise the ids are cut as they are.

        Raises:
            ValueError: as `split_ids`.
        """
        text = self.decode(ids)
        return self.encode(text).sentences() if self.codec.encode(text) == list(ids) else self.split_ids(ids)

    def split_ids(self, ids: Sequence[int]) -> list[list[int]]:
        """Cut flat ids of a text into sentences without changing one of them.

        Where a sentence's border falls inside a token, the token stays with the earlier sentence.

        Raises:
            ValueError: the ids hold special tokens or ids outside the vocabulary.
        """
        ids = list(ids)
        special = sorted(set(ids) & self.codec.special_ids)
        if special:
            raise ValueError(f"Prompt ids hold special tokens {special}: give text tokens only, padding masked out.")
        text = b"".join(self.codec.token_bytes(ids)).decode("utf-8", errors="replace")
        encoded = self.encode(text)
        if encoded.input_ids == ids:
            return encoded.sentences()
        return self.cut_ids(ids)

    def cut_ids(self, ids: Sequence[int]) -> list[list[int]]:
        """The same cut for any ids, also those that no tokenizer would give for their text (generated ones, for
        instance); special tokens, and ids for which there is no token, are no text and begin nothing but after a
        sentence's end."""
        if self.tells_ends:
            return told_sentences(ids, self.told_ends())
        raw = [self.codec.known_bytes([i]) for i in ids]
        # surrogateescape keeps one character per broken byte, so that positions can be counted in bytes.
        text = b"".join(raw).decode("utf-8", errors="surrogateescape")
        sizes = [
            len(p.encode("utf-8", errors="surrogateescape")) for p in segment(text, rule=self.rule, punkt=self.punkt)
        ]
        borders = list(accumulate(sizes)) or [0]
        sentences: list[list[int]] = [[]]
        sentence = position = 0  # the sentence of the text that the byte at `position` belongs to
        for i, token in zip(ids, raw, strict=True):
            begins = position >= borders[sentence]
            if sentences[-1] and (begins or len(sentences[-1]) == self.max_sentence_tokens):
                sentences.append([])
            while sentence + 1 < len(borders) and position >= borders[sentence]:
                sentence += 1
            sentences[-1].append(i)
            position += len(token)
        return sentences

    def decode(self, ids: "Sequence[int] | Tensor") -> str:
        """Flat ids -> text; end marks and padding are left out."""
        return self.codec.decode(ids)

    # -- save, load --------------------------------------------------------------------------------------------------

    def save_pretrained(self, folder: str | Path) -> None:
        """Write tokenizer and rule into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save_pretrained(str(folder))
        values, arrays = apart(self.punkt)
        content = {
            "rule": self.rule,
            "max_sentence_tokens": self.max_sentence_tokens,
            "punkt": values,
            "tokenizer_hash": self.tokenizer_hash,
        }
        if arrays:
            content["arrays"] = hashes(arrays)
            save_file(arrays, folder / ARRAYS_NAME)
        (folder / FILE_NAME).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    @classmethod
    def from_pretrained(cls, folder: str | Path, **hub_options) -> "SentenceProcessor":
        """Read what `save_pretrained` wrote.

        Args:
            folder: a folder or a hub id.
            hub_options: which files of it, as for a model: revision, subfolder, token, cache_dir ...

        Raises:
            ValueError: no processor in the folder, or its tokenizer is not the one it was saved with.
        """
        path = cached_file(str(folder), FILE_NAME, _raise_exceptions_for_missing_entries=False, **hub_options)
        if path is None:
            raise ValueError(
                f"No {FILE_NAME} in {str(folder)!r}: it is no folder written by `prepare` or a training run."
            )
        content, tokenizer = read_json(Path(path)), load_tokenizer(str(folder), **hub_options)
        try:
            saved_hash = content.pop("tokenizer_hash")
            if wanted := content.pop("arrays", None):
                found = cached_file(
                    str(folder), ARRAYS_NAME, _raise_exceptions_for_missing_entries=False, **hub_options
                )
                content["punkt"] |= read_arrays(found, wanted)
            processor = cls(tokenizer, **content)
        except (KeyError, TypeError, OSError) as error:
            raise ValueError(f"{path} is damaged ({error}); copy it again from where the model was trained.") from error
        if processor.tokenizer_hash != saved_hash:
            raise ValueError(
                f"The tokenizer in {str(folder)!r} is not the one this processor was saved with: "
                "the ids would mean other words. Restore the tokenizer files of that run."
            )
        return processor
