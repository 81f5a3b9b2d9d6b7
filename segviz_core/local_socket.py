"""A socket of this computer with a random key: its address and key stand in a file that only the user may read."""

import json
import os
import secrets
import shutil
import sys
import tempfile
from multiprocessing.connection import Listener
from pathlib import Path

from segviz_core.atomic import replacing

LONGEST_PATH = 100
"""Bytes of a socket's path: 103 are allowed by macOS, 107 by Linux."""


def listen(address_file: Path) -> Listener:
    """Open a socket and write where it is and its key into `address_file`: {"address": ..., "key": hex}.

    A client gets in as `multiprocessing.connection.Client(address, authkey=bytes.fromhex(key))`.

    Raises:
        OSError: this computer gives no socket.
        InputError: the file cannot be written.
    """
    key = secrets.token_bytes(32)
    if sys.platform == "win32":
        listener = Listener(family="AF_PIPE", authkey=key)
    else:
        listener = Listener(str(_private_folder() / "socket"), family="AF_UNIX", authkey=key)
    with replacing(address_file) as temporary:
        temporary.touch(mode=0o600)
        temporary.write_text(json.dumps({"address": listener.address, "key": key.hex()}), encoding="utf-8")
    return listener


def close(listener: Listener, address_file: Path) -> None:
    """Let nobody else in and leave no file behind; connections that are open stay so."""
    address = str(listener.address)  # not known any more once it is closed
    listener.close()
    address_file.unlink(missing_ok=True)
    if sys.platform != "win32":
        shutil.rmtree(Path(address).parent, ignore_errors=True)


def _private_folder() -> Path:
    """A new folder with a short path: a user's temporary folder may be too deep for a socket."""
    folder = Path(tempfile.mkdtemp(prefix="segviz-"))
    if len(os.fsencode(folder / "socket")) > LONGEST_PATH:
        folder.rmdir()
        folder = Path(tempfile.mkdtemp(prefix="segviz-", dir="/tmp"))
    return folder
