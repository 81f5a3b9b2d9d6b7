"""Settings of a study: what the coordinator chose at `create`, and the part that every site gets in its kit."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from segviz_core.contract import DataContract
from segviz_core.errors import InputError
from segviz_core.head_stages import head_stages

PUBLISHED_NETWORK: Mapping[str, Any] = {
    "channels": [16, 32, 64, 128, 256],
    "strides": [2, 2, 2, 2],
    "num_res_units": 2,
}
"""MONAI UNet of the publication, as NetworkConfig.to_dict() gives it (this module must not load torch)."""

LOSSES = ("supervised", "published")
NORMS = ("batch", "instance", "group")
TRANSPORTS = ("fp32", "fp16")
MODES = ("segviz+", "segviz-fedavg", "segviz-fedbn")


@dataclass(frozen=True)
class StudySettings:
    """One study. Defaults: method.md section 4; `network` is NetworkConfig.to_dict(), by default PUBLISHED_NETWORK
    with `heads_of(mode)`; `patch_size` is in voxels.

    `segviz+` spends `local_steps` per site in phase 1, then `rounds * steps_per_round` together; the `segviz` modes
    spend only the latter. `loss` is one of LOSSES (losses.py): without it the first in `segviz+`, the second in
    the `segviz` modes. `head_steps` re-fit the heads to the common representation before phase 2 (method.md 9c),
    `tune_steps` afterwards (phase 3). `proximal` is mu; None means 0 up to 50 steps per round and 1e-3 above.
    `bn_stats` "local" leaves the running statistics of norm layers at their sites, as published; the meta-model holds
    their average either way. In the last `fixed_norm` share of the shared rounds of `segviz+` those of the
    representation stay as they are and are what the sites normalise with. `transport` "fp16" halves the bytes of a
    round (transport.py).

    `teacher_shift` is added to the logits with which an expert labels the organs that a site does not annotate; pieces
    smaller than the share `teacher_pieces` of an organ's largest piece are then left out (pseudo_labels.py). The share
    `teacher_norm` of the expert's norm statistics gives way to those of the CT that it labels (norm_statistics.py).

    `coarse_share` of the patches are seen at two or three times the contract's spacing: what `segment --fast` and the
    pass that locates the organs need (batches.py). `contrast` bounds the random curve of HU that every patch is seen
    through (method.md 9c; 0: none): sites whose scanners differ little need less of it.

    With `heads_at_end` (`segviz` modes only) heads leave their sites once, after the last round.

    `new_head_steps` at `new_head_learning_rate` train the head of an organ that comes late, alone on the frozen
    representation; a study that had finished then goes on for `newcomer_rounds` shared rounds (0: the head is all).
    A site that takes more than `pace` times as long as the median site of a round makes fewer steps in the next one
    (0: only a site that misses `round_timeout` does).
    """

    name: str
    mode: str = "segviz+"
    loss: str = ""
    seed: int = 0
    contract: DataContract = field(default_factory=DataContract)
    network: Mapping[str, Any] = field(default_factory=dict)
    patch_size: tuple[int, int, int] = (128, 128, 32)
    batch_size: int = 2
    coarse_share: float = 0.1
    contrast: float = 0.45
    local_steps: int = 16_625
    local_chunks: int = 25
    rounds: int = 25
    steps_per_round: int = 665
    head_steps: int = 0
    tune_steps: int = 200
    learning_rate: float = 1e-4
    shared_learning_rate: float = 1e-4
    foreign_weight: float = 0.5
    foreign_ramp: float = 0.2
    teacher_shift: float = 0.0
    teacher_pieces: float = 0.0
    teacher_norm: float = 0.75
    proximal: float | None = None
    bn_stats: str = "average"
    fixed_norm: float = 0.0
    server_momentum: float = 0.0
    transport: str = "fp32"
    heads_at_end: bool = False
    new_head_steps: int = 1000
    new_head_learning_rate: float = 1e-3
    newcomer_rounds: int = 0
    pace: float = 0.0
    min_sites: int = 2
    wait_seconds: float = 86_400.0  # people at hospitals need hours to join, not minutes
    round_timeout: float = 3600.0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise InputError(f"mode: expected one of {', '.join(MODES)}, found {self.mode!r}.")
        if self.loss not in ("", *LOSSES):
            raise InputError(f"loss: expected one of {', '.join(LOSSES)}, found {self.loss!r}.")
        if self.rounds < 1 or self.steps_per_round < 0 or self.local_steps < 0 or self.local_chunks < 1:
            raise InputError("Expected at least one round and one chunk, and no negative number of steps.")
        if self.bn_stats not in ("average", "local"):
            raise InputError(f"bn_stats: expected average or local, found {self.bn_stats!r}.")
        if self.heads_at_end and self.mode == "segviz+":
            raise InputError(
                "heads_at_end: segviz+ trains with the heads of all sites in every round, found heads_at_end = true.",
                hint="Choose the mode segviz-fedavg or segviz-fedbn.",
            )
        if self.transport not in TRANSPORTS:
            raise InputError(f"transport: expected one of {', '.join(TRANSPORTS)}, found {self.transport!r}.")
        if self.new_head_steps < 1 or self.newcomer_rounds < 0:
            raise InputError("Expected at least one step for a new head, and no negative number of newcomer rounds.")
        if not 0 <= self.coarse_share <= 0.5:
            raise InputError(f"coarse_share: expected 0 to 0.5, found {self.coarse_share}.")
        if not 0 <= self.contrast < 0.5:
            raise InputError(f"contrast: expected 0 to less than 0.5, found {self.contrast}.")
        if not -10 <= self.teacher_shift <= 10:
            raise InputError(f"teacher_shift: expected -10 to 10, found {self.teacher_shift}.")
        if not 0 <= self.teacher_pieces <= 1:
            raise InputError(f"teacher_pieces: expected 0 to 1, found {self.teacher_pieces}.")
        if not 0 <= self.teacher_norm <= 1:
            raise InputError(f"teacher_norm: expected 0 to 1, found {self.teacher_norm}.")
        if not 0 <= self.fixed_norm <= 1:
            raise InputError(f"fixed_norm: expected 0 to 1, found {self.fixed_norm}.")
        if self.pace and self.pace < 1:
            raise InputError(f"pace: expected 0 or at least 1, found {self.pace}.")
        if self.min_sites < 1:
            raise InputError(f"min_sites: expected 1 or more, found {self.min_sites}.")
        if not self.network:
            object.__setattr__(self, "network", {**PUBLISHED_NETWORK, **heads_of(self.mode)})
        if set(self.network) - {"norm", "head_stages"} != set(PUBLISHED_NETWORK):
            raise InputError(f"network: expected {', '.join(PUBLISHED_NETWORK)}, found {', '.join(self.network)}.")
        head_stages(self.network)
        if self.network.get("norm", "batch") not in NORMS:
            raise InputError(f"network norm: expected one of {', '.join(NORMS)}, found {self.network['norm']!r}.")
        object.__setattr__(self, "patch_size", tuple(self.patch_size))
        divisor = math.prod(self.network["strides"])
        if len(self.patch_size) != 3 or any(size < 1 or size % divisor for size in self.patch_size):
            raise InputError(f"patch_size: expected three multiples of {divisor}, found {list(self.patch_size)}.")

    @property
    def keeps_norms(self) -> bool:
        """Whether every site gets its own norm layers' values back instead of the average."""
        return self.fedbn or self.bn_stats == "local"

    @property
    def fedbn(self) -> bool:
        """Whether norm layers stay at their sites."""
        return self.mode == "segviz-fedbn"

    @property
    def planned_steps(self) -> int:
        """Training steps of one site, from join to the end."""
        shared = self.rounds * self.steps_per_round
        return shared + (self.local_steps + self.head_steps + self.tune_steps if self.mode == "segviz+" else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "StudySettings":
        """The settings of `values`; unknown names are refused."""
        known = {f.name for f in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise InputError(f"Unknown study setting {unknown[0]!r}.", hint=f"Known are: {', '.join(sorted(known))}.")
        contract = values.get("contract", DataContract())
        if not isinstance(contract, DataContract):
            contract = DataContract.from_dict(contract)
        return cls(**{**values, "contract": contract})

    def for_site(self, site: str) -> "SiteSettings":
        """What the site needs to know before it joins."""
        return SiteSettings(
            study=self.name,
            site=site,
            seed=self.seed,
            contract=self.contract,
            network=self.network,
            patch_size=self.patch_size,
            batch_size=self.batch_size,
            loss=self.loss or LOSSES[self.mode != "segviz+"],
            coarse_share=self.coarse_share,
            contrast=self.contrast,
            steps_per_round=self.steps_per_round,
            planned_steps=self.planned_steps,
            most_steps=max(
                self.local_steps, self.steps_per_round, self.head_steps, self.tune_steps, self.new_head_steps
            ),
        )


def heads_of(mode: str) -> dict[str, int]:
    """What the network of a new study of `mode` says of its heads: in `segviz+` they own two decoder stages, with which
    the student learns more from the experts and an organ that comes late far more (docs/ablation.md).
    """
    return {"head_stages": 2} if mode == "segviz+" else {}


@dataclass(frozen=True)
class SiteSettings:
    """The part of a study that a site fixes at join, from its kit; no message may change it.

    `planned_steps` are all training steps of this site, `most_steps` those that one request may ask for.
    """

    study: str
    site: str
    seed: int
    contract: DataContract
    network: Mapping[str, Any]
    patch_size: tuple[int, int, int]
    batch_size: int
    loss: str
    coarse_share: float
    contrast: float
    steps_per_round: int
    planned_steps: int
    most_steps: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return _plain(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SiteSettings":
        """The settings stored by `to_dict`; exactly these names."""
        known = {f.name for f in fields(cls)}
        if set(values) != known:
            raise InputError(f"Site settings: expected {', '.join(sorted(known))}, found {', '.join(sorted(values))}.")
        contract = DataContract.from_dict(values["contract"])
        return cls(**{**values, "contract": contract, "patch_size": tuple(values["patch_size"])})


def _plain(settings: StudySettings | SiteSettings) -> dict[str, Any]:
    values = {f.name: getattr(settings, f.name) for f in fields(settings)}
    return values | {
        "contract": settings.contract.to_dict(),
        "network": dict(settings.network),
        "patch_size": list(settings.patch_size),
    }
