"""Everything of a phantom that has no label: the confounders between the organs, chest, wall and skeleton.

Sizes in mm, x right, y anterior, z superior. Many tissues share the organs' HU on purpose (method.md section 8,
point 2).
"""

import numpy as np

from segviz_core.experiments.shapes import Ellipsoid, tube
from segviz_core.experiments.structures import EVERYWHERE, INFINITE, TEXTURES, Structure, jittered, jittered_course

_CAVITY = Ellipsoid((0, 0, 0), (118, 82, INFINITE))
_WALL = Ellipsoid((0, -3, 0), (128, 94, INFINITE))


def draw_viscera(rng: np.random.Generator) -> list[Structure]:
    """Painted before the organs, which cover it: fat, muscles, bowel, stomach and vessels."""
    fat = Structure("visceral fat", (EVERYWHERE,))
    return [fat, *_psoas(rng), *_bowel(rng), *_stomach(rng), *_vessels(rng)]


def draw_frame(rng: np.random.Generator) -> list[Structure]:
    """Painted after the organs, which it cuts: heart and lungs, abdominal wall, skeleton, skin and the air around."""
    return [*_chest(rng), *_wall(rng)]


def _bowel(rng: np.random.Generator) -> list[Structure]:
    """Duodenum, colon and 14-23 small loops: the confounders, with walls like pancreas and contents at organ HU."""
    structures = []
    duodenum = [(38, 26, 6), (54, 8, -6), (52, 2, -34), (24, -6, -50), (-20, -4, -48)]
    right_colon = [(94, -22, -150), (98, -20, -60), (90, 10, -18)]
    left_colon = [(-96, -26, -150), (-98, -28, -60), (-88, 8, 0)]
    loops = [
        tube(jittered_course(rng, duodenum, 6), [11]),
        tube(jittered_course(rng, right_colon, 6), [20, 17]),
        tube(jittered_course(rng, left_colon, 6), [14, 17]),
    ]
    for _ in range(rng.integers(14, 24)):
        center = (rng.uniform(-95, 95), rng.uniform(-20, 70), rng.uniform(-140, 5))
        radii = (rng.uniform(12, 24), rng.uniform(12, 22), rng.uniform(12, 24))
        loops.append((jittered(rng, center, radii, center_mm=0),))
    for loop in loops:
        texture = int(rng.integers(TEXTURES))
        tissue, offset = _bowel_content(rng)
        inner = tuple(ball.scaled(0.78) for ball in loop)
        structures += [
            Structure("bowel wall", loop, texture=texture),
            Structure(tissue, inner, (), offset, texture=texture),
        ]
    return structures


def _bowel_content(rng: np.random.Generator) -> tuple[str, float]:
    fluid, soft, contrast = rng.uniform(15, 55), rng.uniform(60, 125), rng.uniform(0, 80)
    contents = [("water", fluid), ("water", soft), ("oral contrast", contrast), ("gas", 0.0)]
    return contents[rng.choice(4, p=(0.25, 0.25, 0.4, 0.1))]


def _stomach(rng: np.random.Generator) -> list[Structure]:
    body = jittered(rng, (-58, 38, 42), (38, 30, 42), -20)
    content, offset = (("water", 15.0), ("water", 35.0), ("oral contrast", 20.0))[rng.integers(3)]
    structures = [
        Structure("bowel wall", (body,), texture=1),
        Structure(content, (body.scaled(0.85),), offset_hu=offset, texture=1),
    ]
    if rng.random() < 0.5:
        x, y, z = body.center
        structures.append(Structure("gas", (Ellipsoid((x, y + 12, z), (22, 10, 24)),), texture=1))
    return structures


def _vessels(rng: np.random.Generator) -> list[Structure]:
    aorta = [(-12, -34, -170), (-12, -34, -50), (-12, -34, 50), (-10, -36, 170)]
    cava = [(18, -32, -170), (18, -32, -50), (20, -28, 50), (24, -10, 130)]
    portal_vein = [(8, 8, -20), (16, 14, 14), (34, 12, 40)]
    return [
        Structure("aorta", tube(jittered_course(rng, aorta, (4, 3, 0)), [8.5, 10.5])),
        Structure("vein", tube(jittered_course(rng, cava, (4, 3, 0)), [10.5, 11.5])),
        Structure("vein", tube(jittered_course(rng, portal_vein, 4), [7])),
    ]


def _psoas(rng: np.random.Generator) -> list[Structure]:
    size = rng.uniform(15, 20)
    muscles = (Ellipsoid((side * 38, -56, -90), (size, size, 110)) for side in (-1, 1))
    return [Structure("muscle", (muscle,), offset_hu=4) for muscle in muscles]


def _chest(rng: np.random.Generator) -> list[Structure]:
    """Heart, and lungs above the domes of the diaphragm; they cut off what rises above the domes."""
    heart = jittered(rng, (-18, 22, 132), (56, 44, 38), center_mm=4)
    domes = [((62, 2, 14), (74, 88, 86)), ((-60, 0, 8), (76, 88, 84)), ((0, 10, 10), (60, 96, 70))]
    diaphragm = tuple(jittered(rng, center, radii, center_mm=4, axes=0.05) for center, radii in domes)
    above = Ellipsoid((0, 0, 320), (INFINITE, INFINITE, 300))
    return [Structure("vein", (heart,), texture=1), Structure("lung", (above,), (*diaphragm, heart))]


def _wall(rng: np.random.Generator) -> list[Structure]:
    """Abdominal wall, spine, ribs, subcutaneous fat (8-28 mm) and the air around."""
    fat = rng.uniform(8, 28)
    skin = Ellipsoid((0, -3, 0), (_WALL.radii[0] + fat, _WALL.radii[1] + 0.8 * fat, INFINITE))
    back = tuple(Ellipsoid((side * 30, -86, 0), (30, 17, INFINITE)) for side in (-1, 1))
    levels = np.arange(-170, 180, 34) + rng.uniform(-17, 17)
    discs = tuple(Ellipsoid((0, -66, float(z)), (20, 17, 5)) for z in levels)
    spinous = tuple(Ellipsoid((0, -101, float(z) - 14), (4, 13, 11)) for z in levels)
    ribs = tuple(ball for z in (-20, 10, 40, 70, 100, 130) for side in (-1, 1) for ball in _rib(side, z))
    return [
        Structure("muscle", (EVERYWHERE,), (_CAVITY,), roughness=0.02),
        Structure("fat", (EVERYWHERE,), (_WALL,), roughness=0.02),
        Structure("muscle", back, roughness=0.05),
        Structure("bone", ribs, offset_hu=120, roughness=0),
        Structure("bone", (Ellipsoid((0, -66, 0), (20, 17, INFINITE)),), offset_hu=60, roughness=0.05),
        Structure("bone", (Ellipsoid((0, -66, 0), (17, 14, INFINITE)),), offset_hu=-30, roughness=0.05),
        Structure("bowel wall", discs, roughness=0.05),
        Structure("bone", (Ellipsoid((0, -88, 0), (15, 10, INFINITE)), *spinous), offset_hu=120, roughness=0.05),
        Structure("water", (Ellipsoid((0, -87, 0), (9, 6, INFINITE)),), offset_hu=30, roughness=0),
        Structure("air", (EVERYWHERE,), (skin,), roughness=0.02),
    ]


def _rib(side: int, z: float) -> tuple[Ellipsoid, ...]:
    """From the spine round the wall to the front, 55 mm down on the way; lower ribs end earlier."""
    angles = np.deg2rad(np.linspace(20, 100 + max(0.0, z) * 0.4, 9))
    wall = (_CAVITY.radii[0] + 5, _CAVITY.radii[1] + 7)
    points = [(side * wall[0] * np.sin(a), -wall[1] * np.cos(a) - 2, z + 30 - 22 * a) for a in angles]
    return tube(np.array(points), [5.0], step_mm=6.0)
