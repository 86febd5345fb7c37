"""From models and texts to rows of a table: likelihood, reconstruction, and the audit that comes before."""

import functools
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import numpy as np
import torch
from transformers import DynamicCache, OPTForCausalLM

from lmbase.modeling.cache import RowCache
from lmbase.modeling.causality import AuditReport, audit_tokens
from lmbase.modeling.token_lm import DocumentNats, score_tokens
from lmbase.report.rows import Row
from lmbase.report.statistics import bits_per_byte, paired_bootstrap, perplexity
from lmbase.text.padding import pad_tokens
from lmbase.text.tokenizers import encode_text
from lmbase.text.windows import training_windows
from multitoken import MultiTokenLM
from sentencevae import SentenceVAE
from sllm.evaluation.audit import audit_sentences
from sllm.loading import LoadedModel, token_lm
from sllm.scoring import equal_context, own_windows, score_plans, score_sentences
from sllm.sllm import SLLM
from sllm_data.corpora import open_corpus
from sllm_data.open_data import load_prepared

AUDIT_TEXTS = 20
AUDIT_CHARACTERS = 4000
AUDIT_SENTENCES = 12
AUDIT_TOKENS = 48


@dataclass
class Texts:
    """What is scored, and what the baseline makes of it."""

    texts: list[str]
    corpus: str
    num_baseline_tokens: int  # of all texts, under the baseline's tokenizer
    baseline: LoadedModel
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
    return Texts(kept, corpus, tokens, baseline, token_window(baseline))


def token_window(loaded: LoadedModel) -> int:
    """Tokens of a window: what it was trained on here, else all its positions; one is the opening </s>'s."""
    config = loaded.model.config
    return getattr(config, "training_context", config.max_position_embeddings) - 1


def audit_loaded(loaded: LoadedModel, texts: Sequence[str]) -> AuditReport:
    """The causality audit on the opening of the longest of the first 20 texts.

    Raises:
        ValueError: an autoencoder (it predicts no text), or a text of fewer than 3 sentences (for an OPT: tokens),
            which would let too much pass.
    """
    text = max((t[:AUDIT_CHARACTERS] for t in texts[:AUDIT_TEXTS]), key=len, default="")
    if isinstance(loaded.model, SLLM):
        sentences = loaded.model.processor.encode(text).sentences()
        _check_long_enough(loaded, len(sentences), "sentences")
        most = min(AUDIT_SENTENCES, loaded.model.config.max_sentences)
        return audit_sentences(loaded.model, sentences[:most])
    model = token_lm(loaded)
    if model is None:
        raise ValueError(f"{loaded.name} is an autoencoder: it predicts no text, so there is nothing to audit.")
    ids = encode_text(loaded.tokenizer, text)[: min(AUDIT_TOKENS, token_window(loaded))]
    _check_long_enough(loaded, len(ids), "tokens")
    device = loaded.model.device

    @torch.no_grad()
    def score(tokens: list[int]) -> torch.Tensor:
        input_ids, mask = (t.to(device) for t in pad_tokens([tokens], loaded.model.config.pad_token_id))
        return model.nats(input_ids, mask, torch.zeros(1, dtype=torch.bool, device=device))[0, :-1]

    steps: Any = _score_mtp_steps if isinstance(model, MultiTokenLM) else _score_steps
    return audit_tokens(score, functools.partial(steps, loaded.model), ids, len(loaded.tokenizer))


def _check_long_enough(loaded: LoadedModel, found: int, unit: str) -> None:
    if found < 3:
        raise ValueError(
            f"{loaded.name} cannot be audited: the longest of the first {AUDIT_TEXTS} texts has {found} {unit}, and at "
            "least 3 are needed. Give --data with a longer text among the first of its split."
        )


@torch.no_grad()
def _score_steps(opt: OPTForCausalLM, ids: list[int]) -> torch.Tensor:
    """Nats (L,) of ids given one by one to `opt` with its cache."""
    cache, nats = DynamicCache(config=opt.config), []
    for read, target in pairwise([opt.config.bos_token_id, *ids]):
        output = opt(torch.tensor([[read]], device=opt.device), past_key_values=cache, use_cache=True)
        nats.append(-output.logits[0, -1].float().log_softmax(-1)[target])
    return torch.stack(nats)


@torch.no_grad()
def _score_mtp_steps(model: MultiTokenLM, ids: list[int]) -> torch.Tensor:
    """The same for head 1 of a multi-token model."""
    cache, nats = RowCache(1, len(ids), model.device), []
    alone = torch.ones(1, 1, dtype=torch.bool, device=model.device)
    for place, (read, target) in enumerate(pairwise([model.config.bos_token_id, *ids])):
        at = torch.tensor([[place]], device=model.device)
        _, states = model.step(torch.tensor([[read]], device=model.device), at, alone, cache)
        cache.keep([[0]])
        logits = model.finish(states[0][0, 0]) @ model.unembedding(1).T
        nats.append(-logits.float().log_softmax(-1)[target])
    return torch.stack(nats)


@torch.no_grad()
def nats_of_heads(model: MultiTokenLM, documents: Sequence[list[int]], window: int, batch_size: int = 4) -> list[float]:
    """Mean nats per target of each head, over windows that do not overlap."""
    pieces = [(ids[a:b], b == len(ids)) for ids in documents for a, b in training_windows(len(ids), window)]
    pieces.sort(key=lambda piece: len(piece[0]))
    sums, counts = np.zeros(len(model.heads)), np.zeros(len(model.heads))
    for start in range(0, len(pieces), batch_size):
        rows, ends = zip(*pieces[start : start + batch_size], strict=True)
        ids, mask = pad_tokens(rows, model.config.pad_token_id)
        batch = (ids.to(model.device), mask.to(model.device), torch.tensor(ends, device=model.device))
        sums += [float(nats.sum(dtype=torch.float64)) for nats in model.nats_by_head(*batch)]
        found = model.loss_counts(*batch)
        counts += [float(found["token" if i == 1 else f"head_{i}"]) for i in range(1, len(counts) + 1)]
    return (sums / counts.clip(min=1)).tolist()


def evaluate_likelihood(loaded: LoadedModel, data: Texts) -> list[tuple[Row, list[DocumentNats]]]:
    """One row per way of cutting windows: `full window`, and for an SLLM also `equal context`. A multi-token model is
    scored by head 1; its row also has the mean nats of each head."""
    token_model = token_lm(loaded)
    if token_model is not None:
        window = token_window(loaded)
        found = score_tokens(token_model, loaded.tokenizer, data.texts, window=window)
        row = _likelihood_row(loaded, data, "full window", found)
        if isinstance(token_model, MultiTokenLM):
            flat = [encode_text(loaded.tokenizer, text) for text in data.texts]
            for i, nats in enumerate(nats_of_heads(token_model, flat, window), start=1):
                row.extra[f"nats_head_{i}"] = nats
        return [(row, found)]
    model = loaded.model
    assert isinstance(model, SLLM)
    encoded = model.processor.encode_batch(data.texts)
    documents = [e.sentences() for e in encoded]
    sizes = [sum(e.sentence_bytes) for e in encoded]

    plans = [own_windows(model), equal_context(data.baseline_window, model.config.max_sentences)]
    full, equal = score_plans(model, documents, sizes, plans)
    return [
        (_likelihood_row(loaded, data, "full window", full), full),
        (_likelihood_row(loaded, data, "equal context", equal), equal),
    ]


def _likelihood_row(loaded: LoadedModel, data: Texts, protocol: str, found: list[DocumentNats]) -> Row:
    nats, size = sum(d.nats for d in found), sum(d.num_bytes for d in found)
    training = loaded.training
    extra = {}
    if training:
        extra = {"training_flops": training.total_flops, "training_seconds": training.total_seconds}
    return Row(
        model=loaded.name,
        data=data.corpus,
        protocol=protocol,
        dtype="fp32",
        device=str(loaded.model.device),
        parameters=loaded.num_parameters,
        training_tokens=training.total_tokens if training else None,
        bits_per_byte=bits_per_byte(nats, size),
        nats=nats,
        bytes=size,
        tokens=data.num_baseline_tokens,
        ppl_per_baseline_token=perplexity(nats, data.num_baseline_tokens),
        stop_nats=sum(sum(d.stop) for d in found) if isinstance(loaded.model, SLLM) else None,
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
    """The figure that the published evaluation meant to give: perplexity per own token and end mark, the first sentence
    and the stop flags left out. Not comparable with any other protocol, nor between tokenizers."""
    token_model = token_lm(loaded)
    if token_model is not None:
        found = score_tokens(token_model, loaded.tokenizer, data.texts, window=token_window(loaded))
        nats = sum(d.nats for d in found)
        targets = sum(len(d.token) for d in found)
    else:
        model = loaded.model
        assert isinstance(model, SLLM)
        documents = [e.sentences() for e in model.processor.encode_batch(data.texts)]
        found = score_sentences(model, documents, [0] * len(documents))
        nats = sum(sum(d.token[1:]) for d in found)
        cap = model.config.max_sentence_tokens
        targets = sum(min(len(s) + 1, cap) for sentences in documents for s in sentences[1:])
    return Row(
        model=loaded.name,
        data=data.corpus,
        protocol="paper",
        dtype="fp32",
        device=str(loaded.model.device),
        parameters=loaded.num_parameters,
        training_tokens=loaded.training.total_tokens if loaded.training else None,
        extra={"ppl": perplexity(nats, targets)},
    )


@torch.no_grad()
def evaluate_reconstruction(loaded: LoadedModel, data: Texts, max_sentences: int, batch_size: int = 256) -> Row:
    """Free-running greedy reconstruction beside the teacher-forced perplexity (T tokens and the end mark)."""
    model = loaded.model
    assert isinstance(model, SentenceVAE)
    rows = [ids for e in model.processor.encode_batch(data.texts) for ids in e.sentences()]
    chosen = np.linspace(0, len(rows) - 1, min(max_sentences, len(rows))).astype(int)
    rows = [rows[i] for i in chosen]
    written = model.reconstruct_ids(rows, batch_size)
    exact = sum(a == b for a, b in zip(rows, written, strict=True))
    same = sum(sum(x == y for x, y in zip(a, b, strict=False)) for a, b in zip(rows, written, strict=True))
    longer = sum(max(len(a), len(b)) for a, b in zip(rows, written, strict=True))
    nats = targets = 0.0
    for start in range(0, len(rows), batch_size):
        ids, mask = pad_tokens(rows[start : start + batch_size], model.config.pad_token_id)
        output = model(ids.to(model.device), mask.to(model.device))
        nats += float(output.losses["token"])
        targets += float(model.loss_counts(ids, mask)["token"])
    extra: dict = {"ppl": math.exp(nats / targets), "sentences": len(rows)}
    if model.config.latent == "gaussian":
        ids, mask = pad_tokens(rows[:2048], model.config.pad_token_id)
        means = model.encode(ids.to(model.device), mask.to(model.device))
        # Active units (Burda et al., arXiv 1509.00519): dimensions whose mean moves with the sentence.
        extra["active_units"] = int((means.var(0) > 0.01).sum())
    return Row(
        model=loaded.name,
        data=data.corpus,
        protocol="reconstruction",
        dtype="fp32",
        device=str(model.device),
        parameters=loaded.num_parameters,
        training_tokens=loaded.training.total_tokens if loaded.training else None,
        reconstruction_exact_match=exact / len(rows),
        reconstruction_token_accuracy=same / longer,
        extra=extra,
    )
