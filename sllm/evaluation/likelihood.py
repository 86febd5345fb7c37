"""Rows of likelihood, and the audit that comes before."""

import time
from collections.abc import Sequence

from lmbase.durations import duration
from lmbase.modeling.causality import AuditReport
from lmbase.modeling.token_lm import DocumentNats
from lmbase.report.rows import Row
from lmbase.report.statistics import bits_per_byte, paired_bootstrap, perplexity
from sllm.evaluation.loaded import LoadedModel
from sllm.evaluation.texts import Texts

PORTION_BYTES = 2**18  # of text that is scored at a time; a document is not parted
TELL_SECONDS = 10.0
AUDIT_TEXTS = 20
AUDIT_CHARACTERS = 4000


def audit_loaded(loaded: LoadedModel, texts: Sequence[str]) -> AuditReport:
    """The causality audit on the opening of the longest of the first 20 texts.

    Raises:
        ValueError: an autoencoder, or too short a text, see `LoadedModel.audit`.
    """
    return loaded.audit(max((text[:AUDIT_CHARACTERS] for text in texts[:AUDIT_TEXTS]), key=len, default=""))


def evaluate_likelihood(loaded: LoadedModel, data: Texts) -> list[tuple[Row, list[DocumentNats]]]:
    """One row per way of cutting windows: `full window`, and for an SLLM also `equal context`. A multi-token model is
    scored by head 1; its row also has the mean nats of each head."""
    rows = []
    of_heads = enumerate(loaded.nats_by_head(data.texts), start=1)
    by_head = {f"nats_head_{i}": nats for i, nats in of_heads if nats is not None}
    for protocol, found in _score_in_portions(loaded, data).items():
        row = _likelihood_row(loaded, data, protocol, found)
        row.extra |= by_head
        rows.append((row, found))
    return rows


def _score_in_portions(loaded: LoadedModel, data: Texts) -> dict[str, list[DocumentNats]]:
    """`LoadedModel.score`, of much text portion after portion, with a line now and then that says how far it is."""
    sizes = [len(text.encode(errors="surrogatepass")) for text in data.texts]
    found: dict[str, list[DocumentNats]] = {}
    started = told = time.perf_counter()
    first, held, done = 0, 0, 0
    for stop, size in enumerate(sizes, start=1):
        held += size
        if held < PORTION_BYTES and stop < len(sizes):
            continue
        for protocol, documents in loaded.score(data.texts[first:stop], data.baseline_window).items():
            found.setdefault(protocol, []).extend(documents)
        first, held, done = stop, 0, done + held
        now = time.perf_counter()
        if done < sum(sizes) and now - told > TELL_SECONDS:
            told, left = now, (now - started) * (sum(sizes) / done - 1)
            print(f"{loaded.name}: {done / sum(sizes):.0%} of the text scored, about {duration(left)} left", flush=True)
    return found


def _likelihood_row(loaded: LoadedModel, data: Texts, protocol: str, found: list[DocumentNats]) -> Row:
    nats, size = sum(d.nats for d in found), sum(d.num_bytes for d in found)
    flags = [value for d in found for value in d.stop]  # an SLLM's
    extra = {}
    if training := loaded.training:
        extra = {"training_flops": training.total_flops, "training_seconds": training.total_seconds}
    return loaded.row(
        data.corpus,
        protocol,
        bits_per_byte=bits_per_byte(nats, size),
        nats=nats,
        bytes=size,
        tokens=data.num_baseline_tokens,
        ppl_per_baseline_token=perplexity(nats, data.num_baseline_tokens),
        stop_nats=sum(flags) if flags else None,
        extra=extra,
    )


def compare(row: Row, found: list[DocumentNats], baseline: list[DocumentNats], name: str, seed: int) -> None:
    """Add the ratio of bits per byte to a baseline's and its 95% interval over documents to `row`."""
    if len(found) < 2:  # an interval over documents needs several
        ratio = bits_per_byte(found[0].nats, found[0].num_bytes) / bits_per_byte(
            baseline[0].nats, baseline[0].num_bytes
        )
        row.extra |= {"compared_with": name, "ratio": ratio}
        return
    ratio, low, high = paired_bootstrap(
        [d.nats for d in found],
        [d.num_bytes for d in found],
        [d.nats for d in baseline],
        [d.num_bytes for d in baseline],
        seed=seed,
    )
    row.extra |= {"compared_with": name, "ratio": ratio, "ratio_low": low, "ratio_high": high}


def paper_row(loaded: LoadedModel, data: Texts) -> Row:
    """The figure that the published evaluation meant to give, see `LoadedModel.paper_perplexity`. Not comparable with
    any other protocol, nor between tokenizers."""
    return loaded.row(data.corpus, "paper", extra={"ppl": loaded.paper_perplexity(data.texts)})
