"""The causality audit of an SLLM: replaced suffixes, gradients, and the step-by-step path that writes.

S sentences, T tokens of a sentence, D width.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lmbase.audit import CACHE_TOLERANCE, AuditReport, Scored, audit_changes
from lmbase.collate import pad_sentences, pad_tokens
from lmbase.losses import token_nats
from sentencevae.modeling_sentencevae import sentence_targets

if TYPE_CHECKING:
    from sllm.modeling_sllm import SLLM

Sentences = list[list[int]]


def audit_sentences(model: "SLLM", sentences: Sentences) -> AuditReport:
    """Audit `model` on a text of S sentences of token ids: about 2 S forward passes, S backward, S cached steps."""
    report = AuditReport()
    training = model.training
    model.eval()
    with torch.no_grad():
        audit_changes(
            lambda text: _score(model, text),
            sentences,
            lambda k: sentences[:k] + [_other_tokens(model, s) for s in sentences[k:]],
            lambda k: sentences[:k] + [_other_tokens(model, s)[: max(1, len(s) // 2)] for s in sentences[k:]],
            "sentence",
            report,
        )
        _audit_steps(model, sentences, report)
    _audit_gradients(model, sentences, report)
    model.train(training)
    return report


def _score(model: "SLLM", sentences: Sentences) -> Scored:
    batch = pad_sentences([sentences], model.config.pad_token_id)
    arguments = [t.to(model.device) for t in (batch.input_ids, batch.attention_mask, batch.sentence_mask)]
    nats = model.nats(*arguments)
    cap = model.config.max_sentence_tokens
    scores = []
    for k, sentence in enumerate(sentences):
        own = nats.token[0, k, : min(len(sentence) + 1, cap)]
        scores.append(torch.cat([own, nats.stop[0, k : k + 1]]))
    return Scored(scores, model(*arguments).states[0])


def _other_tokens(model: "SLLM", sentence: list[int]) -> list[int]:
    size = model.config.vocab_size
    special = {model.config.pad_token_id, model.config.bos_token_id, model.config.eos_token_id}
    ordinary = [i for i in range(min(size, 64)) if i not in special] or [0]
    return [ordinary[(i + place + 1) % len(ordinary)] for place, i in enumerate(sentence)]


def _audit_gradients(model: "SLLM", sentences: Sentences, report: AuditReport) -> None:
    """The nats of sentence k must not depend on the vectors of sentence k and later ones at all."""
    vectors: list[Tensor] = []

    def keep(module, inputs) -> tuple[Tensor]:
        vectors.append(inputs[0].detach().requires_grad_())
        return (vectors[-1],)

    batch = pad_sentences([sentences], model.config.pad_token_id)
    with torch.enable_grad():
        hook = model.sentence_in.register_forward_pre_hook(keep)
        nats = model.nats(*(t.to(model.device) for t in (batch.input_ids, batch.attention_mask, batch.sentence_mask)))
        hook.remove()
        for k in range(len(sentences)):
            (gradient,) = torch.autograd.grad(nats.token[0, k].sum(), vectors[0], retain_graph=True, allow_unused=True)
            leaks = gradient is not None and bool(gradient[k:].any())
            report.check(not leaks, f"the score of sentence {k + 1} has a gradient into the vector of it or a later one")


def _audit_steps(model: "SLLM", sentences: Sentences, report: AuditReport) -> None:
    """Reading sentence by sentence with caches, as `generate` does, must give the scores of the parallel path."""
    parallel = _score(model, sentences).scores
    empty = pad_sentences([[]], model.config.pad_token_id)
    state = model.start_reading(
        *(t.to(model.device) for t in (empty.input_ids, empty.attention_mask, empty.sentence_mask))
    )
    for k, sentence in enumerate(sentences):
        ids, mask = (t.to(model.device) for t in pad_tokens([sentence], model.config.pad_token_id))
        cut = sentence_targets(ids, mask, model.config.autoencoder)
        decoder_state = model.autoencoder.decoder.start(state.states[:, -1], *model.decoder_memory(state))
        hidden = [
            model.autoencoder.decoder.step(model.autoencoder.embed_tokens(cut.inputs[:, t : t + 1]), decoder_state)
            for t in range(int(cut.mask.sum()))
        ]
        stepped = token_nats(
            torch.cat(hidden, dim=1)[0],
            model.autoencoder.embed_tokens.weight,
            cut.targets[cut.mask],
            closed_rows=cut.first[cut.mask],
            closed_id=model.config.eos_token_id,
        )
        expected = parallel[k][:-1]
        holds = bool(((stepped - expected).abs() <= CACHE_TOLERANCE * expected.abs().clamp(min=1.0)).all())
        report.check(holds, f"sentence {k + 1} scores otherwise when the text is read step by step with caches")
        model.read_sentence(ids, mask, state)

