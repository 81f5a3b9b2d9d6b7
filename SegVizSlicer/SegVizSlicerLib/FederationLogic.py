"""A site's part in a federation: check, join, follow, leave. The site is a detached process that outlives Slicer."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
from slicer.i18n import tr as _

from SegVizSlicerLib.CoreProcess import CoreProcess, makeJobFolder
from SegVizSlicerLib.Report import Outcome
from SegVizSlicerLib.SiteKit import KitInfo
from SegVizSlicerLib.SiteRecord import STATUS_FILE, SiteRecord, SiteStatus, isRunning

LEAVE_PATIENCE_S = 40.0
"""As `site leave` of the command line waits."""

POLL_MS = 100


class FederationLogic:
    """One site per kit, in a folder of its own under `folder`; tests hand in what runs the commands."""

    def __init__(self, folder: Path, startProcess: Callable[..., Any] = CoreProcess) -> None:
        self._folder = folder
        self._startProcess = startProcess
        self._process: Any = None
        self._record: SiteRecord | None = None
        self.site: Path | None = self._lastSite()

    @property
    def busy(self) -> bool:
        """Whether a command of this logic is running; a joined site is none."""
        return self._process is not None and self._process.running

    def siteFolder(self, kit: KitInfo) -> Path:
        """Where this kit's site keeps its state; the same kit finds it again."""
        return self._folder / f"{kit.study}-{kit.site}-{kit.fingerprint[:8]}"

    def check(self, cases: Path, labelValues: dict[str, tuple[int, ...]], **callbacks: Any) -> None:
        """Read every case; the outcome's `cases` has one row each."""
        arguments = ["check", str(cases), *labelArguments(labelValues)]
        self._start(arguments, **callbacks)

    def estimate(
        self,
        kit: KitInfo,
        cases: Path,
        labelValues: dict[str, tuple[int, ...]],
        *,
        cores: int,
        device: str,
        **callbacks: Any,
    ) -> None:
        """Train a few steps; the outcome's `sentence` says what a round will cost this computer."""
        arguments = ["site", "estimate", str(kit.path), "--cases", str(cases), *labelArguments(labelValues)]
        self._start([*arguments, "--cores", str(cores), "--device", device], **callbacks)

    def makeKey(self, folder: Path, **callbacks: Any) -> None:
        """Make a site key in `folder`, or find it there; the outcome's `public_key` is the file of its public half."""
        self._start(["site", "key", "--work", str(folder)], **callbacks)

    def join(
        self,
        kit: KitInfo,
        cases: Path,
        labelValues: dict[str, tuple[int, ...]],
        *,
        cores: int,
        device: str,
        flwrFolder: Path | None,
        **callbacks: Any,
    ) -> None:
        """Start the site and wait until it is online; the user has given consent."""
        site = self.siteFolder(kit)
        site.mkdir(parents=True, exist_ok=True)
        arguments = ["site", "join", str(kit.path), "--cases", str(cases), *labelArguments(labelValues)]
        arguments += ["--consent", "--cores", str(cores), "--device", device, "--work", str(site)]
        if flwrFolder is not None:
            arguments += ["--flwr-folder", str(flwrFolder)]
        self.site = site
        self._start(arguments, **callbacks)

    def leave(self, onFinished: Callable[[Outcome], None]) -> None:
        """Ask the site to leave and hear of its end; its heads and state stay for the next time.

        The request is a file that the supervisor looks for, so that leaving needs no start of Python.
        """
        from segviz_core.federation.running import ask_to_stop

        site, deadline = self.site, time.monotonic() + LEAVE_PATIENCE_S
        assert site is not None

        def poll() -> None:
            if not isRunning(site):
                onFinished(Outcome(0))
            elif time.monotonic() > deadline:
                message = _("The site did not end within {seconds:.0f} s.").format(seconds=LEAVE_PATIENCE_S)
                onFinished(Outcome(1, {}, "error", message, _("Try again in a minute.")))
            else:
                qt.QTimer.singleShot(POLL_MS, poll)

        ask_to_stop(site, wait_s=0)
        poll()

    def leaveAfterRound(self) -> None:
        """Ask the site to leave once its answer of the round under way is sent; it then ends by itself."""
        from segviz_core.federation.running import ask_to_leave_after_round

        assert self.site is not None
        ask_to_leave_after_round(self.site)

    def cancel(self) -> None:
        """Stop a running check or join."""
        if self.busy:
            self._process.cancel()

    def kill(self) -> None:
        """End a running command; a site that is online goes on."""
        if self.busy:
            self._process.kill()

    def joined(self) -> bool:
        """Whether the supervisor of this site is running, whoever started it."""
        return self.site is not None and isRunning(self.site)

    def metaModels(self) -> list[Path]:
        """Meta-models that the finished study has sent to this site."""
        return sorted((self.site / "work").glob("meta_model*.safetensors")) if self.site is not None else []

    def forgetSite(self, kit: KitInfo) -> None:
        """Delete all that this kit's site keeps on this computer; it must not be running.

        Raises:
            OSError: something could not be deleted.
        """
        site = self.siteFolder(kit)
        if site.exists():
            shutil.rmtree(site)
        self.site, self._record = None, None

    def status(self) -> SiteStatus:
        """Everything the window shows of the site; reads what its files have gained."""
        if self.site is None:
            return SiteStatus()
        if self._record is None or self._record.site != self.site:
            self._record = SiteRecord(self.site)
        return self._record.read()

    def _start(self, arguments: list[str], **callbacks: Any) -> None:
        if self.busy:
            raise ValueError(_("Please wait until the running command has ended."))
        self._process = self._startProcess(arguments, makeJobFolder(), **callbacks)

    def _lastSite(self) -> Path | None:
        """The site that is running, else the one that was heard of last."""
        folders = [path for path in self._folder.iterdir() if path.is_dir()] if self._folder.is_dir() else []
        sites = sorted(folders, key=_lastWritten)
        return next((site for site in sites if isRunning(site)), sites[-1] if sites else None)


def labelArguments(labelValues: dict[str, tuple[int, ...]]) -> list[str]:
    """Label set and label values as options of the command line."""
    values = [f"{organ}={','.join(str(value) for value in numbers)}" for organ, numbers in labelValues.items()]
    return ["--label-set", ",".join(labelValues), "--label-values", *values]


def _lastWritten(site: Path) -> float:
    status = site / STATUS_FILE
    return status.stat().st_mtime if status.exists() else 0.0


def defaultCores() -> int:
    """Half of this computer: the person at it goes on working."""
    return max(1, (os.cpu_count() or 2) // 2)
