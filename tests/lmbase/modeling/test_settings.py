"""The settings of one call of generate: which there are, which count, and what they mean."""

import pytest
from transformers import GenerationConfig
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from lmbase.modeling.settings import end_ids, merge_generation_config, neutral_settings, text_limits


def test_keywords_over_given_over_own():
    base = GenerationConfig(max_new_tokens=1, top_k=3, temperature=0.5)
    config = merge_generation_config(base, None, {"max_new_tokens": 2})
    assert (config.max_new_tokens, config.top_k, config.temperature) == (2, 3, 0.5)
    config = merge_generation_config(base, GenerationConfig(max_new_tokens=7, top_p=0.9), {"top_p": 0.8})
    assert (config.max_new_tokens, config.top_k, config.top_p) == (7, 3, 0.8)
    assert base.max_new_tokens == 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_beams": 4}, "num_beams"),
        ({"repetition_penalty": 0}, "repetition_penalty=0: give a number from 0.001"),
        ({"penalty_alpha": 0.6}, r"penalty_alpha=0.6 \(there is no contrastive search"),
        ({"assistant_model": 3}, r"does not know assistant_model=3 \(a model drafts for itself"),
        ({"output_scores": True}, "forward has the rest"),
        ({"num_return_sequences": 2}, "give do_sample=True"),
        ({"stop_strings": [""]}, "drop it"),
        ({"stop_strings": ["a", 3]}, "number 1 is 3"),
        ({"max_new_tokens": -1}, "max_new_tokens=-1: give a whole number of 0 or more"),
        ({"do_sample": True, "temperature": 0.0}, "temperature=0.0: give a number from 1e-06 to"),
        ({"max_length": -1}, "max_length=-1: give a whole number"),
        ({"max_new_token": 3}, "max_new_token"),
    ],
)
def test_what_is_not_supported_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        merge_generation_config(GenerationConfig(), None, settings)


def test_arguments_of_transformers_that_ask_for_nothing_pass():
    """Who wraps its `generate` passes its arguments on, None or False."""
    nothing = dict(assistant_model=None, prefix_allowed_tokens_fn=None, synced_gpus=False, past_key_values=None)
    config = merge_generation_config(GenerationConfig(), None, nothing | {"max_new_tokens": 3})
    assert config.max_new_tokens == 3
    with pytest.raises(ValueError, match="does not know max_new_token=None"):
        merge_generation_config(GenerationConfig(), None, {"max_new_token": None})


def test_a_configuration_is_no_dict():
    with pytest.raises(ValueError, match="generation_config is a dict: give a GenerationConfig"):
        merge_generation_config(GenerationConfig(), {"max_new_tokens": 3}, {})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"begin_suppress_tokens": [5]},
        {"forced_eos_token_id": 5},
        {"guidance_scale": 2.0},
        {"output_attentions": True},
    ],
)
def test_unsupported_fields_of_a_given_configuration_are_refused(settings):
    with pytest.raises(ValueError, match="not supported"):
        merge_generation_config(GenerationConfig(), GenerationConfig(**settings), {})


@pytest.mark.parametrize("settings", [{}, {"num_beams": 1, "use_cache": False, "repetition_penalty": 1.0}])
def test_the_configuration_of_an_ordinary_model_folder_passes(settings, opt, tmp_path):
    opt.save_pretrained(tmp_path)
    loaded = GenerationConfig.from_pretrained(tmp_path, **settings)
    assert loaded.eos_token_id == 2
    assert merge_generation_config(GenerationConfig(), loaded, {"max_new_tokens": 3, **settings}).max_new_tokens == 3


@pytest.mark.parametrize(("settings", "warned"), [({"temperature": 0.7, "top_p": 0.9}, True), ({"top_k": 0}, False)])
def test_sampling_settings_without_sampling_are_warned_of(settings, warned):
    def warnings(**more):
        with CaptureLogger(logging.get_logger("transformers.lmbase.modeling.settings")) as log:
            merge_generation_config(GenerationConfig(), None, settings | more)
        return log.out

    assert all(name in warnings() for name in settings) == warned
    assert warnings(do_sample=True) == ""


def test_end_ids_are_the_models_own_and_those_of_a_call():
    assert end_ids(GenerationConfig(), 2, 9) == [2]
    assert end_ids(GenerationConfig(eos_token_id=5), 2, 9) == [2, 5]
    assert end_ids(GenerationConfig(eos_token_id=[2, 5, 7]), 2, 9) == [2, 5, 7]
    for wrong in (9, -1, "2", [2, True], 1.0):
        with pytest.raises(ValueError, match="of the vocabulary of 9"):
            end_ids(GenerationConfig(eos_token_id=wrong), 2, 9)


@pytest.mark.parametrize(
    ("settings", "limits"),
    [
        ({}, (128, 0)),
        ({"max_new_tokens": 0}, (0, 0)),
        ({"max_length": 7}, (4, 0)),
        ({"max_length": 2}, (0, 0)),
        ({"max_length": 7, "max_new_tokens": 9}, (9, 0)),
        ({"min_length": 7}, (128, 4)),
        ({"min_length": 7, "min_new_tokens": 5}, (128, 5)),
        ({"min_length": 2}, (128, 0)),
    ],
)
def test_limits_of_a_text_of_three_ids(settings, limits):
    config = merge_generation_config(GenerationConfig(), None, settings)
    limit, fewest = text_limits(config, 3)
    assert (limit, max(fewest, 0)) == limits


@pytest.mark.parametrize(
    ("settings", "warned"),
    [
        ({"max_length": 2}, True),
        ({"max_length": 3}, True),
        ({"max_length": 4}, False),
        ({"max_length": 2, "max_new_tokens": 1}, False),
        ({"max_new_tokens": 0}, False),
    ],
)
def test_a_length_that_the_prompt_uses_up_is_warned_of(settings, warned):
    """It counts the prompt, which is easily forgotten, and nothing was written without a word."""
    with CaptureLogger(logging.get_logger("transformers.lmbase.modeling.settings")) as log:
        text_limits(merge_generation_config(GenerationConfig(), None, settings), 3)
    assert ("which are 3 tokens: nothing is written. Give max_new_tokens" in log.out) == warned


def test_what_a_folder_sets_is_kept_from_transformers():
    own = GenerationConfig(repetition_penalty=1.5, num_beams=4, stop_strings=["."], max_length=9, eos_token_id=[2, 5])
    assert neutral_settings(own) == dict(repetition_penalty=None, num_beams=1, stop_strings=None, max_length=None)
