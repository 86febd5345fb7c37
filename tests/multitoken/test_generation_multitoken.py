"""Drafting is lossless: every text is the one that head 1 writes alone."""

import itertools

import pytest
import torch
from tiny import make_mtp, make_opt
from transformers import LogitsProcessor, LogitsProcessorList

from lmbase.modeling.decoding import GumbelNoise
from lmbase.text.tokenizers import load_tokenizer
from multitoken import MultiTokenLM, draft_loop
from multitoken.draft_length import DraftLength
from multitoken.heads import HEAD_KINDS

TREE = ((0,), (1,), (2,), (0, 0), (0, 1), (1, 0))
PROMPTS = [[2, 10, 11, 12], [2], [2, 30, 31, 32, 33, 34, 35], [2, 50, 51]]


def trained(kind="parallel", steps=60, **options):
    """A model that has learned to count, so that some guesses come true."""
    torch.manual_seed(0)
    model = make_mtp(head_kind=kind, opt=dict(vocab_size=64, max_position_embeddings=48), **options).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        start = torch.randint(4, 64, (16, 1))
        ids = 4 + (start - 4 + torch.arange(12) * (1 + start % 2)) % 60
        ends = torch.rand(16) < 0.3
        model(ids, torch.ones_like(ids, dtype=torch.bool), ends).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


@pytest.fixture(scope="module", params=[*HEAD_KINDS, "after", "own after"])
def model(request):
    kind, _, after = request.param.rpartition("after") if "after" in request.param else (request.param, "", None)
    if after is None:
        return trained(kind).double()
    return trained(draft_transitions=True, own_unembeddings=bool(kind)).double()


@pytest.fixture(scope="module")
def counter():
    return trained().double()


def batch(prompts):
    width = max(map(len, prompts))
    return torch.tensor([[1] * (width - len(p)) + p for p in prompts])


def new_ids(model, prompt, **options):
    output = model.generate(torch.tensor([prompt]), **options)
    return output.sequences[0, len(prompt) :].tolist(), output


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
    output = model.generate(batch(PROMPTS), max_new_tokens=20, **options)
    width = max(map(len, PROMPTS))
    for b, prompt in enumerate(PROMPTS):
        alone, single = new_ids(model, prompt, max_new_tokens=20, **options)
        assert output.sequences[b, width : width + output.num_new_tokens[b]].tolist() == alone
        assert (output.sequences[b, width + output.num_new_tokens[b] :] == 1).all()
        assert output.finish_reason[b] == single.finish_reason[0]


@pytest.mark.parametrize("kind", HEAD_KINDS)
@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_a_text_goes_on_alone_for_long_after_the_others(kind, tree):
    """Long texts that end early, in the middle of a draft, beside a short one that goes on plainly and then drafts."""
    model = trained(kind, steps=20).double()
    prompts = [[2, 11], [2, *range(10, 38)], [2, *range(20, 36)]]

    class Ends(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            scores[:, 2] = 1e9 if input_ids[0, 1] == 10 and input_ids.shape[1] > 31 else -1e9
            return scores

    options = dict(max_new_tokens=40, logits_processor=LogitsProcessorList([Ends()]))
    plain = model.generate(batch(prompts), num_draft=1, **options)
    for length in [2, 2, 2] + [0] * 28 + [2], [2], [0, 0, 2, 1]:
        lengths = itertools.cycle(length)

        class Fixed(DraftLength):
            def choose(self):
                return next(lengths)  # noqa: B023

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(draft_loop, "DraftLength", Fixed)
            found = model.generate(batch(prompts), num_draft="auto", tree=tree, **options)
        assert torch.equal(found.sequences, plain.sequences)


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


def test_noise_belongs_to_a_place_in_a_text():
    one, other = (GumbelNoise(5, "cpu", seed=3) for _ in range(2))
    late = other.at([(1, 4)])
    for position in range(5):
        value = one.at([(1, position)])
    assert torch.equal(late, value)
    assert not torch.equal(one.at([(0, 4)]), value)
    one.forget(1, 4)
    assert torch.equal(one.at([(1, 4)]), value)


class Forbid(LogitsProcessor):
    """No token may be the one before it plus one: depends on what was written before."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[torch.arange(len(scores)), (input_ids[:, -1] + 1) % scores.shape[1]] = -torch.inf
        return scores


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_logits_processors_see_the_ids_before_each_token(counter, tree):
    options = dict(max_new_tokens=16, logits_processor=LogitsProcessorList([Forbid()]))
    plain, _ = new_ids(counter, PROMPTS[0], num_draft=1, **options)
    found, _ = new_ids(counter, PROMPTS[0], num_draft=3, tree=tree, **options)
    assert found == plain
    assert all(b != (a + 1) % 64 for a, b in zip([12, *plain], plain, strict=False))


# -- limits ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_draft", [1, 2, 3, "auto"])
@pytest.mark.parametrize("limit", [0, 1, 2, 5])
def test_never_more_tokens_than_asked_for(counter, limit, num_draft):
    full, _ = new_ids(counter, PROMPTS[0], max_new_tokens=12, min_new_tokens=12, num_draft=1)
    found, output = new_ids(counter, PROMPTS[0], max_new_tokens=limit, min_new_tokens=12, num_draft=num_draft)
    assert found == full[:limit]
    assert output.finish_reason == ["length"]
    assert output.num_new_tokens == [limit]


@pytest.mark.parametrize("num_draft", [1, 3, "auto"])
@pytest.mark.parametrize("length", [45, 46, 47, 48])
def test_texts_end_where_positions_do(counter, length, num_draft):
    prompt = [2, *(4 + i % 60 for i in range(length - 1))]
    found, output = new_ids(counter, prompt, max_new_tokens=20, min_new_tokens=20, num_draft=num_draft)
    assert len(found) == 48 - length + 1  # the token after the last position is still predicted
    assert output.finish_reason == ["context"]


def test_an_end_mark_inside_an_accepted_draft_ends_the_text(counter):
    """A text that ends in the middle of a draft, by construction: the end mark is made the likeliest after 20."""

    class End(LogitsProcessor):
        def __call__(self, input_ids, scores):
            scores = scores.clone()
            if input_ids[0, -1] == 20:
                scores[:, 2] = 1e9
            return scores

    options = dict(max_new_tokens=30, logits_processor=LogitsProcessorList([End()]))
    for start in range(8, 20):
        plain, alone = new_ids(counter, [2, start, start + 1], num_draft=1, **options)
        found, output = new_ids(counter, [2, start, start + 1], num_draft=3, **options)
        assert found == plain
        assert output.finish_reason == alone.finish_reason


def test_statistics_add_up(counter):
    output = counter.generate(batch(PROMPTS), max_new_tokens=20, num_draft=3)
    stats_ = output.statistics
    # the pass over the prompts brings each text's first token
    first = sum(n > 0 for n in output.num_new_tokens)
    assert stats_.num_tokens == sum(output.num_new_tokens) - first
    assert 1 <= stats_.tokens_per_forward <= 3
    assert len(stats_.acceptance) == 2
    assert output.cache_bytes > 0


def test_auto_takes_the_tree_of_the_configuration(counter):
    counter.config.draft_tree = [[0], [1]]
    try:
        _, output = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20)
        _, chain = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20, num_draft=3)
    finally:
        counter.config.draft_tree = None
    assert len(output.statistics.offered) == 1  # as deep as that tree
    assert len(chain.statistics.offered) == 2


def test_auto_measures_its_break_even(counter):
    _, output = new_ids(counter, PROMPTS[0], max_new_tokens=40, min_new_tokens=40)
    assert output.statistics.break_even > 0


# -- text and wrong input ----------------------------------------------------------------------------------------------


class Streamer:
    def __init__(self):
        self.parts, self.ended = [], False

    def put(self, value):
        self.parts.append(value.flatten().tolist())

    def end(self):
        self.ended = True


def test_text_in_text_out_and_streamed():
    model = make_mtp()
    model.tokenizer = load_tokenizer("bytes")
    streamer = Streamer()
    output = model.generate(text="He left.", max_new_tokens=9, num_draft=3, streamer=streamer)
    assert output.texts == [model.tokenizer.decode(output.sequences[0, 9:])]
    assert [i for part in streamer.parts for i in part] == output.sequences[0].tolist()
    assert streamer.ended
    several = model.generate(text=["He left.", "Why?"], max_new_tokens=9)
    assert several.texts[0] == output.texts[0]
    tensor = model.generate(text="He left.", max_new_tokens=9, return_dict_in_generate=False)
    assert torch.equal(tensor, output.sequences)


def test_transformers_word_for_drafting(counter):
    for use_mtp, accepted in ((True, True), (False, False)):
        _, output = new_ids(counter, PROMPTS[0], max_new_tokens=20, min_new_tokens=20, use_mtp=use_mtp)
        assert bool(output.statistics.offered) == accepted


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_draft=4), "3 heads, so choose 1"),
        (dict(num_draft=0), "3 heads, so choose 1"),
        (dict(num_draft=True), "3 heads, so choose 1"),
        (dict(num_draft="often"), "or 'auto'"),
        (dict(tree=[[0], [0, 0], [0, 0, 0]]), "takes 4 heads; this model has 3"),
        (dict(tree=[[99]]), "candidate 99 of 64"),
        (dict(tree=[[0, 0]]), "hangs in the air"),
        (dict(num_beams=3), "num_beams"),
        (dict(text="a"), "either input_ids or text"),
        (dict(max_new_tokens=-1), "a whole number of 0 or more"),
    ],
)
def test_wrong_settings_are_refused(counter, options, words):
    with pytest.raises(ValueError, match=words):
        counter.generate(torch.tensor([PROMPTS[0]]), **options)


@pytest.mark.parametrize(
    ("ids", "words"),
    [
        ([[2, 64]], "outside the model's vocabulary of 64"),
        ([[1, 1]], "Prompt 0 is empty"),
        ([[2] * 49], "49 tokens; the model has 48"),
    ],
)
def test_wrong_prompts_are_refused(counter, ids, words):
    with pytest.raises(ValueError, match=words):
        counter.generate(torch.tensor(ids))


def test_text_needs_a_tokenizer(counter):
    with pytest.raises(ValueError, match="no tokenizer"):
        counter.generate(text="a")


def test_a_model_with_one_head_writes_plainly():
    model = MultiTokenLM.from_lm(make_opt(), 1)
    output = model.generate(torch.tensor([[2, 10]]), max_new_tokens=8)
    assert output.statistics.offered == []
    with pytest.raises(ValueError, match="has 1 head, so"):
        model.generate(torch.tensor([[2, 10]]), num_draft=2)
