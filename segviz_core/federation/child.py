"""A child process that ends with its parent: it stops when its standard input closes, which needs no signal.

Windows has no gentle signal between processes (terminate() is a hard kill, which would lock a site out until its lease
ends); a closed pipe works everywhere, also when the parent was killed.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_TAIL_LINES = 80


class Child:
    """A running child. Every line of its output goes to `log` and then, without colours, to `on_line`."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        self._on_line = on_line or (lambda _: None)
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            **own_group(),
        )
        self._reader = threading.Thread(target=self._read, args=(log,), daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """How it ended, None while it runs."""
        return self._process.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; gives the exit code, or raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    @property
    def last_lines(self) -> str:
        """The end of its output, complete once it has ended."""
        if self.returncode is not None:
            self._reader.join(timeout=2)
        return "\n".join(self._tail)

    def close_input(self) -> None:
        """Ask it to stop, without waiting."""
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()

    def stop(self, *, patience_s: float = 15.0) -> None:
        """Ask it to stop and wait; after `patience_s` the whole tree is killed."""
        self.close_input()
        try:
            self._process.wait(patience_s)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self._kill_tree()
        self._process.wait()
        self._reader.join(timeout=2)

    def _kill_tree(self) -> None:
        """What is left of its process group; nothing where it has ended with all its children."""
        if sys.platform == "win32":
            if self.returncode is None:
                subprocess.run(["taskkill", "/PID", str(self.pid), "/T", "/F"], capture_output=True, check=False)
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _read(self, log: Path) -> None:
        assert self._process.stdout is not None
        with log.open("ab", buffering=0) as file, self._process.stdout as output:
            for raw in output:
                with suppress(OSError):  # on a full disk the log has gaps; the child must still be heard
                    file.write(raw)
                line = _COLOR.sub("", raw.decode("utf-8", "replace").rstrip())
                self._tail.append(line)
                self._on_line(line)


def stop_all(children: Sequence[Child], *, patience_s: float = 15.0) -> None:
    """Stop `children` at the same time, first the first."""
    deadline = time.monotonic() + patience_s
    for child in children:
        child.close_input()
    for child in children:
        child.stop(patience_s=max(0.1, deadline - time.monotonic()))


def own_group() -> dict[str, Any]:
    """Popen options: a process group of its own, so that Ctrl-C reaches the parent alone, which then stops in order."""
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW}
    return {"start_new_session": True}


def environment(*, flwr_home: Path) -> dict[str, str]:
    """What every child gets: no telemetry, no update check, no proxy for local calls, its own Flower folder, UTF-8."""
    package = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH", "")
    local = "127.0.0.1,localhost"
    no_proxy = ",".join(filter(None, (os.environ.get("NO_PROXY") or os.environ.get("no_proxy"), local)))
    return os.environ | {
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_HOME": str(flwr_home),
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
        "PYTHONPATH": os.pathsep.join(filter(None, (package, path))),
        "PYTHONUNBUFFERED": "1",
        "PYTHONUTF8": "1",
    }


def free_port() -> int:
    """A port of this computer that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def end_with_parent(stop: Callable[[], None]) -> None:
    """In a child: call `stop` once standard input closes, because the parent asks for it or is gone."""

    def wait() -> None:
        with suppress(OSError, ValueError):
            while os.read(sys.stdin.fileno(), 4096):  # sys.stdin itself would hold a lock that Python's end needs
                pass
        stop()

    threading.Thread(target=wait, name="parent", daemon=True).start()
