"""Prepared data for a training recipe: a folder that `prepare` wrote, or any corpus, prepared on the way."""

import json
import os
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PreTrainedTokenizerFast

from lmbase.files import MANIFEST, read_json, verify_once, write_text
from lmbase.hub import local_name
from lmbase.text import RULES, learn_parameters
from lmbase.text.processor import FILE_NAME, SentenceProcessor
from lmbase.text.segmentation import LEARNED
from lmbase.text.tokenizers import load_tokenizer, part_with, tokenizer_hash, vocabulary_size
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.description import describe
from sllm_data.prepare import check_configuration, prepare
from sllm_data.prepared import PROCESSOR, PreparedData

REQUEST = "request.json"  # in OUTPUT_DIR/data: what a recipe asked for when it was made
RULE_KEY = f"how text is cut into sentences: {', '.join(RULES)}, or a folder that learn-cuts wrote"
RULE_CHARACTERS = 4_000_000  # a rule learns from this much: Punkt reads about 0.4 MB/s, and soon knows what it needs


def _first(texts: Iterator[str], num_characters: int) -> Iterator[str]:
    for text in texts:
        if num_characters <= 0:
            return
        num_characters -= len(text)
        yield text


def is_prepared(folder: str | Path) -> bool:
    """Whether `prepare` wrote and finished this folder."""
    return (Path(folder) / MANIFEST).is_file()


def load_prepared(data: str | list[str], *, verify: bool = True) -> PreparedData | None:
    """The prepared data that `data` names; None if it names a corpus.

    Args:
        verify: as in `PreparedData.load`.

    Raises:
        ValueError: damaged prepared data, or a folder of prepared data among other specs.
    """
    specs = [data] if isinstance(data, str) else data
    prepared = [spec for spec in specs if is_prepared(spec)]
    if prepared and len(specs) > 1:
        raise ValueError(
            f"data={specs}: {prepared[0]!r} is prepared already and cannot be joined with others; give it alone, or "
            "run `sllm prepare` on the texts of all."
        )
    return PreparedData.load(prepared[0], verify=verify) if prepared else None


def check_apart(data: str | list[str], folder: str | Path) -> None:
    """
    Args:
        folder: where something will be written that `data` are read for.

    Raises:
        ValueError: it is, or lies in, a folder of texts: what is written there would be text when it is read again, and
            the same command would find that its text has changed.
    """
    written = Path(os.path.realpath(folder))
    for spec in [data] if isinstance(data, str) else data:
        texts = Path(os.path.realpath(Path(spec).expanduser()))
        if not texts.is_dir() or not written.is_relative_to(texts):
            continue
        if any(part.startswith(".") for part in written.relative_to(texts).parts):  # hidden: nobody reads it
            continue
        raise ValueError(
            f"output_dir={str(folder)!r} lies in the folder of texts, data={spec!r}, and would be read as text the "
            "next time. Choose an output_dir outside it, or a pattern as the data, such as "
            f"{str(Path(spec) / '*.txt')!r}."
        )


def make_processor(corpus: Corpus, tokenizer: str, rule: str, max_sentence_tokens: int) -> SentenceProcessor:
    """The processor for a corpus. What the tokenizer and the rule have to learn, they learn from its train split."""
    loaded = load_tokenizer(tokenizer, lambda: corpus.texts("train"))
    return with_rule(loaded, rule, max_sentence_tokens, lambda: corpus.texts("train"))


def with_rule(
    tokenizer: PreTrainedTokenizerFast,
    rule: str,
    max_sentence_tokens: int,
    texts: Callable[[], Iterator[str]] | None = None,
) -> SentenceProcessor:
    """A processor of this tokenizer and rule.

    Args:
        rule: the name of a rule, or a folder that holds one with what it learned: of `sllm learn-cuts`, of prepared
            data, of a run or of a model.
        texts: of a train split, from which a rule learns; default: it learns nothing.

    Raises:
        ValueError: there is no such rule, or it has to be learned by a command of its own.
    """
    if folder := _folder_of_rule(rule):
        if (folder / MANIFEST).is_file():
            verify_once(folder)
        other = SentenceProcessor.from_pretrained(folder)
        return SentenceProcessor(tokenizer, other.rule, max_sentence_tokens, other.punkt)
    if rule == LEARNED:
        raise ValueError(
            f"rule={rule!r} is learned by a command of its own: run `sllm learn-cuts` on this text, then give its "
            "output_dir as --rule and as --tokenizer."
        )
    learned = None if texts is None else learn_parameters(rule, _first(texts(), RULE_CHARACTERS))
    return SentenceProcessor(tokenizer, rule, max_sentence_tokens, learned)


def _folder_of_rule(rule: str) -> Path | None:
    """The folder of a processor that `rule` names; a rule's own name is none."""
    return None if rule in RULES else part_with(FILE_NAME, rule)


def taken_over(folder: Path, tokenizer: str, rule: str) -> SentenceProcessor:
    """The processor that an earlier run saved in a folder of data, asked for by the same names now.

    Raises:
        ValueError: one of them is the name of something here that has another content by now.
    """
    saved = SentenceProcessor.from_pretrained(folder / PROCESSOR)
    changed = ""
    if Path(local_name(tokenizer)).exists() and tokenizer_hash(load_tokenizer(tokenizer)) != saved.tokenizer_hash:
        changed = f"tokenizer={tokenizer!r}"
    elif _folder_of_rule(rule):
        now = with_rule(saved.tokenizer, rule, saved.max_sentence_tokens)
        changed = f"rule={rule!r}" if now.fingerprint != saved.fingerprint else ""
    if changed:
        raise ValueError(
            f"{str(folder)!r} holds data prepared with what {changed} was then, and something else lies there now. "
            "Choose another output_dir, or delete the folder."
        )
    return saved


def check_as_made(data: PreparedData, asked: dict[str, Any]) -> None:
    """
    Args:
        asked: what a user asked for beside the data, of the keys `tokenizer`, `rule` and `max_sentence_tokens`.

    Raises:
        ValueError: the data were made with another one.
    """
    own = data.processor
    if spec := asked.get("tokenizer"):
        if learned := re.fullmatch(r"bpe:(\d+)", spec):  # from its text, so its size is all that can be compared
            size, most = vocabulary_size(own.tokenizer), int(learned[1])
            same = size == most or vocabulary_size(load_tokenizer("bytes")) < size < most  # there was too little text
        else:
            same = tokenizer_hash(load_tokenizer(spec)) == own.tokenizer_hash
        if not same:
            raise ValueError(_as_made(data, "tokenizer", spec, f"another one, of {len(own.tokenizer)} tokens"))
    rule = asked.get("rule", own.rule)
    if _folder_of_rule(rule):
        same = with_rule(own.tokenizer, rule, own.max_sentence_tokens).fingerprint == own.fingerprint
    else:
        same = rule == own.rule
    if not same:
        raise ValueError(_as_made(data, "rule", rule, repr(own.rule)))
    cap = asked.get("max_sentence_tokens", own.max_sentence_tokens)
    if cap != own.max_sentence_tokens:
        raise ValueError(_as_made(data, "max_sentence_tokens", cap, str(own.max_sentence_tokens)))


def _as_made(data: PreparedData, key: str, asked: Any, made: str) -> str:
    return (
        f"{key}={asked}: the data in {str(data.folder)!r} are prepared already, with {made}; leave the key out, or "
        "give the text itself, or data that were prepared so, as --data."
    )


def open_data(
    data: str | list[str],
    *,
    text_field: str,
    tokenizer: str,
    rule: str,
    max_sentence_tokens: int,
    output_dir: str,
    asked: Collection[str] = (),
) -> PreparedData:
    """Load prepared data, or prepare the corpus `data` names into `output_dir`/data first.

    Of several processes on a machine one prepares or verifies the data, and the others wait.

    Args:
        asked: which of these keys a user gave; prepared data that were made otherwise are refused.

    Raises:
        ValueError: `output_dir`/data was made from another corpus, tokenizer, rule or cap than is asked for.
    """
    folder = Path(output_dir) / "data"
    request = {
        "data": data if isinstance(data, str) else data[0] if len(data) == 1 else data,
        "text_field": text_field,
        "tokenizer": tokenizer,
        "rule": rule,
        "max_sentence_tokens": max_sentence_tokens,
    }
    processes = PartialState()
    first = processes.is_local_main_process  # the others find its work done, and verified
    with processes.local_main_process_first():
        if given := load_prepared(data, verify=first):
            check_as_made(given, {key: value for key, value in request.items() if key in asked})
            return given
        if not first:
            return PreparedData.load(folder, verify=False)
        check_apart(data, output_dir)
        begun = (folder / PROCESSOR).is_dir()  # finished or interrupted
        if begun:
            saved = read_json(folder / REQUEST) if (folder / REQUEST).is_file() else {}
            check_configuration(folder, saved, request)
            processor = taken_over(folder, tokenizer, rule)
        # Opening a hub corpus needs the network, and all that it tells, its name, is in the request.
        if is_prepared(folder) and str(request["data"]).startswith("hub:"):
            return PreparedData.load(folder)
        corpus = open_corpus(data, text_field)
        if not begun:
            processor = make_processor(corpus, tokenizer, rule, max_sentence_tokens)
            write_text(folder / REQUEST, json.dumps(request, indent=1) + "\n")
        was_prepared = is_prepared(folder)
        prepared = prepare(corpus, processor, folder)  # only loads what is finished, if it was made from this corpus
        if not was_prepared:
            print(describe(prepared))
        return prepared
