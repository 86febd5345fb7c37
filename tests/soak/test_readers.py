"""The long tier of tests/sllm_data/test_archives.py: `pytest -m soak tests/soak`."""

from pathlib import Path

import pytest
from damage import wrong_documents


@pytest.mark.soak
@pytest.mark.parametrize("seed", range(1, 11))
def test_A6_random_damage_gives_no_document_that_was_not_there(tmp_path: Path, seed: int) -> None:
    assert list(wrong_documents(tmp_path, 2000, seed)) == []
