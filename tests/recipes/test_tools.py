"""`sllm show`, `copy`, `check`, `env`, `completion`: what a user asks of configurations and of the machine."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from small_runs import refused

from lmbase.config import load_config
from sllm_recipes import cli, tools, train_lm

ROOT = Path(__file__).parents[2]
FAULTY = """# sllm train-lm
lm: random:tiny
lerning_rate: 1
batch_size: many
lm: x
context: 12.5
by_lm:
  a: {batch_size: 0, foo: 3}
"""


def test_what_is_shown_is_the_same_configuration_with_every_key(tmp_path, capsys):
    cli.main(["show", "lm_opt", "--lm", "facebook/opt-350m"])
    text = capsys.readouterr().out
    (tmp_path / "all.yaml").write_text(text)
    shown = load_config(train_lm.Config, [str(tmp_path / "all.yaml")])
    assert shown == load_config(train_lm.Config, ["lm_opt", "--lm", "facebook/opt-350m"], tools.CONFIGS)
    assert set(yaml.safe_load(text)) == {name for name in vars(shown) if not name.startswith("_")}
    assert "(float > 0, default 0.0003)\nlearning_rate: 5.0e-05" in text
    cli.main(["check", str(tmp_path / "all.yaml")])
    cli.main(["show", "train-lm"])
    assert "learning_rate: 0.0003" in capsys.readouterr().out


def test_what_the_recipe_refuses_is_not_shown(capsys):
    wrong = {"lm_demo": ["context", "eval_windows"], "vae_demo": ["eval_sentences", "train_tokens"]}
    wrong["evaluate_tiny"] = ["max_documents", "new_tokens"]
    for config, keys in wrong.items():
        for key in keys:
            with pytest.raises(SystemExit) as end:
                cli.main(["show", config, f"--{key}", "-3"])
            assert end.value.code == 2
            assert f"{key} = -3 (command line): expected int > 0" in capsys.readouterr().err


def test_a_copy_that_finds_no_room_leaves_nothing_in_the_way_of_the_next(tmp_path, monkeypatch, capsys):
    def full(file):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lmbase.files.sync", full)
        told = refused(f"copy lm_tiny {tmp_path}/a.yaml", capsys)
    assert told.startswith(f"error: {tmp_path}/a.yaml: No space is left on the disk. Free some")
    assert not any(tmp_path.iterdir())
    cli.main(["copy", "lm_tiny", f"{tmp_path}/a.yaml"])
    assert (tmp_path / "a.yaml").read_bytes() == (tools.CONFIGS / "lm_tiny.yaml").read_bytes()


def test_a_copy_is_the_user_s_own_and_nothing_is_overwritten(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cli.main(["copy", "lm-tiny"])
    assert "sllm train-lm lm_tiny.yaml" in capsys.readouterr().out
    Path("lm_tiny.yaml").write_text("mine")
    for words in (["lm_tiny"], ["lm_tiny", "lm_tiny.yaml"], ["lm_tiny", "."], ["nothing"], []):
        with pytest.raises(SystemExit) as end:
            cli.main(["copy", *words])
        assert end.value.code == 2
    assert Path("lm_tiny.yaml").read_text() == "mine"
    assert "lm_tiny.yaml is there already" in capsys.readouterr().err


def test_all_faults_of_all_files_are_told_with_their_lines(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(FAULTY)
    Path("broken.yaml").write_text("# sllm train-lm\na: [")
    Path("whose.yaml").write_text("lm: random:tiny\n")
    with pytest.raises(SystemExit) as end:
        cli.main(["check", "bad.yaml", "nope.yaml", "broken.yaml", "whose.yaml", "lm_tiny"])
    assert end.value.code == 2
    told = capsys.readouterr().out
    starts = [line.split(":")[0].strip() for line in told.splitlines()[1:7]]
    assert starts == ["line 2", "line 3", "line 4", "line 6", "line 8", "line 8"]
    for part in (
        "lm: given twice, again in line 5",
        "lerning_rate = 1: unknown key; did you mean learning_rate",
        "batch_size = 'many': expected int > 0",
        "batch_size = 0: expected int > 0",  # of a case that the file itself does not choose
        "foo = 3: unknown key",
        "'nope.yaml' is neither a file",
        "broken.yaml is not valid YAML",
        "whose.yaml does not say which recipe it is for",
        "lm_tiny: valid",
    ):
        assert part in told
    cli.main(["check", "train-lm", "whose.yaml"])
    assert capsys.readouterr().out == "whose.yaml: valid\n"


def test_every_shipped_configuration_is_valid(capsys):
    cli.main(["check", *(path.stem for path in tools.CONFIGS.glob("*.yaml"))])
    assert "not valid" not in capsys.readouterr().out


def test_the_environment_names_what_an_issue_needs(capsys):
    cli.main(["env"])
    lines = capsys.readouterr().out.splitlines()
    assert {"python", "sllm", "torch", "transformers", "cpu", "threads", "gpus"} <= {
        line.split(":")[0] for line in lines
    }
    assert any(line.startswith("extra dev: ") for line in lines)


def test_a_shell_completes_commands_configurations_and_keys(tmp_path, capsys):
    cli.main(["completion", "zsh"])
    assert "--train_tokens" in capsys.readouterr().out
    cli.main(["completion", "bash"])
    (tmp_path / "sllm").write_text(capsys.readouterr().out)
    ask = 'source sllm; COMP_WORDS=(sllm {0}); COMP_CWORD={1}; _shtab_sllm 2>/dev/null; echo "${{COMPREPLY[@]}}"'

    def completed(*words):
        script = ask.format(" ".join(repr(word) for word in words), len(words))
        return subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True).stdout.split()

    assert {"train-lm", "story", "show"} <= set(completed(""))
    assert "lm_tiny" in completed("train-lm", "lm_")
    assert "--train_tokens" in completed("train-lm", "--train")
    assert completed("train-lm", "--dtype", "b") == ["bf16"]


def test_without_shtab_the_remedy_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit):
        cli.main(["completion", "bash"])
    assert "pip install 'sllm[completion]'" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.TOOLS)
def test_each_explains_itself(name, capsys):
    cli.main([name, "--help"])
    assert capsys.readouterr().out.startswith(f"sllm {name}")
    cli.main([])
    assert f"sllm {name}" in capsys.readouterr().out


def test_a_recipe_that_is_none_and_a_folder_that_is_missing_are_named(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("# sllm train-lmm\nlm: random:tiny\n")
    with pytest.raises(SystemExit):
        cli.main(["check", str(tmp_path / "mine.yaml")])
    assert "is for 'train-lmm' by its first line, which is no recipe: " in capsys.readouterr().out
    with pytest.raises(SystemExit):
        cli.main(["copy", "lm_tiny", str(tmp_path / "no" / "x.yaml")])
    assert f"there is no folder {tmp_path}/no: make it" in capsys.readouterr().err
    assert f"there is no folder {tmp_path}/folder: make it" in refused(f"copy lm_tiny {tmp_path}/folder/", capsys)


def test_the_command_after_a_copy_can_be_pasted_whatever_the_files_name(tmp_path, capsys):
    target = tmp_path / "my own.yaml"
    cli.main(["copy", "lm_tiny", str(target)])
    assert shlex.split(capsys.readouterr().out.partition("edit it, then ")[2]) == ["sllm", "train-lm", str(target)]
