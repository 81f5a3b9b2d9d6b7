"""What a command shows, and when it notices that it should stop."""

import json
import os
import pty
import subprocess
import sys
import time

import pytest

from segviz_core.console import HEARTBEAT_SECONDS, Console, aligned
from segviz_core.errors import Cancelled, InputError


def test_every_json_line_is_one_ascii_object(capsys):
    console = Console(json_lines=True)
    console.started(12)
    console.progress("Zähler", 1, 2)
    console.result({"output": "Müller.nii.gz"}, "for people")
    console.error(InputError("Expected a, found b.", hint="Do c."))
    out, err = capsys.readouterr()
    assert out.isascii()
    assert err == ""
    assert [json.loads(line) for line in out.splitlines()] == [
        {"event": "started", "pid": 12},
        {"event": "progress", "stage": "Zähler", "done": 1, "total": 2},
        {"event": "result", "output": "Müller.nii.gz"},
        {"event": "error", "kind": "input", "message": "Expected a, found b.", "hint": "Do c."},
    ]


def test_a_fast_loop_gives_few_lines_but_always_the_first_and_the_last(capsys):
    console = Console(json_lines=True)
    for done in range(1001):
        console.progress("windows", done, 1000)
    lines = [json.loads(line)["done"] for line in capsys.readouterr().out.splitlines()]
    assert (lines[0], lines[-1]) == (0, 1000)
    assert len(lines) < 100


def test_people_get_the_result_on_standard_output_and_all_else_on_standard_error(capsys):
    console = Console()
    console.started(12)
    console.progress("network", 1, 2)
    console.result({"ml": 3}, "Liver 3 ml")
    console.error(InputError("Expected a, found b.", hint="Do c."))
    out, err = capsys.readouterr()
    assert out == "Liver 3 ml\n"
    assert err == "network 1/2\nExpected a, found b.\n  Do c.\n"


def test_news_behind_the_middle_dot_are_of_the_same_stage(capsys):
    console = Console()
    for done in range(50):
        console.progress(f"federation \N{MIDDLE DOT} round {done}", done, 100)
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_terminal_shows_a_bar():
    code = (
        "from segviz_core.console import Console\n"
        "with Console() as console:\n"
        "    for stage in ('read', 'network'):\n"
        "        for done in range(13): console.progress(stage, done, 12)\n"
    )
    parent, child = pty.openpty()
    try:
        subprocess.run([sys.executable, "-c", code], stderr=child, stdin=child, check=True, timeout=60)
        shown = os.read(parent, 100_000).decode()
    finally:
        os.close(parent)
        os.close(child)
    lines = shown.replace("\r", "\n").splitlines()
    for stage in ("read", "network"):
        assert any(stage in line and "━" in line and "12/12" in line for line in lines), shown
        assert not any(line.strip().startswith(f"{stage} 12/12") for line in lines), shown


def test_the_cancel_file_stops_at_the_next_report(tmp_path, capsys):
    cancel = tmp_path / "cancel"
    console = Console(json_lines=True, cancel_file=cancel)
    console.progress("network", 1, 9)
    cancel.touch()
    with pytest.raises(Cancelled, match=r"Cancelled\."):
        console.progress("network", 2, 9)
    assert '"done": 2' not in capsys.readouterr().out


def test_a_heartbeat_that_stops_or_vanishes_ends_the_work(tmp_path):
    heartbeat = tmp_path / "alive"
    heartbeat.touch()
    console = Console(heartbeat=heartbeat)
    console.progress("network", 1, 9)
    old = time.time() - HEARTBEAT_SECONDS - 1
    os.utime(heartbeat, (old, old))
    with pytest.raises(Cancelled, match="program that started this one is gone"):
        console.progress("network", 2, 9)
    heartbeat.touch()
    console.progress("network", 3, 9)
    heartbeat.unlink()
    with pytest.raises(Cancelled, match="is gone"):
        console.progress("network", 4, 9)


def test_values_that_json_does_not_know_are_not_written():
    with pytest.raises(ValueError, match="not JSON compliant"):
        Console(json_lines=True).result({"dice": float("nan")})


def test_columns_are_as_wide_as_their_widest_cell():
    assert aligned([("organ", "ml"), ("liver", "1200.0"), ("a", "")]) == "organ  ml\nliver  1200.0\na"
