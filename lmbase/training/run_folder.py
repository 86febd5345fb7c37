"""A run's folder belongs to one configuration and one text: config.yaml, log.jsonl, checkpoints/, model/."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lmbase.config import differing_keys, save_config
from lmbase.training.cost import FILE_NAME as LINEAGE
from lmbase.training.training_config import TrainingConfig


def claim_folder(folder: Path, config: TrainingConfig) -> None:
    """Write the configuration into a folder, after emptying it if the configuration says so.

    Raises:
        ValueError: it holds a run of another configuration.
    """
    saved = folder / "config.yaml"
    if config.resume == "restart":
        for name in ("checkpoints", "model"):
            shutil.rmtree(folder / name, ignore_errors=True)
        for name in ("log.jsonl", "config.yaml", LINEAGE):
            (folder / name).unlink(missing_ok=True)
    begun = any((folder / name).exists() for name in ("log.jsonl", "checkpoints", "model"))
    differences = differing_keys(config, saved) if begun and saved.exists() else []
    if differences:
        raise ValueError(
            f"{folder} holds a run of another configuration:\n  "
            + "\n  ".join(differences)
            + "\nChoose another output_dir, or delete that run and begin again with --resume restart."
        )
    folder.mkdir(parents=True, exist_ok=True)
    save_config(config, saved)


def check_same_data(folder: Path, state: Mapping[str, Any], num_items: int, data_hash: str | None) -> None:
    """
    Raises:
        ValueError: a checkpoint's state says that the run was trained on other data.
    """
    if state["num_items"] != num_items:
        raise ValueError(
            f"{folder} was trained on {state['num_items']} items, the data now has {num_items}: "
            "it was prepared anew or changed. Choose another output_dir."
        )
    saved_hash = state.get("data_hash")  # checkpoints of earlier versions have none
    if saved_hash and data_hash and saved_hash != data_hash:
        raise ValueError(
            f"{folder} was trained on other text (SHA-256 {saved_hash[:8]}, now {data_hash[:8]}): the "
            "data were prepared anew from changed files, or replaced. Choose another output_dir, or delete that "
            "run and begin again with --resume restart."
        )
