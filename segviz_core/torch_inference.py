"""Inference with torch: on an NVIDIA card the whole region in one pass; in training, windows over whole volumes.

Segmenting on a processor does not come here (deployment.py).
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from torch import Tensor

from segviz_core.errors import InputError, SegVizError
from segviz_core.meta_model import MetaModel
from segviz_core.network import NetworkConfig, SegVizNet, fused_margins
from segviz_core.precision import Precision, autocast, channels_last


class OnePass:
    """A model that takes a region in one pass; on an NVIDIA card in half precision where that is safe (AMP)."""

    def __init__(self, model: MetaModel, *, device: str = "cuda") -> None:
        self._network = load_network(model, device=device)
        self._heads = [self._network.head(entry.name) for entry in model.organs]
        self._device = torch.device(device)
        self.precision = "amp" if device == "cuda" else "fp32"

    def margins(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logit of organ minus logit of background per head: (X, Y, Z) in [0, 1] -> (K, X, Y, Z).

        Sizes are multiples of the product of the network's strides.
        """
        image = torch.from_numpy(np.ascontiguousarray(voxels, np.float32))[None, None].to(self._device)
        try:
            with torch.inference_mode(), torch.autocast(self._device.type, torch.float16, self.precision == "amp"):
                found = fused_margins(self._network.representation(image), self._heads)[0].float().cpu()
        except torch.OutOfMemoryError as error:
            raise _too_large() from error
        result: NDArray[np.float32] = found.numpy()
        return result

    def rest(self) -> None:
        """Give back what the last pass holds of the card's memory, for a site that trains there; the weights stay."""
        torch.cuda.empty_cache()


def load_network(model: MetaModel, *, device: str = "cpu") -> SegVizNet:
    """The network of `model`, in eval mode, its weights matched strictly by key and shape; `device` is cpu or cuda."""
    network = SegVizNet(NetworkConfig.from_dict(model.network), [entry.name for entry in model.organs])
    try:
        network.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in model.weights.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"The model's weights do not fit its network settings: {reason[:200]}.",
            hint="The file was changed by hand or damaged; get it again from where it was published.",
        ) from error
    return network.eval().to(device)


def margins(
    network: SegVizNet,
    voxels: NDArray[np.float32],
    *,
    organs: Sequence[str],
    patch_size: Sequence[int],
    overlap: float = 0.5,
    precision: Precision = "auto",
    on_window: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Logit of organ minus logit of background, per head, by windows: voxels (X, Y, Z) in [0, 1] -> (K, X, Y, Z).

    Windows of `patch_size` with `overlap` are blended with Gaussian weights (method.md section 7); the representation
    runs once per window, in bf16 where the machine multiplies it (precision.py). A volume smaller than a patch is
    padded with 0, air. `on_window(done, total)` may raise Cancelled. The network must be in eval mode.
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
        done += 1
        return fused_margins(network.representation(channels_last(window)), heads).float()

    image = torch.from_numpy(np.ascontiguousarray(voxels, np.float32))[None, None].to(device)
    try:
        with torch.inference_mode(), autocast(device, precision):
            blended = sliding_window_inference(image, tuple(patch_size), 1, predict, overlap=overlap, mode="gaussian")
    except torch.OutOfMemoryError as error:
        raise _too_large() from error
    if on_window:
        on_window(total, total)
    result: NDArray[np.float32] = blended[0].cpu().numpy()
    return result


def _too_large() -> SegVizError:
    return SegVizError("The graphics card has not enough free memory for this CT.", hint="Use --device cpu, or --fast.")


def _window_count(shape: Sequence[int], patch_size: Sequence[int], overlap: float) -> int:
    """How many windows MONAI's sliding_window_inference will run (its dense_patch_slices)."""
    steps = (max(1, int(patch * (1 - overlap))) for patch in patch_size)
    sizes = zip(shape, patch_size, steps, strict=True)
    return math.prod(math.ceil(max(0, size - patch) / step) + 1 for size, patch, step in sizes)
