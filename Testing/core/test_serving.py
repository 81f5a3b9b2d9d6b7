"""A real study over TLS with two toy sites whose parts are killed one after the other; the study goes on each time.

The tests share one running study and follow each other; every test leaves it running.
"""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from federation_processes import Coordinator, join, kill, new_study, processes_of, states, wait_until
from toy_study import assert_same_weights, reference

from segviz_core.errors import Cancelled, InputError
from segviz_core.federation import coordinator, journal, site
from segviz_core.federation.server_processes import ServerProcesses
from segviz_core.federation.serving import serve
from segviz_core.federation.site_folder import AUDIT_FILE, STATUS_FILE
from segviz_core.federation.state import StudyState

SITES = {"north": ["liver"], "south": ["spleen"]}
SETTINGS = {"rounds": 1000, "min_sites": 2, "wait_seconds": 120.0, "round_timeout": 60.0}


class Federation:
    """The running study, its kits and the folders of its sites."""

    def __init__(self, folder: Path) -> None:
        self.study, self.folder = new_study(folder / "study", **SETTINGS), folder
        self.marker = folder / "foreign code ran"
        for name in ("client_app", "__init__"):  # code of the coordinator that must not run at a site
            file = self.study / "app" / "segviz_study" / f"{name}.py"
            text = file.read_text(encoding="utf-8") if file.exists() else ""
            file.write_text(f"import sys\nif 'client-app' in sys.orig_argv: open({str(self.marker)!r}, 'w')\n{text}")
        self.kits = {name: coordinator.add_site(self.study, name, allow=SITES[name]) for name in SITES}
        self.start()
        for name in SITES:
            self.join(name)
        self.grows(2)  # declare, and one round of training

    def start(self) -> None:
        self.coordinator = Coordinator(self.study)

    def join(self, name: str) -> None:
        assert self.coordinator.process.poll() is None, self.coordinator.output()  # a site would wait for it for long
        assert join(self.kits[name], self.folder / name, SITES[name][0])["state"] == "online"

    @property
    def finished(self) -> int:
        return int(coordinator.status(self.study)["finished_rounds"])

    def grows(self, by: int = 1) -> None:
        self.coordinator.wait_for_round(self.finished + by)

    def stop(self) -> None:
        self.coordinator.end(signal.SIGINT)
        for name in self.kits:
            if site.is_running(self.folder / name):
                site.leave(self.folder / name)


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory, unmeasured_children: None) -> Iterator[Federation]:
    running = Federation(tmp_path_factory.mktemp("federation"))
    yield running
    running.stop()


def test_code_of_the_coordinator_does_not_run_at_a_site(federation: Federation) -> None:
    assert not federation.marker.exists()
    row = next(row for row in journal.read(federation.folder / "north" / AUDIT_FILE) if row["event"] == "code")
    assert len(row["fab_sha256"]) == 64
    assert row["decision"] == "not run: the site runs its own code"


def test_audit_record_tells_what_left_the_site(federation: Federation) -> None:
    rows = journal.read(federation.folder / "north" / AUDIT_FILE)
    assert [row["event"] for row in rows][:2] == ["consent", "join"]
    sent = [row for row in rows if row["event"] == "sent" and row["settings"]["stage"] == "train"]
    assert set(sent[0]["arrays"]) == {"update", "norm", "head/liver"}
    assert set(sent[0]["metrics"]) == {"loss", "steps", "cases/liver", "dice/liver"}


def test_status_tells_the_round_and_the_sites(federation: Federation) -> None:
    status = coordinator.status(federation.study)
    assert status["running"]
    assert status["sites"] == ["north", "south"]
    assert site.status(federation.folder / "north")["state"] == "online"


def test_second_start_is_refused(federation: Federation) -> None:
    second = Coordinator(federation.study)
    assert second.process.wait(60) == 3
    assert "The coordinator is running already" in second.last_line()["message"]


def test_second_join_is_refused(federation: Federation) -> None:
    with pytest.raises(InputError, match="A site is running already"):
        join(federation.kits["north"], federation.folder / "north", "liver")


def test_killed_server_app_loses_no_round(federation: Federation) -> None:
    os.kill(json.loads((federation.study / "status.json").read_text(encoding="utf-8"))["pid"], signal.SIGKILL)
    federation.grows()


def test_killed_superlink_loses_no_round(federation: Federation) -> None:
    kill(federation.study, " superlink ")
    federation.grows()


def test_killed_front_loses_no_round_and_says_nothing_about_its_guests(federation: Federation) -> None:
    kill(federation.study, "federation.front ")
    federation.grows(2)
    said = [
        journal.heard(line)
        for line in (federation.study / "logs" / "front.log").read_text(encoding="utf-8").splitlines()
    ]
    assert [row and row["event"] for row in said] == ["listening", "listening"]


def test_killed_coordinator_ends_all_its_processes_and_resumes(federation: Federation) -> None:
    before = federation.finished
    federation.coordinator.end(signal.SIGKILL)
    wait_until(lambda: not processes_of(federation.study), 20, lambda: str(processes_of(federation.study)))
    status = coordinator.status(federation.study)
    assert (status["running"], status["state"]) == (False, "stopped")
    federation.start()
    federation.grows()
    assert federation.finished > before


def test_run_that_a_coordinator_could_not_note_before_it_died_does_not_disturb_the_next(federation: Federation) -> None:
    federation.coordinator.end(signal.SIGINT)
    study, log = federation.study, federation.study / "logs" / "superlink.log"
    processes = ServerProcesses(study, lambda _: None)
    processes.prepare()
    try:
        processes.start(check=lambda: None, prepare=lambda _: None)
        processes.flwr("run", str(study / "app"), "--run-config", f'study="{study}" session="old"')
    finally:
        processes.stop()
    (study / "run.json").write_text('{"session": "old"}')
    before = log.read_text(encoding="utf-8").count("ControlServicer.StartRun")
    federation.start()
    federation.grows(2)
    assert log.read_text(encoding="utf-8").count("ControlServicer.StartRun") - before == 1


def test_interrupted_coordinator_leaves_no_process_and_resumes_in_spite_of_a_truncated_database(
    federation: Federation,
) -> None:
    assert federation.coordinator.end(signal.SIGINT) == 4
    assert federation.coordinator.last_line()["kind"] == "cancelled"
    assert processes_of(federation.study) == {}
    assert coordinator.status(federation.study)["state"] == "stopped"
    nodes = json.loads((federation.study / "sites.json").read_text(encoding="utf-8"))
    os.truncate(federation.study / "flower" / "state.db", 60_000)
    federation.start()
    federation.grows()
    assert json.loads((federation.study / "sites.json").read_text(encoding="utf-8")) == nodes
    assert (federation.study / "flower" / "state.db.damaged").exists()
    assert [site.status(federation.folder / name)["state"] for name in SITES] == ["online", "online"]


def test_every_round_was_finished_once_with_the_weights_of_an_undisturbed_run(
    federation: Federation, tmp_path: Path
) -> None:
    coordinator.stop(federation.study)
    assert federation.coordinator.process.wait(30) == 4
    state = StudyState.load(federation.study / "checkpoint.safetensors")
    rows = [json.loads(line) for line in (federation.study / "history.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [row["round"] for row in rows if row["complete"]] == list(range(1, state.finished + 1))
    assert_same_weights(state, reference(tmp_path, SITES, until=state.finished, **SETTINGS))
    federation.start()
    federation.grows()


def test_killed_trainer_is_started_again(federation: Federation) -> None:
    kill(federation.folder / "north", "toy_trainer.py")
    federation.grows(2)
    assert any(
        "The trainer ended by itself" in str(row) for row in journal.read(federation.folder / "north" / AUDIT_FILE)
    )


def test_killed_gate_is_started_again(federation: Federation) -> None:
    kill(federation.folder / "north", " site-superexec ")
    federation.grows(2)


def test_killed_supervisor_ends_all_processes_of_the_site_which_can_join_again(federation: Federation) -> None:
    folder = federation.folder / "south"
    kill(folder, "federation.supervisor")
    wait_until(lambda: not processes_of(folder), 20, lambda: str(processes_of(folder)))
    status = site.status(folder)
    assert (status["running"], status["message"]) == (False, "It ended without leaving; join again to go on.")
    federation.join("south")
    federation.grows()


def test_site_added_while_the_study_runs_can_join_and_be_removed(federation: Federation) -> None:
    federation.kits["east"] = coordinator.add_site(federation.study, "east", allow=["kidneys"])
    assert join(federation.kits["east"], federation.folder / "east", "kidneys")["state"] == "online"
    members = federation.study / "checkpoint.safetensors"
    wait_until(lambda: any(m.site == "east" for m in StudyState.load(members).members.values()), 60)
    assert coordinator.remove_site(federation.study, "east")
    wait_until(lambda: not site.status(federation.folder / "east")["running"], 30)
    status = site.status(federation.folder / "east")
    assert (status["state"], status["message"]) == ("removed", "Removed by the coordinator.")
    assert coordinator.status(federation.study)["removed"] == {"east": "left"}
    federation.grows()


def test_site_that_leaves_after_its_round_is_counted_in_it(federation: Federation) -> None:
    folder = federation.folder / "south"
    (folder / "behaviour").write_text("slow 1")
    rounds = len(_rounds(folder))
    wait_until(lambda: len(_rounds(folder)) > rounds, 60, federation.coordinator.output)
    site.leave(folder, after_round=True)
    (folder / "behaviour").unlink()
    wait_until(lambda: not processes_of(folder), 30, lambda: str(processes_of(folder)))
    assert states(folder)[-2:] == ["leaving", "left"]
    last = [row for row in journal.read(folder / AUDIT_FILE) if row["event"] == "sent"][-1]["settings"]["round"]
    wait_until(lambda: federation.finished >= last, 60, federation.coordinator.output)
    (row,) = [row for row in journal.read(federation.study / "history.jsonl") if row["round"] == last]
    assert row["sites"]["south"]["metrics"]["loss"] == 1.0
    federation.join("south")
    federation.grows()


def _rounds(folder: Path) -> list[dict[str, Any]]:
    return [row for row in journal.read(folder / STATUS_FILE) if row["event"] == "round"]


def test_leaving_ends_every_process_of_the_site(federation: Federation) -> None:
    folder = federation.folder / "south"
    site.leave(folder)
    wait_until(lambda: not processes_of(folder), 10, lambda: str(processes_of(folder)))
    assert states(folder)[-1] == "left"
    assert journal.read(folder / AUDIT_FILE)[-1]["event"] == "leave"
    with pytest.raises(InputError, match="No site is running"):
        site.leave(folder)
    federation.join("south")
    federation.grows()


def test_killed_node_comes_back_when_its_place_is_free(federation: Federation) -> None:
    """The one wait that cannot be shortened: Flower refuses the key for the 60 s of the lease."""
    folder = federation.folder / "south"
    kill(folder, " supernode ")
    message = "Reconnecting: the coordinator frees your place within a minute."
    wait_until(lambda: site.status(folder)["message"] == message, 20)
    wait_until(lambda: states(folder)[-1] == "online", 100)
    federation.grows()


def test_taken_port_is_named(tmp_path: Path) -> None:
    study = new_study(tmp_path / "study", rounds=1)
    port = coordinator.read_server(study)["port"]
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(InputError, match=f"Port {port} of this computer is taken by another program"):
            serve(study)
    assert coordinator.status(study)["state"] == "failed"


def test_too_few_sites_end_the_start_with_a_sentence_and_no_process(tmp_path: Path) -> None:
    study = new_study(tmp_path / "study", rounds=1, min_sites=2, wait_seconds=0.5)
    with pytest.raises(InputError, match=r"Round 1 \(declare\) waits for 2 more sites: not online after 0 s") as caught:
        serve(study)
    assert "start the study again" in caught.value.hint
    assert processes_of(study) == {}


def test_watcher_may_cancel_the_start(tmp_path: Path) -> None:
    study = new_study(tmp_path / "study", rounds=1)

    def cancel(_: object) -> None:
        raise Cancelled

    with pytest.raises(Cancelled, match="every finished round is safe"):
        serve(study, on_status=cancel)
    assert coordinator.status(study)["state"] == "stopped"
