"""CTs to try the module with: an artificial one made on the spot, and Slicer's own CTLiver."""

from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

SHAPE = (64, 160, 192)  # slices, rows, columns
SPACING_MM = (2.0, 2.0, 4.0)  # i, j, k

_ORGANS = (  # centre and half axes (i, j, k) in mm from the middle of the body, HU; left of the image = patient's right
    ("liver", (-62, -14, 30), (70, 62, 62), 105),
    ("spleen", (88, 28, 40), (28, 38, 44), 115),
    ("right kidney", (-58, 52, -38), (24, 24, 52), 160),
    ("left kidney", (58, 52, -30), (24, 24, 52), 160),
    ("pancreas", (18, -14, -4), (58, 13, 14), 90),
    ("vertebrae", (0, 72, 0), (24, 22, 200), 320),
    ("aorta", (14, 40, 0), (11, 11, 200), 180),
)


def makePhantom() -> Any:
    """A rough abdomen from ellipsoids with noise, as a new volume: for trying out, no measure of quality."""
    k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in SHAPE), indexing="ij", sparse=True)
    x, y, z = ((a - (n - 1) / 2) * mm for a, n, mm in zip((i, j, k), SHAPE[::-1], SPACING_MM, strict=True))
    hu = np.full(SHAPE, -1000, np.float32)
    hu[np.broadcast_to((x / 170) ** 2 + (y / 118) ** 2 < 1, SHAPE)] = -95
    hu[np.broadcast_to((x / 152) ** 2 + (y / 102) ** 2 < 1, SHAPE)] = 45
    hu[np.broadcast_to((x / 138) ** 2 + ((y + 6) / 86) ** 2 < 1, SHAPE)] = -70
    for _name, (cx, cy, cz), (rx, ry, rz), value in _ORGANS:
        hu[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1] = value
    hu += np.random.default_rng(0).normal(0, 12, SHAPE).astype(np.float32)
    matrix = np.diag([-SPACING_MM[0], -SPACING_MM[1], SPACING_MM[2], 1.0])
    matrix[:3, 3] = [SHAPE[2] * SPACING_MM[0] / 2, SHAPE[1] * SPACING_MM[1] / 2, -SHAPE[0] * SPACING_MM[2] / 2]
    node = slicer.util.addVolumeFromArray(hu.astype(np.int16), matrix, _("Artificial CT"), "vtkMRMLScalarVolumeNode")
    node.CreateDefaultDisplayNodes()
    node.GetDisplayNode().SetAutoWindowLevel(False)
    node.GetDisplayNode().SetWindowLevel(400, 40)
    return node


def download() -> Any:
    """Slicer's sample CTLiver (a training case of the Medical Segmentation Decathlon): for demonstration only.

    Raises:
        RuntimeError: no network, or this Slicer has no sample data.
    """
    try:
        import SampleData

        return SampleData.downloadSample("CTLiver")
    except Exception as error:
        raise RuntimeError(_("CTLiver could not be downloaded: {error}").format(error=error)) from error


def registerSampleData() -> None:
    """Offer the artificial CT in the Sample Data module; it is made on the spot, nothing is downloaded."""
    import SampleData

    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="SegViz", sampleName="SegVizArtificialCT", customDownloader=lambda source: makePhantom()
    )
