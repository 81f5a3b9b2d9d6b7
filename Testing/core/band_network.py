"""A network without weights that finds organs by their HU: what it says of a voxel depends on that voxel alone."""

import numpy as np

from segviz_core.contract import DataContract
from segviz_core.labels import ORGANS
from segviz_core.meta_model import MetaModel, OrganEntry

HU = {"liver": 110.0, "spleen": 140.0, "kidneys": 190.0, "pancreas": 80.0}
"""The middle of each organ's band, 24 HU wide."""


def band_model(spacing_mm=(8.0, 8.0, 8.0), *, organs=tuple(HU), stages=2, window_hu=(-175.0, 250.0)) -> MetaModel:
    """A meta-model that only `BandNetwork` can run: it has a contract and organs, but no weights to speak of."""
    return MetaModel(
        DataContract(spacing_mm, window_hu),
        {"channels": [1] * (stages + 1), "strides": [2] * stages, "num_res_units": 1},
        (16, 16, 16),
        tuple(OrganEntry.of(ORGANS[organ]) for organ in organs),
        {f"heads.{organ}.up.weight": np.zeros(1, np.float32) for organ in organs},
        {"mode": "bands of HU"},
    )


class BandNetwork:
    """Margins of `band_model`'s organs; `seen` keeps the sizes it was asked for."""

    precision = "fp32"

    def __init__(self, model: MetaModel) -> None:
        self.model = model
        self.seen: list[tuple[int, ...]] = []

    def margins(self, voxels):
        self.seen.append(voxels.shape)
        low, high = self.model.contract.window_hu
        hu = voxels * np.float32(high - low) + np.float32(low)
        return np.stack([12 - np.abs(hu - np.float32(HU[entry.name])) for entry in self.model.organs])
