"""Who is online: what the server takes down for people who watch."""

import json
from pathlib import Path

import pytest

from segviz_core.federation import presence
from segviz_core.federation.presence import Presence, read_presence
from segviz_core.federation.study import SITES_FILE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    registered = {"1": {"site": "north", "allow": []}, "2": {"site": "south", "allow": []}}
    (tmp_path / SITES_FILE).write_text(json.dumps(registered))
    return tmp_path


def test_site_that_goes_away_keeps_the_time_it_was_last_seen(folder: Path) -> None:
    kept = Presence(folder)
    kept.saw(["1", "2"])
    seen = read_presence(folder)["south"]["seen"]
    kept.saw(["1"])
    rows = read_presence(folder)
    assert (rows["north"]["online"], rows["south"]["online"]) == (True, False)
    assert rows["south"]["seen"] == seen > 0


def test_next_server_knows_when_an_absent_site_was_seen(folder: Path) -> None:
    Presence(folder).saw(["1", "2"])
    seen = read_presence(folder)["south"]["seen"]
    Presence(folder).saw(["1"])
    south = read_presence(folder)["south"]
    assert (south["online"], south["seen"]) == (False, seen)


def test_round_of_a_site_goes_from_asked_to_replied_or_rejected(folder: Path) -> None:
    kept = Presence(folder)
    kept.asked(["1", "2"], number=4)
    kept.answered("1", reason="")
    kept.answered("2", reason="metric loss is missing.")
    rows = read_presence(folder)
    assert [(row["doing"], row["round"], row["reason"]) for row in rows.values()] == [
        ("replied", 4, ""),
        ("rejected", 4, "metric loss is missing."),
    ]


def test_node_without_a_registration_is_shown_by_its_number(folder: Path) -> None:
    Presence(folder).saw(["7"])
    assert list(read_presence(folder)) == ["node 7"]


def test_file_is_written_at_changes_and_now_and_then_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(presence, "write_json", lambda path, rows: written.append(rows))
    kept = Presence(folder)
    assert kept.due
    for _ in range(3):
        kept.saw(["1"])
    assert len(written) == 1
    assert not kept.due
    monkeypatch.setattr(presence, "_REFRESH_S", -1.0)
    kept.saw(["1"])
    assert len(written) == 2


def test_disk_that_is_full_or_gone_does_not_end_the_study(folder: Path) -> None:
    kept = Presence(folder / "gone")
    kept.saw(["1"])
    kept.asked(["1"], number=1)
