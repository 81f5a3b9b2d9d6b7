"""Write a file under a temporary name and rename it: a kill or a full disk leaves the old file as it was."""

import errno
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

from segviz_core.errors import InputError

_REASONS = {errno.ENOSPC: "the disk is full", errno.EACCES: "there is no permission to write there"}
_REASONS |= {errno.EROFS: "the file system is read-only", errno.ENOENT: "the folder does not exist"}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path of the same name; move it to `path` when the block ends well.

    It lies in a hidden folder beside `path`, so that who lists `*.json` there never finds half a file.

    Raises:
        InputError: the folder is missing, not writable or full. The old file stays.
    """
    try:
        with TemporaryDirectory(dir=path.parent, prefix=".", ignore_cleanup_errors=True) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error


def check_writable(path: Path) -> None:
    """Raise InputError at once, before the work, where `replacing(path)` lacks the folder or the permission."""
    try:
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _cannot_write(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON (indented, no NaN) in one step."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _cannot_write(path: Path, error: OSError) -> InputError:
    reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
    return InputError(
        f"Cannot write {path}: {reason}.", hint="Choose another output or free space; the old file is unchanged."
    )
