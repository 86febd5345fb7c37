"""Keys of a configuration: a dataclass writes each once, with `option(default, "meaning")`; the rest is read off it."""

import copy
import dataclasses
import difflib
import functools
import sys
import types
import typing
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

Seed = Annotated[int, Field(ge=0, lt=2**64)]  # as torch's generators take them
Decay = Annotated[float, Field(ge=0, lt=1)]  # what a moving average keeps of itself

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}  # attributes of pydantic's constraints, e.g. of PositiveInt


def option(default: Any, help: str, *, also: str = "", may_differ: bool = False, prose: bool = False) -> Any:
    """A configuration key. A default may be a list, dict or dataclass; each configuration gets its own copy.

    Args:
        help: one sentence, shown by `--help`.
        also: another name that files and command lines may use for this key, such as the one it had in an earlier
            version. Only this key's own name is written.
        may_differ: the key says how a run is carried out or shown, not what comes out of it, so that a run may be
            continued with another value.
        prose: the value is a text that someone writes, or a list of such, and is taken as it stands: none, null and
            brackets are part of it.
    """
    metadata = {"help": help, "also": also, "may_differ": may_differ, "prose": prose}
    if isinstance(default, list | dict | set) or dataclasses.is_dataclass(default):
        return dataclasses.field(default_factory=functools.partial(copy.deepcopy, default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Key:
    """One key of a configuration class. `default` is `dataclasses.MISSING` where a value is required."""

    type: Any
    default: Any
    help: str = ""
    also: str = ""
    may_differ: bool = False
    prose: bool = False


Keys = Mapping[str, Key]


def keys_of(cls: type) -> dict[str, Key]:
    """The keys of a configuration class by name; those of a dataclass inside it have dotted names: `outer.inner`."""
    return dict(_keys(cls, ""))


def _keys(cls: type, prefix: str) -> Iterator[tuple[str, Key]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    for field in dataclasses.fields(cls):
        tp = hints[field.name]
        if dataclasses.is_dataclass(tp):
            yield from _keys(typing.cast(type, tp), f"{prefix}{field.name}.")
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        metadata = dict(field.metadata)
        if metadata.get("also"):
            metadata["also"] = prefix + metadata["also"]
        yield prefix + field.name, Key(tp, default, **metadata)


def recipe_of(cls: type) -> str:
    """The name of the recipe whose keys these are: that of the file where the class is."""
    module = sys.modules[cls.__module__]
    return Path(getattr(module, "__file__", None) or cls.__name__).stem.replace("_", "-")


def own_names(values: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    """`values` with each key under its own name, not under its other one."""
    renamed = {key.also: name for name, key in keys.items() if key.also}
    return {renamed.get(name, name): value for name, value in values.items()}


def keys_given_twice(values: Mapping[str, Any], keys: Keys) -> list[str]:
    """A line for each key that is given under both of its names."""
    both = [(key.also, name) for name, key in keys.items() if name in values and key.also in values]
    return [f"`{also}=` beside `{name}=`: two names of one key; give one of them" for also, name in both]


def choice_faults(config: Any, choices: Mapping[str, Collection[str]]) -> list[str]:
    """A line for each field whose value is none of its choices."""
    wrong = [(name, known) for name, known in choices.items() if getattr(config, name) not in known]
    return [f"{name}={getattr(config, name)!r}: choose {' or '.join(known)}" for name, known in wrong]


def least_faults(config: Any, least: Mapping[str, float]) -> list[str]:
    """A line for each field whose value is below the least that it may have; one that is None has none."""
    values = {name: getattr(config, name) for name in least}
    return [f"{name}={x}: at least {least[name]}" for name, x in values.items() if x is not None and x < least[name]]


def nearest_names(name: str, keys: Keys) -> str:
    """The end of a message about an unknown key: the known ones that look like it."""
    known: Iterable[str] = [*keys, *(key.also for key in keys.values() if key.also)]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; did you mean {' or '.join(near)}?" if near else "; --help lists the known keys"


def members(tp: Any) -> list[Any]:
    """The members of a union, without `Annotated`: `list[str] | str | None` -> [list[str], str, NoneType]."""
    if typing.get_origin(tp) is typing.Annotated:
        return members(typing.get_args(tp)[0])
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return [inner for member in typing.get_args(tp) for inner in members(member)]
    return [tp]


def type_name(tp: Any) -> str:
    """A type as messages and `--help` show it: `int > 0`, `fp32 | bf16`, `str | null`."""
    if typing.get_origin(tp) is typing.Annotated:
        inner, *constraints = typing.get_args(tp)
        bounds = [(sign, getattr(c, name, None)) for c in constraints for name, sign in _BOUNDS.items()]
        return " ".join([type_name(inner), *(f"{sign} {bound}" for sign, bound in bounds if bound is not None)])
    if typing.get_origin(tp) is typing.Literal:
        return " | ".join(map(str, typing.get_args(tp)))
    if typing.get_origin(tp) in (typing.Union, types.UnionType):
        return " | ".join(map(type_name, typing.get_args(tp)))
    if typing.get_origin(tp) in (list, tuple):
        inside = ", ".join("..." if inner is ... else type_name(inner) for inner in typing.get_args(tp))
        return f"list of {inside}" if typing.get_origin(tp) is list else f"tuple[{inside}]"
    if tp is type(None):
        return "null"
    return tp.__name__ if isinstance(tp, type) and not typing.get_args(tp) else str(tp)
