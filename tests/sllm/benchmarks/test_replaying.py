"""Lengths of sentences and accepted draft tokens are replayed; models of any family are built and measured."""

import itertools

import pytest
import torch
from tiny import CAP, make_opt, make_vae

from lmbase.text.padding import pad_sentences
from multitoken.benchmarks.measuring import Way
from multitoken.benchmarks.replaying import Drafts
from sllm.benchmarks.cache_size import Cache
from sllm.benchmarks.generation import Generate
from sllm.benchmarks.replaying import COPIED, Build, ReplayedSLLM, random_sentences
from sllm.benchmarks.training import Train

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


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


@pytest.fixture(params=["llama", "gpt2"])
def build(request):
    return Build(f"{request.param}-tiny", 512, num_future_tokens=2)


def test_names_say_family_and_size(build):
    family = build.size.partition("-")[0]
    assert build.lm_name == f"{family.upper()} {build.size}"
    assert Build("opt-125m", 512).lm_name == "OPT opt-125m"
    assert build.sllm_name == f"SLLM {build.size}"


def test_the_sllm_stands_on_the_model_and_has_what_another_has(build):
    lm = build.lm()
    sllm = build.sllm(lm)
    assert sllm.config.trunk.model_type == lm.config.model_type
    assert {name: getattr(sllm.config, name) for name in COPIED} == {name: getattr(build, name) for name in COPIED}


def test_random_text_has_the_lengths_and_no_special_ids():
    text = random_sentences([3, 4], 9, 50)
    assert [len(sentence) for sentence in text] == [3, 4, 2]
    assert min(map(min, text)) >= 4


def test_any_family_is_timed_in_writing(build):
    subset = Generate(prompt_tokens=[12], new_tokens=8, rounds=1, dtype="fp32", device="cpu")
    subset.drafts = Drafts("a", {"num_future_tokens": 2}, [Way("2 heads", 2, counts=[1])])
    rows = {row.model: row for part in subset.parts(build, LENGTHS) for row in part()}
    assert list(rows)[:2] == [build.lm_name, build.sllm_name]
    assert rows[build.sllm_name].extra["speed_ratio"] > 0
    assert rows[build.lm_name].extra["of_limit"] > 0


def test_any_family_is_timed_in_training(build):
    rows = Train(train_tokens=48, rounds=1, dtype="fp32", device="cpu").rows(build, LENGTHS)
    assert [row.model for row in rows] == [build.lm_name, f"autoencoder {build.size}", build.sllm_name]


def test_the_cache_of_any_family_is_counted(build):
    plain, row = Cache(dtype="bf16").rows(build, {"line": [8, 4]})
    assert row.kv_bytes_per_token == pytest.approx((plain.kv_bytes_per_token or 0) / 6)
    sllm = build.sllm(build.lm()).eval()
    sllm.replay([4], itertools.repeat(0))
    assert sllm.generate(torch.tensor([[[10] * 4]]), max_new_tokens=8, min_new_tokens=8).num_new_tokens == [8]
