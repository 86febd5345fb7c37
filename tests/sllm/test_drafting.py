"""Further heads on the sentence decoder: trained with the rest or alone, and lossless in writing."""

import pytest
import torch
from tiny import CAP, MEMORY, make_sllm
from transformers import LogitsProcessor, LogitsProcessorList

from lmbase.text.padding import pad_sentences
from multitoken.draft_loop import DraftLoop
from sllm import SLLM, SLLMConfig
from sllm.reading import draft_states, memories_of, prefill, start_sentence

PAD, EOS = 1, 2
TEXTS = ["One, two and three. Four? Yes, five: six.", "Why", "A very long sentence without a mark. And, end."]
HEADS = dict(num_future_tokens=4)


def randomised(**options) -> SLLM:
    return make_sllm(**HEADS, **options)


def trained(**options) -> SLLM:
    """A model that has learned to count within sentences, so that some guesses come true."""
    torch.manual_seed(0)
    model = make_sllm(vae=dict(processor=False), stop_bias=-4.0, **HEADS, **options).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(60):
        starts = torch.randint(4, 40, (6, 4)).tolist()
        texts = [[[s + i for i in range(2 + s % (CAP - 2))] for s in row] for row in starts]
        batch = vars(pad_sentences(texts, PAD))
        model(**batch, continues=torch.ones(6, dtype=torch.bool)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


RESIDUAL: dict = dict(draft_head_kind="residual")


AFTER: dict = MEMORY | RESIDUAL | dict(draft_transitions=True)


@pytest.fixture(
    scope="module", params=[{}, MEMORY, MEMORY | RESIDUAL, AFTER], ids=["plain", "memory", "residual", "after"]
)
def counter(request):
    return trained(**request.param).double()


@pytest.fixture(scope="module", params=[{}, MEMORY], ids=["plain", "memory"])
def heads(request):
    return randomised(**request.param)


PROMPTS = [[[10, 11, 12], [20, 21]], [[30, 31, 32, 33]], []]


def write(model, prompt, **options):
    ids = pad_sentences([prompt], PAD).input_ids
    return model.generate(ids, max_new_tokens=40, min_new_tokens=40, **options)


# -- losses ------------------------------------------------------------------------------------------------------------


def test_each_heads_loss_is_the_naive_sum(heads):
    """Head i at position t of a sentence: tokens up to t, and the target i - 1 places further on."""
    batch = vars(heads.processor(TEXTS))
    output, counts = heads(**batch), heads.loss_counts(**batch)
    sums = dict.fromkeys(["head_2", "head_3", "head_4"], 0.0)
    numbers = dict.fromkeys(sums, 0)
    with torch.no_grad():
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            sentences = [row[m].tolist() for row, m in zip(ids, mask, strict=True) if m.any()]
            for k, sentence in enumerate(sentences):
                before = pad_sentences([sentences[:k]], PAD)
                state = prefill(heads, before.input_ids, before.attention_mask, before.sentence_mask)
                written = start_sentence(heads, state)
                inputs = torch.tensor([[2, *sentence]])
                states = heads.autoencoder.decoder.read(heads.autoencoder.embed_tokens(inputs), written)
                ahead = start_sentence(heads, state)
                ahead.memories = memories_of(heads, heads.draft_heads, state)
                targets = [*sentence, EOS][:CAP]
                for i, x in enumerate(draft_states(heads, heads.draft_heads, states, ahead), start=1):
                    logits = heads.autoencoder.decoder.norm(x[0]) @ heads.autoencoder.embed_tokens.weight.T
                    for t in range(len(targets) - i):
                        sums[f"head_{i + 1}"] -= float(logits[t].log_softmax(-1)[targets[t + i]])
                        numbers[f"head_{i + 1}"] += 1
    for name, expected in sums.items():
        assert float(output.losses[name]) == pytest.approx(expected, rel=1e-4)
        assert int(counts[name]) == numbers[name]
    assert float(output.losses["drafts"].detach()) == pytest.approx(sum(sums.values()), rel=1e-4)
    total = sum(output.losses[name].item() for name in ("token", "stop", "drafts"))
    assert output.loss.item() == pytest.approx(total / int(counts["token"]), rel=1e-4)


@torch.no_grad()
def test_transitions_cost_what_heads_say_after_the_true_token():
    """The token before head i's target is known; heads themselves are not trained to know it."""
    model = randomised(draft_transitions=True)
    batch = vars(model.processor(TEXTS))
    sentences = model.read(**batch)
    states = model.trunk_states(sentences, batch["sentence_mask"])
    sums = dict.fromkeys(["after_2", "after_3", "after_4"], 0.0)
    table = model.get_input_embeddings().weight
    for decoded in model.decode(sentences, states):
        for n in range(decoded.num_real):
            number = sentences.numbers[decoded.index[n]]
            targets = [*sentences.ids[number][sentences.mask[number]].tolist(), EOS][:CAP]
            for i, (head, judge) in enumerate(zip(model.draft_heads, model.draft_transitions, strict=True), start=1):
                read = model.autoencoder.decoder.reading(decoded.vectors, slice(i, i + decoded.states.shape[1]))
                hidden = model.autoencoder.decoder.norm(head(decoded.states, read, None))[n]
                for t in range(len(targets) - i):
                    moved = hidden[t] + judge(table[targets[t + i - 1]], hidden[t])
                    sums[f"after_{i + 1}"] -= float((moved @ table.T).log_softmax(-1)[targets[t + i]])
    output = model(**batch)
    for name, expected in sums.items():
        assert float(output.losses[name]) == pytest.approx(expected, rel=1e-4)
        assert model.loss_counts(**batch)[name] == model.loss_counts(**batch)[name.replace("after", "head")]
    parts = [float(output.losses[f"{kind}_{i}"]) for kind in ("head", "after") for i in (2, 3, 4)]
    assert float(output.losses["drafts"]) == pytest.approx(sum(parts), rel=1e-4)


@torch.no_grad()
def test_drafts_can_learn_what_the_model_itself_writes():
    """Targets of heads are its choices after the true tokens, for each sentence as if it were read alone."""
    options: dict = dict(draft_transitions=True, train_draft_heads_only=True)
    text, own = (randomised(**options, draft_targets=targets) for targets in ("text", "greedy"))
    batch = vars(own.processor(TEXTS))
    sentences = own.read(**batch)
    states = own.trunk_states(sentences, batch["sentence_mask"])
    table = own.get_input_embeddings().weight
    sums = dict.fromkeys(["head_2", "after_2", "head_4", "after_4"], 0.0)
    for decoded in own.decode(sentences, states):
        logits = decoded.hidden @ table.T
        logits[:, 0, EOS] = -torch.inf
        chosen = logits.argmax(-1)  # (n,T+1)
        for i in (1, 3):
            read = own.autoencoder.decoder.reading(decoded.vectors, slice(i, i + chosen.shape[1]))
            hidden = own.autoencoder.decoder.norm(own.draft_heads[i - 1](decoded.states, read, None))
            for n, t in decoded.cut.mask[:, i:].nonzero().tolist():
                before = table[decoded.cut.targets[n, t + i - 1]]
                moved = hidden[n, t] + own.draft_transitions[i - 1](before, hidden[n, t])
                for name, x in (("head", hidden[n, t]), ("after", moved)):
                    sums[f"{name}_{i + 1}"] -= float((x @ table.T).log_softmax(-1)[chosen[n, t + i]])
    found = own(**batch).losses
    for name, expected in sums.items():
        assert float(found[name]) == pytest.approx(expected, rel=1e-4)
    assert found["token"] == text(**batch).losses["token"]


def test_heads_learn_the_same_with_transitions_as_without():
    gradients: list[dict] = []
    for after in (False, True):
        model = randomised(draft_transitions=after)
        model.load_state_dict(randomised().state_dict(), strict=False)
        model(**vars(model.processor(TEXTS))).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters() if "transitions" not in name})
    torch.testing.assert_close(*gradients)


def test_heads_change_no_likelihood():
    plain, heads = make_sllm(), randomised()
    heads.load_state_dict(plain.state_dict(), strict=False)
    for a, b in zip(plain.score(TEXTS).nats, heads.score(TEXTS).nats, strict=True):
        assert a == b


def test_heads_alone_are_trained_where_asked_for():
    model = randomised(train_draft_heads_only=True, draft_transitions=True)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"draft_heads", "draft_transitions"}
    model.train()(**vars(model.processor(TEXTS))).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name in trained)


def test_heads_added_to_a_finished_model_start_as_its_first(tmp_path):
    """Loaded with heads that its file does not have, a model says ahead what it says next."""
    plain = make_sllm(**MEMORY)
    plain.save_pretrained(tmp_path)
    config = SLLMConfig.from_pretrained(tmp_path)
    config.num_future_tokens = 3
    model = SLLM.from_pretrained(tmp_path, config=config)
    assert len(model.draft_heads) == 2
    x = torch.randn(1, 2, model.config.hidden_size)
    read = torch.randn(1, 1, model.config.hidden_size)
    with torch.no_grad():
        for head in model.draft_heads:
            assert torch.equal(head(x, read, None), x)
            assert head.ffn.fc1.weight.std() > 0.01
    model.save_pretrained(tmp_path / "with")
    again = SLLM.from_pretrained(tmp_path / "with")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


# -- lossless ----------------------------------------------------------------------------------------------------------


TREE = [[0], [1], [0, 0], [0, 1], [1, 0], [0, 0, 0]]


@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("num_draft", [2, 4, "auto"])
def test_drafting_changes_nothing(counter, num_draft, tree):
    accepted = 0
    for prompt in PROMPTS:
        plain, found = write(counter, prompt, num_draft=1), write(counter, prompt, num_draft=num_draft, tree=tree)
        assert torch.equal(found.sequences, plain.sequences)
        assert found.sentence_lengths == plain.sentence_lengths
        accepted += sum(found.statistics.accepted)
        assert plain.statistics.offered == []
    # by itself a model may also find, by measured times, that drafting does not pay
    assert accepted > 0 or num_draft == "auto", "nothing was ever accepted, so nothing was tested"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_the_same_seed_gives_the_same_text_whatever_is_drafted(counter, temperature):
    texts = set()
    for seed in range(5):
        options = dict(do_sample=True, temperature=temperature, top_p=0.9, seed=seed)
        plain = write(counter, PROMPTS[0], num_draft=1, **options)
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
    model = randomised(**MEMORY).double()
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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_future_tokens=0), "at least 1"),
        (dict(train_draft_heads_only=True), "no drafting heads"),
        (dict(draft_transitions=True), "no drafting heads"),
        (dict(num_future_tokens=2, draft_targets="greedy"), "set train_draft_heads_only"),
        (dict(draft_targets="all"), "choose text or greedy"),
    ],
)
def test_impossible_configurations_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_sllm(**options)


def test_a_tree_that_names_a_head_that_is_not_there_is_refused(counter):
    with pytest.raises(ValueError, match="takes 5 heads; this model has 4"):
        write(counter, PROMPTS[0], tree=[[0], [0, 0], [0, 0, 0], [0, 0, 0, 0]])
