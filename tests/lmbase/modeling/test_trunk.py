"""Trunks of every family through one table: the same parts, the same positions, the same states as in the model."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import LM_WIDTH, LMS, make_lm, make_opt
from transformers import DynamicCache
from transformers.testing_utils import CaptureLogger
from transformers.utils.logging import get_logger

from lmbase.modeling.cache import RowCache
from lmbase.modeling.devices import moved
from lmbase.modeling.pretrained import load_lm, read_config
from lmbase.modeling.stages import BlockRunner
from lmbase.modeling.trunk import (
    COMMON_SIZES,
    FAMILIES,
    OPT_SIZES,
    as_config,
    blocks,
    check_trunk,
    drop_table,
    input_table,
    key_value_shape,
    new_block,
    new_trunk,
    output_table,
    random_config,
    run_trunk,
    special_ids,
    take_tail,
    trunk_of,
    vector_heads,
    vector_width,
    with_layers,
)
from multitoken import MultiTokenLM
from sllm import SLLM

LONG = dict(rope_type="longrope", rope_theta=1e4, short_factor=[1.0] * 64, long_factor=[4.0] * 64, factor=4.0)
IDS = torch.tensor([[2, 10, 11, 12, 13], [2, 20, 21, 22, 23]])
every = pytest.mark.parametrize("shape", LMS)


def run(lm, ids, mask=None, cache=None):
    """Logits of a model by way of its trunk."""
    vectors = torch.nn.functional.embedding(ids, input_table(lm))
    mask = torch.ones_like(ids) if mask is None else mask
    return run_trunk(trunk_of(lm), vectors, mask, cache) @ output_table(lm).T


def causal(size):
    return torch.ones(1, 1, size, size, dtype=torch.bool).tril()


# -- random weights ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["tiny", "small", "bytes", *(f"{family}-tiny" for family in FAMILIES), *OPT_SIZES])
def test_names_of_random_weights(spec):
    config = random_config(f"random:{spec}", vocab_size=300, max_positions=64)
    family, size = spec.split("-")[0] if "-" in spec else "opt", (COMMON_SIZES | OPT_SIZES).get(spec)
    size = size or COMMON_SIZES["tiny"]
    assert config.model_type == family
    assert (config.vocab_size, config.max_position_embeddings) == (300, 64)
    assert config.num_hidden_layers == size["num_hidden_layers"]
    assert getattr(config, FAMILIES[family].feed_forward) == size["feed_forward"]
    assert vector_width(config) == size.get("word_embed_proj_dim", size["hidden_size"])
    assert special_ids(config) == (1, 2, 2)
    assert check_trunk(config, "it") is config


def test_a_trunk_that_kept_a_window_reads_everything_inside_a_model_and_that_is_told():
    lm = make_opt()
    lm.config.keep_window = 4
    for make in (SLLM.graft_own_layers, MultiTokenLM.from_lm):
        with CaptureLogger(get_logger("transformers.lmbase.modeling.trunk")) as log:
            model = make(lm)
        assert "keeps a window of tokens" in log.out
        assert not hasattr(model.config.trunk, "keep_window")
    assert lm.config.keep_window == 4


@pytest.mark.parametrize("family", ["opt", "gpt2", "llama", "qwen3"])
@pytest.mark.parametrize(("width", "heads"), [(300, 5), (128, 2), (96, 2), (22, 1)])
def test_sizes_of_ones_own(family, width, heads):
    lm = load_lm(f"random:{'' if family == 'opt' else family + '-'}{width}x3", vocab_size=260, max_positions=32)
    assert (vector_width(lm.config), len(blocks(trunk_of(lm)))) == (width, 3)
    assert getattr(lm.config, lm.config.attribute_map.get("num_attention_heads", "num_attention_heads")) == heads
    assert lm(IDS).logits.isfinite().all()


def test_a_width_without_heads_is_refused():
    with pytest.raises(ValueError, match="a width of 301 has no heads of even width"):
        random_config("random:301x6", vocab_size=260, max_positions=32)


@pytest.mark.parametrize(
    "name", ["huge", "llama", "llama-huge", "bert-tiny", "llama-opt-125m", "", "-tiny", "0x3", "64x0"]
)
def test_other_names_are_refused(name):
    with pytest.raises(
        ValueError, match=rf"sizes tiny, small, bytes.* as WIDTHxLAYERS .*families {', '.join(FAMILIES)} as in"
    ):
        load_lm(f"random:{name}")


@pytest.mark.parametrize("family", [family for family in FAMILIES if family != "opt"])
def test_random_weights_of_other_families(family):
    """They repeat, drop nothing out, and share keys and values between heads where the family does."""
    first, again = (load_lm(f"random:{family}-tiny", vocab_size=260, max_positions=32) for _ in range(2))
    assert torch.equal(first(IDS).logits, again(IDS).logits)
    assert torch.equal(first.train()(IDS).logits, again(IDS).logits)
    heads, _ = key_value_shape(first.config)
    assert heads == {"gpt2": 4, "llama": 2, "qwen2": 2, "qwen3": 2}.get(family, heads)


# -- loading -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
@every
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_saved_and_loaded_is_the_same(shape, tied, tmp_path):
    dropouts = dict.fromkeys(FAMILIES[LMS[shape]["family"]].dropouts, 0.5)
    lm = make_lm(shape, tie_word_embeddings=tied, **dropouts)
    with torch.no_grad():
        for weight in lm.parameters():
            weight.copy_(weight.bfloat16())
    moved(copy.deepcopy(lm), dtype=torch.bfloat16).save_pretrained(tmp_path)
    loaded = load_lm(str(tmp_path))
    assert {p.dtype for p in loaded.parameters()} == {torch.float32}
    torch.testing.assert_close(loaded(IDS).logits, lm(IDS).logits)
    assert torch.equal(loaded.train()(IDS).logits, loaded.eval()(IDS).logits), "nothing is dropped out"
    assert read_config(str(tmp_path)).to_dict()["model_type"] == LMS[shape]["family"]


@every
def test_a_folder_that_lacks_a_weight_is_refused(shape, tmp_path):
    make_lm(shape).save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    gone = sorted(name for name in weights if "norm" in name or "ln_" in name)[0]
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights, {gone} the first"):
        load_lm(str(tmp_path))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (dict(model_type="gptj"), "family 'gptj', which is not known.*opt, gpt2, llama"),
        (dict(model_type="t5"), r"encoder-decoder model \(t5\); a decoder-only one is needed"),
        (dict(model_type="bert"), "family 'bert', which is not known"),
        (dict(model_type="gpt2", add_cross_attention=True), "has cross-attention"),
        (
            dict(
                model_type="qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1, num_hidden_layers=2
            ),
            "attends within sliding windows",
        ),
        (dict(model_type="llama", rope_parameters=LONG), "rotates all positions otherwise once a text is long"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_models_that_are_no_trunks_are_refused(fields, message, tmp_path):
    """Before any weight is looked for: there is none here."""
    (tmp_path / "config.json").write_text(json.dumps(fields))
    with pytest.raises(ValueError, match=message):
        load_lm(str(tmp_path))


# -- shapes and ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (dict(pad_token_id=1, bos_token_id=0, eos_token_id=2), (1, 0, 2)),
        (dict(pad_token_id=None, bos_token_id=0, eos_token_id=2), (2, 0, 2)),
        (dict(pad_token_id=1, bos_token_id=None, eos_token_id=[7, 2]), (1, 7, 7)),
        (dict(pad_token_id=0, bos_token_id=0, eos_token_id=0), (0, 0, 0)),
    ],
)
def test_ids_that_frame_a_text(ids, expected):
    assert special_ids(make_lm("qwen2", **ids).config) == expected


@pytest.mark.parametrize("end", [None, []], ids=str)
def test_a_model_without_an_end_is_refused(end):
    config = make_lm("llama").config
    config.eos_token_id = end
    with pytest.raises(ValueError, match="this llama has no eos_token_id"):
        special_ids(config)


@every
def test_widths_and_heads_are_those_of_the_weights(shape):
    lm = make_lm(shape)
    config, trunk = lm.config, trunk_of(lm)
    assert vector_width(config) == input_table(trunk).shape[1] == LM_WIDTH
    assert vector_heads(config) == (2 if shape == "opt-350m" else 4)  # 64 wide, with heads for 32
    cache = RowCache(2, 5, torch.device("cpu"))
    trunk(IDS, attention_mask=causal(5), position_ids=torch.arange(5).expand(2, 5), past_key_values=cache)
    keys, _ = cache.layers[0]
    assert key_value_shape(config) == (keys.shape[1], keys.shape[3])
    grouped = shape in ("llama", "qwen2", "qwen3")
    assert key_value_shape(config) == (2 if grouped else 4, 16 if shape in ("opt-350m", "qwen3") else 8)


@pytest.mark.parametrize(("width", "heads"), [(512, 8), (1024, 16), (24, 1), (96, 1), (65, 1)])
def test_heads_of_a_vector_are_as_wide_as_the_trunks_where_they_fill_it(width, heads):
    config = make_opt().config
    config.hidden_size, config.num_attention_heads, config.word_embed_proj_dim = 1024, 16, width
    assert vector_heads(config) == heads


@every
@pytest.mark.parametrize("number", [0, 1, 2, 5])
def test_another_number_of_blocks(shape, number):
    """As many blocks, a configuration that can be saved, and the given one untouched."""
    config = make_lm(shape).config
    changed = with_layers(config, number)
    trunk = new_trunk(changed)
    assert len(blocks(trunk)) == number
    assert config.num_hidden_layers == 2
    assert as_config(changed.to_dict()).to_dict() == changed.to_dict()
    assert torch.isfinite(run_trunk(trunk, torch.randn(1, 3, LM_WIDTH), torch.ones(1, 3).long())).all()


def test_nested_configurations_are_copied_or_made():
    config = make_lm("qwen3").config
    copied = as_config(config)
    assert copied is not config
    assert copied.to_dict() == config.to_dict()
    assert as_config(dict(hidden_size=8)).model_type == "opt", "the only one that folders of earlier versions held"
    assert as_config(None).model_type == "opt"


# -- parts -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
@every
def test_a_trunk_makes_the_models_states(shape):
    lm = make_lm(shape)
    torch.testing.assert_close(run(lm, IDS), lm(IDS).logits)
    cache = DynamicCache(config=lm.config)
    first = run(lm, IDS[:, :2], cache=cache)
    rest = run(lm, IDS[:, 2:], torch.ones_like(IDS), cache)
    torch.testing.assert_close(torch.cat([first, rest], dim=1), lm(IDS).logits)


@torch.no_grad()
@every
def test_positions_are_counted_without_padding(shape):
    lm = make_lm(shape)
    ids = torch.tensor([[1, 1, 2, 10, 11], [2, 20, 21, 22, 23]])
    mask = (torch.arange(5) >= torch.tensor([[2], [0]])).long()
    together, alone = run(lm, ids, mask), run(lm, ids[:1, 2:])
    torch.testing.assert_close(together[:1, 2:], alone)
    cache = DynamicCache(config=lm.config)
    run(lm, ids[:, :3], mask[:, :3], cache)
    torch.testing.assert_close(run(lm, ids[:, 3:], mask, cache)[:1], alone[:, 1:])


@torch.no_grad()
@every
def test_states_in_bf16_are_near(shape):
    """On a CPU products take the place of the fused kernel there, also where heads share keys and values."""
    lm = make_lm(shape)
    mask = torch.tensor([[0, 1, 1, 1, 1], [1, 1, 1, 1, 1]])
    expected = run(lm, IDS, mask).clone()
    found = run(moved(lm, dtype=torch.bfloat16), IDS, mask).float()
    assert found.dtype == torch.float32
    seen = mask.bool()
    assert (found - expected)[seen].norm() < 0.05 * expected[seen].norm()


@torch.no_grad()
@every
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [False, True], ids=["no mask", "mask"])
def test_blocks_run_by_hand_are_those_in_the_trunk(shape, attention, masked):
    """All blocks one after the other, then norm and projection, which were taken off."""
    lm = make_lm(shape, num_hidden_layers=3)
    lm.set_attn_implementation(attention)
    trunk = trunk_of(lm)
    vectors = torch.nn.functional.embedding(IDS, input_table(trunk))
    whole = trunk(inputs_embeds=vectors).last_hidden_state
    entered: list[torch.Tensor] = []
    hook = blocks(trunk)[0].register_forward_pre_hook(lambda module, inputs: entered.append(inputs[0]))
    trunk(inputs_embeds=vectors)
    hook.remove()
    norm, projection = take_tail(trunk)
    assert (norm is None, projection is None) == (shape == "opt-350m", shape != "opt-350m")
    mask = causal(5) if masked or attention == "eager" else None
    if mask is not None and attention == "eager":  # which adds it
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    runner = BlockRunner(trunk, entered[0], mask, torch.arange(5).expand(2, 5), None)
    x = entered[0]
    for block in blocks(trunk):
        x = runner(block, x)
    torch.testing.assert_close(trunk(inputs_embeds=vectors).last_hidden_state, x)
    for layer in (norm, projection):
        x = x if layer is None else layer(x)
    torch.testing.assert_close(x, whole)


@torch.no_grad()
@every
def test_a_new_block_is_one_like_the_trunks(shape):
    """With the weights of the last, in its place, it makes the states of the last."""
    lm = make_lm(shape, num_hidden_layers=3)
    trunk = trunk_of(lm)
    block = new_block(trunk, 2)
    last = blocks(trunk)[2]
    block.load_state_dict(last.state_dict())
    assert all(module.config is trunk.config for module in block.modules() if hasattr(module, "config"))
    x, positions = torch.randn(2, 5, trunk.config.hidden_size), torch.arange(5).expand(2, 5)
    cache = RowCache(2, 5, torch.device("cpu"))
    runner = BlockRunner(trunk, x, causal(5), positions, cache)
    assert torch.equal(runner(block.eval(), x), BlockRunner(trunk, x, causal(5), positions, None)(last, x))
    assert list(cache.layers) == [2]
    assert cache.layers[2][0].abs().sum(-1).all(), "all five rows were written"
    trunk.set_attn_implementation("eager")
    lowest = torch.zeros(1, 1, 5, 5).masked_fill(~causal(5), -torch.inf)
    again = BlockRunner(trunk, x, lowest, positions, None)
    torch.testing.assert_close(again(block, x), again(last, x))


@torch.no_grad()
@every
def test_a_trunk_without_a_table_reads_vectors(shape):
    lm = make_lm(shape)
    trunk = new_trunk(lm.config)
    drop_table(trunk)
    vectors = torch.nn.functional.embedding(IDS, input_table(lm))
    assert all(260 not in weight.shape for weight in trunk.parameters())
    assert not trunk.load_state_dict(trunk_of(lm).state_dict(), strict=False).missing_keys
    expected = run_trunk(trunk_of(lm), vectors, torch.ones_like(IDS))
    assert torch.equal(run_trunk(trunk.eval(), vectors, torch.ones_like(IDS)), expected)


def test_a_trunk_is_its_own_trunk():
    lm = make_lm("llama")
    assert trunk_of(trunk_of(lm)) is trunk_of(lm)


def test_heads_that_are_more_than_a_matrix_are_refused():
    lm = make_lm("gpt2")
    with pytest.raises(ValueError, match="GPT2Model has no vocabulary head"):
        output_table(trunk_of(lm))
    lm.lm_head = torch.nn.Linear(LM_WIDTH, 260)
    with pytest.raises(ValueError, match="GPT2LMHeadModel adds a bias to its logits"):
        output_table(lm)
