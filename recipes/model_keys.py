"""Keys of a recipe that are fields of a model's configuration: name, type, default and meaning stand in that class."""

import inspect
import re
import typing
from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field
from transformers import PreTrainedConfig

from lmbase.config import option

ClassT = TypeVar("ClassT", bound=type)


def with_keys_of(
    model_config: type[PreTrainedConfig], *, without: Collection[str], of_model: bool = False
) -> Callable[[ClassT], ClassT]:
    """Give a recipe's configuration the fields of a model's; to stand below `@dataclass`.

    Args:
        model_config: its constructor has the fields, its docstring their meanings, and its `choices` and
            `least`, where it has them, the values that a field may have.
        without: fields that the recipe sets itself.
        of_model: the recipe may go on with a model: a key that is not given leaves what the model has.
    """

    def add(cls: ClassT) -> ClassT:
        for name, (tp, default, meaning) in _fields(model_config).items():
            if name in without:
                continue
            if of_model:
                tp, meaning = tp | None, f"{meaning} Default: the model's, or {_shown(default)}."
            cls.__annotations__[name] = tp
            setattr(cls, name, option(None if of_model else default, meaning))
        return cls

    return add


def given_keys(config: Any, model_config: type[PreTrainedConfig]) -> dict[str, Any]:
    """The fields of a model's configuration that a recipe's holds a value for."""
    names = [name for name in _fields(model_config) if getattr(config, name, None) is not None]
    return {name: getattr(config, name) for name in names}


def _fields(model_config: type[PreTrainedConfig]) -> dict[str, tuple[Any, Any, str]]:
    """Type, default and meaning of each field."""
    arguments = inspect.signature(model_config.__init__).parameters
    hints, meanings = typing.get_type_hints(model_config.__init__), _meanings(model_config)
    choices, least = (getattr(model_config, name, {}) for name in ("choices", "least"))
    fields = {}
    for name, argument in arguments.items():
        if argument.default is inspect.Parameter.empty:
            continue
        tp = Literal[tuple(choices[name])] if name in choices else hints[name]
        if name in least:
            tp = Annotated[tp, Field(ge=least[name])]
        fields[name] = tp, argument.default, meanings.get(name, "")
    return fields


def _meanings(cls: type) -> dict[str, str]:
    """What the `Args` of a docstring say of each name."""
    block = (inspect.getdoc(cls) or "").partition("Args:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w[\w, ]*): (.*(?:\n {8}.*)*)", block, re.MULTILINE)
    return {name: " ".join(text.split()) for names, text in found for name in names.split(", ")}


def _shown(default: Any) -> str:
    if isinstance(default, bool):  # asked first: 1 equals True
        return str(default).lower()
    return "none" if default is None else str(default)
