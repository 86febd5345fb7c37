"""The notebook runs from its first cell to its last, with few steps of training, and shows what it says."""

import ast

import nbclient
import nbformat
import pytest
from rooms import ROOT

TOUR = ROOT / "docs" / "tour.ipynb"


@pytest.fixture(scope="module")
def tour(tmp_path_factory):
    notebook = nbformat.read(TOUR, as_version=4)
    folder = tmp_path_factory.mktemp("tour")
    with pytest.MonkeyPatch.context() as patch:
        text = ROOT / "tests" / "data" / "golden" / "text"
        quick = f"--max_steps 2 --data {text} --tokenizer bpe:300 --eval_sentences 16 --eval_every 1"
        patch.setenv("TOUR_TRAINING", quick)
        nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    return notebook


def shown(notebook, kind):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def test_the_tour_is_taken(tour):
    assert len(shown(tour, "image/png")) == 3
    tables = shown(tour, "text/markdown")
    assert len(tables) == 4
    assert "| SLLM |" in tables[0]
    printed = shown(tour, "text/plain")
    assert "generated_text" in "".join(printed)
    whole, parts = next(ast.literal_eval(text) for text in printed if text.startswith("("))
    assert whole == pytest.approx(parts, rel=1e-5)


def test_no_outputs_are_kept():
    assert [cell.id for cell in nbformat.read(TOUR, as_version=4).cells if cell.get("outputs")] == []
