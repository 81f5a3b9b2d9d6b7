import os
import sys
import time
from pathlib import Path

import pytest

from segviz_core.federation.child import Child, environment, stop_all

WAITS = """
import sys, threading
from segviz_core.federation.child import end_with_parent
done = threading.Event()
end_with_parent(done.set)
print("\\x1b[92mready\\x1b[0m", flush=True)
done.wait()
print("stopped", flush=True)
"""
DEAF = "import time; print('ready', flush=True); time.sleep(600)"
WITH_GRANDCHILD = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
"""
PARENT = """
import sys, time
from pathlib import Path
from segviz_core.federation.child import Child, environment
folder = Path(sys.argv[1])
child = Child([sys.executable, "-c", sys.argv[2]], environment=environment(flwr_home=folder), log=folder / "child.log")
print(child.pid, flush=True)
time.sleep(600)
"""


def start(folder: Path, code: str, *arguments: str) -> Child:
    """A child that has written its first line."""
    lines: list[str] = []
    child = Child(
        [sys.executable, "-c", code, *arguments],
        environment=environment(flwr_home=folder),
        log=folder / "log",
        on_line=lines.append,
    )
    deadline = time.monotonic() + 20
    while not lines and time.monotonic() < deadline:
        time.sleep(0.02)
    return child


def gone(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        if Path(f"/proc/{pid}/stat").exists() and ") Z " in Path(f"/proc/{pid}/stat").read_text(encoding="utf-8"):
            return True  # dead, not yet collected by the parent it had
        time.sleep(0.05)
    return False


def test_child_stops_when_its_input_closes(tmp_path: Path) -> None:
    child = start(tmp_path, WAITS)
    assert child.returncode is None
    child.stop()
    assert child.returncode == 0
    assert child.last_lines == "ready\nstopped"
    assert b"\x1b[92mready" in (tmp_path / "log").read_bytes()


def test_child_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    child = start(tmp_path, DEAF)
    child.stop(patience_s=0.2)
    assert child.returncode != 0


def test_what_a_child_leaves_behind_is_killed(tmp_path: Path) -> None:
    child = start(tmp_path, WITH_GRANDCHILD)
    grandchild = int(child.last_lines)
    child.stop()
    assert gone(grandchild)


def test_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = start(tmp_path, PARENT, str(tmp_path), WAITS)
    pid = int(parent.last_lines)
    os.kill(parent.pid, 9)
    assert gone(pid)
    parent.stop()


def test_children_stop_together(tmp_path: Path) -> None:
    children = [start(tmp_path, WAITS) for _ in range(2)]
    stop_all(children)
    assert [child.returncode for child in children] == [0, 0]


def test_environment_tells_nobody_and_bypasses_proxies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intranet")
    values = environment(flwr_home=tmp_path)
    assert values["FLWR_TELEMETRY_ENABLED"] == "0"
    assert values["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert values["NO_PROXY"] == values["no_proxy"] == "intranet,127.0.0.1,localhost"
    assert values["FLWR_HOME"] == str(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_child_is_heard_though_its_log_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")
    heard: list[str] = []
    command = [sys.executable, "-c", "print('one'); print('two')"]
    child = Child(command, environment=environment(flwr_home=tmp_path), log=tmp_path / "log", on_line=heard.append)
    assert child.wait(20) == 0
    child.stop()
    assert heard == ["one", "two"]
