"""A whole federation on this computer: one coordinator and one process tree per site, as real users start them.

Every process is started by the same command line that a hospital types; this file only waits, shows progress and makes
sure that all of them end, whatever happens.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

from segviz_core.errors import SegVizError
from segviz_core.federation import coordinator
from segviz_core.federation.child import free_port
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study import Study
from segviz_core.federation.study_folder import SETTINGS_FILE
from segviz_core.federation.time_left import rounded, seconds_left

_POLL_S, _LEAVE_S, _END_S = 0.5, 20.0, 40.0

Progress = Callable[[str, int, int], None]


class Federation:
    """The study in `folder`/study with its sites in `folder`/sites; created unless it is there already."""

    def __init__(self, folder: Path, settings: StudySettings) -> None:
        self._folder, self._study_folder = folder, folder / "study"
        if not (self._study_folder / SETTINGS_FILE).exists():
            coordinator.create(self._study_folder, settings, port=free_port())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def run(self, data: Path, *, on_progress: Progress) -> Path:
        """Run the study to its end; a site is every folder of `data` that is named like an organ of it.

        Gives the meta-model's file. Resumes an interrupted study at its next round.

        Raises:
            SegVizError: the coordinator or a site ended by itself; its own sentence.
        """
        sites = sorted(path.name for path in data.iterdir() if path.is_dir() and path.name != "test")
        study = Study(self._study_folder)
        try:
            if not study.finished:
                self._start("coordinator", "coordinator", "start", str(self._study_folder))
                for organ in sites:
                    self._join(organ, data / organ)
                self._follow(study, on_progress)
        finally:
            self._stop()
        return self._study_folder / "meta_model.safetensors"

    def history(self) -> list[dict[str, Any]]:
        """All rounds so far."""
        return Study(self._study_folder).history()

    def summary(self) -> dict[str, Any]:
        """Rounds, bytes per site, steps and seconds of the study, from the coordinator's own record."""
        study, rows = Study(self._study_folder), self.history()
        sites = sorted(member.site for member in study.state.members.values())
        work = [row for row in rows if row["stage"] == "train"]
        overheads = [row["seconds"] - _slowest(row) for row in work if _slowest(row)]
        return {
            "mode": study.settings.mode,
            "rounds": study.state.finished,
            "steps_per_site": sum(
                int(r.settings["steps"]) for r in study.rounds if r.stage in ("train", "train-local")
            ),
            "sites": {
                member.site: {"organs": list(member.organs), "cases": member.cases}
                for member in sorted(study.state.members.values(), key=lambda m: m.site)
            },
            "bytes_per_site": {
                site: {
                    way: sum(row["sites"].get(site, {}).get(f"bytes_{name}", 0) for row in rows)
                    for way, name in (("received", "sent"), ("sent", "received"))  # the record is the coordinator's
                }
                for site in sites
            },
            "validation_dice": {organ: round(dice, 4) for organ, dice in study.state.dice.items()},
            "seconds_per_round": round(median(row["seconds"] for row in work), 2),
            "seconds_per_round_beyond_training": round(median(overheads), 2) if overheads else None,
        }

    def _join(self, organ: str, cases: Path) -> None:
        kit = self._study_folder / "kits" / f"{organ}.zip"
        if not kit.exists():
            coordinator.add_site(self._study_folder, organ, allow=(organ,))
        threads = max(1, (os.cpu_count() or 1) // 4)
        arguments = ["site", "join", str(kit), "--cases", str(cases), "--label-set", organ, "--cores", str(threads)]
        arguments += ["--work", str(self._folder / "sites" / organ), "--consent", "--foreground"]
        self._start(organ, *arguments)

    def _start(self, name: str, *arguments: str) -> None:
        logs = self._folder / "logs"
        logs.mkdir(exist_ok=True)
        with (logs / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "segviz_core", "--json", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def _follow(self, study: Study, on_progress: Progress) -> None:
        total = len(study.rounds)
        while (leader := self._processes["coordinator"]).poll() is None:
            for name, process in self._processes.items():
                if name != "coordinator" and process.poll() not in (None, 0):
                    raise self._failure(name)
            rows = [row for row in study.history() if row["complete"]]
            done = len({row["round"] for row in rows})
            left = seconds_left(study.rounds, rows)
            now = f"{study.rounds[done].stage}, about {rounded(left)} left" if done < total else "closing"
            on_progress(f"federation \N{MIDDLE DOT} {now}", done, total)
            time.sleep(_POLL_S)
        if leader.returncode != 0:
            raise self._failure("coordinator")
        for name in self._processes:  # the sites have the model and end by themselves
            with suppress(subprocess.TimeoutExpired):
                self._processes[name].wait(_LEAVE_S)

    def _failure(self, name: str) -> SegVizError:
        """The error that a child reported as its last JSON line."""
        path = self._folder / "logs" / f"{name}.log"
        for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
            with suppress(ValueError, KeyError, TypeError):
                event = json.loads(line)
                if event["event"] == "error":
                    return SegVizError(f"{name}: {event['message']}", hint=event["hint"])
        return SegVizError(f"{name} ended without a word.", hint=f"{path} holds its output.")

    def _stop(self) -> None:
        """End every process: sites first, so that they leave in order; what does not end is killed with its tree."""
        names = sorted(self._processes, key=lambda name: name == "coordinator")
        for name in names:
            with suppress(ProcessLookupError):
                self._processes[name].send_signal(signal.SIGINT)
        deadline = time.monotonic() + _END_S
        for name in names:
            process = self._processes[name]
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
        self._processes = {}


def _slowest(row: dict[str, Any]) -> float:
    seconds = [site["metrics"]["seconds"] for site in row["sites"].values() if "seconds" in site.get("metrics", {})]
    return max(seconds, default=0.0)
