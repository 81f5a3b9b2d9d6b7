"""The CTs of an experiment: sites that each read only their own organ's labels, and test cases with all of them.

[data] of an experiment file:
kind = "phantoms"                             made on the spot, one set per seed
kind = "btcv18", folder = "$SEGVIZ_BTCV18"    18 CTs; sites.json names four sites and three test folds
kind = "public", liver = FOLDER, spleen = FOLDER, pancreas = FOLDER, kidneys = FOLDER, test = FOLDER
                                              MSD and KiTS19 as published; BTCV to test on
"""

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segviz_core.cases import Site, open_site
from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.experiments.extensions import LATE
from segviz_core.experiments.phantoms import TEST_SITE, write_phantoms
from segviz_core.experiments.plan import ORDER, Run
from segviz_core.experiments.profiles import PROFILES
from segviz_core.labels import ORGANS, LabelSet, organs_named
from segviz_core.layouts import CaseFiles, find_cases
from segviz_core.preprocessing import NetworkGrid, prepare
from segviz_core.volumes import Volume, read_ct, read_labels

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class Test:
    """One unseen CT: `voxels` (8 bits) on the network's `grid`; `truth` on its own, with SegViz's values."""

    files: CaseFiles
    voxels: NDArray[np.uint8]
    grid: NetworkGrid
    truth: NDArray[np.uint8]

    __test__ = False  # no class of tests

    @property
    def name(self) -> str:
        """Name of the case."""
        return self.files.name

    @property
    def intensities(self) -> NDArray[np.float32]:
        """The prepared CT (X, Y, Z) in [0, 1], as the network sees it."""
        return self.voxels.astype(np.float32) / np.float32(255)

    def ct(self) -> Volume:
        """The CT itself, read again."""
        return read_ct(self.files.image)


@dataclass(frozen=True)
class Data:
    """Sites by the organ that they are called after, and the test cases; of a late joiner's run, that site alone."""

    sites: Mapping[str, Site]
    tests: list[Test]


@dataclass(frozen=True)
class _Source:
    folder: Path
    label_set: LabelSet
    only: Collection[str] | None = None


def load_data(run: Run, folder: Path, *, on_progress: Progress) -> Data:
    """Read the cases of `run`; phantoms are made in `folder` if they are not there yet.

    Raises:
        InputError: a folder or a case that cannot be used.
    """
    sources = _sources(run, folder, on_progress)
    sites = {
        name: open_site(
            sources[name].folder,
            label_set=sources[name].label_set,
            contract=run.setup.contract,
            seed=run.seed,
            only=sources[name].only,
        )
        for name in ((LATE,) if run.extension.joins else run.organs)
    }
    return Data(sites, load_tests(run, folder, on_progress=on_progress))


def load_tests(run: Run, folder: Path, *, on_progress: Progress) -> list[Test]:
    """Only the test cases of `run`, in the order of their names."""
    test = _sources(run, folder, on_progress)[TEST_SITE]
    found = [files for files in find_cases(test.folder).cases if test.only is None or files.name in test.only]
    tests = []
    for done, files in enumerate(found, start=1):
        tests.append(_test(files, test.label_set, run.setup.contract))
        on_progress("test cases", done, len(found))
    return tests


def _sources(run: Run, folder: Path, on_progress: Progress) -> dict[str, _Source]:
    kinds = {"phantoms": _phantoms, "btcv18": _btcv18, "public": _public}
    if run.data["kind"] not in kinds:
        raise InputError(f"data kind: expected one of {', '.join(kinds)}, found {run.data['kind']!r}.")
    return kinds[run.data["kind"]](run, folder, on_progress)


def _test(files: CaseFiles, label_set: LabelSet, contract: DataContract) -> Test:
    if files.label is None:
        raise InputError(f"{files.image}: expected a label for this test case, found none.")
    prepared, labels = prepare(read_ct(files.image), contract), read_labels(files.label).voxels
    truth, organs = np.zeros(labels.shape, np.uint8), organs_named(label_set.organs)
    for organ, values in label_set.values.items():
        truth[np.isin(labels, values)] = organs[organ].value
    return Test(files, np.rint(prepared.voxels * np.float32(255)).astype(np.uint8), prepared.grid, truth)


def _phantoms(run: Run, folder: Path, on_progress: Progress) -> dict[str, _Source]:
    profile, values = PROFILES[run.profile], {organ: (ORGANS[organ].value,) for organ in ORDER}
    made = write_phantoms(profile, folder / f"seed{run.seed}", seed=run.seed, on_progress=on_progress)
    sites = {site: _Source(made / site, _chosen(values, [site])) for site in profile.cases}
    for site, organs in run.extension.annotates.items():  # the same CTs, with more in their labels
        again = write_phantoms(
            replace(profile, cases={site: profile.cases[site]}, test_cases=0),
            folder / f"seed{run.seed}_{site}_{'-'.join(organs)}",
            seed=run.seed,
            annotates={site: organs},
            on_progress=on_progress,
        )
        sites[site] = _Source(again / site, _chosen(values, organs))
    if organ := run.extension.joins:
        sites[LATE] = _Source(sites[run.extension.cases_of].folder, _chosen(values, [organ]))
    return {**sites, TEST_SITE: _Source(made / TEST_SITE, _chosen(values, ORDER))}


def _btcv18(run: Run, folder: Path, on_progress: Progress) -> dict[str, _Source]:
    root, new = Path(run.data["folder"]), run.extension.joins
    try:
        plan = json.loads((root / "sites.json").read_text(encoding="utf-8"))
        held_out = set(plan["test_folds"][str(run.repeat)])
        names = {site: [f"img{n}" for n in plan["sites"][site] if n not in held_out] for site in ORDER}
        organs = dict.fromkeys((*ORDER, new)) if new else ORDER
        values = {organ: tuple(plan["label_values"][organ]) for organ in organs}
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{root}: expected sites.json with sites, label values and test folds ({error}).") from error
    sites = {site: _Source(root, _chosen(values, run.extension.organs_of(site)), names[site]) for site in ORDER}
    if new:
        sites[LATE] = _Source(root, _chosen(values, [new]), names[run.extension.cases_of])
    return {**sites, TEST_SITE: _Source(root, LabelSet(values), [f"img{number}" for number in sorted(held_out)])}


def _public(run: Run, folder: Path, on_progress: Progress) -> dict[str, _Source]:
    if run.extension.to_dict():
        raise InputError(f"{run.name}: expected phantoms or btcv18 for an extension, found public sets.")
    folders = {name: Path(run.data[name]) for name in (*run.organs, TEST_SITE)}
    sites = {organ: _Source(folders[organ], find_cases(folders[organ]).label_set([organ])) for organ in run.organs}
    return {**sites, TEST_SITE: _Source(folders[TEST_SITE], find_cases(folders[TEST_SITE]).label_set(ORDER))}


def _chosen(values: Mapping[str, tuple[int, ...]], organs: Collection[str]) -> LabelSet:
    return LabelSet({organ: values[organ] for organ in organs})
