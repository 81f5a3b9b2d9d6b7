"""A running toy federation to break: a coordinator and its sites as users start them, each site behind a proxy.

What a fault did is read from the study's files and logs and from its weights, compared with those of a study in one
process that nothing happened to.
"""

import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "core"), str(HERE)]
from fault import BROKEN, REJECTED, REPEATED, UNDISTURBED, Seen
from federation_processes import Coordinator, join, new_study, processes_of
from proxy import Proxy
from toy_study import assert_same_weights, free_port, reference

from segviz_core.errors import InputError
from segviz_core.federation import coordinator, journal, site
from segviz_core.federation.kit import read_kit, write_kit
from segviz_core.federation.site_folder import STATUS_FILE
from segviz_core.federation.state import StudyState
from segviz_core.federation.study import CHECKPOINT_FILE, HISTORY_FILE

SITES: Mapping[str, Sequence[str]] = {"north": ["liver"], "south": ["spleen"]}
SETTINGS = {"rounds": 1000, "min_sites": 2, "wait_seconds": 240.0, "round_timeout": 240.0}
WENT_OFFLINE = "it went offline during the round"
_COLOR = re.compile(r"\x1b\[[0-9;]*m")


class Log:
    """What is written to a file from now on; the trigger of faults."""

    def __init__(self, path: Path) -> None:
        self._path, self._start = path, path.stat().st_size if path.exists() else 0

    @property
    def text(self) -> str:
        """Everything new, without colours."""
        if not self._path.exists():
            return ""
        with self._path.open("rb") as file:
            file.seek(self._start)
            return _COLOR.sub("", file.read().decode("utf-8", "replace"))

    def wait_for(self, words: str, *, seconds: float = 120.0, after: int = 0) -> int:
        """Wait until a line holds `words` (a regular expression); gives the position behind them."""
        deadline = time.monotonic() + seconds
        while not (found := re.compile(words).search(self.text, after)):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self._path.name}: waited {seconds:.0f} s in vain for {words!r}")
            time.sleep(0.01)
        return found.end()


@dataclass(frozen=True)
class Mark:
    """The study before a fault."""

    finished: int
    rows: int
    session: str
    server: Log


class Bed:
    """The running federation in `folder`."""

    def __init__(self, folder: Path, *, sites: Mapping[str, Sequence[str]] = SITES, **settings: Any) -> None:
        self.folder, self.sites, self.settings = folder, sites, {**SETTINGS, **settings}
        self.study = new_study(folder / "study", **self.settings)
        text = f"import sys\nsys.path.insert(0, {str(HERE)!r})\nfrom pauses import in_the_server_app\n"
        text += 'in_the_server_app()\nfrom segviz_core.federation.server_app import app\n__all__ = ["app"]\n'
        (self.study / "app" / "segviz_study" / "server_app.py").write_text(text)
        self.port = int(coordinator.read_server(self.study)["port"])
        self.proxies = {name: Proxy(free_port(), self.port) for name in sites}
        self.kits = {name: self.kit(name) for name in sites}
        self.leader: Coordinator | None = None
        self.missed: dict[int, set[str]] = {}
        """Rounds that a site has rightly missed: the reference does without it there."""

    def kit(self, name: str) -> Path:
        """A kit whose address leads through the site's proxy."""
        path = coordinator.add_site(self.study, name)
        if name in self.proxies:
            write_kit(path, replace(read_kit(path), address=f"127.0.0.1:{self.proxies[name].port}"))
        return path

    def start(self) -> None:
        """Start the coordinator (again) and wait until sites can reach it."""
        self.leader = Coordinator(self.study)
        deadline = time.monotonic() + 600
        while coordinator.status(self.study)["state"] not in ("waiting", "running"):
            if self.leader.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"the coordinator did not start: {self.leader.output()[-500:]}")
            time.sleep(0.1)

    def join(self, name: str, *, client_app: str = "paused_client_app:app") -> None:
        """Join (again)."""
        path = os.pathsep.join([str(HERE), str(HERE.parent / "core"), os.environ.get("PYTHONPATH", "")])
        with with_environment(PYTHONPATH=path.strip(os.pathsep)):
            join(self.kits[name], self.folder / name, self.sites[name][0], client_app=client_app)

    def stop(self) -> None:
        """End every process of the bed."""
        with suppress(Exception):
            if self.leader:
                self.leader.end(signal.SIGINT, seconds=40)
        for name in self.sites:
            with suppress(Exception):
                if site.is_running(self.folder / name):
                    site.leave(self.folder / name)
        for proxy in self.proxies.values():
            proxy.close()
        kill_all(self.folder)

    def arm(self, point: str, name: str = "") -> Log:
        """Let the ServerApp, or the ClientApp of site `name`, wait at a point; gives the log to wait on."""
        folder = self.folder / name if name else self.study
        log = self.log("superexec.log", name) if name else self.log("server-superexec.log")
        (folder / f"pause-{point}").touch()
        return log

    def release(self, point: str, name: str = "") -> None:
        """Let it go on, or not wait next time."""
        ((self.folder / name if name else self.study) / f"pause-{point}").unlink(missing_ok=True)

    def log(self, file: str, name: str = "") -> Log:
        """A log of the coordinator, or of the site `name`."""
        return Log(self.folder / name / file if name else self.study / "logs" / file)

    def slow(self, name: str, seconds: float) -> None:
        """How long the site's training lasts from now on."""
        (self.folder / name / "behaviour").write_text(f"slow {seconds}" if seconds else "")

    def training(self, name: str) -> None:
        """Wait until the site begins to train."""
        Log(self.folder / name / STATUS_FILE).wait_for('"event": "round".*"stage": "train"')

    @property
    def finished(self) -> int:
        """Finished rounds."""
        return max((row["round"] for row in self.rows() if row["complete"]), default=0)

    def grows(self, by: int = 2, *, seconds: float = 600.0) -> None:
        """Wait until so many more rounds are finished."""
        goal, deadline = self.finished + by, time.monotonic() + seconds
        while self.finished < goal:
            if time.monotonic() > deadline:
                raise TimeoutError(f"round {goal} was not finished within {seconds:.0f} s")
            time.sleep(0.2)

    def mark(self) -> Mark:
        """Take down where the study is."""
        return Mark(self.finished, len(self.rows()), self._session(), self.log("server-superexec.log"))

    def judge(self, mark: Mark) -> Seen:
        """What happened since `mark`, from history, log and weights."""
        state, rows = self.settled()
        new = rows[mark.rows :]
        complete = [row["round"] for row in rows if row["complete"]]
        lost = len(complete) - len(set(complete)) + max(0, mark.finished - state.finished)
        rejected = sorted({f"{site}: {why}" for row in new for site, why in row["rejected"].items()})
        repeats = [row["round"] for row in new if not row["complete"]]
        repeats += ["asked again"] if "is asked again" in mark.server.text else []
        repeats += ["new run"] if self._session() != mark.session else []
        try:
            self.compare(state)
        except AssertionError as error:
            return Seen(BROKEN, f"weights: {str(error).strip().splitlines()[0]}; rejected: {rejected}", lost)
        if rejected:
            return Seen(REJECTED, "; ".join(rejected), lost)
        return Seen(REPEATED, ", ".join(map(str, repeats)), lost) if repeats else Seen(UNDISTURBED, "", lost)

    def judge_absence(self, mark: Mark, site: str, why: str) -> Seen:
        """As `judge`, where `site` may miss rounds for the reason `why`; it must be back in the last one."""
        self.missed |= {row["round"]: {site} for row in self.rows() if row["rejected"].get(site) == why}
        seen = self.judge(mark)
        return replace(seen, outcome=BROKEN) if site in self.missed.get(self.finished, ()) else seen

    def compare(self, state: StudyState, *, absent: Sequence[str] = ()) -> None:
        """Raise AssertionError unless the weights are those of the study in one process, without sites in `absent`."""
        there = {name: organs for name, organs in self.sites.items() if name not in absent}
        with tempfile.TemporaryDirectory() as place:
            settings = {**self.settings, "min_sites": len(there)}
            expected = reference(Path(place), there, until=state.finished, absent=self.missed, **settings)
            assert_same_weights(state, expected)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of history.jsonl."""
        return journal.read(self.study / HISTORY_FILE)

    def settled(self) -> tuple[StudyState, list[dict[str, Any]]]:
        """Checkpoint and history of the same moment."""
        while True:
            state, rows = StudyState.load(self.study / CHECKPOINT_FILE), self.rows()
            if state.finished == max((row["round"] for row in rows if row["complete"]), default=0):
                return state, rows
            time.sleep(0.05)

    def _session(self) -> str:
        try:
            return str(json.loads((self.study / coordinator.RUN_FILE).read_text(encoding="utf-8"))["session"])
        except (OSError, ValueError):
            return ""


@contextmanager
def running_bed(folder: Path, *, prepare: Callable[[Bed], None] = lambda _: None, **options: Any) -> Iterator[Bed]:
    """A bed whose study has two rounds behind it; `prepare` may change its files before anything starts."""
    bed = Bed(folder, **options)
    try:
        prepare(bed)
        bed.start()
        for name in bed.sites:
            bed.join(name)
        bed.grows(2)
        yield bed
    finally:
        bed.stop()
        shutil.rmtree(folder, ignore_errors=True)


def pids(folder: Path, words: str) -> list[int]:
    """Processes of `folder` whose command line holds `words`."""
    return [pid for pid, line in processes_of(folder).items() if words in line]


def kill_all(folder: Path, sign: int = signal.SIGKILL) -> None:
    """Send a signal to every process of `folder`."""
    for pid in processes_of(folder):
        with suppress(ProcessLookupError):
            os.kill(pid, sign)


def refusal(act: Any) -> str:
    """The sentence with which `act()` is refused, empty where it is not."""
    try:
        act()
    except InputError as error:
        return str(error)
    return ""


@contextmanager
def with_environment(**values: str) -> Iterator[None]:
    """Children get these variables too."""
    old = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in old.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
