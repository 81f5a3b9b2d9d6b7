"""What stops a site from joining, each in one sentence; the coordinator here is real and waits for sites."""

import json
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from federation_processes import HERE, TRAINER, Coordinator, join, new_study, processes_of, states, wait_until
from toy_study import free_port

from segviz_core.errors import InputError, SegVizError
from segviz_core.federation import certificates, coordinator, journal, site, supervisor
from segviz_core.federation.consent import consent_text
from segviz_core.federation.kit import read_kit, write_kit
from segviz_core.federation.schema import LEAVES, REQUEST
from segviz_core.federation.site import SiteOptions
from segviz_core.federation.site_folder import AUDIT_FILE, CONSENT_FILE, KEY_FILE, SECRET_FILE, SITE_FILE, STATUS_FILE

OPTIONS = SiteOptions(cases=HERE, organs=("liver",), label_values={}, cores=1, trainer=TRAINER)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A study whose coordinator runs and waits for three sites."""
    folder = new_study(tmp_path_factory.mktemp("study"), rounds=1, min_sites=3, wait_seconds=600.0)
    coordinator.add_site(folder, "north", allow=["liver"])
    with Coordinator(folder) as process:
        wait_until(lambda: coordinator.status(folder)["state"] == "waiting", 120, process.output)
        yield folder


@pytest.fixture(scope="module")
def kit(study: Path) -> Path:
    return study / "kits" / "north.zip"


@pytest.fixture(autouse=True)
def _nothing_is_left(tmp_path: Path) -> Iterator[None]:
    """Every test ends without a process of its site."""
    yield
    wait_until(lambda: not processes_of(tmp_path), 10, lambda: str(processes_of(tmp_path)))


def test_join_without_consent_is_refused(kit: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Joining needs consent"):
        site.join(kit, OPTIONS, folder=tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_consent_lists_what_leaves_and_only_that(kit: Path) -> None:
    text = consent_text(read_kit(kit))
    assert all(f"({name})" in text for name in LEAVES)
    assert "head/ORGAN" in text
    assert not [name for name in {*REQUEST.settings, *REQUEST.groups} - set(LEAVES) if f"({name})" in text]
    assert "What never leaves: images, labels, file names, DICOM tags, paths" in text


@pytest.mark.parametrize(
    "options, sentence",
    [
        (replace(OPTIONS, organs=()), "Expected at least one organ"),
        (replace(OPTIONS, organs=("spleen",)), "This kit allows the label set liver, found spleen"),
        (replace(OPTIONS, label_values={"spleen": (6,)}), "given for spleen, which is not in the label set"),
        (replace(OPTIONS, label_values={"liver": (0,)}), "Label values: liver: expected label values above 0"),
        (replace(OPTIONS, cases=HERE / "none"), "There is no folder of cases at"),
        (replace(OPTIONS, flwr_folder=HERE), "needs Flower 1\\.41\\.0 in .*, found none"),
    ],
)
def test_options_that_do_not_fit_are_refused(kit: Path, tmp_path: Path, options: SiteOptions, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        site.join(kit, options, folder=tmp_path / "site", consent=True)


def test_new_organ_needs_its_label_values(study: Path, tmp_path: Path) -> None:
    kit = coordinator.add_site(study, "any")
    options = replace(OPTIONS, organs=("stomach",))
    with pytest.raises(InputError, match="The organ 'stomach' is not one of liver") as caught:
        site.join(kit, options, folder=tmp_path / "site", consent=True)
    assert "--label-values stomach=1" in caught.value.hint


def test_site_goes_online_and_leaves(kit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    assert join(kit, folder, "liver")["state"] == "online"
    for name in (KEY_FILE, SECRET_FILE, AUDIT_FILE):
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    consent = json.loads((folder / CONSENT_FILE).read_text(encoding="utf-8"))
    assert consent["ca_fingerprint"] == certificates.fingerprint(read_kit(kit).certificate)
    assert {"date", "host", "user", "study", "site", "text"} <= set(consent)
    assert site.status(folder)["certificate_days_left"] > 700
    site.leave(folder)
    assert [row["event"] for row in journal.read(folder / AUDIT_FILE)] == ["consent", "join", "leave"]


def test_interrupted_site_leaves_with_every_process(kit: Path, tmp_path: Path) -> None:
    """What Ctrl-C does to `site join --foreground`."""
    folder = tmp_path / "site"
    join(kit, folder, "liver")
    site.leave(folder)
    command = [sys.executable, "-m", "segviz_core.federation.supervisor", str(folder)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as process:
        wait_until(lambda: states(folder)[-1] == "online", 60)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert states(folder)[-1] == "left"


def test_folder_of_another_site_is_refused(kit: Path, study: Path, tmp_path: Path) -> None:
    join(kit, tmp_path / "site", "liver")
    site.leave(tmp_path / "site")
    other = coordinator.add_site(study, "west")
    with pytest.raises(InputError, match="belongs to site 'north' of study 'toy'"):
        join(other, tmp_path / "site", "liver")


def test_kit_without_a_key_fits_the_key_that_the_site_made_and_no_other(study: Path, tmp_path: Path) -> None:
    public = site.make_key(tmp_path / "site")
    kit = coordinator.add_site(study, "own-key", public_key=public)
    with pytest.raises(InputError, match="This kit belongs to a key that a site made itself") as caught:
        site.join(kit, OPTIONS, folder=tmp_path / "other", consent=True)
    assert "with the same --work" in caught.value.hint
    assert join(kit, tmp_path / "site", "liver")["state"] == "online"
    site.leave(tmp_path / "site")
    with pytest.raises(InputError, match="A site has joined in"):
        site.make_key(tmp_path / "site")


def test_unknown_key_is_named(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "UNREGISTERED_S", 1.0)
    stranger = replace(read_kit(kit), key=certificates.create_node_key()[0], public_key=b"")
    write_kit(tmp_path / "kit.zip", stranger)
    with pytest.raises(InputError, match="This site is not registered: ask the coordinator"):
        join(tmp_path / "kit.zip", tmp_path / "site", "liver", foreground=True)
    assert states(tmp_path / "site")[-1] == "failed"


def test_certificate_of_another_study_is_named(kit: Path, tmp_path: Path) -> None:
    other, _ = certificates.create_authority("toy")
    write_kit(tmp_path / "kit.zip", replace(read_kit(kit), certificate=other))
    with pytest.raises(InputError, match="The coordinator's certificate does not belong to this kit"):
        join(tmp_path / "kit.zip", tmp_path / "site", "liver")  # detached: the sentence crosses by the status file


def test_coordinator_that_does_not_run_is_named(kit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "FIRST_TIME_S", 2.0)
    write_kit(tmp_path / "kit.zip", replace(read_kit(kit), address=f"127.0.0.1:{free_port()}"))
    with pytest.raises(InputError, match="The coordinator is not running, or the address or port is wrong"):
        join(tmp_path / "kit.zip", tmp_path / "site", "liver", foreground=True)


def test_error_of_the_trainer_reaches_the_user_before_anything_connects(kit: Path, tmp_path: Path) -> None:
    said = '{"event": "error", "kind": "input", "message": "Case a: no label.", "hint": "Add one."}'
    options = replace(OPTIONS, trainer=(sys.executable, "-c", f"print({said!r})"))
    with pytest.raises(InputError, match="Case a: no label") as caught:
        site.join(kit, options, folder=tmp_path / "site", consent=True)
    assert caught.value.hint == "Add one."
    assert not (tmp_path / "site" / "node.log").exists()


def test_trainer_that_dies_again_and_again_is_given_up(kit: Path, tmp_path: Path) -> None:
    options = replace(OPTIONS, trainer=(sys.executable, "-c", "raise SystemExit(1)"))
    with pytest.raises(SegVizError, match="The trainer ended again and again: 5 restarts"):
        site.join(kit, options, folder=tmp_path / "site", consent=True)


def test_site_that_answers_between_its_deaths_is_not_given_up(kit: Path, tmp_path: Path) -> None:
    site.join(kit, OPTIONS, folder=tmp_path / "site", consent=True)
    site.leave(tmp_path / "site")
    kept = supervisor.Supervisor(tmp_path / "site")
    for _ in range(3):
        for _ in range(5):
            kept._count_death("A task")
        kept._hear_trainer('{"event": "answered", "round": 2, "stage": "train"}')
        kept._hear_node("INFO: Sent successfully")
    for _ in range(5):
        kept._count_death("A task")
    kept._hear_node("INFO: Sent successfully")  # an error, which is no answer of the trainer
    with pytest.raises(SegVizError, match=r"A task ended again and again: .* without an answer"):
        kept._count_death("A task")


def test_rows_reach_a_window_while_the_site_comes_up(kit: Path, tmp_path: Path) -> None:
    rows: list[str] = []
    site.join(
        kit, OPTIONS, folder=tmp_path / "site", consent=True, on_row=lambda row: rows.append(str(row.get("state")))
    )
    site.leave(tmp_path / "site")
    assert [state for state in rows if state != "None"] == ["checking", "connecting", "online"]


def test_interrupt_while_joining_takes_the_site_back(kit: Path, tmp_path: Path) -> None:
    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        site.join(kit, OPTIONS, folder=tmp_path / "site", consent=True, on_row=interrupt)


def test_status_of_a_folder_without_a_site_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No site has joined in"):
        site.status(tmp_path)
    with pytest.raises(InputError, match="No site is running in"):
        site.leave(tmp_path)


def test_status_of_a_site_that_ended_without_leaving_is_true(tmp_path: Path) -> None:
    (tmp_path / SITE_FILE).write_text("{}")
    journal.append(tmp_path / STATUS_FILE, "state", state="online", message="Connected.")
    assert site.status(tmp_path)["message"] == "It ended without leaving; join again to go on."
