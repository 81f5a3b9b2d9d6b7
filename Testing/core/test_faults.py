"""The runner of `make faults` and its tools, without a federation."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "faults"))
from fault import REFUSED, REJECTED, REPEATED, UNDISTURBED, as_expected
from pauses import pause
from proxy import Proxy

RUNNER = Path(__file__).resolve().parents[1] / "faults" / "run.py"
AREA = """
from contextlib import contextmanager
from pathlib import Path
from fault import REJECTED, REPEATED, UNDISTURBED, Area, Fault, Seen
HERE = Path(__file__).parent

@contextmanager
def bed(folder):
    with (HERE / "beds").open("a") as file:
        file.write("bed\\n")
    yield folder

def fails_once(_):
    if not (HERE / "failed").exists():
        (HERE / "failed").touch()
        raise TimeoutError("waited in vain")
    return Seen(UNDISTURBED)

AREA = Area("quick", bed, (
    Fault("bad reply", "round 3", REJECTED, lambda _: Seen(REJECTED, "expected finite numbers", seconds=1.5)),
    Fault("kill", "", UNDISTURBED, fails_once),
    Fault("cut", "always", REPEATED, lambda _: Seen(UNDISTURBED)),
    Fault("stop", "long", REPEATED, lambda _: Seen(REPEATED, rounds_lost=1), slow=True),
    Fault("clock", "here", REPEATED, lambda _: Seen(REPEATED), needs=lambda: "no clock"),
))
"""


def run(folder: Path, *options: str) -> tuple[int, str]:
    command = [sys.executable, str(RUNNER), str(folder / "out"), "--areas", "quick_area", *options]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(folder)}, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def test_rows_are_written_kept_and_played_again_until_they_are_good(tmp_path: Path) -> None:
    (tmp_path / "quick_area.py").write_text(AREA)
    code, text = run(tmp_path)
    rows = {row["fault"]: row for row in json.loads((tmp_path / "out" / "faults.json").read_text(encoding="utf-8"))}
    assert code == 1
    assert "BAD kill" in text
    assert "not played: clock, here (no clock)" in text
    assert list(rows) == ["bad reply", "kill", "cut"]
    assert rows["kill"]["seen"] == "broken"
    assert rows["kill"]["why"] == "TimeoutError: waited in vain"
    assert rows["bad reply"] == {
        "fault": "bad reply", "when": "round 3", "expected": "rejected", "seen": "rejected", "seconds": 1.5,
        "rounds_lost": 0, "why": "expected finite numbers", "area": "quick",
    }  # fmt: skip
    assert (tmp_path / "beds").read_text(encoding="utf-8") == "bed\nbed\n"  # another one after the row that broke it

    assert run(tmp_path)[0] == 0
    assert (tmp_path / "beds").read_text(encoding="utf-8") == "bed\nbed\nbed\n"
    code, text = run(tmp_path, "--long")
    assert (code, "BAD stop" in text) == (1, True)  # a finished round was lost


def test_nothing_noticed_is_as_good_as_a_repeated_round_and_nothing_else_is() -> None:
    words = (UNDISTURBED, REPEATED, REJECTED, REFUSED)
    good = {(expected, seen) for expected in words for seen in words if as_expected(expected, seen)}
    assert good == {(word, word) for word in words} | {(REPEATED, UNDISTURBED)}


@pytest.fixture
def line() -> Iterator[Proxy]:
    """A proxy before a server that sends back what it gets."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    server = asyncio.run_coroutine_threadsafe(asyncio.start_server(echo, "127.0.0.1", 0), loop).result(10)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    proxy = Proxy(port, server.sockets[0].getsockname()[1])
    yield proxy
    proxy.close()
    loop.call_soon_threadsafe(loop.stop)


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def said(peer: socket.socket, text: bytes) -> bytes:
    peer.sendall(text)
    return peer.recv(100)


def is_broken(peer: socket.socket) -> bool:
    try:
        return said(peer, b"x") == b""
    except ConnectionError:
        return True


def test_cut_breaks_connections_and_refuses_new_ones_until_it_is_over(line: Proxy) -> None:
    with connect(line) as peer:
        assert said(peer, b"one") == b"one"
        line.cut()
        assert is_broken(peer)
    with pytest.raises(ConnectionError):
        connect(line)
    line.up()
    with connect(line) as peer:
        assert said(peer, b"three") == b"three"


def test_held_line_says_nothing_and_loses_nothing(line: Proxy) -> None:
    with connect(line) as peer:
        line.hold(True)
        peer.settimeout(0.3)
        with pytest.raises(TimeoutError):
            said(peer, b"late")
        line.hold(False)
        peer.settimeout(10)
        assert peer.recv(100) == b"late"


def test_reset_line_takes_connections_and_breaks_them(line: Proxy) -> None:
    line.reset(True)
    with connect(line) as peer:
        assert is_broken(peer)
    line.reset(False)
    with connect(line) as peer:
        assert said(peer, b"y") == b"y"


def test_slow_line_passes_everything(line: Proxy) -> None:
    line.limit(20_000)
    with connect(line) as peer:
        peer.sendall(bytes(3_000))
        received = b""
        while len(received) < 3_000:
            received += peer.recv(4096)
    assert received == bytes(3_000)


def test_pause_waits_while_its_file_is_there(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pause(tmp_path, "sending")
    assert capfd.readouterr().err == ""
    file = tmp_path / "pause-sending"
    file.touch()
    threading.Timer(0.1, file.unlink).start()
    pause(tmp_path, "sending")
    assert capfd.readouterr().err == "FAULT POINT sending\n"
