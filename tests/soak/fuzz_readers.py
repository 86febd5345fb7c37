"""Any bytes as a file of every format, compressed or not: documents or reasons, and no exception."""

import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["sllm_data"]):
    from sllm_data import archives
    from sllm_data.readers import READERS, Document, Skip, read_file

from fuzzing import choice, fuzz

SUFFIXES = [
    kind + compression
    for kind, reader in READERS.items()
    for compression in ["", *(archives.CODECS if reader.may_be_compressed else [])]
]
archives.BLOCK = 1000  # borders of blocks in every file
FOLDER = Path(tempfile.mkdtemp())


def one_input(data: bytes) -> None:
    suffix, rest = choice(data, SUFFIXES)
    path = FOLDER / f"file{suffix}"
    path.write_bytes(rest)
    for item in read_file(path, path.name, "text"):
        assert isinstance(item, Document | Skip)
        assert item.name.startswith("file")
        assert isinstance(item, Skip) or isinstance(item.text, str)


if __name__ == "__main__":
    fuzz("readers", one_input)
