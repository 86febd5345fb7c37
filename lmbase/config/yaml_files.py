"""Configurations in YAML files: reading, writing, and comparing with the one that a run was started with."""

import dataclasses
import difflib
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import to_jsonable_python

from lmbase.config.options import Keys, keys_given_twice, keys_of, own_names
from lmbase.files import write_text


class Loader(yaml.SafeLoader):
    """YAML without its two traps: `1e-4` is a number (YAML 1.1 wants `1.0e-4`), and a key given twice is found."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.twice: list[str] = []  # a line for each key that is given again in one mapping

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        seen: list[Any] = []
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                self.twice.append(f"{key}: given twice, again in line {key_node.start_mark.line + 1}")
            seen.append(key)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Writes what `Loader` reads: the string "1e-4" in quotes."""


for _class in (Loader, _Dumper):
    _exponent = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+0123456789."))


def parse_yaml(text: str) -> Any:
    """The value in a YAML text: plain data only, no key twice. Raises yaml.YAMLError."""
    value, twice = _parse(text)
    if twice:
        raise yaml.YAMLError("; ".join(twice))
    return value


def _parse(text: str) -> tuple[Any, list[str]]:
    """The value, the last one of a key that is given twice, and a line for each such key."""
    loader = Loader(text)
    try:
        return loader.get_single_data(), loader.twice
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply") from None
    finally:
        loader.dispose()


def read_yaml(path: Path, keys: Keys, problems: list[str] | None = None) -> dict[str, Any]:
    """The values in a YAML file, each under its key's own name (dotted where it lies in a nested mapping).

    Args:
        problems: receives a line for each key that is given twice, which else is an error.

    Raises:
        ValueError: the file is not YAML, not a mapping, or gives a key twice; the message names the file.
    """
    try:
        data, twice = _parse(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(data).__name__}")
    values = flatten(data, keys)
    twice = twice + keys_given_twice(values, keys)
    if twice and problems is None:
        raise ValueError(f"{path}: {'; '.join(twice)}")
    if problems is not None:
        problems += [f"{path}: {line}" for line in twice]
    return own_names(values, keys)


def key_lines(path: Path) -> dict[str, int]:
    """The line of each key in a YAML file that can be read, by its dotted name as the file spells it."""
    lines: dict[str, int] = {}
    open_nodes = [("", yaml.compose(path.read_text(encoding="utf-8"), Loader=Loader))]
    while open_nodes:
        prefix, node = open_nodes.pop()
        for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
            name = f"{prefix}{key.value}".replace("-", "_")
            lines.setdefault(name, key.start_mark.line + 1)
            open_nodes.append((f"{name}.", value))
    return lines


def file_layers(values: dict[str, Any], given: dict[str, Any], keys: Keys) -> list[dict[str, Any]]:
    """What a file says, and what it says for the case at hand.

    A file may hold a table `by_KEY` of values that go with certain values of a key, whether the file or the command
    line (`given`) sets that:

        lm: facebook/opt-125m
        learning_rate: 2e-4
        by_lm:
          facebook/opt-1.3b: {learning_rate: 1e-4, micro_batch_size: 1}
    """
    plain = {name: value for name, value in values.items() if not _is_table(name, value, keys)}
    chosen = plain | given
    special: dict[str, Any] = {}
    for name, table in values.items():
        if name not in plain:
            cases = {str(case): entries for case, entries in table.items()}
            special |= flatten(cases.get(str(chosen.get(name.removeprefix("by_"))), {}), keys)
    return [plain, special]


def file_cases(values: dict[str, Any], keys: Keys) -> list[tuple[str, str]]:
    """Each case of a file's tables `by_KEY`: (KEY, value)."""
    tables = [(name.removeprefix("by_"), table) for name, table in values.items() if _is_table(name, table, keys)]
    return [(name, str(case)) for name, table in tables for case in table]


def _is_table(name: str, value: Any, keys: Keys) -> bool:
    return (
        name not in keys
        and name.removeprefix("by_") in keys
        and isinstance(value, dict)
        and all(isinstance(entries, dict) for entries in value.values())
    )


def filled_in(value: Any, values: dict[str, Any], keys: Keys) -> Any:
    """A text in which `{KEY}` stands for the last part of that key's value: with lm=facebook/opt-125m,
    `runs/sllm_{lm}` is runs/sllm_opt-125m."""

    def short(match: re.Match[str]) -> str:
        name = match[1]
        if name not in keys:
            return match[0]
        last = str(values.get(name, keys[name].default)).rstrip("/").rpartition("/")[2]
        return re.sub(r"[^\w.-]", "-", last)

    return re.sub(r"\{(\w+)\}", short, value) if isinstance(value, str) else value


def find_config(name: str, configs: Path | None) -> Path:
    """The YAML file that a command line names: a path, or a shipped one in the folder `configs`, `.yaml` left out."""
    shipped = {path.stem: path for path in sorted(configs.glob("*.yaml"))} if configs and configs.is_dir() else {}
    if Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".yaml").replace("-", "_")
    if stem in shipped:
        return shipped[stem]
    if Path(name).is_dir():
        raise ValueError(
            f"{name!r} is a folder, and what stands first here is a configuration: say which key it is of, --model "
            f"{name} or --data {name} for instance."
        )
    near = difflib.get_close_matches(stem, list(shipped), n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`sllm list` shows the shipped ones."
    raise ValueError(f"{name!r} is neither a file nor a shipped configuration; {hint}")


def config_to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data (what YAML and JSON can hold): tuples become lists, paths strings."""
    return to_jsonable_python(dataclasses.asdict(config))


def save_config(config: Any, path: Path | str) -> None:
    """Write the configuration as YAML. `load_config(cls, [path])` reads the same configuration back. A file that
    somebody wrote by hand, with comments perhaps, keeps lying beside it."""
    path = Path(path)
    if path.is_file() and not _was_saved(path):
        kept = path.with_stem(f"{path.stem}.yours")
        path.replace(kept)
        print(f"{path} was written by hand: it is kept as {kept.name}, and {path.name} holds every key of this run.")
    write_text(path, _shown(config_to_dict(config)))


def _shown(content: Any) -> str:
    return yaml.dump(content, Dumper=_Dumper, sort_keys=False)


def _was_saved(path: Path) -> bool:
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        return text == _shown(parse_yaml(text))
    except (ValueError, yaml.YAMLError):  # damaged, and nothing to keep
        return True


def differing_keys(config: Any, path: Path | str) -> list[str]:
    """What stops `config` from continuing the run whose configuration was saved at `path`.

    Returns:
        One line `key: saved value -> new value` for each key that differs, keys with `may_differ` left out; empty if
        none does.
    """
    keys = keys_of(type(config))
    # A run of an earlier version lacks keys that are new since: it had their defaults.
    defaults = {name: key.default for name, key in keys.items() if key.default is not dataclasses.MISSING}
    saved = to_jsonable_python(defaults) | read_yaml(Path(path), keys)
    new = flatten(config_to_dict(config), keys)
    return [
        f"{name}: {saved.get(name)!r} -> {new.get(name)!r}"
        for name in dict.fromkeys([*saved, *new])
        if saved.get(name) != new.get(name) and not (name in keys and keys[name].may_differ)
    ]


def flatten(data: dict[str, Any], keys: Keys, prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, as far as the keys are nested dataclasses; a dict-valued key stays whole."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        dotted = prefix + str(name).replace("-", "_")
        if isinstance(value, dict) and dotted not in keys and any(other.startswith(dotted + ".") for other in keys):
            flat |= flatten(value, keys, dotted + ".")
        else:
            flat[dotted] = value
    return flat


def nest(flat: dict[str, Any]) -> dict[str, Any]:
    """The inverse of `flatten`."""
    nested: dict[str, Any] = {}
    for name, value in flat.items():
        *outer, last = name.split(".")
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested
