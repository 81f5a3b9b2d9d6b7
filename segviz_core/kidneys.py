"""Left and right kidney from one kidney mask: the model has one class for both."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segviz_core.labels import ORGANS, SPLIT_KIDNEYS
from segviz_core.volumes import Volume

FUSED_SHARE = 0.25
"""A component with at least this share of its voxels on either side of the midline is fused: horseshoe or touching."""

_BODY_STEP = 4  # every 4th voxel along each axis tells where the body is


def split_kidneys(labels: NDArray[np.uint8], ct: Volume, *, window_hu: tuple[float, float]) -> NDArray[np.uint8]:
    """`labels` (I, J, K) with left (5) and right kidney (6) in place of kidneys (3).

    Each connected component goes to the side of the body's midline where most of it lies; a fused one is cut at the
    midline. Sides are those of the patient, by the affine of `ct`: left is at smaller R.
    """
    kidneys = (labels == ORGANS["kidneys"].value).view(np.uint8)
    boxes = ndimage.find_objects(kidneys)
    if not boxes:
        return labels
    box = boxes[0]
    components, _ = ndimage.label(kidneys[box], structure=np.ones((3, 3, 3)))
    on_right = _r_coordinates(box, ct) > _midline(ct, window_hu)
    sizes = np.bincount(components.ravel())
    share = np.bincount(components[on_right], minlength=sizes.size) / np.maximum(sizes, 1)
    fused = np.minimum(share, 1 - share) >= FUSED_SHARE
    right = np.where(fused[components], on_right, (share > 0.5)[components])
    result = labels.copy()
    left_value, right_value = (organ.value for organ in SPLIT_KIDNEYS)
    result[box][components > 0] = np.where(right, right_value, left_value)[components > 0]
    return result


def _r_coordinates(box: tuple[slice, ...], ct: Volume) -> NDArray[np.float64]:
    """R (mm) of every voxel of `box`."""
    i, j, k = np.ogrid[box]
    return np.asarray(ct.affine[0, 0] * i + ct.affine[0, 1] * j + ct.affine[0, 2] * k + ct.affine[0, 3])


def _midline(ct: Volume, window_hu: tuple[float, float]) -> float:
    """Mean R (mm) of the body: a clipped CT has nothing below the window, so air ends there at the latest."""
    body = ct.voxels[::_BODY_STEP, ::_BODY_STEP, ::_BODY_STEP] > max(-400.0, window_hu[0] + 5)
    if not body.any():
        body = np.ones_like(body)
    index = [float(axis.mean()) * _BODY_STEP for axis in np.nonzero(body)]
    return float(ct.affine[0, :3] @ index + ct.affine[0, 3])
