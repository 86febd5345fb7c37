"""What several recipes are tried on, made once in a process."""

import pytest
from families import MAKERS
from small_runs import make_runs
from tiny import make_processor, make_vae


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Runs of every recipe; tests add runs under names of their own and change none."""
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def kinds(tmp_path_factory):
    """A model of every kind on a llama-like trunk, and a text."""
    folder = tmp_path_factory.mktemp("kinds")
    for name, make in (MAKERS | {"vae": lambda family: make_vae()}).items():
        make("llama").save_pretrained(folder / name)
        make_processor().tokenizer.save_pretrained(folder / name)
    (folder / "test.txt").write_text("One, two, three. Four and five! Six.")
    return folder
