"""What a model's copy on a hub carries, so that Transformers loads it without its package being imported before."""

import json
from pathlib import Path

from transformers import PreTrainedModel

from lmbase.files import read_json, write_text
from lmbase.modeling.inspection import CONFIG

# Classes of its own: Transformers saves the file that they stand in beside each copy of a model of them.
SHIM = """# This model is read by the package {package}: install it. Who imports it does not need this file.
import {package}

class {config}({package}.{config}):
    __init__ = {package}.{config}.__init__  # Transformers makes a new one otherwise

class {model}({package}.{model}):
    config_class = {config}
"""


def write_shim(folder: Path, model_class: type[PreTrainedModel]) -> None:
    """Put a few lines of code beside a saved model, which import its package, and name them in config.json.

    Nobody who imported the package runs them. A folder's manifest, if it has one, must be written after this.
    """
    assert model_class.config_class is not None, "models here name their configuration's class"
    package = model_class.__module__.partition(".")[0]
    module, model, config = f"modeling_{package}", model_class.__name__, model_class.config_class.__name__
    write_text(folder / f"{module}.py", SHIM.format(package=package, model=model, config=config))
    settings = read_json(folder / CONFIG)
    settings["auto_map"] = {"AutoConfig": f"{module}.{config}", "AutoModel": f"{module}.{model}"}
    if model_class.can_generate():
        settings["auto_map"]["AutoModelForCausalLM"] = f"{module}.{model}"
    write_text(folder / CONFIG, json.dumps(settings, indent=2, sort_keys=True) + "\n")
