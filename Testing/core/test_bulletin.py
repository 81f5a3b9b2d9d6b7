"""What the people at a site are told while it works and while it waits."""

from pathlib import Path

import pytest

from segviz_core.federation import journal
from segviz_core.federation.bulletin import Bulletin

ROUND = {"round": 3, "stage": "train", "rounds": 12, "online": 4, "members": 4, "sites": ["north", "south", "west"]}


@pytest.fixture
def bulletin(tmp_path: Path) -> Bulletin:
    return Bulletin(tmp_path / "status.jsonl", "north")


def test_round_says_what_happens_and_its_answer_whom_the_site_waits_for(bulletin: Bulletin) -> None:
    bulletin.tell("round", **ROUND)
    assert bulletin.message == "Round 3 of 12: training together."
    bulletin.tell("answered", round=3, stage="train", seconds=2.0, metrics={})
    assert bulletin.message == "Round 3 of 12 is answered; waiting for 2 other sites (south, west)."


@pytest.mark.parametrize(
    "news, words",
    [
        ({"sites": ["north", "south"], "online": 2, "members": 4}, "1 other site (south); 2 of 4 sites are online."),
        ({"sites": ["north"]}, "waiting for the coordinator."),
    ],
)
def test_waiting_names_who_is_online(bulletin: Bulletin, news: dict[str, object], words: str) -> None:
    bulletin.tell("round", **{**ROUND, **news})
    bulletin.tell("answered", round=3, stage="train", seconds=2.0, metrics={})
    assert bulletin.message.endswith(words)


def test_coordinator_without_news_is_understood(bulletin: Bulletin) -> None:
    bulletin.tell("round", round=3, stage="train")
    assert bulletin.message == "Round 3: training together."


def test_site_works_until_its_answer_is_sent(bulletin: Bulletin) -> None:
    bulletin.tell("round", **ROUND)
    bulletin.tell("answered", round=3, stage="train", seconds=2.0, metrics={})
    assert bulletin.working
    assert not bulletin.idle_for(0.0)
    bulletin.sent()
    assert not bulletin.working
    assert bulletin.idle_for(0.0)
    assert not bulletin.idle_for(60.0)  # the coordinator may not have taken the answer yet


def test_last_word_of_a_site_is_how_it_ended(bulletin: Bulletin, tmp_path: Path) -> None:
    bulletin.say("finished", "The study is finished.")
    bulletin.say("reconnecting", "The coordinator is not running.")  # a line of a process that is being stopped
    assert bulletin.state == "finished"


def test_site_that_was_never_asked_is_idle(bulletin: Bulletin) -> None:
    assert bulletin.idle_for(60.0)


def test_same_sentence_is_one_row_and_rows_reach_the_window_in_its_own_thread(tmp_path: Path) -> None:
    seen: list[str] = []
    bulletin = Bulletin(tmp_path / "status.jsonl", "north", on_row=lambda row: seen.append(str(row["event"])))
    bulletin.say("online", "Connected.")
    bulletin.say("online", "Connected.")
    bulletin.tell("progress", stage="train", done=1, total=2)
    assert seen == []
    bulletin.pass_on()
    assert seen == ["state", "progress"]
    assert [row["event"] for row in journal.read(tmp_path / "status.jsonl")] == seen
