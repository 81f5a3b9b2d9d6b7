"""From a CT to one label map on the CT's own grid: body, organs, network, labels - each stage by itself.

model = MetaModel.load(Path("meta_model.safetensors"))
result = segment(model, read_ct(Path("ct.nii.gz")))
write_labels(Path("organs.nii.gz"), result.labels, like=ct)

The stages and their reasons: performance.md, section 3. Without an NVIDIA card no torch is imported.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.labels import SPLIT_KIDNEYS
from segviz_core.meta_model import MetaModel, OrganEntry
from segviz_core.networks import Network, load
from segviz_core.preprocessing import Box, NetworkGrid, network_grid, prepare_box
from segviz_core.region import body_box, grown, joined, organs_box, reaches_a_cut
from segviz_core.tiles import MEMORY_MB, tiles
from segviz_core.upsampling import paint
from segviz_core.volumes import Volume

Progress = Callable[[str, int, int], None]

FAST = 2.0
"""The fast mode's spacing, in spacings of the contract."""


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The organs of one CT.

    `labels` is uint8 on the CT's grid, with the values of `organs` (those that were asked for). An organ without a
    single voxel stands in `not_found` and has no entry in `volumes_ml`. `region` is what the network saw: first and
    last + 1 voxel of its grid along R, A and S; None when the CT shows nothing but air. `seconds` per stage.
    """

    labels: NDArray[np.uint8]
    organs: tuple[OrganEntry, ...]
    volumes_ml: Mapping[str, float]
    not_found: tuple[str, ...]
    seconds: Mapping[str, float]
    precision: str
    region: tuple[tuple[int, int], ...] | None


def segment(
    model: MetaModel,
    ct: Volume,
    *,
    organs: Sequence[str] | None = None,
    spacing_mm: float | None = None,
    fast: bool = False,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    memory_mb: float | None = None,
    split_kidneys: bool = False,
    network: Network | None = None,
    on_progress: Progress | None = None,
) -> Segmentation:
    """Segment `ct` with `model` on the grid of the model's contract; the labels come back on the CT's own grid.

    `organs` selects what is shown: all heads compete for every voxel, so leaving one out changes no other. `fast`
    doubles the contract's spacing, `spacing_mm` sets one that is coarser. A region that takes more than `memory_mb` is
    segmented in tiles. `network` is the model as `load` gave it, from a process that keeps it; without one it is loaded
    with `device`, `precision` and `threads`.

    Raises:
        InputError: an organ without a head, a finer spacing, a device that is not there, too low a memory limit,
            weights that do not fit the network's settings.
        Cancelled: raised by `on_progress(stage, done, total)`, which is called between stages and tiles.
    """
    report = on_progress or (lambda stage, done, total: None)
    shown = _shown(model, organs)
    contract = _contract(model.contract, spacing_mm, fast=fast)
    clock = _Clock()
    if network is None:
        report("load", 0, 1)
        with clock.stage("load"):
            network = load(model, device=device, precision=precision, threads=threads)
    scan = _Scan(model, ct, contract, network, memory_mb or MEMORY_MB)

    report("locate", 0, 1)
    with clock.stage("locate"):
        body = body_box(ct, scan.grid, window_hu=contract.window_hu)
        region = body and organs_box(scan.margins, ct, contract, scan.grid, body, model.organs)
    report("locate", 1, 1)

    labels = np.zeros(ct.voxels.shape, np.uint8, order="F" if ct.voxels.flags.f_contiguous else "C")
    counts = dict.fromkeys([entry.name for entry in model.organs], 0)
    if region is not None and body is not None:
        region, body = scan.grown(region), scan.grown(body)
        found = scan.label(labels, region, clock, report)
        counts = _counts(labels, model.organs)
        if region != body and (reaches_a_cut(found, region, body) or not all(counts.values())):
            region = body  # an organ may lie outside: never lose it for a second
            labels.fill(0)
            scan.label(labels, region, clock, lambda stage, *steps: report(f"{stage} · the whole body", *steps))
            counts = _counts(labels, model.organs)

    with clock.stage("restore"):
        for entry in model.organs:
            if entry not in shown:
                labels[labels == entry.value] = 0
        if split_kidneys and any(entry.name == "kidneys" for entry in shown):
            labels, shown = _split(labels, ct, contract, shown)
            counts = _counts(labels, shown)
    voxel_ml = abs(float(np.linalg.det(ct.affine[:3, :3]))) / 1000
    return Segmentation(
        labels,
        shown,
        {entry.name: counts[entry.name] * voxel_ml for entry in shown if counts[entry.name]},
        tuple(entry.name for entry in shown if not counts[entry.name]),
        clock.seconds,
        network.precision,
        region and tuple((part.start, part.stop) for part in region),
    )


@dataclass(eq=False)
class _Scan:
    """One CT and the network that segments it."""

    model: MetaModel
    ct: Volume
    contract: DataContract
    network: Network
    memory_mb: float

    @cached_property
    def grid(self) -> NetworkGrid:
        return network_grid(self.ct, self.contract)

    @property
    def multiple(self) -> int:
        """What the network's sizes are multiples of."""
        return math.prod(self.model.network["strides"])

    def grown(self, box: Box) -> Box:
        """`box` and what the network needs beside it, as far as the CT has it."""
        return grown(box, self.multiple, self.grid.shape)

    def margins(self, contract: DataContract, grid: NetworkGrid, box: Box) -> NDArray[np.float32]:
        """The network's margins (K, X, Y, Z) on `box` of `grid`, the grid of `contract`."""
        seen = grown(box, self.multiple, grid.shape)
        margins = self.network.margins(self.padded(prepare_box(self.ct, contract, grid, seen)))
        inner = (slice(part.start - s.start, part.stop - s.start) for part, s in zip(box, seen, strict=True))
        return margins[(slice(None), *inner)]

    def padded(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sizes raised to what the network takes by mirroring the end: there the CT ends, and 0 would be air."""
        missing = [(0, -size % self.multiple) for size in voxels.shape]
        return np.pad(voxels, missing, mode="reflect") if any(end for _, end in missing) else voxels

    def label(self, labels: NDArray[np.uint8], region: Box, clock: "_Clock", report: Progress) -> Box | None:
        """Write the labels of all organs in `region`; where on the grid they lie."""
        grid, found = self.grid, None
        pieces = tiles(
            region,
            self.multiple,
            heads=len(self.model.organs),
            memory_mb=self.memory_mb,
            held_mb=(self.ct.voxels.nbytes + labels.nbytes) / 1e6,
        )
        report("prepare", 0, 1)
        for done, (box, core) in enumerate(pieces):
            with clock.stage("prepare"):
                voxels = self.padded(prepare_box(self.ct, self.contract, grid, box))
            report("network", done, len(pieces))
            with clock.stage("network"):
                x, y, z = (part.stop - part.start for part in box)
                margins = self.network.margins(voxels)[:, :x, :y, :z]
            report("network", done + 1, len(pieces))
            with clock.stage("restore"):
                found = joined(found, paint(labels, margins, self.model.organs, grid, box, core=core))
            del voxels, margins  # before the next tile needs as much
        report("restore", 1, 1)
        return found


class _Clock:
    """Seconds by stage; a stage may come again."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 3)


def _counts(labels: NDArray[np.uint8], organs: Sequence[OrganEntry]) -> dict[str, int]:
    return {entry.name: int(np.count_nonzero(labels == entry.value)) for entry in organs}


def _shown(model: MetaModel, organs: Sequence[str] | None) -> tuple[OrganEntry, ...]:
    names = [entry.name for entry in model.organs]
    unknown = [organ for organ in organs or () if organ not in names]
    if unknown:
        raise InputError(f"The model has no head for {', '.join(unknown)}: it segments {', '.join(names)}.")
    return tuple(entry for entry in model.organs if organs is None or entry.name in organs)


def _contract(contract: DataContract, spacing_mm: float | None, *, fast: bool) -> DataContract:
    if spacing_mm is None:
        factor = FAST if fast else 1.0
        x, y, z = (factor * mm for mm in contract.spacing_mm)
        return replace(contract, spacing_mm=(x, y, z))
    finest = max(contract.spacing_mm)
    if not spacing_mm >= finest:
        raise InputError(
            f"--spacing may only coarsen the model's grid: expected {finest:g} mm or more, found {spacing_mm:g}.",
            hint="Leave the option out for the best result.",
        )
    return replace(contract, spacing_mm=(spacing_mm, spacing_mm, spacing_mm))


def _split(
    labels: NDArray[np.uint8], ct: Volume, contract: DataContract, shown: tuple[OrganEntry, ...]
) -> tuple[NDArray[np.uint8], tuple[OrganEntry, ...]]:
    """Left and right kidney in place of both."""
    from segviz_core.kidneys import split_kidneys  # here: scipy takes .2 s to import

    sides = tuple(OrganEntry.of(organ) for organ in SPLIT_KIDNEYS)
    organs = tuple(part for entry in shown for part in (sides if entry.name == "kidneys" else (entry,)))
    return split_kidneys(labels, ct, window_hu=contract.window_hu), organs
