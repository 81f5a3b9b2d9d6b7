"""What taking part will cost this computer: a few real training steps on the site's own cases, before it joins."""

import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch

from segviz_core.cases import Progress, Site, open_site
from segviz_core.devices import out_of_memory, torch_device
from segviz_core.errors import Cancelled
from segviz_core.federation.packets import Arrays, Packet
from segviz_core.federation.session import SiteSession
from segviz_core.federation.settings import SiteSettings
from segviz_core.federation.weights import to_arrays
from segviz_core.labels import ORGANS
from segviz_core.layouts import find_cases
from segviz_core.network import NetworkConfig, SegVizNet

_CASES, _WARM_UP, _STEPS, _LONGEST_S = 2, 2, 6, 60.0


@dataclass(frozen=True)
class Estimate:
    """Seconds are wall time on `device`, a processor with `cores`.

    `memory_mb` (10^6 bytes) is the peak of a trainer, None where unknown; that of a card is not in it.
    """

    cores: int
    cases: int
    seconds_to_prepare: float
    seconds_per_step: float
    steps_per_round: int
    seconds_per_round: float
    planned_steps: int
    hours_in_all: float
    memory_mb: float | None
    device: str = "cpu"

    @property
    def sentence(self) -> str:
        """The estimate in words."""
        memory = f"; {self.memory_mb / 1000:.1f} GB of the computer's memory" if self.memory_mb else ""
        in_all = _words(self.planned_steps * self.seconds_per_step)
        where = f"with {self.cores} core{'s' if self.cores > 1 else ''}"
        if self.device != "cpu":
            where = "on the graphics card"
        return (
            f"About {_words(self.seconds_per_round)} of training per round ({self.steps_per_round} steps of "
            f"{self.seconds_per_step:.2g} s) and {in_all} in all {where}{memory}; the {self.cases} cases are prepared "
            f"once, in about {_words(self.seconds_to_prepare)}."
        )


def estimate(
    settings: SiteSettings,
    cases: Path,
    *,
    organs: Sequence[str],
    label_values: Mapping[str, tuple[int, ...]],
    cores: int,
    device: str = "auto",
    on_progress: Progress | None = None,
) -> Estimate:
    """Time the steps of a shared round (the dearest ones) on the first cases of the folder `cases`; no network is used.

    Raises:
        InputError: the cases cannot be used, or there is no such device.
    """
    trained_on = torch_device(device).type
    torch.set_num_threads(cores)
    found = find_cases(cases)
    names = [files.name for files in found.cases]
    started = time.monotonic()
    site = open_site(
        cases,
        label_set=found.label_set(organs, stated=label_values),
        contract=settings.contract,
        only=names[:_CASES],
        on_progress=on_progress,
    )
    per_case = (time.monotonic() - started) / min(len(names), _CASES)
    try:
        step = _seconds_per_step(settings, site, trained_on, on_progress or (lambda *_: None))
    except Exception as error:
        if trained_on == "cpu" or not out_of_memory(error):
            raise
        trained_on = "cpu"  # as the site would
        step = _seconds_per_step(settings, site, trained_on, on_progress or (lambda *_: None))
    return Estimate(
        cores=cores,
        cases=len(names),
        seconds_to_prepare=round(per_case * len(names), 1),
        seconds_per_step=round(step, 3),
        steps_per_round=settings.steps_per_round,
        seconds_per_round=round(step * settings.steps_per_round, 1),
        planned_steps=settings.planned_steps,
        hours_in_all=round(step * settings.planned_steps / 3600, 2),
        memory_mb=_peak_memory_mb(),
        device=trained_on,
    )


def _seconds_per_step(settings: SiteSettings, site: Site, device: str, on_progress: Progress) -> float:
    foreign = [organ for organ in ORGANS if organ not in site.label_set.organs]
    for case in site.training_cases:
        case.targets = {organ: np.zeros(case.voxels.shape, np.uint8) for organ in foreign}
    with tempfile.TemporaryDirectory() as work:
        return _timed(SiteSession(settings, site, Path(work), device=device), foreign, on_progress)


def _timed(session: SiteSession, foreign: Sequence[str], on_progress: Progress) -> float:
    network = SegVizNet(NetworkConfig.from_dict(session.settings.network), [*session.organs, *foreign])
    arrays: dict[str, Arrays] = {"representation": to_arrays(network.representation)}
    arrays |= {f"head/{organ}": to_arrays(network.head(organ)) for organ in foreign}
    steps = min(_WARM_UP + _STEPS, session.settings.most_steps)
    plan = {"round": 1, "first_step": 0, "steps": steps, "total_steps": steps, "learning_rate": 1e-3}
    plan |= {"foreign_weight": 0.5, "foreign_ramp": 0.0, "proximal": 0.0}
    times = [time.monotonic()]

    def note(_: str, done: int, total: int) -> None:
        times.append(time.monotonic())
        on_progress("estimate", done, total)
        if len(times) > _WARM_UP + 1 and times[-1] - times[0] > _LONGEST_S:
            raise Cancelled

    with suppress(Cancelled):  # slow, but known well enough
        session.handle(Packet({"stage": "train", "mode": "segviz+", **plan}, arrays), on_progress=note)
    seconds = np.diff(times)
    return float(median(seconds[min(_WARM_UP, len(seconds) - 1) :]))


def _peak_memory_mb() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB, on macOS bytes
    return round(peak / 1e6 if sys.platform == "darwin" else peak * 1024 / 1e6, 1)


def _words(seconds: float) -> str:
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
