"""What the run-keeper does about processes that are alive and do not answer; test_serving kills them."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from federation_processes import new_study, processes_of, wait_until
from toy_study import free_port

from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import coordinator, server_processes
from segviz_core.federation.clock import seconds_ahead
from segviz_core.federation.server_processes import ServerProcesses, Unanswered


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A study whose processes are looked at whenever they are kept; no process of it is left behind."""
    monkeypatch.setattr(server_processes, "_LOOK_EVERY_S", 0.0)
    yield new_study(tmp_path / "study")
    assert processes_of(tmp_path) == {}


def test_server_that_hangs_is_given_up_after_some_looks(study: Path) -> None:
    coordinator.choose_front(study, "nginx", superlink_port=free_port())
    processes = ServerProcesses(study, str)
    for _ in range(server_processes._MOST_MISSES - 1):
        processes.keep()
    with pytest.raises(Unanswered, match="Flower's server hangs"):
        processes.keep()


def test_front_that_hangs_is_replaced(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(coordinator.read_server(study)["port"])
    address = f"127.0.0.1:{port}"

    def look(where: str, authority: Path) -> float | None:
        return seconds_ahead(where, authority) if where == address else 0.0  # there is no SuperLink in this test

    monkeypatch.setattr(server_processes, "seconds_ahead", look)
    monkeypatch.setattr(server_processes, "_MOST_MISSES", 1)
    monkeypatch.setattr("segviz_core.federation.clock._PATIENCE_S", 0.5)
    processes = ServerProcesses(study, str)
    processes.prepare()
    monkeypatch.setattr(server_processes, "_LOOK_EVERY_S", 1000.0)
    processes.keep()
    wait_until(lambda: seconds_ahead(address, study / "ca.crt") is not None, 30)
    (first,) = processes_of(study)
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(processes, "_next_look", 0.0)
    processes.keep()
    wait_until(lambda: seconds_ahead(address, study / "ca.crt") is not None, 30)
    (second,) = processes_of(study)
    assert second != first
    processes.stop()


def test_front_that_ends_again_and_again_is_given_up_with_its_last_words(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_processes, "_MOST_RESTARTS", 0)
    monkeypatch.setattr(server_processes, "_LOOK_EVERY_S", 1000.0)
    processes = ServerProcesses(study, str)
    processes.prepare()
    (study / "server.key").write_text("no key")
    monkeypatch.setattr(processes, "_next_look", float("inf"))
    with pytest.raises(SegVizError, match=r"The front ended again and again: .*(SSL|PEM)"):
        wait_until(lambda: bool(processes.keep()), 30)
    processes.stop()


def test_port_that_needs_an_administrator_is_named(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    processes = ServerProcesses(study, str)
    monkeypatch.setattr(server_processes.socket.socket, "bind", refuse)
    with pytest.raises(InputError, match=r"Port \d+ needs the rights of an administrator"):
        processes.prepare()
