"""Real processes of a federation for tests: a coordinator, toy sites as users start them, and who is still alive."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from toy_study import free_port, write_toy_study

from segviz_core.federation import coordinator, journal, site
from segviz_core.federation.site import SiteOptions
from segviz_core.federation.site_folder import STATUS_FILE

HERE = Path(__file__).parent
TRAINER = (sys.executable, str(HERE / "toy_trainer.py"))


def new_study(folder: Path, **settings: Any) -> Path:
    """A toy study at a free port of this computer."""
    write_toy_study(folder, **settings)
    coordinator.provision(folder, "toy", port=free_port())
    return folder


class Coordinator:
    """`coordinator start` as a process of its own."""

    def __init__(self, study: Path) -> None:
        self.study = study
        self._output = study / f"start-{time.time_ns()}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "segviz_core", "--json", "coordinator", "start", str(study)],
            stdin=subprocess.DEVNULL,
            stdout=self._output.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def __enter__(self) -> "Coordinator":
        return self

    def __exit__(self, *_: object) -> None:
        """Leave no process behind, also where a test failed before it could end them."""
        self.end(signal.SIGTERM)

    def wait_for_round(self, finished: int, *, seconds: float = 120) -> None:
        """Wait until so many rounds are finished."""
        wait_until(lambda: coordinator.status(self.study)["finished_rounds"] >= finished, seconds, self.output)

    def end(self, sign: int, *, seconds: float = 60) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(sign)
        return self.process.wait(seconds)

    def output(self) -> str:
        """What it has written, with the logs of its children."""
        logs = sorted((self.study / "logs").glob("*.log"))
        return "\n".join(
            f"--- {file.name}\n{file.read_text(encoding='utf-8')[-3000:]}" for file in [self._output, *logs]
        )

    def last_line(self) -> dict[str, Any]:
        """The last JSON line of its output."""
        lines = [line for line in self._output.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
        values = json.loads(lines[-1])
        assert isinstance(values, dict)
        return values


def join(
    kit: Path, folder: Path, organ: str, *, client_app: str = site.CLIENT_APP, foreground: bool = False
) -> dict[str, Any]:
    """Join as a toy site, detached unless `foreground`."""
    options = SiteOptions(cases=HERE, organs=(organ,), label_values={}, cores=1, trainer=TRAINER, client_app=client_app)
    return site.join(kit, options, folder=folder, consent=True, foreground=foreground)


def states(folder: Path) -> list[str]:
    """The states that a site went through."""
    return [row["state"] for row in journal.read(folder / STATUS_FILE) if row["event"] == "state"]


def processes_of(folder: Path) -> dict[int, str]:
    """Pid and command line of every living process with `folder` in its arguments or environment (Linux)."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            arguments, variables = ((entry / name).read_bytes() for name in ("cmdline", "environ"))
        except OSError:
            continue
        ours = str(folder).encode() in arguments + variables and entry.name != str(os.getpid())
        if ours and arguments:  # a process without arguments is dead and waits for its parent
            found[int(entry.name)] = arguments.decode(errors="replace").replace("\0", " ")
    return found


def kill(folder: Path, words: str) -> int:
    """kill -9 of the one process of `folder` whose command line holds `words`; gives its pid."""
    (pid,) = [pid for pid, line in processes_of(folder).items() if words in line]
    os.kill(pid, signal.SIGKILL)
    return pid


def wait_until(condition: Callable[[], bool], seconds: float, explain: Callable[[], str] = str) -> None:
    """Wait for `condition`, bounded."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain\n{explain()}"
        time.sleep(0.1)
