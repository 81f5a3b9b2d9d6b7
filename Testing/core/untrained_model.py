"""A meta-model of any size with random weights and norm statistics, made without torch."""

import numpy as np

from segviz_core.contract import DataContract
from segviz_core.labels import ORGANS
from segviz_core.meta_model import MetaModel, OrganEntry


def untrained_model(
    channels=(4, 8, 16), strides=(2, 2), num_res_units=1, organs=("liver", "spleen"), *, head_stages=1, seed=0
):
    """The keys of network.SegVizNet's state; the first stride is 2."""
    rng = np.random.default_rng(seed)
    weights = {}

    def convolution(key, inputs, outputs, size=3, *, transposed=False):
        shape = (inputs, outputs) if transposed else (outputs, inputs)
        weights[f"{key}.weight"] = rng.normal(size=(*shape, size, size, size)) / np.sqrt(inputs * size**3)
        weights[f"{key}.bias"] = rng.normal(size=outputs) / 4

    def norm(key, channels):
        weights[f"{key}.weight"], weights[f"{key}.running_var"] = rng.uniform(0.5, 1.5, (2, channels))
        weights[f"{key}.bias"], weights[f"{key}.running_mean"] = rng.normal(size=(2, channels)) / 4
        weights[f"{key}.num_batches_tracked"] = np.array(7)

    def unit(key, inputs, outputs, *, transposed=False):
        convolution(f"{key}.conv", inputs, outputs, transposed=transposed)
        norm(f"{key}.adn.N", outputs)
        weights[f"{key}.adn.A.weight"] = rng.uniform(0, 0.5, 1)

    def residual_unit(key, inputs, outputs, units, stride=1):
        for number in range(units):
            unit(f"{key}.conv.unit{number}", outputs if number else inputs, outputs)
        if stride != 1 or inputs != outputs:
            convolution(f"{key}.residual", inputs, outputs, 1 if stride == 1 else 3)

    def level(key, channels, strides):
        if not strides:
            residual_unit(key, channels[0], channels[1], num_res_units)
            return channels[1]
        residual_unit(f"{key}.0", channels[0], channels[1], num_res_units, strides[0])
        below = level(f"{key}.1.submodule", channels[1:], strides[1:])
        unit(f"{key}.2.0", channels[1] + below, channels[0], transposed=True)
        residual_unit(f"{key}.2.1", channels[0], channels[0], 1)
        return channels[0]

    deep = head_stages == 2
    residual_unit("representation.first" if deep else "representation.0", 1, channels[0], num_res_units, strides[0])
    if deep:
        residual_unit("representation.below.0", channels[0], channels[1], num_res_units, strides[1])
        quarter = channels[1] + level("representation.below.1.submodule", channels[1:], strides[2:])
        for organ in organs:
            unit(f"heads.{organ}.stage.0", quarter, channels[0], transposed=True)
            residual_unit(f"heads.{organ}.stage.1", channels[0], channels[0], 1)
        features = 2 * channels[0]
    else:
        features = channels[0] + level("representation.1.submodule", channels, strides[1:])
    for organ in organs:
        convolution(f"heads.{organ}.up", features, 2, transposed=True)
        norm(f"heads.{organ}.norm", 2)
        weights[f"heads.{organ}.act.weight"] = rng.uniform(0, 0.5, 1)
        convolution(f"heads.{organ}.residual", 2, 2)
    return MetaModel(
        DataContract((8, 8, 8)),
        {"channels": list(channels), "strides": list(strides), "num_res_units": num_res_units}
        | ({"head_stages": head_stages} if deep else {}),
        (2 ** len(strides) * 4,) * 3,
        tuple(OrganEntry.of(ORGANS[organ]) for organ in organs),
        {key: value if value.dtype.kind == "i" else value.astype(np.float32) for key, value in weights.items()},
    )
