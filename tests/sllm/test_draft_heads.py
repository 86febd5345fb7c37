"""Drafting heads on the sentence decoder: what each costs, what they learn, how they start."""

import pytest
import torch
from tiny import CAP, MEMORY, make_sllm

from lmbase.text.padding import pad_sentences
from sllm import SLLM, SLLMConfig
from sllm.reading import draft_states, memories_of, prefill, start_sentence

PAD, EOS = 1, 2
TEXTS = ["One, two and three. Four? Yes, five: six.", "Why", "A very long sentence without a mark. And, end."]


def randomised(**options) -> SLLM:
    return make_sllm(num_future_tokens=4, **options)


@pytest.fixture(scope="module", params=[{}, MEMORY], ids=["plain", "memory"])
def heads(request):
    return randomised(**request.param)


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
