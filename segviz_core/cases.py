"""From a site's files to checked cases on the network's grid."""

import functools
import hashlib
import json
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segviz_core import dicom_series, preprocessing, volumes
from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.labels import LabelSet
from segviz_core.layouts import CaseFiles, SiteFolder, find_cases
from segviz_core.mapped_arrays import kept_arrays
from segviz_core.preprocessing import prepare, prepare_mask
from segviz_core.volumes import Volume, read_ct, read_labels, same_grid

Progress = Callable[[str, int, int], None]

SMALLEST_SITE_WITH_VALIDATION = 8  # method.md, section 4, "Validation"
VALIDATION_SHARE = 0.2

PLACES = 4096
"""So many voxels of an organ at most are remembered per case, whatever the size of its volume."""


@dataclass
class Case:
    """One prepared case, kept in 8 bits.

    `voxels` (X, Y, Z) is the prepared CT times 255, `masks` has one entry per organ annotated in this case (all False
    where the organ is known to be absent), `targets` the soft maps (255 = certain) of organs other sites annotate.
    """

    name: str
    voxels: NDArray[np.uint8]
    masks: dict[str, NDArray[np.bool_]]
    targets: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    _places: dict[str, NDArray[np.intp]] = field(default_factory=dict, init=False, repr=False, compare=False)

    def places(self, organ: str) -> NDArray[np.intp]:
        """Flat indices of voxels of an annotated organ, evenly thinned to some thousands: where patches may lie."""
        if organ not in self._places:
            inside = np.flatnonzero(self.masks[organ])
            self._places[organ] = inside[:: 1 + inside.size // PLACES].copy()
        return self._places[organ]

    @property
    def intensities(self) -> NDArray[np.float32]:
        """The prepared CT (X, Y, Z) in [0, 1], as the network sees it."""
        return self.voxels.astype(np.float32) / np.float32(255)


@dataclass(frozen=True)
class Site:
    """What a site trains on; the validation cases are never trained on."""

    label_set: LabelSet
    training_cases: list[Case]
    validation_cases: list[Case]


@dataclass(frozen=True)
class CaseCheck:
    """One row of the table that `check` shows: `why` is one sentence, empty when the case is fit for training."""

    name: str
    image: Path
    label: Path | None
    ok: bool
    why: str


def check_cases(
    folder: Path, label_set: LabelSet | None = None, *, on_progress: Progress | None = None
) -> list[CaseCheck]:
    """Read every case of a site folder and say which cannot be trained on, and why.

    Args:
        label_set: which voxel values stand for which organ; None: the values that the folder's layout states.

    Raises:
        InputError: the folder as a whole cannot be used (`layouts.find_cases`). A bad case is a row, not an error.
    """
    found = find_cases(folder)
    label_set = label_set or found.label_set()
    rows = []
    for done, files in enumerate(found.cases, start=1):
        why = ""
        try:
            _read_case(files, label_set)
        except InputError as error:
            why = error.message
        rows.append(CaseCheck(files.name, files.image, files.label, not why, why))
        if on_progress:
            on_progress("check", done, len(found.cases))
    return rows


def open_site(
    folder: Path,
    *,
    label_set: LabelSet | None,
    contract: DataContract,
    seed: int = 0,
    only: Collection[str] | None = None,
    cache: Path | None = None,
    on_progress: Progress | None = None,
) -> Site:
    """Read and prepare all cases of a site (or `only` those named) and set its validation cases apart by the seed.

    In `cache`, a folder for this site alone, prepared cases are kept and from there mapped into memory: the next start
    prepares nothing, and memory does not grow with the number of cases. What is not of this call's cases is deleted.

    An organ of the label set that a case's label does not show counts as not annotated in that case, because nothing
    tells it from an organ outside the field of view; a data list can say so ("annotated"). A case that shows none is
    refused.

    Raises:
        InputError: the folder cannot be used; or the first bad case, by name, and what is wrong with it.
    """
    found = find_cases(folder)
    label_set = label_set or found.label_set()
    chosen = _choose(found, only)
    for files in chosen:  # all of them before the first is read, which takes a second per case
        with _naming(files):
            _label_of(files)
    if cache:
        cache.mkdir(parents=True, exist_ok=True)
    cases, kept = [], set()
    for done, files in enumerate(chosen, start=1):
        with _naming(files):
            if cache:
                kept.add(path := cache / f"{files.name}-{_key(files, label_set, contract)}.safetensors")
                arrays = kept_arrays(path, functools.partial(_prepare, files, label_set, contract))
            else:
                arrays = _prepare(files, label_set, contract)
        masks = {organ: arrays[f"mask/{organ}"] for organ in label_set.organs if f"mask/{organ}" in arrays}
        cases.append(Case(files.name, arrays["voxels"], masks))
        if on_progress:
            on_progress("cases", done, len(chosen))
    if cache:
        for path in set(cache.iterdir()) - kept:
            path.unlink()
    validation = _validation_names([case.name for case in cases], seed)
    return Site(
        label_set,
        [case for case in cases if case.name not in validation],
        [case for case in cases if case.name in validation],
    )


def _choose(found: SiteFolder, only: Collection[str] | None) -> list[CaseFiles]:
    if only is None:
        return list(found.cases)
    missing = sorted(set(only) - {files.name for files in found.cases})
    if missing or not only:
        raise InputError(
            f"Expected cases of the folder, found {', '.join(missing) or 'no name'}.", hint="Check the list of names."
        )
    return [files for files in found.cases if files.name in only]


@contextmanager
def _naming(files: CaseFiles) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"Case {files.name}: {error.message}", hint=error.hint) from error


def _prepare(files: CaseFiles, label_set: LabelSet, contract: DataContract) -> dict[str, NDArray[Any]]:
    """Voxels of a case in 8 bits, and the masks of its annotated organs, on the network's grid."""
    ct, masks = _read_case(files, label_set)
    prepared = prepare(ct, contract)
    voxels = np.rint(prepared.voxels * np.float32(255)).astype(np.uint8)
    return {"voxels": voxels} | {f"mask/{organ}": prepare_mask(mask, prepared.grid) for organ, mask in masks.items()}


def _key(files: CaseFiles, label_set: LabelSet, contract: DataContract) -> str:
    """Changes with all that a prepared case depends on: its files, the label set, the contract and this code."""
    parts: list[Any] = [_code(), contract.hash, sorted(label_set.values.items()), files.annotated]
    for path in (files.image, _label_of(files)):
        for part in sorted(path.iterdir()) if path.is_dir() else [path]:
            parts.append((str(part), part.stat().st_size, part.stat().st_mtime_ns))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


@functools.cache
def _code() -> str:
    modules = (preprocessing, volumes, dicom_series, sys.modules[__name__])
    return hashlib.sha256(b"".join(Path(str(module.__file__)).read_bytes() for module in modules)).hexdigest()


def _read_case(files: CaseFiles, label_set: LabelSet) -> tuple[Volume, dict[str, NDArray[np.bool_]]]:
    """The CT and the masks of its annotated organs on the CT's own grid."""
    label = _label_of(files)
    ct, labels = read_ct(files.image), read_labels(label)
    if not same_grid(ct, labels):
        raise InputError(
            f"{label}: expected the grid of the image ({_describe(ct)}), found another ({_describe(labels)}).",
            hint="Export the label on the image's grid.",
        )
    masks = {organ: np.isin(labels.voxels, values) for organ, values in label_set.values.items()}
    masks = {organ: mask for organ, mask in masks.items() if organ in files.annotated or mask.any()}
    if not masks:
        expected = " or ".join(f"{organ} ({_list(values)})" for organ, values in label_set.values.items())
        raise InputError(
            f"{label}: expected the label values of {expected}, found {_list(np.unique(labels.voxels))}.",
            hint="Correct the label set, or leave the case out.",
        )
    return ct, masks


def _label_of(files: CaseFiles) -> Path:
    if files.label is None or not files.label.exists():
        raise InputError(
            f"{files.image}: expected a label for this image, found none.",
            hint="Give the label the name of the image, or leave the image out.",
        )
    return files.label


def _validation_names(names: Sequence[str], seed: int) -> set[str]:
    if len(names) < SMALLEST_SITE_WITH_VALIDATION:
        return set()
    drawn = np.random.default_rng(seed).permutation(sorted(names))
    return {str(name) for name in drawn[: round(VALIDATION_SHARE * len(names))]}


def _describe(volume: Volume) -> str:
    origin = ", ".join(f"{value:.1f}" for value in volume.affine[:3, 3])
    size = "x".join(str(n) for n in volume.voxels.shape)
    return f"{size}, {'x'.join(f'{mm:.2f}' for mm in volume.spacing_mm)} mm, origin {origin}"


def _list(values: Collection[Any]) -> str:
    return ", ".join(str(value) for value in values)
