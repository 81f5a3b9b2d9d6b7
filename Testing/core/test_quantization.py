"""Quantization: int8 ranges measured on CTs, stored with the model, accepted only at their Dice."""

import json

import nibabel
import numpy as np
import pytest
from random_model import random_ct, random_model

from segviz_core.__main__ import main
from segviz_core.errors import InputError
from segviz_core.inference import segment
from segviz_core.meta_model import INT8_DICE, MetaModel, activations
from segviz_core.model_header import file_hash, read_header
from segviz_core.quantization import quantize


def site_folder(path, volumes):
    for kind in ("images", "labels"):
        (path / kind).mkdir(parents=True)
    for i, volume in enumerate(volumes):
        nibabel.save(nibabel.Nifti1Image(volume.voxels, volume.affine), path / "images" / f"case{i}.nii.gz")
        empty = nibabel.Nifti1Image(np.zeros_like(volume.voxels, np.uint8), volume.affine)
        nibabel.save(empty, path / "labels" / f"case{i}.nii.gz")
    return path


@pytest.mark.parametrize("head_stages", [1, 2])
def test_export_adds_ranges_and_their_dice_and_changes_nothing_else(tmp_path, capsys, head_stages):
    pytest.importorskip("nncf")
    model = random_model(head_stages=head_stages)
    model.save(tmp_path / "model.safetensors")
    cases = site_folder(tmp_path / "site", [random_ct(), random_ct(seed=1)])
    out = tmp_path / "int8.safetensors"
    assert main(["--json", "export", str(tmp_path / "model.safetensors"), str(out), "--cases", str(cases)]) == 0
    *_, result = (json.loads(line) for line in capsys.readouterr().out.splitlines())

    exported = MetaModel.load(out)
    assert exported.quantization.ranges.keys() == activations(model.weights)
    assert exported.quantization.cases == 2
    assert result["model_hash"] == exported.hash == file_hash(out) != model.hash
    assert result["dice_to_fp32"] == exported.quantization.dice
    assert result["accepted"] == (min(exported.quantization.dice.values()) >= INT8_DICE)
    assert read_header(out)["provenance"] == model.provenance

    exact, rounded = (segment(exported, random_ct(), device="cpu", precision=name) for name in ("fp32", "int8"))
    assert rounded.precision == "int8"
    assert np.mean(exact.labels == rounded.labels) > 0.95


def test_cts_without_a_patient_are_refused(tmp_path):
    air = random_ct()
    air.voxels[:] = np.resize([-1000, -990], air.voxels.shape)
    images = sorted((site_folder(tmp_path / "site", [air]) / "images").iterdir())
    with pytest.raises(InputError, match=r"None of the CTs shows more than air\. Choose CTs of patients"):
        quantize(random_model(), images)
