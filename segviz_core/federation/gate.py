"""The gate: which task a SuperExec starts, and which code a task may run (flower.md section 4).

At a site only ClientApp tasks start, and what runs is the ClientApp installed here: code that came from the coordinator
is hashed, noted in the audit record and never unpacked. A gate is no sandbox. It uses private names of Flower, so the
version is pinned (kit.FLWR_VERSION) and Testing/core/test_gate.py holds the contract.
"""

import hashlib
import importlib
import json
import os
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any

from segviz_core.federation import journal
from segviz_core.federation.flower_process import COMMAND, read_task
from segviz_core.federation.kit import FLWR_VERSION
from segviz_core.federation.site_folder import AUDIT_FILE, read_site


def run_superexec(task: str, *, site: Path | None = None) -> None:
    """Flower's SuperExec, restricted to tasks of one type ("server-app" or "client-app"), which it starts by Python.

    Standard Flower starts bare program names from PATH and shows the task's token in the list of processes.
    """
    _check_version()
    from flwr.supercore.cli import flower_superexec
    from flwr.supercore.constant import TaskType
    from flwr.supercore.superexec.executor import LaunchResult
    from flwr.supercore.superexec.executor.subprocess_executor import SubprocessExecutor
    from flwr.supercore.superexec.plugin import AutoExecPlugin

    allowed = {"server-app": TaskType.SERVER_APP, "client-app": TaskType.CLIENT_APP}[task]
    folder = read_site(site)["flwr_folder"] if site else ""
    command = [sys.executable, *COMMAND, task, folder, *([str(site)] if site else [])]
    tasks = _Tasks(command, ahead=site is not None)

    def launch(self: Any, spec: Any) -> Any:
        if spec.task_type != allowed:
            return LaunchResult.failed(f"tasks of type {spec.task_type} are refused here")
        tls = ["--insecure"] if spec.insecure else ["--root-certificates", spec.root_certificates_path]
        arguments = ["--runtime-api-address", spec.runtime_api_address, *tls, "--parent-pid", str(os.getpid())]
        tasks.start([*arguments, "--token", spec.token])
        return LaunchResult.accepted()

    AutoExecPlugin.supported_task_types = frozenset({allowed})
    SubprocessExecutor.launch = launch
    flower_superexec()


class _Tasks:
    """Starts a process per task; `ahead` of it, so that a round does not wait for Python's imports."""

    def __init__(self, command: list[str], *, ahead: bool) -> None:
        self._command, self._ahead = command, ahead
        self._spare = self._new() if ahead else None

    def start(self, arguments: list[str]) -> None:
        """Give the task to the waiting process, and start the next one, which loads while this one works."""
        process, self._spare = self._spare, None
        if process is None or process.poll() is not None:
            process = self._new()
        assert process.stdin is not None
        process.stdin.write(json.dumps(arguments).encode() + b"\n")
        process.stdin.flush()  # and stays open: the task ends with us
        threading.Thread(target=_report_end, args=(process,), daemon=True).start()
        self._spare = self._new() if self._ahead else None

    def _new(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(self._command, stdin=subprocess.PIPE)


def run_client_app(site: Path) -> None:
    """One task of a site: the installed ClientApp answers one message."""
    _check_version()
    import flwr.supernode.runtime.run_clientapp as runtime
    from flwr.app import Error
    from flwr.supernode.cli import flwr_clientapp

    settings = read_site(site)
    module, _, name = settings["client_app"].partition(":")
    client_app = getattr(importlib.import_module(module), name)

    def refuse_code(content: bytes, *_: Any, **__: Any) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        journal.append(site / AUDIT_FILE, "code", fab_sha256=sha256, decision="not run: the site runs its own code")

    def without_text(code: int, reason: str) -> Any:
        return Error(code=code, reason="the log of the site says why")

    runtime.Error = without_text  # Flower would send the text of the exception
    runtime.install_from_fab = refuse_code
    runtime.get_project_dir = lambda *_: site
    runtime.get_load_client_app_fn = lambda **_: lambda *_: client_app
    sys.argv += read_task()
    flwr_clientapp()


def _report_end(child: subprocess.Popen[bytes]) -> None:
    journal.say("task-ended", returncode=child.wait())


def _check_version() -> None:
    if (found := version("flwr")) != FLWR_VERSION:
        raise RuntimeError(f"Expected Flower {FLWR_VERSION}, found {found}: install the version named in the kit.")
