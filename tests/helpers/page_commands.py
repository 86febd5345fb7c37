"""The commands that pages and the headers of configurations tell their readers to type."""

import re
from collections.abc import Iterator

FENCED = re.compile(r"^```(\S*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:\A|\n)\n((?:    .*\n|\n)+)")
LOOP = re.compile(r"^for (\w+) in ([^\n]*); do\n(.*?)^done$", re.MULTILINE | re.DOTALL)
# First words of the blocks that show something else than commands.
SHOWN = ("text       He left.", "nats = sum", "the system's message", "manifest.json", "recipes/  ")


def blocks(page: str) -> Iterator[str]:
    """Blocks of a page that are no listings in a language of their own, in order: indented ones lose their indent."""
    fenced = {found.start(): found for found in FENCED.finditer(page)}
    blank = FENCED.sub(lambda found: re.sub(".", " ", found[0]), page)
    indented = {found.start(1): found[1] for found in INDENTED.finditer(blank) if found[1].strip()}
    for start in sorted(fenced.keys() | indented.keys()):
        if start in indented:
            yield re.sub("^    ", "", indented[start], flags=re.MULTILINE).strip() + "\n"
        elif fenced[start][1] in ("", "sh", "bash"):
            yield fenced[start][2]


def header(configuration: str) -> Iterator[str]:
    """The first line of a YAML file's opening comment, and the lines that are indented in it, as blocks."""
    lines = re.match(r"(#.*\n)*", configuration)
    assert lines
    text = re.sub(r"^# ?", "", lines[0], flags=re.MULTILINE)
    yield text.partition("\n")[0]
    yield from re.findall(r"((?:^  .*\n)+)", text, re.MULTILINE)


def _unrolled(loop: re.Match) -> str:
    return "".join(loop[3].replace(f"${loop[1]}", value) for value in loop[2].split())


def spans(text: str) -> list[str]:
    """Commands in the running text, `sllm NAME ...`; not those whose recipe is left open."""
    return re.findall(r"`sllm ([a-z][^`\[]*)`", re.sub(r"\n(# )?", " ", text))


def commands(parts: Iterator[str]) -> list[str]:
    """The commands of blocks, in order: one line each, without comments, loops unrolled and variables
    filled in."""
    found: list[str] = []
    variables: dict[str, str] = {}
    for block in parts:
        if block.startswith(SHOWN):
            continue
        block = LOOP.sub(_unrolled, re.sub(r"\\\n\s*", "", block))
        for line in block.splitlines():
            line = re.split(r"(?:\s|^)#|(?<=\S)\s{3,}(?=\w)", line)[0].strip()  # `command          what it is for`
            line = re.sub(r"\$(\w+)", lambda name: variables.get(name[1], name[0]), line)
            if assigned := re.fullmatch(r"([A-Z]+)=(\"?)(.*)\2", line):
                variables[assigned[1]] = assigned[3]
            else:
                found += [command for command in line.split(" && ") if command]
    return found
