"""Kinds of next vectors: what the decoder reads of a trunk state, in place of the vector that an encoder would make of
the sentence to come.

A new kind is one class here and one line in `NEXT_VECTORS`.
"""

from torch import nn
from transformers import PreTrainedConfig
from transformers import initialization as init

from sllm.vector_heads import EnergyHead, FlowHead, VectorHead

# Settings of kinds that draw, with their defaults.
SETTINGS = {"vector_blocks": 4, "vector_draws": 8, "posterior_draws": 32, "flow_steps": 8, "vector_temperature": 1.0}


class Projection:
    """A linear layer on the trunk's state (published)."""

    draws = False  # one vector for each state, trained by what the decoder makes of it
    settings: tuple[str, ...] = ()  # of `SETTINGS`, which it reads

    def new(self, config: PreTrainedConfig) -> nn.Module:
        """The layer: states (..., D) -> vectors (..., D), D being `config.hidden_size`."""
        return nn.Linear(config.hidden_size, config.hidden_size)

    def start(self, layer: nn.Module) -> None:
        """At zero: the decoder first writes as it does without a sentence vector, not what a strange one says."""
        assert isinstance(layer, nn.Linear)
        init.zeros_(layer.weight)
        init.zeros_(layer.bias)

    def faults(self, config: PreTrainedConfig) -> list[str]:
        """Rules of this kind that a configuration breaks."""
        idle = [f"{x}={getattr(config, x)}" for x, value in SETTINGS.items() if getattr(config, x) != value]
        idle = [told for told in idle if told.partition("=")[0] not in self.settings]
        return [f"{', '.join(idle)}: next_vector={config.next_vector!r} does not read that; leave it out"] * bool(idle)


class DrawnVector(Projection):
    """A head that draws the vector; what the text costs is then not known."""

    draws = True

    def __init__(self, head: type[VectorHead], *settings: str):
        self.head, self.settings = head, ("vector_blocks", "vector_draws", "vector_temperature", *settings)

    def new(self, config):
        return self.head(config)

    def start(self, layer):
        layer.start()

    def faults(self, config):
        kind, faults = f"next_vector={config.next_vector!r}", super().faults(config)
        if config.own_layers:
            return [f"{kind}: a graft by own layers has no autoencoder whose vectors could be drawn; leave it out"]
        if config.autoencoder.latent != "gaussian":
            faults.append(
                f"{kind}: the autoencoder's latent is {config.autoencoder.latent!r}, so its decoder has only read "
                "exact vectors, and a drawn one never is; pretrain one with --latent gaussian"
            )
        if config.num_memory_states > 1 or config.num_memory_tokens:
            faults.append(
                f"{kind}: the decoder reads the drawn vector alone; leave num_memory_states and num_memory_tokens out"
            )
        if config.end_flag or config.num_future_tokens > 1:
            faults.append(
                f"{kind}: the decoder is the autoencoder's as it is, without end_flag and drafting heads "
                "(num_future_tokens); leave them out"
            )
        if config.num_memory_vectors and config.freeze_autoencoder:
            faults.append(
                f"{kind}, num_memory_vectors={config.num_memory_vectors}: with freeze_autoencoder the decoder is not "
                "trained, so its memory would stay empty; leave one of the two out"
            )
        for name, least in (("vector_blocks", 1), ("vector_draws", 2), ("posterior_draws", 1), ("flow_steps", 1)):
            if getattr(config, name) < least:
                why = ", as a score compares draws with one another" if name == "vector_draws" else ""
                faults.append(f"{name}={getattr(config, name)}: at least {least}{why}")
        if not 0 <= config.vector_temperature <= 1:
            faults.append(f"vector_temperature={config.vector_temperature}: {TEMPERATURES}")
        return faults


TEMPERATURES = "choose 0, always the same vector, to 1, as it was trained; beyond 1 is noise that no head was shown"
NEXT_VECTORS: dict[str, Projection] = {
    "projection": Projection(),
    "energy": DrawnVector(EnergyHead, "posterior_draws"),
    "flow": DrawnVector(FlowHead, "flow_steps"),
}
