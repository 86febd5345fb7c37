"""A sentence's end as a flag: one distribution over tokens and the end, whoever asks for it."""

import pytest
import torch
from tiny import make_own, make_sllm, pad

from lmbase.modeling.losses import signed_nats, token_nats
from sllm.end_flag import flag_nats, joint_logits
from sllm.evaluation.audit import audit_sentences

END = 2


@pytest.fixture
def parts():
    generator = torch.Generator().manual_seed(0)
    hidden, table = torch.randn(40, 6, generator=generator), torch.randn(9, 6, generator=generator)
    targets = torch.randint(3, 9, (40,), generator=generator)
    targets[::5] = END
    first = torch.zeros(40, dtype=torch.bool)
    first[1::5] = True
    return hidden, torch.randn(40, generator=generator), table, targets, first


def test_all_three_say_the_same(parts):
    hidden, flags, table, targets, first = parts
    joint = joint_logits(hidden @ table.T, flags, END)
    assert torch.allclose(joint.exp().sum(-1), torch.ones(40), atol=1e-5)
    joint[first, END] = -torch.inf
    nats = -joint.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    assert torch.allclose(flag_nats(hidden, flags, table, targets, first, END, token_nats), nats, atol=1e-5)
    signed = flag_nats(hidden, flags, table, targets, first, END, signed_nats)
    assert torch.allclose(signed.abs(), nats, atol=1e-5)
    assert torch.equal(signed.signbit(), joint.argmax(-1) == targets)
    assert signed.signbit()[targets == END].any()


def test_the_published_design_takes_it_too():
    model = make_sllm(end_flag=True)
    audit_sentences(model, [[10, 11], [12], [13, 14, 15], [16] * 12, [17]]).raise_if_failed("it")
    output = model.generate(
        **{k: v for k, v in pad([[[10, 11], [12]]]).items() if k != "sentence_mask"}, max_new_tokens=30
    )
    assert output.num_new_tokens[0] > 0


def test_correct_counts_ends_and_tokens():
    """Those that greedy writing would choose: signs of `signed_nats` say so, whatever the flags lean to."""
    batch = pad([[[10 + k, 40 - k, 50 + k, 7][: 1 + k % 4] for k in range(14)]])
    seen = set()
    for bias in (-2.0, -0.3, 0.3, 5.0):
        model = make_own(max_sentences=20)
        with torch.no_grad():
            model.end_head.bias.fill_(bias)
            sentences = model.read(**batch)
            chosen = 0
            for decoded in model.decode(sentences, model.trunk_states(sentences, batch["sentence_mask"])):
                cut = decoded.cut
                rows = decoded.hidden[cut.mask], cut.targets[cut.mask], cut.first[cut.mask]
                chosen += int(model.target_nats(*rows, signed_nats).signbit().sum())
            assert int(model(**batch).correct) == chosen
        seen.add(chosen)
    assert len(seen) > 1
