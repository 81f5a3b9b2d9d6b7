"""The warm worker of this Slicer: `segviz_core worker` keeps its imports and the model from one click to the next.

Its jobs look like commands in processes of their own (CoreProcess.py). What cannot be done in the worker is done by the
plain command. The worker ends by itself: after ten idle minutes, and when Slicer is gone, because the socket closes.
"""

import functools
import json
import logging
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib import CoreProcess as processes
from SegVizSlicerLib.CoreProcess import CoreProcess, makeJobFolder
from SegVizSlicerLib.Report import Outcome, Report

ADDRESS_FILE = "worker.json"


class Worker:
    """Starts when it is needed and does one job at a time; `idleMinutes` later it ends.

    worker.prepare()                                          # optional: starts while the CT is being written
    job = worker.run(["segment", ct, out], folder, onFinished=print)
    job.cancel()
    """

    def __init__(self, idleMinutes: float = 10.0) -> None:
        self._idleMinutes = idleMinutes
        self._process: CoreProcess | None = None
        self._folder = Path()
        self._connection: Any = None
        self._job: Job | None = None

    @property
    def pid(self) -> int:
        """Its process id; 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    @property
    def busy(self) -> bool:
        """Whether it has a job."""
        return self._job is not None

    def prepare(self) -> None:
        """Start the process, unless it is there already.

        Raises:
            RuntimeError: the temporary folder cannot be written to.
        """
        if self._process is not None:
            return
        self._folder = makeJobFolder("SegVizWorker")
        arguments = ["worker", str(self._folder), "--idle-minutes", str(self._idleMinutes)]
        self._process = CoreProcess(
            arguments, self._folder, onFinished=self._ended, onLog=self._log, onEvent=self._hear
        )

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        onFinished: Callable[[Outcome], None],
        onProgress: Callable[[str, int, int], None] = lambda stage, done, total: None,
        onLog: Callable[[str], None] = logging.info,
    ) -> "Job":
        """Run `segment ...` with the callbacks of CoreProcess; `folder` is the job's own."""
        assert self._job is None, "one job at a time"
        self.prepare()
        self._job = Job(self, arguments, folder, onFinished=onFinished, onProgress=onProgress, onLog=onLog)
        self._send()
        return self._job

    def stop(self) -> None:
        """End the process and what it is doing."""
        if self._process is not None:
            self._disconnect()
            self._process.kill()
            shutil.rmtree(self._folder, ignore_errors=True)  # at once: Slicer may be closing

    def _connect(self) -> None:
        """Nothing else in Slicer waits for the worker, and here it is waiting already."""
        from multiprocessing.connection import Client

        place = json.loads((self._folder / ADDRESS_FILE).read_text(encoding="utf-8"))
        self._connection = Client(place["address"], authkey=bytes.fromhex(place["key"]))

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self) -> None:
        """Send the waiting job; a worker that cannot be reached is ended, and `_ended` takes care of the job."""
        if self._job is None or self._connection is None:
            return
        try:
            self._connection.send_bytes(json.dumps(self._job.command).encode())
        except OSError as error:
            self._giveUp(error)

    def _giveUp(self, reason: Exception) -> None:
        self._log(_("The worker cannot be reached: {reason}").format(reason=reason))
        self.stop()

    def _hear(self, event: dict[str, Any]) -> None:
        if event["event"] == "ready":
            try:
                self._connect()
            except Exception as error:  # no sockets here, or it ended this moment
                self._giveUp(error)
            self._send()
        elif self._job is not None and self._connection is not None:
            self._job.hear(event)
            if event["event"] == "finished":
                # not from here: an exception of the job's owner would end Slicer's listening to the worker
                qt.QTimer.singleShot(0, functools.partial(self._take().finish, event["exit_code"]))

    def _ended(self, outcome: Outcome) -> None:
        self._disconnect()
        self._process = None
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._job is not None:
            self._take().lose(outcome)

    def _take(self) -> "Job":
        job, self._job = self._job, None
        assert job is not None
        return job

    def _log(self, line: str) -> None:
        (self._job.onLog if self._job is not None else logging.info)(line)


class Job:
    """One command in the worker; `running`, `cancel` and `kill` as CoreProcess has them. `began`: it has said so."""

    def __init__(
        self,
        worker: Worker,
        arguments: Sequence[str],
        folder: Path,
        *,
        onFinished: Callable[[Outcome], None],
        onProgress: Callable[[str, int, int], None],
        onLog: Callable[[str], None],
    ) -> None:
        self._worker, self._arguments, self._folder = worker, list(arguments), folder
        self._onFinished, self._onProgress, self.onLog = onFinished, onProgress, onLog
        self._report = Report(onProgress)
        self._cancelFile = folder / "cancel"
        self.began = self._ended = self._killing = False
        self._process: CoreProcess | None = None

    @property
    def command(self) -> list[str]:
        """The command line that the worker gets."""
        return [*self._arguments, "--json", "--cancel-file", str(self._cancelFile)]

    @property
    def running(self) -> bool:
        return not self._ended

    def cancel(self) -> None:
        """Ask the command to stop; after five seconds the worker is killed."""
        if self._process is not None:
            self._process.cancel()
        elif not self._ended and not self._cancelFile.exists():
            self._cancelFile.touch()
            qt.QTimer.singleShot(processes.CANCEL_PATIENCE_MS, self.kill)

    def kill(self) -> None:
        """End the command at once, and the worker with it."""
        if self._ended:
            return
        self._killing = True
        if self._process is not None:
            self._process.kill()
        else:
            self._worker.stop()

    def hear(self, event: dict[str, Any]) -> None:
        """An event of the worker since this job was sent."""
        self.began = self.began or event["event"] == "started"
        self._report.hear(event)

    def finish(self, exitCode: int) -> None:
        """The worker has done with it."""
        self._end(self._report.outcome(exitCode, cancelled=self._cancelFile.exists()))

    def lose(self, outcome: Outcome) -> None:
        """The worker ended. A job that it had not begun is done by the plain command."""
        if self._killing or self._cancelFile.exists():
            self._end(self._report.outcome(outcome.exitCode or 1, cancelled=True))
        elif self.began:
            message = _("The process that segments ended unexpectedly (exit code {code}).")
            hint = outcome.hint + " " + _("Apply starts a new one.")
            self._end(Outcome(outcome.exitCode or 1, {}, "crash", message.format(code=outcome.exitCode), hint))
        else:
            self.onLog(_("The worker cannot be used: a process for this CT alone is started.") + " " + outcome.message)
            self._process = CoreProcess(
                self._arguments, self._folder, onFinished=self._end, onProgress=self._onProgress, onLog=self.onLog
            )

    def _end(self, outcome: Outcome) -> None:
        self._ended = True
        self._onFinished(outcome)


@functools.cache
def warmWorker() -> Worker:
    """The worker of this Slicer: there are never two."""
    return Worker()
