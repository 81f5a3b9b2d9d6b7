"""The warm worker as its owner sees it: commands through the socket, JSON lines on standard output, and every end."""

import argparse
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.connection import Client, Connection
from pathlib import Path

import pytest

from segviz_core import worker

ROOT = Path(__file__).resolve().parents[2]


class Running:
    """A worker in a thread of this process, connected."""

    def __init__(self, folder: Path, run_command: Callable[[Sequence[str]], int], idle_minutes: float) -> None:
        options = argparse.Namespace(folder=folder, idle_minutes=idle_minutes)
        self.thread = threading.Thread(target=worker.serve, args=(options, run_command), daemon=True)
        self.thread.start()
        self.connection = connect(folder)
        wait_until(lambda: not list(folder.iterdir()))  # nobody else can connect

    def send(self, *arguments: str) -> None:
        self.connection.send_bytes(json.dumps(arguments).encode())

    def has_ended(self) -> bool:
        self.thread.join(10)
        return not self.thread.is_alive()


def connect(folder: Path) -> Connection:
    wait_until((folder / worker.ADDRESS_FILE).exists)
    place = json.loads((folder / worker.ADDRESS_FILE).read_text(encoding="utf-8"))
    return Client(place["address"], authkey=bytes.fromhex(place["key"]))


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def finished(lines: str) -> list[int]:
    events = [json.loads(line) for line in lines.splitlines()]
    return [event["exit_code"] for event in events if event["event"] == "finished"]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(worker, "_warm_up", lambda: None)
    folder = tmp_path / "worker"
    folder.mkdir()

    def start(run_command: Callable[[Sequence[str]], int] = lambda _: 0, idle_minutes: float = 1.0) -> Running:
        return Running(folder, run_command, idle_minutes)

    return start


def test_commands_are_run_one_after_the_other_and_end_with_their_exit_code(start, capsys) -> None:
    seen = []

    def run(arguments: Sequence[str]) -> int:
        seen.append(arguments)
        if "--wrong" in arguments:
            sys.exit(2)  # as argparse does
        return 4 if "--cancelled" in arguments else 0

    running = start(run)
    for option in ("--cancelled", "--wrong", "--good"):
        running.send("segment", "ct.nrrd", option)
    running.connection.close()
    assert running.has_ended()
    assert seen == [["segment", "ct.nrrd", option] for option in ("--cancelled", "--wrong", "--good")]
    assert finished(capsys.readouterr().out) == [4, 2, 0]


def test_it_runs_no_other_command(start, capsys) -> None:
    running = start(lambda _: 1 // 0)
    running.send("coordinator", "create", "segment")
    running.connection.close()
    assert running.has_ended()
    lines = capsys.readouterr().out
    assert "The worker runs the command segment alone." in lines
    assert finished(lines) == [1]


def test_it_ends_after_idle_minutes(start) -> None:
    assert start(idle_minutes=0.001).has_ended()


def test_it_ends_without_touching_the_command_when_a_package_was_changed(start, monkeypatch) -> None:
    running = start(lambda _: 1 // 0)
    monkeypatch.setattr(worker, "_versions", lambda: ["openvino 2027.0"])
    running.send("segment")
    assert running.has_ended()


def test_it_ends_when_nobody_connects(tmp_path: Path, monkeypatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(worker, "CONNECT_PATIENCE_S", 0.05)
    monkeypatch.setattr(worker.os, "_exit", lambda _code: ended.set())
    threading.Thread(target=worker._owner, args=(tmp_path, worker.Console(json_lines=True)), daemon=True).start()
    assert ended.wait(10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="asks /proc and kills with a signal")
def test_it_ends_when_the_process_that_owns_it_is_killed(tmp_path: Path) -> None:
    owner = f"""
import json, subprocess, sys, time
from multiprocessing.connection import Client
from pathlib import Path
folder = Path({str(tmp_path)!r})
child = subprocess.Popen(
    [sys.executable, "-m", "segviz_core", "worker", str(folder), "--json"], stdout=subprocess.PIPE, text=True
)
pid = json.loads(child.stdout.readline())["pid"]
child.stdout.readline()
place = json.loads((folder / "worker.json").read_text(encoding="utf-8"))
connection = Client(place["address"], authkey=bytes.fromhex(place["key"]))
print(pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", owner], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        pid = int(process.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        os.kill(process.pid, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{pid}").exists())
