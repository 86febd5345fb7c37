"""From what a user names (a run, a folder, a hub id) to the folder that holds the weights."""

import json
from pathlib import Path
from typing import Any, TypeVar

from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from lmbase.files import MANIFEST, verify_folder

ModelT = TypeVar("ModelT", bound=PreTrainedModel)

_whole: dict[Path, list[tuple[str, int, int]]] = {}  # folders that verified in this process, as they looked then


def model_folder(name: str | Path, model_type: str | None = None) -> str:
    """`name`/model if it is a finished run, else `name` itself (a folder or a hub id).

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
        return str(name)  # a hub id
    if (folder / MANIFEST).is_file():
        _verify_once(folder.resolve())
    config = folder / "config.json"
    if not config.is_file():
        raise ValueError(f"{str(name)!r} holds no model (no config.json); give a run's folder or a hub id.")
    found = json.loads(config.read_text(encoding="utf-8")).get("model_type")
    if model_type and found != model_type:
        raise ValueError(f"{str(name)!r} holds a model of type {found!r}; {model_type!r} is needed here.")
    return str(folder)


def load_with_more(kind: type[ModelT], folder: str, config: PreTrainedConfig, new: tuple[str, ...]) -> ModelT:
    """A model, perhaps with parts that its folder has not: those whose names begin with one of `new`.

    Raises:
        ValueError: other weights are missing.
    """
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # Transformers would report them
    try:
        loaded: Any = kind.from_pretrained(folder, config=config, output_loading_info=True)
    finally:
        logging.set_verbosity(verbosity)
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
