"""Any text, by every rule: pieces join to it, none is empty, none but the last ends in a space."""

import atheris

with atheris.instrument_imports(include=["lmbase.text"]):
    from lmbase.text import RULES, segment

from fuzzing import choice, fuzz


def one_input(data: bytes) -> None:
    rule, rest = choice(data, list(RULES))
    text = rest.decode("utf-8", errors="surrogateescape")  # bytes that are no UTF-8 become lone surrogates
    pieces = segment(text, rule)
    assert "".join(pieces) == text
    assert all(pieces)
    assert not any(piece.endswith((" ", "\n", "\t")) for piece in pieces[:-1])


if __name__ == "__main__":
    fuzz("segment", one_input)
