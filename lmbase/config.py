"""One configuration from three layers: a dataclass's defaults, then a YAML file, then `--key value` on the command line.

A recipe writes its keys once, as a dataclass whose fields are made by `option(default, "meaning")`. Everything else
follows from it: validation, `--help`, the copy saved with the run. Unknown keys are refused, and all that is wrong is
told in one message.
"""

import copy
import dataclasses
import difflib
import errno
import functools
import hashlib
import inspect
import json
import os
import re
import sys
import textwrap
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

ConfigT = TypeVar("ConfigT")


def option(default: Any, help: str, *, may_differ: bool = False) -> Any:
    """A configuration key. Lists, dicts and dataclasses may be given as the default; each configuration gets its own
    copy.

    Args:
        help: one sentence, shown by `--help`.
        may_differ: the key says how a run is carried out or shown, not what comes out of it, so that a run may be
            continued with another value.
    """
    metadata = {"help": help, "may_differ": may_differ}
    if isinstance(default, list | dict | set) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=functools.partial(copy.deepcopy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def load_config(cls: type[ConfigT], argv: Sequence[str], configs: Path | None = None) -> ConfigT:
    """Build `cls` from `[CONFIG] [--key value ...]`.

    Args:
        cls: a dataclass, whose fields may be dataclasses (`--outer.inner value`).
        argv: CONFIG is the path of a YAML file or the name of a shipped one. `--key value`, `--key=value`, `--key`
            alone for true, `--key a b c` for a list; `-` and `_` are the same inside keys.
        configs: the folder of shipped YAML files.

    Raises:
        ValueError: names every unknown key (with the nearest known ones) and every value of a wrong type, all together.
        SystemExit: 0, after `--help` was printed.
    """
    if any(word in ("-h", "--help") for word in argv):
        print(describe(cls))
        raise SystemExit(0)
    words = list(argv)
    config_path = _find_config(words.pop(0), configs) if words and not words[0].startswith("--") else None

    known = dict(_keys(cls))
    problems: list[str] = []
    sources: dict[str, str] = {}
    values: dict[str, Any] = {}
    layers = [(_flatten(_read_yaml(config_path), known), config_path.name)] if config_path else []
    layers.append((_parse_command_line(words, known, problems), "command line"))
    for layer, source in layers:
        for key, value in layer.items():
            if key in known:
                values[key], sources[key] = value, source
            else:
                problems.append(f"{key} = {value!r} ({source}): unknown key{_nearest(key, known)}")

    try:
        config = TypeAdapter(cls).validate_python(_nest(values))
    except ValidationError as error:
        problems += _explain(error, known, sources)
    if problems:
        raise ValueError("The configuration is not valid:\n" + "\n".join(f"  {line}" for line in problems))
    return config


def config_to_dict(config: Any) -> dict[str, Any]:
    """The configuration as plain data (what YAML and JSON can hold): tuples become lists, paths strings."""
    return _plain(dataclasses.asdict(config))


def save_config(config: Any, path: Path | str) -> None:
    """Write the configuration as YAML. `load_config(cls, [path])` reads the same configuration back."""
    path = Path(path)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(yaml.safe_dump(config_to_dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    beside.replace(path)


def config_hash(config: Any) -> str:
    """Sixteen hexadecimal digits that change with any value of the configuration."""
    return hashlib.sha256(json.dumps(config_to_dict(config), sort_keys=True).encode()).hexdigest()[:16]


def differing_keys(config: Any, path: Path | str) -> list[str]:
    """What stops `config` from continuing the run whose configuration was saved at `path`.

    Returns:
        One line `key: saved value -> new value` for each key that differs, keys with `may_differ` left out; empty if
        none does.
    """
    known = dict(_keys(type(config)))
    saved = _flatten(_read_yaml(Path(path)), known)
    new = _flatten(config_to_dict(config), known)
    return [
        f"{key}: {saved.get(key)!r} -> {new.get(key)!r}"
        for key in dict.fromkeys([*saved, *new])
        if saved.get(key) != new.get(key) and not (key in known and known[key].metadata.get("may_differ"))
    ]


def describe(cls: type) -> str:
    """The text of `--help`: the recipe's docstring and every key with its type, default and meaning."""
    module = sys.modules[cls.__module__]
    name = Path(getattr(module, "__file__", None) or cls.__name__).stem.replace("_", "-")
    lines = [inspect.cleandoc(module.__doc__ or cls.__doc__ or ""), ""]
    lines += [f"usage: sllm {name} [CONFIG] [--key value ...]", "", "keys:"]
    for key, field in _keys(cls):
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = field.default
        shown = "required" if default is dataclasses.MISSING else f"default {default!r}"
        lines.append(f"  --{key}  ({_type_name(field.type)}, {shown})")
        lines += textwrap.wrap(field.metadata.get("help", ""), 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def run(cls: type[ConfigT], main: Callable[[ConfigT], Any], argv: Sequence[str] | None = None) -> None:
    """Run a recipe from the command line: read the configuration, call `main`, turn a user's mistake into one message.

    Leaves with status 2 after a ValueError, OSError or FloatingPointError (a traceback only with SLLM_TRACEBACK=1),
    with 130 after Ctrl-C. Shipped YAML files are looked for in the folder `configs` beside the module of `cls`.
    """
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    try:
        configs = Path(inspect.getfile(cls)).parent / "configs"
        main(load_config(cls, sys.argv[1:] if argv is None else argv, configs))
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SLLM_TRACEBACK") == "1":
            traceback.print_exc()
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            where = f" at {error.filename}" if error.filename else ""
            message = f"No space is left on the disk{where}. Free some, then give the same command again: it continues."
        else:
            message = str(error) or type(error).__name__
        print(f"{rank}error: {message}\n(SLLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"{rank}interrupted", file=sys.stderr)
        raise SystemExit(130) from None


# --- keys and types --------------------------------------------------------------------------------------------------


def _keys(cls: type, prefix: str = "") -> Iterator[tuple[str, dataclasses.Field]]:
    """Dotted key and field of every leaf; each field's `type` is resolved to the type itself."""
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        resolved = copy.copy(field)
        resolved.type = hints[field.name]
        if dataclasses.is_dataclass(resolved.type):
            yield from _keys(typing.cast(type, resolved.type), f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, resolved


def _alternatives(tp: Any) -> list[Any]:
    """The members of a union, without `Annotated`: `list[str] | str | None` -> [list[str], str, NoneType]."""
    if typing.get_origin(tp) is typing.Annotated:
        return _alternatives(typing.get_args(tp)[0])
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return [inner for member in typing.get_args(tp) for inner in _alternatives(member)]
    return [tp]


_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}  # attributes of pydantic's constraints, e.g. of PositiveInt


def _type_name(tp: Any) -> str:
    if typing.get_origin(tp) is typing.Annotated:
        inner, *constraints = typing.get_args(tp)
        bounds = [(sign, getattr(c, name, None)) for c in constraints for name, sign in _BOUNDS.items()]
        return " ".join([_type_name(inner), *(f"{sign} {bound}" for sign, bound in bounds if bound is not None)])
    if typing.get_origin(tp) is typing.Literal:
        return " | ".join(map(str, typing.get_args(tp)))
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return " | ".join(map(_type_name, typing.get_args(tp)))
    if tp is type(None):
        return "null"
    return tp.__name__ if isinstance(tp, type) and not typing.get_args(tp) else str(tp)


def _nearest(key: str, known: typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(key, list(known), n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "; --help lists the known keys"


def _explain(error: ValidationError, known: dict[str, dataclasses.Field], sources: dict[str, str]) -> list[str]:
    """One line for each key that pydantic refused; the branches of a union are told as one."""
    lines: dict[str, str] = {}
    for detail in error.errors():
        path = [str(part) for part in detail["loc"]]
        key = next((".".join(path[:n]) for n in range(len(path), 0, -1) if ".".join(path[:n]) in known), "")
        if not key:  # raised by a __post_init__, which checks keys against each other
            lines[detail["msg"]] = detail["msg"].removeprefix("Value error, ")
        elif detail["type"] == "missing" and len(detail["loc"]) == len(key.split(".")):
            lines[key] = f"{key}: a value is required ({_type_name(known[key].type)})"
        elif key not in lines:
            value, source = detail["input"], sources.get(key, "default")
            expected = _type_name(known[key].type)
            lines[key] = (
                f"{key} = {value!r} ({source}): expected {expected}; {detail['msg'][0].lower()}{detail['msg'][1:]}"
            )
    return list(lines.values())


# --- YAML ------------------------------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """YAML without its two traps: `1e-4` is a number (YAML 1.1 wants `1.0e-4`), and a key given twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = sorted({str(key) for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(None, None, f"given twice: {', '.join(twice)}", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$"), list("-+0123456789.")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ValueError(f"{path} must hold `key: value` lines, not a {type(data).__name__}")
    return data


def _find_config(name: str, configs: Path | None) -> Path:
    shipped = {path.stem: path for path in sorted(configs.glob("*.yaml"))} if configs and configs.is_dir() else {}
    if Path(name).is_file():
        return Path(name)
    stem = name.removesuffix(".yaml").replace("-", "_")
    if stem in shipped:
        return shipped[stem]
    near = difflib.get_close_matches(stem, list(shipped), n=5, cutoff=0.4)
    hint = f"did you mean {', '.join(near)}?" if near else "`sllm list` shows the shipped ones."
    raise ValueError(f"{name!r} is neither a file nor a shipped configuration; {hint}")


# --- keys from the command line, flat and nested ---------------------------------------------------------------------


def _parse_command_line(words: list[str], known: dict[str, dataclasses.Field], problems: list[str]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    while words:
        word = words.pop(0)
        if not word.startswith("--"):
            problems.append(f"{word!r} (command line): expected --key value; the configuration file comes first of all")
            continue
        key, equals, value = word[2:].partition("=")
        key = key.replace("-", "_")
        texts = [value] if equals else []
        while not equals and words and not words[0].startswith("--"):
            texts.append(words.pop(0))
        tp = known[key].type if key in known else str
        kinds = _alternatives(tp)
        takes_list = any(typing.get_origin(kind) in (list, tuple) for kind in kinds)
        if not texts:
            if bool not in kinds and key in known:
                problems.append(f"--{key} (command line): a value is missing; expected {_type_name(tp)}")
            else:
                given[key] = True
        elif len(texts) > 1 and takes_list:
            given[key] = [_parse_value(text, kinds) for text in texts]
        elif len(texts) > 1 and key in known:
            problems.append(f"--{key} {' '.join(texts)} (command line): one value is expected ({_type_name(tp)})")
        else:
            parsed = _parse_value(texts[0], kinds)
            wrap = takes_list and str not in kinds and not isinstance(parsed, list | None)
            given[key] = [parsed] if wrap else parsed
    return given


def _parse_value(text: str, kinds: list[Any]) -> Any:
    """Read a word of the command line as YAML, but leave it alone where the key wants a string: `--model 007` stays
    "007".
    """
    if type(None) in kinds and text.lower() in ("none", "null", ""):
        return None
    if kinds == [str]:
        return text
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    if str in kinds or any(str in typing.get_args(kind) for kind in kinds):
        return value if type(value) in [typing.get_origin(kind) or kind for kind in kinds] else text
    return text if value is None else value


def _flatten(data: dict[str, Any], known: dict[str, dataclasses.Field], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys, as far as the keys are nested dataclasses; a dict-valued key stays whole."""
    flat: dict[str, Any] = {}
    for name, value in data.items():
        key = prefix + str(name).replace("-", "_")
        if isinstance(value, dict) and key not in known and any(other.startswith(key + ".") for other in known):
            flat |= _flatten(value, known, key + ".")
        else:
            flat[key] = value
    return flat


def _nest(flat: dict[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *outer, last = key.split(".")
        inner = nested
        for part in outer:
            inner = inner.setdefault(part, {})
        inner[last] = value
    return nested


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
