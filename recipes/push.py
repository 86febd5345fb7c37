"""A model to the Hugging Face Hub, with a card made of its metrics.json: figures, audit, hashes and the command.

    sllm push runs/sllm_tiny you/sllm-tiny --dry_run card/       # writes what would be uploaded, and uploads nothing
    sllm push runs/sllm_tiny you/sllm-tiny --license mit

The figures are those that `sllm evaluate` wrote of these very weights (compared by SHA-256), the row of the baseline
beside them; without them, or without a passed causality audit, nothing is pushed. A repository that has files is never
overwritten. A token comes from `hf auth login` or HF_TOKEN. The card holds paths as the evaluation was given them.
"""

import json
import re
import shlex
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import (
    CommitOperationAdd,
    EvalResult,
    EvalResultEntry,
    HfApi,
    ModelCardData,
    eval_result_entries_to_yaml,
)
from huggingface_hub.errors import HTTPError  # of whichever library the hub's client uses
from huggingface_hub.utils import validate_repo_id

from lmbase.config import option, run, single_process
from lmbase.config.options import recipe_of
from lmbase.config.yaml_files import parse_yaml
from lmbase.files import DISK_FULL, write_text
from lmbase.modeling.folders import model_folder, model_hashes
from lmbase.modeling.pretrained import read_config
from lmbase.modeling.shim import shim_files
from lmbase.report.columns import filled_columns, markdown_table
from lmbase.report.render import render
from lmbase.report.rows import Row, read_metrics
from lmbase.training.cost import FILE_NAME as TRAINING
from lmbase.training.cost import read_training
from sllm.evaluation.kinds import kind_of
from sllm_recipes.evaluate import SHOWN
from sllm_recipes.evaluate import Config as EvaluateConfig

POSITIONAL = ("run", "repo")
OF = recipe_of(EvaluateConfig)  # the recipe whose figures are pushed
Files = dict[str, Path | str]  # name in the repository -> a file here, or a text
SWITCHED = ("true", "false", "yes", "no", "on", "off", "0", "1")  # what nobody calls a folder
# What the Hub is told of a row: its column, and the task.
RESULTS = {"bits_per_byte": "text-generation", "reconstruction_exact_match": "feature-extraction"}


@dataclass
class Config:
    run: str = option("", "the run, or the folder of a model")
    repo: str = option("", "OWNER/NAME on the Hub; it is made if it is not there")
    metrics: str | None = option(None, "the metrics.json with its figures; default: looked for in and beside the run")
    dry_run: str | None = option(None, "a folder for what would be uploaded; nothing is")
    license: str | None = option(None, "of the weights, as the Hub names it: mit, apache-2.0, other ...")
    private: bool = option(False, "a new repository is private")


@single_process
def main(config: Config) -> None:
    if not config.run or not re.fullmatch(r"[\w.-]+/[\w.-]+", config.repo):
        raise ValueError(f"Give sllm push RUN OWNER/NAME, not RUN={config.run!r} and {config.repo!r}.")
    validate_repo_id(config.repo)  # a dry run, too, is told what the Hub calls no name
    if (config.dry_run or "").lower() in SWITCHED:
        raise ValueError(
            f"dry_run={config.dry_run!r} is no switch but the folder for what would be uploaded: give one, card for "
            "instance, or leave the key out to upload."
        )
    folder = Path(model_folder(config.run))
    if not folder.is_dir():
        raise ValueError(f"{config.run!r} is no run and no folder of a model here: there is nothing to push.")
    files = repository(config, folder)
    if config.dry_run is None:
        upload(config, files)
    else:
        write(Path(config.dry_run), files)


def repository(config: Config, folder: Path) -> Files:
    """All that goes into the repository."""
    path, name = find_metrics(config, folder)
    metrics = read_metrics(path)
    rows = rows_of(metrics, name, path)
    files: Files = {file.name: file for file in sorted(folder.iterdir()) if file.is_file() and file.name[0] != "."}
    files |= shim_files(folder)
    files["metrics.json"] = path
    for place in (folder / TRAINING, folder.parent / TRAINING):
        if place.is_file():
            files[TRAINING] = place
    dataset = hub_dataset(metrics["config"]["data"])
    if dataset is not None:  # the Hub's format of today; it knows data sets of its own only
        entries = [EvalResultEntry(dataset, c, v, notes=r.protocol) for r, c, v in results(rows, name)]
        for number, entry in enumerate(eval_result_entries_to_yaml(entries)):
            files[f".eval_results/sllm_{number}.yaml"] = yaml.safe_dump([entry], sort_keys=False)
    files["README.md"] = card(config, folder, metrics, name, rows)
    return files


def find_metrics(config: Config, folder: Path) -> tuple[Path, str]:
    """The newest metrics of these weights, and the model's name in them.

    Raises:
        ValueError: there are none.
    """
    base, weights = folder.parent if folder.name == "model" else folder, model_hashes(folder)
    paths = {*base.rglob("metrics.json"), *base.parent.glob("metrics.json"), *base.parent.glob("*/metrics.json")}
    if config.metrics:
        read_metrics(config.metrics)  # tells what is wrong with it
        named = Path(config.metrics)
        paths = {named / "metrics.json" if named.is_dir() else named}
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        with suppress(ValueError):  # damaged
            metrics = read_metrics(path)
            if metrics.get("recipe", OF) != OF:  # a frontier, a law: figures by other rules, without what a card tells
                continue
            for name, known in (metrics.get("models") or {}).items():
                if weights and known.get("weights") == weights:
                    return path, name
    seen = (
        f"{', '.join(sorted(map(str, paths)))}: of other weights, without hashes, or not of sllm evaluate"
        if paths
        else "no metrics.json in or beside it"
    )
    raise ValueError(
        f"{config.run!r} has no figures ({seen}). Give sllm evaluate --model {shlex.quote(config.run)} BASELINE, which "
        "also audits the model, then this command again with --metrics FILE."
    )


def rows_of(metrics: Mapping[str, Any], name: str, path: Path) -> list[Row]:
    """The rows of the model, and those of the baseline that it was compared with.

    Raises:
        ValueError: none that can be compared with others, or a likelihood without a passed audit.
    """
    own = [row for row in metrics["rows"] if row.model == name and row.comparable]
    if not any(True for _ in results(own, name)):
        raise ValueError(f"{path} has no figure of {name} to publish: evaluate it with --protocol exact.")
    if any(row.bits_per_byte is not None for row in own) and not metrics["models"][name].get("audit_checks"):
        raise ValueError(f"{path}: {name} has not passed the causality audit, so its likelihood means nothing.")
    compared = {row.extra.get("compared_with") for row in own}
    return [row for row in metrics["rows"] if row.model in compared and row.comparable] + own


def results(rows: list[Row], name: str) -> list[tuple[Row, str, float]]:
    """The model's figures for the Hub: row, column, value."""
    found = [(row, column, getattr(row, column)) for row in rows if row.model == name for column in RESULTS]
    return [one for one in found if one[2] is not None]


def card(config: Config, folder: Path, metrics: Mapping[str, Any], name: str, rows: list[Row]) -> str:
    """README.md."""
    corpus, evaluated = metrics["corpus"], metrics["config"]
    kind = kind_of(model_type := read_config(config.run).model_type)
    dataset, split = hub_dataset(evaluated["data"]), corpus.get("split", evaluated["split"])
    data = ModelCardData(
        model_name=config.repo.partition("/")[2],
        library_name="sllm",
        license=config.license,
        pipeline_tag="text-generation" if kind.predicts else "feature-extraction",
        tags=[model_type] if kind.predicts else [model_type, "sentence-transformers"],
        datasets=[dataset] if dataset else None,
        eval_results=[
            EvalResult(
                RESULTS[column], dataset or "text", corpus["name"], column, value, dataset_split=split,
                metric_name=f"{column} ({row.protocol})",
            )
            for row, column, value in results(rows, name)
        ],
    )  # fmt: skip
    default = {field.name: field.default for field in fields(EvaluateConfig)}
    given = {key: v for key, v in evaluated.items() if key in default and v not in (None, default[key])}
    words = [word for key, v in given.items() for word in (f"--{key}", *(v if isinstance(v, list) else [v]))]
    words = [word if isinstance(word, str) else json.dumps(word) for word in words]
    return render(
        "model_card.md",
        metadata=data.to_yaml(),
        repo=config.repo,
        kind=kind,
        model_type=model_type,
        name=name,
        row=next(row for row in rows if row.model == name),
        table=markdown_table(rows, [column for column in SHOWN if column in filled_columns(rows)]),
        audit_checks=metrics["models"][name].get("audit_checks"),
        metrics=metrics,
        split=split,
        command=shlex.join(["sllm", "evaluate", *words]),
        weights=metrics["models"][name]["weights"],
        training=read_training(folder),
    )


def hub_dataset(data: str | list[str]) -> str | None:
    """The id of a data set on the Hub, if that is what was evaluated on or prepared."""
    if isinstance(data, str) and not data.startswith("hub:") and (path := Path(data) / "config.yaml").is_file():
        prepared = parse_yaml(path.read_text(encoding="utf-8"))
        data = prepared.get("data", "") if isinstance(prepared, dict) else ""
    return data.split(":")[1] if isinstance(data, str) and data.startswith("hub:") else None


def write(target: Path, files: Files) -> None:
    """Write them into a folder that is empty or new."""
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        raise ValueError(f"{str(target)!r} is not empty, and nothing is overwritten: name another folder.")
    try:
        for name, content in files.items():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Path):
                shutil.copyfile(content, target / name)
            else:
                write_text(target / name, content)
    except BaseException as error:
        for path in target.iterdir() if target.is_dir() else []:  # or the same command would find them in its way
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if isinstance(error, OSError) and error.errno in DISK_FULL:  # a copy names what was to be copied
            error.filename, error.filename2 = str(target), None
        raise
    print(f"wrote what would be uploaded: {len(files)} files in {target}")


def upload(config: Config, files: Files) -> None:
    """Make the repository and one commit with all files.

    Raises:
        ValueError: it has files already, no valid token, or a hub that does not answer.
    """
    api = HfApi()
    added = [
        CommitOperationAdd(name, content.encode() if isinstance(content, str) else str(content))
        for name, content in files.items()
    ]
    try:
        if api.repo_exists(config.repo) and set(api.list_repo_files(config.repo)) - {".gitattributes"}:
            raise ValueError(f"{config.repo} has files already, and nothing is overwritten: choose another name.")
        api.create_repo(config.repo, private=config.private, exist_ok=True)
        commit = api.create_commit(config.repo, added, commit_message=f"{config.repo} by sllm push")
    except (HTTPError, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        told = f"The Hub refuses {config.repo}" if status else "The Hub cannot be reached"
        remedy = "check the network and try again"
        if status in (401, 403):
            remedy = f"hf auth login, or HF_TOKEN, with a token that may write to {config.repo.partition('/')[0]}"
        raise ValueError(f"{told} ({' '.join(str(error).split())[:200]}): {remedy}.") from error
    print(f"uploaded {len(files)} files: {commit.commit_url}")


if __name__ == "__main__":
    run(Config, main)
