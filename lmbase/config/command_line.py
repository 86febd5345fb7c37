"""One configuration from three layers: a dataclass's defaults, a YAML file, then `--key value` on the command line.

Unknown keys are refused, and all that is wrong is told in one message.
"""

import dataclasses
import inspect
import math
import re
import shlex
import sys
import textwrap
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from lmbase.config.options import (
    Key,
    Keys,
    keys_given_twice,
    keys_of,
    members,
    nearest_names,
    own_names,
    recipe_of,
    type_name,
)
from lmbase.config.yaml_files import file_layers, filled_in, find_config, nest, parse_yaml, read_yaml

ConfigT = TypeVar("ConfigT")


_DASHES = re.compile("--")
_KEY = re.compile(r"--[A-Za-z][\w.-]*(=|\Z)")


class Faults(ValueError):
    """All that is wrong with a configuration, a line each."""

    def __init__(self, lines: list[str]) -> None:
        self.lines = lines
        super().__init__("The configuration is not valid:\n" + "\n".join(f"  {line}" for line in lines))


def load_config(cls: type[ConfigT], argv: Sequence[str], configs: Path | None = None) -> ConfigT:
    """Build `cls` from `[CONFIG] [--key value ...]`.

    Args:
        cls: a dataclass, whose fields may be dataclasses (`--outer.inner value`).
        argv: CONFIG is the path of a YAML file or the name of a shipped one. `--key value`, `--key=value`, `--key`
            alone for true, `--key a b c` for a list; `-` and `_` are the same inside keys. Of a key that is given
            again, as by `$ARGS` at the end of a script, the last value counts; a list is given once.
        configs: the folder of shipped YAML files.

    Raises:
        ValueError: names every unknown key (with the nearest known ones) and every value of a wrong type, all together.
        SystemExit: 0, after `--help` was printed.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(describe(cls))
        raise SystemExit(0)
    words = list(argv)
    config_path = find_config(words.pop(0), configs) if words and not words[0].startswith("--") else None

    keys = keys_of(cls)
    given, problems = parse_words(words, keys)
    layers = []
    if config_path:
        layers = [
            (values, config_path.name) for values in file_layers(read_yaml(config_path, keys, problems), given, keys)
        ]
    layers.append((given, "command line"))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer, source in layers:
        for name, value in layer.items():
            if name in keys:
                values[name], sources[name] = value, source
            else:
                problems.append(f"{name} = {value!r} ({source}): unknown key{nearest_names(name, keys)}")

    values = {name: value if keys[name].prose else filled_in(value, values, keys) for name, value in values.items()}
    try:
        config = TypeAdapter(cls).validate_python(nest(values))
    except ValidationError as error:
        problems += _explain(error, keys, sources)
    for name, value in values.items():
        if _is_misread(value, members(keys[name].type)):
            expected = f"expected {type_name(keys[name].type)}; true, nan and inf are none"
            problems.append(f"{name} = {value!r} ({sources[name]}): {expected}")
        if _is_empty(value, keys[name]):
            problems.append(
                f"{name} = {value!r} ({sources[name]}): an empty name; a variable without a value? Leave the key out "
                "for its default; `.` is the current folder"
            )
    if problems:
        raise Faults(problems)
    vars(config)["_given_on_command_line"] = frozenset(given)  # no field, so it is neither compared nor saved
    return config


def given_on_command_line(config: Any) -> frozenset[str]:
    """The keys, under their own names, that `load_config` read from the command line rather than from a file.

    They are what the user said last, so of two keys that decide the same thing the one in this set wins. Empty for a
    configuration that was made in code.
    """
    return vars(config).get("_given_on_command_line", frozenset())


def describe(cls: type) -> str:
    """The text of `--help`: the recipe's docstring and every key with its type, default and meaning."""
    module = sys.modules[cls.__module__]
    name = recipe_of(cls)
    lines = [inspect.cleandoc(module.__doc__ or cls.__doc__ or ""), ""]
    lines += [f"usage: sllm {name} [CONFIG] [--key value ...]", "", "keys:"]
    for key_name, key in keys_of(cls).items():
        shown = "required" if key.default is dataclasses.MISSING else f"default {key.default!r}"
        also = f"; also --{key.also}" if key.also else ""
        lines.append(f"  --{key_name}  ({type_name(key.type)}, {shown}{also})")
        lines += textwrap.wrap(key.help, 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def parse_words(words: Sequence[str], keys: Keys) -> tuple[dict[str, Any], list[str]]:
    """(values, problems): what `--key value ...` gives each key, and a line for each word that cannot be read.

    Unknown keys are among the values, as they are in a file's.
    """
    rest = list(words)
    other_names = {key.also: name for name, key in keys.items() if key.also}
    given: dict[str, Any] = {}
    problems = []
    while rest:
        word = rest.pop(0)
        if not word.startswith("--"):
            problems.append(f"{word!r} (command line): expected --key value; the configuration file comes first of all")
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        texts = [value] if equals else []
        key = keys.get(other_names.get(name, name))
        if name in given and key and _lists(members(key.type)):  # else the first, as of models, are left out unsaid
            problems.append(f"--{name} (command line): given twice; give this list once, with all its values behind it")
        while not equals and rest and not (_KEY if key and key.prose else _DASHES).match(rest[0]):
            texts.append(rest.pop(0))
        if key and key.prose and texts and _lists(members(key.type)):
            given[name] = texts
        elif key and key.prose and texts:
            given[name] = text = " ".join(texts)
            if not equals and (len(texts) > 1 or text.startswith("--")):
                problems.append(
                    f"--{name} (command line): a text of several words is quoted, and one that begins with -- comes "
                    f"after an equals sign: --{name}={shlex.quote(text)}"
                )
        elif key is None:
            given[name] = " ".join(texts)
        elif not texts and bool in members(key.type):
            given[name] = True
        elif not texts:
            problems.append(f"--{name} (command line): a value is missing; expected {type_name(key.type)}")
        elif len(texts) > 1 and str in members(key.type) and not _lists(members(key.type)):
            problems.append(
                f"--{name} (command line): takes one value, and {shlex.join(texts[1:])} stands behind {texts[0]!r}: a "
                "value with spaces is quoted; a prompt or configuration comes before all keys"
            )
        else:
            given[name] = value_of(texts, key.type)
    problems += [f"{line} (command line)" for line in keys_given_twice(given, keys)]
    return own_names(given, keys), problems


def value_of(texts: list[str], tp: Any) -> Any:
    """The value that the words after a key stand for. Several make a list; so does one where only a list will do."""
    kinds = members(tp)
    if type(None) in kinds and len(texts) == 1 and texts[0].lower() in ("none", "null"):
        return None
    lists = _lists(kinds)
    if lists and texts[0].startswith("["):
        return _from_yaml(" ".join(texts), kinds)
    if len(texts) > 1 or (lists and str not in kinds):
        return [_from_yaml(text, _items(kinds)) for text in texts]
    return _from_yaml(texts[0], kinds)


def _lists(kinds: list[Any]) -> list[Any]:
    return [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]


def _items(kinds: list[Any]) -> list[Any]:
    """What the items of the lists and tuples among `kinds` may be."""
    return [inner for kind in _lists(kinds) for argument in typing.get_args(kind) for inner in members(argument)]


def _is_misread(value: Any, kinds: list[Any]) -> bool:
    """Whether a value, or one in a list, would be taken for a number that it is not (true for 1), or for one that
    nothing can be reckoned with: NaN, infinity, 1e400."""
    if isinstance(value, list):
        return any(_is_misread(item, _items(kinds)) for item in value)
    if isinstance(value, bool):
        return bool not in kinds
    try:
        return float in kinds and str not in kinds and not math.isfinite(float(value))
    except OverflowError:
        return True
    except (TypeError, ValueError):  # told by pydantic, if it is not one of other kinds
        return False


def _is_empty(value: Any, key: Key) -> bool:
    """Whether a value, or one in a list, is a text without a letter, which as a path would be the current folder."""
    return "" in (value if isinstance(value, list) else [value]) and not key.prose and key.default != ""


def _from_yaml(text: str, kinds: list[Any]) -> Any:
    """A word read as YAML, but left alone where the key wants just that text: `--model 007` stays "007"."""
    if all(kind in (str, Path, type(None)) for kind in kinds):
        return text
    try:
        value = parse_yaml(text)
    except yaml.YAMLError:
        return text
    takes_text = str in kinds or any(isinstance(choice, str) for kind in kinds for choice in typing.get_args(kind))
    if value is None or (takes_text and type(value) not in [typing.get_origin(kind) or kind for kind in kinds]):
        return text
    return value


def _explain(error: ValidationError, keys: Keys, sources: dict[str, str]) -> list[str]:
    """One line for each key that pydantic refused; the branches of a union are told as one."""
    lines: dict[str, str] = {}
    for detail in error.errors():
        path = [str(part) for part in detail["loc"]]
        name = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in keys), "")
        if not name:  # raised by a __post_init__, which checks keys against each other
            lines[detail["msg"]] = detail["msg"].removeprefix("Value error, ")
        elif detail["type"] == "missing" and len(path) == len(name.split(".")):
            lines[name] = f"{name}: a value is required ({type_name(keys[name].type)})"
        elif name not in lines:
            value, source, expected = detail["input"], sources.get(name, "default"), type_name(keys[name].type)
            reason = detail["msg"][0].lower() + detail["msg"][1:]
            place = next((part for part in detail["loc"] if isinstance(part, int)), None)
            reason += f", at entry {place + 1}" if place is not None else ""
            lines[name] = f"{name} = {value!r} ({source}): expected {expected}; {reason}"
    return list(lines.values())
