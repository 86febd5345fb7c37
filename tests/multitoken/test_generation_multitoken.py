"""Drafting is lossless: every text is the one that head 1 writes alone."""

import pytest
import torch
from learned import PROMPTS, TREE, new_ids, padded
from tiny import make_mtp, make_opt

from multitoken import MultiTokenLM

# -- lossless ----------------------------------------------------------------------------------------------------------


def test_plain_decoding_is_that_of_the_opt(counter):
    opt = counter.to_lm()
    for prompt in PROMPTS:
        ids = torch.tensor([prompt])
        options = dict(max_new_tokens=20, do_sample=False, eos_token_id=2)
        expected = opt.generate(ids, attention_mask=torch.ones_like(ids), **options)[0, len(prompt) :].tolist()
        expected = expected[: expected.index(2)] if 2 in expected else expected
        assert new_ids(counter, prompt, max_new_tokens=20, num_draft=1)[0] == expected


@pytest.mark.parametrize("options", [dict(num_draft=2), dict(num_draft=3), dict(num_draft=3, tree=TREE), {}], ids=str)
def test_greedy_drafting_changes_nothing(model, options):
    accepted = 0
    for prompt in PROMPTS:
        plain, _ = new_ids(model, prompt, max_new_tokens=24, num_draft=1)
        found, output = new_ids(model, prompt, max_new_tokens=24, **options)
        assert found == plain
        accepted += sum(output.statistics.accepted)
    # by itself a model may also find, by measured times, that drafting does not pay
    assert accepted > 0 or "num_draft" not in options, "nothing was ever accepted, so nothing was tested"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_the_same_seed_gives_the_same_text_whatever_is_drafted(model, tree, temperature):
    options = dict(max_new_tokens=20, do_sample=True, temperature=temperature, top_p=0.95)
    texts = set()
    for seed in range(8):
        plain, _ = new_ids(model, PROMPTS[0], num_draft=1, seed=seed, **options)
        assert new_ids(model, PROMPTS[0], num_draft=3, tree=tree, seed=seed, **options)[0] == plain
        texts.add(tuple(plain))
    assert len(texts) > 3


@pytest.mark.parametrize("options", [dict(num_draft=1), dict(num_draft=3), dict(num_draft=3, tree=TREE), {}], ids=str)
def test_a_batch_is_its_members(model, options):
    """Texts of different length accept different numbers of guesses and end at different times."""
    output = model.generate(padded(PROMPTS), max_new_tokens=20, **options)
    width = max(map(len, PROMPTS))
    for b, prompt in enumerate(PROMPTS):
        alone, single = new_ids(model, prompt, max_new_tokens=20, **options)
        assert output.sequences[b, width : width + output.num_new_tokens[b]].tolist() == alone
        assert (output.sequences[b, width + output.num_new_tokens[b] :] == 1).all()
        assert output.finish_reason[b] == single.finish_reason[0]


def test_a_sampled_batch_has_its_own_noise_for_each_text(counter):
    same = torch.tensor([PROMPTS[0]] * 4)
    output = counter.generate(same, do_sample=True, temperature=3.0, seed=1, max_new_tokens=8)
    assert len({tuple(row) for row in output.sequences.tolist()}) > 1
    again = counter.generate(same, do_sample=True, temperature=3.0, seed=1, max_new_tokens=8, num_draft=2)
    assert torch.equal(output.sequences, again.sequences)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.5])
def test_sampled_sequences_have_the_probabilities_of_the_model(temperature):
    """Three tokens of a vocabulary of 8, 4,000 texts: chi-square against the enumerated distribution."""
    tiny = make_mtp(opt=dict(vocab_size=8, max_position_embeddings=16)).double()
    prompt, draws = [2, 5], 4000
    expected = {}
    for a in range(8):
        for b in range(8):
            logits = tiny.logits(torch.tensor([[*prompt, a, b]]))[0, 1:] / temperature
            logits[:, 2] = -torch.inf  # the end mark is held back
            p = logits.softmax(-1)
            for c in range(8):
                expected[a, b, c] = float(p[0, a] * p[1, b] * p[2, c])
    rows = torch.tensor([prompt] * draws)
    options = dict(do_sample=True, temperature=temperature, max_new_tokens=3, min_new_tokens=3)
    found = tiny.generate(rows, num_draft=3, seed=0, **options).sequences[:, 2:]
    counts = dict.fromkeys(expected, 0)
    for key in map(tuple, found.tolist()):
        counts[key] += 1
    cells = [(counts[key], p * draws) for key, p in expected.items() if p * draws >= 5]
    cells.append((draws - sum(o for o, _ in cells), draws - sum(e for _, e in cells)))  # all rare ones together
    assert len(cells) > 10
    distance = sum((o - e) ** 2 / e for o, e in cells if e >= 5)
    p_value = torch.special.gammaincc(torch.tensor((len(cells) - 1) / 2), torch.tensor(distance / 2))
    assert p_value > 0.001


# -- limits ------------------------------------------------------------------------------------------------------------


def test_auto_takes_the_tree_of_the_configuration(counter):
    counter.config.draft_tree = [[0], [1]]
    try:
        _, output = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20)
        _, chain = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20, num_draft=3)
    finally:
        counter.config.draft_tree = None
    assert len(output.statistics.offered) == 1  # as deep as that tree
    assert len(chain.statistics.offered) == 2


# -- text and wrong input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[2, 64]], "outside the model's vocabulary of 64"),
        ([[2] + [5] * 48], "49 tokens; the model has 48"),
    ],
)
def test_wrong_prompts_are_refused(counter, ids, words):
    with pytest.raises(ValueError, match=words):
        counter.generate(torch.tensor(ids))


def test_a_model_with_one_head_writes_plainly():
    model = MultiTokenLM.from_lm(make_opt(), 1)
    output = model.generate(torch.tensor([[2, 10]]), max_new_tokens=8)
    assert output.statistics.offered == []
    with pytest.raises(ValueError, match="has 1 head, so"):
        model.generate(torch.tensor([[2, 10]]), num_draft=2)
