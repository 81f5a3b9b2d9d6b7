"""A site of the window in a real federation on this computer, beside another site from the command line."""

import json
import os
import subprocess
import time

import pytest
from children import SHADOWS, child_python, descendants, make_random_model, site_packages, write_launcher
from scenes import ROOT, NothingMissing, add_ct, make_window, process_events
from SegVizSlicerLib.CoreProcess import CoreProcess
from SegVizSlicerLib.FederationLogic import FederationLogic
from SegVizSlicerLib.Worker import Worker

ROUNDS = 6
PREPARE = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
import socket
from pathlib import Path
from segviz_core.experiments.phantoms import write_phantoms
from segviz_core.experiments.profiles import PROFILES
from segviz_core.federation import coordinator
from segviz_core.federation.settings import StudySettings
folder, profile = Path(sys.argv[1]), PROFILES["smoke"]
write_phantoms(profile, folder / "data")
with socket.create_server(("127.0.0.1", 0)) as free:
    port = free.getsockname()[1]
settings = StudySettings(
    name="loop", mode="segviz-fedavg", contract=profile.contract, network=profile.network,
    patch_size=profile.patch_size, batch_size=2, rounds={ROUNDS}, steps_per_round=2, min_sites=2,
    wait_seconds=600, round_timeout=120,
)
coordinator.create(folder / "study", settings, port=port)
for site in ("liver", "spleen"):
    coordinator.add_site(folder / "study", site)
"""


class InstalledHere(NothingMissing):
    """Flower's private folder is the environment that has it."""

    def __init__(self, folder):
        super().__init__(folder)
        self.flwrFolder = site_packages()

    def flwrVersion(self):
        return "1.41.0"


def command(*arguments, log):
    with log.open("ab") as file:
        return subprocess.Popen(
            [child_python(), "-m", "segviz_core", "--json", *map(str, arguments)],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )


@pytest.fixture
def study(tmp_path):
    """A running coordinator of two sites, and the site "spleen" started from the command line."""
    subprocess.run([child_python(), "-c", PREPARE, str(tmp_path)], check=True, timeout=300)
    started = [command("coordinator", "start", tmp_path / "study", log=tmp_path / "coordinator.log")]
    kit, cases = tmp_path / "study" / "kits" / "spleen.zip", tmp_path / "data" / "spleen"
    options = ["--cases", cases, "--label-set", "spleen", "--cores", 1, "--work", tmp_path / "spleen", "--consent"]
    started.append(command("site", "join", kit, *options, "--foreground", log=tmp_path / "spleen.log"))
    yield tmp_path / "study"
    for process in started:
        process.terminate()
    for process in started:
        process.wait(60)


def finished_rounds(study):
    path = study / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []
    return [row for row in rows if row["complete"]]


def test_join_rounds_leave_and_join_again(study, tmp_path, user_folder, monkeypatch):
    launcher = write_launcher(tmp_path / "bin", shadows=SHADOWS)
    monkeypatch.setenv("PATH", f"{launcher.parent}{os.pathsep}{os.environ['PATH']}")
    make_random_model(user_folder / "models" / "meta_model.safetensors")
    add_ct((24, 64, 64))
    dependencies = InstalledHere(user_folder)
    window = make_window(user_folder, process=CoreProcess, worker=Worker(), dependencies=dependencies)
    federation, ui = window.federation, window.ui
    federation.askConsent = lambda kit, organs, parent: True
    federation.ask = lambda question, answers: answers.index("Leave now")
    log = ui.logText.toPlainText
    ui.federationSection.collapsed = False
    ui.kitPath.setCurrentPath(str(study / "kits" / "liver.zip"))
    ui.labelSetSelector.setCurrentIndex(1)
    ui.casesPath.setCurrentPath(str(tmp_path / "data" / "liver"))
    ui.coresSpinBox.setValue(1)
    ui.checkCasesButton.click()
    process_events(lambda: not federation.logic.busy, 120)
    assert ui.federationStatus.text == "2 of 2 cases are fit for training.", log()
    ui.consentButton.click()
    for _ in range(60):
        ui.testConnectionButton.click()
        process_events(lambda: not ui.connectionLabel.text.startswith("Connecting"))
        if "answers" in ui.connectionLabel.text:
            break
        time.sleep(1)
    assert ui.joinButton.enabled, ui.joinButton.toolTip

    cpu = 0.0

    def follow_until(condition, seconds):
        nonlocal cpu

        def step():
            nonlocal cpu
            cpu = max(cpu, time.thread_time() - step.began)
            step.began = time.thread_time()
            return condition()

        step.began = time.thread_time()
        process_events(step, seconds)

    ui.joinButton.click()
    follow_until(lambda: not federation.logic.busy, 180)
    assert federation.joined(), f"{ui.federationStatus.text}\n{log()}"
    assert ui.joinButton.text == "Leave"
    ui.applyButton.click()  # segmenting goes on beside it
    process_events(lambda: not window.state.busy, 240)  # what its import costs is test_processes' claim
    follow_until(lambda: len(finished_rounds(study)) >= 2, 240)
    assert ui.statusLabel.text == "4 organs found.", log()
    assert federation.joined()
    after_a_crash = FederationLogic(user_folder / "sites")  # what the next Slicer finds
    assert after_a_crash.joined()
    assert len(after_a_crash.status().rounds) >= 2
    began = time.monotonic()
    ui.joinButton.click()
    follow_until(lambda: ui.joinButton.text == "Join", 60)
    left = time.monotonic() - began
    assert ui.federationStatus.text.startswith("Left."), ui.federationStatus.text
    assert not federation.joined()
    after_leaving = len(finished_rounds(study))

    assert ui.joinButton.enabled, ui.joinButton.toolTip
    ui.joinButton.click()
    follow_until(lambda: not federation.logic.busy, 180)
    assert federation.joined(), f"{ui.federationStatus.text}\n{log()}"
    follow_until(lambda: len(finished_rounds(study)) >= after_leaving + 2, 240)
    federation.follow()
    shown, record = federation.logic.status().rounds, finished_rounds(study)
    compared = 0
    for row in record:
        theirs = row["sites"].get("liver")
        if theirs is None or row["round"] not in shown or row["round"] == after_leaving + 1:
            continue  # it was away, or left in the middle: what was sent then may never have come
        compared += 1
        mine = shown[row["round"]]
        assert mine.mbSent == pytest.approx(theirs["bytes_received"] / 1e6, rel=0.05)
        assert mine.mbReceived == pytest.approx(theirs["bytes_sent"] / 1e6, rel=0.05)
        for name, value in theirs.get("metrics", {}).items():
            if name == "loss":
                assert mine.loss == pytest.approx(value)
            if name.startswith("dice/"):
                assert mine.dice[name.removeprefix("dice/")] == pytest.approx(value)
    print(
        f"\nleft within {left:.1f} s; {compared} rounds equal the coordinator's record; GUI at most {cpu * 1e3:.0f} ms"
    )
    assert compared >= 2
    assert ui.historyTable.rowCount == len(shown)
    ui.joinButton.click()
    follow_until(lambda: not federation.joined() and not federation.logic.busy, 60)
    process_events(lambda: not descendants(str(federation.logic.site)), 20)
    assert left <= 5
    assert cpu <= 0.1
