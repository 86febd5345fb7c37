"""Two configurations joined into one."""

from transformers import OPTConfig

from sentencevae import SentenceVAEConfig
from sllm import SLLMConfig


def test_the_callers_configurations_stay_what_they_were():
    """A longer memory is the joined model's, not the autoencoder's that it was built from."""
    autoencoder, trunk = SentenceVAEConfig(), OPTConfig()
    config = SLLMConfig(autoencoder, trunk, num_memory_states=3, num_memory_tokens=5)
    assert (config.autoencoder.memory_size, autoencoder.memory_size) == (8, 0)
    config.trunk.dropout = 0.7
    assert trunk.dropout != 0.7
