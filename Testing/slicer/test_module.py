"""The module as Slicer loads it: registration, generic test, files of CMake, imports, idioms."""

import ast
import json
import re
import shutil
import subprocess
import sys
import types

import pytest
import qt
import slicer
from scenes import ROOT, add_ct
from slicer_harness import load_module, unload_module

MODULE = ROOT / "SegVizSlicer"
SOURCES = sorted(MODULE.rglob("*.py"))
CORE_ALLOWED = {
    "segviz_core",
    "segviz_core.errors",
    "segviz_core.federation.running",
    "segviz_core.federation.way_out",
    "segviz_core.labels",
    "segviz_core.model_header",
}


@pytest.fixture
def module(user_folder, monkeypatch):
    loaded = load_module(MODULE / "SegVizSlicer.py")
    monkeypatch.setattr("SegVizSlicerLib.Widget.userFolder", lambda: user_folder)
    yield loaded
    if hasattr(slicer.modules, "SegVizSlicerWidget"):
        unload_module("SegVizSlicer")


def test_the_module_registers_title_category_and_icon(module):
    assert module.title == "SegViz"
    assert module.categories == ["Segmentation"]
    assert not module.icon.isNull()
    assert "liver, spleen, kidneys and pancreas" in module.helpText


def test_it_enters_exits_reloads_and_survives_two_scene_closes(module, monkeypatch):
    for name, loaded in list(sys.modules.items()):
        if name.partition(".")[0] == "SegVizSlicerLib":
            monkeypatch.setitem(sys.modules, name, loaded)  # other tests go on with what they have imported
    panel = module.widgetRepresentation()
    widget = slicer.modules.SegVizSlicerWidget
    assert slicer.util.mainWindow() is None
    assert slicer.app.layoutManager() is None
    panel.exit()
    panel.enter()
    for _ in range(2):
        slicer.mrmlScene.Clear(0)
        assert widget.ui.applyButton.toolTip == "Select an input CT volume."
    old = sys.modules["SegVizSlicerLib.Widget"]
    widget.onReload()
    panel.enter()
    assert sys.modules["SegVizSlicerLib.Widget"] is not old
    assert slicer.modules.SegVizSlicerWidget is not widget
    add_ct()
    assert slicer.modules.SegVizSlicerWidget.ui.inputSelector.currentNode() is not None


def test_options_are_kept_in_the_scene_and_return_with_it(module, tmp_path):
    module.widgetRepresentation()
    ui = slicer.modules.SegVizSlicerWidget.ui
    ui.fastCheckBox.checked = True
    ui.spleenCheckBox.checked = False
    ui.deviceSelector.setCurrentIndex(1)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"), {})
    slicer.mrmlScene.Clear(0)
    assert not ui.fastCheckBox.checked
    slicer.util.loadScene(str(tmp_path / "scene.mrb"), {})
    slicer.modules.SegVizSlicerWidget.enter()
    assert (ui.fastCheckBox.checked, ui.spleenCheckBox.checked, ui.deviceSelector.currentIndex) == (True, False, 1)


def test_slicers_self_test_passes(module):
    slicer.selfTests["SegVizSlicer"]()


def test_the_sample_data_module_offers_the_artificial_ct(module, monkeypatch):
    entries = []

    class SampleDataLogic:
        @staticmethod
        def registerCustomSampleDataSource(*, category, sampleName, customDownloader):
            entries.append((category, sampleName, customDownloader))

    sample_data = types.ModuleType("SampleData")
    sample_data.SampleDataLogic = SampleDataLogic
    monkeypatch.setitem(sys.modules, "SampleData", sample_data)
    sys.modules["SegVizSlicer"].registerSampleData()
    ((category, name, make),) = entries
    assert (category, name) == ("SegViz", "SegVizArtificialCT")
    assert make(None).GetName() == "Artificial CT"


def test_an_old_slicer_is_refused(module, monkeypatch):
    monkeypatch.setattr(type(slicer.app), "minorVersion", property(lambda self: 10))
    with pytest.raises(RuntimeError, match=r"SegViz needs Slicer 5\.12 or later"):
        module.widgetRepresentation()


def test_the_module_loads_without_any_extra_package(tmp_path):
    """Constructs everything in a Python that refuses torch, monai, nibabel, safetensors and flwr."""
    program = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "monai", "nibabel", "safetensors", "flwr", "SimpleITK", "scipy"):
            raise ImportError("not in Slicer: " + name)
sys.meta_path.insert(0, Refuse())
sys.path[:0] = [{str(ROOT / "Testing" / "slicer")!r}]
from pathlib import Path
from harness_import import slicer_harness
slicer_harness.start()
module = slicer_harness.load_module(Path({str(MODULE / "SegVizSlicer.py")!r}))
module.widgetRepresentation()
assert slicer_harness.swallowed == []
print("segviz_core" in sys.modules, [n for n in ("rich", "cryptography") if n in sys.modules])
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "True []"


def test_the_command_line_starts_from_what_the_extension_ships(tmp_path):
    """CMakeLists.txt leaves the experiments out."""
    shutil.copytree(
        ROOT / "segviz_core", tmp_path / "segviz_core", ignore=shutil.ignore_patterns("experiments", "__pycache__")
    )
    command = [sys.executable, "-m", "segviz_core", "segment", "--help"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_imports_only_what_slicer_has(path):
    allowed = {"slicer", "qt", "ctk", "vtk", "numpy", "SegVizSlicerLib", "segviz_core", "PyTorchUtils", "SampleData"}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for name in names:
            top = name.split(".")[0]
            assert top in allowed or top in sys.stdlib_module_names, f"{path.name} imports {name}"
            assert top != "segviz_core" or name in CORE_ALLOWED, f"{path.name} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_a_source_keeps_to_qt_5_and_6_and_to_translatable_text(path):
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"QRegExp\b|QTextCodec|QDesktopWidget|\.margin\b|currentIndexChanged\(QString\)", text)
    assert not re.search(r"\b_\(f[\"']", text), "f-strings cannot be translated"
    assert "setStyleSheet" not in text
    assert not re.search(r"\.(minimumSizeHint|sizeHint)\b|\.spacing\(", text), "a value in PythonQt only"
    assert not re.search(r"^\s*print\(", text, re.MULTILINE)
    assert not re.search(r"confirm(OkCancel|YesNo)Display", text), "answers itself under --testing"


def test_cmake_lists_every_script_and_resource():
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", "SegVizSlicer")
    listed = set(re.findall(r"^  (\S+\.(?:py|ui|png|txt|svg))$", text, re.MULTILINE))
    there = {path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*.*") if "__pycache__" not in path.parts}
    assert listed == there - {"CMakeLists.txt"}


def test_the_extension_describes_itself_as_the_index_checks():
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    entry = json.loads((ROOT / "SegViz.json").read_text(encoding="utf-8"))
    assert re.search(r"project\((\w+)", text).group(1) == "SegViz"
    assert entry["scm_url"].split("/")[-1].startswith("Slicer")
    assert set(entry) == {
        "$schema",
        "build_dependencies",
        "build_subdirectory",
        "category",
        "scm_revision",
        "scm_url",
        "tier",
    }
    icon = re.search(r'set\(EXTENSION_ICONURL "https://\S+/main/(\S+\.png)"\)', text).group(1)
    assert (ROOT / icon).is_file()
    for url in re.search(r'set\(EXTENSION_SCREENSHOTURLS "(.+)"\)', text).group(1).split():
        assert url.endswith((".png", ".jpg", ".gif"))
    assert "\r" not in text
    assert (ROOT / "LICENSE").is_file()
    assert qt.QImage(str(ROOT / icon)).width() == 128


def test_every_name_of_the_ui_that_the_code_uses_exists():
    names = set(
        re.findall(
            r'<widget class="\w+" name="(\w+)"', (MODULE / "Resources/UI/SegVizSlicer.ui").read_text(encoding="utf-8")
        )
    )
    for path in SOURCES:
        used = set(re.findall(r"\bui\.(\w+)\b", path.read_text(encoding="utf-8")))
        assert used <= names, f"{path.name}: {sorted(used - names)}"


def test_the_scene_never_stores_addresses_paths_or_consent(module):
    module.widgetRepresentation()
    node = slicer.modules.SegVizSlicerWidget.logic.getParameterNode()
    stored = set(node.GetParameterNames())
    assert stored == {"liver", "spleen", "kidneys", "pancreas", "otherOrgans", "splitKidneys", "fast", "device"}


def test_no_test_data_or_cache_is_shipped():
    assert not [
        path for path in MODULE.rglob("*") if path.suffix in (".pyc", ".nrrd") and "__pycache__" not in str(path)
    ]
