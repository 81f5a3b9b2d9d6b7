import json
import stat
from pathlib import Path
from zipfile import ZipFile

import pytest
from toy_study import write_toy_study

from segviz_core.errors import InputError
from segviz_core.federation import certificates, coordinator
from segviz_core.federation.kit import read_kit
from segviz_core.federation.settings import StudySettings


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write_toy_study(tmp_path / "study")
    coordinator.provision(tmp_path / "study", "toy", port=9555)
    return tmp_path / "study"


def test_create_writes_a_study_that_can_add_sites(tmp_path: Path) -> None:
    network = {"channels": [4, 8], "strides": [2], "num_res_units": 1}
    settings = StudySettings(name="abdomen", network=network, patch_size=(8, 8, 8))
    coordinator.create(tmp_path / "study", settings, port=9555)
    kit = read_kit(coordinator.add_site(tmp_path / "study", "north"))
    assert kit.site == settings.for_site("north")
    assert kit.address == "127.0.0.1:9555"
    with pytest.raises(InputError, match="There is a study in"):
        coordinator.create(tmp_path / "study", settings)


def test_keys_are_readable_by_their_user_alone(study: Path) -> None:
    for name in ("ca.key", "server.key", "superexec.secret"):
        assert stat.S_IMODE((study / name).stat().st_mode) == 0o600


@pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "trial.example.org"])
def test_host_other_than_this_computer_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match=f"serves studies at 127.0.0.1 only, found {host}"):
        coordinator.create(tmp_path / "study", StudySettings(name="toy"), host=host)
    assert not (tmp_path / "study").exists()


def test_port_out_of_range_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Expected a port from 1 to 65535, found 70000"):
        coordinator.create(tmp_path / "study", StudySettings(name="toy"), port=70_000)


def test_kit_holds_a_key_that_the_coordinator_does_not_keep(study: Path) -> None:
    path = coordinator.add_site(study, "north", allow=["liver"])
    kit = read_kit(path)
    assert kit.allow == ("liver",)
    assert certificates.public_key(kit.key) == (study / "sites" / "north.pub").read_bytes()
    files = [file for file in study.rglob("*") if file.is_file() and file != path]
    assert not [file for file in files if kit.key in file.read_bytes()]
    with ZipFile(path) as file:
        assert sorted(file.namelist()) == ["ca.crt", "kit.json", "site_key"]


def test_kit_is_written_where_the_coordinator_wants_it(study: Path, tmp_path: Path) -> None:
    path = tmp_path / "for north" / "kit.zip"
    assert coordinator.add_site(study, "north", kit_file=path) == path
    assert read_kit(path).site.site == "north"


@pytest.mark.parametrize("name", ["", "a b", "../north", "nörd", "x" * 65])
def test_site_names_that_could_be_paths_are_refused(study: Path, name: str) -> None:
    with pytest.raises(InputError, match="Expected a site name of letters"):
        coordinator.add_site(study, name)


def test_site_name_is_given_once(study: Path) -> None:
    coordinator.add_site(study, "north")
    with pytest.raises(InputError, match="This study has a site 'north' already"):
        coordinator.add_site(study, "north")


def test_organ_names_are_checked(study: Path) -> None:
    with pytest.raises(InputError, match="found 'Liver'"):
        coordinator.add_site(study, "north", allow=["Liver"])


def test_folder_without_a_study_is_named(tmp_path: Path) -> None:
    for act in (coordinator.status, coordinator.stop, lambda folder: coordinator.add_site(folder, "north")):
        with pytest.raises(InputError, match="There is no study in") as caught:
            act(tmp_path)
        assert "coordinator create" in caught.value.hint


def test_stop_needs_a_running_coordinator(study: Path) -> None:
    with pytest.raises(InputError, match="No coordinator is running"):
        coordinator.stop(study)


def test_status_of_a_new_study(study: Path) -> None:
    coordinator.add_site(study, "north")
    status = coordinator.status(study)
    assert (status["state"], status["running"], status["finished_rounds"]) == ("new", False, 0)
    assert status["sites"] == ["north"]
    assert status["certificate_days_left"] == pytest.approx(certificates.VALID_DAYS, abs=0.1)


def test_status_is_true_after_a_crash(study: Path) -> None:
    (study / "status.json").write_text(json.dumps({"state": "running", "round": 4}))
    rows = [{"round": 1, "complete": True}, {"round": 2, "complete": True}, {"round": 3, "complete": False}]
    (study / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"round": 4, "comp')
    status = coordinator.status(study)
    assert (status["state"], status["finished_rounds"]) == ("stopped", 2)


def test_flower_app_in_the_study_is_two_files_that_only_import(study: Path) -> None:
    app = study / "app" / "segviz_study"
    assert sorted(file.name for file in app.iterdir()) == ["client_app.py", "server_app.py"]
    assert "from segviz_core.federation.server_app import app" in (app / "server_app.py").read_text()
