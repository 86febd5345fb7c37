"""What drafting is said to bring is what it brings: rates, trees, losslessness, memory, replayed acceptance."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny import make_mtp

from lmbase.files import verify_folder, write_folder
from lmbase.modeling.losses import CHUNK_ROWS
from lmbase.modeling.trunk import new_config
from lmbase.report.rows import Row, write_metrics
from lmbase.text.tokenizers import load_tokenizer
from multitoken import DraftTree, MultiTokenLM, MultiTokenLMConfig, draft_loop
from multitoken.benchmarks.losslessness import compare_texts, differences, sampling_test
from multitoken.benchmarks.measuring import (
    PLAIN,
    Way,
    accepted_counts,
    candidate_rates,
    compare_speed,
    save_tree,
    spread_prompts,
    ways_of,
    write,
)
from multitoken.benchmarks.replaying import Replay, ReplayedLM, measure_replay, read_acceptance
from multitoken.benchmarks.training_cost import Setting, measure_heads, step_memory, step_memory_here
from multitoken.speculation import SpeculationStatistics

TREE = DraftTree(((0,), (1,), (0, 0), (0, 1), (1, 0)))
PROMPTS = [[2, 10, 11, 12], [2, 30, 31, 32], [2, 50, 52, 54]]


@pytest.fixture(scope="module")
def counter():
    """A model that has learned to count, so that some guesses come true."""
    torch.manual_seed(0)
    model = make_mtp(opt=dict(vocab_size=64, max_position_embeddings=48)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        start = torch.randint(4, 64, (16, 1))
        ids = 4 + (start - 4 + torch.arange(12) * (1 + start % 2)) % 60
        model(ids, torch.ones_like(ids, dtype=torch.bool), torch.zeros(16, dtype=torch.bool)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def always_the_same(order: list[int]) -> MultiTokenLM:
    """Whatever it reads, every head ranks the tokens of `order` first, in this order."""
    model = make_mtp(own_unembeddings=True, opt=dict(vocab_size=16)).double()
    with torch.no_grad():
        model.final_layer_norm.weight.zero_()
        model.final_layer_norm.bias.fill_(1.0)
        for i in range(1, 4):
            model.unembedding(i).fill_(-1.0)
            for rank, token in enumerate(order):
                model.unembedding(i)[token] = 1.0 / (1 + rank)
    return model


def accept_everything(tree, draft_ids, chosen_ids):
    rows = [0]
    while tree.children[rows[-1]]:
        rows.append(tree.children[rows[-1]][0])
    return rows


# -- rates and trees ---------------------------------------------------------------------------------------------------


def test_rates_of_a_model_that_always_ranks_alike():
    model = always_the_same([7, 9, 5])
    with torch.no_grad():  # for head 2, the token that head 1 writes is the third choice
        table = model.unembedding(2)
        table[[7, 5]] = table[[5, 7]].clone()
    written = write(model, PROMPTS[:1], PLAIN, 1, 6).ids
    assert written == [[7] * 6]
    rates = candidate_rates(model, [[2, 3, 4]], written, num_ranks=4)
    assert rates == [[0, 0, 1, 0], [1, 0, 0, 0]]
    tree = DraftTree.from_acceptance(rates, 4)
    assert set(tree.paths) == {(2,), (2, 0)}
    found = write(model, [[2, 3, 4]], Way("tree", 3, tree), 1, 10)
    assert found.ids == [[7] * 10]
    assert found.statistics.tokens_per_forward == 3


def test_rates_are_those_that_verifying_finds(counter):
    """Rank 0 of head 2, position by position: a draft of one guess begun there is accepted or not."""
    written = write(counter, PROMPTS, PLAIN, 3, 12).ids
    accepted = []
    for prompt, new in zip(PROMPTS, written, strict=True):
        for stop in range(len(new) - 1):
            begun = torch.tensor([prompt + new[:stop]])
            output = counter.generate(begun, max_new_tokens=3, min_new_tokens=3, num_draft=2)
            accepted.append(output.statistics.accepted[0])
    rates = candidate_rates(counter, PROMPTS, written)
    assert rates[0][0] == pytest.approx(sum(accepted) / len(accepted))
    assert 0 < rates[0][0] < 1
    assert len(rates) == 2
    assert all(sum(row) <= 1 + 1e-6 for row in rates)


def test_a_saved_tree_is_loaded_and_used_and_the_folder_still_verifies(counter, tmp_path):
    folder = tmp_path / "run" / "model"
    write_folder(folder, counter.save_pretrained)
    save_tree(folder, TREE)
    verify_folder(folder)
    model = MultiTokenLM.from_pretrained(folder)
    assert DraftTree(tuple(map(tuple, model.config.draft_tree))).nodes == TREE.nodes
    for way in (PLAIN, Way("tree", 3, DraftTree(tuple(map(tuple, model.config.draft_tree))))):
        assert write(model, PROMPTS, way, 1, 12).ids == write(counter, PROMPTS, PLAIN, 1, 12).ids
    shallow = DraftTree(((0,), (1,)))
    for tree in (TREE, shallow):  # `auto` takes the tree of the configuration
        save_tree(folder, tree)
        verify_folder(folder)
        output = MultiTokenLM.from_pretrained(folder).generate(torch.tensor(PROMPTS), max_new_tokens=20)
        assert len(output.statistics.offered) == tree.depth

    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(ValueError, match="bytes instead of"):
        save_tree(folder, TREE)
    with pytest.raises(ValueError, match="no folder with a model"):
        save_tree(tmp_path, TREE)


def test_a_tree_is_saved_in_a_folder_without_manifest(counter, tmp_path):
    counter.save_pretrained(tmp_path)
    save_tree(tmp_path, TREE)
    assert len(MultiTokenLM.from_pretrained(tmp_path).config.draft_tree) == len(TREE.paths)
    assert not (tmp_path / "manifest.json").exists()


def test_prompts_are_spread_over_texts_and_within_them():
    tokenizer = load_tokenizer("bytes")
    texts = ["short", "".join(chr(97 + i) for i in range(20)), "x", "".join(chr(65 + i) for i in range(20))]
    prompts = spread_prompts(tokenizer, texts, 4, 10, 2)
    decoded = [tokenizer.decode(prompt[1:]) for prompt in prompts]
    assert decoded == ["abcdefghij", "fghijklmno", "ABCDEFGHIJ", "FGHIJKLMNO"]
    assert {prompt[0] for prompt in prompts} == {2}
    assert [tokenizer.decode(p[1:2]) for p in spread_prompts(tokenizer, texts, 1, 10, 2)] == ["a"]
    with pytest.raises(ValueError, match="no text of 4 is that long"):
        spread_prompts(tokenizer, texts, 4, 30, 2)


# -- losslessness ------------------------------------------------------------------------------------------------------


def test_every_way_is_found_lossless(counter):
    ways = ways_of(3, TREE)
    assert [way.name for way in ways] == ["plain", "2 heads", "3 heads", "tree", "auto", "auto tree"]
    compared = compare_texts(copy.deepcopy(counter), PROMPTS, ways, [1, 2], 12, ["fp32", "fp64"])
    assert set(compared) == {(way.name, size) for way in ways for size in (1, 2)}
    assert {entry.verdict for entry in compared.values()} == {"yes"}
    found = compared["3 heads", 2].statistics
    assert sum(accepted_counts(found)) == found.offered[0]
    assert sum(n * times for n, times in enumerate(accepted_counts(found))) == sum(found.accepted) > 0


def test_a_lossy_decoder_is_found_out(counter, monkeypatch):
    monkeypatch.setattr(draft_loop, "verify", accept_everything)
    ways = ways_of(3, None)
    compared = compare_texts(copy.deepcopy(counter), PROMPTS, ways, [1], 12, ["fp32", "fp64", "bf16"])
    assert compared["plain", 1].verdict == "yes"
    lossy = compared["3 heads", 1]
    assert "differ in fp64" in lossy.verdict
    assert "differ in fp32" in lossy.verdict
    assert "bf16" not in lossy.verdict
    assert all((d.gap or 1) > 1e-4 and d.plain != d.drafted for d in lossy.faults("fp32"))


def test_only_logits_that_are_close_make_a_tie():
    model = always_the_same([7, 9])
    with torch.no_grad():
        model.unembedding(1)[9] = model.unembedding(1)[7]
    (tie,) = differences(model, [[2, 3]], [[7, 7]], [[7, 9]])
    assert (tie.position, tie.plain, tie.drafted, tie.is_tie) == (1, 7, 9, True)
    (third,) = differences(model, [[2, 3]], [[7]], [[5]])  # the two highest are level, but 5 is neither
    assert not third.is_tie
    (over,) = differences(model, [[2, 3]], [[7]], [[]])
    assert not over.is_tie


@pytest.mark.parametrize("way", [Way("3 heads", 3), Way("tree", 3, TREE)], ids=lambda way: way.name)
def test_sampled_texts_are_the_models_or_found_out(way, monkeypatch):
    model = make_mtp(opt=dict(vocab_size=8, max_position_embeddings=16))
    found = sampling_test(model, [2, 5], way, 1.0, 900, num_ranks=4, seed=1)
    assert found.num_cells > 10
    assert found.verdict == "yes"
    monkeypatch.setattr(draft_loop, "verify", accept_everything)
    assert sampling_test(model, [2, 5], way, 1.0, 900, num_ranks=4, seed=1).verdict.startswith("NO: p = ")


def test_a_certain_model_cannot_be_tested_by_drawing():
    found = sampling_test(always_the_same([7]), [2, 5], Way("2 heads", 2), 0.01, 50)
    assert (found.p_value, found.verdict) == (None, "not tested")


# -- speed -------------------------------------------------------------------------------------------------------------


def test_speed_is_relative_to_plain_decoding(counter):
    speeds = compare_speed(counter, PROMPTS, ways_of(3, None), 2, 8, 2)
    assert set(speeds) == {"plain", "2 heads", "3 heads", "auto"}
    assert set(speeds["plain"].columns.values()) == {1}
    assert speeds["plain"].break_even == 1
    assert all(speed.break_even > 0 and speed.tokens_per_second > 0 for speed in speeds.values())


def replayed(**options) -> ReplayedLM:
    shape = dict(hidden_size=64, feed_forward=64, num_hidden_layers=2, num_attention_heads=2)
    lm = new_config("opt", vocab_size=300, max_position_embeddings=128, **shape | options)
    config = MultiTokenLMConfig.matching(lm, 1)
    config.num_future_tokens = 3
    torch.manual_seed(0)
    return ReplayedLM(config).eval()


@pytest.mark.parametrize(
    "options", [{}, dict(word_embed_proj_dim=32, do_layer_norm_before=False)], ids=["125M", "350M"]
)
@pytest.mark.parametrize("tree", [None, TREE], ids=["chain", "tree"])
def test_replayed_drafts_accept_as_many_guesses_as_told(options, tree):
    model = replayed(**options)
    model.replay([0, 2, 1])
    output = model.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=61, min_new_tokens=61, num_draft=3, tree=tree)
    assert output.statistics.tokens_per_forward == 2
    assert accepted_counts(output.statistics) == [10, 10, 10]
    model.replay([2])
    plain = model.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=9, num_draft=1)
    opt: Any = model.to_lm()
    expected = opt.generate(torch.tensor([[2, 7, 8]]), max_new_tokens=9, do_sample=False)
    assert torch.equal(plain.sequences, expected)  # nothing is replaced where nothing is drafted


def drafting_rows() -> list[Row]:
    chain = dict(way="3 heads", num_draft=3, batch_size=1, accepted_counts=[2, 1, 1])
    tree = dict(way="tree", num_draft=3, batch_size=1, accepted_counts=[0, 3, 3], draft_tree=[[0], [1], [0, 0]])
    auto = dict(way="auto", num_draft="auto", batch_size=1, accepted_counts=[9, 0], draft_tree=[[0], [0, 0]])
    auto_tree = dict(tree, way="auto tree", num_draft="auto", accepted_counts=[8, 0])
    more = dict(chain, batch_size=8, accepted_counts=[100, 0, 0])
    return [Row("small", protocol="drafting", extra=extra) for extra in (chain, tree, auto, auto_tree, more)]


def test_acceptance_is_read_from_what_drafting_wrote_and_replayed(tmp_path, monkeypatch):
    write_metrics(tmp_path, drafting_rows(), config={}, seed=0, wall_seconds=1, corpus=None)
    drafts = read_acceptance(str(tmp_path))
    assert (drafts.model, drafts.num_future_tokens, drafts.draft_transitions) == ("small", 3, False)
    assert {way.way: sorted(way.counts) for way in drafts.ways} == {
        "3 heads": [0, 0, 1, 2],
        "tree": [1, 1, 1, 2, 2, 2],
        "auto": [0, 0, 1, 2],  # what the longest draft found
        "auto tree": [1, 1, 1, 2, 2, 2],
    }
    replay = Replay(2, 41, 1, "fp32", "cpu")
    rows = measure_replay(replayed(), "tiny", drafts.ways, replay, drafts.model)
    assert {row.protocol for row in rows} == {"replay 2+41, acceptance of small"}
    found = {row.extra["way"]: row for row in rows}
    assert set(found) == {"Transformers", "plain", "3 heads", "tree", "auto", "auto tree", "auto, nothing accepted"}
    assert found["plain"].extra["tokens_per_forward"] == 1
    assert found["tree"].extra["tokens_per_forward"] == pytest.approx(2.5, abs=0.2)
    assert found["auto, nothing accepted"].extra["tokens_per_forward"] == 1
    assert found["Transformers"].extra["speed_ratio"] == found["plain"].extra["plain_ratio"] == 1
    settings = dict(cache_implementation="static", disable_compile=True)
    monkeypatch.setattr("lmbase.benchmarking.timing.compile_settings", lambda device: settings)
    rows = measure_replay(replayed(), "tiny", drafts.ways[:1], replace(replay, compiled=True), drafts.model)
    both = {row.extra["way"]: row.extra.get("tokens_per_forward") for row in rows}
    ways = ["Transformers", "plain", "3 heads", "auto, nothing accepted"]
    assert list(both) == ways + [f"{way}, compiled" for way in ways]
    assert both["3 heads, compiled"] == both["3 heads"]


def test_acceptance_of_another_recipe_is_refused(tmp_path):
    write_metrics(tmp_path, [Row("a", protocol="train")], config={}, seed=0, wall_seconds=1, corpus=None)
    with pytest.raises(ValueError, match="no drafts of single texts"):
        read_acceptance(str(tmp_path))
    assert accepted_counts(SpeculationStatistics()) == []


# -- the cost of training ----------------------------------------------------------------------------------------------


def test_naive_memory_grows_with_heads_and_ours_does_not():
    tokens, vocabulary = 2048, 4096
    logits = tokens * vocabulary * 4
    # each in a process of its own: in this one, memory that earlier tests left would be taken for free, or not
    found = {n: step_memory(Setting("tiny", 3, n, vocabulary, tokens, "fp32", "cpu")) for n in (1, 3)}
    growth = {loss: found[3][loss].peak_bytes - found[1][loss].peak_bytes for loss in ("ours", "naive")}
    assert growth["naive"] > 2 * logits  # two heads' logits and their log-probabilities
    assert growth["ours"] < logits / 2
    assert found[3]["naive"].peak_bytes > 1.3 * found[3]["ours"].peak_bytes
    assert found[3]["ours"].largest_vocabulary_bytes == CHUNK_ROWS["cpu"] * vocabulary * 4


def test_rows_of_heads_have_times_beside_operations(monkeypatch):
    monkeypatch.setattr("multitoken.benchmarks.training_cost.step_memory", step_memory_here)
    settings = [Setting("tiny", 2, n, 512, 64, "fp32", "cpu") for n in (1, 2)]
    one, two = measure_heads(settings, 2)
    assert one.extra["time_ratio"] == one.extra["flops_ratio"] == 1
    # parameter-matched: a second head adds nothing but its product with the vocabulary
    blocks = one.extra["step_flops"] - 3 * 2 * 64 * 512 * 128
    assert two.extra["step_flops"] - blocks == pytest.approx(2 * 3 * 2 * 64 * 512 * 128)
    assert one.parameters == two.parameters
    assert two.extra["time_over_flops_ratio"] == pytest.approx(two.extra["time_ratio"] / two.extra["flops_ratio"])
    with pytest.raises(ValueError, match="as many heads at most"):
        measure_heads([Setting("tiny", 2, 3, 512, 64, "fp32", "cpu")], 1)
    with pytest.raises(ValueError, match="rounds=0"):
        measure_heads(settings, 0)
