"""The groups `coordinator` and `site` of the command line, called as a person would type them."""

import argparse
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from toy_study import write_toy_study

from segviz_core.atomic import write_json
from segviz_core.console import Console
from segviz_core.errors import InputError
from segviz_core.federation import coordinator, estimate
from segviz_core.federation.code_review import keep
from segviz_core.federation.commands import add_commands
from segviz_core.federation.estimate import Estimate
from segviz_core.federation.kit import read_kit
from segviz_core.federation.running import asked_to_leave_after_round, only_one
from segviz_core.federation.site_folder import SITE_FILE
from segviz_core.head_stages import head_stages


class Results(Console):
    """Keeps the result instead of showing it."""

    values: Mapping[str, Any]
    text: str

    def result(self, values: Mapping[str, Any], text: str = "") -> None:
        self.values, self.text = values, text


def run(*arguments: object) -> Results:
    parser = argparse.ArgumentParser()
    add_commands(parser.add_subparsers(required=True))
    options, console = parser.parse_args([str(argument) for argument in arguments]), Results()
    options.run(options, console)
    return console


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_toy_study(tmp_path / "study")
    coordinator.provision(tmp_path / "study", "toy")
    return tmp_path / "study"


def test_create_takes_settings_from_a_file_and_options_above_them(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_text(
        'mode = "segviz-fedavg"\nrounds = 7\npatch_size = [8, 8, 8]\n[network]\nchannels = [4, 8]\nstrides = [2]\n'
        "num_res_units = 1\n"
    )
    found = run("coordinator", "create", tmp_path / "abdomen", "--settings", tmp_path / "study.toml", "--rounds", 5)
    settings = coordinator.read_settings(tmp_path / "abdomen")
    assert (settings.name, settings.mode, settings.rounds) == ("abdomen", "segviz-fedavg", 5)
    assert "Next: coordinator add-site" in found.text


@pytest.mark.parametrize("mode, said, stages", [("segviz+", "", 2), ("segviz+", 1, 1), ("segviz-fedavg", "", 1)])
def test_network_of_ones_own_has_the_heads_of_the_mode_unless_it_says_so(tmp_path: Path, mode, said, stages) -> None:
    heads = f", head_stages = {said}" if said else ""
    network = "network = { channels = [4, 8, 16], strides = [2, 2], num_res_units = 1" + heads + " }"
    (tmp_path / "study.toml").write_text(f"patch_size = [8, 8, 8]\n{network}\n")
    run("coordinator", "create", tmp_path / "abdomen", "--settings", tmp_path / "study.toml", "--mode", mode)
    assert head_stages(coordinator.read_settings(tmp_path / "abdomen").network) == stages


def test_create_refuses_a_host_that_no_site_can_reach(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="by which sites reach this computer"):
        run("coordinator", "create", tmp_path / "abdomen", "--host", "0.0.0.0")


@pytest.mark.parametrize("text", ["no = toml = ", "unknown = 1"])
def test_create_names_a_bad_settings_file(tmp_path: Path, text: str) -> None:
    (tmp_path / "study.toml").write_text(text)
    with pytest.raises(InputError, match=r"cannot be read|Unknown study setting"):
        run("coordinator", "create", tmp_path / "abdomen", "--settings", tmp_path / "study.toml")


def test_add_site_writes_a_kit_for_some_organs(study: Path) -> None:
    found = run("coordinator", "add-site", study, "north", "--allow", "liver,spleen")
    assert read_kit(Path(found.values["kit"])).allow == ("liver", "spleen")


def test_site_makes_its_key_and_the_coordinator_a_kit_for_it(study: Path, tmp_path: Path) -> None:
    public = run("site", "key", "--work", tmp_path / "site").values["public_key"]
    found = run("coordinator", "add-site", study, "north", "--public-key", public)
    assert "It holds no secret" in found.text
    assert "Who holds this file is the site" in run("coordinator", "add-site", study, "south").text


def test_removal_says_what_stays_and_when_it_happens(study: Path) -> None:
    for name in ("north", "south"):
        run("coordinator", "add-site", study, name)
    text = run("coordinator", "remove-site", study, "north").text
    assert text == "Removed; its heads stay in the model. The coordinator does it at its next start."
    assert "its heads and expert are dropped" in run("coordinator", "remove-site", study, "south", "--erase").text


def test_front_names_the_file_to_put_in_place(study: Path) -> None:
    found = run("coordinator", "front", study, "nginx")
    assert found.values == {"front": "nginx", "file": str(study / "nginx.conf")}
    assert run("coordinator", "front", study, "built-in").text == "Built-in front."


def test_export_before_the_first_round_says_what_to_wait_for(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no trained head after 0 of") as caught:
        run("coordinator", "export", study, tmp_path / "model.safetensors")
    assert "until its first shared round is finished" in caught.value.hint


def test_status_is_text_for_people_and_values_for_programs(study: Path) -> None:
    coordinator.add_site(study, "north")
    found = run("coordinator", "status", study)
    assert found.values["state"] == "new"
    assert [(row["site"], row["online"], row["seen"]) for row in found.values["sites"]] == [("north", False, None)]
    assert found.text.splitlines() == [
        "state: new",
        "  Not started yet.",
        f"rounds finished: 0 of {found.values['rounds']}",
        "site north: not seen yet",
        "certificate: 730 days left, its authority 1825",
    ]


def test_status_of_a_running_study_names_sites_and_rejections(study: Path) -> None:
    for name in ("east", "north", "south", "west"):
        coordinator.add_site(study, name)
    coordinator.remove_site(study, "west")
    seen = 1766.5
    rows = {
        name: {"online": name != "south", "seen": seen, "doing": "asked", "round": 2} for name in ("north", "south")
    }
    rows["east"] = {**rows["north"], "doing": "rejected", "reason": "NaN"}
    write_json(study / "presence.json", {**rows, "west": rows["south"]})
    row = {"time": seen, "round": 1, "stage": "declare", "complete": True, "seconds": 3.0}
    row |= {"sites": {}, "rejected": {"east": "expected finite numbers, found NaN"}}
    (study / "history.jsonl").write_text(json.dumps(row) + "\n")
    coordinator.write_status(study, state="running", stage="train", round=2)
    with only_one(study, what="The coordinator"):
        text = run("coordinator", "status", study).text
    assert "site north: online, training together\n" in text
    assert "site east: online, reply rejected: NaN\n" in text
    assert "site south: offline, last seen 1970-01-01 " in text
    assert "site west: removed (left)\n" in text
    assert "rejected in round 1: east: expected finite numbers, found NaN\n" in text


def test_stop_names_a_study_that_does_not_run(study: Path) -> None:
    with pytest.raises(InputError, match="No coordinator is running"):
        run("coordinator", "stop", study)


def test_join_asks_for_consent_and_refuses_without_a_terminal(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kit = coordinator.add_site(study, "north")
    monkeypatch.setattr(sys, "stdin", io.StringIO("yes\n"))
    with pytest.raises(InputError, match="Joining needs consent"):
        run("site", "join", kit, "--cases", tmp_path, "--label-set", "liver", "--work", tmp_path / "site")
    assert "What leaves this computer, and nothing else" in capsys.readouterr().err


@pytest.mark.parametrize("typed, joined", [("yes", True), ("no", False), ("", False)])
def test_only_yes_is_consent(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, typed: str, joined: bool
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    kit = coordinator.add_site(study, "north", allow=["spleen"])
    monkeypatch.setattr(sys, "stdin", Terminal(f"{typed}\n"))
    sentence = "This kit allows the label set spleen" if joined else "Joining needs consent"
    with pytest.raises(InputError, match=sentence):
        run("site", "join", kit, "--cases", tmp_path, "--label-set", "liver", "--work", tmp_path / "site")


@pytest.mark.parametrize("text", ["liver", "liver=", "liver=one", "=1"])
def test_label_values_are_organ_and_numbers(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("site", "join", "kit", "--cases", ".", "--label-set", "liver", "--label-values", text)
    assert "expected ORGAN=VALUE" in capsys.readouterr().err


def test_site_commands_name_a_folder_without_a_site(tmp_path: Path) -> None:
    for command in ("leave", "status"):
        with pytest.raises(InputError, match="No site"):
            run("site", command, "--work", tmp_path)


def test_errors_are_json_lines_with_exit_code_3(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "segviz_core", "--json", "coordinator", "status", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    last = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, last["event"], last["kind"]) == (3, "error", "input")
    assert "There is no study in" in last["message"]


def test_site_estimates_what_joining_costs_before_it_joins(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def measured(settings: Any, cases: Path, **choices: Any) -> Estimate:
        asked.update(choices, site=settings.site, cases=cases)
        return Estimate(2, 3, 4.0, 0.5, 10, 5.0, 100, 0.01, None)

    monkeypatch.setattr(estimate, "estimate", measured)
    kit = coordinator.add_site(study, "north")
    found = run("site", "estimate", kit, "--cases", tmp_path, "--label-set", "liver", "--cores", 2)
    assert found.text == found.values["sentence"]
    assert found.values["seconds_per_round"] == 5.0
    assert (asked["site"], asked["organs"], asked["cores"]) == ("north", ("liver",), 2)


def test_site_that_runs_approved_code_shows_it_and_approves_it_by_its_hash(tmp_path: Path) -> None:
    assert "has sent no code yet" in run("site", "code", "--work", tmp_path).text
    with io.BytesIO() as content:
        with zipfile.ZipFile(content, "w") as file:
            file.writestr("app/client_app.py", "print('hello')\n")
        sha256 = keep(tmp_path, content.getvalue())
    shown = run("site", "code", "--work", tmp_path).text
    assert f"{sha256} (waits to be approved" in shown
    assert "+print('hello')" in shown
    run("site", "approve", sha256, "--work", tmp_path)
    assert run("site", "code", "--work", tmp_path).values["code"][0]["approved"]


def test_site_leaves_after_the_round_when_asked(tmp_path: Path) -> None:
    (tmp_path / SITE_FILE).write_text("{}")
    with only_one(tmp_path, what="This site"):
        assert run("site", "leave", "--after-round", "--work", tmp_path).values == {"state": "leaving"}
        assert asked_to_leave_after_round(tmp_path)
