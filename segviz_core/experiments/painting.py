"""Put a patient on a voxel grid: structures in mm -> ideal HU and organ labels."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segviz_core.experiments.patients import Patient
from segviz_core.experiments.shapes import Array, Ellipsoid
from segviz_core.experiments.structures import MOTTLE_TEXTURE, Structure
from segviz_core.labels import ORGANS

_HIGHEST_TEXTURE = 4.0
"""Textures have SD 1; beyond this many a roughened surface would leave its box."""

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Grid:
    """Voxels along x (right), y (anterior), z (superior) and their spacing, centred on the patient's abdomen."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def axes(self) -> tuple[NDArray[np.float64], ...]:
        """Coordinates of the voxel centres in mm, one array per axis."""
        sizes = zip(self.shape, self.spacing_mm, strict=True)
        return tuple((np.arange(n, dtype=np.float64) - (n - 1) / 2) * spacing for n, spacing in sizes)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in ml."""
        return float(np.prod(self.spacing_mm)) / 1000


def paint(patient: Patient, grid: Grid, hu_of: Callable[[str], float]) -> tuple[Array, NDArray[np.uint8]]:
    """Ideal HU (float32) and organ labels (uint8, values of labels.py) on `grid`; `hu_of` gives the HU of a tissue."""
    canvas = _Canvas(patient, grid)
    hu, labels = np.zeros(grid.shape, np.float32), np.zeros(grid.shape, np.uint8)
    for structure in patient.structures:
        box, inside = canvas.inside(structure)
        if structure.only_over is not None:
            inside &= labels[box] == _value(structure.only_over)
        tissue_hu = np.float32(hu_of(structure.tissue) + structure.offset_hu)
        mottle = np.float32(structure.mottle_hu) * canvas.textures[MOTTLE_TEXTURE][box] if structure.mottle_hu else 0
        np.copyto(hu[box], tissue_hu + mottle, where=inside)
        labels[box][inside] = _value(structure.organ)
    return hu, labels


def _value(organ: str | None) -> int:
    return ORGANS[organ].value if organ else 0


class _Canvas:
    """The grid seen from the patient: standard-body coordinates and textures of every voxel."""

    def __init__(self, patient: Patient, grid: Grid) -> None:
        self.axes, self.scale = grid.axes, np.array(patient.scale)
        self.shift = np.array([0, 0, patient.shift_z_mm])
        bends = [f.sample(self.axes) * np.float32(patient.deformation_mm) for f in patient.deformation]
        self.reach = max(float(np.abs(bend).max()) for bend in bends)
        for i, bend in enumerate(bends):
            along = self.axes[i] / self.scale[i] - self.shift[i]
            bend += along.astype(np.float32).reshape([-1 if axis == i else 1 for axis in range(3)])
        self.coordinates = bends
        self.textures = [texture.sample(self.axes) for texture in patient.textures]

    def inside(self, structure: Structure) -> tuple[Box, NDArray[np.bool_]]:
        """A box around `structure` and which voxels of that box lie in it."""
        whole = np.zeros([len(axis) for axis in self.axes], bool)
        for shape in structure.shapes:
            own = self._box((shape,), structure.roughness)
            whole[own] |= self._in_shape(shape, structure, own)
        box = self._box(structure.shapes, structure.roughness)
        for shape in structure.without:
            whole[box] &= ~self._in_shape(shape, structure, box)
        return box, whole[box]

    def _box(self, shapes: tuple[Ellipsoid, ...], roughness: float) -> Box:
        """Index range that surely holds `shapes`: every voxel lies within `reach` of its undeformed place."""
        grown = [shape.scaled(np.sqrt(1 + roughness * _HIGHEST_TEXTURE)).bounds() for shape in shapes]
        low = self.scale * (np.min([low for low, _ in grown], axis=0) - self.reach + self.shift)
        high = self.scale * (np.max([high for _, high in grown], axis=0) + self.reach + self.shift)
        x, y, z = (
            slice(int(np.searchsorted(axis, a)), int(np.searchsorted(axis, b, side="right")))
            for axis, a, b in zip(self.axes, low, high, strict=True)
        )
        return x, y, z

    def _in_shape(self, shape: Ellipsoid, structure: Structure, box: Box) -> NDArray[np.bool_]:
        if all(np.isinf(shape.radii)):
            return np.ones([s.stop - s.start for s in box], bool)
        level = shape.level(*(c[box] for c in self.coordinates))
        if structure.roughness:
            level += np.float32(structure.roughness) * self.textures[structure.texture][box]
        return level < 1
