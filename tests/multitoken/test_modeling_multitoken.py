"""n heads on one trunk: head 1 is the OPT it came from, losses are the naive ones, nothing sees the future."""

import pytest
import torch
from tiny import make_mtp

from lmbase.modeling import losses
from lmbase.modeling.cache import RowCache
from lmbase.modeling.causality import audit_tokens
from lmbase.modeling.token_lm import shift
from multitoken import MultiTokenLM, MultiTokenLMConfig
from multitoken.heads import HEAD_KINDS

IDS = torch.tensor([[10, 11, 12, 13, 14], [20, 21, 22, 1, 1]])
BATCH = dict(input_ids=IDS, attention_mask=IDS != 1, ends=torch.tensor([True, False]))


def one(ids, end=False):
    """A window of one text, as arguments."""
    return torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool), torch.tensor([end])


def naive_losses(model, batch):
    """Sums per head, one target after the other."""
    sums = [torch.zeros(()) for _ in model.heads]
    for ids, mask, end in zip(*batch.values(), strict=True):
        text = ids[mask].tolist()
        targets = text + [2] * bool(end)
        given, attention, ends = one(text, True)
        windows = shift(given, attention, ends, model.ids)
        for i, states in model._all_states(windows, len(model.heads)):
            log_probs = (model.finish(states[0]) @ model.unembedding(i).T).log_softmax(-1)
            for t in range(len(text) + 1):
                if t + i - 1 < len(targets):
                    sums[i - 1] = sums[i - 1] - log_probs[t, targets[t + i - 1]]
    return sums


# -- head 1 ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(mtp, side):
    alone = mtp.logits(torch.tensor([[2, 10, 11]]))
    ids = torch.tensor([[1, 1, 2, 10, 11] if side == "left" else [2, 10, 11, 1, 1], [2, 20, 21, 22, 23]])
    batch = mtp.logits(ids, ids != 1)
    torch.testing.assert_close(batch[:1, 2:] if side == "left" else batch[:1, :3], alone)


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_losses_and_gradients_are_the_naive_sums(kind, own, monkeypatch):
    monkeypatch.setitem(losses.CHUNK_ROWS, "cpu", 4)  # chunks cross the borders between heads
    model = make_mtp(head_kind=kind, own_unembeddings=own, head_weights=[1.0, 0.5, 2.0])
    output, naive = model(**BATCH), naive_losses(model, BATCH)
    names = ["token", "head_2", "head_3"]
    torch.testing.assert_close([output.losses[name] for name in names], naive)
    weighted = sum(w * n for w, n in zip([1.0, 0.5, 2.0], naive, strict=True))
    torch.testing.assert_close(output.losses["heads"], weighted)
    counts = model.loss_counts(**BATCH)
    # 5 tokens and an end, 3 tokens and no end: each further head has one target less
    assert [int(counts[name]) for name in ["heads", *names]] == [9, 9, 7, 5]
    trained = [p for p in model.parameters() if p.requires_grad]
    wanted = torch.autograd.grad(weighted / 9, trained, allow_unused=True)
    torch.testing.assert_close(torch.autograd.grad(output.loss, trained, allow_unused=True), wanted)
    assert not any(output.losses[name].requires_grad for name in names)


@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_transitions_cost_what_heads_say_after_the_true_token(own):
    model = make_mtp(draft_transitions=True, own_unembeddings=own, head_weights=[1.0, 0.5, 2.0])
    output = model(**BATCH)
    windows, table = shift(**BATCH, ids=model.ids), model.get_input_embeddings().weight
    expected = {}
    for i, states in model._all_states(windows, 3):
        targets, mask = windows.of_head(i)
        hidden = model.finish(states)
        if i > 1:
            total = torch.zeros(())
            for b, t in mask.nonzero().tolist():
                before = windows.targets[b, t + i - 2]
                moved = hidden[b, t] + model.draft_transitions[i - 2](table[before], hidden[b, t])
                total = total - (moved @ model.unembedding(i).T).log_softmax(-1)[targets[b, t]]
            expected[f"after_{i}"] = total.detach()
            torch.testing.assert_close(output.losses[f"after_{i}"], expected[f"after_{i}"])
            assert model.loss_counts(**BATCH)[f"after_{i}"] == mask.sum()
    heads = make_mtp(own_unembeddings=own, head_weights=[1.0, 0.5, 2.0])
    heads.load_state_dict({name: w for name, w in model.state_dict().items() if "transitions" not in name})
    plain = heads(**BATCH)
    weighted = 0.5 * expected["after_2"] + 2.0 * expected["after_3"]
    torch.testing.assert_close(output.losses["heads"], plain.losses["heads"] + weighted)
    plain.loss.backward()
    output.loss.backward()
    for name, theirs in heads.named_parameters():
        torch.testing.assert_close(model.get_parameter(name).grad, theirs.grad)


@torch.no_grad()
@pytest.mark.parametrize("own", [False, True], ids=["shared", "own"])
def test_transitions_can_learn_what_head_1_itself_writes(own):
    options: dict = dict(draft_transitions=True, train_transitions_only=True, own_unembeddings=own)
    model = make_mtp(**options, draft_targets="greedy")
    windows, table = shift(**BATCH, ids=model.ids), model.get_input_embeddings().weight
    states = dict(model._all_states(windows, 3))
    chosen = (model.finish(states[1]) @ model.unembedding(1).T).argmax(-1)
    output = model(**BATCH)
    for i in (2, 3):
        hidden, total = model.finish(states[i]), torch.zeros(())
        for b, t in windows.of_head(i)[1].nonzero().tolist():
            before = table[windows.targets[b, t + i - 2]]
            moved = hidden[b, t] + model.draft_transitions[i - 2](before, hidden[b, t])
            total = total - (moved @ model.unembedding(i).T).log_softmax(-1)[chosen[b, t + i - 1]]
        torch.testing.assert_close(output.losses[f"after_{i}"], total)
    text = make_mtp(**options)(**BATCH).losses
    for name in ("token", "head_2", "head_3"):
        assert output.losses[name] == text[name]


def test_transitions_alone_are_trained_where_asked_for(tmp_path):
    make_mtp().save_pretrained(tmp_path)
    config = MultiTokenLMConfig.from_pretrained(tmp_path)
    config.draft_transitions = config.train_transitions_only = True
    model = MultiTokenLM.from_pretrained(tmp_path, config=config, new_parts=("draft_transitions.",)).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.split(".")[0] for name in trained} == {"draft_transitions"}
    model(**BATCH).loss.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if name in trained)
    assert not model.trunk.training
    model.config.draft_targets = "greedy"
    assert len(model.with_heads(2).draft_transitions) == 1
    assert len(model.with_heads(1).draft_transitions) == 0


@torch.no_grad()
def test_a_text_shorter_than_the_heads_reach_has_no_target_for_them(mtp):
    batch = dict(input_ids=torch.tensor([[10]]), attention_mask=torch.tensor([[True]]), ends=torch.tensor([False]))
    output = mtp(**batch)
    assert output.losses["token"] > 0
    assert output.losses["head_2"] == output.losses["head_3"] == 0
    assert [int(c) for c in mtp.loss_counts(**batch).values()] == [1, 1, 0, 0]


@torch.no_grad()
def test_nats_by_head_add_up_to_the_losses(mtp):
    output = mtp(**BATCH)
    for name, nats in zip(["token", "head_2", "head_3"], mtp.nats_by_head(**BATCH), strict=True):
        torch.testing.assert_close(nats.sum(), output.losses[name])
    torch.testing.assert_close(mtp.nats(**BATCH), next(mtp.nats_by_head(**BATCH)))


def test_heads_that_are_left_out_cost_nothing():
    one, two, four = (make_mtp(num_future_tokens=4).flops(100, 32, n) for n in (1, 2, 4))
    model = make_mtp(num_future_tokens=4)
    assert model.flops(100, 32) == four
    assert four - two == pytest.approx(2 * (two - one))
    table = 2 * model.get_input_embeddings().weight.numel()
    head = 2 * sum(w.numel() for w in model.heads[0].parameters() if w.dim() == 2)
    assert two - one == pytest.approx(100 * (table + head), rel=0.2)  # attention comes on top


def test_a_curriculum_leaves_later_heads_out(mtp):
    full = mtp(**BATCH).losses
    mtp.num_active_heads = 2
    some = mtp(**BATCH).losses
    torch.testing.assert_close(some["token"], full["token"])
    torch.testing.assert_close(some["heads"], full["token"] + full["head_2"])
    assert some["head_3"] == 0
    some["heads"].backward()
    assert all(p.grad is None for p in mtp.heads[2].parameters())
    assert all(p.grad is not None for p in mtp.heads[1].parameters())


# -- causality ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", HEAD_KINDS)
def test_no_head_sees_what_it_predicts(kind, attention):
    model = make_mtp(head_kind=kind)
    model.set_attn_implementation(attention)
    ids = [10, 11, 12, 13, 14, 15]

    def of_head(i):
        def score(tokens):
            nats = list(model.nats_by_head(*one(tokens)))[i - 1][0]
            # what head i says of token t stands i - 1 places before head 1's
            return torch.cat([torch.zeros(i - 1), nats])[: len(tokens)]

        return score

    def steps(i):
        def score(tokens):
            found = []
            for t in range(len(tokens)):
                found.append(of_head(i)(tokens[: t + 1])[t])
            return torch.stack(found)

        return score

    for i in (1, 2, 3):
        report = audit_tokens(of_head(i), steps(i), ids, 260)
        report.raise_if_failed(f"head {i}")


@torch.no_grad()
def test_the_audit_catches_heads_without_a_mask():
    model = make_mtp()
    plain = model._as_attention_mask
    model._as_attention_mask = lambda mask, rows: plain(torch.ones(1, 1, rows, rows, dtype=torch.bool), rows)

    def score(tokens):
        return model.nats(torch.tensor([tokens]), torch.ones(1, len(tokens), dtype=torch.bool), torch.tensor([False]))[
            0, :-1
        ]

    assert audit_tokens(score, score, [10, 11, 12, 13], 260).failures


@torch.no_grad()
def test_cached_rows_are_the_uncached_ones(mtp):
    """Texts of different length read on in their own pace; rows that were not kept leave no trace."""
    rows = [[2, 10, 11, 12, 13, 14], [2, 20, 21, 22, 23]]
    first = [3, 2]
    cache = RowCache(2, 16, torch.device("cpu"))

    def read(ids, kept):
        ids = torch.tensor(ids)
        visible = torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool).tril()
        _, states = mtp.step(ids, cache.starts[:, None] + torch.arange(ids.shape[1]), visible, cache)
        cache.keep([range(k) for k in kept])
        return mtp.finish(states[0]) @ mtp.unembedding(1).T

    read([rows[0][:3], [*rows[1][:2], 99]], first)
    read([[77, 78], [79, 80]], [0, 0])  # rejected drafts
    found = read([rows[0][3:], rows[1][2:]], [3, 3])
    for b, row in enumerate(rows):
        torch.testing.assert_close(found[b], mtp.logits(torch.tensor([row]))[0, first[b] :])


# -- files and shapes --------------------------------------------------------------------------------------------------


def test_gradient_checkpointing_changes_nothing(mtp):
    mtp.train()
    expected = torch.autograd.grad(mtp(**BATCH).loss, mtp.heads[1].fc1.weight)
    mtp.gradient_checkpointing_enable()
    torch.testing.assert_close(torch.autograd.grad(mtp(**BATCH).loss, mtp.heads[1].fc1.weight), expected)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (dict(ends=torch.tensor([True])), r"ends is of shape \(1,\)"),
        (dict(labels=BATCH["input_ids"]), "without labels"),
        (dict(attention_mask=None), "give them with an attention_mask"),
    ],
    ids=str,
)
def test_ends_of_windows_that_are_not_theirs_are_refused(mtp, given, told):
    """One end counted for all rows, and labels beside them were passed over."""
    with pytest.raises(ValueError, match=told):
        mtp(**BATCH | given)


def test_rows_without_an_id_are_told(mtp):
    with pytest.raises(ValueError, match="Rows of no ids"):
        mtp(torch.zeros(2, 0, dtype=torch.long))
