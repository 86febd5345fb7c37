"""Two configurations joined into one."""

import pytest
from tiny import make_sllm
from transformers import OPTConfig

from sentencevae import SentenceVAEConfig
from sllm import SLLM, SLLMConfig


def test_the_callers_configurations_stay_what_they_were():
    """A longer memory is the joined model's, not the autoencoder's that it was built from."""
    autoencoder, trunk = SentenceVAEConfig(), OPTConfig()
    config = SLLMConfig(autoencoder, trunk, num_memory_states=3, num_memory_tokens=5)
    assert (config.autoencoder.memory_size, autoencoder.memory_size) == (8, 0)
    config.trunk.dropout = 0.7
    assert trunk.dropout != 0.7


def test_every_broken_rule_is_named_at_once():
    config = SLLMConfig({"hidden_size": 8}, {"hidden_size": 16, "word_embed_proj_dim": 16}, 0, num_memory_states=0)
    with pytest.raises(ValueError) as error:
        SLLM(config)
    assert all(word in str(error.value) for word in ("8 wide", "max_sentences=0", "num_memory_states=0"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (dict(num_future_tokens=0), "at least 1"),
        (dict(train_draft_heads_only=True), "no drafting heads"),
        (dict(draft_transitions=True), "no drafting heads"),
        (dict(num_future_tokens=2, draft_targets="greedy"), "set train_draft_heads_only"),
        (dict(draft_targets="all"), "choose text or greedy"),
        (dict(tie_word_embeddings=False), "tie_word_embeddings=False: one table"),
    ],
)
def test_impossible_configurations_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        make_sllm(**options)
