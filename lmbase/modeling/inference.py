"""Inference: what only training does (dropout, drawn latents, gradients) is off, and on again afterwards."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

ModelT = TypeVar("ModelT", bound=nn.Module)
P = ParamSpec("P")
R = TypeVar("R")


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Without gradients and in eval mode; each module has its own mode back in the end, also after an error."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def inference_method(function: Callable[Concatenate[ModelT, P], R]) -> Callable[Concatenate[ModelT, P], R]:
    """Run a method of a model, or a function whose first argument is one, under `inference`."""

    @functools.wraps(function)
    def run(model: ModelT, *args: P.args, **kwargs: P.kwargs) -> R:
        with inference(model):
            return function(model, *args, **kwargs)

    return run
