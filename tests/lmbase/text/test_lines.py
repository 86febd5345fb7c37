"""Rule `line`: indentation kept, long lines cut at spaces."""

from cutting import assert_cut

from lmbase.text import MAX_LINE, segment


def test_line() -> None:
    assert_cut("def f(x):|\n    return x|\n\n\n\tpass|\r\nend|\n", "line")
    words = "word " * 200
    pieces = segment("    " + words + "\n" + "x" * 1000, "line")
    assert all(len(piece.lstrip()) <= MAX_LINE for piece in pieces)
    assert all(piece.split() == ["word"] * len(piece.split()) for piece in pieces if "x" not in piece)
    assert [len(piece.strip()) for piece in pieces if "x" in piece] == [256, 256, 256, 232]
