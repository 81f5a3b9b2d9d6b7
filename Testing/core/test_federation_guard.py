"""One hostile site answers in thirteen bad ways, one per round, in one real run over TLS with two honest sites."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import HERE, Coordinator, join, new_study
from hostile_client_app import BEHAVIOURS
from toy_study import assert_same_weights, reference

from segviz_core.federation import coordinator, site
from segviz_core.federation.study import Study

SITES = {"liver": ["liver"], "spleen": ["spleen"]}
# 12 training rounds and `evaluate` follow `declare`: thirteen.
ROUNDS = len(BEHAVIOURS) - 1


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, unmeasured_children: None) -> Iterator[Study]:
    """The study after the run."""
    folder = tmp_path_factory.mktemp("guard")
    new_study(folder / "study", rounds=ROUNDS, min_sites=3, wait_seconds=60.0, round_timeout=20.0)
    names = [*SITES, "pancreas"]
    kits = {name: coordinator.add_site(folder / "study", name) for name in names}
    process = Coordinator(folder / "study")
    old = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE), old)))  # where the hostile site's code is
    try:
        for name in names:
            app = {"client_app": "hostile_client_app:app"} if name == "pancreas" else {}
            join(kits[name], folder / name, name, **app)
        assert process.process.wait(600) == 0, process.output()
        yield Study(folder / "study")
    finally:
        os.environ["PYTHONPATH"] = old
        process.end(2)
        for name in names:
            if site.is_running(folder / name):
                site.leave(folder / name)


def test_run_completes_in_spite_of_a_hostile_site(study: Study) -> None:
    assert study.finished
    assert [row["round"] for row in study.history()] == list(range(1, len(study.rounds) + 1))


@pytest.mark.parametrize("number, reason", list(enumerate(BEHAVIOURS, start=2)), ids=list(BEHAVIOURS))
def test_hostile_reply_is_rejected_by_name(study: Study, number: int, reason: str) -> None:
    rejected = study.history()[number - 1]["rejected"]
    assert list(rejected) == ["pancreas"]
    assert reason.rstrip(".") in rejected["pancreas"]


def test_final_weights_are_those_of_the_run_without_the_hostile_site(study: Study, tmp_path: Path) -> None:
    assert_same_weights(study.state, reference(tmp_path, SITES, rounds=ROUNDS, min_sites=2))


def test_text_of_a_sites_exception_never_reaches_the_coordinator(study: Study) -> None:
    files = [file for file in study.folder.rglob("*") if file.is_file()]
    assert {"state.db", "history.jsonl", "server-superexec.log"} <= {file.name for file in files}
    assert not [file for file in files if b"DOE_JOHN" in file.read_bytes()]
