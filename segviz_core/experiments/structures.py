"""What a phantom is painted from: structures of one tissue, and the jitter that makes patients differ."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from segviz_core.experiments.shapes import Ellipsoid, Point

TEXTURES = 6
"""Number of texture fields of a patient: structures are rough and mottled by them."""

MOTTLE_TEXTURE = TEXTURES - 1
"""The texture that mottles the HU of organs."""

INFINITE = float("inf")
EVERYWHERE = Ellipsoid((0, 0, 0), (INFINITE, INFINITE, INFINITE))


@dataclass(frozen=True)
class Structure:
    """Something with a shape (union of `shapes` minus those of `without`) and a tissue; later ones cover earlier ones.

    `offset_hu` is added to the scanner's HU of `tissue`. `organ` is the label it gets. `only_over` limits it to voxels
    of that organ, or with "" to voxels of none. The surface is roughened by `roughness` (in level units, 0.1 = 5 % of
    the radius) x texture number `texture`, the HU inside by `mottle_hu`.
    """

    tissue: str
    shapes: tuple[Ellipsoid, ...]
    without: tuple[Ellipsoid, ...] = ()
    offset_hu: float = 0.0
    organ: str | None = None
    only_over: str | None = None
    roughness: float = 0.1
    texture: int = 0
    mottle_hu: float = 0.0


def jittered(
    rng: np.random.Generator, center: Point, radii: Point, turn: float = 0, *, center_mm: float = 7, axes: float = 0.1
) -> Ellipsoid:
    """An ellipsoid moved by `center_mm`, stretched by `axes` (as a fraction) and turned by 9 degrees (all SD)."""
    x, y, z = np.array(center) + rng.normal(size=3) * center_mm
    rx, ry, rz = np.array(radii) * np.exp(rng.normal(size=3) * axes)
    return Ellipsoid((float(x), float(y), float(z)), (float(rx), float(ry), float(rz)), turn + float(rng.normal() * 9))


def jittered_course(rng: np.random.Generator, points: Sequence[Point], sd_mm: Point | float) -> NDArray[np.float64]:
    """The control points of a tube, each moved by `sd_mm` (one value, or one per axis)."""
    course: NDArray[np.float64] = np.array(points, float) + rng.normal(size=(len(points), 3)) * sd_mm
    return course
