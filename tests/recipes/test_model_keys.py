"""A recipe's keys of a model are the fields of its configuration, with their types, defaults and meanings."""

from dataclasses import dataclass

import pytest
from transformers import PreTrainedConfig

from lmbase.config import load_config, option
from lmbase.config.options import keys_of
from multitoken import MultiTokenLMConfig
from sentencevae import SentenceVAEConfig
from sllm import SLLMConfig
from sllm_recipes import finetune_mtp, finetune_sllm, pretrain_vae
from sllm_recipes.model_keys import given_keys, with_keys_of


class Kite(PreTrainedConfig):
    """A kite.

    Args:
        span: width from tip to tip,
            in metres.
        shape: what it looks like.

    Flown in wind.
    """

    model_type = "kite"
    choices = {"shape": ("delta", "diamond")}

    def __init__(self, span: float = 1.5, shape: str = "delta", tail: bool = False, lines: int = 1, **kwargs):
        self.span, self.shape, self.tail, self.lines = span, shape, tail, lines
        super().__init__(**kwargs)


@dataclass
@with_keys_of(Kite, without=("tail", "lines"))
class New:
    wind: int = option(3, "force")


@dataclass
@with_keys_of(Kite, without=(), of_model=True)
class Further:
    model: str | None = option(None, "a kite to go on with")


def test_fields_become_keys():
    keys = keys_of(New)
    assert set(keys) == {"wind", "span", "shape"}
    assert (keys["span"].type, keys["span"].default) == (float, 1.5)
    assert keys["span"].help == "width from tip to tip, in metres."
    assert given_keys(load_config(New, ["--span", "2"]), Kite) == {"span": 2.0, "shape": "delta"}


def test_what_is_not_given_stays_the_models():
    config = load_config(Further, ["--shape", "diamond"])
    assert given_keys(config, Kite) == {"shape": "diamond"}
    assert "Default: the model's, or 1.5." in keys_of(Further)["span"].help
    assert "or false." in keys_of(Further)["tail"].help
    assert "or 1." in keys_of(Further)["lines"].help  # not true, which 1 equals


@pytest.mark.parametrize("cls", [New, Further])
def test_choices_are_checked_while_the_command_line_is_read(cls):
    with pytest.raises(ValueError, match=r"shape = 'box'.*delta"):
        load_config(cls, ["--shape", "box"])


@pytest.mark.parametrize(
    ("recipe", "model_config"),
    [(pretrain_vae, SentenceVAEConfig), (finetune_sllm, SLLMConfig), (finetune_mtp, MultiTokenLMConfig)],
)
def test_every_key_of_a_recipe_has_a_meaning(recipe, model_config):
    keys = keys_of(recipe.Config)
    assert [name for name, key in keys.items() if not key.help] == []
    assert len(given_keys(model_config(), model_config).keys() & keys.keys()) >= 6
