"""A run's folder belongs to one configuration and one text: config.yaml, log.jsonl, checkpoints/, model/."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from lmbase.config import differing_keys, save_config
from lmbase.files import MANIFEST, clean_up
from lmbase.training.checkpoint import list_checkpoints, newest_checkpoint, read_state
from lmbase.training.cost import FILE_NAME as LINEAGE
from lmbase.training.runlog import log_records
from lmbase.training.trackers import WANDB_RUN
from lmbase.training.training_config import TrainingConfig

CHECKPOINTS, MODEL, LOG, CONFIG = "checkpoints", "model", "log.jsonl", "config.yaml"
EARLIER = ".before_restart"  # holds the run that --resume restart replaces, until the new one has a checkpoint


def begins_anew(folder: Path, config: TrainingConfig) -> bool:
    """Whether a training in a folder will begin at its first step, with the weights that it is given."""
    return config.resume == "restart" or not (newest_checkpoint(folder / CHECKPOINTS)[0] or (folder / MODEL).exists())


def claim_folder(folder: Path, config: TrainingConfig, data_hash: str | None) -> str | None:
    """Write the configuration into a folder, after putting aside the run in it if the configuration says so. Returns
    what there is to say about it.

    Raises:
        ValueError: it holds a run of another configuration, or one whose checkpoints are gone, or is no run's folder.
    """
    if (folder / MANIFEST).exists():
        raise ValueError(
            f"output_dir={str(folder)!r} is a folder of something else, data or a model ({MANIFEST} says what is in "
            "it), whose files a run would replace: choose another output_dir."
        )
    for place in (folder, folder / CHECKPOINTS):
        clean_up(place)
    said = None
    if config.resume == "restart":
        said = _put_aside(folder)
    saved, checkpoints = folder / CONFIG, folder / CHECKPOINTS
    begun = (folder / LOG).exists() or (folder / MODEL).exists() or bool(list_checkpoints(checkpoints))
    differences = differing_keys(config, saved) if begun and saved.exists() else []
    moved = [line for line in differences if line.startswith("data: ")]
    if moved and data_hash and _data_hash(checkpoints) == data_hash:  # the same data, in another place
        differences = [line for line in differences if line not in moved]
    if differences:
        raise ValueError(
            f"{folder} holds a run of another configuration:\n  "
            + "\n  ".join(differences)
            + "\nChoose another output_dir, or delete that run and begin again with --resume restart."
        )
    steps = max((record["step"] for record in log_records(folder / LOG)), default=0)
    if not list_checkpoints(checkpoints):
        if (folder / MODEL).exists() or (steps and not checkpoints.exists()):
            raise ValueError(
                f"{folder} holds a run{f' of {steps} steps' if steps else ''} whose checkpoints are gone, and nothing "
                "is trained anew unasked: put them back, choose another output_dir, or begin again (--resume restart)."
            )
        if steps:
            said = f"{folder} has a log of {steps} steps and no checkpoint yet: the run begins again."
    checkpoints.mkdir(parents=True, exist_ok=True)
    save_config(replace(config, resume="auto"), saved)  # the file begins or continues a run, and deletes none
    return said


def _put_aside(folder: Path) -> str | None:
    """Move a run that has something to lose; one that has not is deleted."""
    names = (CHECKPOINTS, MODEL, LOG, CONFIG, LINEAGE, WANDB_RUN)
    kept = (folder / MODEL).exists() or bool(list_checkpoints(folder / CHECKPOINTS))
    for path in [folder / name for name in names if (folder / name).exists()]:
        target = folder / EARLIER / path.name if kept else None
        if target is not None:
            target.parent.mkdir(exist_ok=True)
            _delete(target)
            path.rename(target)
        else:
            _delete(path)
    if not (folder / EARLIER).exists():
        return None
    return f"The run that was here is kept in {folder / EARLIER} until the new one has a checkpoint."


def forget_earlier(folder: Path) -> None:
    """The run has a checkpoint: what it replaces may go."""
    _delete(folder / EARLIER)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _data_hash(checkpoints: Path) -> str | None:
    newest, _ = newest_checkpoint(checkpoints)
    return read_state(newest).get("data_hash") if newest else None


def check_same_data(
    folder: Path, state: Mapping[str, Any], num_items: int, data_hash: str | None, earlier_hash: str | None
) -> None:
    """
    Args:
        earlier_hash: what earlier versions wrote for the same data.

    Raises:
        ValueError: a checkpoint's state says that the run was trained on other data.
    """
    if state["num_items"] != num_items:
        raise ValueError(
            f"{folder} was trained on {state['num_items']} items, the data now has {num_items}: "
            "it was prepared anew or changed. Choose another output_dir."
        )
    saved_hash = state.get("data_hash")  # checkpoints of earlier versions have none
    if saved_hash and data_hash and saved_hash not in (data_hash, earlier_hash):
        raise ValueError(
            f"{folder} was trained on other data (SHA-256 {saved_hash[:8]}, now {data_hash[:8]}): they were prepared "
            "anew from changed files or with another tokenizer, rule or sentence length, or they or the teacher were "
            "replaced. Choose another output_dir, or delete that run and begin again with --resume restart."
        )
