"""Tables in Markdown."""

from hypothesis import given
from hypothesis import strategies as st

from lmbase.report.columns import markdown_table
from lmbase.report.rows import Row
from lmbase.report.tables import Table


def test_numbers_stand_right_and_the_best_are_bold():
    table = Table(["run", "tokens"], [["a", "1"], ["b", "2"]], numeric={1}, best={(1, 1)})
    assert table.markdown == "| run | tokens |\n|---|---:|\n| a | 1 |\n| b | **2** |\n"


@given(st.text(max_size=30), st.text(max_size=30))
def test_no_text_breaks_a_table(name, note):
    lines = markdown_table([Row(name, extra={"note": note})]).splitlines()
    assert len(lines) == 3
    unescaped = lines[2].replace("\\\\", "").replace("\\|", "")
    assert unescaped.count("|") == 3
