"""A running coordinator: owns front, SuperLink and SuperExec, and keeps runs going until the study is done.

Flower ends a run when its server dies or is away for long; the study lives on in its checkpoint, so a new run simply
goes on with the next round (the "run-keeper" of flower.md section 3).
"""

import json
import re
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from segviz_core.atomic import write_json
from segviz_core.errors import Cancelled, InputError, SegVizError
from segviz_core.federation import coordinator, journal
from segviz_core.federation.child import Child, environment, stop_all
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.flower_process import command
from segviz_core.federation.kit import check_flower
from segviz_core.federation.registry import Registry
from segviz_core.federation.running import asked_to_stop, only_one
from segviz_core.federation.study import Study
from segviz_core.federation.supervisor import free_port

META_MODEL_FILE = "meta_model.safetensors"

_CONNECTION = "segviz"  # name of the SuperLink connection in Flower's own configuration file
_START_S, _POLL_S, _VAIN_RUNS = 60.0, 0.25, 3
_MOST_RESTARTS, _RESTART_WINDOW_S = 5, 600.0

OnStatus = Callable[[dict[str, Any]], None]


def serve(folder: Path, *, on_status: OnStatus | None = None) -> dict[str, Any]:
    """Serve the study in `folder` until it is finished; gives its last status. A second start goes on where it was.

    `on_status` gets the status whenever it changes; it may raise Cancelled.

    Raises:
        InputError: the port is taken, the coordinator runs already, or too few sites came in time.
        Cancelled: somebody asked to stop.
        SegVizError: a round cannot be finished.
    """
    coordinator.read_settings(folder)
    check_flower(None)
    with only_one(folder, what="The coordinator"):
        server = _Server(folder, on_status or (lambda _: None))
        try:
            server.work()
            model = folder / META_MODEL_FILE
            study = Study(folder)
            meta_model_of(study.state, study.settings).save(model)
            return {**coordinator.status(folder), "meta_model": str(model)}
        except (Cancelled, KeyboardInterrupt) as error:
            coordinator.write_status(folder, state="stopped", message="Stopped; start it again to go on.")
            raise Cancelled("The coordinator was stopped; every finished round is safe.") from error
        except SegVizError as error:
            coordinator.write_status(folder, state="failed", message=error.message, hint=error.hint)
            raise
        finally:
            server.stop()


class _Server:
    def __init__(self, folder: Path, on_status: OnStatus) -> None:
        self._folder, self._on_status = folder, on_status
        self._server = coordinator.read_server(folder)
        self._built_in = self._server["front"] == coordinator.FRONTS[0]
        self._superlink_port = free_port() if self._built_in else int(self._server["superlink_port"])
        self._address = f"127.0.0.1:{self._superlink_port}"
        self._environment = environment(flwr_home=folder / "flower")
        self._registry = Registry(folder, self._flwr)
        self._front_deaths: list[float] = []
        self._front: Child | None = None
        self._superlink: Child | None = None
        self._superexec: Child | None = None
        self._listening = self._task_ended = False
        self._last_status: dict[str, Any] = {}

    def work(self) -> None:
        if self._built_in:
            _check_port(self._server["bind"], int(self._server["port"]), "create the study with another --port")
        else:
            _check_port("127.0.0.1", self._superlink_port, "name another one: coordinator front STUDY nginx")
        coordinator.renew_certificate(self._folder)
        coordinator.write_status(self._folder, state="starting", message="Starting Flower's server.")
        self._tell()
        (self._folder / "logs").mkdir(exist_ok=True)
        self._write_connection()
        vain, finished = 0, -1
        while True:
            try:
                self._start_processes()
                self._start_run()
                self._wait_for_run()
            except _Unanswered:
                self._end_superlink()
            status = coordinator.status(self._folder)
            if status["state"] == "finished":
                return
            if status["state"] == "failed":
                kind = InputError if status.get("kind") == "input" else SegVizError
                raise kind(status["message"], hint=status["hint"])
            vain = 0 if status["finished_rounds"] > finished else vain + 1
            finished = status["finished_rounds"]
            if vain >= _VAIN_RUNS:
                raise SegVizError(
                    f"Flower's server ended {_VAIN_RUNS} times in round {finished + 1} without finishing it.",
                    hint=f"The logs in {self._folder / 'logs'} say more; every finished round is safe.",
                )

    def stop(self) -> None:
        """End the run and every process, in this order, so that no task is left behind."""
        if self._superlink and self._superlink.returncode is None:
            self._stop_run()
        stop_all([child for child in (self._superexec, self._superlink, self._front) if child])

    def _keep_front(self) -> None:
        """Start the front, again if it has ended; sites try again by themselves."""
        if not self._built_in or (self._front and self._front.returncode is None):
            return
        if self._front:
            self._front.stop()
            now = time.monotonic()
            self._front_deaths = [then for then in self._front_deaths if now - then < _RESTART_WINDOW_S] + [now]
            if len(self._front_deaths) > _MOST_RESTARTS:
                raise SegVizError(
                    f"The front ended again and again: {_last_line(self._front)}",
                    hint=f"{self._folder / 'logs'} holds its whole log.",
                )
        names = (coordinator.CERTIFICATE_FILE, coordinator.SERVER_KEY_FILE, coordinator.CA_FILE)
        arguments = [self._server["bind"], str(self._server["port"]), str(self._superlink_port)]
        self._front = Child(
            [sys.executable, "-P", "-m", "segviz_core.federation.front"]
            + arguments
            + [str(self._folder / name) for name in names],
            environment=self._environment,
            log=self._folder / "logs" / "front.log",
        )

    def _start_processes(self) -> None:
        self._keep_front()
        if self._superlink and self._superlink.returncode is not None:
            self._end_superlink()
        if not self._superlink:
            self._start_superlink()
        if not self._superexec or self._superexec.returncode is not None:
            ca = str(self._folder / coordinator.CA_FILE)
            arguments = ["--runtime-api-address", self._address, "--root-certificates", ca]
            arguments += ["--superexec-auth-secret-file", str(self._folder / coordinator.SECRET_FILE)]
            self._superexec = self._child("server-superexec", *arguments)

    def _end_superlink(self) -> None:
        """Clear away what is left of a server that has ended or does not answer, and its SuperExec."""
        for child in (self._superlink, self._superexec):
            if child:
                child.stop(patience_s=3)
        self._superlink = None

    def _start_superlink(self) -> None:
        folder, port = self._folder, str(self._superlink_port)
        self._listening = False
        arguments = ["--host", "127.0.0.1", "--port", port, "--ssl-ca-certfile", str(folder / coordinator.CA_FILE)]
        arguments += ["--ssl-certfile", str(folder / coordinator.CERTIFICATE_FILE)]
        arguments += ["--ssl-keyfile", str(folder / coordinator.SERVER_KEY_FILE), "--enable-supernode-auth"]
        arguments += ["--database", str(folder / "flower" / "state.db"), "--isolation", "process"]
        arguments += ["--superexec-auth-secret-file", str(folder / coordinator.SECRET_FILE)]
        self._superlink = self._child("superlink", "--disable-runtime-dependency-installation", *arguments)
        deadline = time.monotonic() + _START_S
        while not self._listening:
            self._check_stop()
            if self._superlink.returncode is not None or time.monotonic() > deadline:
                raise SegVizError(
                    f"Flower's server did not start: {_last_line(self._superlink)}",
                    hint=f"{folder / 'logs'} holds its whole log.",
                )
            time.sleep(0.1)

    def _child(self, program: str, *arguments: str) -> Child:
        return Child(
            command(program, None, *arguments),
            environment=self._environment,
            log=self._folder / "logs" / f"{program}.log",
            on_line=self._hear,
        )

    def _hear(self, line: str) -> None:
        if "Uvicorn running" in line:
            self._listening = True
        said = journal.heard(line)
        if said and said["event"] == "task-ended":
            self._task_ended = True

    def _start_run(self) -> None:
        self._stop_run()
        self._registry.update()
        session = secrets.token_hex(16)
        write_json(self._folder / coordinator.RUN_FILE, {"session": session})
        self._task_ended = False
        values = f"study={json.dumps(str(self._folder.resolve()))} session={json.dumps(session)}"
        answer = self._flwr("run", str(self._folder / "app"), "--run-config", values)
        write_json(self._folder / coordinator.RUN_FILE, {"session": session, "run": str(answer["run-id"])})

    def _stop_run(self) -> None:
        """Stop the run that we, or a coordinator that was killed, left unfinished.

        Until its lease ends, nodes would wait up to a minute for the rest of a message that nobody completes.
        """
        path = self._folder / coordinator.RUN_FILE
        run = json.loads(path.read_text(encoding="utf-8")).get("run") if path.exists() else None
        if run and coordinator.status(self._folder)["state"] != "finished":
            with suppress(SegVizError):
                self._flwr("stop", run)
        path.unlink(missing_ok=True)

    def _wait_for_run(self) -> None:
        assert self._superlink is not None
        assert self._superexec is not None
        while not self._task_ended:
            self._check_stop()
            if self._superlink.returncode is not None or self._superexec.returncode is not None:
                self._superexec.stop(patience_s=3)
                return
            self._keep_front()
            self._registry.update()
            self._tell()
            time.sleep(_POLL_S)
        self._tell()

    def _flwr(self, *arguments: str) -> dict[str, Any]:
        """One call of Flower's command line; gives its JSON answer.

        Raises:
            SegVizError: it failed; the message is Flower's own.
        """
        try:
            done = subprocess.run(
                command("flwr", None, *arguments, _CONNECTION, "--format", "json"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=_START_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _Unanswered(f"Flower's server did not answer within {_START_S:.0f} s.") from error
        found = re.search(r"^\{.*^\}", done.stdout, re.DOTALL | re.MULTILINE)
        answer: dict[str, Any] = json.loads(found[0]) if found else {}
        if done.returncode or not answer.get("success"):
            why = str(answer.get("error-message") or done.stderr or done.stdout).strip()[-300:]
            refused = SegVizError if self._superlink and self._superlink.returncode is None else _Unanswered
            raise refused(f"Flower refused `{' '.join(arguments[:2])}`: {why}")
        return answer

    def _write_connection(self) -> None:
        home = self._folder / "flower"
        home.mkdir(exist_ok=True)
        ca = json.dumps(str((self._folder / coordinator.CA_FILE).resolve()))
        text = f'[superlink.{_CONNECTION}]\naddress = "{self._address}"\nroot-certificates = {ca}\n'
        (home / "config.toml").write_text(text, encoding="utf-8")

    def _check_stop(self) -> None:
        if asked_to_stop(self._folder):
            raise Cancelled

    def _tell(self) -> None:
        status = coordinator.status(self._folder)
        if status != self._last_status:
            self._last_status = status
            self._on_status(status)


class _Unanswered(SegVizError):
    """Flower's server is gone or hangs: a new one is started."""


def _check_port(host: str, port: int, otherwise: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise InputError(
                f"Port {port} of this computer is taken by another program.",
                hint=f"Stop that program, or {otherwise}.",
            ) from error


def _last_line(child: Child) -> str:
    return (child.last_lines.strip().splitlines() or ["no output"])[-1][:200]
