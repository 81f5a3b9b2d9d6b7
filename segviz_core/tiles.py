"""A region in pieces where the network needs more memory for it than it may have."""

import math

from segviz_core.errors import InputError
from segviz_core.preprocessing import Box
from segviz_core.region import voxels

MEMORY_MB = 4000.0
"""What a process may take unless the user says otherwise: most computers of a reading room have 8 GB or more."""

PROGRAM_MB = 400.0
"""Python, its packages, the model and what reading a CT leaves behind."""

BYTES_PER_VOXEL, BYTES_PER_HEAD = 40.0, 16.0
"""What one pass takes per network voxel, and per head and voxel: intensities, activations, margins. Measured with
OpenVINO and 4 heads: fp32 89, bf16 85."""

OVERLAP = 48
"""Voxels that a tile sees beyond its own on either side. Of 5.2 M voxels of a phantom in 4 tiles this many got another
label than in one pass: 6,464 with 16, 524 with 32, 39 with 48, 2 with 64; bf16 instead of fp32 changed 5,345."""


def tiles(region: Box, multiple: int, *, heads: int, memory_mb: float, held_mb: float) -> list[tuple[Box, Box]]:
    """What the network sees and the part of it that counts, per piece of `region`; mostly one piece, the region itself.

    The region is cut along its longest axis. Tiles begin at multiples of `multiple` from its start, so that the network
    halves its resolution at the same voxels as in one pass. `held_mb` is what the CT and its labels take.

    Raises:
        InputError: the limit does not even allow the smallest tile.
    """
    sizes = [part.stop - part.start for part in region]
    axis = sizes.index(max(sizes))
    overlap = math.ceil(OVERLAP / multiple) * multiple
    slice_mb = voxels(region) / sizes[axis] * (BYTES_PER_VOXEL + heads * BYTES_PER_HEAD) / 1e6
    longest = int((memory_mb - held_mb - PROGRAM_MB) / slice_mb)
    if longest >= sizes[axis]:
        return [(region, region)]
    core = (longest - 2 * overlap) // multiple * multiple
    if core < multiple:
        needed = math.ceil((held_mb + PROGRAM_MB + (2 * overlap + multiple) * slice_mb) / 100) / 10
        raise InputError(
            f"Expected a memory limit of at least {needed:.1f} GB for this CT, found {memory_mb / 1000:g}.",
            hint="Raise --memory-gb, or use --fast.",
        )
    pieces = math.ceil(sizes[axis] / core)
    core = math.ceil(sizes[axis] / pieces / multiple) * multiple
    start, stop = region[axis].start, region[axis].stop
    return [
        (
            _replaced(region, axis, slice(max(start, first - overlap), min(stop, first + core + overlap))),
            _replaced(region, axis, slice(first, min(stop, first + core))),
        )
        for first in range(start, stop, core)
    ]


def _replaced(box: Box, axis: int, part: slice) -> Box:
    x, y, z = (part if n == axis else box[n] for n in range(3))
    return x, y, z
