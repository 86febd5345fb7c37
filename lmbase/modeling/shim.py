"""What a model's copy on a hub carries, so that Transformers loads it without its package being imported before."""

import hashlib
import json
from pathlib import Path
from typing import cast

from transformers import MODEL_MAPPING, PreTrainedModel

from lmbase.files import MANIFEST, read_json, write_text
from lmbase.modeling.inspection import CONFIG
from lmbase.modeling.pretrained import read_config

# Classes of its own: Transformers saves the file that they stand in beside each copy of a model of them.
SHIM = """# This model is read by the package {package}: install it. Who imports it does not need this file.
import {package}

class {config}({package}.{config}):
    __init__ = {package}.{config}.__init__  # Transformers makes a new one otherwise

class {model}({package}.{model}):
    config_class = {config}
"""


def shim_files(folder: Path) -> dict[str, str]:
    """Files that a saved model's copy on a hub has more, or otherwise, by name: a few lines of code that import its
    package, config.json, which names them, and the manifest, if there is one. None for Transformers' own models.

    Nobody who imported the package runs that code.
    """
    model_class = cast(type[PreTrainedModel], MODEL_MAPPING[type(read_config(str(folder)))])
    package, config_class = model_class.__module__.partition(".")[0], model_class.config_class
    if package == "transformers":
        return {}
    assert config_class is not None, "models here name their configuration's class"
    module, model, config = f"modeling_{package}", model_class.__name__, config_class.__name__
    settings = read_json(folder / CONFIG)
    settings["auto_map"] = {"AutoConfig": f"{module}.{config}", "AutoModel": f"{module}.{model}"}
    if model_class.can_generate():
        settings["auto_map"]["AutoModelForCausalLM"] = f"{module}.{model}"
    files = {f"{module}.py": SHIM.format(package=package, model=model, config=config)}
    files[CONFIG] = json.dumps(settings, indent=2, sort_keys=True) + "\n"
    if (folder / MANIFEST).is_file():
        known = {name: content.encode() for name, content in files.items()}
        entries = {n: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for n, c in known.items()}
        files[MANIFEST] = json.dumps(read_json(folder / MANIFEST) | entries, indent=1) + "\n"
    return files


def write_shim(folder: Path) -> None:
    """Put them into the folder itself."""
    for name, content in shim_files(folder).items():
        write_text(folder / name, content)
