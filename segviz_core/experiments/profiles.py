"""How large an experiment is: grid and number of the phantoms, and the training that goes with them.

Standard library only: the command line reads this table at start-up.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from segviz_core.contract import DataContract


@dataclass(frozen=True)
class Profile:
    """One column of the experiment table (method.md section 8).

    `shape` and `spacing_mm` are the grid of the phantoms at full field of view (right, anterior, superior); `cases` is
    the number of cases per training site, `test_cases` that of the unseen test site; `network` has the form of
    `NetworkConfig.to_dict()`. A site trains `rounds` x `steps_per_round` steps in all.
    """

    name: str
    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    cases: Mapping[str, int]
    test_cases: int
    network: Mapping[str, Any]
    contract: DataContract
    patch_size: tuple[int, int, int]
    batch_size: int
    learning_rate: float
    rounds: int
    steps_per_round: int


def _profile(name: str, spacing_mm: float, cases: tuple[int, ...], test_cases: int, **settings: Any) -> Profile:
    sites = ("liver", "spleen", "pancreas", "kidneys")
    spacing = (spacing_mm, spacing_mm, spacing_mm)
    return Profile(
        name=name,
        spacing_mm=spacing,
        cases=dict(zip(sites, cases, strict=False)),
        test_cases=test_cases,
        contract=DataContract(spacing_mm=spacing),
        **settings,
    )


def _network(channels: list[int], num_res_units: int) -> Mapping[str, Any]:
    strides = [2] * (len(channels) - 1)
    return {"channels": channels, "strides": strides, "num_res_units": num_res_units}


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        profile.name: profile
        for profile in (
            _profile(
                "smoke",
                10.0,
                (2, 2),
                1,
                shape=(32, 24, 24),
                network=_network([4, 8, 16], 1),
                patch_size=(24, 24, 16),
                batch_size=2,
                learning_rate=1e-3,
                rounds=2,
                steps_per_round=2,
            ),
            _profile(
                "small",
                5.0,
                (13, 6, 28, 20),
                16,
                shape=(64, 48, 48),
                network=_network([16, 32, 64, 128], 1),
                patch_size=(48, 48, 32),
                batch_size=2,
                learning_rate=1e-3,
                rounds=20,
                steps_per_round=12,
            ),
            _profile(
                "medium",
                2.5,
                (131, 41, 282, 206),
                60,
                shape=(128, 96, 96),
                network=_network([16, 32, 64, 128, 256], 2),
                patch_size=(96, 96, 96),
                batch_size=8,
                learning_rate=1e-3,
                rounds=50,
                steps_per_round=20,
            ),
        )
    }
)
"""`smoke` proves the mechanics in seconds, `small` trains on two CPU cores, `medium` needs a GPU (untested)."""
