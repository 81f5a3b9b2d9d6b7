"""The processes of a coordinator: the front, Flower's SuperLink and its SuperExec; started, watched, stopped."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import coordinator
from segviz_core.federation.child import Child, environment, free_port, stop_all
from segviz_core.federation.clock import seconds_ahead
from segviz_core.federation.database import is_damaged, set_aside_if_damaged
from segviz_core.federation.flower_process import command

_CONNECTION = "segviz"  # name of the SuperLink connection in Flower's own configuration file
_START_S, _CALL_S = 120.0, 60.0
_LOOK_EVERY_S, _MOST_MISSES = 10.0, 6
_MOST_RESTARTS, _RESTART_WINDOW_S = 5, 600.0


class Unanswered(SegVizError):
    """Flower's server is gone or hangs: a new one has to be started."""


class ServerProcesses:
    """The processes of the study in `folder`; `on_line` gets every line that Flower's write."""

    def __init__(self, folder: Path, on_line: Callable[[str], None]) -> None:
        self._folder, self._on_line = folder, on_line
        self._server = coordinator.read_server(folder)
        self._built_in = self._server["front"] == coordinator.FRONTS[0]
        self._port = free_port() if self._built_in else int(self._server["superlink_port"])
        self._environment = environment(flwr_home=folder / "flower")
        self._database = folder / "flower" / "state.db"
        self._front: Child | None = None
        self._superlink: Child | None = None
        self._superexec: Child | None = None
        self._front_deaths: list[float] = []
        self._misses = {"front": 0, "superlink": 0}
        self._next_look = 0.0
        self._listening = False

    def prepare(self) -> None:
        """Make folders, renew the certificate where it ends soon, tell Flower's command line where its server is.

        Raises:
            InputError: a port is taken by another program.
        """
        if self._built_in:
            _check_port(self._server["bind"], int(self._server["port"]), "create the study with another --port")
        else:
            _check_port("127.0.0.1", self._port, "name another one: coordinator front STUDY nginx")
        coordinator.renew_certificate(self._folder)
        for name in ("logs", "flower"):
            (self._folder / name).mkdir(exist_ok=True)
        ca = json.dumps(str((self._folder / coordinator.CA_FILE).resolve()))
        text = f'[superlink.{_CONNECTION}]\naddress = "127.0.0.1:{self._port}"\nroot-certificates = {ca}\n'
        (self._folder / "flower" / "config.toml").write_text(text, encoding="utf-8")

    def start(self, *, check: Callable[[], None], prepare: Callable[[Path], None]) -> None:
        """Start server and front, and wait until Flower's server listens; `check` is called meanwhile and may raise.

        `prepare` gets the server's database before sites can reach the server: one that has lost a site ends it.

        Raises:
            SegVizError: a process cannot be started; its own last words.
        """
        if self._superlink and self._superlink.returncode is not None:
            self.end_superlink()
        if not self._superlink:
            self._start_superlink(check)
        prepare(self._database)
        self._keep_front()

    def renew_superexec(self) -> None:
        """Start a SuperExec in place of the last one, whose tasks end with it: of them nothing more is heard."""
        self.end_superexec()
        arguments = ["--runtime-api-address", f"127.0.0.1:{self._port}", "--root-certificates"]
        arguments += [self._path(coordinator.CA_FILE), "--superexec-auth-secret-file"]
        self._superexec = self._flower("server-superexec", *arguments, self._path(coordinator.SECRET_FILE))

    @property
    def ended(self) -> bool:
        """Whether Flower's server or its SuperExec has ended."""
        return any(child is None or child.returncode is not None for child in (self._superlink, self._superexec))

    def keep(self) -> None:
        """Start the front again if it has ended; look now and then whether the processes still answer.

        Raises:
            Unanswered: Flower's server hangs.
            SegVizError: the front ends again and again.
        """
        self._keep_front()
        if time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _LOOK_EVERY_S
        if self._hangs("superlink", self._port):
            raise Unanswered("Flower's server hangs.")
        loopback = self._server["bind"] in ("127.0.0.1", "0.0.0.0")  # the names in the certificate
        if self._built_in and loopback and self._hangs("front", int(self._server["port"])):
            assert self._front is not None
            self._front.stop(patience_s=1)
            self._keep_front()

    def end_superexec(self) -> None:
        """Stop the SuperExec with all its tasks."""
        if self._superexec:
            self._superexec.stop(patience_s=3)

    def end_superlink(self) -> None:
        """Clear away what is left of a server that has ended or does not answer, and its SuperExec."""
        if self._superlink:
            self._superlink.stop(patience_s=3)
        self._superlink = None
        self._misses["superlink"] = 0
        self.end_superexec()

    def stop(self) -> None:
        """Stop everything, first what depends on others."""
        stop_all([child for child in (self._superexec, self._superlink, self._front) if child])

    def flwr(self, *arguments: str, patience_s: float = _CALL_S) -> dict[str, Any]:
        """One call of Flower's command line; gives its JSON answer.

        Raises:
            Unanswered: Flower's server has ended, or gave no answer within `patience_s` seconds.
            SegVizError: it refused; the message is Flower's own.
        """
        try:
            done = subprocess.run(
                command("flwr", None, *arguments, _CONNECTION, "--format", "json"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=patience_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unanswered(f"Flower's server did not answer within {patience_s:.0f} s.") from error
        found = re.search(r"^\{.*^\}", done.stdout, re.DOTALL | re.MULTILINE)
        answer: dict[str, Any] = json.loads(found[0]) if found else {}
        if done.returncode or not answer.get("success"):
            kind = Unanswered if self.ended or is_damaged(self._database) else SegVizError
            why = str(answer.get("error-message") or done.stderr or done.stdout).strip()[-300:]
            raise kind(f"Flower refused `{' '.join(arguments[:2])}`: {why}")
        return answer

    def _keep_front(self) -> None:
        if not self._built_in or (self._front and self._front.returncode is None):
            return
        if self._front:
            self._front.stop()
            now = time.monotonic()
            self._front_deaths = [then for then in self._front_deaths if now - then < _RESTART_WINDOW_S] + [now]
            if len(self._front_deaths) > _MOST_RESTARTS:
                raise SegVizError(f"The front ended again and again: {_last_line(self._front)}", hint=self._logs_hint)
        names = (coordinator.CERTIFICATE_FILE, coordinator.SERVER_KEY_FILE, coordinator.CA_FILE)
        where = [self._server["bind"], str(self._server["port"]), str(self._port)]
        self._front = Child(
            [sys.executable, "-P", "-m", "segviz_core.federation.front", *where, *map(self._path, names)],
            environment=self._environment,
            log=self._folder / "logs" / "front.log",
        )
        self._misses["front"] = 0

    def _start_superlink(self, check: Callable[[], None]) -> None:
        self._listening = False
        if set_aside_if_damaged(self._database) and self._front:
            self._front.stop(patience_s=3)
        path = self._path
        arguments = ["--host", "127.0.0.1", "--port", str(self._port), "--ssl-ca-certfile", path(coordinator.CA_FILE)]
        arguments += ["--ssl-certfile", path(coordinator.CERTIFICATE_FILE)]
        arguments += ["--ssl-keyfile", path(coordinator.SERVER_KEY_FILE), "--enable-supernode-auth"]
        arguments += ["--database", str(self._database), "--isolation", "process"]
        arguments += ["--superexec-auth-secret-file", path(coordinator.SECRET_FILE)]
        self._superlink = self._flower("superlink", "--disable-runtime-dependency-installation", *arguments)
        deadline = time.monotonic() + _START_S
        while not self._listening:
            check()
            if self._superlink.returncode is not None or time.monotonic() > deadline:
                why = _last_line(self._superlink)
                raise SegVizError(f"Flower's server did not start: {why}", hint=self._logs_hint)
            time.sleep(0.1)

    def _flower(self, program: str, *arguments: str) -> Child:
        return Child(
            command(program, None, *arguments),
            environment=self._environment,
            log=self._folder / "logs" / f"{program}.log",
            on_line=self._hear,
        )

    def _hear(self, line: str) -> None:
        self._listening |= "Uvicorn running" in line
        self._on_line(line)

    def _hangs(self, name: str, port: int) -> bool:
        """Whether there was no answer at `port` for about a minute and a half."""
        answered = seconds_ahead(f"127.0.0.1:{port}", self._folder / coordinator.CA_FILE) is not None
        self._misses[name] = 0 if answered else self._misses[name] + 1
        return self._misses[name] >= _MOST_MISSES

    def _path(self, name: str) -> str:
        return str(self._folder / name)

    @property
    def _logs_hint(self) -> str:
        return f"{self._folder / 'logs'} holds its whole log."


def _check_port(host: str, port: int, otherwise: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError as error:
            raise InputError(
                f"Port {port} needs the rights of an administrator.", hint=f"{otherwise[0].upper()}{otherwise[1:]}."
            ) from error
        except OSError as error:
            raise InputError(
                f"Port {port} of this computer is taken by another program.",
                hint=f"Stop that program, or {otherwise}.",
            ) from error


def _last_line(child: Child) -> str:
    return (child.last_lines.strip().splitlines() or ["no output"])[-1][:200]
