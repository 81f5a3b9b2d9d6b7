"""The two things a phantom is made of: ellipsoids and smooth random fields, both defined in mm, free of any grid."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Point = tuple[float, float, float]

_FIELD_HALF_EXTENT_MM = (210.0, 170.0, 170.0)
"""Fields are defined this far from the centre; beyond, the outermost value goes on."""


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid turned about the z axis; an infinite radius makes it a cylinder or all of space.

    `center` and `radii` in mm (x right, y anterior, z superior), `turn` in degrees.
    """

    center: Point
    radii: Point
    turn: float = 0.0

    def level(self, x: Array, y: Array, z: Array) -> Array:
        """Quadratic form at the points (mm): 0 in the centre, 1 on the surface."""
        dx, dy, dz = x - np.float32(self.center[0]), y - np.float32(self.center[1]), z - np.float32(self.center[2])
        if self.turn:
            cos, sin = np.float32(np.cos(np.deg2rad(self.turn))), np.float32(np.sin(np.deg2rad(self.turn)))
            dx, dy = cos * dx + sin * dy, cos * dy - sin * dx
        rx, ry, rz = (np.float32(1 / radius) for radius in self.radii)
        level: Array = (dx * rx) ** 2 + (dy * ry) ** 2 + (dz * rz) ** 2
        return level

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest corner of the box around it, mm."""
        rx, ry, rz = self.radii
        reach = np.array([max(rx, ry), max(rx, ry), rz] if self.turn else [rx, ry, rz])
        return np.array(self.center) - reach, np.array(self.center) + reach

    def scaled(self, factor: float) -> "Ellipsoid":
        """The same ellipsoid with all radii multiplied by `factor`."""
        rx, ry, rz = self.radii
        return replace(self, radii=(rx * factor, ry * factor, rz * factor))

    def inner_point(self, rng: np.random.Generator) -> Point:
        """A random point at most 85 % of the way from the centre to the surface (mm)."""
        direction = rng.normal(size=3)
        u, v, w = direction / np.linalg.norm(direction) * 0.85 * rng.random() ** (1 / 3) * np.array(self.radii)
        cos, sin = np.cos(np.deg2rad(self.turn)), np.sin(np.deg2rad(self.turn))
        x, y, z = self.center
        return float(x + cos * u - sin * v), float(y + sin * u + cos * v), float(z + w)


def tube(points: NDArray[np.float64], radii: Sequence[float], *, step_mm: float = 4.0) -> tuple[Ellipsoid, ...]:
    """Balls along the smooth curve through `points` (mm); their radius (mm) runs through `radii` along the way."""
    path = points
    padded = np.concatenate([2 * path[:1] - path[1:2], path, 2 * path[-1:] - path[-2:-1]])
    length = float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())
    balls = []
    for t in np.linspace(0, len(path) - 1, max(2, int(np.ceil(length / step_mm)) + 1)):
        segment = min(int(t), len(path) - 2)
        a, b, c, d = padded[segment : segment + 4]
        s = t - segment
        # Catmull-Rom: the curve meets every control point and bends smoothly between them.
        x, y, z = 0.5 * (2 * b + (c - a) * s + (2 * a - 5 * b + 4 * c - d) * s**2 + (3 * b - a - 3 * c + d) * s**3)
        radius = float(np.interp(t / (len(path) - 1), np.linspace(0, 1, len(radii)), radii))
        balls.append(Ellipsoid((float(x), float(y), float(z)), (radius, radius, radius)))
    return tuple(balls)


@dataclass(frozen=True)
class SmoothField:
    """A random function of space with mean 0 and SD 1 that changes over about `cell_mm`: a cubic B-spline."""

    coefficients: Array
    cell_mm: float

    @classmethod
    def draw(cls, rng: np.random.Generator, cell_mm: float) -> "SmoothField":
        """A field whose control points lie `cell_mm` apart."""
        shape = tuple(int(np.ceil(2 * extent / cell_mm)) + 4 for extent in _FIELD_HALF_EXTENT_MM)
        return cls(rng.standard_normal(shape, dtype=np.float32), cell_mm)

    def sample(self, axes: Sequence[NDArray[np.float64]]) -> Array:
        """Values on the grid spanned by three coordinate axes (mm): float32 (len(x), len(y), len(z)).

        Sums of four products per axis instead of a matrix product, whose last bits depend on the number of threads.
        """
        values = self.coefficients
        for axis, (coordinates, half_extent) in enumerate(zip(axes, _FIELD_HALF_EXTENT_MM, strict=True)):
            position = (np.clip(coordinates, -half_extent, half_extent) + half_extent) / self.cell_mm
            first = np.floor(position).astype(int)
            weights = _b_spline_weights(position - first).astype(np.float32)
            broadcast = [1, 1, 1]
            broadcast[axis] = len(coordinates)
            total = np.zeros((), np.float32)
            for k in range(4):
                total = total + np.take(values, first + k, axis=axis) * weights[k].reshape(broadcast)
            values = total
        return values


def _b_spline_weights(t: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3])
    # Divided by the root mean square over one cell, so that independent coefficients of SD 1 give values of SD 1.
    normalised: NDArray[np.float64] = weights / np.sqrt(604 / 35)
    return normalised
