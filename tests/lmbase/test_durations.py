"""Time spans in their two largest units."""

import pytest

from lmbase.durations import duration


@pytest.mark.parametrize(
    ("seconds", "expected"), [(4.24, "4.2 s"), (59.99, "1 min 00 s"), (185, "3 min 05 s"), (7_790, "2 h 09 min")]
)
def test_a_time_span_has_its_two_largest_units(seconds, expected):
    assert duration(seconds) == expected
