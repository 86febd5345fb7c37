"""What a model cost: its own training and that of every model it was made from, written beside its run."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

from accelerate import PartialState

FILE_NAME = "training.json"


@dataclass
class Training:
    """A finished training run: text tokens read, seconds, floating-point operations; `parents`: where it began."""

    name: str
    tokens: int = 0
    seconds: float = 0.0
    flops: float = 0.0
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
    output_dir: str | Path, tokens: int, seconds: float, flops: float, parents: list[str | None]
) -> None:
    """Write what a run cost into its folder; `parents` are the models it started from (random weights left out)."""
    if not PartialState().is_main_process:
        return
    folder = Path(output_dir)
    known = [read_training(parent) for parent in parents if parent and not parent.startswith("random:")]
    record = Training(folder.name, tokens, round(seconds, 1), flops, [parent for parent in known if parent])
    (folder / FILE_NAME).write_text(json.dumps(asdict(record), indent=2) + "\n", encoding="utf-8")


def read_training(run: str | Path) -> Training | None:
    """The record of a run, or of the run that a folder `RUN/model` belongs to; None for a model from elsewhere."""
    path = Path(run) / FILE_NAME
    if Path(run).name == "model" and not path.is_file():
        path = Path(run).parent / FILE_NAME
    return _from_dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _from_dict(content: dict) -> Training:
    return Training(**{**content, "parents": [_from_dict(parent) for parent in content["parents"]]})
