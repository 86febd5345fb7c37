"""What a model cost: its own training and that of every model it was made from, written beside its run.

Beside it stands what each was trained on: code, libraries, hardware and seed.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from accelerate import PartialState

from lmbase.benchmarking.environment import environment
from lmbase.files import CHECKSUM, check_checksum, read_json, with_checksum, write_text
from lmbase.hub import local_name

FILE_NAME = "training.json"


@dataclass
class Training:
    """A finished training run: text tokens read, seconds, floating-point operations.

    `made_on`: git revision, library versions, hardware and seed (None in records of earlier versions).
    `parents`: the runs where it began, each with its own `made_on`.
    """

    name: str
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0
    made_on: dict[str, Any] | None = None
    parents: list["Training"] = field(default_factory=list)

    def runs(self) -> dict[tuple, "Training"]:
        """This run and all it rests on, each once."""
        found = {(self.name, self.tokens, self.seconds): self}
        for parent in self.parents:
            found |= parent.runs()
        return found

    @property
    def total_tokens(self) -> int:
        return sum(run.tokens for run in self.runs().values())

    @property
    def total_seconds(self) -> float:
        return sum(run.seconds for run in self.runs().values())

    @property
    def total_flops(self) -> float:
        return sum(run.flops for run in self.runs().values())


def write_training(
    output_dir: str | Path,
    tokens: int,
    seconds: float,
    flops: float,
    parents: Sequence[str | None],
    *,
    seed: int | None = None,
) -> None:
    """Write what a run cost, and what it was made on, into its folder.

    A finished run whose command is given again keeps the record of when it was trained. What read nothing and rests on
    nothing that is known gets no record, which would say that it cost nothing.

    Args:
        parents: the models it started from (random weights are left out).
        seed: of the weights that were drawn, the order of the data and dropout.
    """
    if not PartialState().is_main_process:
        return
    folder = Path(output_dir)
    written = None
    with suppress(ValueError):  # a damaged record is written anew
        written = read_training(folder)
    if written and (written.tokens, written.seconds) == (tokens, round(seconds, 1)):
        return
    known = [read_training(parent) for parent in parents if parent and not parent.startswith("random:")]
    if not (tokens or flops or any(known)):
        return
    record = Training(
        folder.name,
        tokens,
        round(seconds, 1),
        flops,
        made_on={**environment(), "seed": seed},
        parents=[parent for parent in known if parent],
    )
    write_text(folder / FILE_NAME, json.dumps(with_checksum(asdict(record)), indent=2) + "\n")


def read_training(run: str | Path) -> Training | None:
    """The record of a run, or of the run that a folder `RUN/model` belongs to; None for a model from elsewhere.

    Raises:
        ValueError: the record is damaged.
    """
    path = Path(local_name(str(run))) / FILE_NAME
    if path.parent.name == "model" and not path.is_file():
        path = path.parent.parent / FILE_NAME
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        check_checksum(content)
        content.pop(CHECKSUM, None)
        return _from_dict(content)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): give the command that trained this run again, which writes it anew, or "
            "delete the file; what the model cost is then not known."
        ) from error


def _from_dict(content: dict) -> Training:
    return Training(**{**content, "parents": [_from_dict(parent) for parent in content["parents"]]})
