"""The network of a meta-model as a graph of OpenVINO's operators, built from its weights with numpy alone.

It is method.md section 2's network as it runs after training: BatchNorm folded into the convolutions, the K heads side
by side (those of two decoder stages one after the other), and of their two logits only the difference.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segviz_core.errors import InputError
from segviz_core.head_stages import head_stages
from segviz_core.meta_model import MetaModel

Array = NDArray[np.float32]
Node = Any  # an openvino node: the package has no type hints for its operators

_EPSILON = np.float32(1e-5)
"""`eps` of torch's BatchNorm, which MONAI leaves at its default."""


def build_graph(
    model: MetaModel, ranges: Mapping[str, Sequence[float]] | None = None, *, half_resolution: bool = False
) -> Any:
    """The network of `model` as an openvino.Model: input (1, 1, X, Y, Z), output (1, K, X, Y, Z), any X, Y, Z that the
    strides divide.

    `ranges` (lowest and highest value per activation of `meta_model.activations`) make it int8. `half_resolution`
    computes the heads on half the resolution, all eight voxels of a cell as channels: the same numbers with twice the
    arithmetic and a fraction of the memory traffic. Measured for 208 x 176 x 160 voxels and 4 heads in CPU seconds, so
    / on full resolution: bf16 .42 / .98, int8 .26 / .38 (AMX; AVX-512 VNNI: .47 / .64), but fp32 1.37 / 1.15.

    Heads of two decoder stages take their turn: 1.45 (fp32) and 1.5 (int8) times the time of heads of one stage, on
    half the resolution in both (AVX-512). Side by side, with zeros between them, fp32 took 1.6.
    """
    graph = _Graph(model, ranges or {}, half_resolution=half_resolution)
    try:
        built = graph.build()
        left = sorted(set(graph.weights) - graph.used)
        if left:
            raise ValueError(f"unexpected {left[0]}")
    except (KeyError, ValueError, RuntimeError) as error:
        reason = f"missing {error.args[0]}" if isinstance(error, KeyError) else " ".join(str(error).split())
        raise InputError(
            f"The model's weights do not fit its network settings: {reason[:200]}.",
            hint="The file was changed by hand or damaged; get it again from where it was published.",
        ) from error
    return built


def openvino() -> Any:
    """The package, without its telemetry, which on import writes a client id into the home and sends an event.

    Its tools for other frameworks stay out too: they double the time of the import.
    """
    if "openvino" not in sys.modules:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # `import` takes it for not installed
        sys.modules["openvino.tools"] = None  # type: ignore[assignment]
    import openvino as package

    if sys.modules.get("openvino.tools", package) is None:
        sys.modules.pop("openvino.tools", None)
    return package


class _Graph:
    """Operators of openvino put together as network.py and MONAI's UNet do; keys are those of the weights."""

    def __init__(self, model: MetaModel, ranges: Mapping[str, Sequence[float]], *, half_resolution: bool) -> None:
        self.op = openvino().opset13
        self.model = model
        self.weights = {
            key: np.asarray(value, np.float32)
            for key, value in model.weights.items()
            if not key.endswith(".num_batches_tracked")
        }
        self.used: set[str] = set()
        self.ranges = ranges
        self.half_resolution = half_resolution

    def build(self) -> Any:
        channels, strides = self.model.network["channels"], self.model.network["strides"]
        organs = [entry.name for entry in self.model.organs]
        parameter = self.op.parameter([1, 1, -1, -1, -1], np.float32)
        if head_stages(self.model.network) == 2:
            features = self.residual_unit(parameter, "representation.first", strides[0])
            half = self.residual_unit(features, "representation.below.0", strides[1])
            below = self.level(half, "representation.below.1.submodule", channels[2:], strides[2:])
            quarter = self.op.concat([half, below], 1)
            margins = self.op.concat([self.deep_head(features, quarter, organ, strides[1]) for organ in organs], 1)
        else:
            features = self.residual_unit(parameter, "representation.0", strides[0])
            below = self.level(features, "representation.1.submodule", channels[1:], strides[1:])
            margins = self.heads(self.op.concat([features, below], 1), organs, "heads")
        return openvino().Model([self.op.result(margins)], [parameter], "segviz")

    def deep_head(self, features: Node, below: Node, organ: str, stride: int) -> Node:
        """A head of the last two decoder stages: features of half and what the decoder reads for it -> a margin."""
        up = self.unit(below, f"heads.{organ}.stage.0", stride, transposed=True)
        up = self.residual_unit(up, f"heads.{organ}.stage.1", 1)
        return self.heads(self.op.concat([features, up], 1), [organ], f"heads.{organ}")

    def level(self, x: Node, key: str, channels: Sequence[int], strides: Sequence[int]) -> Node:
        """One resolution: down to it, the levels below, and up again."""
        if not strides:
            return self.residual_unit(x, key, 1)
        features = self.residual_unit(x, f"{key}.0", strides[0])
        below = self.level(features, f"{key}.1.submodule", channels[1:], strides[1:])
        up = self.unit(self.op.concat([features, below], 1), f"{key}.2.0", strides[0], transposed=True)
        return self.residual_unit(up, f"{key}.2.1", 1)

    def residual_unit(self, x: Node, key: str, stride: int) -> Node:
        """MONAI's ResidualUnit: units, plus the input, through a convolution where its size or channels change."""
        y = self.unit(x, f"{key}.conv.unit0", stride)
        number = 1
        while f"{key}.conv.unit{number}.conv.weight" in self.weights:
            y = self.unit(y, f"{key}.conv.unit{number}", 1)
            number += 1
        shortcut = f"{key}.residual"
        if f"{shortcut}.weight" in self.weights:
            x = self.convolution(x, self.weight(f"{shortcut}.weight"), self.weight(f"{shortcut}.bias"), stride)
            x = self.activation(x, shortcut)
        return self.activation(self.op.add(y, x), key)

    def unit(self, x: Node, key: str, stride: int, *, transposed: bool = False) -> Node:
        """A convolution with the BatchNorm after it folded in, then PReLU."""
        weight, bias = self.folded(f"{key}.conv", f"{key}.adn.N", transposed=transposed)
        convolve = self.transposed_convolution if transposed else self.convolution
        return self.activation(self.prelu(convolve(x, weight, bias, stride), self.weight(f"{key}.adn.A.weight")), key)

    def heads(self, x: Node, organs: Sequence[str], name: str) -> Node:
        """Last decoder stages side by side: features of half the resolution -> one margin per organ. `name` is that of
        what lies between their two convolutions.

        A head's residual convolution, the sum after it and the difference of its two logits are linear: one convolution
        does all three. It has no groups: the zeros between the heads cost less than a grouped one.
        """
        keys = [f"heads.{organ}" for organ in organs]
        ups = [self.folded(f"{key}.up", f"{key}.norm", transposed=True) for key in keys]
        up, up_bias = np.concatenate([up for up, _ in ups], axis=1), np.concatenate([bias for _, bias in ups])
        slope = np.concatenate([np.repeat(self.weight(f"{key}.act.weight"), 2) for key in keys])
        last = np.zeros((len(keys), 2 * len(keys), 3, 3, 3), np.float32)
        last_bias = np.concatenate([np.diff(self.weight(f"{key}.residual.bias")) for key in keys])
        for i, key in enumerate(keys):
            background, organ = self.weight(f"{key}.residual.weight")
            last[i, 2 * i : 2 * i + 2] = organ - background
            last[i, 2 * i : 2 * i + 2, 1, 1, 1] += (-1, 1)
        if not self.half_resolution:
            x = self.activation(self.prelu(self.transposed_convolution(x, up, up_bias, 2), slope), name)
            return self.convolution(x, last, last_bias, 1)
        up_bias, slope, last_bias = np.repeat(up_bias, 8), np.repeat(slope, 8), np.repeat(last_bias, 8)
        x = self.biased(
            self.op.convolution(x, self.kernel(_up_by_phase(up)), [1] * 3, [0] * 3, [1] * 3, [1] * 3), up_bias
        )
        x = self.convolution(self.activation(self.prelu(x, slope), name), _by_phase(last), last_bias, 1)
        return self.op.depth_to_space(x, "depth_first", 2)

    def weight(self, key: str) -> Array:
        self.used.add(key)
        return self.weights[key]

    def folded(self, convolution: str, norm: str, *, transposed: bool) -> tuple[Array, Array]:
        """Weight and bias of a convolution and the BatchNorm after it as one."""
        w = self.weight
        scale = w(f"{norm}.weight") / np.sqrt(w(f"{norm}.running_var") + _EPSILON)
        bias = (w(f"{convolution}.bias") - w(f"{norm}.running_mean")) * scale + w(f"{norm}.bias")
        return w(f"{convolution}.weight") * scale.reshape((1, -1, 1, 1, 1) if transposed else (-1, 1, 1, 1, 1)), bias

    def convolution(self, x: Node, weight: Array, bias: Array, stride: int) -> Node:
        pads = [weight.shape[2] // 2] * 3
        return self.biased(self.op.convolution(x, self.kernel(weight), [stride] * 3, pads, pads, [1] * 3), bias)

    def transposed_convolution(self, x: Node, weight: Array, bias: Array, stride: int) -> Node:
        """Kernel 3; `stride` times the size of the input."""
        kernel, ones = self.kernel(weight, outputs=1), [1] * 3
        up = self.op.convolution_backprop_data(
            x, kernel, [stride] * 3, None, ones, ones, ones, output_padding=[stride - 1] * 3
        )
        return self.biased(up, bias)

    def biased(self, x: Node, bias: Array) -> Node:
        return self.op.add(x, self.op.constant(bias.reshape(1, -1, 1, 1, 1), np.float32))

    def prelu(self, x: Node, slope: Array) -> Node:
        return self.op.prelu(x, self.op.constant(slope, np.float32))

    def activation(self, x: Node, name: str) -> Node:
        """Named, so that its range can be measured, and in 256 steps where that is known."""
        x.set_friendly_name(name)
        if not self.ranges:
            return x
        low, high = (self.op.constant(value, np.float32) for value in self.ranges[name])
        return self.op.fake_quantize(x, low, high, low, high, 256)

    def kernel(self, weight: Array, *, outputs: int = 0) -> Node:
        """A kernel whose axis `outputs` counts the output channels; for int8 in 255 steps per output channel.

        The kernels that read the CT itself stay exact: rounding only them cost more Dice than rounding all others.
        """
        if not self.ranges or weight.shape[1 - outputs] == 1:
            return self.op.constant(weight, np.float32)
        others = tuple(axis for axis in range(weight.ndim) if axis != outputs)
        step = np.abs(weight).max(axis=others, keepdims=True) / np.float32(127)
        step[step == 0] = 1
        rounded = self.op.constant(np.rint(weight / step).astype(np.int8))
        return self.op.multiply(self.op.convert(rounded, np.float32), self.op.constant(step, np.float32))


def _up_by_phase(weight: Array) -> Array:
    """A transposed kernel (I, O, 3, 3, 3) of stride 2 as one that gives the eight voxels of a cell: (8 O, I, 2, 2, 2).

    Along an axis, voxel 2i is w[1] x[i] and voxel 2i + 1 is w[2] x[i] + w[0] x[i + 1].
    """
    taps = np.zeros((2, 2, 3), np.float32)  # phase, offset on the input's grid, position in the kernel
    taps[0, 0, 1] = taps[1, 0, 2] = taps[1, 1, 0] = 1
    phases: Array = np.einsum("pak,qbl,rcm,ioklm->opqriabc", taps, taps, taps, weight, optimize=True)
    return phases.reshape(-1, weight.shape[0], 2, 2, 2)


def _by_phase(weight: Array) -> Array:
    """A kernel (O, I, 3, 3, 3) for tensors that hold the eight voxels of a cell as channels: (8 O, 8 I, 3, 3, 3)."""
    taps = np.zeros((2, 2, 3, 3), np.float32)  # phase out, phase in, offset in cells, position in the kernel
    for phase in range(2):
        for position in range(3):
            cell, phase_in = divmod(phase + position - 1, 2)
            taps[phase, phase_in, cell + 1, position] = 1
    phases: Array = np.einsum("pxat,qybu,rzcv,oituv->opqrixyzabc", taps, taps, taps, weight, optimize=True)
    return phases.reshape(8 * weight.shape[0], 8 * weight.shape[1], 3, 3, 3)
