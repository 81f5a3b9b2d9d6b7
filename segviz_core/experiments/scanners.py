"""How each site scans: contrast phase, noise, blur and field of view (method.md section 8, points 5 and 6)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from segviz_core.experiments.shapes import Array

_FIXED_HU = MappingProxyType(
    {"air": -1000, "lung": -820, "gas": -600, "fat": -105, "visceral fat": -95, "water": 0, "bile": 8}
    | {"muscle": 58, "bone": 200}
)
_PARTIAL_VOLUME = 0.45
"""Sigma in voxels of the smoothing that stands for voxels shared by two tissues."""
_NOISE_GRAIN = 0.5
"""Sigma in voxels of the noise's own smoothing."""


@dataclass(frozen=True)
class Scanner:
    """Protocol of one site.

    `hu` holds what differs between sites: organs, vessels, bowel wall and oral contrast. `noise_hu` is the SD in a
    uniform region, `blur_mm` the sigma along z (slice thickness), `fov_mm` the z range covered, whose inner ends move
    by 8 mm (SD) from case to case. `lesion_chance` is per organ and case.
    """

    hu: Mapping[str, float]
    noise_hu: float
    blur_mm: float
    fov_mm: tuple[float, float] = (-np.inf, np.inf)
    lesion_chance: Mapping[str, float] = field(default_factory=dict)

    def hu_of(self, tissue: str) -> float:
        """HU of a tissue before the patient's own variation."""
        return self.hu[tissue] if tissue in self.hu else _FIXED_HU[tissue]

    def draw_fov(self, rng: np.random.Generator) -> tuple[float, float]:
        """Lower and upper end of one case's field of view, mm along z."""
        low, high = np.array(self.fov_mm) + rng.normal(size=2) * 8
        return float(low), float(high)

    def expose(self, hu: Array, spacing_mm: tuple[float, float, float], rng: np.random.Generator) -> NDArray[np.int16]:
        """Blur and noise: ideal HU (X, Y, Z) -> what the scanner stores, whole HU from -1024 to 3071."""
        image = gaussian_filter(hu, _PARTIAL_VOLUME)
        image = gaussian_filter1d(image, self.blur_mm / spacing_mm[2], axis=2)
        noise = gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), _NOISE_GRAIN)
        kernel = gaussian_filter1d(np.eye(1, 9, 4)[0], _NOISE_GRAIN)
        image += noise * np.float32(self.noise_hu / np.linalg.norm(kernel) ** 3)
        stored: NDArray[np.int16] = np.rint(np.clip(image, -1024, 3071)).astype(np.int16)
        return stored


def _scanner(
    organs: tuple[float, float, float, float, float],
    *,
    aorta: float,
    oral_contrast: float,
    noise_hu: float,
    blur_mm: float,
    lesions: Mapping[str, float],
    fov_mm: tuple[float, float] = (-np.inf, np.inf),
) -> Scanner:
    liver, spleen, cortex, medulla, pancreas = organs
    return Scanner(
        hu=MappingProxyType(
            {"liver": liver, "spleen": spleen, "cortex": cortex, "medulla": medulla, "pancreas": pancreas}
            | {"aorta": aorta, "vein": aorta - 20, "bowel wall": pancreas - 8, "oral contrast": oral_contrast}
        ),
        noise_hu=noise_hu,
        blur_mm=blur_mm,
        fov_mm=fov_mm,
        lesion_chance=MappingProxyType(
            {organ: lesions.get(organ, 0.2) for organ in ("liver", "spleen", "kidneys", "pancreas")}
        ),
    )


SCANNERS: Mapping[str, Scanner] = MappingProxyType(
    {
        "liver": _scanner(
            (105, 115, 165, 150, 92), aorta=150, oral_contrast=20, noise_hu=18, blur_mm=1.5, lesions={"liver": 0.7}
        ),
        "spleen": _scanner(
            (100, 120, 160, 145, 90),
            aorta=145,
            oral_contrast=60,
            noise_hu=16,
            blur_mm=5.0,
            lesions={"spleen": 0.1},
            fov_mm=(-40, np.inf),
        ),
        "pancreas": _scanner(
            (108, 118, 170, 155, 98),
            aorta=160,
            oral_contrast=160,
            noise_hu=14,
            blur_mm=2.5,
            lesions={"pancreas": 0.8},
            fov_mm=(-80, np.inf),
        ),
        # Arterial phase: the cortex stands out, the liver is still dark.
        "kidneys": _scanner(
            (72, 130, 195, 105, 105),
            aorta=240,
            oral_contrast=10,
            noise_hu=24,
            blur_mm=3.0,
            lesions={"kidneys": 0.8},
            fov_mm=(-np.inf, 70),
        ),
        "test": _scanner((110, 124, 172, 150, 100), aorta=158, oral_contrast=80, noise_hu=20, blur_mm=3.0, lesions={}),
    }
)
"""The four training sites, each named after the organ it annotates, and the unseen test site."""
