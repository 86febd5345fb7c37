"""Coverage-guided fuzzing with atheris (`pip install -e '.[soak]'`): what the scripts beside this file share.

    python tests/soak/fuzz_segment.py -max_total_time=3600

The first byte of an input chooses what it is taken for, the rest is it. The search begins at seeds/NAME; what it finds
of interest is kept in runs/fuzz/NAME, and an input that breaks a promise is written there as crash-...
"""

import sys
from collections.abc import Callable
from pathlib import Path

import atheris

HERE = Path(__file__).parent
LONGEST = 20_000  # bytes of an input


def fuzz(name: str, one_input: Callable[[bytes], None]) -> None:
    """Search for an input at which `one_input` raises; options of libFuzzer come from the command line."""
    found = HERE.parents[1] / "runs" / "fuzz" / name
    found.mkdir(parents=True, exist_ok=True)
    options = [
        f"-artifact_prefix={found}/",
        f"-max_len={LONGEST}",
        "-timeout=60",
        "-len_control=0",
        *sys.argv[1:],
    ]
    atheris.Setup([sys.argv[0], *options, str(found), str(HERE / "seeds" / name)], one_input)
    atheris.Fuzz()


def choice(data: bytes, choices: list[str]) -> tuple[str, bytes]:
    """What the first byte chooses (letters from "A" on), and the rest."""
    return choices[(data[0] - ord("A")) % len(choices)] if data else choices[0], data[1:]
