"""A meta-model as one OpenVINO graph, built from its weights with numpy alone: segmenting needs no torch
(architecture.md, choice 3).

deployment = deploy(MetaModel.load(Path("meta_model.safetensors")))
margins = deployment.margins(voxels)                # (X, Y, Z) in [0, 1] -> (K, X, Y, Z)

The graph is method.md section 2's network as it runs after training: BatchNorm folded into the convolutions, the K
heads side by side, and of their two logits only the difference. It takes any shape, so that it is compiled once.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segviz_core.meta_model import MetaModel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Array = NDArray[np.float32]
Node = Any  # an openvino node; the package has no type hints for its operators

_EPSILON = 1e-5
"""`eps` of torch's BatchNorm, which MONAI leaves at its default."""


class Deployment:
    """A compiled model; `precision` (fp32 or bf16) is what it really runs in."""

    def __init__(self, compiled: Any, *, precision: str, divisor: int) -> None:
        self.precision = precision
        self._divisor = divisor
        self._request = compiled.create_infer_request()

    def margins(self, voxels: Array) -> Array:
        """Logit of organ minus logit of background per head: windowed voxels (X, Y, Z) in [0, 1] -> (K, X, Y, Z).

        Any size: the end of each axis is padded with 0, air, up to what the network's strides need, and cropped again.
        """
        padding = [(0, -size % self._divisor) for size in voxels.shape]
        padded = np.ascontiguousarray(np.pad(voxels, padding) if any(end for _, end in padding) else voxels, np.float32)
        self._request.infer([padded[None, None]], share_inputs=True)
        x, y, z = voxels.shape
        result: Array = self._request.get_output_tensor(0).data[0, :, :x, :y, :z].copy()
        return result


def deploy(
    model: MetaModel, *, precision: str = "auto", threads: int | None = None, cache: Path | None = None
) -> Deployment:
    """Compile `model` for this machine's CPU.

    `precision` is fp32, bf16 or auto; bf16 becomes fp32 where the CPU cannot compute with it. `threads` is the number
    of CPU cores to use (default: all physical ones).
    """
    openvino = _openvino()
    core = openvino.Core()
    has_bf16 = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    precision = "bf16" if precision != "fp32" and has_bf16 else "fp32"
    settings: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_HYPER_THREADING": False,
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
    }
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    compiled = core.compile_model(_Graph(model).build(), "CPU", settings)
    return Deployment(compiled, precision=precision, divisor=math.prod(model.network["strides"]))


class _Graph:
    """The network of a model as an OpenVINO graph; names of methods and keys follow MONAI's UNet and network.py."""

    def __init__(self, model: MetaModel) -> None:
        self.model = model
        self.weights: Mapping[str, Array] = model.weights
        _openvino()
        import openvino.opset13 as op

        self.op = op

    def build(self) -> Any:
        """Input (1, 1, X, Y, Z), output (1, K, X, Y, Z) with sizes that the strides divide."""
        channels, strides = self.model.network["channels"], self.model.network["strides"]
        x = self.op.parameter([1, 1, -1, -1, -1], np.float32)
        features = self.residual_unit(x, "representation.0", strides[0])
        below = self.level(features, "representation.1.submodule", channels[1:], strides[1:])
        margins = self.heads(self.op.concat([features, below], 1), strides[0])
        return _openvino().Model([self.op.result(margins)], [x], "segviz")

    def level(self, x: Node, key: str, channels: "Sequence[int]", strides: "Sequence[int]") -> Node:
        """What lies between two resolutions: down, the level below, and up again."""
        if not strides:
            return self.residual_unit(x, key, 1)
        features = self.residual_unit(x, f"{key}.0", strides[0])
        below = self.level(features, f"{key}.1.submodule", channels[1:], strides[1:])
        up = self.unit(self.op.concat([features, below], 1), f"{key}.2.0", strides[0], transposed=True)
        return self.residual_unit(up, f"{key}.2.1", 1)

    def residual_unit(self, x: Node, key: str, stride: int) -> Node:
        """MONAI's ResidualUnit: its units, plus the input (through a convolution where size or channels change)."""
        y = self.unit(x, f"{key}.conv.unit0", stride)
        number = 1
        while f"{key}.conv.unit{number}.conv.weight" in self.weights:
            y = self.unit(y, f"{key}.conv.unit{number}", 1)
            number += 1
        if f"{key}.residual.weight" in self.weights:
            x = self.convolution(
                x, self.weights[f"{key}.residual.weight"], self.weights[f"{key}.residual.bias"], stride
            )
        return self.op.add(y, x)

    def unit(self, x: Node, key: str, stride: int, *, transposed: bool = False) -> Node:
        """Convolution with its BatchNorm folded in, then PReLU."""
        weight, bias = self.folded(f"{key}.conv", f"{key}.adn.N", transposed=transposed)
        convolve = self.transposed_convolution if transposed else self.convolution
        return self.prelu(convolve(x, weight, bias, stride), self.weights[f"{key}.adn.A.weight"])

    def heads(self, x: Node, stride: int) -> Node:
        """All heads side by side: features -> one margin per organ.

        The residual convolution and the sum after it are linear, and so is the difference of a head's two logits: one
        convolution does all three. It is written without groups: the zeros cost less than a grouped one.
        """
        keys = [f"heads.{entry.name}" for entry in self.model.organs]
        ups = [self.folded(f"{key}.up", f"{key}.norm", transposed=True) for key in keys]
        slopes = np.concatenate([np.repeat(self.weights[f"{key}.act.weight"], 2) for key in keys])
        x = self.transposed_convolution(
            x, np.concatenate([weight for weight, _ in ups], axis=1), np.concatenate([bias for _, bias in ups]), stride
        )
        x = self.prelu(x, slopes)
        weight = np.zeros((len(keys), 2 * len(keys), 3, 3, 3), np.float32)
        bias = np.zeros(len(keys), np.float32)
        for i, key in enumerate(keys):
            background, organ = self.weights[f"{key}.residual.weight"]
            weight[i, 2 * i : 2 * i + 2] = organ - background
            weight[i, 2 * i : 2 * i + 2, 1, 1, 1] += (-1, 1)
            bias[i] = np.diff(self.weights[f"{key}.residual.bias"])[0]
        return self.convolution(x, weight, bias, 1)

    def folded(self, convolution: str, norm: str, *, transposed: bool) -> tuple[Array, Array]:
        """Weight and bias of a convolution and the BatchNorm after it, as one."""
        w = self.weights
        scale = w[f"{norm}.weight"] / np.sqrt(w[f"{norm}.running_var"] + np.float32(_EPSILON))
        bias = (w[f"{convolution}.bias"] - w[f"{norm}.running_mean"]) * scale + w[f"{norm}.bias"]
        return w[f"{convolution}.weight"] * scale.reshape((1, -1, 1, 1, 1) if transposed else (-1, 1, 1, 1, 1)), bias

    def convolution(self, x: Node, weight: Array, bias: Array, stride: int) -> Node:
        pads = [weight.shape[2] // 2] * 3
        return self.biased(
            self.op.convolution(x, self.op.constant(weight, np.float32), [stride] * 3, pads, pads, [1] * 3), bias
        )

    def transposed_convolution(self, x: Node, weight: Array, bias: Array, stride: int) -> Node:
        ones = [1] * 3
        up = self.op.convolution_backprop_data(
            x,
            self.op.constant(weight, np.float32),
            strides=[stride] * 3,
            pads_begin=ones,
            pads_end=ones,
            dilations=ones,
            output_padding=[stride - 1] * 3,
        )
        return self.biased(up, bias)

    def biased(self, x: Node, bias: Array) -> Node:
        return self.op.add(x, self.op.constant(bias.reshape(1, -1, 1, 1, 1), np.float32))

    def prelu(self, x: Node, slope: Array) -> Node:
        return self.op.prelu(x, self.op.constant(slope, np.float32))


def _openvino() -> Any:
    """The package, imported without its telemetry: that writes a client id into the home and sends on import."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # what `import` takes for "not installed"
    import openvino

    return openvino
