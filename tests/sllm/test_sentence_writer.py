"""Writing sentences by draft and verify: every text is the one that is written token by token."""

import functools

import pytest
import torch
from tiny import CAP, MEMORY, make_sllm
from transformers import LogitsProcessor, LogitsProcessorList

from lmbase.text.padding import pad_sentences
from multitoken.draft_loop import DraftLoop
from sllm import SLLM

PAD = 1
HEADS = dict(num_future_tokens=4)
RESIDUAL: dict = dict(draft_head_kind="residual")
AFTER: dict = MEMORY | RESIDUAL | dict(draft_transitions=True)
PROMPTS = [[[10, 11, 12], [20, 21]], [[30, 31, 32, 33]], []]
TREE = [[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0]]


def trained(**options) -> SLLM:
    """A model that has learned to count within sentences, so that some guesses come true."""
    torch.manual_seed(0)
    model = make_sllm(vae=dict(processor=False), stop_bias=-4.0, **HEADS, **options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for step in range(300):
        # after 60 steps in most versions of PyTorch, a little later in others
        if step >= 60 and step % 20 == 0 and sum(write(model.eval(), [[10, 11]], num_draft=2).statistics.accepted):
            break
        model.train()
        starts = torch.randint(4, 40, (6, 4)).tolist()
        texts = [[[s + i for i in range(2 + s % (CAP - 2))] for s in row] for row in starts]
        batch = vars(pad_sentences(texts, PAD))
        model(**batch, continues=torch.ones(6, dtype=torch.bool)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(
    scope="module", params=[{}, MEMORY, MEMORY | RESIDUAL, AFTER], ids=["plain", "memory", "residual", "after"]
)
def counter(request):
    return trained(**request.param).double()


def write(model, prompt, **options):
    ids = pad_sentences([prompt], PAD).input_ids
    return model.generate(ids, max_new_tokens=40, min_new_tokens=40, **options)


@functools.cache
def written_plainly(model, number, **options):
    """What the drafts of several tests are held against."""
    return write(model, PROMPTS[number], num_draft=1, **options)


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("num_draft", [2, 4, "auto"])
def test_drafting_changes_nothing(counter, num_draft, tree):
    accepted = 0
    for number, prompt in enumerate(PROMPTS):
        plain, found = written_plainly(counter, number), write(counter, prompt, num_draft=num_draft, tree=tree)
        assert torch.equal(found.sequences, plain.sequences)
        assert found.sentence_lengths == plain.sentence_lengths
        accepted += sum(found.statistics.accepted)
        assert plain.statistics.offered == []
    # by itself a model may also find, by measured times, that drafting does not pay
    assert accepted > 0 or num_draft == "auto", "nothing was ever accepted, so nothing was tested"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_same_seed_gives_the_same_text_whatever_is_drafted(counter, temperature):
    texts = set()
    for seed in range(4):
        options = dict(do_sample=True, temperature=temperature, top_p=0.9, seed=seed)
        plain = written_plainly(counter, 0, **options)
        for tree in (None, TREE):
            found = write(counter, PROMPTS[0], num_draft=4, tree=tree, **options)
            assert torch.equal(found.sequences, plain.sequences)
        texts.add(tuple(plain.sequences[0].tolist()))
    assert len(texts) > 1


@pytest.mark.parametrize("drafts", [dict(num_draft=1), dict(num_draft=4), dict(num_draft=4, tree=TREE), {}], ids=str)
def test_a_batch_is_its_members(counter, drafts):
    batch = counter.generate(pad_sentences(PROMPTS, PAD).input_ids, max_new_tokens=30, **drafts)
    for b, prompt in enumerate(PROMPTS):
        alone = counter.generate(pad_sentences([prompt], PAD).input_ids, max_new_tokens=30, **drafts)
        assert batch.sentence_lengths[b] == alone.sentence_lengths[0]
        row = batch.sequences[b][batch.attention_mask[b]]
        assert torch.equal(row, alone.sequences[0][alone.attention_mask[0]])


@pytest.mark.parametrize("drafts", [dict(num_draft=1), dict(num_draft=4), dict(num_draft=4, tree=TREE), {}], ids=str)
def test_rows_of_finished_sentences_are_let_go_and_change_nothing(counter, drafts, monkeypatch):
    """Sentences of a batch end far apart, and the longest are written in passes of ever fewer rows."""
    prompts = [[[10, 11], [start, start + 1]] for start in (4, 13, 22, 31, 33, 5, 17)]
    read, num_rows = counter.autoencoder.decoder.read, []

    def counted(embeds, *args):
        num_rows.append(len(embeds))
        return read(embeds, *args)

    options = dict(max_new_tokens=24, min_new_tokens=24, do_sample=True, seed=3)
    ids = pad_sentences(prompts, PAD).input_ids
    with monkeypatch.context() as patch:
        patch.setattr(DraftLoop, "_let_go", lambda self: None)
        expected = counter.generate(ids, num_draft=1, **options)
    monkeypatch.setattr(counter.autoencoder.decoder, "read", counted)
    found = counter.generate(ids, **drafts, **options)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.sentence_lengths == expected.sentence_lengths
    assert {1, 7} < set(num_rows) <= {1, 2, 4, 7}


@pytest.mark.parametrize("text", ["One, two and", "He said", "Yes"])
def test_an_unfinished_sentence_is_continued_alike(text):
    model = make_sllm(**HEADS, **MEMORY).double()
    plain, found = (model.generate(text=text, max_new_tokens=20, num_draft=k) for k in (1, 4))
    assert found.texts == plain.texts
    assert found.sentence_lengths == plain.sentence_lengths


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 5, 17])
def test_limits_hold_in_the_middle_of_a_draft(counter, limit):
    ids = pad_sentences([PROMPTS[0]], PAD).input_ids
    plain = counter.generate(ids, max_new_tokens=limit, num_draft=1)
    for tree in (None, TREE):
        found = counter.generate(ids, max_new_tokens=limit, num_draft=4, tree=tree)
        assert torch.equal(found.sequences, plain.sequences)
        assert found.num_new_tokens == plain.num_new_tokens
        assert found.finish_reason == plain.finish_reason
    one, other = (counter.generate(ids, max_new_sentences=2, num_draft=k) for k in (1, 4))
    assert torch.equal(one.sequences, other.sequences)


class NoRepeats(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return scores.scatter(1, input_ids, -torch.inf) if input_ids.shape[1] else scores


def test_logits_processors_see_the_sentence_so_far(counter):
    processors = LogitsProcessorList([NoRepeats()])
    plain, found = (write(counter, PROMPTS[0], num_draft=k, logits_processor=processors) for k in (1, 4))
    assert torch.equal(found.sequences, plain.sequences)


@pytest.mark.parametrize("num_draft", [0, 5, True, "often"])
def test_heads_that_are_not_there_are_refused(counter, num_draft):
    with pytest.raises(ValueError, match="has 4 heads, so choose 1"):
        write(counter, PROMPTS[0], num_draft=num_draft)


def test_a_tree_that_names_a_head_that_is_not_there_is_refused(counter):
    with pytest.raises(ValueError, match="takes 5 heads; this model has 4"):
        write(counter, PROMPTS[0], tree=[[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]])
