"""Keys: what a dataclass tells about them."""

import dataclasses
from typing import Literal

import pytest
from pydantic import NonNegativeFloat, PositiveInt
from toy_config import Config

from lmbase.config import load_config
from lmbase.config.options import keys_given_twice, keys_of, members, nearest_names, own_names, type_name

KEYS = keys_of(Config)


@dataclasses.dataclass
class Bare:
    path: str


def test_keys_of_a_nested_dataclass_have_dotted_names():
    assert list(KEYS)[4:7] == ["inner.width", "inner.rate", "quick"]
    assert (KEYS["inner.width"].default, KEYS["inner.width"].also) == (3, "inner.breadth")
    assert KEYS["log_every"].may_differ
    assert keys_of(Bare)["path"].default is dataclasses.MISSING


def test_a_key_is_known_by_its_own_name_and_its_other_one():
    assert own_names({"net": "a", "inner.breadth": 2, "sizes": []}, KEYS) == {
        "model": "a",
        "inner.width": 2,
        "sizes": [],
    }
    assert keys_given_twice({"net": "a", "sizes": []}, KEYS) == []
    (line,) = keys_given_twice({"net": "a", "model": "b"}, KEYS)
    assert line.startswith("`net=` beside `model=`")
    assert "net or" in nearest_names("nett", KEYS) or "net?" in nearest_names("nett", KEYS)


@pytest.mark.parametrize(
    ("tp", "shown", "kinds"),
    [
        (PositiveInt, "int > 0", [int]),
        (NonNegativeFloat | None, "float >= 0 | null", [float, type(None)]),
        (list[str] | str, "list of str | str", [list[str], str]),
        (list[PositiveInt], "list of int > 0", [list[PositiveInt]]),  # F15
        (Literal["fp32", "bf16"], "fp32 | bf16", [Literal["fp32", "bf16"]]),
    ],
)
def test_types_are_shown_as_a_user_would_write_them(tp, shown, kinds):
    assert type_name(tp) == shown
    assert members(tp) == kinds


def test_defaults_are_not_shared():
    first, second = load_config(Config, []), load_config(Config, [])
    first.sizes.append(3)
    first.inner.width = 99
    assert second.sizes == [1, 2]
    assert second.inner.width == 3
