"""Any bytes as one file of a folder that is loaded: the folder is loaded, or a ValueError says what is wrong."""

import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
with atheris.instrument_imports(include=["lmbase", "sllm_data"]):
    from mutations import KINDS, Kind, model
from fuzzing import choice, fuzz
from tiny import make_mtp, make_opt, make_processor, make_sllm, make_vae
from transformers.utils import logging

logging.disable_progress_bar()


def make_heads():
    heads = make_mtp()
    heads.tokenizer = make_processor().tokenizer
    return heads


MODELS = {"opt": make_opt, "heads": make_heads, "sllm": make_sllm, "vae": make_vae}
FOLDERS: dict[str, Kind] = {name: model(make, manifest=False) for name, make in MODELS.items()}
FOLDERS |= {name: KINDS[name] for name in ("files of a run", "prepared data", "checkpoint")}
WHERE = Path(tempfile.mkdtemp())
for name, kind in FOLDERS.items():
    kind.make(WHERE / name)
FILES = {
    f"{name}/{path.relative_to(WHERE / name)}": path.read_bytes()
    for name in FOLDERS
    for path in sorted((WHERE / name).rglob("*"))
    if path.is_file() and path.suffix != ".arrow"
}


def one_input(data: bytes) -> None:
    file, rest = choice(data, list(FILES))
    (WHERE / file).write_bytes(rest)
    name = file.partition("/")[0]
    try:
        FOLDERS[name].load(WHERE / name)
    except ValueError:
        pass
    finally:
        (WHERE / file).write_bytes(FILES[file])


if __name__ == "__main__":
    fuzz("folders", one_input)
