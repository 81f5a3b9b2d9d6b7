"""The four labelled organs of a phantom and their lesions: sizes in mm, x right, y anterior, z superior.

Sizes are those of a small adult, chosen so that the published network finds the organs about as hard as in real CT
(method.md section 8: acceptance of the generator).
"""

from collections.abc import Mapping

import numpy as np

from segviz_core.experiments.shapes import Ellipsoid, tube
from segviz_core.experiments.structures import Structure, jittered, jittered_course


def draw_organs(rng: np.random.Generator) -> dict[str, list[Structure]]:
    """Structures per organ, in the order of painting, with what belongs to it (gall bladder, renal pelvis)."""
    return {"liver": _liver(rng), "spleen": _spleen(rng), "kidneys": _kidneys(rng), "pancreas": _pancreas(rng)}


def draw_lesions(
    rng: np.random.Generator, organs: Mapping[str, list[Structure]], chance: Mapping[str, float]
) -> dict[str, list[Structure]]:
    """At most one focal lesion per organ, inside its label (method.md section 8, point 5)."""
    return {organ: _lesion(rng, organ, organs[organ], chance[organ]) for organ in organs}


def _liver(rng: np.random.Generator) -> list[Structure]:
    right = jittered(rng, (66, 6, 46), (70, 72, 62))
    left = jittered(rng, (2, 42, 58), (58, 32, 34), 15)
    gall_bladder = jittered(rng, (42, 46, 12), (14, 20, 16))
    return [
        Structure("liver", (right, left), offset_hu=rng.normal() * 9, organ="liver", mottle_hu=5),
        Structure("bile", (gall_bladder,), texture=1),
    ]


def _spleen(rng: np.random.Generator) -> list[Structure]:
    body = jittered(rng, (-88, -30, 44), (27, 42, 45), 20)
    hilum = jittered(rng, (-60, -10, 44), (20, 28, 38), center_mm=5)
    return [Structure("spleen", (body,), (hilum,), offset_hu=rng.normal() * 8, organ="spleen", texture=3, mottle_hu=5)]


def _kidneys(rng: np.random.Generator) -> list[Structure]:
    structures = []
    for side in (1, -1):
        z = -16 + rng.normal() * 10 - (12 if side > 0 else 0)
        body = jittered(rng, (side * 62, -48, z), (25, 23, 48), side * 20, center_mm=6)
        sinus = jittered(rng, (side * 40, -38, z), (13, 13, 18), center_mm=3)
        offset = rng.normal() * 8
        structures += [
            Structure("cortex", (body,), (sinus,), offset, "kidneys", texture=2, mottle_hu=5),
            Structure("medulla", (body.scaled(0.67),), (sinus,), offset, "kidneys", texture=2, mottle_hu=5),
            # Fat, urine or excreted contrast in the renal pelvis.
            Structure("water", (sinus.scaled(0.9),), offset_hu=float(rng.choice([-60, 20, 120])), texture=2),
        ]
    return structures


def _pancreas(rng: np.random.Generator) -> list[Structure]:
    """A thin curved tube from the duodenum to the spleen, with the splenic vein behind it."""
    course = jittered_course(rng, [(38, 12, -22), (30, 22, 0), (0, 32, 12), (-35, 22, 22), (-72, -12, 34)], (7, 6, 8))
    thickness = float(np.exp(rng.normal() * 0.12))
    gland = tube(course, (15 * thickness, 10 * thickness))
    vein = tube(course[1:] - np.array([0, 17, 2]), (5.0, 4.5))
    offset = rng.normal() * 8
    return [
        Structure("vein", vein, texture=4, only_over=""),
        Structure("pancreas", gland, (), offset, "pancreas", "", roughness=0.2, texture=4, mottle_hu=9),
    ]


def _lesion(rng: np.random.Generator, organ: str, parts: list[Structure], chance: float) -> list[Structure]:
    hosts = [part for part in parts if part.organ == organ and part.tissue != "medulla"]
    host = hosts[rng.integers(len(hosts))]
    center = host.shapes[rng.integers(len(host.shapes))].inner_point(rng)
    radius, contrast = rng.uniform(7, 20), float(rng.choice([-70, -45, -30, 25]))
    if rng.random() >= chance:
        return []
    ball = Ellipsoid(center, (radius, radius, radius))
    return [Structure(host.tissue, (ball,), (), host.offset_hu + contrast, organ, only_over=organ, texture=1)]
