"""Every fault that was seen has a test that would find it again, or stands as open with a reason."""

import pytest
from fault_table import all_tests, ids_of, read_faults

NUMBERS = {"A": 13, "B": 9, "C": 6, "D": 11, "E": 12, "F": 9, "G": 14}
FAULTS = read_faults()


def test_every_fault_is_in_the_table_once():
    ids = [f"{letter}{number}" for letter, last in NUMBERS.items() for number in range(1, last + 1)]
    assert [fault.id for fault in FAULTS] == ids


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.id)
def test_a_fault_has_tests_that_exist_or_a_reason(fault):
    assert set(fault.tests) <= set(all_tests())
    assert fault.what
    assert fault.tests or len(fault.open) > 20


def test_ids_are_read_from_names():
    assert ids_of("a/test_b.py::test_E4_E10_it_is_told") == ["E4", "E10"]
    assert ids_of("test_A5.py::test_a_b5_is_none") == []
