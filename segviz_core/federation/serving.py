"""A running coordinator: keeps runs going until the study is done.

Flower ends a run when its server dies or is away for long; the study lives on in its checkpoint, so a new run simply
goes on with the next round (the "run-keeper" of flower.md section 3).
"""

import json
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from segviz_core.atomic import write_json
from segviz_core.errors import Cancelled, InputError, SegVizError
from segviz_core.federation import coordinator, journal
from segviz_core.federation.export import meta_model_of
from segviz_core.federation.kit import check_flower
from segviz_core.federation.presence import PRESENCE_FILE
from segviz_core.federation.registry import Registry
from segviz_core.federation.running import asked_to_stop, only_one
from segviz_core.federation.server_processes import ServerProcesses, Unanswered
from segviz_core.federation.study import Study

META_MODEL_FILE = "meta_model.safetensors"

_POLL_S, _VAIN_RUNS, _STOP_RUN_S = 0.25, 3, 30.0
_SILENT_S = 600.0
"""The ServerApp writes presence.json every few seconds, but while it averages; that takes minutes for many sites."""

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
        keeper = _RunKeeper(folder, on_status or (lambda _: None))
        try:
            keeper.work()
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
            keeper.stop()


class _RunKeeper:
    def __init__(self, folder: Path, on_status: OnStatus) -> None:
        self._folder, self._on_status = folder, on_status
        self._processes = ServerProcesses(folder, self._hear)
        self._registry = Registry(folder, self._processes.flwr)
        self._task_ended = False
        self._last_status: dict[str, Any] = {}

    def work(self) -> None:
        self._processes.prepare()
        coordinator.write_status(self._folder, state="starting", message="Starting Flower's server.")
        self._tell()
        vain, finished = 0, -1
        while True:
            try:
                self._processes.start(check=self._check_stop, prepare=self._registry.restore)
                self._start_run()
                self._wait_for_run()
            except Unanswered:
                self._processes.end_superlink()
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
        if not self._processes.ended:
            self._stop_run()
        self._processes.stop()

    def _hear(self, line: str) -> None:
        said = journal.heard(line)
        if said and said["event"] == "task-ended":
            self._task_ended = True

    def _start_run(self) -> None:
        self._stop_run()
        self._processes.renew_superexec()  # the end of an older task must not be taken for the end of the new one
        self._registry.update()
        session = secrets.token_hex(16)
        write_json(self._folder / coordinator.RUN_FILE, {"session": session})
        self._task_ended = False
        values = f"study={json.dumps(str(self._folder.resolve()))} session={json.dumps(session)}"
        answer = self._processes.flwr("run", str(self._folder / "app"), "--run-config", values)
        write_json(self._folder / coordinator.RUN_FILE, {"session": session, "run": str(answer["run-id"])})

    def _stop_run(self) -> None:
        """Stop the run that we, or a coordinator that was killed, left unfinished.

        Until its lease ends, nodes would wait up to a minute for the rest of a message that nobody completes.
        """
        path = self._folder / coordinator.RUN_FILE
        if path.exists() and coordinator.status(self._folder)["state"] != "finished":
            run = json.loads(path.read_text(encoding="utf-8")).get("run")
            with suppress(SegVizError):
                for unfinished in [run] if run else self._unfinished_runs():
                    self._processes.flwr("stop", unfinished, patience_s=_STOP_RUN_S)
        path.unlink(missing_ok=True)

    def _unfinished_runs(self) -> list[str]:
        """Runs whose coordinator was killed, or its disk full, before it could note what it had started."""
        runs = self._processes.flwr("list", patience_s=_STOP_RUN_S)["runs"]
        return [str(run["run-id"]) for run in runs if not run["status"].startswith("finished")]

    def _wait_for_run(self) -> None:
        started = time.time()
        while not self._task_ended:
            self._check_stop()
            if self._processes.ended or self._silent_since(started) > _SILENT_S:
                self._processes.end_superexec()
                return
            self._processes.keep()
            self._registry.update()
            self._tell()
            time.sleep(_POLL_S)
        self._tell()

    def _silent_since(self, started: float) -> float:
        """Seconds since the ServerApp of the run that started at `started` gave a sign of life."""
        path = self._folder / PRESENCE_FILE
        return time.time() - max(started, path.stat().st_mtime if path.exists() else 0.0)

    def _check_stop(self) -> None:
        if asked_to_stop(self._folder):
            raise Cancelled

    def _tell(self) -> None:
        status = coordinator.status(self._folder)
        if status != self._last_status:
            self._last_status = status
            self._on_status(status)
