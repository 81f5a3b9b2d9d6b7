import threading
from pathlib import Path

import pytest

from segviz_core.federation import journal


def test_lines_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    journal.append(tmp_path / "audit.jsonl", "join", organs=("liver",))
    journal.append(tmp_path / "audit.jsonl", "leave")
    rows = journal.read(tmp_path / "audit.jsonl")
    assert [(row["event"], row.get("organs")) for row in rows] == [("join", ["liver"]), ("leave", None)]
    assert rows[0]["time"] <= rows[1]["time"]


def test_record_that_does_not_exist_is_empty(tmp_path: Path) -> None:
    assert journal.read(tmp_path / "none.jsonl") == []


def test_line_cut_short_by_a_kill_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    journal.append(path, "join")
    path.write_bytes(path.read_bytes() + b'{"time": 1.0, "ev')
    assert [row["event"] for row in journal.read(path)] == ["join"]
    journal.append(path, "leave")
    assert [row["event"] for row in journal.read(path)] == ["join", "leave"]


def test_nan_never_breaks_a_line(tmp_path: Path) -> None:
    journal.append(tmp_path / "audit.jsonl", "sent", metrics={"loss": float("nan"), "dice": [float("inf"), 1.0]})
    assert journal.read(tmp_path / "audit.jsonl")[0]["metrics"] == {"loss": None, "dice": [None, 1.0]}


def test_lines_of_several_writers_never_mix(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"

    def write(name: int) -> None:
        for i in range(100):
            journal.append(path, "sent", name=name, i=i, padding="x" * 500)

    threads = [threading.Thread(target=write, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(journal.read(path)) == 400


def test_child_is_heard_among_other_output(capsys: pytest.CaptureFixture[str]) -> None:
    journal.say("progress", done=1, total=2)
    line = capsys.readouterr().out.strip()
    assert journal.heard(line) == {"event": "progress", "done": 1, "total": 2}
    assert journal.heard("INFO: epoch 3") is None
    assert journal.heard('{"event": broken') is None


def test_what_was_written_is_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    journal.append(path, "join")
    before = path.read_bytes()
    journal.append(path, "leave")
    assert path.read_bytes().startswith(before)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_full_disk_stops_only_what_has_to_be_recorded(tmp_path: Path) -> None:
    (tmp_path / "audit.jsonl").symlink_to("/dev/full")
    journal.try_append(tmp_path / "audit.jsonl", "state", message="online")
    with pytest.raises(OSError, match="No space left"):
        journal.append(tmp_path / "audit.jsonl", "sent")
