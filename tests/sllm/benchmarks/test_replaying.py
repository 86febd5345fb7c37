"""What is replayed happens: lengths of sentences, accepted draft tokens."""

import itertools

import pytest
from tiny import CAP, make_opt, make_vae

from lmbase.text.padding import pad_sentences
from sllm.benchmarks.replaying import ReplayedSLLM

PAD = 1
LENGTHS = [3, 1, 7, CAP, 5]


@pytest.fixture(scope="module")
def replayed():
    return ReplayedSLLM.graft(
        make_vae(processor=False), make_opt(max_position_embeddings=64), max_sentences=16, num_future_tokens=4
    ).eval()


@pytest.mark.parametrize("num_draft", [1, 2, 4, "auto"])
@pytest.mark.parametrize("batch_size", [1, 2])
def test_sentences_have_the_lengths_that_are_replayed(replayed, num_draft, batch_size):
    replayed.replay(LENGTHS, itertools.cycle([3, 0, 1]))
    prompt = pad_sentences([[[10, 11]]] * batch_size, PAD).input_ids
    output = replayed.generate(prompt, max_new_tokens=60, min_new_tokens=60, num_draft=num_draft)
    lengths = [length for row in zip(*(row[1:] for row in output.sentence_lengths), strict=True) for length in row]
    assert lengths[:-batch_size] == (4 * LENGTHS * batch_size)[: len(lengths) - batch_size]
    assert output.num_new_tokens == [60] * batch_size


def test_guesses_come_true_as_often_as_they_are_told(replayed):
    prompt = pad_sentences([[[10, 11]]], PAD).input_ids
    found = {}
    for counts in ([0], [1], [3]):
        replayed.replay([CAP - 1], itertools.cycle(counts))
        output = replayed.generate(prompt, max_new_tokens=220, min_new_tokens=220, num_draft=4)
        found[counts[0]] = output.statistics
    assert found[0].tokens_per_forward == 1
    assert found[1].acceptance[:2] == [pytest.approx(1.0, abs=0.2), 0.0]  # not where a sentence ends
    assert found[3].tokens_per_forward > 2
