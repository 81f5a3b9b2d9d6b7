"""A miniature of the folder btcv18: four sites, two CTs each, two test folds."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from segviz_core.experiments.plan import ORDER

SHAPE = (16, 14, 12)
VALUES = {"liver": 6, "spleen": 1, "kidneys": 2, "pancreas": 11, "aorta": 8}


def write_case(image: Path, label: Path, values: dict[str, int], *, seed: int = 0) -> None:
    """A CT with a slab per organ, in the order of `values`."""
    labels = np.zeros(SHAPE, np.uint8)
    for i, value in enumerate(values.values()):
        labels[3 * i : 3 * i + 2, 4:10, 3:9] = value
    hu = np.random.default_rng(seed).integers(-100, 200, SHAPE).astype(np.int16)
    for path, voxels in ((image, hu), (label, labels)):
        path.parent.mkdir(parents=True, exist_ok=True)
        nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8.0, 8.0, 1.0])), path)


def site_names() -> dict[str, list[str]]:
    """The numbers of every site's cases."""
    return {organ: [f"00{10 * i + k}" for k in range(10, 12)] for i, organ in enumerate(ORDER)}


def write_btcv18(folder: Path) -> Path:
    """Write the images, labels and sites.json; gives `folder`."""
    sites = site_names()
    for name in (name for names in sites.values() for name in names):
        image, label = folder / "img" / f"img{name}.nii.gz", folder / "label" / f"label{name}.nii.gz"
        write_case(image, label, VALUES, seed=int(name))
    folds = {fold: [names[k] for names in sites.values()] for k, fold in enumerate("AB")}
    values = {organ: [value] for organ, value in VALUES.items()}
    (folder / "sites.json").write_text(json.dumps({"sites": sites, "label_values": values, "test_folds": folds}))
    return folder
