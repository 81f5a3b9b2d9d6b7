"""The CTs that the benchmarks segment: phantoms, made once and kept beside the model of `make bench-model`."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
from model import PHANTOMS

from segviz_core.experiments.phantoms import TEST_SITE, make_phantom
from segviz_core.experiments.profiles import PROFILES
from segviz_core.volumes import write_labels

PLANE, PIXEL_MM, LENGTH_MM = (512, 512), 0.76, 384.0
"""A clinical abdomen: 512 x 512 pixels of .76 mm; 128 slices of 3 mm in the main comparison (performance.md)."""

WHOLE_BODY_SLICES, WHOLE_BODY_MM = 1000, 1.5


def abdomen(folder: Path, slices: int) -> Path:
    """A CT of 512 x 512 x `slices`: the same patient at any distance of slices; 1000 slices are a whole body."""
    file = folder / f"ct_512x512x{slices}.nii.gz"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        body = slices == WHOLE_BODY_SLICES
        spacing = WHOLE_BODY_MM if body else LENGTH_MM / slices
        made = round(LENGTH_MM / spacing)
        coarse = min(made, 128)  # painting 134 million voxels would take minutes and tens of gigabytes
        profile = replace(
            PROFILES["small"], shape=(*PLANE, coarse), spacing_mm=(PIXEL_MM, PIXEL_MM, LENGTH_MM / coarse)
        )
        ct, _ = make_phantom(TEST_SITE, 0, profile=profile)
        rows = np.arange(made) * coarse // made
        if body:  # the abdomen in a long body: above and below it goes on as it ends
            rows = np.pad(rows, ((slices - made) // 2, slices - made - (slices - made) // 2), mode="edge")
        affine = np.diag([PIXEL_MM, PIXEL_MM, spacing, 1.0])
        affine[:3, 3] = ct.affine[:3, 3]
        nib.save(nib.Nifti1Image(ct.voxels[:, :, rows], affine), file)
    return file


def dice_case(folder: Path, index: int) -> tuple[Path, Path]:
    """CT and labels of phantom `index` of the scanner that the model never saw, on a grid of 1.5 mm."""
    image, truth = folder / f"phantom_{index:02d}.nii.gz", folder / f"phantom_{index:02d}_labels.nii.gz"
    if not (image.exists() and truth.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        ct, labels = make_phantom(TEST_SITE, index, profile=PHANTOMS)
        write_labels(truth, labels, like=ct)
        nib.save(nib.Nifti1Image(ct.voxels, ct.affine), image)
    return image, truth
