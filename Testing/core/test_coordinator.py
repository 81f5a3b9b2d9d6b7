import json
import ssl
import stat
from pathlib import Path
from zipfile import ZipFile

import pytest
from toy_study import reference, write_toy_study

from segviz_core.errors import InputError
from segviz_core.federation import certificates, coordinator, site
from segviz_core.federation.kit import read_kit
from segviz_core.federation.running import only_one
from segviz_core.federation.settings import StudySettings
from segviz_core.meta_model import MetaModel


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


@pytest.mark.parametrize("host", ["", "0.0.0.0", "a b", "trial.example.org:9443", "::1", "-x", "x" * 300])
def test_host_that_no_site_can_reach_is_refused(tmp_path: Path, host: str) -> None:
    with pytest.raises(InputError, match="Expected the name or IPv4 address by which sites reach this computer"):
        coordinator.create(tmp_path / "study", StudySettings(name="toy"), host=host)
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("host, bind", [("127.0.0.1", "127.0.0.1"), ("10.1.2.3", "0.0.0.0"), ("a.example", "0.0.0.0")])
def test_front_listens_to_the_network_only_for_a_host_of_the_network(tmp_path: Path, host: str, bind: str) -> None:
    write_toy_study(tmp_path)
    coordinator.provision(tmp_path, "toy", host=host)
    assert coordinator.read_server(tmp_path)["bind"] == bind
    assert read_kit(coordinator.add_site(tmp_path, "north")).address == f"{host}:9443"


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


def test_kit_for_a_key_made_at_the_site_holds_no_key(study: Path, tmp_path: Path) -> None:
    public = site.make_key(tmp_path / "site")
    assert site.make_key(tmp_path / "site") == public
    path = coordinator.add_site(study, "north", public_key=public)
    with ZipFile(path) as file:
        assert sorted(file.namelist()) == ["ca.crt", "kit.json"]
    assert read_kit(path).key is None
    assert (study / "sites" / "north.pub").read_bytes() == public.read_bytes().strip()
    private = (tmp_path / "site" / "site_key").read_bytes()
    assert not [file for file in study.rglob("*") if file.is_file() and private in file.read_bytes()]


def test_two_sites_with_one_key_are_refused(study: Path, tmp_path: Path) -> None:
    public = site.make_key(tmp_path)
    coordinator.add_site(study, "north", public_key=public)
    with pytest.raises(InputError, match="The site 'north' has this key already"):
        coordinator.add_site(study, "south", public_key=public)


@pytest.mark.parametrize("content", [b"", b"hello", b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ0"])
def test_other_files_are_no_public_key(study: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "key.pub").write_bytes(content)
    with pytest.raises(InputError, match="Expected the public key of a site, found other content"):
        coordinator.add_site(study, "north", public_key=tmp_path / "key.pub")
    with pytest.raises(InputError, match="There is no public key at"):
        coordinator.add_site(study, "north", public_key=tmp_path / "none.pub")
    assert coordinator.status(study)["sites"] == []


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
    with pytest.raises(InputError, match="This study has or had a site 'north' already"):
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
    assert status["certificate_days_left"] == pytest.approx(certificates.SERVER_DAYS, abs=0.1)
    assert status["authority_days_left"] == pytest.approx(certificates.AUTHORITY_DAYS, abs=0.1)


def test_status_is_true_after_a_crash(study: Path) -> None:
    (study / "status.json").write_text(json.dumps({"state": "running", "round": 4}))
    rows = [{"round": 1, "complete": True}, {"round": 2, "complete": True}, {"round": 3, "complete": False}]
    (study / "history.jsonl").write_text("\n".join(map(json.dumps, rows)) + '\n{"round": 4, "comp')
    status = coordinator.status(study)
    assert (status["state"], status["finished_rounds"]) == ("stopped", 2)


def test_flower_app_in_the_study_is_two_files_that_only_import(study: Path) -> None:
    app = study / "app" / "segviz_study"
    assert sorted(file.name for file in app.iterdir()) == ["client_app.py", "server_app.py"]
    assert "from segviz_core.federation.server_app import app" in (app / "server_app.py").read_text(encoding="utf-8")


def test_removed_site_is_no_site_of_the_study_any_more(study: Path) -> None:
    for name in ("north", "south"):
        coordinator.add_site(study, name)
    assert not coordinator.remove_site(study, "north")
    status = coordinator.status(study)
    assert (status["sites"], status["removed"]) == (["south"], {"north": "left"})
    coordinator.remove_site(study, "north", erase=True)
    assert coordinator.status(study)["removed"] == {"north": "erased"}
    with pytest.raises(InputError, match=r"The site 'north' is removed already \(erased\)"):
        coordinator.remove_site(study, "north")
    with pytest.raises(InputError, match="This study has or had a site 'north' already"):
        coordinator.add_site(study, "north")


@pytest.mark.parametrize("name", ["west", "../north", ""])
def test_site_to_remove_must_exist(study: Path, name: str) -> None:
    coordinator.add_site(study, "north")
    with pytest.raises(InputError, match="This study has no site") as caught:
        coordinator.remove_site(study, name)
    assert caught.value.hint == "It has: north"


def test_model_so_far_is_exported_from_the_checkpoint(study: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no trained head after 0 of \d+ rounds"):
        coordinator.export(study, tmp_path / "model.safetensors")
    sites = {"north": ["liver"], "south": ["spleen"]}
    state = reference(tmp_path / "other", sites, until=2, rounds=5)
    state.save(study / "checkpoint.safetensors")
    coordinator.export(study, tmp_path / "model.safetensors")
    model = MetaModel.load(tmp_path / "model.safetensors")
    assert [organ.name for organ in model.organs] == ["liver", "spleen"]
    assert model.provenance["rounds"] == 2


def test_certificate_that_ends_soon_is_renewed_by_the_same_authority(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (study / "server.crt").read_bytes()
    coordinator.renew_certificate(study)
    assert (study / "server.crt").read_bytes() == before
    monkeypatch.setattr(coordinator, "_RENEW_DAYS", certificates.SERVER_DAYS + 1)
    coordinator.renew_certificate(study)
    assert (study / "server.crt").read_bytes() != before
    context = ssl.create_default_context(cafile=str(study / "ca.crt"))
    context.load_cert_chain(study / "server.crt", study / "server.key")


def test_front_is_chosen_while_the_coordinator_rests(study: Path) -> None:
    path = coordinator.choose_front(study, "nginx", superlink_port=9001)
    assert path == study / "nginx.conf"
    server = coordinator.read_server(study)
    assert (server["front"], server["superlink_port"]) == ("nginx", 9001)
    with pytest.raises(InputError, match="Port 9555 is the one that sites connect to"):
        coordinator.choose_front(study, "nginx", superlink_port=9555)
    with only_one(study, what="The coordinator"), pytest.raises(InputError, match="front of a running coordinator"):
        coordinator.choose_front(study, "built-in")
    assert coordinator.choose_front(study, "built-in") is None
    assert coordinator.read_server(study)["front"] == "built-in"
