"""One owner per folder: the lock of a running coordinator or site, and the request to stop it.

The lock belongs to the operating system: it ends with its process, however that ended, so what it says is true.
"""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from segviz_core.atomic import write_json
from segviz_core.errors import InputError

LOCK_FILE, COMMAND_FILE = "running.lock", "command.json"
_AFTER_ROUND = "leave-after-round"
_PATIENCE_S = 3.0  # a moment's grace for the lock of `is_running`, or of a process that is just ending

if sys.platform == "win32":
    import msvcrt

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def only_one(folder: Path, *, what: str, patience_s: float = _PATIENCE_S) -> Iterator[None]:
    """Own `folder` while the block runs; an old request to stop is dropped first.

    Raises:
        InputError: another process owns it; `what` names that in the sentence.
    """
    file = _open(folder)
    try:
        deadline = time.monotonic() + patience_s
        while not _locked(file):
            if time.monotonic() > deadline:
                raise InputError(f"{what} is running already in {folder}.", hint="Stop it first, or follow its status.")
            time.sleep(0.1)
        (folder / COMMAND_FILE).unlink(missing_ok=True)
        yield
        (folder / COMMAND_FILE).unlink(missing_ok=True)
    finally:
        os.close(file)


def is_running(folder: Path) -> bool:
    """Whether a process owns `folder`."""
    if not (folder / LOCK_FILE).exists():
        return False
    file = _open(folder)
    try:
        return not _locked(file)
    finally:
        os.close(file)


def ask_to_stop(folder: Path, *, wait_s: float) -> bool:
    """Ask the owner of `folder` to stop and wait for its end; whether it has ended."""
    if is_running(folder):
        write_json(folder / COMMAND_FILE, {"command": "stop"})
    deadline = time.monotonic() + wait_s
    while is_running(folder):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    with suppress(FileNotFoundError):
        (folder / COMMAND_FILE).unlink()
    return True


def ask_to_leave_after_round(folder: Path) -> None:
    """Ask the site that owns `folder` to leave once the answer of the round under way is sent."""
    write_json(folder / COMMAND_FILE, {"command": _AFTER_ROUND})


def asked_to_stop(folder: Path) -> bool:
    """Whether somebody asked the owner of `folder` to stop at once."""
    return _command(folder) not in ("", _AFTER_ROUND)


def asked_to_leave_after_round(folder: Path) -> bool:
    """Whether somebody asked the site that owns `folder` to leave after the round under way."""
    return _command(folder) == _AFTER_ROUND


def _command(folder: Path) -> str:
    """The word in COMMAND_FILE; a file that says nothing else means stop."""
    try:
        text = (folder / COMMAND_FILE).read_text(encoding="utf-8")
    except FileNotFoundError:
        return ""
    return _AFTER_ROUND if _AFTER_ROUND in text else "stop"


def _open(folder: Path) -> int:
    return os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)


def _locked(file: int) -> bool:
    try:
        _lock(file)
    except OSError:
        return False
    return True
