"""A synthetic patient: the abdomen as a list of structures in mm, drawn once and painted on any grid."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from segviz_core.experiments.organs import draw_lesions, draw_organs
from segviz_core.experiments.shapes import Point, SmoothField
from segviz_core.experiments.structures import TEXTURES, Structure
from segviz_core.experiments.surroundings import draw_frame, draw_viscera

_ENHANCING = frozenset({"liver", "spleen", "cortex", "medulla", "pancreas", "bowel wall", "aorta", "vein"})
_DEFORMATION_MM = 5.5
"""SD of the deformation: the pilot moved control points by 7 mm, which bends the space between by this much."""

_DEFORMATION_CELL_MM, _TEXTURE_CELL_MM = 90.0, 28.0


@dataclass(frozen=True)
class Patient:
    """Structures in the order of painting, and how this body differs from the standard one.

    A point X of the scanner (mm) lies at X / `scale` + `deformation_mm` x deformation(X) - (0, 0, `shift_z_mm`) of the
    standard body.
    """

    structures: tuple[Structure, ...]
    scale: Point
    shift_z_mm: float
    deformation: tuple[SmoothField, SmoothField, SmoothField]
    deformation_mm: float
    textures: tuple[SmoothField, ...]


def draw_patient(
    rng: np.random.Generator, *, lesion_chance: Mapping[str, float], missing: Collection[str] = ()
) -> Patient:
    """Draw a patient with the jitter of method.md section 8, point 3.

    Organs in `missing` have been removed; everything else about the patient is the same with and without them.
    """
    organs = draw_organs(rng)
    lesions = draw_lesions(rng, organs, lesion_chance)
    present = [s for part in (organs, lesions) for organ in part if organ not in missing for s in part[organ]]
    structures = [*draw_viscera(rng), *present, *draw_frame(rng)]
    timing_hu = rng.normal() * 8
    x, y, z = rng.uniform(0.88, 1.12, 3)
    bends = [SmoothField.draw(rng, _DEFORMATION_CELL_MM) for _ in range(3)]
    return Patient(
        structures=tuple(
            replace(s, offset_hu=s.offset_hu + timing_hu) if s.tissue in _ENHANCING else s for s in structures
        ),
        scale=(float(x), float(y), float(z)),
        shift_z_mm=float(rng.normal() * 12),
        deformation=(bends[0], bends[1], bends[2]),
        deformation_mm=_DEFORMATION_MM,
        textures=tuple(SmoothField.draw(rng, _TEXTURE_CELL_MM) for _ in range(TEXTURES)),
    )
