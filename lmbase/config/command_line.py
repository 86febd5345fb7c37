"""One configuration from three layers: a dataclass's defaults, a YAML file, then `--key value` on the command line.

A recipe writes its keys once, as a dataclass whose fields are made by `option(default, "meaning")`. Everything else
follows from it: validation, `--help`, the copy saved with the run. Unknown keys are refused, and all that is wrong is
told in one message.
"""

import copy
import dataclasses
import difflib
import functools
import inspect
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

from lmbase.files import DISK_FULL, write_text
from lmbase.processes import leave_processes

ConfigT = TypeVar("ConfigT")
MainT = TypeVar("MainT", bound=Callable[..., Any])


def option(default: Any, help: str, *, may_differ: bool = False) -> Any:
    """A configuration key. A default may be a list, dict or dataclass; each configuration gets its own copy.

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
    write_text(Path(path), yaml.dump(config_to_dict(config), Dumper=_Dumper, sort_keys=False))


def differing_keys(config: Any, path: Path | str) -> list[str]:
    """What stops `config` from continuing the run whose configuration was saved at `path`.

    Returns:
        One line `key: saved value -> new value` for each key that differs, keys with `may_differ` left out; empty if
        none does.
    """
    known = dict(_keys(type(config)))
    # A run of an earlier version lacks keys that are new since: it had their defaults.
    defaults = {key: _plain(_default(field)) for key, field in known.items()}
    saved = defaults | _flatten(_read_yaml(Path(path)), known)
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
        default = _default(field)
        shown = "required" if default is dataclasses.MISSING else f"default {default!r}"
        lines.append(f"  --{key}  ({_type_name(field.type)}, {shown})")
        lines += textwrap.wrap(field.metadata.get("help", ""), 112, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)


def single_process(main: MainT) -> MainT:
    """Marks a recipe whose work is done once: of the processes that `torchrun` started, `run` goes on in the first."""
    main.single_process = True  # type: ignore[attr-defined]
    return main


def run(cls: type[ConfigT], main: Callable[[ConfigT], Any], argv: Sequence[str] | None = None) -> None:
    """Run a recipe from the command line: read the configuration, call `main`, turn a user's mistake into one message.

    Leaves with status 2 after a ValueError, OSError or FloatingPointError (a traceback only with SLLM_TRACEBACK=1),
    with 130 after Ctrl-C. Shipped YAML files are looked for in the folder `configs` beside the module of `cls`.
    """
    if getattr(main, "single_process", False):
        if int(os.environ.get("RANK", "0")) > 0:
            return
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
            os.environ.pop(name, None)  # or something below would wait for the processes that have left
    rank = f"rank {os.environ['RANK']}: " if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    try:
        configs = Path(inspect.getfile(cls)).parent / "configs"
        config = load_config(cls, sys.argv[1:] if argv is None else argv, configs)
        if "transformers" in sys.modules:  # its bars for loading one small file would hide what a recipe says
            sys.modules["transformers"].utils.logging.disable_progress_bar()
        main(config)
        if rank:
            leave_processes()
    except BrokenPipeError:  # whoever read the output has gone: `sllm list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(141) from None
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("SLLM_TRACEBACK") == "1":
            traceback.print_exc()
        print(f"{rank}error: {_message(error)}\n(SLLM_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"{rank}interrupted", file=sys.stderr)
        raise SystemExit(130) from None


def _message(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in DISK_FULL and error.strerror == os.strerror(error.errno):
        where = f"{error.filename}: " if error.filename else ""  # unless it was put into words where it happened
        return f"{where}No space is left on the disk. Free some, then give the same command again."
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


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


def _default(field: dataclasses.Field) -> Any:
    """A key's default; MISSING where a value is required."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


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


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads: the string "1e-4" in quotes."""


for _class in (_Loader, _Dumper):
    _exponent = re.compile(r"^[-+]?(\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE][-+]?\d+$")
    _class.add_implicit_resolver("tag:yaml.org,2002:float", _exponent, list("-+0123456789."))


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
        if key not in known:
            given[key] = " ".join(texts)  # reported by the caller, as the unknown keys of a file are
            continue
        tp = known[key].type
        if not texts and bool in _alternatives(tp):
            given[key] = True
        elif not texts:
            problems.append(f"--{key} (command line): a value is missing; expected {_type_name(tp)}")
        else:
            given[key] = _parse_words(texts, tp)
    return given


def _parse_words(texts: list[str], tp: Any) -> Any:
    """The value that the words after a key stand for. Several make a list; so does one where only a list will do."""
    kinds = _alternatives(tp)
    if type(None) in kinds and len(texts) == 1 and texts[0].lower() in ("none", "null"):
        return None
    lists = [kind for kind in kinds if typing.get_origin(kind) in (list, tuple)]
    if lists and texts[0].startswith("["):
        return _parse_yaml(" ".join(texts), kinds)
    if len(texts) > 1 or (lists and str not in kinds):
        items = [inner for kind in lists for argument in typing.get_args(kind) for inner in _alternatives(argument)]
        return [_parse_yaml(text, items) for text in texts]
    return _parse_yaml(texts[0], kinds)


def _parse_yaml(text: str, kinds: list[Any]) -> Any:
    """A word read as YAML, but left alone where the key wants just that text: `--model 007` stays "007"."""
    if all(kind in (str, Path, type(None)) for kind in kinds):
        return text
    try:
        value = yaml.load(text, Loader=_Loader)
    except yaml.YAMLError:
        return text
    takes_text = str in kinds or any(isinstance(choice, str) for kind in kinds for choice in typing.get_args(kind))
    if value is None or (takes_text and type(value) not in [typing.get_origin(kind) or kind for kind in kinds]):
        return text
    return value


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
