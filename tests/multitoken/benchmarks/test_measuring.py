"""What drafting is said to bring is what it brings: rates, trees, prompts, speed."""

import pytest
import torch
from counting import PROMPTS, TREE, always_the_same
from counting import counter as make_counter
from families import make_family_heads, make_lm

from lmbase.files import verify_folder, write_folder
from lmbase.text.tokenizers import load_tokenizer
from multitoken import DraftTree, MultiTokenLM
from multitoken.benchmarks.measuring import (
    PLAIN,
    Way,
    bytes_of_heads,
    candidate_rates,
    compare_speed,
    save_tree,
    spread_prompts,
    time_mtp,
    ways_of,
    write,
)


@pytest.fixture(scope="module")
def counter():
    return make_counter()


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


def test_speed_is_relative_to_plain_decoding(counter):
    speeds = compare_speed(counter, PROMPTS, ways_of(3, None), 2, 8, 2)
    assert set(speeds) == {"plain", "2 heads", "3 heads", "auto"}
    columns = ("speed_ratio", "speed_ratio_low", "speed_ratio_high", "break_even")
    assert {speeds["plain"][name] for name in columns} == {1}
    assert all(speed["break_even"] > 0 and speed["tokens_per_second"] > 0 for speed in speeds.values())


@pytest.mark.parametrize("family", ["opt", "llama"])
@pytest.mark.parametrize("kind", ["parallel", "linear"])
def test_bytes_of_a_position_are_those_of_real_caches_with_and_without_drafts(family, kind):
    """Whatever `auto` happened to draft: plain decoding holds no cache of further heads, drafting holds all of them."""
    model = MultiTokenLM.from_lm(make_lm(family, num_hidden_layers=3), 2, kind).eval()
    for num_draft in (1, 2):
        output = model.generate(torch.tensor([[2, 10, 11]]), max_new_tokens=9, min_new_tokens=9, num_draft=num_draft)
        assert output.cache_bytes == bytes_of_heads(model, drafts=num_draft > 1) * 11


@pytest.mark.parametrize(("options", "drafts"), [({}, True), ({"num_draft": 1}, False), ({"num_copied": 2}, False)])
def test_a_multi_token_model_holds_the_further_heads_cache_where_they_draft(options, drafts):
    model = make_family_heads("llama")
    found = time_mtp(model, "Hello", 7, **options)
    assert found.cache_bytes_per_token == bytes_of_heads(model, drafts)
    assert found.num_cached_tokens == 1 + 5 + 7 - 1
