"""Each button installs what it needs, after a yes, and Flower where Slicer's packages are not touched."""

import os
import sys
import tomllib
import types

import pytest
import qt
import slicer.packaging
from scenes import RESOURCES, ROOT, make_window
from SegVizSlicerLib import Dependencies as dependencies
from SegVizSlicerLib.CoreProcess import coreEnvironment
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


def names(request):
    return [text.split(">")[0] for text in request["requirements"]]


def test_segmenting_asks_for_its_own_small_set_only(user_folder, installed):
    installed["torch"] = ""
    own, asked = make(user_folder)
    assert own.missingSegment() == ["nibabel", "openvino", "safetensors"]
    own.ensureSegment()
    (request,) = slicer.packaging.requests
    assert names(request) == own.missingSegment()
    assert request["requester"] == "SegViz"
    assert asked == []


def test_a_chosen_gpu_and_a_site_need_pytorch_too(user_folder, installed):
    own, _asked = make(user_folder)
    own.ensureSegment("cuda")
    own.ensureFederation()
    assert [names(request)[0] for request in slicer.packaging.requests[:4]] == ["nibabel", "monai"] * 2


def test_an_intel_mac_gets_openvino_in_a_folder_of_its_own_or_one_sentence(user_folder, installed, monkeypatch):
    monkeypatch.setattr("sys.platform", "darwin")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    own, asked = make(user_folder)
    assert own.missingSegment() == ["nibabel", "safetensors", "openvino"]
    own.ensureSegment()
    ordinary, private = slicer.packaging.requests
    assert names(ordinary) == ["nibabel", "safetensors"]
    assert private["requirements"] == ["--target", str(own.openvinoFolder), "--no-deps", "openvino==2025.4.1"]
    assert "about 180 MB" in asked[0]
    monkeypatch.setattr("SegVizSlicerLib.CoreProcess.userFolder", lambda: user_folder)
    assert coreEnvironment()["PYTHONPATH"].split(os.pathsep)[1] == str(own.openvinoFolder)

    def not_found(*arguments, **options):
        raise RuntimeError("pip failed")

    monkeypatch.setattr(slicer.packaging, "pip_install", not_found)
    with pytest.raises(RuntimeError, match="Segmenting is not available on this Mac: OpenVINO for Intel processors"):
        own.ensureSegment()
    assert not own.openvinoFolder.exists()
    with pytest.raises(RuntimeError, match="OpenVINO was not installed: segmenting needs it"):
        make(user_folder, answer=False)[0].ensureSegment()


def test_the_segment_sets_of_slicer_and_of_pip_are_one():
    """Beyond what Slicer brings itself, and what reads .nii.gz faster: Slicer hands over NRRD."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    pip = {*extras["segment"], *extras["images"], "safetensors>=0.4"} - {"segviz[images]", "SimpleITK>=2.3"}
    slicers = (RESOURCES / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert {line for line in slicers if not line.startswith("#")} == pip - {"scipy>=1.11", "isal>=1.6"}


def test_flower_goes_into_a_private_folder_with_slicers_versions_as_constraints(user_folder, installed):
    own, asked = make(user_folder)
    own.ensureFederation()
    request = slicer.packaging.requests[-1]
    assert request["requirements"] == ["--target", str(own.flwrFolder), f"flwr=={FLWR_VERSION}"]
    assert request["constraints"].read_text(encoding="utf-8") == "numpy==2.4.6\ntorch==2.12.0\n"
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
    with pytest.raises(RuntimeError, match="PyTorch extension is needed for training: install it in the Extensions Ma"):
        own.ensureFederation()
    with pytest.raises(RuntimeError, match="PyTorch extension is needed for segmenting on the GPU"):
        own.ensureSegment("cuda")
    calls = []

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            calls.append(options)
            return

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    with pytest.raises(RuntimeError, match="PyTorch was not installed: training needs it"):
        own.ensureFederation()
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
    assert rows["Federation"] == "ready"
    assert rows["Model"] == "none: import one"
    monkeypatch.setattr(window.dependencies, "missingSegment", lambda: ["openvino"])
    monkeypatch.setattr(window.dependencies, "missingFederation", lambda: ["torch", "Flower 1.41.0"])
    monkeypatch.setattr(type(slicer.app), "minorVersion", property(lambda self: 10))
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: "/proc/nowhere"))
    rows = dict(checkSetup(window))
    assert rows["Segmenting"] == "Apply asks for openvino (180 MB)"
    assert rows["Federation"] == "Join asks for torch, Flower 1.41.0 (over 1 GB)"
    assert rows["Slicer"] == "5.12.4 is too old: install Slicer 5.12 or later."
    assert rows["Work path"].startswith("/proc/nowhere cannot be written to: choose another temporary folder")
    monkeypatch.setattr("sys.platform", "darwin")
    assert dict(checkSetup(window))["Federation"].startswith("not possible in Slicer for macOS")
