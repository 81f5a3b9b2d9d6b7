"""From a CT to one label map on the CT's own grid: prepare, network, restore, merge - each stage by itself.

model = MetaModel.load(Path("meta_model.safetensors"))
result = segment(model, read_ct(Path("ct.nii.gz")))
write_labels(Path("organs.nii.gz"), result.labels, like=ct)
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor

from segviz_core.contract import DataContract
from segviz_core.errors import InputError, SegVizError
from segviz_core.kidneys import split_kidneys as split_left_and_right
from segviz_core.labels import SPLIT_KIDNEYS
from segviz_core.meta_model import MetaModel, OrganEntry
from segviz_core.network import NetworkConfig, SegVizNet, fused_logits
from segviz_core.preprocessing import prepare, restore_slabs
from segviz_core.volumes import Volume

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Segmentation:
    """The organs of one CT.

    `labels` is uint8 on the CT's grid, with the values of `organs` (those that were asked for). An organ without a
    single voxel stands in `not_found` and has no entry in `volumes_ml`. `seconds` per stage.
    """

    labels: NDArray[np.uint8]
    organs: tuple[OrganEntry, ...]
    volumes_ml: Mapping[str, float]
    not_found: tuple[str, ...]
    seconds: Mapping[str, float]


def segment(
    model: MetaModel,
    ct: Volume,
    *,
    organs: Sequence[str] | None = None,
    spacing_mm: float | None = None,
    device: str = "auto",
    split_kidneys: bool = False,
    on_progress: Progress | None = None,
) -> Segmentation:
    """Segment `ct` with `model` on the grid of the model's contract; the labels come back on the CT's own grid.

    `organs` selects what is shown: all heads compete for every voxel, so leaving one out changes no other. `spacing_mm`
    coarsens the grid (faster, less exact); it cannot refine it. `device` is auto, cpu or cuda.

    Raises:
        InputError: an organ without a head, a finer spacing, a device that is not there, weights that do not fit the
            network's settings.
        Cancelled: raised by `on_progress(stage, done, total)`, which is called between windows and slabs.
    """
    report = on_progress or (lambda stage, done, total: None)
    shown = _shown(model, organs)
    contract = model.contract if spacing_mm is None else _coarser(model.contract, spacing_mm)
    clock = _Clock()

    report("prepare", 0, 1)
    prepared = prepare(ct, contract)
    report("prepare", 1, 1)
    clock.lap("prepare")

    network = load_network(model, device=device)
    clock.lap("load network")

    values = margins(
        network,
        prepared.voxels,
        organs=[entry.name for entry in model.organs],
        patch_size=model.patch_size,
        on_window=lambda done, total: report("network", done, total),
    )
    clock.lap("network")

    labels = np.zeros(ct.voxels.shape, np.uint8)
    for part, slab in restore_slabs(values, prepared.grid):
        labels[..., part] = merge(slab, model.organs)
        report("restore", part.stop, ct.voxels.shape[-1])
    labels = _only(labels, shown)
    if split_kidneys and any(entry.name == "kidneys" for entry in shown):
        labels = split_left_and_right(labels, ct, window_hu=contract.window_hu)
        shown = tuple(part for entry in shown for part in (_LEFT_AND_RIGHT if entry.name == "kidneys" else (entry,)))
    clock.lap("restore")

    counts = np.bincount(labels.ravel(), minlength=256)
    voxel_ml = abs(float(np.linalg.det(ct.affine[:3, :3]))) / 1000
    return Segmentation(
        labels,
        shown,
        {entry.name: float(counts[entry.value] * voxel_ml) for entry in shown if counts[entry.value]},
        tuple(entry.name for entry in shown if not counts[entry.value]),
        clock.seconds,
    )


def load_network(model: MetaModel, *, device: str = "auto") -> SegVizNet:
    """The network of `model`, in eval mode, its weights matched strictly by key and shape."""
    network = SegVizNet(NetworkConfig.from_dict(model.network), [entry.name for entry in model.organs])
    try:
        network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in model.weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The model's weights do not fit its network settings: {reason[:200]}.",
            hint="The file was changed by hand or damaged; get it again from where it was published.",
        ) from error
    return network.eval().to(_device(device))


def margins(
    network: SegVizNet,
    voxels: NDArray[np.float32],
    *,
    organs: Sequence[str],
    patch_size: Sequence[int],
    overlap: float = 0.5,
    on_window: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logit of organ minus logit of background, per head: voxels (X, Y, Z) in [0, 1] -> (K, X, Y, Z).

    Windows of `patch_size` with `overlap` are blended with Gaussian weights (method.md section 7); the representation
    runs once per window. A volume smaller than a patch is padded with 0, air. `on_window(done, total)` may raise
    Cancelled. The network must be in eval mode.
    """
    if network.training:
        raise ValueError("margins: expected a network in eval mode, found train mode")
    heads = [network.head(organ) for organ in organs]
    device = next(network.parameters()).device
    total = _window_count(voxels.shape, patch_size, overlap)
    done = 0

    def predict(window: Tensor) -> Tensor:
        nonlocal done
        if on_window:
            on_window(done, total)
        logits = fused_logits(network.representation(window), heads)
        done += 1
        return logits[:, :, 1] - logits[:, :, 0]

    image = torch.from_numpy(np.ascontiguousarray(voxels, np.float32))[None, None].to(device)
    try:
        with torch.inference_mode():
            blended = sliding_window_inference(image, tuple(patch_size), 1, predict, overlap=overlap, mode="gaussian")
    except torch.OutOfMemoryError as error:
        raise SegVizError(
            "The graphics card has not enough free memory for this CT.", hint="Use --device cpu, or --spacing 3."
        ) from error
    if on_window:
        on_window(total, total)
    result: NDArray[np.float32] = blended[0].cpu().numpy()
    return result


def merge(margins: NDArray[np.float32], entries: Sequence[OrganEntry]) -> NDArray[np.uint8]:
    """Label values of margins (K, ...), one per entry, on any grid (method.md section 7).

    q_k = sigmoid(margin_k / temperature_k). Within an exclusive group a voxel goes to the largest q_k among those above
    their threshold, else it is background; of equal ones, to the first entry. A group that comes later lies over the
    earlier ones (a tumour over its organ): one file holds one value per voxel.
    """
    labels = np.zeros(margins.shape[1:], np.uint8)
    for group in dict.fromkeys(entry.group for entry in entries):
        best = np.full(labels.shape, -np.inf, np.float32)
        for margin, entry in zip(margins, entries, strict=True):
            if entry.group != group:
                continue
            # sigmoid is monotone: comparing its arguments decides the same, without losing digits near 1
            score = margin / np.float32(entry.temperature)
            wins = (score > math.log(entry.threshold / (1 - entry.threshold))) & (score > best)
            labels[wins] = entry.value
            best[wins] = score[wins]
    return labels


_LEFT_AND_RIGHT = tuple(OrganEntry.of(organ) for organ in SPLIT_KIDNEYS)


class _Clock:
    """Seconds since the last lap, by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, stage: str) -> None:
        now = time.perf_counter()
        self.seconds[stage], self._last = round(now - self._last, 3), now


def _shown(model: MetaModel, organs: Sequence[str] | None) -> tuple[OrganEntry, ...]:
    names = [entry.name for entry in model.organs]
    unknown = [organ for organ in organs or () if organ not in names]
    if unknown:
        raise InputError(f"The model has no head for {', '.join(unknown)}: it segments {', '.join(names)}.")
    return tuple(entry for entry in model.organs if organs is None or entry.name in organs)


def _only(labels: NDArray[np.uint8], entries: Sequence[OrganEntry]) -> NDArray[np.uint8]:
    kept = np.zeros(256, np.uint8)
    for entry in entries:
        kept[entry.value] = entry.value
    return kept[labels]


def _coarser(contract: DataContract, spacing_mm: float) -> DataContract:
    finest = max(contract.spacing_mm)
    if not spacing_mm >= finest:
        raise InputError(
            f"--spacing may only coarsen the model's grid: expected {finest:g} mm or more, found {spacing_mm:g}.",
            hint="Leave the option out for the best result.",
        )
    return replace(contract, spacing_mm=(spacing_mm, spacing_mm, spacing_mm))


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("Expected an NVIDIA graphics card for --device cuda, found none.", hint="Use --device cpu.")
    return torch.device(name)


def _window_count(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> int:
    """How many windows MONAI's sliding_window_inference will run (its dense_patch_slices)."""
    steps = (max(1, int(patch * (1 - overlap))) for patch in patch_size)
    sizes = zip(shape, patch_size, steps, strict=True)
    return math.prod(math.ceil(max(0, size - patch) / step) + 1 for size, patch, step in sizes)
