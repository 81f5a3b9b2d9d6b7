"""The segment journey with real child processes, started as Slicer starts them."""

import os
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import vtk
from children import SHADOWS, descendants, make_random_model, write_launcher
from scenes import OBLIQUE, ROOT, add_ct, make_window, process_events
from SegVizSlicerLib.CoreProcess import CoreProcess, pythonExecutable
from SegVizSlicerLib.Hints import windowHint
from SegVizSlicerLib.Models import readModel
from SegVizSlicerLib.SegmentationLogic import exportVolume, importSegmentation
from SegVizSlicerLib.State import State
from SegVizSlicerLib.Worker import Worker, warmWorker
from slicer_harness import load_module

from segviz_core.labels import ORGANS

REAL_CT = ROOT.parent / "shared" / "data" / "hcc_tace_009_ct.nii.gz"
DEMO_MODEL = ROOT / "demo" / "meta_model.safetensors"
STUB = """
import json, os, subprocess, sys, time
say = lambda **event: print(json.dumps(event), flush=True)
mode = sys.argv[1]
os.setsid()
if mode == "deaf":
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)", sys.argv[0]])
say(event="started", pid=os.getpid())
if mode == "deaf":
    print("a line for the log", flush=True)
    time.sleep(300)
say(event="progress", stage="network", done=1, total=2)
if mode == "crash":
    sys.stderr.write("Killed by the system\\n")
    sys.exit(9)
if mode == "bad":
    say(event="error", kind="input", message="Expected a CT.", hint="Choose another.")
    sys.exit(3)
say(event="result", answer=42)
"""


@pytest.fixture
def launcher(tmp_path, monkeypatch):
    path = write_launcher(tmp_path / "Slicer bin", shadows=SHADOWS)
    monkeypatch.setenv("PATH", f"{path.parent}{os.pathsep}{os.environ['PATH']}")
    assert pythonExecutable() == str(path)
    return path


@pytest.fixture
def stub(tmp_path, launcher):
    """Runs a program of the test's own in the place of segviz_core."""
    package = tmp_path / "stub" / "segviz_core"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(STUB)

    def start(mode, **callbacks):
        ended, log = [], []
        callbacks = {"onFinished": ended.append, "onLog": log.append} | callbacks
        folder = tmp_path / f"job {mode}"
        folder.mkdir(exist_ok=True)
        process = CoreProcess([mode], folder, environment={"PYTHONPATH": str(package.parent)}, **callbacks)
        return process, ended, log

    return start


class Stopwatch:
    """How long the GUI thread works at a stretch while a child works: CPU time and wall time of a turn of its loop."""

    def __init__(self):
        self.cpu = self.wall = 0.0

    def run(self, until, seconds=120.0):
        """Turn the event loop until `until()`; the last turn, in which the result is imported, is not the child's."""
        end = time.monotonic() + seconds
        while True:
            cpu, wall = time.thread_time(), time.monotonic()
            slicer.app.processEvents()
            if until():
                return
            self.cpu = max(self.cpu, time.thread_time() - cpu)
            self.wall = max(self.wall, time.monotonic() - wall)
            assert wall < end, "waited in vain"
            qt.QThread.msleep(5)


def test_events_arrive_and_the_exit_code_decides(stub):
    seen = []
    process, ended, _log = stub("good", onProgress=lambda *event: seen.append(event))
    process_events(lambda: ended)
    assert ended[0].ok
    assert ended[0].result == {"answer": 42}
    assert seen == [("network", 1, 2)]
    assert not process.running


def test_an_error_is_one_sentence_and_a_hint(stub):
    _process, ended, _log = stub("bad")
    process_events(lambda: ended)
    assert (ended[0].exitCode, ended[0].message, ended[0].hint) == (3, "Expected a CT.", "Choose another.")


@pytest.mark.parametrize(
    "core, window",
    [
        ("Use --device cpu, or --fast.", "Choose the device Processor (CPU), or Fast, under Advanced."),
        (
            "Close other programs, or segment with --fast.",
            "Close other programs, or choose Fast under Advanced.",
        ),
        ("Name it with --cases.", ""),
        ("Choose another.", "Choose another."),
    ],
)
def test_a_hint_names_what_the_window_has(core, window):
    assert windowHint(core) == window


def test_hints_of_the_core_that_the_window_translates_are_still_the_core_s():
    """Words that the core no longer says would be dead weight, and the new ones would reach people untranslated."""
    sources = ("torch_inference.py", "tiles.py", "__main__.py")
    text = " ".join((ROOT / "segviz_core" / name).read_text(encoding="utf-8") for name in sources)
    for core in (
        "Use --device cpu, or --fast.",
        "segment with --fast",
        "Raise --memory-gb, or use --fast.",
        "Run the command again with --debug",
    ):
        assert core in text


def test_a_crash_is_told_with_its_last_line(stub):
    _process, ended, log = stub("crash")
    process_events(lambda: ended)
    assert ended[0].message == "The command ended with exit code 9: Killed by the system"
    assert log == ["Killed by the system"]


def test_a_command_that_does_not_listen_is_killed_with_all_its_processes(stub, monkeypatch, tmp_path):
    monkeypatch.setattr("SegVizSlicerLib.CoreProcess.CANCEL_PATIENCE_MS", 300)
    process, ended, log = stub("deaf")
    process_events(lambda: log)
    assert len(descendants(str(tmp_path))) == 3
    process.cancel()
    process_events(lambda: ended, 20)
    assert ended[0].cancelled
    process_events(lambda: not descendants(str(tmp_path)), 10)


def test_a_kill_before_the_first_word_leaves_nothing(stub, tmp_path):
    process, ended, _log = stub("deaf")
    process.kill()
    process_events(lambda: ended, 60)
    process_events(lambda: not descendants(str(tmp_path)), 10)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make_random_model(tmp_path_factory.mktemp("model") / "meta_model.safetensors")


@pytest.fixture
def window(user_folder, model, launcher):
    (user_folder / "models").mkdir()
    shutil.copyfile(model, user_folder / "models" / "meta_model.safetensors")
    return make_window(user_folder, worker=Worker())


def job_folders():
    """Folders of jobs; an idle worker has one of its own."""
    names = [path.name for path in Path(slicer.app.temporaryPath).iterdir()]
    return [name for name in names if name.startswith("SegViz") and not name.startswith("SegVizWorker")]


@pytest.mark.parametrize("place", ["plain", "Ünïcode und Leerzeichen"])
def test_apply_segments_a_ct_with_the_real_command(window, tmp_path, monkeypatch, place):
    folder = tmp_path / place
    folder.mkdir()
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: str(folder)))
    ct = add_ct((24, 64, 64), matrix=OBLIQUE)
    watch = Stopwatch()
    window.ui.applyButton.click()
    watch.run(lambda: not window.segment.logic.running)
    print(f"\nGUI thread while the child worked: at most {watch.cpu * 1e3:.0f} ms of work, {watch.wall * 1e3:.0f} ms")
    assert window.state is State.Idle, window.ui.logText.toPlainText()
    assert watch.cpu <= 0.1
    node = window.ui.outputSelector.currentNode()
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is ct
    rows = window.ui.volumesTable.rowCount
    assert rows == 4
    assert job_folders() == []


@pytest.mark.skipif(not REAL_CT.exists(), reason="../shared/data is not here")
def test_a_real_ct_gets_segments_with_names_codes_and_its_own_grid(window, user_folder):
    if DEMO_MODEL.exists():
        shutil.copyfile(DEMO_MODEL, user_folder / "models" / "demo.safetensors")
        window.segment.refreshModels(select=readModel(user_folder / "models" / "demo.safetensors").hash)
    ct = slicer.util.loadVolume(str(REAL_CT), {})
    window.ui.inputSelector.setCurrentNode(ct)
    watch, began = Stopwatch(), time.monotonic()
    window.ui.applyButton.click()
    watch.run(lambda: not window.state.busy, 300)
    print(f"\n{window.segment.model().title}: {window.ui.statusLabel.text} {time.monotonic() - began:.0f} s")
    assert window.state is State.Idle, window.ui.logText.toPlainText()
    assert watch.cpu <= 0.1
    segmentation = window.ui.outputSelector.currentNode().GetSegmentation()
    titles = {organ.title: organ for organ in ORGANS.values()}
    assert segmentation.GetNumberOfSegments() > 0
    for index in range(segmentation.GetNumberOfSegments()):
        segment, code = segmentation.GetNthSegment(index), vtk.reference("")
        segment.GetTag("TerminologyEntry", code)
        assert str(code) == titles[segment.GetName()].terminology
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(
            window.ui.outputSelector.currentNode(), segmentation.GetNthSegmentID(index), ct
        )
        assert mask.shape == slicer.util.arrayFromVolume(ct).shape


def test_a_batch_script_needs_no_window(model, launcher):
    load_module(ROOT / "SegVizSlicer" / "SegVizSlicer.py")
    ct = add_ct((24, 64, 64))
    node = sys.modules["SegVizSlicer"].SegVizSlicerLogic().segment(ct, str(model), organs=("liver",))
    assert node.GetSegmentation().GetNthSegment(0).GetName() == "Liver"
    with pytest.raises(RuntimeError, match="stomach"):
        sys.modules["SegVizSlicer"].SegVizSlicerLogic().segment(ct, str(model), organs=("stomach",))
    warmWorker().stop()
    process_events(lambda: not warmWorker().pid, 10)


def test_cancel_half_way_leaves_no_file_and_only_the_idle_worker(window, tmp_path, monkeypatch):
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: str(tmp_path)))
    add_ct((220, 256, 256))
    window.ui.applyButton.click()
    process_events(lambda: window.segment.logic._process.began, 120)
    began = time.monotonic()
    window.ui.applyButton.click()
    process_events(lambda: window.state is State.Idle, 30)
    print(f"\ncancelled after {time.monotonic() - began:.1f} s")
    assert window.ui.statusLabel.text == "Cancelled; nothing was changed."
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
    assert job_folders() == []
    window.cleanup()
    process_events(lambda: not descendants(str(tmp_path)), 10)


def test_export_and_import_of_a_clinical_ct_take_at_most_a_second(model, tmp_path):
    from SegVizSlicerLib.SegmentationLogic import Options, _Reference

    ct = add_ct((128, 512, 512))
    labels = np.zeros((128, 512, 512), np.uint8)
    for value, start in ((1, 40), (2, 160), (3, 280), (4, 400)):
        labels[30:90, start : start + 90, 100:300] = value
    node = slicer.util.addVolumeFromArray(labels, np.diag([-0.8, -1.1, 3, 1.0]), "l", "vtkMRMLLabelMapVolumeNode")
    exportVolume(node, tmp_path / "organs.nrrd")
    slicer.mrmlScene.RemoveNode(node)
    cpu = time.thread_time()
    exportVolume(ct, tmp_path / "ct.nrrd")
    exported = time.thread_time()
    importSegmentation(tmp_path / "organs.nrrd", _Reference(ct), readModel(model), options=Options())
    done = time.thread_time()
    print(f"\n512x512x128: export {exported - cpu:.2f} s, import {done - exported:.2f} s of the GUI thread")
    assert done - cpu <= 1.0


def test_a_full_or_read_only_folder_is_one_sentence(window, tmp_path, monkeypatch):
    monkeypatch.setattr(type(slicer.app), "temporaryPath", property(lambda self: "/proc/no-such-place"))
    add_ct()
    window.ui.applyButton.click()
    assert window.state is State.Failed
    assert window.ui.statusLabel.text == (
        "The temporary folder /proc/no-such-place cannot be written to: choose another one in the application settings."
    )
