"""What a name of a model means: an example that comes with the package, a folder here, or a model on a hub. A path is
never asked of a hub."""

import re
import time
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub import constants

EXAMPLES = Path(__file__).parent / "examples"  # what `example:NAME` names; its README.md is their card
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")
REMEMBERED = 60.0  # seconds for which a hub is not asked again whether it answers


@dataclass
class _Hub:
    """What is known of the hub: a process may live long, and a network comes back."""

    answers: bool = True
    until: float = 0.0  # on the monotonic clock
    offline_for_now: bool = False  # set here, not by the user


_hub = _Hub()


def local_name(name: str) -> str:
    """The folder of `example:NAME`; any other name as it is.

    Raises:
        ValueError: there is no such example.
    """
    kind, colon, example = name.partition(":")
    if kind != "example" or not colon:
        return name
    known = sorted(path.name for path in EXAMPLES.glob("*") if path.is_dir())
    if example not in known:
        there = f"there are {', '.join(f'example:{name}' for name in known)}" if known else "this copy came without any"
        raise ValueError(f"{name!r}: no such model comes with the package; {there}.")
    return str(EXAMPLES / example)


def name_and_source(spec: str) -> tuple[str, str]:
    """Of `name=source` both; the name is empty where none is given. What exists under the whole is a source."""
    name, equals, source = spec.partition("=")
    return (name, source) if equals and not Path(spec).exists() else ("", spec)


def check_source(
    name: str, *, cache_dir: str | Path | None = None, local_files_only: bool = False, **_: object
) -> None:
    """Raise ValueError for a name that is no folder or file here and cannot be found on a hub, before minutes are spent
    in asking. The options are those of a hub's client."""
    parts = Path(name).parts
    if Path(name).expanduser().exists():
        if name.startswith("~"):
            raise ValueError(f"{name!r}: write the path without ~: {str(Path(name).expanduser())!r}.")
        return
    if not HUB_ID.fullmatch(name) or (len(parts) > 1 and Path(parts[0]).is_dir()):
        raise ValueError(f"{name!r}: there is no such file or folder. Check the path, or give a hub id (owner/name).")
    if local_files_only or (constants.is_offline_mode() and not _hub.offline_for_now) or _hub_answers():
        return
    if not isinstance(huggingface_hub.try_to_load_from_cache(name, "config.json", cache_dir), str):
        raise ValueError(
            f"{name!r} is no folder here and not in the cache, and {constants.ENDPOINT} does not answer: check the "
            "name and the network, or give the folder of a model."
        )
    # What is cached is used without a minute of retries for each file.
    constants.HF_HUB_OFFLINE = _hub.offline_for_now = True


def _hub_answers() -> bool:
    if time.monotonic() > _hub.until:
        if _hub.offline_for_now:
            constants.HF_HUB_OFFLINE = _hub.offline_for_now = False
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=5)
            _hub.answers = True
        except Exception:  # of whichever library the hub's client uses
            _hub.answers = False
        _hub.until = time.monotonic() + REMEMBERED
    return _hub.answers
