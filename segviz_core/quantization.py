"""What int8 costs a model: ranges of its activations on CTs, and the Dice of its int8 labels to its fp32 labels.

Measured once, by `segviz_core export`, and stored in the model's header; using them needs neither nncf nor a CT.
"""

import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from segviz_core.errors import InputError
from segviz_core.inference import segment
from segviz_core.meta_model import MetaModel, Quantization, activations
from segviz_core.openvino_graph import build_graph
from segviz_core.preprocessing import network_grid, prepare_box
from segviz_core.volumes import read_ct

LARGEST_SAMPLE = 160
"""Voxels per axis of what the ranges are measured on: more costs memory and changes them little."""


def quantize(
    model: MetaModel, images: Sequence[Path], *, on_progress: Callable[[str, int, int], None] | None = None
) -> MetaModel:
    """`model` with its `quantization`, measured on CTs of the kind that it is for; eight of them are enough.

    Raises:
        InputError: a CT that cannot be read, or none that shows more than air.
    """
    report = on_progress or (lambda stage, done, total: None)
    samples: list[NDArray[np.float32]] = []
    for done, image in enumerate(images):
        report("ranges", done, len(images))
        samples += _sample(model, image)
    report("ranges", len(images), len(images))
    if not samples:
        raise InputError("None of the CTs shows more than air.", hint="Choose CTs of patients.")
    names = [entry.name for entry in model.organs]
    untried = Quantization(_ranges(model, samples), dict.fromkeys(names, 0.0), len(images))
    quantized = replace(model, quantization=untried)

    both: Counter[str] = Counter()
    each: Counter[str] = Counter()
    for done, image in enumerate(images):
        report("dice", done, len(images))
        ct = read_ct(image)
        exact, rounded = (
            segment(quantized, ct, device="cpu", precision=precision).labels for precision in ("fp32", "int8")
        )
        for entry in model.organs:
            a, b = exact == entry.value, rounded == entry.value
            both[entry.name] += int(np.count_nonzero(a & b))
            each[entry.name] += int(np.count_nonzero(a)) + int(np.count_nonzero(b))
    report("dice", len(images), len(images))
    dice = {name: round(2 * both[name] / each[name], 4) if each[name] else 0.0 for name in names}
    return replace(model, quantization=replace(untried, dice=dice))


def _sample(model: MetaModel, image: Path) -> Iterator[NDArray[np.float32]]:
    """The middle of what the network sees of a CT, (1, 1, X, Y, Z); nothing when that is air."""
    ct = read_ct(image)
    region = segment(model, ct, device="cpu", precision="fp32").region
    if region is None:
        return
    parts = []
    for first, end in region:
        size = min(end - first, LARGEST_SAMPLE)
        parts.append(slice(first + (end - first - size) // 2, first + (end - first + size) // 2))
    x, y, z = parts
    voxels = prepare_box(ct, model.contract, network_grid(ct, model.contract), (x, y, z))
    divisor = math.prod(model.network["strides"])
    yield np.pad(voxels, [(0, -size % divisor) for size in voxels.shape], mode="reflect")[None, None]


def _ranges(model: MetaModel, samples: Sequence[NDArray[np.float32]]) -> dict[str, tuple[float, float]]:
    """Range of every activation as nncf chooses it: symmetric, so that padding with 0 stays exact and fast, and one for
    all that is concatenated.

    The biases that nncf would correct stay as they were: on phantoms that lowered the Dice.
    """
    graph = build_graph(model)  # first: it keeps openvino's telemetry out, and nncf's with it
    import nncf

    with redirect_stdout(io.StringIO()):  # its progress bars would stand between our JSON lines
        rounded = nncf.quantize(
            graph,
            nncf.Dataset(samples),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.PERFORMANCE,
            advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
        )
    names = activations(model.weights)
    ranges = {}
    for node in rounded.get_ordered_ops():
        source = node.input_value(0).get_node().get_friendly_name() if node.get_type_name() == "FakeQuantize" else ""
        if source in names:
            low, high = (node.input_value(i).get_node().get_data().item() for i in (1, 2))
            ranges[source] = (float(low), float(high))
    return ranges
