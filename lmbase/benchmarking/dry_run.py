"""A training step without numbers: a model's own code runs on shapes alone, and what it would hold and multiply is
counted.

Floats are PyTorch's fake tensors, which have shapes and no memory, so a model of any size runs on any machine in
seconds. Ids, masks and positions are real, because code decides by them which sentences stand together. What is counted
is so the work of the code that trains: its chunks of logits, its groups of sentences, what autograd keeps.
"""

import weakref
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from lmbase.modeling.devices import planned_for

WEIGHTS, GRADIENTS, LOGITS, ACTIVATIONS = "weights", "gradients", "logits", "activations"
_ops: Any = torch.ops.aten


@dataclass(frozen=True)
class Step:
    """One micro-batch: bytes held by part at the peaks of its forward and of its backward pass, and operations of its
    matrix products."""

    forward: dict[str, int]
    backward: dict[str, int]
    operations: float

    @property
    def held(self) -> dict[str, int]:
        """At the higher of the two peaks."""
        return max(self.forward, self.backward, key=lambda held: sum(held.values()))

    def beyond(self, less: "Step", times: float) -> "Step":
        """What grows evenly, so many times further on than from `less` to this."""

        def further(before: dict[str, int], now: dict[str, int]) -> dict[str, int]:
            return {part: max(0, round(n + times * (n - before.get(part, 0)))) for part, n in now.items()}

        operations = self.operations + times * (self.operations - less.operations)
        return Step(further(less.forward, self.forward), further(less.backward, self.backward), operations)


class DryRun(TorchDispatchMode):
    """Counts what runs within this context.

    Args:
        kernels: the kind of device whose way to cut work is taken: cpu, cuda.
        vocab_size: tensors as wide as this are logits.
        again: a further micro-batch of a step: the gradients of those before are held.
    """

    def __init__(self, kernels: str, vocab_size: int, again: bool = False):
        super().__init__()
        self.kernels, self.vocab_size, self.again = kernels, vocab_size, again
        self.operations = 0.0
        self.live: Counter[str] = Counter()  # bytes held now, by part
        self.peak: dict[str, int] = {}  # and when they were most
        self._fake = FakeTensorMode(allow_non_fake_inputs=True)
        self._kinds: dict[int, str] = {}  # of storages that are alive
        self._contexts = ExitStack()

    def __enter__(self) -> "DryRun":
        self._contexts.enter_context(planned_for(self.kernels))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._contexts.close()

    def outline(self, model: nn.Module) -> None:
        """Give a model that was built on the device `meta` weights which can be computed with here."""
        known: dict[int, Tensor] = {}
        for module in model.modules():
            for store in (module._parameters, module._buffers):
                for name, tensor in store.items():
                    if tensor is None:
                        continue
                    if id(tensor) not in known:
                        known[id(tensor)] = self._outlined(tensor)
                    store[name] = known[id(tensor)]  # type: ignore[assignment]  # the same kind of thing

    def _outlined(self, tensor: Tensor) -> Tensor:
        with self._fake:
            shape = torch.empty(tensor.shape, dtype=tensor.dtype)
        self._hold(shape, WEIGHTS)
        if not isinstance(tensor, nn.Parameter):
            return shape
        weight = nn.Parameter(shape, requires_grad=tensor.requires_grad)
        if weight.requires_grad:
            weight.register_post_accumulate_grad_hook(self._is_gradient)
        if weight.requires_grad and self.again:
            with self._fake:
                weight.grad = torch.empty(tensor.shape, dtype=tensor.dtype)
            self._hold(weight.grad, GRADIENTS)
        return weight

    def _is_gradient(self, weight: Tensor) -> None:
        assert weight.grad is not None
        storage = weight.grad.untyped_storage()
        before = self._kinds[storage._cdata]
        self._kinds[storage._cdata] = GRADIENTS
        self.live[before] -= storage.nbytes()
        self.live[GRADIENTS] += storage.nbytes()

    # -- each operation ----------------------------------------------------------------------------------------------

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not any(isinstance(leaf, FakeTensor) for leaf in tree_leaves((args, kwargs))):
            return self._held(func(*args, **kwargs))  # ids, masks, positions
        if func is _ops.nonzero.default:  # of floats: nothing is rare, nothing stands out
            return torch.zeros(0, args[0].ndim, dtype=torch.long)
        if func._overloadpacket in (_ops.index, _ops.index_put, _ops.index_put_, _ops._index_put_impl_):
            args = (args[0], _places(args[1]), *args[2:])
        with self._fake:
            out = func(*args, **kwargs)
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.operations += count(*args, **kwargs, out_val=out)
        return self._held(out)

    def _held(self, out: Any) -> Any:
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.is_floating_point():
                self._hold(leaf, LOGITS if leaf.ndim > 1 and leaf.shape[-1] == self.vocab_size else ACTIVATIONS)
        return out

    def _hold(self, tensor: Tensor, kind: str) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata in self._kinds:
            return
        self._kinds[storage._cdata] = kind
        self.live[kind] += storage.nbytes()
        weakref.finalize(storage, self._let_go, storage._cdata, storage.nbytes())
        if self.live.total() > sum(self.peak.values()):
            self.peak = dict(self.live)

    def _let_go(self, storage: int, num_bytes: int) -> None:
        self.live[self._kinds.pop(storage)] -= num_bytes


def _places(indices: list) -> list:
    """Masks among the indices of a tensor as the places where they are true: how many is then known."""
    with unset_fake_temporarily():
        return [
            place
            for index in indices
            for place in (index.nonzero().unbind(1) if index is not None and index.dtype == torch.bool else (index,))
        ]


def dry_step(model: Any, batch: dict[str, Tensor], *, kernels: str, bf16: bool, vocab_size: int, again: bool) -> Step:
    """Forward and backward of one micro-batch.

    Args:
        model: as the training loop takes it, built on the device `meta`; its weights are replaced by outlines.
        kernels, again: as for `DryRun`.
    """
    run = DryRun(kernels, vocab_size, again)
    run.outline(model)
    model.train()
    with run, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        losses = model(**batch).losses
        weights = model.loss_weights
        objective = torch.stack([weights[name] * losses[name] for name in losses]).sum()
        del losses
        forward, run.peak = run.peak, dict(run.live)
        objective.backward()
    return Step(forward, run.peak, run.operations)
