"""Norm statistics of the CT at hand: what lets a network of one scanner look at another's (AdaBN, arXiv 1603.04779)."""

import copy
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import nn

from segviz_core.batches import draw_batch
from segviz_core.cases import Case
from segviz_core.network import SegVizNet, fused_margins
from segviz_core.precision import autocast, channels_last
from segviz_core.training import step_generator

Network = TypeVar("Network", bound=nn.Module)

BATCHES, BATCH_SIZE = 8, 2
"""Patches that give the statistics of a CT; three times as many give no better labels (docs/method_log.md)."""


def adapted(network: Network, case: Case, *, share: float, patch_size: Sequence[int]) -> Network:
    """A copy of `network`, in eval mode, in which `share` of the running norm statistics are those that `case` gives.

    They are gathered from patches, half of them around voxels of the organs that are annotated in the case. Weights
    are the same, and so are norm layers without running statistics.
    """
    network = copy.deepcopy(network)
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d) and m.running_mean is not None]
    before = [[buffer.clone() for buffer in _statistics(layer)] for layer in layers]
    device = next(network.parameters()).device
    network.train()
    with torch.no_grad():
        for i in range(BATCHES):
            for layer in layers:
                layer.momentum = 1 / (i + 1)  # the plain mean of all batches
            rng = step_generator(case.name, i)
            batch = draw_batch([case], organs=list(case.masks), patch_size=patch_size, batch_size=BATCH_SIZE, rng=rng)
            with autocast(device):
                _look(network, channels_last(batch.images.to(device)))
        for layer, buffers in zip(layers, before, strict=True):
            for new, old in zip(_statistics(layer), buffers, strict=True):
                new.lerp_(old, 1 - share)
    return network.eval()


def _look(network: nn.Module, images: torch.Tensor) -> None:
    if isinstance(network, SegVizNet):
        fused_margins(network.representation(images), [network.head(organ) for organ in network.organs])
    else:
        network(images)


def _statistics(layer: nn.BatchNorm3d) -> list[torch.Tensor]:
    return [buffer for buffer in (layer.running_mean, layer.running_var) if buffer is not None]
