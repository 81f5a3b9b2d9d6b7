"""The supervisor of a site: alone owns SuperNode, gatekeeping SuperExec and trainer, and starts again what dies.

    python -P -m segviz_core.federation.supervisor SITE_FOLDER

Usually detached: the terminal or Slicer may close. It reports to status.jsonl, and stops when `site leave` asks.
"""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segviz_core.errors import Cancelled, InputError, SegVizError
from segviz_core.federation import journal, site_processes
from segviz_core.federation.bulletin import Bulletin, OnRow
from segviz_core.federation.child import Child, environment, free_port, stop_all
from segviz_core.federation.clock import seconds_ahead
from segviz_core.federation.node_log import (
    CONNECTED,
    CONNECTED_AGAIN,
    NOT_RUNNING,
    RECONNECTING,
    RETRYING,
    SENT,
    UNREGISTERED,
    Reason,
    Then,
    explain,
)
from segviz_core.federation.running import asked_to_leave_after_round, asked_to_stop, only_one
from segviz_core.federation.site_folder import AUDIT_FILE, CA_FILE, SECRET_FILE, STATUS_FILE, read_site
from segviz_core.federation.trainer_socket import ADDRESS_FILE

FIRST_TIME_S = 60.0
"""A site that was never online gives up after this long; one that was keeps trying, for the coordinator may restart."""
UNREGISTERED_S = 30.0
"""The coordinator may be just starting and register this site in a moment."""
LEASE_S = 75.0
"""Flower refuses the key of a killed node for about 60 s (flower.md section 3)."""
_LINGER_S, _GOODBYE_S = 5.0, 1.0
"""The server takes an answer at its next look, and not at all once Flower holds the node for offline."""
_POLL_S, _RETRY_S, _MOST_RESTARTS, _RESTART_WINDOW_S = 0.25, 3.0, 5, 600.0


class Supervisor:
    """One site between join and leave. `folder` is what `site join` prepared."""

    def __init__(self, folder: Path, *, on_row: OnRow | None = None) -> None:
        self._folder = folder
        self._settings = read_site(folder)
        self._bulletin = Bulletin(folder / STATUS_FILE, self._settings["site"]["site"], on_row=on_row)
        self._environment = environment(flwr_home=folder / "flower")
        self._node: Child | None = None
        self._superexec: Child | None = None
        self._trainer: Child | None = None
        self._ready = False
        self._trainer_error: SegVizError | None = None
        self._online = self._task_crashed = self._answered = self._delivered = False
        self._was_online = any(row.get("state") == "online" for row in journal.read(folder / STATUS_FILE))
        self._trying_since = self._next_try = time.monotonic()
        self._deaths: list[float] = []

    def run(self) -> None:
        """Work until asked to leave.

        Raises:
            SegVizError: the data cannot be used, or the coordinator cannot be reached or does not want this site.
        """
        with only_one(self._folder, what="This site"):
            self._bulletin.say("checking", "Checking the cases.")
            journal.append(self._folder / AUDIT_FILE, "join", address=self._settings["address"])
            try:
                self._work()
            except (KeyboardInterrupt, Cancelled):
                self._bulletin.say("left", "Left.")
            except SegVizError as error:
                removed = isinstance(error, _Removed)
                self._bulletin.say("removed" if removed else "failed", error.message, hint=error.hint, kind=error.kind)
                raise
            finally:
                self._take_leave()
                stop_all([child for child in (self._node, self._superexec, self._trainer) if child])
                journal.try_append(self._folder / AUDIT_FILE, "leave", state=self._bulletin.state)

    def _work(self) -> None:
        while not asked_to_stop(self._folder):
            self._bulletin.pass_on()
            if asked_to_leave_after_round(self._folder):
                if self._bulletin.idle_for(_LINGER_S):
                    break
                self._bulletin.say("leaving", "Leaving as soon as the answer of this round is sent.")
                if not self._bulletin.working:  # what comes now is told that the site stops
                    (self._folder / ADDRESS_FILE).unlink(missing_ok=True)
            if self._trainer_error:
                raise self._trainer_error
            self._keep_trainer()
            if self._delivered and not self._online:
                self._bulletin.say("finished", "The study is finished; this site has its meta-model.")
                return
            if self._ready:
                self._keep_node()
                self._keep_superexec()
            time.sleep(_POLL_S)
        self._bulletin.say("left", "Left.")

    def _take_leave(self) -> None:
        """Let the task in hand answer that the site has stopped, so that nobody waits for it."""
        (self._folder / ADDRESS_FILE).unlink(missing_ok=True)
        if self._trainer:
            self._trainer.stop()
        deadline = time.monotonic() + 4 * _GOODBYE_S
        while self._online and not self._bulletin.idle_for(_GOODBYE_S) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _keep_trainer(self) -> None:
        if self._trainer and self._trainer.returncode is None:
            return
        if self._trainer:
            time.sleep(0.2)  # its last words may still be on their way
            if self._trainer_error:
                return
            self._trainer.stop()
            self._count_death("The trainer")
        self._ready = False
        self._trainer = Child(
            site_processes.trainer(self._folder, self._settings),
            environment=self._environment,
            log=self._folder / "trainer.log",
            on_line=self._hear_trainer,
        )

    def _hear_trainer(self, line: str) -> None:
        said = journal.heard(line)
        if not said:
            return
        event = said.pop("event")
        if event == "error":
            kind = InputError if said.get("kind") == "input" else SegVizError
            self._trainer_error = kind(str(said.get("message")), hint=str(said.get("hint", "")))
            return
        if event == "answered":
            self._answered = True
            self._delivered = said.get("stage") == "deliver"  # the coordinator ends after its last round
        if event == "ready":
            self._ready = True
            self._trying_since = time.monotonic()
        self._bulletin.tell(event, **said)

    def _keep_node(self) -> None:
        if self._node and self._node.returncode is None:
            self._check_patience()
            if self._task_crashed:
                self._count_death("A task")
                self._renew_node()
            return
        if self._node:
            returncode, log = self._node.returncode, self._node.last_lines
            self._node.stop()
            self._node = None
            self._set_offline()
            self._after_end(
                explain(
                    log,
                    returncode=returncode or 0,
                    worked_before=self._was_online,
                    seconds_ahead=lambda: seconds_ahead(self._settings["address"], self._folder / CA_FILE),
                )
            )
        elif time.monotonic() >= self._next_try:
            self._start_node()

    def _start_node(self) -> None:
        if not self._was_online:
            self._bulletin.say("connecting", f"Connecting to {self._settings['address']}.")
        self._write_secret()
        self._port = free_port()
        if self._superexec:
            self._superexec.stop(patience_s=5)
            self._superexec = None
        self._task_crashed = False  # nothing more is heard of its tasks
        self._node = Child(
            site_processes.node(self._folder, self._settings, port=self._port),
            environment=self._environment,
            log=self._folder / "node.log",
            on_line=self._hear_node,
        )

    def _hear_node(self, line: str) -> None:
        if CONNECTED.search(line) or CONNECTED_AGAIN.search(line):
            self._online = self._was_online = True
            self._bulletin.say("online", "Connected; waiting for the next round.")
        elif SENT.search(line):
            self._bulletin.sent()
            if self._answered and "successfully" in line:  # the site works: what died before is mended
                self._answered = False
                self._deaths.clear()
        elif RETRYING.search(line):
            self._set_offline()
            self._bulletin.say("reconnecting" if self._was_online else "connecting", f"{NOT_RUNNING} Trying again.")

    def _keep_superexec(self) -> None:
        if not self._node or (self._superexec and self._superexec.returncode is None):
            return
        if not self._online and not self._superexec:
            return  # the node opens its local port before it is online
        if self._superexec:
            self._count_death("The gate")
            self._renew_node()
            return
        self._superexec = Child(
            site_processes.superexec(self._folder, self._settings, port=self._port),
            environment=self._environment,
            log=self._folder / "superexec.log",
            on_line=self._hear_superexec,
        )

    def _hear_superexec(self, line: str) -> None:
        said = journal.heard(line)
        if said and said["event"] == "task-ended" and said["returncode"] not in (0, 1):  # Flower's own: it has answered
            self._task_crashed = True
        if said and said["event"] == "code-waits":
            self._bulletin.say("online", "Code of the coordinator waits to be approved here: site code.")

    def _renew_node(self) -> None:
        """Take a new node after a task died: the old one waits 60 s for its answer, and may then mix up its answers."""
        if self._node:
            self._node.stop()
        self._node = None
        self._set_offline()

    def _after_end(self, reason: Reason) -> None:
        journal.try_append(self._folder / AUDIT_FILE, "disconnected", message=reason.message)
        if reason.then is Then.REMOVED:
            raise _Removed(reason.message, hint=reason.hint)
        if reason.then is Then.GIVE_UP:
            raise InputError(reason.message, hint=reason.hint)
        if reason.then is Then.NEW_PORT:
            return
        if reason.then is Then.RETRY:
            self._count_death("The connection")
        patience = LEASE_S if self._was_online else UNREGISTERED_S
        if reason.then is Then.RETRY_A_WHILE and time.monotonic() - self._trying_since > patience:
            given_up = UNREGISTERED if reason.message == RECONNECTING else reason
            raise InputError(given_up.message, hint=given_up.hint)
        self._bulletin.say("reconnecting" if self._was_online else "connecting", reason.message)
        self._next_try = time.monotonic() + _RETRY_S

    def _set_offline(self) -> None:
        if self._online:
            self._trying_since = time.monotonic()
        self._online = False
        self._bulletin.sent()

    def _check_patience(self) -> None:
        refused = self._bulletin.message.startswith(NOT_RUNNING)
        if refused and not self._was_online and time.monotonic() - self._trying_since > FIRST_TIME_S:
            raise InputError(
                f"{NOT_RUNNING} Tried {self._settings['address']} for {FIRST_TIME_S:.0f} s.",
                hint="Ask the coordinator whether the study runs, then join again.",
            )

    def _count_death(self, what: str) -> None:
        now = time.monotonic()
        self._deaths = [then for then in self._deaths if now - then < _RESTART_WINDOW_S] + [now]
        journal.try_append(self._folder / AUDIT_FILE, "error", detail=f"{what} ended by itself and is started again.")
        if len(self._deaths) > _MOST_RESTARTS:
            raise SegVizError(
                f"{what} ended again and again: {_MOST_RESTARTS} restarts in {_RESTART_WINDOW_S / 60:.0f} minutes "
                "without an answer.",
                hint=f"The logs in {self._folder} say more.",
            )

    def _write_secret(self) -> None:
        path = self._folder / SECRET_FILE
        path.unlink(missing_ok=True)
        path.touch(mode=0o600)
        path.write_bytes(os.urandom(32))


class _Removed(InputError):
    pass


def main(arguments: Sequence[str]) -> int:
    """Supervise the site in the folder named by `arguments`."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Supervisor(Path(arguments[0])).run()
    except SegVizError as error:
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
