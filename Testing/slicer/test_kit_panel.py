"""Whom to join: the site kit or its parts, and a key that the site makes itself."""

from pathlib import Path

import pytest
import qt
from children import kit_parts, write_kit
from scenes import FakeProcess
from SegVizSlicerLib.SiteKit import assembleKit, readKit


def test_one_file_fills_everything_in(window, kit):
    window.ui.kitPath.setCurrentPath(str(kit))
    assert window.ui.addressEdit.text == "127.0.0.1:9443"
    assert window.ui.kitLabel.text.startswith(
        "Site north of study demo; may annotate any organ; certificate valid for "
    )
    assert window.ui.labelSetSelector.enabled


def test_a_kit_that_restricts_the_organs_locks_the_picker_with_the_reason(window, user_folder):
    window.ui.kitPath.setCurrentPath(str(write_kit(user_folder / "k.zip", allow=["liver"])))
    assert window.federation.labelSet.organs() == ("liver",)
    assert not window.ui.labelSetSelector.enabled
    assert window.ui.labelSetSelector.toolTip == "The coordinator's kit allows liver only."


def test_another_file_is_refused_in_words(window, user_folder):
    path = user_folder / "picture.zip"
    path.write_bytes(b"PK no zip")
    window.ui.kitPath.setCurrentPath(str(path))
    assert window.ui.kitLabel.text == (
        f"{path} is not a site kit: choose the one file that the coordinator sent, or its three parts."
    )


def test_the_three_parts_are_as_good_as_the_kit(window, kit, user_folder):
    for name in ("kit.json", "ca.crt", "site_key"):
        (user_folder / name).write_bytes(kit_parts()[name])
    window.ui.kitPath.setCurrentPath(str(user_folder / "kit.json"))
    window.ui.certificatePath.setCurrentPath(str(user_folder / "ca.crt"))
    window.ui.keyPath.setCurrentPath(str(user_folder / "site_key"))
    assert window.federation.kit.fingerprint == readKit(kit).fingerprint
    assert (window.federation.kit.path.stat().st_mode & 0o777) == 0o600


def test_a_missing_part_is_named(user_folder):
    (user_folder / "kit.json").write_bytes(kit_parts()["kit.json"])
    with pytest.raises(ValueError, match=r"nowhere is not the ca\.crt of a site kit"):
        assembleKit(
            user_folder / "kit.json", user_folder / "nowhere", user_folder / "key", address="", folder=user_folder
        )


def test_a_kit_without_a_key_waits_for_the_key_that_stayed_here(window, user_folder):
    window.ui.kitPath.setCurrentPath(str(write_kit(user_folder / "keyless.zip", key=False)))
    why = "Choose this site's key: the kit was made for a key that stays here."
    assert window.federation.coordinator.whyNot() == why
    assert window.ui.kitLabel.text.endswith("It holds no key: choose this site's own.")
    (user_folder / "site_key.pub").write_bytes(b"ecdsa-sha2-nistp384 AAAA")
    window.ui.keyPath.setCurrentPath(str(user_folder / "site_key.pub"))
    assert "is not a private key" in window.ui.kitLabel.text
    (user_folder / "site_key").write_bytes(kit_parts()["site_key"])
    window.ui.keyPath.setCurrentPath(str(user_folder / "site_key"))
    assert window.federation.coordinator.whyNot() == ""
    assert (window.federation.kit.path.stat().st_mode & 0o777) == 0o600
    assert window.federation.coordinator.toJoin().hasKey


def test_a_key_is_made_here_and_its_public_half_is_for_the_coordinator(window, user_folder, monkeypatch):
    opened = []
    monkeypatch.setattr(qt.QDesktopServices, "openUrl", lambda url: opened.append(url.toLocalFile()))
    window.ui.makeKeyButton.click()
    process = FakeProcess.started[-1]
    folder = Path(process.arguments[-1])
    assert process.arguments == ["site", "key", "--work", str(folder)]
    folder.mkdir(parents=True)
    (folder / "site_key").write_bytes(kit_parts()["site_key"])
    process.finish(public_key=str(folder / "site_key.pub"))
    assert window.ui.keyPath.currentPath == str(folder / "site_key")
    assert window.ui.federationStatus.text.startswith(f"Send {folder / 'site_key.pub'} to the coordinator")
    assert opened == [str(folder)]
    window.ui.keyPath.setCurrentPath("")  # another day
    window.ui.kitPath.setCurrentPath(str(write_kit(user_folder / "keyless.zip", key=False)))
    assert window.federation.kit.hasKey


def test_only_its_path_is_remembered(window, kit):
    window.ui.kitPath.setCurrentPath(str(kit))
    settings = qt.QSettings()
    stored = " ".join(str(settings.value(key)) for key in settings.allKeys())
    assert str(kit) in stored
    assert "PRIVATE KEY" not in stored
