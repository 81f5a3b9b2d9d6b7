"""Dice that others have published, mean and SD over their test cases: shown beside our rows, never in their columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from segviz_core.experiments.plan import ORDER

POSTER = "SegViz poster"
PAPER = "arXiv 2301.07074"


@dataclass(frozen=True)
class Published:
    """One row: `ours` is the mode of our table that reproduces it; organs in the poster's order, None where absent."""

    source: str
    nodes: int
    model: str
    ours: str
    dice: Sequence[float | None]
    sd: Sequence[float | None] = (None, None, None, None)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "source": self.source,
            "nodes": self.nodes,
            "model": self.model,
            "mode": self.ours,
            "data": "BTCV, 30 CTs, unseen",
            "dice": dict(zip(ORDER, self.dice, strict=True)),
            "sd": dict(zip(ORDER, self.sd, strict=True)),
        }


PUBLISHED: Sequence[Published] = (
    Published(POSTER, 1, "single", "single", (0.88, 0.79, 0.46, 0.64), (0.15, 0.17, 0.20, 0.21)),
    Published(POSTER, 2, "central", "central-naive", (0.00, 0.65, None, None), (0.00, 0.14, None, None)),
    Published(POSTER, 2, "conv. FL", "fedavg-naive", (0.89, 0.84, None, None), (0.06, 0.09, None, None)),
    Published(POSTER, 2, "SegViz", "segviz-fedbn", (0.90, 0.84, None, None), (0.04, 0.12, None, None)),
    Published(POSTER, 3, "central", "central-naive", (0.00, 0.61, 0.00, None), (0.00, 0.18, 0.00, None)),
    Published(POSTER, 3, "conv. FL", "fedavg-naive", (0.75, 0.71, 0.45, None), (0.29, 0.17, 0.17, None)),
    Published(POSTER, 3, "SegViz", "segviz-fedbn", (0.91, 0.81, 0.55, None), (0.06, 0.17, 0.19, None)),
    Published(POSTER, 4, "central", "central-naive", (0.65, 0.00, 0.55, 0.68), (0.14, 0.00, 0.18, 0.21)),
    Published(POSTER, 4, "conv. FL", "fedavg-naive", (0.91, 0.46, 0.53, 0.68), (0.03, 0.15, 0.18, 0.12)),
    Published(POSTER, 4, "SegViz", "segviz-fedbn", (0.93, 0.78, 0.40, 0.78), (0.02, 0.14, 0.20, 0.12)),
    Published(PAPER, 1, "single", "single", (0.87, 0.83, 0.42, 0.48)),
    Published(PAPER, 4, "SegViz-FedBN", "segviz-fedbn", (0.93, 0.83, 0.55, 0.75)),
)
"""Tables of the poster and of its paper; which code made them is unknown (method.md section 5)."""
