"""A meta-model on this machine's CPU, run by OpenVINO: segmenting needs no torch (architecture.md, choice 3).

deployment = deploy(MetaModel.load(Path("meta_model.safetensors")))
margins = deployment.margins(voxels)                # (X, Y, Z) in [0, 1] -> (K, X, Y, Z)

Nothing is kept on disk: compiling for one shape takes .1 to .2 CPU seconds (reading a compiled graph back: .06), and
hardly two CTs have a region of the same shape. A process keeps the last few shapes, for the next look at the same CT. A
graph for any shape would compile once, but int8 takes .5 s for that, and the first pass of each shape .1 to .2 s more.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segviz_core.errors import InputError
from segviz_core.head_stages import head_stages
from segviz_core.meta_model import MetaModel
from segviz_core.openvino_graph import build_graph, openvino

Array = NDArray[np.float32]

KEPT_SHAPES = 3
"""A CT takes two, the coarse view and the region, or three where that was too small; each holds 40 MB at rest."""


class Deployment:
    """A model on this machine's CPU; `precision` (fp32, bf16 or int8) is what it really computes in."""

    def __init__(self, graph: Any, *, precision: str, divisor: int, settings: Mapping[str, Any]) -> None:
        self.precision = precision
        self._graph = graph
        self._divisor = divisor
        self._settings = settings
        self._compiled: dict[tuple[int, ...], Any] = {}  # the last used comes last

    def margins(self, voxels: Array) -> Array:
        """Logit of organ minus logit of background per head: windowed voxels (X, Y, Z) in [0, 1] -> (K, X, Y, Z).

        Any size: the end of each axis is padded with 0, air, up to a multiple of what the strides need, and cropped
        again. Compiles for a padded shape that is none of the last KEPT_SHAPES.
        """
        padding = [(0, -size % self._divisor) for size in voxels.shape]
        padded = np.ascontiguousarray(np.pad(voxels, padding) if any(end for _, end in padding) else voxels, np.float32)
        compiled = self._compiled_for(padded.shape)
        request = compiled.create_infer_request()
        result: Array = np.empty(compiled.output(0).shape, np.float32)
        request.set_output_tensor(0, openvino().Tensor(result, shared_memory=True))
        request.infer([padded[None, None]], share_inputs=True)
        x, y, z = voxels.shape
        return result[0, :, :x, :y, :z]

    def rest(self) -> None:
        """Give back what the last pass holds of the memory; weights and compiled graphs stay."""
        for compiled in self._compiled.values():
            compiled.release_memory()

    def _compiled_for(self, shape: tuple[int, ...]) -> Any:
        compiled = self._compiled.pop(shape, None)
        if compiled is None:
            self.rest()  # the memory of the old ones goes before the new one comes
            for oldest in list(self._compiled)[: len(self._compiled) - KEPT_SHAPES + 1]:
                del self._compiled[oldest]
            self._graph.reshape([1, 1, *shape])
            compiled = openvino().Core().compile_model(self._graph, "CPU", dict(self._settings))
        self._compiled[shape] = compiled
        return compiled


def deploy(model: MetaModel, *, precision: str = "auto", threads: int | None = None) -> Deployment:
    """`model` as it will run on this machine's CPU.

    `precision` is fp32, bf16, int8 or auto: int8 where the model was accepted for it (`MetaModel.quantization`), else
    bf16. bf16 becomes fp32 where the CPU has no units for it. `threads` is the number of cores to use (default: all
    physical ones).

    Raises:
        InputError: int8 for a model without measured ranges.
    """
    quantization = model.quantization
    if precision == "int8" and quantization is None:
        raise InputError(
            "The model has no ranges for int8.", hint="Measure them: python -m segviz_core export MODEL OUT --cases DIR"
        )
    if precision == "auto" and quantization is not None and quantization.accepted:
        precision = "int8"
    if precision in ("auto", "bf16"):
        precision = "bf16" if _computes_bf16() else "fp32"
    ranges = quantization.ranges if quantization is not None and precision == "int8" else {}
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_HYPER_THREADING": False,
        "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
        **({"INFERENCE_NUM_THREADS": threads} if threads else {}),
    }
    # In fp32 half the resolution is slower for heads that run side by side, but not for those that take their turn.
    half_resolution = precision != "fp32" or head_stages(model.network) == 2
    return Deployment(
        build_graph(model, ranges, half_resolution=half_resolution),
        precision=precision,
        divisor=math.prod(model.network["strides"]),
        settings=settings,
    )


def warm_up() -> None:
    """What takes time once per process: importing OpenVINO and loading its part for processors."""
    _computes_bf16()


def _computes_bf16() -> bool:
    """Whether bf16 is faster than fp32 here: the CPU has matrix units for it (AMX).

    OpenVINO lists BF16 also for CPUs with vector instructions only, where it took 1.4 times as long as fp32; it lists
    FP16 besides where there is more.
    """
    return {"BF16", "FP16"} <= set(openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
