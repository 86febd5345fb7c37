"""No source file of ours has a call that could run what it reads, or an except that hides everything."""

import ast

import pytest
from rooms import MODULES

FORBIDDEN = {"eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "pickle.load", "pickle.loads", "os.system"}


def unsafe_calls(source: str) -> list[str]:
    """What a file does that it may not, one line each."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: except: without a type")
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name in FORBIDDEN:
            found.append(f"line {node.lineno}: {name}")
        owner, _, method = name.rpartition(".")
        keywords = {word.arg: word.value for word in node.keywords}
        if owner.rpartition(".")[2].startswith("Auto") and method in ("from_pretrained", "from_config"):
            trust = keywords.get("trust_remote_code")
            if not (isinstance(trust, ast.Constant) and trust.value is False):
                found.append(f"line {node.lineno}: {name} without trust_remote_code=False")
        shell = keywords.get("shell")
        if shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False):
            found.append(f"line {node.lineno}: {name} through a shell")
    return found


@pytest.mark.parametrize("module", MODULES)
def test_no_file_runs_what_it_reads(module):
    assert unsafe_calls(MODULES[module].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "eval(text)",
        "yaml.load(file)",
        "AutoModel.from_pretrained(name)",
        "transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=flag)",
        "try:\n    f()\nexcept:\n    pass",
        "subprocess.run(words, shell=True)",
    ],
)
def test_the_test_sees(source):
    assert unsafe_calls(source)
