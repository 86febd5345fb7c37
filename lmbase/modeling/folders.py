"""From what a user names (a run, a folder, a hub id) to the folder that holds the weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import transformers
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from lmbase.files import MANIFEST, verify_folder

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

_whole: dict[Path, list[tuple[str, int, int]]] = {}  # folders that verified in this process, as they looked then


def model_folder(name: str | Path, model_type: str | None = None) -> str:
    """`name`/model if it is a finished run, a folder's only GGUF file if it holds no other model, else `name` itself (a
    folder, a GGUF file or a hub id).

    Raises:
        ValueError: an unfinished run, a local folder without a model or with a damaged one, or (with `model_type`)
            another kind of model.
    """
    folder = Path(name)
    if (folder / "model").is_dir():
        folder = folder / "model"
    elif (folder / "checkpoints").is_dir():
        raise ValueError(f"The run {str(name)!r} is not finished: it has checkpoints but no model. Continue it first.")
    if not folder.is_dir():
        return str(name)  # a hub id, or a GGUF file
    if model_type is None and not (folder / "config.json").is_file() and (files := sorted(folder.glob("*.gguf"))):
        if len(files) > 1:
            raise ValueError(f"{str(name)!r} holds {len(files)} GGUF files: name one, {str(files[0])!r} for instance.")
        return str(files[0])
    if (folder / MANIFEST).is_file():
        _verify_once(folder.resolve())
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{str(name)!r} holds no model (no config.json); give a run's folder or a hub id.")
    found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    if model_type and found != model_type:
        raise ValueError(f"{str(name)!r} holds a model of type {found!r}; {model_type!r} is needed here.")
    return str(folder)


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
    except ImportError as error:
        if "gguf" not in str(error).lower():
            raise
        raise ValueError(f"{spec!r} is a GGUF file, which takes the package gguf: pip install gguf.") from error
    except OSError as error:
        if Path(spec).is_dir():
            raise ValueError(
                f"{spec!r} has no weights as safetensors, and pickled ones, which can run code, are not loaded: save "
                "the model again with save_pretrained, or convert it."
            ) from error
        raise ValueError(f"No model at {spec!r}: it is no folder here, and no hub answered for it. {error}") from error
    except Exception as error:
        if not spec.lower().endswith(".gguf"):
            raise
        raise ValueError(
            f"The GGUF file {spec!r} cannot be read ({type(error).__name__}: {error}): it is cut short, damaged, or of "
            "an architecture that Transformers does not load. Download it again, or give the model's own folder."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def load_with_more(kind: type[ModelT], folder: str, config: PreTrainedConfig, new: tuple[str, ...]) -> ModelT:
    """A model, perhaps with parts that its folder has not: those whose names begin with one of `new`.

    Raises:
        ValueError: other weights are missing.
    """
    with quiet_loading(folder):
        loaded: Any = kind.from_pretrained(folder, config=config, output_loading_info=True)
    model, found = loaded
    if missing := [name for name in sorted(found["missing_keys"]) if not name.startswith(new)]:
        raise ValueError(
            f"{folder!r} lacks {len(missing)} weights of the model that its config.json describes, {missing[0]} the "
            "first: the folder is not whole. Copy it again."
        )
    return model


def _verify_once(folder: Path) -> None:
    """`verify_folder`, unless it found this folder whole before and no file has another size or date since: hashing
    gigabytes takes seconds, and one command names a folder two or three times."""
    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    look = [(str(path), status.st_size, status.st_mtime_ns) for path, status in files]
    if _whole.get(folder) != look:
        verify_folder(folder)
        _whole[folder] = look  # as it was before it was read: what changes meanwhile is noticed
