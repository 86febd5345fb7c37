"""The picture of quality against speed, made from metrics files."""

import re
import xml.etree.ElementTree as ElementTree

import pytest

from lmbase.report.figure import write_figure
from lmbase.report.rows import Row, write_metrics


def write(folder, *rows):
    return write_metrics(folder, rows, config={}, seed=0, wall_seconds=1, corpus=None)


def row(model, bits, speed, **changes):
    return Row(
        model, **{"data": "d", "protocol": "full window", "bits_per_byte": bits, "tokens_per_second": speed} | changes
    )


def test_every_model_with_both_figures_is_a_named_dot(tmp_path):
    first = write(tmp_path / "a", row("opt", 2.1, 1000.0), row("vae", None, 10.0), row("opt", 2.2, 900.0))
    second = write(tmp_path / "b", row("sllm <x>", 2.0, 2000.0), row("paper's", 1.0, 9e4, protocol="published"))
    path = write_figure(tmp_path / "docs" / "new.svg", [first, second])
    source = path.read_text(encoding="utf-8")
    texts = [element.text for element in ElementTree.fromstring(source).iter() if element.tag.endswith("text")]
    assert {"opt", "sllm <x>", "tokens per second"} <= set(texts)
    assert not {"vae", "paper's"} & set(texts)
    assert texts.count("opt") == 1
    assert "var(--" not in source  # it stands alone, on dark pages too
    assert "fill: #ffffff" in source
    assert write_figure(path, [first, second]).read_text(encoding="utf-8") == source


def test_rows_of_a_frontier_have_a_line_through_the_best_token_level_ones(tmp_path):
    told = {"level": "token"}
    rivals = [row("a", 2.1, 1000.0, extra=told), row("b", 2.4, 2000.0, extra=told)]
    sentence = row("s", 2.0, 1500.0, extra={"level": "sentence"})

    def longest(name, *rows):
        source = write_figure(tmp_path / f"{name}.svg", [write(tmp_path / name, *rows)]).read_text(encoding="utf-8")
        return max(re.findall(r' d="(M[^"]*)"', source), key=lambda path: path.count("L"))

    alone, line = longest("one", rivals[0], sentence), longest("both", *rivals, sentence)
    assert alone.count("L") < 5 < line.count("L")
    assert longest("worse", *rivals, sentence, row("c", 2.3, 999.0, extra=told)) == line


@pytest.mark.parametrize(
    ("rows", "name", "message"),
    [
        ([row("opt", 2.1, None)], "a.svg", "has both bits_per_byte and tokens_per_second"),
        ([row("opt", 2.1, 1.0), row("sllm", 2.1, 1.0, data="e")], "a.svg", "d by full window and e by full window"),
        ([row("opt", 2.1, 1.0, bytes=9), row("sllm", 2.1, 1.0, bytes=8)], "a.svg", r"d \(8 bytes\) by full"),
        ([row("opt", 2.1, 1.0)], "a.png", "ends in .svg"),
    ],
)
def test_what_cannot_be_drawn_is_said(tmp_path, rows, name, message):
    metrics = write(tmp_path, *rows)
    with pytest.raises(ValueError, match=message):
        write_figure(tmp_path / name, [metrics])
    assert not (tmp_path / name).exists()
