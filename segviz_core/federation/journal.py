"""Append-only JSON lines: the audit record of a site, and the status that a window follows."""

import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any


def append(path: Path, event: str, **values: Any) -> None:
    """Add one line with the time (seconds since 1970) and `event`; NaN is written as null."""
    add_row(path, _plain({"time": round(time.time(), 3), "event": event, **values}))


def add_row(path: Path, row: Mapping[str, Any]) -> None:
    """Add one line; one that a kill or a full disk cut short before stays a line of its own."""
    line = json.dumps(row, allow_nan=False) + "\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)
    try:
        if size := os.lseek(file, 0, os.SEEK_END):
            os.lseek(file, size - 1, os.SEEK_SET)
            line = line if os.read(file, 1) == b"\n" else "\n" + line
        os.write(file, line.encode())  # one call: lines of several processes never mix
    finally:
        os.close(file)


def try_append(path: Path, event: str, **values: Any) -> None:
    """The same, and silently nothing where it cannot be written (a full disk): for what must not stop the work."""
    with suppress(OSError):
        append(path, event, **values)


def say(event: str, **values: Any) -> None:
    """Write one line to standard output: how a child tells its parent."""
    sys.stdout.write(json.dumps(_plain({"event": event, **values})) + "\n")
    sys.stdout.flush()


def heard(line: str) -> dict[str, Any] | None:
    """What a child said in this line of its output, None where the line is something else."""
    if not line.startswith('{"event"'):
        return None
    try:
        values = json.loads(line)
    except ValueError:
        return None
    return values if isinstance(values, dict) else None


def read(path: Path, *, start: int = 0) -> list[dict[str, Any]]:
    """All whole lines from byte `start` on; a last line cut short by a kill is left out."""
    if not path.exists():
        return []
    rows = []
    for line in path.read_bytes()[start:].splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and value - value != 0:
        return None
    return value
