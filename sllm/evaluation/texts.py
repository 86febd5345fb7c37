"""The texts that models are evaluated on."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from pathlib import Path

import yaml

from lmbase.config.yaml_files import parse_yaml
from lmbase.hub import name_and_source
from lmbase.text.processor import FILE_NAME
from lmbase.text.tokenizers import encode_text
from sllm.evaluation.loaded import LoadedModel
from sllm_data.corpora import files_of, open_corpus
from sllm_data.open_data import check_apart, is_prepared, load_prepared

UNKNOWN = "what nobody wrote down"


@dataclass
class Texts:
    """What is scored, and what the baseline makes of it."""

    texts: list[str]
    corpus: str
    num_baseline_tokens: int  # of all texts, under the baseline's tokenizer
    baseline_window: int  # tokens that the baseline sees at most


def read_texts(
    data: str | list[str],
    split: str,
    text_field: str,
    max_documents: int | None,
    models: Sequence[str] | None = None,
    output_dir: str | None = None,
) -> tuple[list[str], dict[str, str]]:
    """The first documents of a split, and what names the corpus: {"name", "sha256"}, with "split": "whole" where the
    split is not what was read. What was read is printed.

    The hash is that of the prepared data, or of a raw corpus's texts that were read.

    Args:
        models: specs of the models that will read the texts. Files that are no splits and that none of these was
            trained on are read whole; without models, the split is the one that a training would leave out.
        output_dir: where what is found will be written.

    Raises:
        ValueError: no such data, or no such split, or `output_dir` lies in the folder of texts that is read.
    """
    prepared = load_prepared(data)
    if prepared:
        arrays = prepared.split(split)
        borders = arrays.sentence_tokens[arrays.document_sentences].tolist()
        pairs = islice(pairwise(borders), max_documents)
        texts = [prepared.processor.decode(arrays.tokens(a, b).tolist()) for a, b in pairs]
        print(_described(prepared.name, f"split {split}", texts))
        return texts, {"name": prepared.name, "sha256": prepared.hash}
    if output_dir is not None:
        check_apart(data, output_dir)
    corpus = open_corpus(data, text_field)
    undivided = models is not None and corpus.is_undivided(split)
    reason = why_held_out(models or [], data) if undivided else ""
    whole = undivided and not reason
    documents = corpus.read_whole() if whole else corpus.read(split)
    texts = [document.text for document in islice(documents, max_documents)]
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", errors="surrogatepass") + b"\0")
    part = "whole, as it has no such split of its own" if whole else f"split {split}"
    print(_described(corpus.name, part + reason, texts))
    found = {"name": corpus.name, "sha256": digest.hexdigest()}
    return texts, found | ({"split": "whole"} if whole else {})


def _described(name: str, part: str, texts: Sequence[str]) -> str:
    size = sum(len(text.encode("utf-8", errors="surrogatepass")) for text in texts)
    return f"{name}, {part}: {len(texts):,} documents, {size:,} bytes"


def why_held_out(models: Sequence[str], data: str | list[str]) -> str:
    """Why a split is kept to although the data have none: nothing where no run among the models, nor one that it began
    with, can have read the same files or the same data set."""
    specs = set([data] if isinstance(data, str) else data)
    files = set(files_of(data))
    for spec in models:
        _, source = name_and_source(spec)
        for used in _data_of_run(Path(source), set()):
            if used in specs or files.intersection(files_of(used)):
                return f", for {source} was trained on the rest"
            if used is UNKNOWN or not (files_of(used) or used == "stdlib" or used.startswith("hub:")):
                return f", for it is not known here what {source} was trained on"
    return ""


def _data_of_run(folder: Path, seen: set[Path]) -> Iterator[str]:
    """Specs of raw data that the configurations of a run, of its data and of the runs before it name."""
    if folder in seen:
        return
    seen.add(folder)
    if (folder / FILE_NAME).is_file() and not any((at / "config.yaml").is_file() for at in (folder, folder.parent)):
        yield UNKNOWN  # a model of a run, copied out of it
    for place in (folder, folder.parent) if folder.name == "model" else (folder,):
        try:
            config = parse_yaml((place / "config.yaml").read_text(encoding="utf-8"))
        except OSError:
            continue
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(
                f"{str(place / 'config.yaml')!r} cannot be read ({' '.join(str(error).split())}), so it is not known "
                "what this run was trained on: it is damaged. Copy it again."
            ) from None
        if isinstance(config, dict):
            data = config.get("data")
            for spec in filter(lambda spec: isinstance(spec, str), data if isinstance(data, list) else [data]):
                yield from _data_of_run(Path(spec), seen) if is_prepared(spec) else [spec]
            for key in ("lm", "opt", "vae", "model"):
                if isinstance(config.get(key), str):
                    yield from _data_of_run(Path(config[key]), seen)


def make_texts(texts: Sequence[str], corpus: str, baseline: LoadedModel) -> Texts:
    """Texts for `evaluate_likelihood`; empty ones are left out."""
    kept = [text for text in texts if text]
    if not kept:
        raise ValueError("There is no text to evaluate on: the split is empty.")
    tokens = sum(len(encode_text(baseline.tokenizer, text)) for text in kept)
    return Texts(kept, corpus, tokens, baseline.window)
