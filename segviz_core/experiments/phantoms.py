"""Synthetic abdominal CTs of four one-organ sites and an unseen test site: the default data of demo, tests and tables.

ct, labels = make_phantom("test", 0, profile=PROFILES["small"], seed=0)
write_phantoms(PROFILES["small"], Path("demo/data"))
"""

import json
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nibabel
import numpy as np
from numpy.typing import NDArray

from segviz_core.atomic import replacing, write_json
from segviz_core.errors import InputError
from segviz_core.experiments.painting import Grid, paint
from segviz_core.experiments.patients import Patient, draw_patient
from segviz_core.experiments.profiles import Profile
from segviz_core.experiments.scanners import SCANNERS
from segviz_core.labels import ORGANS
from segviz_core.volumes import Volume, write_labels

TEST_SITE = "test"

SMALLEST_ORGAN_ML = 20.0
"""A patient with a smaller organ (at full field of view) is drawn again (method.md section 8, "To add")."""

MISSING_ORGANS: tuple[str, ...] = ("spleen", "pancreas", "kidneys")
"""Every fourth test case lacks one organ, in turn: splenectomy, pancreatectomy, no kidneys (dialysis)."""

_REFERENCE = Grid((64, 48, 48), (5.0, 5.0, 5.0))
"""Where organ volumes are judged, so that all profiles see the same patient."""


def make_phantom(site: str, index: int, *, profile: Profile, seed: int = 0) -> tuple[Volume, NDArray[np.uint8]]:
    """CT (int16 HU, RAS affine) and labels of all organs (uint8, same grid) of one case.

    The same (seed, site, index) is the same patient on every grid: of `profile`, only `shape` and `spacing_mm` (at full
    field of view) are used, so `dataclasses.replace(profile, shape=..., spacing_mm=...)` gives any other grid.
    """
    scanner = SCANNERS[site]
    grid = Grid(profile.shape, profile.spacing_mm)
    hu, labels = paint(draw_case(site, index, seed=seed), grid, scanner.hu_of)
    rng = _generator("scan", site, index, seed)
    low, high = scanner.draw_fov(rng)
    origin = _draw_origin(rng) + [axis[0] for axis in grid.axes]
    first, last = np.searchsorted(grid.axes[2], (low, high))
    origin[2] += first * grid.spacing_mm[2]
    affine = np.diag([*grid.spacing_mm, 1.0])
    affine[:3, 3] = np.round(origin, 2)
    image = scanner.expose(hu, grid.spacing_mm, rng)
    return Volume(image[:, :, first:last], affine), labels[:, :, first:last]


def missing_organ(site: str, index: int) -> str | None:
    """Which organ this case lacks: every fourth case of the test site, in the order of MISSING_ORGANS."""
    if site != TEST_SITE or index % 4 != 3:
        return None
    return MISSING_ORGANS[index // 4 % len(MISSING_ORGANS)]


def draw_case(site: str, index: int, *, seed: int = 0) -> Patient:
    """The patient of one case, drawn again until no organ that is there is under SMALLEST_ORGAN_ML."""
    missing = missing_organ(site, index)
    for attempt in range(100):
        rng = _generator("patient", site, index, seed, attempt)
        patient = draw_patient(rng, lesion_chance=SCANNERS[site].lesion_chance, missing=[missing] if missing else [])
        _, labels = paint(patient, _REFERENCE, SCANNERS[site].hu_of)
        volumes = [
            np.count_nonzero(labels == o.value) * _REFERENCE.voxel_ml for o in ORGANS.values() if o.name != missing
        ]
        if min(volumes) >= SMALLEST_ORGAN_ML:
            return patient
    raise AssertionError("100 patients in a row with an organ under 20 ml")


def write_phantoms(
    profile: Profile,
    folder: Path,
    *,
    seed: int = 0,
    annotates: Mapping[str, Collection[str]] = MappingProxyType({}),
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write `profile`'s cases as folder/SITE/{images,labels}/NAME.nii.gz on all cores; finished files are kept.

    A training site's labels hold only its own organ (or those that it `annotates`), those of `test` all organs, with
    SegViz's label values.

    Raises:
        InputError: the folder holds phantoms of another profile or seed, or cannot be written.
        Cancelled: `on_progress(stage, done, total)` raised it; a new call goes on where this one stopped.
    """
    also = {"annotates": {site: sorted(organs) for site, organs in annotates.items()}} if annotates else {}
    _claim(folder, {"profile": profile.name, "seed": seed, **also})
    counts = {**profile.cases, TEST_SITE: profile.test_cases}
    shown = {**{site: (site,) for site in counts}, **annotates, TEST_SITE: tuple(ORGANS)}
    cases = [_CaseFiles(folder, site, index) for site, n in counts.items() for index in range(n)]
    for case in cases:
        case.image.parent.mkdir(parents=True, exist_ok=True)
        case.label.parent.mkdir(parents=True, exist_ok=True)
    open_cases = [case for case in cases if not (case.image.exists() and case.label.exists())]
    report = on_progress or (lambda stage, done, total: None)
    done = len(cases) - len(open_cases)
    report("phantoms", done, len(cases))
    if not open_cases:
        return folder
    workers = min(os.cpu_count() or 1, len(open_cases))
    # spawn: no lock or thread of the calling process (torch, rich) is inherited.
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker) as pool:
        with _ctrl_c_ignored():
            futures = [pool.submit(_write_case, case, profile, seed, shown[case.site]) for case in open_cases]
        try:
            for future in as_completed(futures):
                future.result()
                done += 1
                report("phantoms", done, len(cases))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return folder


@dataclass(frozen=True)
class _CaseFiles:
    folder: Path
    site: str
    index: int

    @property
    def image(self) -> Path:
        return self.folder / self.site / "images" / f"{self.site}_{self.index:03d}.nii.gz"

    @property
    def label(self) -> Path:
        return self.folder / self.site / "labels" / f"{self.site}_{self.index:03d}.nii.gz"


@contextmanager
def _ctrl_c_ignored() -> Iterator[None]:
    """Processes started inside inherit it, so that none shows a traceback while it still imports."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may ask for signals
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start_worker() -> None:
    """Ctrl-C is the parent's to handle; a worker whose parent was killed ends too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _write_case(case: _CaseFiles, profile: Profile, seed: int, organs: Collection[str]) -> None:
    ct, labels = make_phantom(case.site, case.index, profile=profile, seed=seed)
    labels = np.where(np.isin(labels, [ORGANS[organ].value for organ in organs]), labels, 0).astype(np.uint8)
    write_labels(case.label, labels, ct)
    image = nibabel.Nifti1Image(ct.voxels, ct.affine)
    image.set_qform(ct.affine, code="scanner")
    image.set_sform(ct.affine, code="scanner")
    with replacing(case.image) as temporary:
        image.to_filename(temporary)


def _claim(folder: Path, made: Mapping[str, Any]) -> None:
    """Note in the folder which phantoms it holds, or refuse to mix two kinds."""
    note = folder / "phantoms.json"
    if not note.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"Cannot write {folder}: {error.strerror}.", hint="Choose another folder.") from error
        write_json(note, made)
        return
    found = json.loads(note.read_text(encoding="utf-8"))
    if found != made:
        raise InputError(
            f"{folder} holds phantoms of profile {found.get('profile')}, seed {found.get('seed')}, "
            f"not of {made['profile']}, seed {made['seed']}.",
            hint="Choose another folder, or remove this one.",
        )


def _generator(purpose: str, site: str, index: int, seed: int, attempt: int = 0) -> np.random.Generator:
    """An own random stream per purpose and case: what one draws never shifts what another sees."""
    key = (("patient", "scan").index(purpose), list(SCANNERS).index(site), index, attempt)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _draw_origin(rng: np.random.Generator) -> NDArray[np.float64]:
    """Where the middle of the abdomen lies in the scanner (mm): off centre, and far along the table."""
    return np.array([rng.normal() * 8, rng.uniform(-190, -150) + 140, rng.uniform(-900, -150)])
