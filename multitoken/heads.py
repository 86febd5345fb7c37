"""Kinds of heads (arXiv 2404.19737, appendix B): what a head is, and what it reads.

A new kind is one class here and one line in `HEAD_KINDS`.

B texts, R rows of a pass, H width of the trunk, n heads; head i predicts the i-th next token.
"""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel

from lmbase.modeling.stages import BlockRunner
from lmbase.modeling.trunk import new_block


class ParallelHeads:
    """Each head is a block like the trunk's, on the trunk's states."""

    is_block = True
    reads_all = False  # head 1 reads through all others
    chained = False  # a drafting head reads the head before it, not the trunk

    def new(self, trunk: PreTrainedModel, number: int) -> nn.Module:
        """A head with fresh weights; `number` is its place in caches."""
        return new_block(trunk, number)

    def run(
        self, heads: Sequence[nn.Module], x: Tensor, numbers: range, runner: BlockRunner
    ) -> Iterator[tuple[int, Tensor]]:
        """Numbers and states (B, R, H) of some heads, in the order in which they read each other.

        Args:
            x: (B, R, H) what the earliest of them reads.
        """
        for i in numbers:
            yield i, runner(heads[i - 1], x)

    def copy_block(self, head: nn.Module, block: Mapping[str, Tensor], number: int) -> None:
        """Begin as a pretrained model's last block, which head 1 takes the place of; number counts from 1."""
        head.load_state_dict(block)

    def check(self, config: PreTrainedConfig, num_heads: int) -> None:
        """Raise ValueError if heads of this kind cannot begin on a pretrained model."""


class LinearHeads(ParallelHeads):
    """Each head is one linear layer on the trunk's states, and begins as the identity."""

    is_block = False

    def new(self, trunk: PreTrainedModel, number: int) -> nn.Module:
        return nn.Linear(trunk.config.hidden_size, trunk.config.hidden_size)

    def run(self, heads, x, numbers, runner):
        for i in numbers:
            yield i, heads[i - 1](x)

    def copy_block(self, head: nn.Module, block: Mapping[str, Tensor], number: int) -> None:
        assert isinstance(head, nn.Linear)
        with torch.no_grad():
            head.weight.copy_(torch.eye(len(head.weight)))
            head.bias.zero_()


class CausalHeads(ParallelHeads):
    """A block on the states of the head before it, the first one's on the trunk's."""

    chained = True

    def run(self, heads, x, numbers, runner):
        for i in numbers:
            x = runner(heads[i - 1], x)
            yield i, x


class AnticausalHeads(ParallelHeads):
    """A block on the states of the head after it, the last one's on the trunk's."""

    reads_all = True

    def run(self, heads, x, numbers, runner):
        for i in reversed(numbers):
            x = runner(heads[i - 1], x)
            yield i, x

    def copy_block(self, head: nn.Module, block: Mapping[str, Tensor], number: int) -> None:
        """Head 1 reads through the others, which begin as copies that add nothing."""
        head.load_state_dict(block)
        if number == 1:
            return
        last = {layer for layer in LAST_LAYERS if any(name.startswith(layer) for name in block)}
        if len(last) != 2:  # that of attention, that of the feed-forward layers
            raise ValueError(
                f"head_kind='anticausal' does not know the last layers of a {type(head).__name__}: name them in "
                "LAST_LAYERS in multitoken/heads.py, or choose another kind."
            )
        with torch.no_grad():
            for name, weight in head.named_parameters():
                if name.startswith(tuple(last)):
                    weight.zero_()

    def check(self, config: PreTrainedConfig, num_heads: int) -> None:
        if num_heads > 1 and not getattr(config, "do_layer_norm_before", True):
            raise ValueError(
                "head_kind='anticausal' on an OPT that normalises after its layers (350M): a further block below "
                "head 1 cannot start without effect, so head 1 would not be that OPT. Choose another kind."
            )


# What a block adds to its input comes out of these: OPT, GPT-2, Llama and its like.
LAST_LAYERS = ("self_attn.out_proj.", "fc2.", "attn.c_proj.", "mlp.c_proj.", "self_attn.o_proj.", "mlp.down_proj.")

HEAD_KINDS: dict[str, ParallelHeads] = {
    "parallel": ParallelHeads(),
    "linear": LinearHeads(),
    "causal": CausalHeads(),
    "anticausal": AnticausalHeads(),
}
