"""Progress of a training that is no study: network, optimisers and curve in one file, written in one step."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from segviz_core.atomic import replacing

EVERY_S = 60.0
"""So often a training is saved, at the end of a round."""


@dataclass
class Checkpoint:
    """`done` steps and the rows of the learning `curve` so far; saved when the last time is EVERY_S seconds ago.

    `momentum` is the server's, by parameter, where a training has one. Without a `path` nothing is saved.
    """

    path: Path | None = None
    done: int = 0
    curve: list[dict[str, Any]] = field(default_factory=list)
    momentum: dict[str, torch.Tensor] = field(default_factory=dict)
    _saved: float = field(default_factory=time.monotonic, repr=False)

    def restore(self, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer]) -> None:
        """Load what was saved last; without a file nothing changes."""
        if self.path is None or not self.path.exists():
            return
        with safe_open(self.path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - safe_open is no mapping
        self.done, self.curve = progress["done"], progress["curve"]
        network.load_state_dict({k.removeprefix("network|"): v for k, v in tensors.items() if k.startswith("network|")})
        self.momentum = {k.removeprefix("momentum|"): v for k, v in tensors.items() if k.startswith("momentum|")}
        for i, optimizer in enumerate(optimizers):
            for j, parameter in enumerate(_parameters(optimizer)):
                prefix = f"adam|{i}|{j}|"
                state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
                if state:
                    optimizer.state[parameter] = {k: v.to(parameter.device) for k, v in state.items()}

    def save(self, network: nn.Module, optimizers: Sequence[torch.optim.Optimizer], *, now: bool = False) -> None:
        """Save if it is time (or `now`)."""
        if self.path is None or (not now and time.monotonic() - self._saved < EVERY_S):
            return
        tensors = {f"network|{key}": value.contiguous() for key, value in network.state_dict().items()}
        tensors |= {f"momentum|{key}": value.contiguous() for key, value in self.momentum.items()}
        for i, optimizer in enumerate(optimizers):
            for j, parameter in enumerate(_parameters(optimizer)):
                state = optimizer.state.get(parameter, {})
                tensors |= {f"adam|{i}|{j}|{key}": value.contiguous() for key, value in state.items()}
        progress = json.dumps({"done": self.done, "curve": self.curve})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self.path) as temporary:
            save_file(tensors, temporary, metadata={"progress": progress})
        self._saved = time.monotonic()


def _parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
