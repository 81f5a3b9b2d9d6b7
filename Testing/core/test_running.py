import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from segviz_core.errors import InputError
from segviz_core.federation.running import (
    COMMAND_FILE,
    ask_to_leave_after_round,
    ask_to_stop,
    asked_to_leave_after_round,
    asked_to_stop,
    is_running,
    only_one,
)

OWNER = """
import sys, time
from pathlib import Path
from segviz_core.federation.running import asked_to_stop, only_one
folder = Path(sys.argv[1])
with only_one(folder, what="It"):
    print("owned", flush=True)
    while not asked_to_stop(folder):
        time.sleep(0.05)
"""


@pytest.fixture
def owner(tmp_path: Path) -> "subprocess.Popen[bytes]":
    """Another process that owns `tmp_path` until it is asked to stop."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"owned\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_folder_without_owner_is_not_running(tmp_path: Path) -> None:
    assert not is_running(tmp_path)
    with only_one(tmp_path, what="It"):
        pass
    assert not is_running(tmp_path)


def test_second_owner_is_refused(tmp_path: Path, owner: "subprocess.Popen[bytes]") -> None:
    assert is_running(tmp_path)
    with (
        pytest.raises(InputError, match=r"The coordinator is running already in"),
        only_one(tmp_path, what="The coordinator", patience_s=0.2),
    ):
        pass


def test_lock_ends_with_a_killed_owner(tmp_path: Path, owner: "subprocess.Popen[bytes]") -> None:
    owner.kill()
    owner.wait()
    assert not is_running(tmp_path)
    with only_one(tmp_path, what="It"):
        pass


def test_owner_stops_when_asked(tmp_path: Path, owner: "subprocess.Popen[bytes]") -> None:
    assert ask_to_stop(tmp_path, wait_s=10)
    assert owner.wait(5) == 0
    assert not (tmp_path / COMMAND_FILE).exists()


def test_deaf_owner_is_reported(tmp_path: Path) -> None:
    release = threading.Event()

    def own() -> None:
        with only_one(tmp_path, what="It"):
            release.wait()

    thread = threading.Thread(target=own)
    thread.start()
    while not is_running(tmp_path):
        time.sleep(0.01)
    assert not ask_to_stop(tmp_path, wait_s=0.2)
    release.set()
    thread.join()


def test_old_request_does_not_stop_a_new_owner(tmp_path: Path) -> None:
    (tmp_path / COMMAND_FILE).write_text("{}")
    with only_one(tmp_path, what="It"):
        assert not asked_to_stop(tmp_path)


def test_leaving_after_the_round_is_no_stop_and_a_stop_comes_before_it(tmp_path: Path) -> None:
    assert not asked_to_leave_after_round(tmp_path)
    ask_to_leave_after_round(tmp_path)
    assert asked_to_leave_after_round(tmp_path)
    assert not asked_to_stop(tmp_path)
    (tmp_path / COMMAND_FILE).write_text('{"command": "stop"}')
    assert asked_to_stop(tmp_path)
    assert not asked_to_leave_after_round(tmp_path)
