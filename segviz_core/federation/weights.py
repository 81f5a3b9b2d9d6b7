"""Between torch modules and the numpy arrays that travel: by key, strictly (no flwr)."""

import copy
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from segviz_core.atomic import replacing
from segviz_core.federation.packets import Arrays
from segviz_core.federation.settings import StudySettings
from segviz_core.federation.study_folder import write_study
from segviz_core.federation.synchronization import Spec, Template
from segviz_core.network import Head, NetworkConfig, SegVizNet, norm_keys


def create_study(folder: Path, settings: StudySettings) -> None:
    """Write the study's settings, key template and common initial representation (needs torch; the server does not)."""
    torch.manual_seed(settings.seed)
    network = SegVizNet(NetworkConfig.from_dict(settings.network), ["organ"])
    write_study(folder, settings, _template(network), to_arrays(network.representation))


def template_of(config: NetworkConfig) -> Template:
    """Keys, shapes and dtypes of a study's arrays, as a site's own network has them."""
    return _template(SegVizNet(config, ["organ"]))


def initial_head(config: NetworkConfig, *, seed: int, organ: str) -> Head:
    """The head that every owner of `organ` starts from: drawn from the study's seed and the organ's name."""
    torch.manual_seed(zlib.crc32(f"{seed}/{organ}".encode()))
    return copy.deepcopy(SegVizNet(config, [organ]).head(organ))


def to_arrays(module: nn.Module) -> Arrays:
    """Copies of all state entries, by key."""
    return {key: np.array(value.detach().cpu().numpy(), copy=True) for key, value in module.state_dict().items()}


def update_of(network: SegVizNet, received: Arrays, *, fedbn: bool) -> dict[str, Arrays]:
    """What a round made of the `received` representation: differences, and values where these mean nothing.

    Group "norm" holds the values: running statistics; in FEDBN all of the norm layers.
    """
    norm = norm_keys(network.representation)
    buffers = {name for name, _ in network.representation.named_buffers()}
    after = to_arrays(network.representation)
    own = {key for key in after if key in buffers or (fedbn and key in norm)}
    return {
        "update": {key: after[key] - received[key] for key in after if key not in own},
        "norm": {key: after[key] for key in own},
    }


def load_arrays(module: nn.Module, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Put `arrays` into `module`; missing or unknown keys and other shapes raise."""
    module.load_state_dict({key: torch.from_numpy(np.array(array)) for key, array in arrays.items()}, strict=True)


def save_training(path: Path, network: SegVizNet, optimizer: torch.optim.Optimizer) -> None:
    """Write weights and Adam state as safetensors, in one step."""
    tensors = {f"network|{key}": value.contiguous() for key, value in network.state_dict().items()}
    names: dict[torch.Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    for parameter, state in optimizer.state.items():
        tensors |= {f"adam|{names[parameter]}|{key}": value.contiguous() for key, value in state.items()}
    with replacing(path) as temporary:
        save_file(tensors, temporary)


def load_training(path: Path, network: SegVizNet, optimizer: torch.optim.Optimizer, *, adam_only: bool = False) -> None:
    """Read what `save_training` wrote: weights by key (unless `adam_only`), Adam state by parameter name."""
    tensors = load_file(path)
    if not adam_only:
        network.load_state_dict({k.split("|")[1]: v for k, v in tensors.items() if k.startswith("network|")})
    parameters = dict(network.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        if key.startswith("adam|"):
            _, name, entry = key.split("|")
            optimizer.state[parameters[name]][entry] = value.to(parameters[name].device)


def _template(network: SegVizNet) -> Template:
    return Template(
        representation=_spec(network.representation),
        norm=norm_keys(network.representation),
        head=_spec(network.head("organ")),
    )


def _spec(module: nn.Module) -> Spec:
    arrays = to_arrays(module)
    return {key: (array.shape, array.dtype.name) for key, array in arrays.items()}
