"""The data contract: how every CT of a federation is presented to the network. Standard library only."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from segviz_core.errors import InputError


@dataclass(frozen=True)
class DataContract:
    """Orientation, voxel spacing (mm) and intensity window (HU) that training, evaluation and inference share.

    The default window is the poster's test window (arXiv 2301.07074); one window for all organs, because one pass of
    the representation serves all heads.
    """

    spacing_mm: tuple[float, float, float] = (1.5, 1.5, 2.0)
    window_hu: tuple[float, float] = (-175.0, 250.0)
    orientation: str = "RAS"

    def __post_init__(self) -> None:
        object.__setattr__(self, "spacing_mm", tuple(float(s) for s in self.spacing_mm))
        object.__setattr__(self, "window_hu", tuple(float(w) for w in self.window_hu))
        if len(self.spacing_mm) != 3 or not all(0.1 <= s <= 20 for s in self.spacing_mm):
            raise InputError(f"spacing_mm: expected three values from 0.1 to 20 mm, found {self.spacing_mm}.")
        if len(self.window_hu) != 2 or not -2000 <= self.window_hu[0] < self.window_hu[1] <= 4000:
            raise InputError(f"window_hu: expected lower < upper within [-2000, 4000] HU, found {self.window_hu}.")
        if self.orientation != "RAS":
            raise InputError(f"orientation: expected RAS, found {self.orientation!r}.")

    @property
    def hash(self) -> str:
        """sha256 of the canonical JSON: two sites may train together only when their hashes agree."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"spacing_mm": list(self.spacing_mm), "window_hu": list(self.window_hu)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "DataContract":
        """The contract of `values`, which must hold exactly the three fields."""
        if set(values) != {"spacing_mm", "window_hu", "orientation"}:
            raise InputError(f"data contract: expected orientation, spacing_mm, window_hu, found {sorted(values)}.")
        return cls(tuple(values["spacing_mm"]), tuple(values["window_hu"]), values["orientation"])
