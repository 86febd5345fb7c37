"""Files and folders that are whole or absent, whatever interrupts the one who writes them; a full disk, in words.

A folder is written under another name, synced to the disk, described by a manifest (SHA-256 and size of every file;
safetensors itself has no checksum) and then renamed. JSON files carry a checksum of their own.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import IO, Any

import filelock

MANIFEST = "manifest.json"
ON_PURPOSE = f"Who changed it on purpose deletes {MANIFEST}, which says what was there."
CHECKSUM = "checksum"  # the field of a JSON document that vouches for the others
CRC = "crc32"  # the same of a line
RUN_FILES = LOCK, HOLDER = ".run.lock", ".running"  # of who is `alone_in` a folder
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)  # the disk, or the user's share of it

_whole: dict[Path, list[tuple]] = {}  # folders that were verified in this process, as they looked then
_verifying = ContextVar("verifying", default=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file beside its place, synced, and rename it, so that a reader never meets half of it.

    Raises:
        OSError: the disk is full, or the folder cannot be written; an older file stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")  # processes may write the same file at once
    with _errors_naming(path):
        try:
            with beside.open("w", encoding="utf-8", newline="\n") as file:
                file.write(text)
                sync(file)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        sync_path(path.parent)


@contextmanager
def _errors_naming(path: Path) -> Iterator[None]:
    """Within this context an error of the disk names what the user knows: a failed write names nothing, and what is
    written beside has a name that nobody gave."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def sync(file: IO) -> None:
    """Have everything written to an open file reach the disk."""
    file.flush()
    os.fsync(file.fileno())


def sync_path(path: Path) -> None:
    """The same for a closed file, or for the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def told_if_disk_is_full(folder: Path, kept: str) -> Iterator[None]:
    """Within this context the error of a full disk names `folder`, what is `kept` in it, and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_FULL or "on the disk:" in str(error):  # `check_free_space` has said more
            raise
        message = f"No space left on the disk; {kept}. Free some and run the same command again: it continues"
        raise OSError(error.errno, message, str(folder)) from error


def write_folder(target: Path, write: Callable[[Path], object]) -> None:
    """Make the folder `target` from what `write(folder)` puts into an empty folder; replaces an older `target`.

    Until the last moment `target` stays as it was; whatever goes wrong, no half-written folder is left under its name.

    Raises:
        OSError: the disk is full, the folder may not be written.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.partial"
    beside.mkdir()
    try:
        write(beside)
        files = {str(path.relative_to(beside)): path for path in sorted(beside.rglob("*")) if path.is_file()}
        hashed = zip(files.items(), sha256s(list(files.values())), strict=True)
        manifest = {name: {"sha256": digest, "bytes": path.stat().st_size} for (name, path), digest in hashed}
        (beside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
        for path in [*files.values(), beside / MANIFEST, beside]:
            sync_path(path)
        if target.exists():
            replaced = target.parent / f".{target.name}.{uuid.uuid4().hex[:8]}.replaced"
            try:
                target.rename(replaced)
                beside.rename(target)
            except BaseException:
                if replaced.exists() and not target.exists():
                    replaced.rename(target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        else:
            beside.rename(target)
        sync_path(target.parent)
    except OSError as error:
        # A failed write names nothing, a copy that found no room names what it was made from.
        if error.errno in DISK_FULL or str(error.filename or beside).startswith(str(beside)):
            error.filename, error.filename2 = str(target), None
        raise
    except Exception as error:  # of safetensors and tokenizers, where a full disk reads like any other fault
        number = re.search(r"os error (\d+)", str(error))
        if number:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(target)) from error
        raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def clean_up(folder: Path) -> None:
    """Remove from `folder` what writers left behind that were killed, and give a folder its name back that one of them
    was about to replace. Nobody else may be writing there."""
    for path in sorted(folder.glob(".*.replaced")):
        target = folder / path.name[1:].rpartition(".")[0].rpartition(".")[0]
        if not target.exists():
            path.rename(target)
    for pattern in (".*.replaced", ".*.partial"):
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def check_free_space(folder: Path, num_bytes: float, what: str) -> None:
    """
    Raises:
        OSError: the disk of `folder` has less than `num_bytes` left for `what`.
    """
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        message = f"{what} takes {num_bytes / 1e9:.3g} GB and the disk has {free / 1e9:.3g} GB left"
        raise OSError(
            errno.ENOSPC,
            f"No space left on the disk: {message}. Free some, then give the same command again",
            str(folder),
        )


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Within this context no other process is in this context for the same folder.

    The lock is the kernel's (flock), so it ends with its process, however that ends. On network disks it holds between
    machines where their file system has such locks: NFS does, from Linux 2.6.12 on; Lustre only when mounted with
    `flock`. Where a disk has none, filelock says so and makes a file `.run.lock` stand for it, which a killed process
    leaves behind.

    Raises:
        ValueError: another process is.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock, holder = filelock.FileLock(folder / LOCK), folder / HOLDER
    try:
        with _errors_naming(folder):
            lock.acquire(timeout=0)
    except filelock.Timeout:
        who = holder.read_text(encoding="utf-8", errors="replace") if holder.is_file() else "another process"
        raise ValueError(
            f"{str(folder)!r} is in use by {who}: two runs in one folder would overwrite each other. Wait for it, stop "
            "it, or choose another output_dir."
        ) from None
    try:
        with _errors_naming(folder):
            holder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            holder.unlink(missing_ok=True)
        lock.release()


def verify_folder(folder: Path, alone: bool = False) -> None:
    """Check every file of a folder against its manifest.

    Args:
        alone: no file may be there that the manifest does not know.

    Raises:
        ValueError: a file is missing, too short or too long, or has other contents; the message names it.
    """
    try:
        manifest = read_json(folder / MANIFEST)
        expected = [(folder / name, entry["bytes"], entry["sha256"]) for name, entry in manifest.items()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} has no readable {MANIFEST} ({error}): it was not written completely.") from None
    if outside := [name for name in manifest if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise ValueError(f"{folder / MANIFEST} lists {outside[0]!r}, which is outside the folder: it is damaged.")
    present = {path for path in folder.rglob("*") if path.is_file()} if alone else set()
    if unknown := present - {path for path, _, _ in expected} - {folder / MANIFEST}:
        raise ValueError(f"{folder / MANIFEST} does not know {min(unknown).name}: one of them was changed.")
    for path, size, _ in expected:
        if not path.is_file():
            raise ValueError(f"{path} is missing: the folder was copied incompletely or a file was deleted.")
        if path.stat().st_size != size:
            raise ValueError(
                f"{path} has {path.stat().st_size} bytes instead of {size}: it was cut off or overwritten. "
                f"({ON_PURPOSE})"
            )
    for (path, _, digest), found in zip(expected, sha256s([path for path, _, _ in expected]), strict=True):
        if found != digest:
            raise ValueError(
                f"{path} is damaged: its contents do not match their checksum in {MANIFEST}. ({ON_PURPOSE})"
            )


@contextmanager
def verification(wanted: bool) -> Iterator[None]:
    """Within this context `verify_once` does nothing unless it is wanted."""
    token = _verifying.set(wanted)
    try:
        yield
    finally:
        _verifying.reset(token)


def verify_once(folder: Path) -> None:
    """`verify_folder`, unless it found this folder whole before in this process and no file has another size or date
    since: hashing gigabytes takes seconds, and one command names a folder two or three times.

    Of the processes that torchrun started on a machine the first does it for all: none gets anywhere without it.
    """
    if not _verifying.get() or os.environ.get("LOCAL_RANK", "0") != "0":
        return
    folder = folder.resolve()
    files = [(path, path.stat()) for path in sorted(folder.rglob("*")) if path.is_file()]
    look = [(str(path), it.st_size, it.st_mtime_ns, it.st_ctime_ns, it.st_ino) for path, it in files]
    if _whole.get(folder) != look:
        verify_folder(folder)
        _whole[folder] = look  # as it was before it was read: what changes meanwhile is noticed


def sha256s(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file, several at a time: hashing leaves other threads their turn."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        return list(pool.map(_sha256, paths))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ValueError: it is not there or may not be read, is damaged, nested beyond reason, or holds something else; the
            message names the file.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(
            f"{str(path)!r}: no such file. Check the name; of a folder that was copied, copy all."
        ) from None
    except OSError as error:
        raise ValueError(f"{str(path)!r} cannot be read: {error.strerror}.") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} cannot be read as JSON ({error}): it is damaged. Copy it again.") from None
    if not isinstance(content, dict):
        raise ValueError(f"{str(path)!r} holds no JSON object but a {type(content).__name__}: it is damaged.")
    return content


def checksum(document: Mapping[str, Any]) -> str:
    """SHA-256 of all fields of a JSON object but the one that holds it."""
    content = {name: value for name, value in document.items() if name != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def with_checksum(document: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object as it will be read, with the field that vouches for the others."""
    read: dict[str, Any] = json.loads(json.dumps(document, allow_nan=False))  # all keys are strings
    return {**read, CHECKSUM: checksum(read)}


def check_checksum(document: Mapping[str, Any]) -> None:
    """Raise ValueError if a JSON object is not the one that was written; those of earlier versions have no checksum."""
    hashes = [value for value in document.values() if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value)]
    written = CHECKSUM in document or hashes  # its name may be damaged, too
    if written and document.get(CHECKSUM) != checksum(document):
        raise ValueError("its contents are not those that were written: it was edited or is damaged")


def to_line(record: Mapping[str, Any]) -> str:
    """A record as a line of a file that grows, with a CRC-32 that vouches for it."""
    text = json.dumps(record)
    return json.dumps({**record, CRC: zlib.crc32(text.encode())}) + "\n"


def from_lines(text: str) -> Iterator[dict[str, Any] | ValueError]:
    """Undo `to_line` for every line of a file: the record, or what is wrong where a line was cut off, is damaged,
    nested beyond reason, or holds something else. Lines of earlier versions, which stand first, have no CRC."""
    any_crc = False
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield ValueError(str(error))
            continue
        found = record.pop(CRC, None) if isinstance(record, dict) else None
        any_crc |= found is not None
        if not isinstance(record, dict):
            yield ValueError(f"it holds no JSON object but a {type(record).__name__}")
        elif any_crc and found != zlib.crc32(json.dumps(record).encode()):
            yield ValueError("it is not the line that was written: it was edited or is damaged")
        else:
            yield record


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
