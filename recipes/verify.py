"""Is a folder whole? Models, runs with their checkpoints, data, teachers' caches, metrics and logs of any folder.

    sllm verify runs/sllm_tiny
    sllm verify runs data/prepared results

Files are compared with the checksums beside them, models are loaded (every weight there, of its shape, a number), data
are read through. Each fault is a line on the screen; the exit status is 0 if there is none, else 1.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lmbase.config import option, run, single_process
from lmbase.files import MANIFEST, verify_once
from lmbase.modeling.inspection import CONFIG
from lmbase.report.collect import read_log
from lmbase.report.rows import read_metrics
from lmbase.training.cost import FILE_NAME as TRAINING
from lmbase.training.cost import read_training
from sllm.loading import load_model
from sllm_data.prepared import STATISTICS, PreparedData
from sllm_data.teacher_cache import TEACHER, TeacherCache

POSITIONAL = "paths"


@dataclass
class Config:
    paths: list[str] = option([], "folders, or single files of metrics; looked through with all that is below them")


@single_process
def main(config: Config) -> None:
    if not config.paths:
        raise ValueError("Nothing to verify: give --paths FOLDER [FOLDER ...], or sllm verify FOLDER.")
    num_checked = num_faults = 0
    for root in map(Path, config.paths):
        if not root.exists():
            raise ValueError(f"{str(root)!r}: there is no such file or folder.")
        found = list(checks(root))
        if not found:  # which must not look like a folder without a fault
            raise ValueError(f"{str(root)!r} holds nothing that can be verified: no model, run, data, metrics or log.")
        for path, check in found:
            num_checked += 1
            try:
                check()
            except ValueError as error:
                num_faults += 1
                print(f"{path}: {' '.join(str(error).split())}")
    print(f"{num_checked} checked, {num_faults or 'no'} fault{'s' * (num_faults != 1)}.")
    if num_faults:
        sys.exit(1)


def checks(root: Path) -> Iterator[tuple[Path, Callable[[], object]]]:
    """Everything at or below `root` that can be checked, with what checks it."""
    for path in sorted(root.rglob("*")) if root.is_dir() else [root]:
        folder = path.parent
        if path.name == MANIFEST:
            yield folder, partial(verify_once, folder)
        elif path.suffix == ".safetensors" and not any((folder / name).is_file() for name in (CONFIG, MANIFEST)):
            yield folder, partial(load_model, str(folder))  # weights that have lost what says what they are
        elif path.name == STATISTICS:
            yield folder, partial(_read_through, folder)
        elif path.name == TEACHER:
            yield folder, partial(TeacherCache.load, folder)
        elif path.name == CONFIG and folder.parent.name != "checkpoints":
            yield folder, partial(load_model, str(folder))
        elif path.name == "metrics.json":
            yield path, partial(read_metrics, path)
        elif path.name == "log.jsonl":
            yield path, partial(read_log, path, folder.name)
        elif path.name == TRAINING:
            yield path, partial(read_training, folder)


def _read_through(folder: Path) -> None:
    data = PreparedData.load(folder)
    for split in data.splits:
        data.split(split)
    assert data.processor is not None


if __name__ == "__main__":
    run(Config, main)
