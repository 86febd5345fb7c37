"""Checkpoints: whole folders (`lmbase.files`) of a training's state, in safetensors and JSON, never pickle.

Whoever reads takes the newest one that verifies.
"""

import json
import math
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from lmbase.files import check_free_space, read_json, verify_folder, write_folder
from lmbase.training.optimizer import WeightAverage

STATE = "state.json"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every folder `step_00000100` in `folder`, the oldest first; nothing is verified."""
    if not folder.is_dir():
        return []
    matches = [(re.fullmatch(r"step_(\d+)", path.name), path) for path in folder.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for match, path in matches if match)


def newest_checkpoint(folder: Path, up_to: float = math.inf) -> tuple[Path | None, list[str]]:
    """The newest checkpoint (up to a step) that verifies, and what is wrong with each newer one that does not."""
    faults: list[str] = []
    for step, path in reversed(list_checkpoints(folder)):
        if step > up_to:
            continue
        try:
            verify_folder(path, alone=True)
            read_state(path)
            return path, faults
        except (ValueError, OSError) as error:
            faults.append(str(error))
    return None, faults


def read_state(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint holds besides tensors.

    Raises:
        ValueError: it is not what `loop` wrote into this folder.
    """
    path = checkpoint / STATE
    try:
        state = read_json(path)
        fits = state["step"] == int(checkpoint.name.removeprefix("step_")) and state["num_items"] > 0
        fits = fits and state["tokens"] >= 0 and state["seconds"] >= 0
        fits = fits and all(isinstance(value, float | int) for value in state["losses"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}).") from None
    if not fits:
        raise ValueError(f"{path} is damaged: it does not describe step {checkpoint.name.removeprefix('step_')}.")
    return state


def prune_checkpoints(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, counted from the newest that verifies: newer ones are damaged. As
    long as none verifies, nothing is deleted."""
    newest, _ = newest_checkpoint(folder)
    paths = [path for _, path in list_checkpoints(folder)]
    if newest is None:
        return
    last = paths.index(newest) + 1
    for path in [*paths[: max(last - max(keep, 1), 0)], *paths[last:]]:
        shutil.rmtree(path)


def write_checkpoint(folder: Path, tensors: dict[str, dict[str, torch.Tensor]], state: dict[str, Any]) -> None:
    """Write `training_tensors` and whatever else a run continues with: at least its step.

    Raises:
        OSError: the disk is full; told before anything is written, if the disk says so.
    """

    def write(target: Path) -> None:
        for name, part in tensors.items():
            save_file(part, target / f"{name}.safetensors")
        (target / STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")

    size = sum(tensor.nbytes for part in tensors.values() for tensor in part.values())
    check_free_space(folder, size, f"the checkpoint of step {state['step']}")
    write_folder(folder / f"step_{state['step']:08d}", write)


# --- training state as flat dictionaries of tensors ------------------------------------------------------------------


def training_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> dict[str, dict[str, torch.Tensor]]:
    """All that a run continues with, by the name of its file. Collective where parameters are sharded."""
    tensors = {"model": model_tensors(model), "optimizer": optimizer_tensors(model, optimizer)}
    if average:
        with average.swapped_in():
            tensors["ema"] = {name: tensor.clone() for name, tensor in model_tensors(model).items()}
    return tensors


def load_training_tensors(
    checkpoint: Path, model: nn.Module, optimizer: torch.optim.Optimizer, average: WeightAverage | None
) -> None:
    """Undo `training_tensors`.

    Raises:
        ValueError: they are of another model.
    """
    if average:
        load_model_tensors(model, load_file(checkpoint / "ema.safetensors"))
        average.copy_from_model()
    load_model_tensors(model, load_file(checkpoint / "model.safetensors"))
    load_optimizer_tensors(model, optimizer, load_file(checkpoint / "optimizer.safetensors"))


def sizes(model: nn.Module, trained: Iterable[nn.Parameter], averaged: bool) -> tuple[int, int]:
    """Bytes of a model's weights, and of a checkpoint."""
    weights = sum(tensor.numel() * tensor.element_size() for _, tensor in _named_tensors(model))
    return weights, weights * (1 + averaged) + sum(2 * p.numel() * p.element_size() for p in trained)


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and persistent buffer, whole and on the CPU; tied ones once, under their first name.

    With sharded parameters this is a collective call: every process must take part.
    """
    return {name: _whole(tensor) for name, tensor in _named_tensors(model)}


def load_model_tensors(model: nn.Module, tensors: dict[str, torch.Tensor]) -> None:
    """Undo `model_tensors`, in place.

    Raises:
        ValueError: the names or shapes are those of another model.
    """
    named = dict(_named_tensors(model))
    tensors = _todays_names(model, tensors)
    _check_names(set(named), set(tensors), "model")
    with torch.no_grad():
        for name, tensor in named.items():
            if tensor.shape != tensors[name].shape:
                raise ValueError(
                    f"The checkpoint holds {name} of shape {tuple(tensors[name].shape)}, the model wants "
                    f"{tuple(tensor.shape)}: it belongs to another model. Choose another output_dir."
                )
            tensor.copy_(_placed(tensors[name], tensor))


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's state, whole and on the CPU, as `parameter/quantity`. Learning rates and the like are not part
    of it: they follow from the configuration and the step."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}/{key}": _whole(value)
        for parameter in _parameters(optimizer)
        for key, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor]
) -> None:
    """Undo `optimizer_tensors`.

    Raises:
        ValueError: the state belongs to other parameters.
    """
    by_parameter: dict[str, dict[str, torch.Tensor]] = {}
    tensors = _todays_names(model, tensors)
    for name, tensor in tensors.items():
        parameter, _, key = name.rpartition("/")
        by_parameter.setdefault(parameter, {})[key] = tensor
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = list(_parameters(optimizer))
    known = {names[parameter] for parameter in parameters}
    if not by_parameter.keys() <= known:  # a parameter that no step has trained yet (a curriculum) has no state
        _check_names(known, set(by_parameter), "optimizer")
    state = {
        index: {
            key: _placed(tensor, parameter) if tensor.shape == parameter.shape else tensor
            for key, tensor in by_parameter[names[parameter]].items()
        }
        for index, parameter in enumerate(parameters)
        if names[parameter] in by_parameter
    }
    # load_state_dict knows where each optimizer keeps its step counter (fused ones: beside the parameter)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named_tensors(model: nn.Module) -> Iterable[tuple[str, torch.Tensor]]:
    persistent = model.state_dict().keys()
    yield from model.named_parameters()
    yield from ((name, buffer) for name, buffer in model.named_buffers() if name in persistent)


def _parameters(optimizer: torch.optim.Optimizer) -> Iterable[nn.Parameter]:
    return (parameter for group in optimizer.param_groups for parameter in group["params"])


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach()
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).cpu().contiguous()


def _placed(tensor: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    if isinstance(like, DTensor):
        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)


def _todays_names(model: nn.Module, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A model whose weights had other names in earlier versions says so: {old beginning: new beginning}."""
    for old, new in getattr(model, "earlier_names", {}).items():
        tensors = {new + k.removeprefix(old) if k.startswith(old) else k: v for k, v in tensors.items()}
    return tensors


def _check_names(wanted: set[str], found: set[str], what: str) -> None:
    if wanted != found:
        examples = ", ".join(sorted(wanted ^ found)[:5])
        raise ValueError(
            f"The checkpoint's {what} state does not fit this {what}: {len(wanted - found)} names are missing, "
            f"{len(found - wanted)} are unknown (for example {examples}). Choose another output_dir."
        )
