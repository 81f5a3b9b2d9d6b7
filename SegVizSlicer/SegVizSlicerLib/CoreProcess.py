"""Runs one command of `segviz_core` in a child process and stops it for certain: Slicer never loads torch or flwr.

The protocol is one JSON object per line (Report.py).
"""

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from SegVizSlicerLib.Models import userFolder
from SegVizSlicerLib.Report import Outcome, Report, readEvent

CANCEL_PATIENCE_MS = 5000
"""How long a cancelled command may take to end by itself before its whole process tree is killed."""

HEARTBEAT_MS = 5000
"""The child ends by itself when the heartbeat file is 30 s old: Slicer crashed."""

OPENVINO_FOLDER = "openvino-intel-mac"
"""In the user's folder; Dependencies.py fills it where Slicer's own Python cannot have the package."""


class CoreProcess:
    """One running `python -m segviz_core ...`.

    Callbacks come on the main thread: `onProgress(stage, done, total)`, `onLog(line)`, `onEvent(event)` with every JSON
    object, and once `onFinished(Outcome)`. `pid` is known once the command has said it.

        process = CoreProcess(["segment", ct, out], folder, onFinished=print)
        process.cancel()
    """

    def __init__(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        onFinished: Callable[[Outcome], None],
        onProgress: Callable[[str, int, int], None] = lambda stage, done, total: None,
        onLog: Callable[[str], None] = logging.info,
        onEvent: Callable[[dict[str, Any]], None] = lambda event: None,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._onFinished, self._onLog, self._onEvent = onFinished, onLog, onEvent
        self._cancelFile, self._heartbeat = folder / "cancel", folder / "heartbeat"
        self.pid = 0
        self._killing = self._ended = False
        self._report = Report(onProgress)
        self._lastLine = ""
        self._heartbeat.touch()
        self._beat = qt.QTimer()
        self._beat.setInterval(HEARTBEAT_MS)
        self._beat.timeout.connect(self._touchHeartbeat)
        self._beat.start()
        command = [pythonExecutable(), "-m", "segviz_core", *arguments, "--json"]
        command += ["--cancel-file", str(self._cancelFile), "--heartbeat", str(self._heartbeat)]
        self._process = slicer.util.launchConsoleProcess(
            command,
            updateEnvironment=coreEnvironment() | (environment or {}),
            cwd=str(folder),
            blocking=False,
            logCallback=self._readLine,
            completedCallback=self._finish,
        )

    @property
    def running(self) -> bool:
        return not self._ended

    def cancel(self) -> None:
        """Ask the command to stop; after five seconds its process tree is killed."""
        if self._ended or self._cancelFile.exists():
            return
        self._cancelFile.touch()
        qt.QTimer.singleShot(CANCEL_PATIENCE_MS, self.kill)

    def kill(self) -> None:
        """End the process tree now: killing PythonSlicer's launcher alone would leave Python and its GPU job alive."""
        if self._ended:
            return
        self._killing = True
        if self.pid:
            killTree(self.pid)
        self._process.kill()

    def _touchHeartbeat(self) -> None:
        if self._heartbeat.parent.exists():
            self._heartbeat.touch()

    def _readLine(self, line: str) -> None:
        event = readEvent(line)
        if event is None:
            self._lastLine = line or self._lastLine
            self._onLog(line)
            return
        if event["event"] == "started":
            self.pid = int(event["pid"])
            if self._killing:  # killed before it could say who it is
                killTree(self.pid)
        self._report.hear(event)
        self._onEvent(event)

    def _finish(self, exitCode: int) -> None:
        self._ended = True
        self._beat.stop()
        cancelled = self._killing or self._cancelFile.exists()
        self._onFinished(self._report.outcome(exitCode, cancelled=cancelled, lastLine=self._lastLine))


def pythonExecutable() -> str:
    """Slicer's own Python as a program; outside Slicer the Python that runs this."""
    return shutil.which("PythonSlicer") or sys.executable


def coreEnvironment() -> dict[str, str]:
    """What a child needs to find `segviz_core` and to write UTF-8 at once, in any place and language."""
    path = os.pathsep.join(filter(None, [str(corePath()), *_privateOpenvino(), os.environ.get("PYTHONPATH", "")]))
    return {"PYTHONPATH": path, "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}


def _privateOpenvino() -> list[str]:
    folder = userFolder() / OPENVINO_FOLDER
    return [str(folder)] if folder.is_dir() else []


def corePath() -> Path:
    """The folder that holds `segviz_core`: beside the module when installed, one level up in a source tree."""
    import segviz_core

    return Path(segviz_core.__file__).resolve().parent.parent


def killTree(pid: int) -> None:
    """End process `pid` and all its descendants; nothing happens when it is gone."""
    if os.name == "nt":
        subprocess.run(["taskkill", "/PID", str(pid), "/T", "/F"], capture_output=True, check=False)
        return
    try:
        os.killpg(pid, signal.SIGKILL)  # the child has made itself the leader of its group
    except (ProcessLookupError, PermissionError):
        logging.info(f"SegViz: process group {pid} has ended already")


def makeJobFolder(name: str = "SegViz") -> Path:
    """A new folder for the files of one job, called by `name` and the time.

    Its path has to be ASCII, or packages that read it break (Windows).

    Raises:
        RuntimeError: the temporary folder cannot be written to.
    """
    folder = slicer.util.tempDirectory(name)
    if not os.access(folder, os.W_OK):
        text = _("The temporary folder {path} cannot be written to: choose another one in the application settings.")
        raise RuntimeError(text.format(path=slicer.app.temporaryPath))
    if os.name == "nt" and not folder.isascii():
        import ctypes

        buffer = ctypes.create_unicode_buffer(260)
        if ctypes.windll.kernel32.GetShortPathNameW(folder, buffer, 260):  # type: ignore[attr-defined]
            folder = buffer.value
    return Path(folder)
