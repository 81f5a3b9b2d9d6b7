"""The warm worker: a process that keeps its imports and the newest model from one segmentation to the next.

Its owner, a Slicer, starts it, connects once to a local socket (local_socket.py) and sends command lines of `segment`,
each a JSON list of words, one at a time. Standard output answers with the JSON lines that the command itself would
write, and then `finished` with its exit code. A command is cancelled by its own cancel file. The worker ends when the
owner is gone, when it has nothing to do for some minutes, and when a package that it may have loaded was changed.
"""

import argparse
import json
import os
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segviz_core.console import Console
from segviz_core.errors import SegVizError

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

ADDRESS_FILE = "worker.json"

PACKAGES = ("numpy", "openvino", "SimpleITK", "torch")
"""What a segmentation may load: another version on disk would not fit what is in memory."""

CONNECT_PATIENCE_S = 60.0
"""An owner that has not connected by then is gone."""

RunCommand = Callable[[Sequence[str]], int]


def add_commands(subparsers: Any, run_command: RunCommand) -> None:
    """Add the command; `run_command(arguments)` runs one command line and gives its exit code."""
    worker = subparsers.add_parser("worker", help="keep a model ready between segmentations (started by Slicer)")
    worker.add_argument("folder", type=Path, metavar="FOLDER", help=f"where {ADDRESS_FILE} goes until someone connects")
    worker.add_argument("--idle-minutes", type=float, default=10.0, metavar="N", help="end after N minutes idle")
    worker.set_defaults(run=lambda options, _console: serve(options, run_command))


def serve(options: argparse.Namespace, run_command: RunCommand) -> None:
    """Answer one command after the other until there is a reason to end."""
    console = Console(json_lines=True)
    versions = _versions()
    early = threading.Thread(target=_warm_up, daemon=True)  # while the owner writes the CT
    early.start()
    connection = _owner(options.folder, console)
    early.join()
    while connection.poll(options.idle_minutes * 60):
        try:
            arguments = json.loads(connection.recv_bytes())
        except (EOFError, OSError):
            return
        if _versions() != versions:
            return
        console.emit("finished", {"exit_code": _run(arguments, run_command, console)})


def _owner(folder: Path, console: Console) -> "Connection":
    """Wait for the one who knows the key; afterwards nobody else can connect."""
    from multiprocessing import AuthenticationError

    from segviz_core import local_socket

    listener = local_socket.listen(folder / ADDRESS_FILE)

    def give_up() -> None:
        local_socket.close(listener, folder / ADDRESS_FILE)
        os._exit(0)  # the main thread waits in accept, for ever

    patience = threading.Timer(CONNECT_PATIENCE_S, give_up)
    patience.daemon = True
    patience.start()
    console.emit("ready", {})
    try:
        while True:
            with suppress(AuthenticationError, EOFError, ConnectionError):
                return listener.accept()
    finally:
        patience.cancel()
        local_socket.close(listener, folder / ADDRESS_FILE)


def _run(arguments: Sequence[str], run_command: RunCommand, console: Console) -> int:
    if arguments[:1] != ["segment"]:
        error = SegVizError("The worker runs the command segment alone.")
        console.error(error)
        return error.exit_code
    try:
        return run_command(arguments)
    except SystemExit as wrong_usage:  # argparse has said what is wrong
        return int(wrong_usage.code or 0)


def _warm_up() -> None:
    with suppress(ImportError):  # the command will say what is missing
        import segviz_core.inference  # noqa: F401
        from segviz_core.deployment import warm_up

        warm_up()


def _versions() -> list[str]:
    found = []
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return found
