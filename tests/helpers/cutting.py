"""What the tests of the segmentation rules share."""

from lmbase.text import segment


def assert_cut(marked: str, rule: str) -> None:
    """`marked` is the text with | where it must be cut."""
    assert segment(marked.replace("|", ""), rule) == marked.split("|")
