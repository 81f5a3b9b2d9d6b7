"""A model made ready to run: with OpenVINO on a processor, with torch on an NVIDIA card."""

import ctypes.util
import shutil
from importlib.util import find_spec
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from segviz_core.errors import InputError
from segviz_core.meta_model import MetaModel


class Network(Protocol):
    """A model that is ready to run: a `deployment.Deployment` or a `torch_inference.OnePass`."""

    @property
    def precision(self) -> str:
        """What it computes in: fp32, bf16, int8 or amp."""
        ...

    def margins(self, voxels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logit of organ minus logit of background per head: (X, Y, Z) in [0, 1] -> (K, X, Y, Z)."""
        ...

    def rest(self) -> None:
        """Give back what the last pass holds of the memory; the weights stay."""
        ...


def load(
    model: MetaModel,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> Network:
    """`model` on `device` (auto, cpu or cuda): auto takes an NVIDIA card where torch can use one.

    `precision` and `threads` are those of `deployment.deploy`; a card computes in half precision where that is safe.

    Raises:
        InputError: there is no NVIDIA card or no torch that can use it; weights that do not fit the network's settings.
    """
    if device == "cuda" or (device == "auto" and _has_driver()):
        if find_spec("torch") and find_spec("monai"):
            from segviz_core.devices import has_card
            from segviz_core.torch_inference import OnePass

            if has_card():
                return OnePass(model, device="cuda")
        if device == "cuda":
            raise no_card()
    from segviz_core.deployment import deploy

    return deploy(model, precision=precision, threads=threads)


def no_card() -> InputError:
    """What to say where --device cuda cannot be had."""
    return InputError(
        "Expected an NVIDIA graphics card and PyTorch with CUDA for --device cuda, found none.",
        hint="Use --device cpu.",
    )


def _has_driver() -> bool:
    """Whether an NVIDIA driver seems to be installed: torch, which knows, takes two seconds to import."""
    return bool(shutil.which("nvidia-smi") or ctypes.util.find_library("cuda") or ctypes.util.find_library("nvcuda"))
