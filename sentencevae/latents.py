"""Kinds of latents: from what an encoder makes of a sentence to the sentence's vector.

A new kind is one class here and one line in `LATENTS`.

N sentences, D width.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig

from lmbase.modeling.noise import normal


class DeterministicLatent:
    """The encoder's vector as it is (published)."""

    has_kl = False

    def projection(self, config: PreTrainedConfig) -> nn.Linear | None:
        """A layer of the model's that this kind needs."""
        return None

    def __call__(
        self, pooled: Tensor, projection: nn.Linear | None, config: PreTrainedConfig, keys: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Pooled states (N, D) -> sentence vectors (N, D) and the KL of each (N,).

        Args:
            keys: (N,) decide what is drawn for each sentence, see `lmbase.modeling.noise`; None: a kind that draws
                gives its mean.
        """
        return pooled, pooled.new_zeros(len(pooled))


class GaussianLatent(DeterministicLatent):
    """Mean and variance of a normal distribution; each dimension's first nats of KL are free."""

    has_kl = True

    def projection(self, config: PreTrainedConfig) -> nn.Linear | None:
        return nn.Linear(config.hidden_size, 2 * config.hidden_size)

    def posterior(self, pooled: Tensor, projection: nn.Linear) -> tuple[Tensor, Tensor]:
        """Mean and log of the variance (N, D)."""
        mean, log_var = projection(pooled).float().chunk(2, dim=-1)
        return mean, log_var

    def __call__(self, pooled, projection, config, keys):
        mean, log_var = self.posterior(pooled, projection)
        kl = 0.5 * (mean**2 + log_var.exp() - 1 - log_var)  # (N,D)
        z = mean if keys is None else mean + normal(keys, mean.shape[-1]) * (0.5 * log_var).exp()
        return z.to(pooled.dtype), kl.clamp(min=config.free_bits).sum(-1)


LATENTS: dict[str, DeterministicLatent] = {"deterministic": DeterministicLatent(), "gaussian": GaussianLatent()}
