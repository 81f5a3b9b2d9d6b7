"""What people see of a study: numbers from its files alone, whatever state they are in."""

import json
from pathlib import Path

import pytest
from toy_sites import ToySite, toy_sites, toy_study

from segviz_core.errors import InputError
from segviz_core.federation import coordinator
from segviz_core.federation.dashboard import dashboard
from segviz_core.federation.presence import Presence
from segviz_core.federation.running import only_one
from segviz_core.federation.study import SITES_FILE, Study


def played(folder: Path, *, rounds: int) -> Study:
    """North (liver, 3 cases), south (spleen, 9) and west (liver, kidneys, 1), all registered, `rounds` finished."""
    study = toy_study(folder)
    coordinator.provision(folder, "toy")
    sites = toy_sites(study)
    registered = {node: {"site": site.site, "allow": []} for node, site in sites.items()}
    (folder / SITES_FILE).write_text(json.dumps(registered))
    for site in sites.values():
        (folder / "sites" / f"{site.site}.json").write_text("{}")
    for number in range(1, rounds + 1):
        play_round(study, sites, dice={"11": 0.9, "22": 0.7, "33": 0.5}, loss=1.0 / number)
    return study


def play_round(study: Study, sites: dict[str, ToySite], *, dice: dict[str, float], loss: float) -> None:
    for node, request in study.requests(list(sites)):
        reply = sites[node](request)
        for name in reply.metrics:
            if name.startswith("dice/"):
                reply.metrics[name] = dice[node]
            if name == "loss":
                reply.metrics[name] = loss
        study.accept(node, reply)
    study.close_round(seconds=10.0, rejected={})


def test_study_that_never_started_is_shown_empty(tmp_path: Path) -> None:
    played(tmp_path, rounds=0)
    found = dashboard(tmp_path)
    assert (found["state"], found["finished_rounds"], found["time_left"]) == ("new", 0, "")
    assert (found["history"], found["curves"], found["rejections"]) == ([], [], [])
    assert [(site["site"], site["online"], site["seen"]) for site in found["sites"]] == [
        ("north", False, None),
        ("south", False, None),
        ("west", False, None),
    ]
    assert found["certificate_days_left"] == pytest.approx(730, abs=0.1)


def test_curve_of_an_organ_is_the_mean_of_its_sites_by_their_cases(tmp_path: Path) -> None:
    study = played(tmp_path, rounds=8)
    assert study.history()[6]["stage"] == "train"
    curves = {curve["organ"]: curve for curve in dashboard(tmp_path)["curves"]}
    assert list(curves) == ["liver", "spleen", "kidneys"]
    assert dict(curves["liver"]["dice"])[7] == pytest.approx((3 * 0.9 + 1 * 0.5) / 4)
    assert dict(curves["spleen"]["dice"])[7] == 0.7
    assert dict(curves["kidneys"]["loss"])[7] == pytest.approx(1 / 7, abs=1e-5)
    assert 1 not in dict(curves["liver"]["loss"])  # nobody trains in `declare`


def test_row_of_a_site_tells_organs_cases_bytes_and_last_dice(tmp_path: Path) -> None:
    study = played(tmp_path, rounds=7)
    west = dashboard(tmp_path)["sites"][2]
    assert (west["organs"], west["cases"]) == (["liver", "kidneys"], 1)
    assert west["dice"] == {"liver": 0.5, "kidneys": 0.5}
    sent = sum(row["sites"]["west"]["bytes_sent"] for row in study.history())
    assert west["bytes_sent"] == sent > 0


def test_time_left_is_told_while_the_study_runs(tmp_path: Path) -> None:
    played(tmp_path, rounds=7)
    with only_one(tmp_path, what="The coordinator"):
        coordinator.write_status(tmp_path, state="running", round=8, rounds=11, stage="train")
        assert dashboard(tmp_path)["time_left"] == "25 s"
    assert dashboard(tmp_path)["time_left"] == ""


def test_doing_follows_the_round_and_nobody_is_online_once_the_coordinator_is_gone(tmp_path: Path) -> None:
    study = played(tmp_path, rounds=6)
    presence = Presence(tmp_path)
    presence.saw(["11", "22", "33"])
    presence.asked(["11", "22", "33"], number=study.number)
    presence.answered("22", reason="")
    presence.answered("33", reason="update norm 3e+05 is above 10000.")
    with only_one(tmp_path, what="The coordinator"):
        coordinator.write_status(tmp_path, state="running", round=study.number, rounds=11, stage=study.stage)
        assert [site["doing"] for site in dashboard(tmp_path)["sites"]] == [
            "training together",
            "done, waits for the others",
            "reply rejected: update norm 3e+05 is above 10000.",
        ]
        presence.saw(["22", "33"])
        assert [site["online"] for site in dashboard(tmp_path)["sites"]] == [False, True, True]
    found = dashboard(tmp_path)
    assert found["state"] == "stopped"
    assert [(site["online"], site["doing"]) for site in found["sites"]] == [(False, "")] * 3
    assert all(site["seen"] for site in found["sites"])


def test_rejections_come_with_round_site_and_reason_newest_first(tmp_path: Path) -> None:
    study = played(tmp_path, rounds=5)
    for reason in ("first", "second"):
        list(study.requests(["11", "22", "33"]))
        study.close_round(seconds=1.0, rejected={"11": reason})
    rows = dashboard(tmp_path)["rejections"]
    assert [(row["round"], row["site"], row["reason"]) for row in rows] == [
        (6, "north", "second"),
        (6, "north", "first"),
    ]
    assert dashboard(tmp_path)["sites"][0]["rejections"] == 2


@pytest.mark.parametrize("content", [b"", b"\x08", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0{}", b"\x04\0\0\0\0\0\0\0junk"])
def test_damaged_checkpoint_or_history_does_not_hide_the_rest(tmp_path: Path, content: bytes) -> None:
    study = played(tmp_path, rounds=7)
    (tmp_path / "checkpoint.safetensors").write_bytes(content)
    with (tmp_path / "history.jsonl").open("a") as file:
        file.write('{"time": 1, "round": 8, "st')
    found = dashboard(tmp_path)
    assert found["finished_rounds"] == 7 == study.state.finished
    assert [curve["organ"] for curve in found["curves"]] == ["liver", "spleen", "kidneys"]


def test_folder_without_a_study_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="There is no study in"):
        dashboard(tmp_path)
