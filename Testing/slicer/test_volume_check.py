"""Volumes that cannot be segmented: each refused with one sentence, before any process starts."""

import numpy as np
import pytest
import slicer
import vtk
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import add_ct
from SegVizSlicerLib.VolumeCheck import checkVolume


def volume(array, matrix=None):
    return slicer.util.addVolumeFromArray(np.asarray(array), np.eye(4) if matrix is None else matrix, "V")


def test_a_ct_passes(a_ct):
    assert checkVolume(a_ct).problem == ""
    assert checkVolume(a_ct).warning == ""


def test_a_volume_under_a_transform_is_refused(a_ct):
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    a_ct.SetAndObserveTransformNodeID(transform.GetID())
    assert checkVolume(a_ct).problem == (
        "CT is under a transform: harden it first (Data module, right click, Harden transform)."
    )


def test_a_4d_volume_is_refused():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "V")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_SHORT, 5)
    node.SetAndObserveImageData(image)
    expected = "V has 5 values per voxel: a CT has one. Choose one time point or channel."
    assert checkVolume(node).problem == expected


def test_one_slice_is_refused():
    assert checkVolume(volume(np.ones((1, 8, 8), np.int16))).problem == "V has one slice only: load the whole series."


def test_an_empty_volume_is_refused():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "V")
    assert checkVolume(node).problem == "V has no voxels."


def test_a_tilted_gantry_is_refused(a_ct):
    matrix = np.array([[1, 0, 0.3, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    problem = checkVolume(volume(slicer.util.arrayFromVolume(a_ct).copy(), matrix)).problem
    assert problem == "V has a tilted gantry: resample it first (Resample Scalar Volume module)."


def test_constant_and_non_finite_voxels_are_refused():
    assert checkVolume(volume(np.full((4, 4, 4), 7, np.int16))).problem == "V has the same value in every voxel."
    array = np.random.default_rng(0).normal(0, 300, (4, 4, 4)).astype(np.float32)
    array[0, 0, 0] = np.nan
    assert checkVolume(volume(array)).problem == "V has voxels that are not numbers."


def test_values_outside_hounsfield_units_are_refused():
    array = np.linspace(0, 30_000, 4096, dtype=np.float32).reshape(16, 16, 16)
    problem = checkVolume(volume(array)).problem
    assert problem.startswith("V is not a CT in Hounsfield units: expected values from -2000 to 4000, found 3")


def test_mr_like_intensities_pass_with_a_warning():
    check = checkVolume(volume(np.random.default_rng(0).integers(0, 900, (8, 8, 8)).astype(np.int16)))
    assert check.problem == ""
    expected = "V has no value below -200 HU: a clipped CT, or not a CT. Check the result with care."
    assert check.warning == expected


@pytest.mark.parametrize("dtype", ["int16", "float32", "uint8"])
def test_the_voxels_are_left_as_they_are(dtype):
    node = volume(np.random.default_rng(0).integers(0, 200, (5, 6, 7)).astype(dtype))
    before = slicer.util.arrayFromVolume(node).copy()
    checkVolume(node)
    assert (slicer.util.arrayFromVolume(node) == before).all()


@settings(max_examples=20, deadline=None)
@given(st.floats(-1900, -300), st.floats(100, 3500))
def test_any_range_of_a_real_ct_passes(low, high):
    array = np.linspace(low, high, 512, dtype=np.float32).reshape(8, 8, 8)
    assert checkVolume(volume(array)) == checkVolume(add_ct())
