"""Every process of a site that the window has started, killed at a line of its log under full load: no orphan, no hang.

Real Flower over TLS; the toy trainer of Testing/core. One round of kills here, ten in `make kills` (KILLS=10).
"""

import os
import signal
import subprocess
import time
from collections import Counter
from contextlib import suppress

import pytest
from children import SHADOWS, child_python, descendants, site_packages, write_launcher
from scenes import ROOT, process_events
from SegVizSlicerLib.CoreProcess import CoreProcess
from SegVizSlicerLib.FederationLogic import FederationLogic
from SegVizSlicerLib.SiteKit import readKit

from segviz_core.federation.running import ask_to_stop

TIMES = int(os.environ.get("KILLS", "1"))
STARTED_AGAIN = {"trainer": "toy_trainer.py", "gate": "\0site-superexec\0", "task": "\0client-app\0"}
SERVE = f"""
import sys; sys.path[:0] = [{str(ROOT / "Testing" / "core")!r}, {str(ROOT)!r}]
from pathlib import Path
from federation_processes import new_study
from segviz_core.federation import coordinator
from segviz_core.federation.serving import serve
study = new_study(Path(sys.argv[1]), rounds=100_000, min_sites=1, wait_seconds=3600.0, round_timeout=60.0)
coordinator.add_site(study, "north")
serve(study)
"""


@pytest.fixture
def kit(tmp_path):
    """The kit of a study that is running."""
    with (tmp_path / "coordinator.log").open("wb") as log:
        server = subprocess.Popen([child_python(), "-c", SERVE, str(tmp_path / "study")], stdout=log, stderr=log)
    path = tmp_path / "study" / "kits" / "north.zip"
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, (tmp_path / "coordinator.log").read_text(encoding="utf-8")
        time.sleep(0.1)
    yield readKit(path)
    server.terminate()
    server.wait(60)


class Site:
    """The logic behind the Join button, and what became of its commands."""

    def __init__(self, folder, kit, cases):
        self.logic, self.kit, self.cases = FederationLogic(folder, CoreProcess), kit, cases
        self.folder, self.outcomes = self.logic.siteFolder(kit), []

    def start(self):
        options = {"cores": 1, "device": "cpu", "flwrFolder": site_packages(), "onFinished": self.outcomes.append}
        self.logic.join(self.kit, self.cases, {"liver": (1,)}, **options)

    def join(self):
        """Join and be asked for a round; after the kill of a node Flower keeps the place for a minute."""
        self.start()
        (self.folder / "behaviour").write_text("slow 2")  # so that kills come while the trainer works
        process_events(lambda: not self.logic.busy, 180)
        assert self.outcomes[-1].ok, self.outcomes[-1]
        self.works()

    def works(self):
        """A new round has come; a reply that a kill cut in two is asked for again after Flower's 180 s."""
        rounds = len(self.logic.status().rounds)
        process_events(lambda: len(self.logic.status().rounds) > rounds, 300)

    def state(self):
        return self.logic.status().state

    def kill(self, word):
        process_events(lambda: descendants(word), 60)
        for pid in set(descendants(word)) & set(descendants(str(self.folder))):
            with suppress(ProcessLookupError):  # a task ends by itself
                os.kill(pid, signal.SIGKILL)

    def leave(self):
        left = []
        self.logic.leave(left.append)
        process_events(lambda: left, 60)
        assert left[0].ok, left[0]
        self.gone()

    def gone(self):
        process_events(lambda: not descendants(str(self.folder)), 30)
        assert not self.logic.joined()


def kill_the_command(site, victim):
    site.start()
    process = site.logic._process
    process_events(lambda: site.state() == "checking" or not process.running, 60)
    with suppress(ProcessLookupError):
        os.kill(process.pid if victim == "command" else process._process.pid, signal.SIGKILL)
    site.logic.cancel()  # killed alone, the launcher leaves a Python that must still obey
    process_events(lambda: not site.logic.busy, 60)
    if site.logic.joined():  # the site had started and is the window's to end
        site.leave()
    site.gone()


def kill_what_is_started_again(site, victim):
    site.works()
    site.kill(STARTED_AGAIN[victim])
    site.works()


def kill_the_supervisor(site):
    site.kill("federation.supervisor")
    site.gone()
    assert site.logic.status().message == "The site ended by itself; join again to go on."


def kill_the_node(site):
    site.kill("\0supernode\0")
    process_events(lambda: site.state() == "reconnecting", 60)


@pytest.fixture
def site(kit, user_folder, tmp_path):
    (tmp_path / "cases").mkdir()
    site = Site(user_folder / "sites", kit, tmp_path / "cases")
    yield site
    if site.logic.joined():  # a test that failed
        ask_to_stop(site.folder, wait_s=30)


def test_a_killed_process_of_a_site_leaves_no_orphan_and_no_hang(busy_cores, site, tmp_path, monkeypatch):
    core = ROOT / "Testing" / "slicer" / "toy_core.py"
    launcher = write_launcher(tmp_path / "bin", shadows=SHADOWS, program=core)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    kills, longest = Counter(), Counter()

    def timed(victim, act, *arguments):
        began = time.monotonic()
        act(site, *arguments)
        kills[victim] += 1
        longest[victim] = max(longest[victim], time.monotonic() - began)

    for _ in range(TIMES):
        for victim in ("command", "launcher"):
            timed(victim, kill_the_command, victim)
        site.join()
        for victim in STARTED_AGAIN:
            timed(victim, kill_what_is_started_again, victim)
        timed("supervisor", kill_the_supervisor)
        site.join()
        timed("node", kill_the_node)
        site.leave()
    for victim, times in kills.items():
        print(f"{victim}: {times} kills, 0 orphans, at most {longest[victim]:.1f} s")
    assert set(kills.values()) == {TIMES}
