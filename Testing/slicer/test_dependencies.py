"""Each button installs what it needs, after a yes, and Flower where Slicer's packages are not touched."""

import os
import sys
import types

import pytest
import qt
import slicer.packaging
from scenes import RESOURCES, make_window
from SegVizSlicerLib import Dependencies as dependencies
from SegVizSlicerLib.Dependencies import FLWR_VERSION, Dependencies
from SegVizSlicerLib.SetupCheck import checkSetup


@pytest.fixture(autouse=True)
def no_request_is_left():
    slicer.packaging.requests.clear()
    slicer.packaging.answer[:] = ["install"]
    yield
    slicer.packaging.answer[:] = ["install"]


@pytest.fixture
def installed(monkeypatch):
    """Versions of packages as this Python would report them."""
    versions = {"torch": "2.12.0", "numpy": "2.4.6"}
    monkeypatch.setattr(dependencies, "_version", lambda name: versions.get(name, ""))
    monkeypatch.setattr(slicer.packaging, "pip_check", lambda requirement: False)
    return versions


def make(folder, answer=True):
    asked = []
    return Dependencies(RESOURCES, folder, ask=lambda question: asked.append(question) or answer), asked


def test_nothing_is_installed_or_asked_when_the_window_opens(user_folder):
    make_window(user_folder, dependencies=Dependencies(RESOURCES, user_folder, ask=lambda _question: 1 / 0))
    assert slicer.packaging.requests == []


def test_segmenting_asks_for_its_own_set_only(user_folder, installed):
    own, asked = make(user_folder)
    own.ensureSegment()
    (request,) = slicer.packaging.requests
    assert [text.split(">")[0] for text in request["requirements"]] == ["monai", "nibabel", "safetensors"]
    assert request["requester"] == "SegViz"
    assert asked == []


def test_flower_goes_into_a_private_folder_with_slicers_versions_as_constraints(user_folder, installed):
    own, asked = make(user_folder)
    own.ensureFederation()
    request = slicer.packaging.requests[-1]
    assert request["requirements"] == ["--target", str(own.flwrFolder), f"flwr=={FLWR_VERSION}"]
    assert request["constraints"].read_text() == "numpy==2.4.6\ntorch==2.12.0\n"
    assert FLWR_VERSION in asked[0]
    assert "275 MB" in asked[0]


def test_a_no_installs_nothing_and_says_what_is_missing(user_folder, installed):
    own, _asked = make(user_folder, answer=False)
    with pytest.raises(RuntimeError, match="Flower was not installed: joining needs it"):
        own.ensureFederation()
    assert not any("--target" in request["requirements"] for request in slicer.packaging.requests)


def test_remove_deletes_the_private_folder_alone(user_folder):
    own, _asked = make(user_folder)
    metadata = own.flwrFolder / f"flwr-{FLWR_VERSION}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: flwr\nVersion: {FLWR_VERSION}\n")
    assert own.flwrVersion() == FLWR_VERSION
    own.removeFederation()
    assert own.flwrVersion() == ""
    assert user_folder.exists()


def test_torch_comes_from_the_pytorch_extension(user_folder, installed, monkeypatch):
    installed["torch"] = ""
    own, _asked = make(user_folder)
    with pytest.raises(RuntimeError, match="SegViz needs the PyTorch extension: install it in the Extensions Manager"):
        own.ensureSegment()
    calls = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            calls.append(options)
            return

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    with pytest.raises(RuntimeError, match="PyTorch was not installed: segmenting and training need it"):
        own.ensureSegment()
    assert calls == [{"askConfirmation": True, "torchVersionRequirement": ">=2.8,!=2.13.*"}]


def test_an_offline_folder_is_used_and_forgotten_again(user_folder, installed, monkeypatch):
    qt.QSettings().setValue("SegViz/offlineFolder", "/media/wheels")
    monkeypatch.delenv("PIP_NO_INDEX", raising=False)
    monkeypatch.setenv("PIP_FIND_LINKS", "/before")
    seen = []
    monkeypatch.setattr(
        slicer.packaging,
        "pip_ensure",
        lambda requirements, requester: seen.append((os.environ["PIP_NO_INDEX"], os.environ["PIP_FIND_LINKS"])),
    )
    make(user_folder)[0].ensureSegment()
    assert seen == [("1", "/media/wheels")]
    assert os.environ["PIP_FIND_LINKS"] == "/before"
    assert "PIP_NO_INDEX" not in os.environ


def test_check_setup_has_a_line_for_each_thing(user_folder, monkeypatch):
    window = make_window(user_folder)
    window.ui.advancedSection.collapsed = False
    window.ui.setupButton.click()
    table = window.ui.setupTable
    rows = {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}
    assert list(rows) == [
        *("Slicer", "Python", "SegViz", "Segmenting", "Federation", "Device", "Memory", "Disk", "Work path", "Model"),
        *("Coordinator", "Certificate", "Policy"),
    ]
    assert rows["Slicer"] == "5.12.4"
    assert rows["Segmenting"] == "ready"
    assert rows["Federation"] == "Join will ask to install Flower 1.41.0"
    assert rows["Model"] == "none: import one"
    monkeypatch.setattr(type(slicer.app), "minorVersion", property(lambda self: 10))
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: "/proc/nowhere"))
    rows = dict(checkSetup(window))
    assert rows["Slicer"] == "5.12.4 is too old: install Slicer 5.12 or later."
    assert rows["Work path"].startswith("/proc/nowhere cannot be written to: choose another temporary folder")
    monkeypatch.setattr("sys.platform", "darwin")
    assert dict(checkSetup(window))["Federation"].startswith("not possible in Slicer for macOS")
