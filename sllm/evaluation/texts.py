"""The texts that models are evaluated on."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise

from lmbase.text.tokenizers import encode_text
from sllm.evaluation.loaded import LoadedModel
from sllm_data.corpora import open_corpus
from sllm_data.open_data import load_prepared


@dataclass
class Texts:
    """What is scored, and what the baseline makes of it."""

    texts: list[str]
    corpus: str
    num_baseline_tokens: int  # of all texts, under the baseline's tokenizer
    baseline_window: int  # tokens that the baseline sees at most


def read_texts(
    data: str | list[str], split: str, text_field: str, max_documents: int | None
) -> tuple[list[str], dict[str, str]]:
    """The first documents of a split, and what names the corpus: {"name", "sha256"}.

    The hash is that of the prepared data, or of a raw corpus's texts that were read.

    Raises:
        ValueError: no such data, or no such split.
    """
    prepared = load_prepared(data)
    if prepared:
        arrays = prepared.split(split)
        borders = arrays.sentence_tokens[arrays.document_sentences].tolist()
        pairs = islice(pairwise(borders), max_documents)
        texts = [prepared.processor.decode(arrays.tokens(a, b).tolist()) for a, b in pairs]
        return texts, {"name": prepared.name, "sha256": prepared.hash}
    corpus = open_corpus(data, text_field)
    texts = [document.text for document in islice(corpus.read(split), max_documents)]
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode("utf-8", errors="surrogatepass") + b"\0")
    return texts, {"name": corpus.name, "sha256": digest.hexdigest()}


def make_texts(texts: Sequence[str], corpus: str, baseline: LoadedModel) -> Texts:
    """Texts for `evaluate_likelihood`; empty ones are left out."""
    kept = [text for text in texts if text]
    if not kept:
        raise ValueError("There is no text to evaluate on: the split is empty.")
    tokens = sum(len(encode_text(baseline.tokenizer, text)) for text in kept)
    return Texts(kept, corpus, tokens, baseline.window)
