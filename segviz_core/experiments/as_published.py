"""What the published code does otherwise, as variants of the segviz rows: a window per site, equal epochs.

See method.md 5. The third difference, an average that reaches nobody, is a run of one round (`rounds = 1`).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from segviz_core.cases import Site
from segviz_core.experiments.plan import Setup
from segviz_core.federation.packets import Packet

Window = tuple[float, float]


def unit_windows(setup: Setup) -> dict[str, Window]:
    """`setup.site_windows` (HU) as parts of the contract's window: (0, 1) would be all of it."""
    low, high = setup.contract.window_hu
    return {
        organ: ((first - low) / (high - low), (last - low) / (high - low))
        for organ, (first, last) in setup.site_windows.items()
    }


def seen_through(voxels: NDArray[np.float32], window: Window) -> NDArray[np.float32]:
    """Voxels in [0, 1] of the contract's window as a narrower one shows them."""
    low, high = window
    return np.asarray(np.clip((voxels - low) / (high - low), 0, 1), np.float32)


def narrowed(sites: Mapping[str, Site], windows: Mapping[str, Window]) -> dict[str, Site]:
    """The sites with their cases seen through their own windows."""
    return {organ: _narrowed(site, windows[organ]) if organ in windows else site for organ, site in sites.items()}


def _narrowed(site: Site, window: Window) -> Site:
    levels = np.arange(256, dtype=np.float32) / np.float32(255)
    table = np.rint(seen_through(levels, window) * np.float32(255)).astype(np.uint8)
    training, validation = (
        [replace(case, voxels=table[case.voxels]) for case in cases]
        for cases in (site.training_cases, site.validation_cases)
    )
    return replace(site, training_cases=training, validation_cases=validation)


def steps_in_equal_epochs(sites: Mapping[str, Site]) -> dict[str, float]:
    """How many steps of a site go on one of the mean site, when all see their own cases equally often."""
    cases = {organ: len(site.training_cases) for organ, site in sites.items()}
    mean = sum(cases.values()) / len(cases)
    return {organ: count / mean for organ, count in cases.items()}


def with_steps(answer: Callable[[Packet], Packet], factor: float) -> Callable[[Packet], Packet]:
    """A site that makes `factor` times the steps that it is asked for in a shared round."""

    def scaled(request: Packet) -> Packet:
        if request.stage != "train":
            return answer(request)
        first, steps, total = (int(request.settings[name]) for name in ("first_step", "steps", "total_steps"))
        first, last, total = (round(factor * number) for number in (first, first + steps, total))
        own = {"first_step": first, "steps": last - first, "total_steps": total}
        return answer(replace(request, settings={**request.settings, **own}))

    return scaled
