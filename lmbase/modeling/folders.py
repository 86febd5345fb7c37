"""From what a user names (a run, a folder, a hub id) to the folder that holds the weights."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME, logging

from lmbase.files import MANIFEST, read_json, sha256s, verify_once
from lmbase.hub import check_source, local_name
from lmbase.modeling.inspection import CONFIG, inspect_folder, inspect_hub

# Of what PyTorch raises where a device is not there, or is full; weights have no part in it.
OF_A_DEVICE = re.compile(r"\b(CUDA|HIP|MPS|XPU|accelerator|allocate memory)\b", re.IGNORECASE)


def model_folder(name: str | Path, model_type: str | None = None, *, verify: bool = True, **hub_options: Any) -> str:
    """`name`/model if it is a finished run, a folder's only GGUF file if it holds no other model, the folder of
    `example:NAME`, else `name` itself (a folder, a GGUF file or a hub id).

    Args:
        verify: compare the files with the folder's manifest, if it has one; False saves the time for reading them.
        hub_options: which files of a hub id: revision, subfolder ...

    Raises:
        ValueError: an unfinished run, nothing there, a local folder without a model or with a damaged one, one that
            would run code, or (with `model_type`) another kind of model.
    """
    name = local_name(str(name))
    check_source(name, **hub_options)
    folder = Path(name)
    if (folder / "model").is_dir() and not hub_options.get("subfolder"):
        folder = folder / "model"
    elif (folder / "checkpoints").is_dir():
        raise ValueError(f"The run {str(name)!r} is not finished: it has checkpoints but no model. Continue it first.")
    if not folder.is_dir():
        if not folder.is_file():
            inspect_hub(name, **hub_options)
        elif folder.suffix.lower() != ".gguf":
            raise ValueError(f"{str(name)!r} is a file: give the folder that it lies in, or a GGUF file.")
        return name
    if model_type is None and not (folder / CONFIG).is_file() and (files := sorted(folder.glob("*.gguf"))):
        if len(files) > 1:
            raise ValueError(f"{str(name)!r} holds {len(files)} GGUF files: name one, {str(files[0])!r} for instance.")
        return str(files[0])
    inner = folder / (hub_options.get("subfolder") or "")
    if not (inner / CONFIG).is_file():
        raise ValueError(f"{str(name)!r} holds no model (no {CONFIG}); give a run's folder or a hub id.")
    if verify and (inner / MANIFEST).is_file():
        verify_once(inner)
    inspect_folder(inner)
    found = read_json(inner / CONFIG).get("model_type")
    if model_type and found != model_type:
        raise ValueError(f"{str(name)!r} holds a model of type {found!r}; {model_type!r} is needed here.")
    return str(folder)


def model_hashes(name: str | Path) -> dict[str, str]:
    """SHA-256 of each file of weights of a model here, and of its configuration; empty for one on a hub."""
    source = Path(model_folder(name))
    inside = [source / CONFIG, *sorted(source.glob("*.safetensors"))]
    paths = inside if source.is_dir() else [source] * source.is_file()
    return dict(zip([path.name for path in paths], sha256s(paths), strict=True))


def gguf_options(source: str) -> dict[str, Any]:
    """What Transformers' loader wants to be told about a GGUF file, whose weights become ordinary ones; empty for
    other sources."""
    path = Path(source)
    if path.suffix.lower() != ".gguf":
        return {}
    if not path.is_file():
        raise ValueError(f"{source!r}: there is no such GGUF file.")
    options: dict[str, Any] = dict(pretrained_model_name_or_path=str(path.parent), gguf_file=path.name)
    if hasattr(transformers, "GgufConfig"):  # versions before it know ordinary weights only
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    return options


@contextmanager
def quiet_loading(spec: str) -> Iterator[None]:
    """Within this context Transformers reports no weights, which callers look at themselves, and what it raises where
    there is no model, or a damaged one, becomes one sentence.

    Args:
        spec: what is loaded, as `model_folder` found it.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    except Exception as error:  # whatever a missing or damaged file leads to
        told = f"({type(error).__name__}: {' '.join(str(error).split())[:300]})"
        if spec.lower().endswith(".gguf"):
            if isinstance(error, ImportError):
                raise ValueError(f"{spec!r} is a GGUF file, which takes the package gguf: pip install gguf.") from error
            raise ValueError(
                f"The GGUF file {spec!r} cannot be read {told}: it is cut short, damaged, or of an architecture that "
                "Transformers does not load. Download it again, or give the model's own folder."
            ) from error
        if isinstance(error, ValueError):
            raise
        if isinstance(error, ImportError):  # of a package that an option takes
            raise ValueError(f"{spec!r} cannot be loaded so: {error}") from error
        if inner := re.search(r"property ('\w+') of .* has no setter", str(error)):
            raise ValueError(
                f"{inner[1]} follows from configurations inside the one in {spec!r}, and cannot be set from outside: "
                "leave it out."
            ) from error
        if unknown := re.search(r"__init__\(\) got an unexpected keyword argument ('\w+')", str(error)):
            raise ValueError(
                f"from_pretrained does not know {unknown[1]}, nor has the configuration in {spec!r} such a field: "
                "leave it out, or correct its name."
            ) from error
        if not isinstance(error, OSError) and (isinstance(error, MemoryError) or OF_A_DEVICE.search(str(error))):
            raise ValueError(
                f"{spec!r} cannot be loaded onto the device that was asked for {told}: name one that is here and has "
                "room (device_map='cpu'), or leave device_map out; dtype='bfloat16' needs half of the memory."
            ) from error
        if not isinstance(error, OSError):
            raise ValueError(f"{spec!r} cannot be loaded {told}: its {CONFIG} or its weights are damaged.") from error
        if not Path(spec).is_dir():
            raise ValueError(f"No model at {spec!r}: it is no folder here, and no hub has it. {error}") from error
        found = {path.name for path in Path(spec).glob("*.safetensors*")}
        if whole := found & {SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME}:
            raise ValueError(
                f"{spec!r} has its weights in {min(whole)}, and others were asked for {told}: leave out what names "
                "them (variant, gguf_file)."
            ) from error
        if found:
            raise ValueError(
                f"{spec!r} has weights of another name, {min(found)}: give the variant that they were saved as "
                "(variant='fp16'), or save the model without one."
            ) from error
        raise ValueError(
            f"{spec!r} has no weights as safetensors, and pickled ones, which can run code, are not loaded: save the "
            "model again with save_pretrained, or convert it."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def check_whole(model: PreTrainedModel, found: dict[str, Any], spec: str, new: tuple[str, ...] = ()) -> None:
    """Raise ValueError unless every weight of a model came from its files, in its shape, and is a number.

    Args:
        found: what Transformers' loader says of it (`output_loading_info`).
        new: beginnings of the names of weights that may be missing: parts that start fresh.
    """
    told = f"{spec!r} does not hold the model that its {CONFIG} describes"
    remedy = "the folder is not whole, or was converted wrongly. Copy or convert it again."
    if missing := [name for name in sorted(found["missing_keys"]) if not name.startswith(new)]:
        raise ValueError(f"{told}: it lacks {len(missing)} weights, {missing[0]} the first; {remedy}")
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise ValueError(f"{told}: {name} has the shape {tuple(stored)} instead of {tuple(wanted)}; {remedy}")
    if more := sorted(found["unexpected_keys"]):
        raise ValueError(f"{told}: it has {len(more)} weights more, {more[0]} the first; {remedy}")
    for name, weight in model.named_parameters():
        if not weight.sum(dtype=torch.float32).isfinite() and not weight.isfinite().all():
            raise ValueError(
                f"{spec!r}: {name} holds NaN or infinite numbers: the training failed, or the file is bad."
            )
