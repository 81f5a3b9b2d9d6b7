"""How the margins of all heads become one label per voxel (method.md, section 7). numpy only."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from segviz_core.meta_model import OrganEntry


def merge(margins: NDArray[np.float32], entries: Sequence[OrganEntry]) -> NDArray[np.uint8]:
    """Label values of margins (K, ...), one per entry, on any grid.

    q_k = sigmoid(margin_k / temperature_k). Within an exclusive group a voxel goes to the largest q_k among those above
    their threshold, else it is background; of equal ones, to the first entry. A group that comes later lies over the
    earlier ones (a tumour over its organ): one file holds one value per voxel.
    """
    labels = np.zeros(margins.shape[1:], np.uint8)
    for group in groups(entries):
        best = np.full(labels.shape, -np.inf, np.float32)
        for k in group:
            # sigmoid is monotone: comparing its arguments decides the same, without losing digits near 1
            score = margins[k] / np.float32(entries[k].temperature)
            wins = (score > cut(entries[k])) & (score > best)
            labels[wins] = entries[k].value
            best[wins] = score[wins]
    return labels


def groups(entries: Sequence[OrganEntry]) -> list[list[int]]:
    """Indices of the entries of each exclusive group, in the order of the groups."""
    names = dict.fromkeys(entry.group for entry in entries)
    return [[k for k, entry in enumerate(entries) if entry.group == name] for name in names]


def cut(entry: OrganEntry) -> float:
    """What margin / temperature has to exceed: the logit of the threshold."""
    return math.log(entry.threshold / (1 - entry.threshold))
