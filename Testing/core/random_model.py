"""A tiny meta-model with random weights that nevertheless marks a tenth of a CT for each organ."""

import numpy as np
import torch

from segviz_core.contract import DataContract
from segviz_core.labels import ORGANS
from segviz_core.meta_model import MetaModel, OrganEntry
from segviz_core.network import NetworkConfig, SegVizNet
from segviz_core.preprocessing import prepare
from segviz_core.torch_inference import load_network, margins
from segviz_core.volumes import Volume

CONTRACT = DataContract((8, 8, 8))


def random_model(organs=None, *, seed=0, marked=0.1, head_stages=2) -> MetaModel:
    """Thresholds are set so that each head fires on `marked` of `random_ct()`'s voxels."""
    organs = tuple(ORGANS.values()) if organs is None else organs
    torch.manual_seed(seed)
    network = SegVizNet(
        NetworkConfig((4, 8, 16), (2, 2), 1, head_stages=head_stages), [organ.name for organ in organs]
    ).eval()
    weights = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    provenance = {"mode": "segviz+", "rounds": 2, "dice": {organ.name: 0.5 for organ in organs}, "sites": ["a", "b"]}
    entries = [OrganEntry.of(organ) for organ in organs]
    model = MetaModel(CONTRACT, network.config.to_dict(), (16, 16, 16), tuple(entries), weights, provenance)
    names = [organ.name for organ in organs]
    voxels = prepare(random_ct(), CONTRACT).voxels
    maps = margins(load_network(model, device="cpu"), voxels, organs=names, patch_size=(16, 16, 16))
    cuts = [float(np.quantile(m, 1 - marked)) + 1e-3 for m in maps]  # off the plateau that air gives
    entries = [OrganEntry.of(organ, threshold=1 / (1 + np.exp(-cut))) for organ, cut in zip(organs, cuts, strict=True)]
    return MetaModel(CONTRACT, network.config.to_dict(), (16, 16, 16), tuple(entries), weights, provenance)


def random_ct(shape=(40, 36, 30), spacing_mm=(6.0, 6.0, 7.0), *, seed=0) -> Volume:
    """Smooth random HU inside a body-like ellipsoid, air around it; RAS axes, int16."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(40, 90, size=(7, 7, 7))
    axes = [np.minimum((np.arange(n) * 7) // n, 6) for n in shape]
    hu = coarse[np.ix_(*axes)] + rng.normal(0, 10, size=shape)
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    inside = sum(axis**2 for axis in grid[:2]) < 0.9
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -100, -90, -300
    return Volume(np.where(inside, hu, -1000).astype(np.int16), affine)
