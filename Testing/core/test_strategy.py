"""The server's loop against a Grid in memory: what sites send, when they are late, when they are gone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toy_trainer
from flwr.app import Error, Message, RecordDict
from memory_grid import MemoryGrid, as_in_a_run
from toy_study import assert_same_weights, reference, write_toy_study

from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import exchange, pace, records, strategy
from segviz_core.federation.strategy import conduct
from segviz_core.federation.study import Study

SITES = {1: "north", 2: "south", 3: "east"}
ORGANS = {"north": ["liver"], "south": ["spleen"], "east": ["pancreas"]}
TWO = {site: ORGANS[site] for site in ("north", "south")}


def honest(node: int, message: Message) -> Message:
    request, site = records.from_record(message.content), SITES[node]
    settings = {"site": site, "organs": ORGANS[site], "contract": contract()}
    return Message(records.to_record(toy_trainer.answer(request, **settings)), reply_to=message)


def request_of(message: Message) -> tuple[str, str]:
    """The site that a message goes to, and its stage."""
    return SITES[message.metadata.dst_node_id], str(message.content["settings"]["stage"])


def contract() -> str:
    from segviz_core.contract import DataContract

    return DataContract().hash


def play(folder: Path, grid: MemoryGrid, **settings: Any) -> tuple[Study, list[dict[str, Any]]]:
    write_toy_study(folder, **{"rounds": 2, "min_sites": 2, "wait_seconds": 0.5, "round_timeout": 30.0, **settings})
    study, published = Study(folder), []
    conduct(grid, study, publish=published.append)  # type: ignore[arg-type]
    return study, published


@pytest.fixture(autouse=True)
def _run_without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategy, "POLL_S", 0.01)
    monkeypatch.setattr(exchange, "POLL_S", 0.01)
    monkeypatch.setattr(exchange, "_LOOK_S", 0.02)
    as_in_a_run(monkeypatch)


def test_rounds_end_with_the_weights_of_the_study_alone(tmp_path: Path) -> None:
    study, published = play(tmp_path / "grid", MemoryGrid(honest))
    assert study.finished
    assert_same_weights(study.state, reference(tmp_path / "alone", TWO, rounds=2, min_sites=2))
    assert {row["state"] for row in published} == {"running"}


def test_messages_live_as_long_as_their_round(tmp_path: Path) -> None:
    grid = MemoryGrid(honest)
    play(tmp_path, grid, round_timeout=17.0)
    assert all(15.0 < message.metadata.ttl <= 17.0 for message in grid.pushed)


def test_history_has_seconds_and_bytes_of_every_round(tmp_path: Path) -> None:
    study, _ = play(tmp_path, MemoryGrid(honest))
    rows = study.history()
    assert [row["round"] for row in rows] == list(range(1, len(study.rounds) + 1))
    assert all(row["seconds"] >= 0 for row in rows)
    assert all(row["sites"]["north"]["bytes_received"] > 0 for row in rows if row["stage"] == "train")


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda message: Message(Error(2, "/data/DOE_JOHN.nii.gz"), reply_to=message), "ClientApp raised an error"),
        (lambda message: Message(Error(5, "x"), reply_to=message), "went offline during the round"),
        (lambda message: Message(Error(8, "x"), reply_to=message), "ended without a reply"),
        (lambda message: Message(Error(77, "x"), reply_to=message), "Flower error 77"),
        (lambda message: Message(RecordDict(), reply_to=message), "cannot be read"),
        (lambda message: Message(records.error_record("stopped"), reply_to=message), "the site stopped the work"),
        (lambda message: None, "no reply within 1 s"),
    ],
    ids=["raises", "offline", "exits", "other error", "nothing in it", "error code", "silent"],
)
def test_bad_reply_is_rejected_by_name_and_the_round_goes_on(
    tmp_path: Path, spoil: Callable[[Message], Message | None], reason: str
) -> None:
    def south_spoils_round_2(node: int, message: Message) -> Message | None:
        bad = SITES[node] == "south" and message.content["settings"]["round"] == 2
        return spoil(message) if bad else honest(node, message)

    study, _ = play(tmp_path, MemoryGrid(south_spoils_round_2), round_timeout=1.0)
    assert study.finished
    rejected = {row["round"]: row["rejected"] for row in study.history() if row["rejected"]}
    assert list(rejected) == [2]
    assert list(rejected[2]) == ["south"]
    assert reason in rejected[2]["south"]
    assert "DOE_JOHN" not in str(study.history())


def test_unexpected_error_of_one_reply_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accept = Study.accept

    def accept_or_crash(study: Study, node: str, reply: Any) -> None:
        if node == "2" and study.number == 2:
            raise MemoryError
        accept(study, node, reply)

    monkeypatch.setattr(Study, "accept", accept_or_crash)
    study, _ = play(tmp_path, MemoryGrid(honest))
    assert study.history()[1]["rejected"] == {"south": "its reply cannot be used (MemoryError)"}


def test_too_few_sites_end_the_wait_with_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Round 1 \(declare\) waits for 1 more site: not online after 0 s"):
        play(tmp_path, MemoryGrid(honest, online=lambda: [1]), wait_seconds=0.1)
    assert Study(tmp_path).state.finished == 0


def test_study_goes_on_after_a_wait_in_vain(tmp_path: Path) -> None:
    online = [1, 2]

    def south_leaves(node: int, message: Message) -> Message:
        if message.content["settings"]["round"] == 2:
            online[:] = [1]
        return honest(node, message)

    with pytest.raises(InputError, match=r"Round 3 \(train\) waits for 1 more site"):
        play(tmp_path, MemoryGrid(south_leaves, online=lambda: online), wait_seconds=0.1)
    study = Study(tmp_path)
    assert study.number == 3
    conduct(MemoryGrid(honest), study, publish=lambda _: None)  # type: ignore[arg-type]
    assert [row["round"] for row in study.history()] == list(range(1, len(study.rounds) + 1))
    assert_same_weights(study.state, reference(tmp_path / "alone", TWO, rounds=2, min_sites=2))


def test_round_that_nobody_answers_is_given_up_by_name(tmp_path: Path) -> None:
    def nobody_in_round_2(node: int, message: Message) -> Message | None:
        return None if message.content["settings"]["round"] == 2 else honest(node, message)

    with pytest.raises(SegVizError, match=r"Round 2 \(train\) had 3 attempts"):
        play(tmp_path, MemoryGrid(nobody_in_round_2), round_timeout=0.05)


@pytest.mark.parametrize("code", [3, 4, 5, 8])
def test_site_that_was_lost_and_is_back_is_asked_again_in_the_same_round(tmp_path: Path, code: int) -> None:
    lost: list[Message] = []

    def south_is_lost_once(node: int, message: Message) -> Message:
        if request_of(message) == ("south", "train") and not lost:
            lost.append(message)
            return Message(Error(code, "x"), reply_to=message)
        return honest(node, message)

    study, _ = play(tmp_path / "grid", MemoryGrid(south_is_lost_once))
    assert not [row for row in study.history() if row["rejected"]]
    assert_same_weights(study.state, reference(tmp_path / "alone", TWO, rounds=2, min_sites=2))


def test_lost_site_is_waited_for_until_its_place_is_free_again_and_no_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange, "RETURN_S", 0.1)
    online = [1, 2]

    def south_goes(node: int, message: Message) -> Message:
        if request_of(message) == ("south", "train"):
            online[:] = [1]
            return Message(Error(5, "x"), reply_to=message)
        return honest(node, message)

    with pytest.raises(InputError, match="waits for 1 more site"):
        play(tmp_path, MemoryGrid(south_goes, online=lambda: online))
    assert Study(tmp_path).history()[1]["rejected"] == {"south": "it went offline during the round"}


def test_removed_site_is_not_waited_for(tmp_path: Path) -> None:
    def south_is_removed(node: int, message: Message) -> Message:
        if request_of(message) == ("south", "train"):
            entries = {"1": {"site": "north", "allow": []}, "2": {"site": "south", "allow": [], "removed": "left"}}
            (tmp_path / "sites.json").write_text(json.dumps(entries))
            return Message(Error(5, "x"), reply_to=message)
        return honest(node, message)

    study, _ = play(tmp_path, MemoryGrid(south_is_removed, online=lambda: [1, 2]), min_sites=1)
    assert study.finished  # long before the 90 s are over
    assert study.history()[1]["rejected"] == {"south": "it went offline during the round"}


def test_request_that_got_lost_without_a_word_is_sent_again_after_three_times_the_longest_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "_TRANSFER_S", 0.05)
    silent: list[Message] = []

    def south_is_silent_once(node: int, message: Message) -> Message | None:
        if message.content["settings"]["round"] == 3 and node == 2 and not silent:
            silent.append(message)
            return None
        return honest(node, message)

    study, _ = play(tmp_path / "grid", MemoryGrid(south_is_silent_once))
    assert not [row for row in study.history() if row["rejected"]]
    assert_same_weights(study.state, reference(tmp_path / "alone", TWO, rounds=2, min_sites=2))


def test_site_that_misses_the_deadline_is_told_to_make_fewer_steps(tmp_path: Path) -> None:
    def south_is_late_in_round_2(node: int, message: Message) -> Message | None:
        return None if node == 2 and message.content["settings"]["round"] == 2 else honest(node, message)

    grid = MemoryGrid(south_is_late_in_round_2)
    play(tmp_path, grid, round_timeout=0.2, steps_per_round=4)
    steps = {m.metadata.dst_node_id: m.content["settings"]["steps"] for m in grid.pushed if request_of(m)[1] == "train"}
    assert steps == {1: 4, 2: 2}


def test_late_joiner_catches_up_within_the_round(tmp_path: Path) -> None:
    online = [1, 2]

    def east_comes(node: int, message: Message) -> Message:
        online[:] = [1, 2, 3] if message.content["settings"]["round"] == 2 else online
        return honest(node, message)

    grid = MemoryGrid(east_comes, online=lambda: online)
    study, published = play(tmp_path, grid, rounds=3)
    assert [request_of(m)[1] for m in grid.pushed if m.metadata.dst_node_id == 3][:3] == [
        "declare", "train-head", "train"
    ]  # fmt: skip
    assert "pancreas" in study.state.heads
    assert max(published, key=lambda row: row.get("asked", 0))["waiting_for"]


def test_finished_study_started_again_waits_for_the_site_that_was_added(tmp_path: Path) -> None:
    study, _ = play(tmp_path, MemoryGrid(honest))
    entries = {str(node): {"site": site, "allow": []} for node, site in SITES.items()}
    (tmp_path / "sites.json").write_text(json.dumps(entries))
    online, published = [1], []

    def publish(row: dict[str, Any]) -> None:
        published.append(row)
        online[:] = [1, 3]  # it joins while the study waits

    study = Study(tmp_path)
    before = study.state.finished
    conduct(MemoryGrid(honest, online=lambda: online), study, publish=publish)  # type: ignore[arg-type]
    assert published[0]["message"] == "The study is finished; waiting for east to join it."
    assert study.finished
    assert study.state.finished == before + 4
    assert "pancreas" in study.state.heads


def test_finished_study_without_newcomers_ends_at_once(tmp_path: Path) -> None:
    study, _ = play(tmp_path, MemoryGrid(honest))
    grid = MemoryGrid(honest)
    conduct(grid, study, publish=lambda _: None)  # type: ignore[arg-type]
    assert not grid.pushed
