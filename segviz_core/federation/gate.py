"""The gate: which task a SuperExec starts, and which code a task may run (flower.md section 4).

At a site only ClientApp tasks start, and what runs is the ClientApp installed here: code that came from the coordinator
is hashed, noted in the audit record and never unpacked. A site may choose to run the coordinator's code instead, each
hash once a person there has approved it. A gate is no sandbox. It uses private names of Flower, so the version is
pinned (kit.FLWR_VERSION) and Testing/core/test_gate.py holds the contract.
"""

import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import threading
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

from segviz_core.federation import code_review, journal
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
    """One task of a site: its ClientApp answers one message."""
    _check_version()
    _leave_out_the_node()
    import flwr.supernode.runtime.run_clientapp as runtime
    from flwr.app import Error
    from flwr.supernode.cli.flwr_clientapp import flwr_clientapp

    def without_text(code: int, reason: str) -> Any:
        return Error(code=code, reason="the log of the site says why")

    runtime.Error = without_text  # Flower would send the text of the exception
    if read_site(site).get("code") == "pin":
        run_approved_code(runtime, site)
    else:
        run_own_code(runtime, site)
    sys.argv += read_task()
    flwr_clientapp()


def run_own_code(runtime: Any, site: Path) -> None:
    """Mode `local`: the ClientApp installed here answers; what the coordinator sends is never unpacked."""
    module, _, name = read_site(site)["client_app"].partition(":")
    client_app = getattr(importlib.import_module(module), name)

    def refuse(content: bytes, *_: Any, **__: Any) -> None:
        sha256 = hashlib.sha256(content).hexdigest()
        decision = "not run: the site runs its own code"
        journal.try_append(site / AUDIT_FILE, "code", fab_sha256=sha256, decision=decision)

    runtime.install_from_fab = refuse
    runtime.get_project_dir = lambda *_: site
    runtime.get_load_client_app_fn = lambda **_: lambda *_: client_app


def run_approved_code(runtime: Any, site: Path) -> None:
    """Mode `pin`: the coordinator's code answers if a person here has approved its hash, else a code of refusal."""
    install, get_load = runtime.install_from_fab, runtime.get_load_client_app_fn
    get_project_dir, allowed = runtime.get_project_dir, False

    def install_if_approved(content: bytes, *arguments: Any, **options: Any) -> None:
        nonlocal allowed
        sha256 = code_review.keep(site, content)
        allowed = code_review.is_approved(site, sha256)
        decision = "run: approved" if allowed else "not run: not approved"
        journal.append(site / AUDIT_FILE, "code", fab_sha256=sha256, decision=decision)
        if allowed:
            # Flower runs unpacked code again by the first eight digits of its hash, without a look at the files.
            shutil.rmtree(Path(os.environ["FLWR_HOME"]) / "apps", ignore_errors=True)
            install(content, *arguments, **options)
        else:
            journal.say("code-waits", sha256=sha256)

    runtime.install_from_fab = install_if_approved
    runtime.get_project_dir = lambda *names: get_project_dir(*names) if allowed else site
    runtime.get_load_client_app_fn = lambda **options: get_load(**options) if allowed else lambda *_: _not_approved


def _not_approved(message: Any, context: Any) -> Any:
    from flwr.app import Message

    from segviz_core.federation.records import error_record

    return Message(error_record("not-approved"), reply_to=message)


def _report_end(child: subprocess.Popen[bytes]) -> None:
    journal.say("task-ended", returncode=child.wait())


def _leave_out_the_node() -> None:
    """Import of flwr.supernode.cli brings in the whole SuperNode with its database: .45 of 1.2 CPU seconds per task."""
    from flwr import supernode

    package = ModuleType("flwr.supernode.cli")
    package.__path__ = [str(Path(folder) / "cli") for folder in supernode.__path__]
    sys.modules[package.__name__] = package


def _check_version() -> None:
    if (found := version("flwr")) != FLWR_VERSION:
        raise RuntimeError(f"Expected Flower {FLWR_VERSION}, found {found}: install the version named in the kit.")
