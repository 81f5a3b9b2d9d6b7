"""How a trained row turns a prepared CT into organs: heads of one or several networks, or one softmax.

A predictor gives maps on the network's grid; the caller interpolates them on the CT's own grid (preprocessing.restore)
and asks for masks and probabilities there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from monai.inferers.utils import sliding_window_inference
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import nn

from segviz_core.cases import Case
from segviz_core.experiments.as_published import Window, seen_through
from segviz_core.labels import organs_named
from segviz_core.merging import merge
from segviz_core.meta_model import OrganEntry
from segviz_core.network import SegVizNet
from segviz_core.norm_statistics import Network, adapted
from segviz_core.precision import autocast, channels_last
from segviz_core.torch_inference import margins

Maps = NDArray[np.float32]
Mask = NDArray[np.bool_]


class Predictor(Protocol):
    """What `scoring` needs of a trained row."""

    @property
    def organs(self) -> tuple[str, ...]:
        """Organs in the order of the probabilities."""

    def maps(self, voxels: NDArray[np.float32]) -> Maps:
        """Linear values (C, X, Y, Z) of voxels (X, Y, Z) in [0, 1]."""

    def masks(self, maps: Maps) -> dict[str, Mask]:
        """Mask per organ, on any grid."""

    def probabilities(self, maps: Maps) -> dict[str, NDArray[np.float32]]:
        """Probability per organ, on any grid."""


@dataclass(frozen=True)
class Heads:
    """Heads of one organ or more per network: one network (assembled), or one per site (personal, FEDBN's K passes).

    With `exclusive` the organs compete for every voxel (method.md section 7); else each head stands alone, as in
    networks that know one organ. `calibration` has (temperature, threshold) per organ, default (1, .5). With `windows`
    every organ has a pass of its own, through its site's window (as_published.py). `test_norm`: see plan.Setup.
    """

    networks: Sequence[tuple[SegVizNet, Sequence[str]]]
    patch_size: Sequence[int]
    exclusive: bool = True
    calibration: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    windows: Mapping[str, Window] = field(default_factory=dict)
    test_norm: float = 0.0

    @property
    def organs(self) -> tuple[str, ...]:
        return tuple(organ for _, organs in self.networks for organ in organs)

    def maps(self, voxels: NDArray[np.float32]) -> Maps:
        passes = [(n, o, voxels) for n, o in self.networks]
        if self.windows:
            passes = [(n, (k,), seen_through(voxels, self.windows[k])) for n, o in self.networks for k in o]
        size, share = self.patch_size, self.test_norm
        at_hand = [(_at_hand(n.eval(), v, share=share, patch_size=size), o, v) for n, o, v in passes]
        return np.concatenate([margins(n, v, organs=o, patch_size=size) for n, o, v in at_hand])

    def masks(self, maps: Maps) -> dict[str, Mask]:
        if not self.exclusive:
            return self.claims(maps)
        labels = merge(maps, self._entries())
        return {name: labels == organ.value for name, organ in organs_named(self.organs).items()}

    def claims(self, maps: Maps) -> dict[str, Mask]:
        """What each head would take for its organ if there were no other."""
        entries = self._entries()
        return {entry.name: merge(maps[i : i + 1], [entry]) > 0 for i, entry in enumerate(entries)}

    def probabilities(self, maps: Maps) -> dict[str, NDArray[np.float32]]:
        temperatures = [entry.temperature for entry in self._entries()]
        return {organ: expit(maps[i] / np.float32(temperatures[i])) for i, organ in enumerate(self.organs)}

    def _entries(self) -> list[OrganEntry]:
        organs = organs_named(self.organs)
        values = {name: self.calibration.get(name, (1.0, 0.5)) for name in organs}
        return [OrganEntry.of(organs[name], temperature=t, threshold=h) for name, (t, h) in values.items()]


@dataclass(frozen=True)
class Softmax:
    """One network with background and all organs as channels of one softmax."""

    network: nn.Module
    organs: tuple[str, ...]
    patch_size: Sequence[int]
    test_norm: float = 0.0

    def maps(self, voxels: NDArray[np.float32]) -> Maps:
        network = _at_hand(self.network.eval(), voxels, share=self.test_norm, patch_size=self.patch_size)
        device = next(network.parameters()).device
        image = torch.from_numpy(voxels)[None, None].to(device)

        def predict(window: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = network(channels_last(window))
            return logits.float()

        with torch.inference_mode(), autocast(device):
            logits = sliding_window_inference(image, tuple(self.patch_size), 1, predict, overlap=0.5, mode="gaussian")
        result: Maps = logits[0].float().cpu().numpy()
        return result

    def masks(self, maps: Maps) -> dict[str, Mask]:
        best = maps.argmax(0)
        return {organ: best == k for k, organ in enumerate(self.organs, start=1)}

    def probabilities(self, maps: Maps) -> dict[str, NDArray[np.float32]]:
        p = softmax(maps, axis=0)
        return {organ: p[k] for k, organ in enumerate(self.organs, start=1)}


def _at_hand(network: Network, voxels: NDArray[np.float32], *, share: float, patch_size: Sequence[int]) -> Network:
    """The network with `share` of its norm statistics those of this CT, as experts look at the CTs that they label."""
    if not share:
        return network
    ct = Case("ct", np.rint(voxels * 255).astype(np.uint8), {})
    return adapted(network, ct, share=share, patch_size=patch_size)
