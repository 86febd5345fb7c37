"""Heads that draw the next sentence's vector, given a trunk state, instead of saying one vector.

N sentences, D width, K draws of a head, M draws of the encoder's posterior.

    noise (N,K,D), state (N,D) -> vectors (N,K,D), which are to be spread as the next sentence's vector is
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers import initialization as init

from lmbase.modeling.noise import mixed, normal, uniform


def energy_score(drawn: Tensor, targets: Tensor) -> Tensor:
    """2 E|x - y| - E|x - x'| of K draws (N,K,D) of a head and M of the truth (N,M,D) -> (N,), Euclidean norms.

    Its expectation is least where both come from one distribution, and only there (arXiv 2510.27688, beta 1).
    """
    exact = "donot_use_mm_for_euclid_dist"  # matrix products lose what near vectors differ in
    across = torch.cdist(drawn, targets, compute_mode=exact).mean((1, 2))
    among = torch.cdist(drawn, drawn, compute_mode=exact).sum((1, 2))  # a draw is 0 from itself
    num = drawn.shape[1]
    return 2 * across - among / (num * (num - 1))


class GatedBlock(nn.Module):
    """x + a gated layer of what x and the state say together."""

    def __init__(self, width: int):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.joint = nn.Linear(2 * width, width)
        self.gate_up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(width, width)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        gate, up = self.gate_up(F.silu(self.joint(torch.cat([self.norm(x), state], -1)))).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class VectorHead(nn.Module):
    """What both kinds have in common: blocks from noise and a state to a vector."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        width = config.hidden_size
        self.config = config
        self.noise_in, self.noise_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.state_in, self.state_norm = nn.Linear(width, width), nn.LayerNorm(width)
        self.blocks = nn.ModuleList(GatedBlock(width) for _ in range(config.vector_blocks))
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))

    def start(self) -> None:
        """At zero, in the middle of the prior."""
        last = self.out[-1]
        assert isinstance(last, nn.Linear)
        init.zeros_(last.weight)
        init.zeros_(last.bias)

    def run(self, noise: Tensor, state: Tensor) -> Tensor:
        """Noise (N,K,D) and states that were read by `read` (N,K,D) or (N,1,D) -> (N,K,D)."""
        x = self.noise_norm(self.noise_in(noise.to(state.dtype)))
        state = state.expand_as(x)
        for block in self.blocks:
            x = block(x, state)
        return self.out(x)

    def read(self, states: Tensor) -> Tensor:
        """States (N,D) as blocks read them (N,1,D)."""
        return self.state_norm(self.state_in(states))[:, None]

    def loss(self, states: Tensor, mean: Tensor, log_var: Tensor, keys: Tensor) -> Tensor:
        """What to train on, of each sentence (N,).

        Args:
            states: (N, D) of the trunk, each before the sentence is read.
            mean, log_var: (N, D) of the encoder's posterior of the sentence.
            keys: (N,) decide what is drawn, see `lmbase.modeling.noise`.
        """
        raise NotImplementedError

    def sample(self, states: Tensor, keys: Tensor, temperature: float = 1.0) -> Tensor:
        """Vectors (N, D) drawn for states (N, D); noise is multiplied by the temperature, 0 to 1."""
        raise NotImplementedError


def posterior_draws(mean: Tensor, log_var: Tensor, keys: Tensor, num: int) -> Tensor:
    """(N, M, D) draws of the encoder's posterior."""
    n, width = mean.shape
    noise = normal(mixed(mixed(keys)), num * width).view(n, num, width)
    return mean[:, None] + (0.5 * log_var).exp()[:, None] * noise


class EnergyHead(VectorHead):
    """One pass makes a draw; trained by the energy score of several (arXiv 2510.27688)."""

    def loss(self, states, mean, log_var, keys):
        config, (n, width) = self.config, mean.shape
        noise = uniform(mixed(keys), config.vector_draws * width).view(n, config.vector_draws, width) - 0.5
        targets = posterior_draws(mean, log_var, keys, config.posterior_draws)
        return energy_score(self.run(noise, self.read(states)).float(), targets)

    def sample(self, states, keys, temperature=1.0):
        noise = temperature * (uniform(keys, states.shape[-1]) - 0.5)
        return self.run(noise[:, None], self.read(states))[:, 0]


class FlowHead(VectorHead):
    """A field that carries noise to vectors along straight lines (rectified flow, arXiv 2209.03003), followed in a few
    midpoint steps."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        self.time_in = nn.Linear(config.hidden_size, config.hidden_size)
        self.place_in = nn.Linear(config.hidden_size, config.hidden_size)  # how far out a place is no norm may hide

    def field(self, x: Tensor, times: Tensor, state: Tensor) -> Tensor:
        """Velocities (N,K,D) at places x (N,K,D) and times (N,K) from 0, noise, to 1, vectors."""
        half = self.config.hidden_size // 2
        rates = torch.exp(torch.arange(half, device=x.device) * (math.log(1000.0) / half))
        angles = times[..., None] * rates
        waves = F.pad(torch.cat([angles.sin(), angles.cos()], -1), (0, self.config.hidden_size - 2 * half))
        places = x.to(state.dtype)
        return self.run(places, state + self.time_in(waves.to(state.dtype)) + self.place_in(places))

    def loss(self, states, mean, log_var, keys):
        num, (n, width) = self.config.vector_draws, mean.shape
        own = mixed(keys)
        ends = posterior_draws(mean, log_var, keys, num)
        starts = normal(own, num * width).view(n, num, width)
        # One time in each of K equal parts of the way.
        times = (torch.arange(num, device=own.device) + uniform(mixed(own ^ 1), num)) / num  # (N,K)
        places = torch.lerp(starts, ends, times[..., None])
        velocities = self.field(places, times, self.read(states)).float()
        return (velocities - (ends - starts)).square().mean((1, 2))

    def sample(self, states, keys, temperature=1.0):
        state, steps = self.read(states), self.config.flow_steps
        x = (temperature * normal(keys, states.shape[-1]))[:, None]  # (N,1,D)
        for step in range(steps):
            time = torch.full(x.shape[:2], step / steps, device=x.device)
            middle = x + self.field(x, time, state).float() / (2 * steps)
            x = x + self.field(middle, time + 0.5 / steps, state).float() / steps
        return x[:, 0].to(states.dtype)
