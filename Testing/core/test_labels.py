"""Names, values and colours of organs."""

from itertools import combinations

import numpy as np
import pytest

from segviz_core.labels import CURVE_COLORS, ORGANS, OTHER_CURVE_COLOR, organs_named

# Machado, Oliveira and Fernandes 2009, severity 1: how linear sRGB looks without one kind of cone.
VISION = {
    "usual": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
PAPER = {"light": "#ffffff", "dark": "#14181d"}  # dashboard_page/page.css


def linear(color: str) -> np.ndarray:
    value = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def cielab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    xyz = to_xyz @ np.clip(rgb, 0, 1) / [0.95047, 1.0, 1.08883]
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def test_unknown_organs_get_the_free_values_in_the_order_of_their_names() -> None:
    organs = organs_named(["spleen", "stomach", "aorta"])
    assert {name: organ.value for name, organ in organs.items()} == {"spleen": 2, "stomach": 7, "aorta": 8}
    assert organs["spleen"] is ORGANS["spleen"]
    assert organs["stomach"].color != organs["aorta"].color


def test_every_known_organ_has_a_curve_of_its_own_colour() -> None:
    assert set(CURVE_COLORS) == set(ORGANS)
    assert len({*CURVE_COLORS.values(), OTHER_CURVE_COLOR}) == len(ORGANS) + 1


@pytest.mark.parametrize("vision", VISION)
def test_curves_are_told_apart_with_any_colour_vision(vision: str) -> None:
    """A distance of 10 in CIELAB is seen at a glance; 2.3 is the least that is seen at all."""
    seen = [cielab(np.array(VISION[vision]) @ linear(color)) for color in CURVE_COLORS.values()]
    assert min(float(np.linalg.norm(one - other)) for one, other in combinations(seen, 2)) > 15


@pytest.mark.parametrize("paper", PAPER.values(), ids=PAPER)
@pytest.mark.parametrize("color", [*CURVE_COLORS.values(), OTHER_CURVE_COLOR])
def test_curves_stand_out_from_light_and_dark_paper(color: str, paper: str) -> None:
    """3:1, as WCAG 2.2 asks of graphics (1.4.11)."""
    luminance = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) + 0.05 for c in (color, paper))
    assert luminance[1] / luminance[0] >= 3
