"""The arithmetic behind figures: bits per byte, perplexity, and intervals over documents.

Sums come first and are divided once (never a mean of means), and a figure that is not a finite number is an error.
"""

import math

import numpy as np
from numpy.typing import ArrayLike


def bits_per_byte(nats: ArrayLike, num_bytes: ArrayLike) -> float:
    """Bits per UTF-8 byte: the sum of nats over the sum of bytes, over ln 2.

    Both arguments are one number, or one number per document (or per rank), which are added up before dividing.
    Raises ValueError where a figure is not finite or there are no bytes.
    """
    total_nats, total_bytes = _totals(nats, num_bytes, "bytes")
    return total_nats / math.log(2) / total_bytes


def perplexity(nats: ArrayLike, num_tokens: ArrayLike) -> float:
    """exp(sum of nats / sum of tokens); with the baseline tokenizer's counts this is `ppl_per_baseline_token`.

    Arguments and errors as in `bits_per_byte`. A model so bad that the exponential overflows is a ValueError too.
    """
    total_nats, total_tokens = _totals(nats, num_tokens, "tokens")
    try:
        return math.exp(total_nats / total_tokens)
    except OverflowError:
        raise ValueError(
            f"{total_nats / total_tokens:.0f} nats per token have no finite perplexity; are both of the same text?"
        ) from None


def _totals(nats: ArrayLike, counts: ArrayLike, unit: str) -> tuple[float, float]:
    total_nats, total_count = float(np.sum(_numbers(nats, "nats"))), float(np.sum(_numbers(counts, unit)))
    if total_count <= 0:
        raise ValueError(f"{total_count:.0f} {unit} were scored; is the split empty?")
    return total_nats, total_count


def _numbers(values: ArrayLike, name: str) -> np.ndarray:
    numbers = np.atleast_1d(np.asarray(values, dtype=np.float64))
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        raise ValueError(
            f"{name} of document {broken[0]} is {numbers[broken[0]]} ({len(broken)} of {len(numbers)} are not finite); "
            "such documents are never dropped: find out why the model gives them no probability"
        )
    return numbers


def paired_bootstrap(
    nats_a: ArrayLike,
    bytes_a: ArrayLike,
    nats_b: ArrayLike,
    bytes_b: ArrayLike,
    seed: int = 0,
    draws: int = 10_000,
) -> tuple[float, float, float]:
    """How many bits per byte model a needs for one of model b, with a 95% interval over documents.

    Each argument has one number per document, and entry i of all four belongs to the same document. A draw takes
    documents with replacement, the same ones for both models, so what makes a document hard for both cancels.
    Returns (ratio, low, high): the ratio of the whole sums and the 2.5% and 97.5% quantiles of the drawn ratios
    (Efron's percentile interval). A ratio below 1 means that a is better; the interval is worth little below some
    twenty documents. Raises ValueError for lengths that differ and for fewer than two documents.
    """
    columns = [
        _numbers(values, name)
        for values, name in ((nats_a, "nats_a"), (bytes_a, "bytes_a"), (nats_b, "nats_b"), (bytes_b, "bytes_b"))
    ]
    lengths = [len(column) for column in columns]
    if len(set(lengths)) > 1:
        raise ValueError(f"a paired bootstrap needs the same documents for both models, got lengths {lengths}")
    num_documents = lengths[0]
    if num_documents < 2:
        raise ValueError(f"{num_documents} document(s) cannot be resampled; evaluate on two or more")
    if any((column <= 0).any() for column in columns):
        raise ValueError("nats and bytes must be positive in every document; leave empty documents out for both models")
    if draws < 1:
        raise ValueError(f"draws = {draws}; take 1,000 or more")

    sums = np.stack(columns, axis=1)  # (documents, 4)
    generator = np.random.default_rng(seed)
    share = np.full(num_documents, 1 / num_documents)
    drawn = []
    for start in range(0, draws, 1000):  # a thousand at a time bounds memory on corpora with many documents
        counts = generator.multinomial(num_documents, share, size=min(1000, draws - start))  # (draws, documents)
        drawn.append(counts @ sums)
    low, high = np.quantile(_ratio(np.concatenate(drawn)), [0.025, 0.975])
    return float(_ratio(sums.sum(axis=0))), float(low), float(high)


def bits_interval(nats: ArrayLike, num_bytes: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of bits per byte over documents, by the draws of `paired_bootstrap`; one number per document."""
    sizes = _numbers(num_bytes, "bytes")
    return paired_bootstrap(nats, sizes, sizes * math.log(2), sizes, seed)[1:]


def _ratio(sums: np.ndarray) -> np.ndarray:
    nats_a, bytes_a, nats_b, bytes_b = np.moveaxis(sums, -1, 0)
    return (nats_a / bytes_a) / (nats_b / bytes_b)
