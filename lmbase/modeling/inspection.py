"""What is looked at in a model's folder before anything is built of it.

A folder may be damaged, or written by someone who means harm. So no code of it runs, no pickle is opened, nothing
outside of it is read, and no number in it makes a program allocate more than its weights do.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.utils import cached_file

from lmbase.files import read_json

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
MAX_TENSORS = 50_000
# Numbers of a configuration: those that count blocks or heads with weights of their own, and sizes of what is in them.
COUNTED = re.compile(r"num_.*layers$|n_layer$|num_future_tokens$")
SIZES = re.compile(r".*(_size|_dim|_heads|_width|_states|_tokens|_sentences|_token_id)$|n_embd$|n_inner$|n_head$")
MAX_LABELS = 10_000  # a default configuration of Transformers makes a name for each
SMALLEST_LIMIT = 4096  # settings that are no sizes may have names like theirs
_REMEDY = "the file is damaged, or was not written by save_pretrained. Copy the model again from where it was made."


def inspect_folder(folder: Path) -> None:
    """Look at configuration, index and headers of a model folder.

    Raises:
        ValueError: something in it is damaged or not allowed; the message names the file.
    """
    for path in sorted(folder.iterdir()):
        _check_inside(path)
    config = read_json(folder / CONFIG)
    check_config(config, folder)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{str(folder)!r} holds an adapter (adapter_config.json), which names another model: merge the two and "
            "save the result (merge_and_unload in peft)."
        )
    shapes = _read_shapes(folder)
    if shapes:
        _check_numbers(config, shapes, folder / CONFIG)


def inspect_hub(name: str, **hub_options: Any) -> None:
    """The same for a model on a hub, as far as it can be known before its weights are downloaded."""
    options: dict[str, Any] = dict(hub_options, _raise_exceptions_for_missing_entries=False)
    if config := cached_file(name, CONFIG, **options):
        check_config(read_json(Path(config)), Path(config).parent)
    if index := cached_file(name, INDEX, **options):
        shards(Path(index))


def check_config(config: dict[str, Any], folder: Path) -> None:
    """Refuse a configuration that asks for code of the folder, or for code from elsewhere."""
    kind = config.get("model_type")
    if config.get("auto_map") and kind not in CONFIG_MAPPING:
        raise ValueError(
            f"{str(folder)!r} wants to run code of its own (auto_map in {CONFIG}, model_type {kind!r}), which is never "
            "done here: use a model of a family that Transformers knows."
        )
    for key, value in _walk(config):
        if key.endswith("attn_implementation") and isinstance(value, str) and "/" in value:
            raise ValueError(
                f"{str(folder / CONFIG)!r} asks for attention by code from elsewhere ({value!r}), which is never "
                f"fetched: remove {key} from it."
            )


def shards(index: Path) -> list[str]:
    """The names of the files that an index of sharded weights lists.

    Raises:
        ValueError: a name of another kind of file, or of one outside the folder.
    """
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict):
        raise ValueError(f"{str(index)!r} lists no weights (weight_map): {_REMEDY}")
    names = sorted({str(name) for name in listed.values()})
    for name in names:
        if Path(name).name != name or "\\" in name or not name.endswith(".safetensors"):
            raise ValueError(
                f"{str(index)!r} names {name!r}: weights are read from safetensors files in the same folder and from "
                "nothing else."
            )
    return names


def weight_files(folder: Path) -> list[str]:
    """The names of the files that hold a model's weights; none in a folder without safetensors."""
    if (folder / "model.safetensors").is_file():
        return ["model.safetensors"]
    return shards(folder / INDEX) if (folder / INDEX).is_file() else []


def _read_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in weight_files(folder):
        path = folder / name
        if not path.is_file():
            raise ValueError(f"{str(path)!r} is missing: the folder was copied incompletely. Copy it again.")
        try:
            with safe_open(path, "pt") as file:
                keys = list(file.keys())
                if len(shapes) + len(keys) > MAX_TENSORS:
                    raise ValueError(f"{str(path)!r} has more than {MAX_TENSORS:,} tensors: no model here has as many.")
                for key in keys:
                    tensor = file.get_slice(key)
                    shapes[key] = tuple(tensor.get_shape())
                    if key.endswith(("weight", "bias")) and re.fullmatch(r"[IU](16|32|64)", tensor.get_dtype()):
                        raise ValueError(
                            f"{str(path)!r} holds {key} as whole numbers ({tensor.get_dtype()}): {_REMEDY}"
                        )
        except SafetensorError as error:
            raise ValueError(
                f"{str(path)!r} cannot be read ({error}): it is cut short or damaged. Copy it again."
            ) from None
    return shapes


def _check_numbers(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], path: Path) -> None:
    """No number may promise more than the weights hold: it would be allocated before anything is compared."""
    largest = max((max(shape, default=1) for shape in shapes.values()), default=1)
    for key, value in _walk(config):
        if isinstance(value, bool) or not isinstance(value, int):
            continue
        if COUNTED.match(key):
            limit = len(shapes)
        elif key == "num_labels":
            limit = MAX_LABELS
        elif SIZES.match(key):
            limit = max(largest, SMALLEST_LIMIT)
        else:
            continue
        if value > limit:
            raise ValueError(
                f"{str(path)!r} says {key}={value}, and the weights beside it have {len(shapes)} tensors, the largest "
                f"{largest} wide: {_REMEDY}"
            )


def _check_inside(path: Path) -> None:
    """A link may lead to the blobs of a hub's cache, where such folders are made of links, and nowhere else."""
    folder = path.parent.resolve()
    blobs = folder.parent.parent / "blobs"
    target = path.resolve()
    if path.is_symlink() and not (target.is_relative_to(folder) or target.is_relative_to(blobs)):
        raise ValueError(f"{str(path)!r} is a link that leads out of its folder: copy the file itself to this place.")


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a nested configuration, each with the nearest key above it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk(inner, str(name))
    elif isinstance(value, list):
        for inner in value:
            yield from _walk(inner, key)
    else:
        yield key, value
