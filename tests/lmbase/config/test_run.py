"""What a recipe's user reads and what the shell sees, when it works and when it does not."""

import io
import os
import signal
from dataclasses import dataclass

import pytest
from torch._inductor.exc import InductorError
from toy_config import Config

from lmbase.config import option, run, single_process
from lmbase.files import verify_once, write_folder
from lmbase.processes import Stopped


@pytest.mark.parametrize(
    ("raised", "status", "message"),
    [
        (ValueError("the width is odd"), 2, "error: the width is odd"),
        (FileNotFoundError(2, "No such file", "x.txt"), 2, "error: x.txt: No such file"),
        (
            FileExistsError(17, "File exists", "out"),
            2,
            "error: out: a file stands where a folder is to be. Name another",
        ),
        (NotADirectoryError(20, "Not a directory", "a/out"), 2, "error: a/out: a file stands where a folder is to be."),
        (OSError(28, "No space left on device"), 2, "error: No space is left on the disk"),
        (OSError(28, "No space left on device", "out/x"), 2, "error: out/x: No space is left on the disk"),
        (OSError(28, "All is kept", "out"), 2, "error: out: All is kept"),
        (OSError(30, "Read-only file system", "out"), 2, "error: out: this disk can only be read. Name another place"),
        (FloatingPointError("step 3"), 2, "error: step 3"),
        (KeyboardInterrupt(), 130, "Stopped by SIGINT. To continue:\n"),
        (Stopped(signal.SIGTERM), 143, "Stopped by SIGTERM. To continue:\n"),
        (Stopped(signal.SIGHUP, "After step 3."), 143, "After step 3. To continue:\n"),
    ],
)
def test_a_user_s_mistake_is_one_message_without_traceback(capsys, raised, status, message):
    def main(config):
        raise raised

    with pytest.raises(SystemExit) as leave:
        run(Config, main, [])
    assert leave.value.code == status
    errors = capsys.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_the_status_of_a_mistake_stays_where_its_message_finds_no_room(monkeypatch):
    """As of a log, `2> log`, on the disk that is full."""

    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    def main(config):
        raise ValueError("the width is odd")

    monkeypatch.setattr("sys.stderr", Full())
    with pytest.raises(SystemExit) as leave:
        run(Config, main, [])
    assert leave.value.code == 2


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("C++ compile error\nerror writing to /tmp/a.s: No space left on device"),
    ],
)
def test_a_compiler_that_finds_no_room_is_told_as_a_full_disk_is(capsys, monkeypatch, error):
    def main(config):
        raise InductorError(error, None)

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/full")
    with pytest.raises(SystemExit) as leave:
        run(Config, main, [])
    assert leave.value.code == 2
    errors = capsys.readouterr().err
    assert "error: /full: No space left on the disk for what torch.compile writes. Free some" in errors
    assert "Traceback" not in errors


def test_other_faults_of_a_compiler_keep_their_traceback():
    def main(config):
        raise InductorError(RuntimeError("a bug"), None)

    with pytest.raises(InductorError):
        run(Config, main, [])


def test_the_traceback_is_shown_on_request(capsys, monkeypatch):
    def main(config):
        raise ValueError("odd")

    monkeypatch.setenv("SLLM_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        run(Config, main, [])
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_program_keeps_its_traceback():
    def main(config):
        raise TypeError("a bug")

    with pytest.raises(TypeError):
        run(Config, main, [])


@pytest.mark.parametrize("rank", ["0", "1", "7"])
def test_a_single_process_recipe_runs_in_the_first_process_of_torchrun_alone(capsys, monkeypatch, rank):
    for name, value in {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    seen = []

    @single_process
    def main(config: Config) -> None:
        seen.append((config.model, [name for name in os.environ if name.endswith(("RANK", "WORLD_SIZE"))]))

    run(Config, main, ["--model", "m"])
    assert seen == ([("m", [])] if rank == "0" else [])
    if rank != "0":
        run(Config, main, ["--no_such_key", "1"])  # one process complains, not all
        assert capsys.readouterr().err == ""


def test_other_recipes_run_in_every_process(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen = []
    run(Config, lambda config: seen.append(os.environ["RANK"]), [])
    assert seen == ["1"]


@dataclass
class Checked(Config):
    verify: bool = option(True, "compare with checksums")


def test_folders_are_compared_with_their_checksums_unless_a_key_says_no(tmp_path, capsys):
    write_folder(tmp_path / "a", lambda folder: (folder / "weights").write_text("0123"))
    (tmp_path / "a" / "weights").write_text("0124")
    run(Checked, lambda config: verify_once(tmp_path / "a"), ["--verify", "false"])
    with pytest.raises(SystemExit):
        run(Checked, lambda config: verify_once(tmp_path / "a"), [])
    assert "weights is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("other", [SystemError, RuntimeError, GeneratorExit])
def test_a_stop_that_was_turned_into_something_else_is_a_stop(capsys, other):
    """As extension modules do that were interrupted."""

    def main(config):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except KeyboardInterrupt:
            raise other("interrupted") from None

    with pytest.raises(SystemExit) as leave:
        run(Config, main, [])
    assert leave.value.code == 143
    assert "Stopped by SIGTERM. To continue:" in capsys.readouterr().err
    with pytest.raises(RuntimeError):  # and without a stop it is what it is
        run(Config, lambda config: (_ for _ in ()).throw(RuntimeError("a fault")), [])
