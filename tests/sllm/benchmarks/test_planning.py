"""A plan against counted tensors: parameters, optimizer, average, caches; shares of several processes."""

import pytest
import torch
from designs import LENGTHS, sentences, tokens, trunk

from lmbase.benchmarking.timing import cache_bytes, time_lm
from lmbase.modeling.devices import moved
from lmbase.training.optimizer import WeightAverage, adamw
from lmbase.training.parallel import sharded_blocks
from lmbase.training.training_config import TrainingConfig
from sllm.benchmarks.planning import (
    How,
    SentenceDesign,
    TokenDesign,
    assumed_lengths,
    config_of,
    designs,
)
from sllm.evaluation.weights_read import read_by_sentences

TOKENS = tokens()


@pytest.mark.parametrize(
    "design", [sentences(num_memory_tokens=4, freeze_trunk_layers=1), TOKENS], ids=lambda d: d.name
)
def test_states_of_training_are_those_that_are_held(design):
    model = design.build()
    assert sum(design.parameters().values()) == sum(p.numel() for p in model.parameters())
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    for _, p in named:
        p.grad = torch.zeros_like(p)
    optimizer = adamw(named, TrainingConfig(), torch.device("cpu"))
    optimizer.step()
    states = [t for state in optimizer.state.values() for t in state.values()]
    average = WeightAverage([p for _, p in named], 0.9)
    found = design.training_memory(2, How(average=True), again=True)
    assert found["optimizer"] == sum(t.nbytes for t in states)
    assert found["average"] == sum(t.nbytes for t in average.averages)
    assert found["gradients"] == sum(p.grad.nbytes for _, p in named)


def test_caches_are_those_of_writing():
    lm = TOKENS.build().lm
    ran = time_lm(lm, torch.full((1, 9), 5), 12)
    assert TOKENS.cache(torch.float32, ran.num_cached_positions) == ran.cache_bytes
    design = sentences()
    model = moved(design.build()).eval()
    texts = design.windows(1)
    texts.pop("continues")
    with torch.no_grad():
        state = model.prefill(**texts)
    held = cache_bytes(state.past_key_values)
    beside = 2 * 13 * 16 * 4  # of the decoder: keys and values of a sentence and its start
    num_tokens = int(texts["attention_mask"].sum())
    even = SentenceDesign(trunk(), (num_tokens // 5,), design.options, max_sentence_tokens=12)
    assert even.cache(torch.float32, 5 * even.lengths[0]) == held + beside


def test_parts_of_own_layers_are_told_apart():
    own = sentences("random:16x4", upper_layers=1, lower_layers=2, lower_window=16, upper_window=16)
    found = own.parameters()
    assert found["encoder"] == 2 * found["trunk"] + 102 * 16  # with the table of positions
    assert found["decoder"] == found["trunk"] + 2 * 16  # with the last norm
    assert own.num_blocks == 1
    assert own.read_weights() == read_by_sentences(own.outline, own.mean_length)


def test_a_larger_micro_batch_is_told_from_smaller_ones(monkeypatch):
    whole = TOKENS.training_memory(16, How())
    monkeypatch.setattr("sllm.benchmarks.planning.MOST_DRY_TOKENS", {"cpu": 4 * 29})
    told = TOKENS.training_memory(16, How())
    assert sum(told.values()) == pytest.approx(sum(whole.values()), rel=0.03)
    assert TOKENS.step(16, How()).operations == pytest.approx(16 * TOKENS.step(1, How()).operations, rel=0.01)


def test_fsdp_divides_what_it_shards():
    one, four = (TOKENS.training_memory(2, How(strategy="fsdp", processes=n)) for n in (1, 4))
    assert four["optimizer"] == one["optimizer"] // 4
    assert four["weights"] == one["weights"] // 4
    outside = one["weights"] - sum(p.nbytes for b in sharded_blocks(TOKENS.outline) for p in b.parameters())
    assert outside < four["gathered"] < one["weights"] + 1
    buckets = TOKENS.training_memory(2, How(processes=4))
    assert buckets["buckets"] == sum(p.nbytes for p in TOKENS.outline.parameters())


def test_the_largest_micro_batch_that_fits():
    sizes = {n: sum(TOKENS.training_memory(n, How(), again=n < 12).values()) for n in (1, 2, 4, 8, 12)}
    assert TOKENS.most_windows(sizes[12], 12, How()) == 12
    assert TOKENS.most_windows(sizes[8], 12, How()) == 8
    assert TOKENS.most_windows(sizes[1] - 1, 12, How()) == 0


def test_published_names_need_no_network_and_nothing_is_allocated():
    small, large = config_of("facebook/opt-125m"), config_of("OPT-175B")
    assert (small.hidden_size, small.num_hidden_layers) == (768, 12)
    found = TokenDesign(large, LENGTHS, 512).parameters()
    assert sum(found.values()) == pytest.approx(175e9, rel=0.01)
    with pytest.raises(ValueError, match="no such file or folder"):
        config_of("./no/such/trunk")
    with pytest.raises(ValueError, match="sizes"):
        config_of("random:huge")


def test_lengths_that_are_assumed_have_their_mean():
    for mean in (4.0, 10.0, 20.0):
        lengths = assumed_lengths(mean, 64)
        assert sum(lengths) / 64 == pytest.approx(mean, rel=0.1)
        assert 1 <= min(lengths) <= max(lengths) <= 64


def test_both_kinds_read_the_same_trunk():
    found = designs(trunk(), LENGTHS, 30, options=(("max_sentences", 5),), max_sentence_tokens=12)
    assert [design.name for design in found] == ["SLLM", "token level"]
    assert found[0].parameters()["table"] == found[1].parameters()["table"]
    with pytest.raises(ValueError, match="100 positions"):
        TokenDesign(trunk(), LENGTHS, 101)
