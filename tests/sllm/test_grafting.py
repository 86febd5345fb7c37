"""Grafts: both parts are copied, and what does not fit is refused."""

from typing import Any

import pytest
import torch
from tiny import CAP, LM_WIDTH, LMS, MEMORY, WIDTH, make_lm, make_opt, make_sllm, make_vae, pad
from transformers import LogitsProcessor

from lmbase.modeling.trunk import input_table, special_ids, trunk_of
from multitoken import MultiTokenLM
from sllm import SLLM

DOCUMENT = [[10 + 7 * k + i for i in range(n)] for k, n in enumerate((4, 1, CAP, 6, 2))]


def test_the_graft_copies_both_parts():
    vae, opt = make_vae(), make_opt()
    before = {k: v.clone() for k, v in [*vae.state_dict().items(), *opt.state_dict().items()]}
    model = SLLM.graft(vae, opt, max_sentences=16)
    for part, source in ((model.autoencoder, vae), (model.trunk, opt.model)):
        own = part.state_dict()
        assert all(torch.equal(own[k], v) for k, v in source.state_dict().items() if "decoder.embed_tokens" not in k)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert all(torch.equal(before[k], v) for k, v in [*vae.state_dict().items(), *opt.state_dict().items()])
    assert not vae.config.memory_size


@torch.no_grad()
def test_a_larger_memory_starts_as_the_published_design():
    vae, opt = make_vae(), make_opt()
    plain, memory = (
        SLLM.graft(vae, opt, max_sentences=16).eval(),
        SLLM.graft(vae, opt, max_sentences=16, **MEMORY).eval(),
    )
    torch.testing.assert_close(vars(memory.nats(**pad([DOCUMENT]))), vars(plain.nats(**pad([DOCUMENT]))))


@torch.no_grad()
def test_the_trunk_of_a_language_model_is_as_good_as_all_of_it():
    lm = make_opt()
    whole, part = (SLLM.graft(make_vae(), given, max_sentences=16).state_dict() for given in (lm, lm.model))
    assert all(torch.equal(part[name], weight) for name, weight in whole.items() if name.startswith("trunk."))


def test_a_trunk_of_another_width_than_its_embeddings_works():
    """As OPT-350M: vectors 512 wide, layers 1,024 wide, norms after the layers."""
    narrow = dict(hidden_size=WIDTH, word_embed_proj_dim=8, do_layer_norm_before=False)
    model = make_sllm(vae=dict(hidden_size=8), opt=narrow)
    assert model(**pad([DOCUMENT])).states.shape == (1, len(DOCUMENT) + 1, 8)
    assert model.generate(text="He said", max_new_tokens=5).num_new_tokens[0] <= 5


@pytest.mark.parametrize(
    ("vae", "opt", "options", "message"),
    [
        (dict(hidden_size=8), {}, {}, "8 wide and the trunk reads 16"),  # 350M's autoencoder, 125M's trunk
        ({}, dict(vocab_size=300), {}, "260 vocabulary rows and the trunk 300"),
        ({}, {}, dict(max_sentences=32), "choose 1 to 31"),
        ({}, {}, dict(num_memory_states=0), "num_memory_states=0"),
        ({}, {}, dict(freeze_trunk_layers=3), "choose 0 to 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(vae, opt, options, message):
    with pytest.raises(ValueError, match=message):
        SLLM.graft(make_vae(**vae), make_opt(**opt), **{"max_sentences": 16} | options)


def with_adapters():
    opt = make_opt()
    opt.add_adapter(pytest.importorskip("peft").LoraConfig(r=2, target_modules=["q_proj"]))
    return opt


def rounded():
    opt = make_opt()
    weight = opt.model.decoder.layers[0].fc1.weight
    opt.model.decoder.layers[0].fc1.weight = torch.nn.Parameter(weight.to(torch.int8), requires_grad=False)
    return opt


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: "facebook/opt-125m", "this is a str: load one with AutoModelForCausalLM"),
        (lambda: torch.nn.DataParallel(make_opt()), "this is a DataParallel"),
        (with_adapters, "OPTForCausalLM has adapters"),
        (rounded, r"fc1.weight is torch.int8 on cpu"),
        (lambda: make_opt().to("meta"), "on meta, so it cannot be copied"),
    ],
    ids=["name", "wrapped", "adapters", "rounded", "elsewhere"],
)
def test_what_cannot_be_copied_is_refused(make, message):
    """In every way of making a model of a language model."""
    lm = make()
    own = dict(upper_layers=1, lower_layers=0, lower_window=CAP, upper_window=CAP)
    for graft in (
        lambda: SLLM.graft(make_vae(), lm),
        lambda: SLLM.graft_own_layers(lm, CAP, **own),
        lambda: MultiTokenLM.from_lm(lm, 2),
    ):
        with pytest.raises(ValueError, match=message):
            graft()
    with pytest.raises(ValueError, match="given a OPTForCausalLM where a SentenceVAE belongs"):
        SLLM.graft(make_opt(), make_vae())


class Only(LogitsProcessor):
    def __call__(self, input_ids, scores):
        return torch.full_like(scores, -1e9).index_fill(1, torch.tensor([77]), 0.0)


@pytest.mark.parametrize("way", ["published", "own layers", "heads"])
def test_what_ends_a_turn_of_the_language_model_still_ends_it(way, tmp_path):
    """Models that chat have several ends, some in generation_config.json only; without them they talk to themselves."""
    opt = make_opt(max_position_embeddings=64)
    opt.generation_config.eos_token_id = [2, 77]
    own = dict(upper_layers=1, lower_window=CAP, upper_window=CAP)
    ways: dict[str, Any] = {
        "published": lambda: SLLM.graft(make_vae(), opt, max_sentences=8),
        "own layers": lambda: SLLM.graft_own_layers(opt, CAP, **own),
        "heads": lambda: MultiTokenLM.from_lm(opt, 2),
    }
    model = ways[way]()
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    prompt = torch.tensor([[[20, 21]]] if way == "own layers" else [[20, 21]])
    output = loaded.generate(prompt, torch.ones_like(prompt), max_new_tokens=5, logits_processor=[Only()])
    assert output.num_new_tokens == [0]
    assert loaded.config.eos_token_id == 2


@pytest.mark.parametrize("shape", LMS)
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_the_graft_copies_the_trunk(shape, tied):
    lm = make_lm(shape, tie_word_embeddings=tied)
    before = {name: weight.clone() for name, weight in lm.state_dict().items()}
    model = SLLM.graft(make_vae(hidden_size=LM_WIDTH), lm, max_sentences=16)
    own = model.trunk.state_dict()
    theirs = {name: w for name, w in trunk_of(lm).state_dict().items() if not torch.equal(w, input_table(lm))}
    assert own.keys() == theirs.keys(), "all of it but the vocabulary table"
    assert all(torch.equal(own[name], weight) for name, weight in theirs.items())
    assert torch.equal(model.start_state, input_table(lm)[special_ids(lm.config).opening])
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
    assert all(torch.equal(before[name], weight) for name, weight in lm.state_dict().items())


@pytest.mark.parametrize(
    ("vae", "lm", "message"),
    [
        (
            {},
            dict(hidden_size=64),
            "vectors are 32 wide and the trunk reads 64: pretrain an autoencoder with hidden_si",
        ),
        ({}, dict(vocab_size=300), "260 vocabulary rows and the trunk 300: both must use the same tokenizer"),
        (dict(vocab_size=300), {}, "300 vocabulary rows and the trunk 260: both must use the same tokenizer"),
        ({}, dict(use_sliding_window=True, sliding_window=4, max_window_layers=1), "attends within sliding windows"),
        ({}, dict(eos_token_id=None), "has no eos_token_id"),
    ],
)
def test_parts_of_other_families_that_do_not_fit_are_refused(vae, lm, message):
    with pytest.raises(ValueError, match=message):
        SLLM.graft(make_vae(**dict(hidden_size=LM_WIDTH) | vae), make_lm("qwen2", **lm), max_sentences=16)
