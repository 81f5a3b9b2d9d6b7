"""How many of the network's decoder stages belong to a head, and not to the representation. Standard library only."""

from collections.abc import Mapping
from typing import Any

from segviz_core.errors import InputError


def head_stages(network: Mapping[str, Any]) -> int:
    """1 or 2, from `NetworkConfig.to_dict()`; 1, the published cut, where `network` does not say.

    Raises:
        InputError: another number, or more than the network has between its ends.
    """
    stages, levels = network.get("head_stages", 1), len(network["channels"])
    if type(stages) is not int or stages not in (1, 2)[: levels - 1]:
        raise InputError(
            f"network head_stages: expected 1, or 2 with three channels or more, found {stages!r} with {levels}."
        )
    return stages
