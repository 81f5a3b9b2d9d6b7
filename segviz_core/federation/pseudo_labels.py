"""Soft maps of the organs a site does not annotate, made once per volume by the other sites' experts (method.md 4).

t_j is kept as uint8 (255 = certain) on the network's grid, zero inside the case's own annotated organs, which exclude
it. An expert knows one scanner: the share `norm` of its norm statistics is replaced by those of the CT it labels. Where
it still errs, it misses more of its organ than it invents: `shift` is added to its logits. What it invents mostly lies
apart: pieces smaller than the share `pieces` of the organ's largest are left out (docs/method_log.md).
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from segviz_core.cases import Case
from segviz_core.mapped_arrays import map_arrays, save_arrays
from segviz_core.network import SegVizNet
from segviz_core.norm_statistics import adapted
from segviz_core.torch_inference import margins


@dataclass(frozen=True)
class Teacher:
    """One expert network in eval mode, and per organ its weight among the teachers of that organ (its cases)."""

    network: SegVizNet
    weights: dict[str, float]


def write_targets(
    work: Path,
    cases: Sequence[Case],
    teachers: Sequence[Teacher],
    *,
    patch_size: Sequence[int],
    shift: float = 0.0,
    pieces: float = 0.0,
    norm: float = 0.0,
    keep: Collection[str] = (),
    on_case: Callable[[int, int], None] | None = None,
) -> None:
    """Label all `cases` and keep the maps in `work`/targets, mapped into memory as `case.targets`.

    Earlier maps stay for the organs in `keep` that the teachers do not label anew; all others go.
    """
    folder = work / "targets"
    folder.mkdir(parents=True, exist_ok=True)
    for i, case in enumerate(cases):
        maps = {organ: np.array(target) for organ, target in case.targets.items() if organ in keep}
        maps |= soft_maps(case, teachers, patch_size=patch_size, shift=shift, pieces=pieces, norm=norm)
        case.targets = {}  # Windows replaces no file that is mapped
        save_arrays(folder / f"{case.name}.safetensors", maps)
        case.targets = map_arrays(folder / f"{case.name}.safetensors")
        if on_case:
            on_case(i + 1, len(cases))


def load_targets(work: Path, cases: Sequence[Case]) -> None:
    """Read the maps that an earlier start of this site made, where there are any."""
    for case in cases:
        path = work / "targets" / f"{case.name}.safetensors"
        if path.exists():
            case.targets = map_arrays(path)


def soft_maps(
    case: Case,
    teachers: Sequence[Teacher],
    *,
    patch_size: Sequence[int],
    shift: float = 0.0,
    pieces: float = 0.0,
    norm: float = 0.0,
) -> dict[str, np.ndarray[Any, np.dtype[np.uint8]]]:
    """Weighted mean probability of the teachers per foreign organ, as uint8 (X, Y, Z)."""
    total: dict[str, float] = {}
    mean: dict[str, np.ndarray[Any, np.dtype[np.float32]]] = {}
    for teacher in teachers:
        organs = [organ for organ in teacher.weights if organ not in case.masks]
        if not organs:
            continue
        network = adapted(teacher.network, case, share=norm, patch_size=patch_size) if norm else teacher.network
        maps = margins(network, case.intensities, organs=organs, patch_size=patch_size)
        for organ, margin in zip(organs, maps, strict=True):
            weight = teacher.weights[organ]
            p = weight / (1 + np.exp(-np.clip(margin + np.float32(shift), -30, 30)))
            mean[organ] = mean[organ] + p if organ in mean else p
            total[organ] = total.get(organ, 0.0) + weight
    own = np.zeros(case.voxels.shape, bool)
    for mask in case.masks.values():
        own |= mask.astype(bool)
    soft = {organ: np.where(own, 0, np.rint(255 * p / total[organ])).astype(np.uint8) for organ, p in mean.items()}
    return {organ: without_small_pieces(target, pieces) for organ, target in soft.items()}


def without_small_pieces(target: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """The soft map with 0 in every connected piece (t > .5) that is smaller than `share` of the largest one."""
    labels, count = ndimage.label(target > 127)
    if count < 2:
        return target
    sizes = np.bincount(labels.ravel())
    sizes[0] = sizes[1:].max()  # what lies between the pieces stays
    return np.where(sizes[labels] < share * sizes[0], np.uint8(0), target)
