"""Learn where sentences are worth to end, from a train split and without labels: the rule `learned`.

    sllm learn-cuts --data my_text/ --output_dir runs/cuts
    sllm prepare --data my_text/ --rule runs/cuts --tokenizer runs/cuts --output_dir runs/data
    sllm learn-cuts --data runs/data --lm runs/lm --sentence_tokens 8

A small language model reads the text, and a reader of one layer predicts every token from a state of it that is a few
tokens old and from the tokens since. What a fresh state would have saved is what a cut at this place is worth. A table
of n-grams learns to tell that from the text before the place alone, so the rule cuts a text as it arrives; it cuts
where the worth is among the highest of the last 4,096 characters, so that sentences are about as long on every kind of
text. No torch is needed to apply it.

output_dir then holds a tokenizer with the rule: give the folder as `--rule` and as `--tokenizer` wherever these keys
are. With `prices`, every rule is priced on the valid split (or on the texts given) and metrics.json written: what a
byte costs, and what fixed lengths, jumps of entropy, the learned rule and the best cuts that there are (by dynamic
programming, which sees the whole text) cost with as many sentences, over what the rule costs. The same command again
goes on after the training of the reader, and only verifies what is finished.
"""

import re
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import PositiveFloat, PositiveInt
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from lmbase.config import Seed, differing_keys, option, run, save_config, single_process
from lmbase.files import (
    MANIFEST,
    RUN_FILES,
    alone_in,
    clean_up,
    read_json,
    sync_path,
    told_if_disk_is_full,
    verify_once,
    write_folder,
    write_text,
)
from lmbase.modeling.devices import choose_device, moved
from lmbase.modeling.pretrained import load_lm, own_tokenizer, read_config
from lmbase.modeling.trunk import check_trunk
from lmbase.report.rows import METRICS, Row, check_place, metrics_text
from lmbase.text.codec import MissingTokenError, TokenCodec
from lmbase.text.learned import SHORTEST, LearnedCuts
from lmbase.text.processor import SentenceProcessor
from lmbase.text.segmentation import LEARNED, is_unicode
from lmbase.text.tokenizers import check_same_tokenizer, load_tokenizer, vocabulary_size
from sllm.cuts.fitting import REACH, Text, check_enough, fit
from sllm.cuts.prices import Prices
from sllm.cuts.stale_reader import DocumentCosts, StaleReader, train_reader
from sllm_data.corpora import Corpus, open_corpus
from sllm_data.open_data import check_apart, load_prepared
from sllm_data.prepared import PROCESSOR, PreparedData

CONFIG, READER = "config.yaml", "reader"
RULE = "rule"  # holds the rule's files until all are whole
LEFT_BEHIND = re.compile(rf"\.({CONFIG}|{READER}|{RULE})\..*\.(partial|replaced)")  # by a run that was killed
PART_CHARACTERS = 2**16  # of a document that are read as one
QUICK_TOKENS = 20_000


@dataclass
class Config:
    data: str | list[str] = option("stdlib", "a folder written by prepare, or what prepare reads")
    text_field: str = option("text", "the field of a record that holds the text")
    tokenizer: str | None = option(
        None, "hub id, folder, bpe:N or bytes; default: the data's or lm's own, else bpe:8192"
    )
    lm: str = option(
        "random:tiny", "what reads the text: random:SIZE, trained here, or a pretrained one, kept as it is"
    )
    output_dir: str = option("runs/cuts", "where the rule goes; the same command again continues it", may_differ=True)
    sentence_tokens: PositiveFloat = option(12.0, "tokens per sentence, about")
    max_sentence_tokens: PositiveInt = option(64, "tokens per sentence, at most")
    train_tokens: PositiveInt = option(500_000, "tokens that the reader is trained on")
    cost_tokens: PositiveInt = option(150_000, "tokens of the train split whose costs the rule is learned from")
    context: PositiveInt = option(256, "positions that the language model reads at once")
    prices: bool = option(True, "price every rule on held-out text, and write metrics.json")
    price_on: list[str] | None = option(None, "NAME=FILES, texts to price on; default: the valid split")
    price_tokens: PositiveInt = option(20_000, "tokens of each that are priced")
    device: str = option("auto", "cpu, cuda; auto: the GPU if there is one", may_differ=True)
    seed: Seed = option(0, "of the weights and of the order of the text")
    quick: bool = option(False, f"read {QUICK_TOKENS:,} tokens at most, to try a command out")


@single_process
def main(config: Config) -> SentenceProcessor:
    check(config)
    if config.quick:
        config.train_tokens = config.cost_tokens = min(QUICK_TOKENS, config.train_tokens, config.cost_tokens)
        config.price_tokens = min(QUICK_TOKENS // 10, config.price_tokens)
    began, folder = time.perf_counter(), Path(config.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    with alone_in(folder), told_if_disk_is_full(folder, "a reader that is trained is kept"):
        if done := _begun(config, folder):
            return done
        _check_positions(config)
        texts, splits, name = _texts(config)
        to_price = _to_price(config, texts, splits)
        processor = SentenceProcessor(_tokenizer(config, texts), max_sentence_tokens=config.max_sentence_tokens)
        if own := own_tokenizer(config.lm):
            check_same_tokenizer(own, processor.tokenizer, "the data", f"the model {config.lm}")
        priced = {of: _some(read(), processor.codec, config.price_tokens, of) for of, read in to_price.items()}
        train = _some(texts("train"), processor.codec, max(config.train_tokens, config.cost_tokens), "train")
        learned_from = _first(train, config.cost_tokens)
        check_enough(learned_from, processor.codec)
        save_config(config, folder / CONFIG)
        reader = _reader(config, folder, train, vocabulary_size(processor.tokenizer))
        costs = [DocumentCosts(reader, text.ids, config.context, REACH) for text in learned_from]
        learned = fit(learned_from, costs, processor.tokenizer, config.sentence_tokens, config.max_sentence_tokens)
        made = SentenceProcessor(processor.tokenizer, LEARNED, config.max_sentence_tokens, learned.parameters())
        rows = list(_price(config, priced, learned, reader))

        def write(beside: Path) -> None:
            made.save_pretrained(beside)
            save_config(config, beside / CONFIG)
            if rows:
                seconds, corpus = time.perf_counter() - began, {"name": name}
                told = metrics_text(rows, config=config, seed=config.seed, wall_seconds=seconds, corpus=corpus)
                write_text(beside / METRICS, told)

        write_folder(folder / RULE, write)
        _put_in_place(folder)
    for row in rows:
        print(row.data, row.model, *(f"{key}={value:.4g}" for key, value in row.extra.items()))
    if rows:
        print(f"wrote {folder / METRICS}")
    print(f"{folder}: cuts of about {config.sentence_tokens:g} tokens; --rule {folder} --tokenizer {folder} use them.")
    return made


def check(config: Config) -> None:
    """
    Raises:
        ValueError: keys that do not go together, or a folder that holds something of somebody else's.
    """
    check_place(config)
    if not SHORTEST <= config.sentence_tokens <= config.max_sentence_tokens or config.max_sentence_tokens < REACH:
        raise ValueError(
            f"sentence_tokens={config.sentence_tokens:g}, max_sentence_tokens={config.max_sentence_tokens}: sentences "
            f"have {SHORTEST} tokens at least, and the most must be {REACH} or more."
        )
    if config.context <= config.max_sentence_tokens:
        raise ValueError(
            f"context={config.context}: a state that is as old as a sentence is long must be in sight; give more than "
            f"max_sentence_tokens={config.max_sentence_tokens}."
        )
    folder = Path(config.output_dir)
    others = [] if _is_finished(folder) or not folder.is_dir() else [path.name for path in folder.iterdir()]
    own = {CONFIG, *RUN_FILES, *(name for name in (READER, RULE) if (folder / name / MANIFEST).is_file())}
    if RULE in own:  # a run was stopped as it put these into place
        own.update(read_json(folder / RULE / MANIFEST))
    if others := sorted(name for name in others if name not in own and not LEFT_BEHIND.fullmatch(name)):
        raise ValueError(
            f"output_dir={config.output_dir!r} holds {others[0]!r}, which learn-cuts did not write, and the rule's "
            "files do not go among others: name a folder that is empty or new."
        )
    if load_prepared(config.data, verify=False) is None:
        check_apart(config.data, config.output_dir)


def _check_positions(config: Config) -> None:
    if config.lm.startswith("random:"):
        return
    positions = check_trunk(read_config(config.lm), f"lm={config.lm!r}").max_position_embeddings
    if config.context > positions:
        raise ValueError(
            f"context={config.context}: the model {config.lm!r} has {positions} positions; choose a shorter context, "
            "or another model."
        )


def _is_finished(folder: Path) -> bool:
    return (folder / MANIFEST).is_file() and CONFIG in read_json(folder / MANIFEST)


def _put_in_place(folder: Path) -> None:
    """Move the rule's files into the folder itself, which may be a link or the place of a disk; the manifest last."""
    for path in sorted((folder / RULE).iterdir(), key=lambda path: path.name == MANIFEST):
        path.replace(folder / path.name)
    sync_path(folder)
    for name in (RULE, READER):
        shutil.rmtree(folder / name, ignore_errors=True)


def _begun(config: Config, folder: Path) -> SentenceProcessor | None:
    """What is finished already, verified; ValueError if it was made otherwise."""
    clean_up(folder)
    if (folder / RULE / MANIFEST).is_file():
        _put_in_place(folder)
    finished = _is_finished(folder)
    differing = differing_keys(config, folder / CONFIG) if (folder / CONFIG).is_file() else []
    if not finished:  # nothing is priced yet
        differing = [line for line in differing if not line.startswith("price")]
    if differing:
        raise ValueError(
            f"{config.output_dir!r} was learned with another configuration ({'; '.join(differing)}). Choose another "
            "output_dir, or delete the folder."
        )
    if finished:
        verify_once(folder)
        print(f"{config.output_dir} is finished already, and every checksum holds.")
        return SentenceProcessor.from_pretrained(folder)
    return None


def _texts(config: Config) -> tuple[Callable[[str], Iterator[str]], Sequence[str], str]:
    """The texts of a split of the data, their splits, and what the data are called."""
    if prepared := load_prepared(config.data):
        order = np.random.default_rng(config.seed)
        return lambda split: decoded(prepared, split, order), prepared.splits, prepared.name
    corpus = open_corpus(config.data, config.text_field)
    return lambda split: (document.text for document in corpus.read(split)), corpus.splits, corpus.name


def decoded(data: PreparedData, split: str, order: np.random.Generator) -> Iterator[str]:
    """The texts of prepared data; those of the train split as they are drawn."""
    arrays = data.split(split)
    borders = arrays.sentence_tokens[arrays.document_sentences].tolist()
    numbers = order.permutation(arrays.num_documents) if split == "train" else range(arrays.num_documents)
    return (data.processor.decode(arrays.tokens(borders[i], borders[i + 1]).tolist()) for i in numbers)


def _tokenizer(config: Config, texts: Callable[[str], Iterator[str]]) -> Any:
    prepared = load_prepared(config.data)
    own = str(prepared.folder / PROCESSOR) if prepared else own_tokenizer(config.lm)
    return load_tokenizer(config.tokenizer or own or "bpe:8192", lambda: texts("train"))


def _some(texts: Iterable[str], codec: TokenCodec, num_tokens: int, name: str) -> list[Text]:
    """The first texts, about so many tokens; what has no tokens is left out. ValueError if nothing is left."""
    found: list[Text] = []
    for text in texts:
        if num_tokens <= 0:
            break
        for start in range(0, len(text), PART_CHARACTERS):
            part = text[start : start + PART_CHARACTERS]
            with suppress(MissingTokenError):
                if is_unicode(part) and num_tokens > 0:
                    found.append(Text.of(part, codec))
                    num_tokens -= len(found[-1].ids)
    if found := [text for text in found if len(text.ids)]:
        return found
    raise ValueError(f"{name!r} holds no text to learn from or to price cuts on: give text that is not empty.")


def _first(texts: Sequence[Text], num_tokens: int) -> list[Text]:
    before = [0, *accumulate(len(text.ids) for text in texts)]
    return [text for text, size in zip(texts, before, strict=False) if size < num_tokens]


def _reader(config: Config, folder: Path, train: Sequence[Text], vocab_size: int) -> StaleReader:
    """The reader, trained now or by an interrupted run."""
    lm = load_lm(config.lm, vocab_size=vocab_size, max_positions=config.context, seed=config.seed)
    if (window := getattr(lm.config, "keep_window", None)) is not None:
        raise ValueError(
            f"lm={config.lm!r} keeps a window of {window} tokens, and its states would be read with all tokens in "
            "sight, as it never was; give a model that keeps all."
        )
    torch.manual_seed(config.seed)
    reader = StaleReader(lm, config.max_sentence_tokens, tuned=config.lm.startswith("random:"))
    names = {name for name, weight in reader.named_parameters() if weight.requires_grad}
    file = folder / READER / "model.safetensors"
    if file.is_file():
        verify_once(folder / READER)
        reader.load_state_dict(load_file(file), strict=False)
        print(f"goes on with the reader in {folder / READER}")
        return moved(reader, choose_device(config.device))
    reader = moved(reader, choose_device(config.device))
    with tqdm(desc="reader", unit="token", total=config.train_tokens, disable=None) as bar:
        for read, loss in train_reader(
            reader, [t.ids for t in train], config.context, config.train_tokens, config.seed
        ):
            bar.update(read - bar.n)
            bar.set_postfix(loss=f"{loss:.3f}")
    weights = {name: weight.detach().cpu().contiguous() for name, weight in reader.named_parameters() if name in names}
    write_folder(folder / READER, lambda beside: save_file(weights, beside / "model.safetensors"))
    return reader


def _to_price(
    config: Config, texts: Callable[[str], Iterator[str]], splits: Sequence[str]
) -> dict[str, Callable[[], Iterator[str]]]:
    """The texts that rules are priced on, by name."""
    if not config.prices:
        return {}
    if not config.price_on and "valid" not in splits:
        raise ValueError(
            f"The data {config.data!r} have no split 'valid' to price rules on, only {', '.join(splits)}: give other "
            "text (--price_on NAME=FILES), or --prices false."
        )
    named: dict[str, Callable[[], Iterator[str]]] = {}
    for spec in config.price_on or []:
        name, _, files = spec.partition("=")
        if not name or not files:
            raise ValueError(f"price_on={spec!r}: expected NAME=FILES, such as code=my_code/*.py.")
        if name in named:
            raise ValueError(f"price_on={spec!r}: the name {name!r} is given twice; each text has a name of its own.")
        named[name] = partial(_whole, open_corpus(files, config.text_field))
    return named or {"valid": lambda: texts("valid")}


def _price(
    config: Config, priced: Mapping[str, Sequence[Text]], learned: LearnedCuts, reader: StaleReader
) -> Iterator[Row]:
    """Rows of each text that rules are priced on."""
    for name, some in priced.items():
        costs = [DocumentCosts(reader, text.ids, config.context, config.max_sentence_tokens) for text in some]
        prices = Prices(some, costs, learned, config.max_sentence_tokens)
        for figures in tqdm(prices.rows(), f"prices of {name}", disable=None):
            yield Row(str(figures.pop("rule")), name, "priced cuts", bytes=prices.bytes, extra=figures)


def _whole(corpus: Corpus) -> Iterator[str]:
    return (document.text for document in corpus.read_whole())


if __name__ == "__main__":
    run(Config, main)
