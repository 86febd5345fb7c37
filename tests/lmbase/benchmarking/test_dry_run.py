"""A dry run counts what a real step holds and multiplies, byte by byte."""

import weakref

import pytest
import torch
from designs import sentences, tokens
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lmbase.benchmarking.dry_run import dry_step
from lmbase.training.parallel import recompute_activations
from sllm.benchmarks.planning import Design

TRUNKS = {"opt": "random:16x1", "llama": "random:llama-32x1"}


class Held(TorchDispatchMode):
    """Bytes of all float tensors that are alive, and the most there were, of real ones."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.alive: dict[int, int] = {}
        self.now = self.most = 0
        for tensor in [*model.parameters(), *model.buffers()]:
            self.hold(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.hold(leaf)
        return out

    def hold(self, tensor):
        storage = tensor.untyped_storage()
        if storage._cdata in self.alive:
            return
        self.alive[storage._cdata] = storage.nbytes()
        self.now += storage.nbytes()
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self.let_go, storage._cdata)

    def let_go(self, key):
        self.now -= self.alive.pop(key)


def small(kind: str, family: str) -> Design:
    if kind == "token level":
        return tokens(TRUNKS[family])
    if kind == "SLLM":
        return sentences(TRUNKS[family], num_memory_states=3, num_memory_tokens=6)
    windows = dict(lower_window=16, upper_window=16)
    return sentences("random:llama-32x3", upper_layers=1, lower_layers=1, **windows)


def step(model, batch, bf16: bool) -> None:
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = model(**batch).losses
        objective = torch.stack([model.loss_weights[name] * losses[name] for name in losses]).sum()
        del losses
        objective.backward()


@pytest.mark.parametrize(
    ("kind", "family", "bf16", "again", "recompute"),
    [
        ("token level", "opt", True, True, False),
        ("SLLM", "opt", True, False, False),
        ("SLLM", "llama", False, True, True),
        ("own layers", "llama", False, False, False),
    ],
)
def test_a_dry_run_holds_and_multiplies_what_a_real_step_does(kind, family, bf16, again, recompute):
    torch.manual_seed(0)
    design = small(kind, family)
    batch = design.windows(2)
    model, outline = design.build().train(), design.outline
    if recompute:
        recompute_activations(model)
        recompute_activations(outline)
    found = dry_step(outline, batch, kernels="cpu", bf16=bf16, vocab_size=300, again=again)
    if again:
        step(model, batch, bf16)
    with FlopCounterMode(display=False) as flops, Held(model) as held:
        for weight in model.parameters() if again else ():
            held.hold(weight.grad)
        step(model, batch, bf16)
    assert sum(found.held.values()) == held.most
    assert found.operations == flops.get_total_flops()
    assert found.held["weights"] == sum(t.nbytes for t in [*model.parameters(), *model.buffers()])
