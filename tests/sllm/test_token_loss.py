"""What tokens and ends cost in training: their nats, and with a teacher a share of what it says."""

import pytest
import torch
from tiny import make_lm, make_own, make_sllm, pad
from torch.nn import functional as F

from lmbase.modeling.distillation import OnlineTeacher
from lmbase.modeling.trunk import output_table

TEXTS = [[[10, 11, 12], [13], [14, 15]], [[20, 21]], []]
MAKERS = {
    "published": make_sllm,
    "published, flag": lambda: make_sllm(end_flag=True),
    "own": make_own,
    "own, no flag": lambda: make_own(end_flag=False),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_without_a_teacher_it_is_the_nats(kind):
    model, batch = MAKERS[kind](), pad(TEXTS)
    output, nats = model(**batch), model.nats(**batch)
    assert torch.allclose(output.losses["token"], nats.token.sum(), rtol=1e-5)
    names = [name for name, _ in model.named_parameters()]
    one = torch.autograd.grad(output.losses["token"], model.parameters(), allow_unused=True)
    other = torch.autograd.grad(nats.token.sum(), model.parameters(), allow_unused=True)
    for name, found, wanted in zip(names, one, other, strict=True):
        assert (found is None) == (wanted is None), name
        assert found is None or torch.allclose(found, wanted, atol=1e-4), name


@pytest.mark.parametrize("kind", MAKERS)
def test_ends_that_training_makes_are_not_learnt(kind):
    """Text, and so all that is read, is as with true ends; what the model says of the cut is left out."""
    model, batch = MAKERS[kind](), pad(TEXTS)
    short = torch.tensor([[True, False, True], [False] * 3, [False] * 3])
    with torch.no_grad():
        output, nats = model(**batch, cut_short=short), model.nats(**batch).token
    lengths = batch["attention_mask"].sum(-1)
    ends = nats.gather(2, lengths[..., None])[..., 0]
    assert torch.allclose(output.losses["token"], nats.sum() - ends[short].sum(), rtol=1e-5)
    assert int(model.loss_counts(**batch, cut_short=short)["token"]) == 8 + 4 - 2


def by_hand(model, lm, batch, weight):
    """(1 - w) nats + w KL of all tokens, ends of sentences by nats alone."""
    nats, divergence = model.nats(**batch), torch.zeros(())
    sentences = model.read(**batch)
    states = model.trunk_states(sentences, batch["sentence_mask"])
    end, opening = model.config.eos_token_id, model.config.bos_token_id
    for decoded in model.decode(sentences, states):
        logits = (decoded.hidden @ model.output_table.T).clone()
        for row, number in enumerate(decoded.index[: decoded.num_real].tolist()):
            text, place = int(sentences.rows[number]), int(sentences.places[number])
            before = [i for sentence in TEXTS[text][:place] for i in sentence]
            own = TEXTS[text][place]
            told = lm(torch.tensor([[opening, *before, *own]])).logits[0, len(before) : -1]
            said = logits[row, : len(own)].clone()
            for t in range(len(own)):  # the teacher knows no ends
                said[t, end] = told[t, end] = -torch.inf
            parts = F.kl_div(said.log_softmax(-1), told.log_softmax(-1), log_target=True, reduction="none")
            divergence = divergence + parts.nan_to_num(0.0).sum()
    tokens = sum(nats.token[b, s, : len(one)].sum() for b, text in enumerate(TEXTS) for s, one in enumerate(text))
    if model.end_head is None:
        return nats.token.sum() - weight * tokens + weight * divergence
    flags = torch.zeros(())  # of which the teacher says nothing: they have their whole weight
    for decoded in model.decode(sentences, states):
        mask = decoded.cut.mask & ~decoded.cut.first & (decoded.cut.targets != end)
        flags = flags + F.softplus(model.end_head(decoded.hidden[mask])).sum()
    return nats.token.sum() - weight * (tokens - flags) + weight * divergence


@pytest.mark.parametrize("kind", MAKERS)
def test_a_teacher_that_is_asked_and_one_that_was_cached_say_the_same(kind):
    model, batch, lm = MAKERS[kind]().double(), pad(TEXTS), make_lm("llama").double()
    model.teacher_weight, model.online_teacher = 0.25, OnlineTeacher(lm, 260)
    with torch.no_grad():
        asked = model(**batch, ask_teacher=torch.ones(3, dtype=torch.bool))
        wanted = by_hand(model, lm, batch, 0.25)
        ids = torch.arange(260).expand(*batch["input_ids"].shape, 260)
        log_probs = torch.full(ids.shape, -torch.inf, dtype=torch.double)
        for b, text in enumerate(TEXTS):
            flat = [model.config.bos_token_id, *(i for sentence in text for i in sentence)]
            rows = (trunk_logits(lm, flat)).log_softmax(-1)[:-1]
            for s, sentence in enumerate(text):
                log_probs[b, s, : len(sentence)], rows = rows[: len(sentence)], rows[len(sentence) :]
        cached = model(**batch, teacher_ids=ids, teacher_log_probs=log_probs)
    assert torch.allclose(asked.losses["distilled"].float(), wanted.float(), rtol=1e-4)
    assert torch.allclose(cached.losses["distilled"], asked.losses["distilled"], rtol=1e-4)
    assert torch.allclose(asked.losses["token"].float(), model.nats(**batch).token.sum().float(), rtol=1e-5)
    counts = model.loss_counts(**batch, teacher_ids=ids)
    assert int(counts["teacher"]) == 8


def trunk_logits(lm, ids):
    return (lm.model(torch.tensor([ids])).last_hidden_state @ output_table(lm).T)[0]
