"""From a CT in the scene to named, coloured, coded segments, and every reason why not."""

import numpy as np
import pytest
import slicer
import vtk
from scenes import OBLIQUE, FakeProcess, FakeWorker, add_ct, make_window, write_model
from SegVizSlicerLib.Models import readModel
from SegVizSlicerLib.Parameters import Device
from SegVizSlicerLib.SegmentationLogic import (
    Options,
    SegmentationLogic,
    segmentArguments,
    segmentationProblem,
)
from SegVizSlicerLib.State import State

from segviz_core.labels import ORGANS, SPLIT_KIDNEYS

CODES = {"Liver": "10200004", "Spleen": "78961009", "Kidneys": "64033007", "Pancreas": "15776009"}


@pytest.fixture
def window(user_folder):
    write_model(user_folder / "models" / "meta_model.safetensors")
    return make_window(user_folder)


def labels_like(ct, *values):
    """A block of 4 x 6 x 5 voxels per label value."""
    labels = np.zeros(slicer.util.arrayFromVolume(ct).shape, np.uint8)
    for index, value in enumerate(values):
        labels[4:8, 8 + 7 * index : 14 + 7 * index, 10:15] = value
    return labels


def segments(node):
    segmentation = node.GetSegmentation()
    found = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    return {segment.GetName(): segment for segment in found}


def tag(segment, name):
    value = vtk.reference("")
    segment.GetTag(name, value)
    return str(value)


def apply(window, *values):
    window.ui.applyButton.click()
    FakeProcess.started[-1].finish(labels_like(window.ui.inputSelector.currentNode(), *values))
    return window.ui.outputSelector.currentNode()


def test_the_first_ct_of_the_scene_is_chosen_and_apply_is_ready(window, a_ct):
    assert window.ui.inputSelector.currentNode() is a_ct
    assert window.ui.applyButton.enabled
    assert window.ui.applyButton.toolTip == "Segment the CT."


def test_apply_makes_one_segment_per_organ_with_names_colours_and_codes(window, a_ct):
    node = apply(window, 1, 2, 3, 4)
    found = segments(node)
    assert list(found) == ["Liver", "Spleen", "Kidneys", "Pancreas"]
    for organ in ORGANS.values():
        segment = found[organ.title]
        assert np.allclose(np.array(segment.GetColor()) * 255, organ.color, atol=0.5)
        assert tag(segment, slicer.vtkSegment.GetTerminologyEntryTagName()) == organ.terminology
        assert CODES[organ.title] in organ.terminology
        assert tag(segment, "DICOM.SegmentAlgorithmType") == "AUTOMATIC"
        assert tag(segment, "DICOM.SegmentAlgorithmName") == f"SegViz 1.0 {window.segment.model().hash[:6]}"


def test_the_result_lies_on_the_grid_of_an_oblique_ct(window):
    ct = add_ct(matrix=OBLIQUE)
    labels = labels_like(ct, 1)
    node = apply(window, 1)
    assert node.GetNodeReference(node.GetReferenceImageGeometryReferenceRole()) is ct
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0), ct)
    assert ((mask > 0) == (labels == 1)).all()


def test_volumes_are_in_ml_and_an_absent_organ_is_not_found(window, a_ct):
    apply(window, 1, 3)
    table = window.ui.volumesTable
    rows = {table.item(row, 0).text(): table.item(row, 1).text() for row in range(table.rowCount)}
    ml = 4 * 6 * 5 * 0.8 * 1.1 * 3.0 / 1000
    assert rows == {"Liver": f"{ml:.1f}", "Kidneys": f"{ml:.1f}", "Spleen": "not found", "Pancreas": "not found"}
    assert window.ui.statusLabel.text == "2 organs found. Not found: Spleen, Pancreas."
    assert window.state is State.Idle


def test_the_segmentation_stands_beside_its_ct_and_knows_its_model(window, a_ct):
    hierarchy = slicer.mrmlScene.GetSubjectHierarchyNode()
    folder = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
    hierarchy.CreateItem(folder, a_ct)
    node = apply(window, 1)
    if hierarchy.GetItemByDataNode(node):
        assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == folder
    assert node.GetAttribute("SegViz.modelHash") == window.segment.model().hash
    assert node.GetAttribute("SegViz.model") == "meta_model"


def test_nothing_is_left_behind_but_the_segmentation(window, a_ct):
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode")
    apply(window, 1)
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLVolumeNode") == before
    assert not FakeProcess.started[-1].folder.exists()
    assert a_ct.GetStorageNode() is None


def test_a_second_apply_replaces_the_segments_of_the_chosen_output(window, a_ct):
    node = apply(window, 1, 2)
    assert apply(window, 4) is node
    assert list(segments(node)) == ["Pancreas"]


def test_split_kidneys_are_left_and_right(window, a_ct):
    window.ui.splitKidneysCheckBox.checked = True
    found = segments(apply(window, 1, 5, 6))
    assert list(found) == ["Liver", "Left kidney", "Right kidney"]
    for side in SPLIT_KIDNEYS:
        assert tag(found[side.title], slicer.vtkSegment.GetTerminologyEntryTagName()) == side.terminology
    assert "--split-kidneys" in FakeProcess.started[-1].arguments


@pytest.mark.parametrize("suffix", [".seg.nrrd", ".mrb"])
def test_names_codes_and_colours_survive_save_and_reload(window, a_ct, tmp_path, suffix):
    node = apply(window, 1, 2)
    expected = {name: (tag(s, "TerminologyEntry"), s.GetColor()) for name, s in segments(node).items()}
    path = str(tmp_path / f"organs{suffix}")
    if suffix == ".mrb":
        assert slicer.util.saveScene(path, {})
        slicer.mrmlScene.Clear(0)
        slicer.util.loadScene(path, {})
        node = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode")
    else:
        assert slicer.util.saveNode(node, path, {})
        node = slicer.util.loadSegmentation(path, {})
    found = {name: (tag(s, "TerminologyEntry"), s.GetColor()) for name, s in segments(node).items()}
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name][0] == expected[name][0]
        assert np.allclose(found[name][1], expected[name][1], atol=1e-5)


def test_the_command_line_says_what_was_chosen(user_folder, a_ct):
    model = readModel(write_model(user_folder / "m.safetensors"))
    options = Options(organs=("liver", "pancreas"), fast=True, device="cuda")
    arguments = segmentArguments(user_folder, model, options)
    assert arguments[:3] == ["segment", str(user_folder / "ct.nrrd"), str(user_folder / "organs.nrrd")]
    assert arguments[arguments.index("--organs") + 1] == "liver,pancreas"
    assert "--fast" in arguments
    assert arguments[arguments.index("--device") + 1] == "cuda"


class TestWhyNotApply:
    def test_without_a_ct(self, window):
        assert not window.ui.applyButton.enabled
        assert window.ui.applyButton.toolTip == "Select an input CT volume."

    def test_without_a_model(self, user_folder, a_ct):
        window = make_window(user_folder)
        assert window.ui.applyButton.toolTip == "Select or import a model."
        assert not window.ui.applyButton.enabled

    def test_without_an_organ(self, window, a_ct):
        for organ in ORGANS:
            getattr(window.ui, f"{organ}CheckBox").checked = False
        assert window.ui.applyButton.toolTip == "Select at least one organ."
        assert not window.ui.applyButton.enabled

    def test_while_a_site_trains_on_the_gpu(self, window, a_ct, monkeypatch):
        monkeypatch.setattr(window.federation, "gpuBusy", lambda: True)
        window.updateGUI()
        assert window.ui.applyButton.toolTip == (
            "The GPU is busy; it will be free within a minute. Or choose the device Processor (CPU) under Advanced."
        )
        window.parameters.device = Device.cpu
        window.updateGUI()
        assert window.ui.applyButton.enabled

    def test_the_first_reason_comes_first(self, user_folder):
        assert make_window(user_folder).ui.applyButton.toolTip == "Select an input CT volume."


class TestRunning:
    def test_apply_turns_into_cancel_and_back(self, window, a_ct):
        window.ui.applyButton.click()
        assert window.ui.applyButton.text == "Cancel"
        assert not window.ui.inputSelector.enabled
        window.ui.applyButton.click()
        assert window.ui.applyButton.text == "Apply"
        assert window.ui.statusLabel.text == "Cancelled; nothing was changed."
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 0
        assert not FakeProcess.started[0].folder.exists()

    def test_progress_is_told_in_words_and_the_bar_never_goes_back(self, window, a_ct):
        window.ui.applyButton.click()
        process, values = FakeProcess.started[0], []
        words = {
            ("prepare", 0, 1): "Preparing the CT",
            ("network", 2, 4): "Finding the organs: part 3 of 4",
            ("network", 4, 4): "Finding the organs: part 4 of 4",
            ("network \N{MIDDLE DOT} the whole body", 0, 1): "Finding the organs (once more, in the whole body)",
            ("restore", 1, 2): "Back to the grid of the CT: part 2 of 2",
        }
        for event, text in words.items():
            process.onProgress(*event)
            values.append(window.ui.progressBar.value)
            assert window.ui.statusLabel.text == text
        assert values == sorted(values)
        assert 50 < values[1] < values[2] == values[3] < values[4]
        assert window.state is State.Running

    def test_a_second_ct_is_refused_with_the_reason(self, window, a_ct):
        window.ui.applyButton.click()
        with pytest.raises(ValueError, match="One CT is being segmented already: wait for it or cancel it"):
            window.segment.logic.start(
                add_ct(name="other"), window.segment.model(), options=Options(), onFinished=print
            )
        assert len(FakeProcess.started) == 1

    def test_a_failure_is_said_and_opens_the_log(self, window, a_ct):
        window.ui.applyButton.click()
        FakeProcess.started[0].fail("There is not enough memory.", "Close other programs, or segment with --fast.")
        assert window.state is State.Failed
        assert window.ui.statusLabel.text.startswith("There is not enough memory. Close other programs")
        assert "There is not enough memory." in window.ui.logText.toPlainText()
        assert not window.ui.logSection.collapsed
        assert window.ui.applyButton.enabled

    def test_a_job_survives_the_deletion_of_its_nodes(self, window, a_ct):
        window.ui.applyButton.click()
        labels = labels_like(a_ct, 1)
        slicer.mrmlScene.RemoveNode(a_ct)
        FakeProcess.started[0].finish(labels)
        assert window.state is State.Idle
        assert list(segments(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))) == ["Liver"]

    def test_a_result_on_another_grid_is_refused(self, window, a_ct):
        window.ui.applyButton.click()
        FakeProcess.started[0].finish(np.ones((3, 4, 5), np.uint8))
        assert window.state is State.Failed
        assert window.ui.statusLabel.text == "The result does not lie on the grid of the CT: please report this."
        assert not FakeProcess.started[0].folder.exists()
        assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == 0

    def test_a_declined_installation_is_said(self, user_folder, a_ct):
        class Declined:
            flwrFolder = user_folder

            def ensureSegment(self, device):
                raise RuntimeError("OpenVINO was not installed: segmenting needs it.")

            def missingSegment(self):
                return ["openvino"]

            def missingFederation(self):
                return []

            def flwrVersion(self):
                return ""

        write_model(user_folder / "models" / "m.safetensors")
        window = make_window(user_folder, dependencies=Declined())
        window.ui.applyButton.click()
        assert window.state is State.Failed
        assert window.ui.statusLabel.text == "OpenVINO was not installed: segmenting needs it."


def test_dicom_seg_needs_a_ct_from_dicom(window, a_ct):
    node = apply(window, 1)
    assert segmentationProblem(node) == "CT was not loaded from DICOM: DICOM SEG needs its series."
    a_ct.SetAttribute("DICOM.instanceUIDs", "1.2.3")
    assert segmentationProblem(node) == ""


def test_a_script_gets_the_node_without_a_window(user_folder, a_ct):
    class Immediate(FakeProcess):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.finish(labels_like(a_ct, 1, 4))

    model = readModel(write_model(user_folder / "m.safetensors"))
    node = SegmentationLogic(FakeWorker(Immediate)).segment(a_ct, model)
    assert list(segments(node)) == ["Liver", "Pancreas"]
