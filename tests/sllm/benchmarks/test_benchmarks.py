"""Measuring at any size: what is replayed happens, every model gets the same text, rows say what they should."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import CAP, MEMORY, make_opt, make_processor, make_sllm, make_vae
from transformers import DynamicCache

from lmbase.benchmarking.roofline import Machine
from lmbase.benchmarking.timing import Arrivals, cache_bytes
from lmbase.text import RULES
from lmbase.text.padding import pad_sentences
from multitoken import DraftTree
from multitoken.benchmarks.replaying import Acceptance
from sllm.benchmarks.assisting import mixed, time_writing
from sllm.benchmarks.build import Build, random_sentences
from sllm.benchmarks.cache_size import (
    growth,
    lengths_by_rule,
    measure_cache,
    measure_resident,
    read_sentences,
    read_tokens,
)
from sllm.benchmarks.generation import Case, Contest, measure_generation
from sllm.benchmarks.replaying import ReplayedAssistant, ReplayedSLLM, measured_acceptance
from sllm.benchmarks.training import (
    StepSize,
    measure_memory,
    measure_training,
    sllm_batch,
    token_batch,
    vae_batch,
)

PAD = 1
LENGTHS = [3, 1, 7, CAP, 5]
BUILD = Build("tiny", 512, num_future_tokens=3)


@pytest.fixture(autouse=True)
def small_measurements(monkeypatch):
    monkeypatch.setattr("lmbase.benchmarking.roofline.BYTES_IN_TURN", 2**20)


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


@pytest.mark.parametrize(("counts", "per_forward"), [([0], 1.0), ([0, 2, 2, 0], 2.0), ([3], 4.0)])
def test_a_replayed_assistant_writes_its_text_with_the_guesses_it_is_told(counts, per_forward):
    opt, sllm = make_opt(max_position_embeddings=128), make_sllm(opt=dict(max_position_embeddings=64))
    with torch.no_grad():  # no end marks, as with untrained weights
        sllm.get_input_embeddings().weight[sllm.config.eos_token_id] = 0
    text = [2, *sllm.processor.encode("One, two and three. Four? Yes, five: six and seven! " * 2).input_ids]
    assistant = ReplayedAssistant(sllm, 3, text, mixed(counts))
    written = time_writing(opt, [torch.tensor([text[:10]])], 80, assistant)
    assert written.ids == [text[:90]]
    assert written.tokens_per_forward == pytest.approx(per_forward, rel=0.1)
    assert written.seconds > 0


def test_every_stretch_of_mixed_counts_has_the_shares_of_the_whole():
    counts = [0] * 600 + [1] * 300 + [4] * 100
    replayed = list(itertools.islice(mixed(counts), 250))
    for start in range(0, 250, 50):
        stretch = replayed[start : start + 50]
        assert [stretch.count(count) for count in (0, 1, 4)] == pytest.approx([30, 15, 5], abs=2)


def test_acceptance_of_a_trained_model_counts_every_draft():
    model = make_sllm(num_future_tokens=3)
    ways = {way.way: way for way in measured_acceptance(model, ["Yes, no.", "One", "Two and", "Three."], 12)}
    assert list(ways) == ["2 heads", "3 heads", "tree of 4", "tree of 8"]
    assert set(ways["2 heads"].counts) <= {0, 1}
    assert all(way.counts and set(way.counts) <= {0, 1, 2} for way in ways.values())
    tree = ways["tree of 8"].tree
    assert tree is not None
    assert 2 <= len(tree.nodes) <= 9  # a random model has few candidates that are ever right


def test_all_models_train_on_the_same_text():
    sentences = random_sentences(LENGTHS, 100, 512, np.random.default_rng(0))
    assert sum(map(len, sentences)) == 100
    flat = [i for sentence in sentences for i in sentence]
    for batch in (
        token_batch(sentences, 41),
        token_batch(sentences, 2048),
        sllm_batch(sentences),
        vae_batch(sentences),
    ):
        assert batch["input_ids"][batch["attention_mask"]].tolist() == flat
    assert token_batch(sentences, 41)["input_ids"].shape == (3, 34)  # even windows: little padding


def test_rows_of_training_and_memory():
    rows = measure_training(BUILD, LENGTHS, StepSize(64, "fp32", "cpu", 1), Machine(torch.float32, "cpu"))
    assert [row.model for row in rows] == ["OPT tiny", "autoencoder tiny", "SLLM tiny"]
    assert all((row.tokens_per_second or 0) > 0 and row.extra["mfu"] > 0 for row in rows)
    assert rows[0].extra["speed_ratio"] == 1
    rows = measure_memory(BUILD, LENGTHS, 20, "fp32", "cpu")
    assert [row.extra["text_tokens"] for row in rows] == [4 * sum(LENGTHS)] * 2
    assert all(row.extra["peak_megabytes"] > 0 for row in rows)


@pytest.mark.filterwarnings("ignore:rule .sentence. found no Punkt model")
def test_rules_cut_the_same_text():
    texts = ["He said, no.\nThen he left! Did he?", "Yes, no. Yes."]
    found = lengths_by_rule(texts, make_processor())
    assert list(found) == list(RULES)
    assert {sum(lengths) for lengths in found.values()} == {sum(map(len, texts))}  # a token is a byte here
    assert found["auto"] == found["punctuation"]
    assert len(found["line"]) < len(found["sentence"]) < len(found["punctuation"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counted_bytes_are_those_of_a_real_cache(dtype):
    """Of the trunk and of the sentence decoder, after writing."""
    build = Build("tiny", 512, num_memory_states=3, num_memory_tokens=5)
    opt, name = build.lm().to(dtype).eval(), "bf16" if dtype == torch.bfloat16 else "fp32"
    plain, *by_rule = measure_cache(build, {"line": [8, 4], "sentence": [2]}, name)
    ids = torch.tensor([[2, *range(10, 20)]])
    cache = opt(ids, past_key_values=DynamicCache(config=opt.config), use_cache=True).past_key_values
    assert plain.kv_bytes_per_token == cache_bytes(cache) / 11
    sllm = build.sllm(opt).to(dtype)
    sllm.replay([6], itertools.repeat(0))
    output = sllm.generate(torch.tensor([[[10] * 6] * 4]), max_new_tokens=12, min_new_tokens=12)
    held = output.past_key_values
    for row, tokens in zip(by_rule, (6, 2), strict=True):
        assert row.kv_bytes_per_token == cache_bytes(held) / held.get_seq_length() / tokens
        assert row.extra["kv_ratio"] == pytest.approx(1 / tokens)
        assert row.extra["sentences_per_1000_tokens"] == pytest.approx(1000 / tokens)
    state = sllm.prefill(**vars(pad_sentences([[[10] * 6]], PAD)))
    written = sllm.start_sentence(state)
    sllm.autoencoder.decoder.read(sllm.get_input_embeddings()(torch.tensor([[2]])), written)
    held_by_decoder = [*written.cache.layers.values(), *(memory.keys_values for memory in written.memories or [])]
    assert by_rule[0].extra["fixed_cache_bytes"] == sum(t.nbytes for pair in held_by_decoder for t in pair)


def test_growth_is_read_where_contexts_are_reached():
    contexts, room = [20, 40, 300], dict(max_position_embeddings=400)
    text = random_sentences(LENGTHS, 300, 260, np.random.default_rng(0))
    by_token = read_tokens(make_opt(**room), text, contexts)
    for pieces in (by_token, read_sentences(make_sllm(**MEMORY, opt=room), text)):
        found = growth(pieces, contexts, "cpu")
        for (tokens, *_), context in zip(found, contexts, strict=True):
            assert context <= tokens < context + max(LENGTHS)
        few, more, many = (held for _, held, _ in found)
        assert few < more < many


def test_rows_of_resident_memory():
    with pytest.raises(ValueError, match="two at least"):
        measure_resident(BUILD, LENGTHS, [64], "fp32", "cpu")
    with pytest.raises(ValueError, match="--dtype fp32"):
        measure_resident(BUILD, LENGTHS, [64, 128], "bf16", "cpu")
    opt, sllm = measure_resident(BUILD, LENGTHS, [256, 512], "fp32", "cpu")
    assert {"resident_bytes_per_token", "resident_over_counted"} <= set(opt.extra) & set(sllm.extra)
    assert 2 * (sllm.kv_bytes_per_token or 0) < (opt.kv_bytes_per_token or 0)


def test_the_steady_rate_leaves_the_prompt_out():
    arrivals = Arrivals(moments=[(0.0, 0), (1.0, 4), (2.0, 10), (3.0, 14)])
    assert arrivals.steady_rate == 5
    assert Arrivals(moments=[(0.0, 0), (1.0, 4)]).steady_rate is None


def test_rows_of_generation(monkeypatch):
    machine = Machine(torch.float32, "cpu")
    opt = BUILD.lm().eval()
    sllm = BUILD.sllm(opt).eval()
    opt.config.max_position_embeddings = 40
    tree = DraftTree(((0,), (1,), (0, 0)))
    ways = [Acceptance("3 heads", 3, [2, 0]), Acceptance("tree", 3, [2, 1], tree)]
    contest = Contest(BUILD, opt, sllm, LENGTHS, ways, machine, 1)
    measure = lambda *case: measure_generation(contest, Case(*case), dict(dtype="fp32"))  # noqa: E731
    rows = {row.model: row for row in measure(20, 16, 1)}
    drafting = ["3 heads", "tree", "auto", "auto, nothing accepted"]
    assert list(rows) == ["OPT tiny", "SLLM tiny", *(f"SLLM tiny, {way}" for way in drafting)]
    assert rows["SLLM tiny, tree"].extra["tokens_per_forward"] > 1.5
    assert 0 < (rows["SLLM tiny"].kv_bytes_per_token or 0) < (rows["OPT tiny"].kv_bytes_per_token or 0)
    assert rows["SLLM tiny, 3 heads"].extra["tokens_per_forward"] > 1.3
    both = {row.model: row.extra for row in measure(8, 8, 2)}
    assert [extra["batch_size"] for extra in both.values()] == [2] * 6
    for name in ("OPT tiny", "SLLM tiny"):
        limit = sum(v for k, v in both[name].items() if k.startswith("limit_ms"))
        assert both[name]["of_limit"] == pytest.approx(limit / both[name]["milliseconds_per_token"])
        # one text's limit leaves the prompt out, so it is nearer than all its seconds say
        limit = sum(v for k, v in rows[name].extra.items() if k.startswith("limit_ms"))
        assert rows[name].extra["of_limit"] > 0.8 * limit / rows[name].extra["milliseconds_per_token"]
    settings = dict(cache_implementation="static", disable_compile=True)
    monkeypatch.setattr("lmbase.benchmarking.timing.compile_settings", lambda device: settings)
    rows = {row.model: row for row in measure_generation(replace(contest, compiled=True), Case(8, 8, 1), {})}
    assert len(rows) == 2 * (2 + len(drafting))
    assert "plain_ratio" not in rows["OPT tiny, compiled"].extra
    assert {"speed_ratio", "plain_ratio", "of_limit"} <= set(rows["SLLM tiny, compiled"].extra)
    assert rows["SLLM tiny, compiled"].kv_bytes_per_token == rows["SLLM tiny"].kv_bytes_per_token
    assert rows["SLLM tiny, tree, compiled"].extra["tokens_per_forward"] > 1.5
    beyond = measure(32, 16, 1)
    assert beyond[0].tokens_per_second is None
    assert beyond[0].extra["note"] == "has 40 positions"
    assert "speed_ratio" not in beyond[1].extra
