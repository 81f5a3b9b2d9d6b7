"""What SegViz is compared with: one network with a softmax over all organs, trained centrally or by FedAvg.

Two losses for sites that annotate one organ each (method.md section 4): `naive` takes everything else for background,
`marginal` asks only for the annotated organ.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from monai.inferers.utils import sliding_window_inference
from monai.networks.nets import UNet
from numpy.typing import NDArray
from torch import Tensor, nn

from segviz_core.batches import draw_batch
from segviz_core.cases import Case
from segviz_core.experiments.checkpoint import Checkpoint
from segviz_core.federation.synchronization import average_statistics
from segviz_core.labels import ORGANS
from segviz_core.losses import soft_dice
from segviz_core.network import NetworkConfig, unet
from segviz_core.precision import autocast_for_gradients, channels_last
from segviz_core.training import CLIP_NORM, TrainingConfig, cosine, step_generator

Loss = Callable[[Tensor, Tensor, int], Tensor]
Distil = Callable[..., Tensor]
OnRound = Callable[[int], Mapping[str, Any]]
Sites = Mapping[str, Sequence[Case]]
"""Organ -> cases of the site that annotates it; channel k + 1 of the network belongs to the k-th organ."""


def softmax_network(config: NetworkConfig, organs: Sequence[str]) -> UNet:
    """The network of `SegVizNet`, with background and all organs as channels of one softmax instead of heads."""
    return unet(config, channels=1 + len(organs), norm=config.norm)


def marginal(logits: Tensor, mask: Tensor, channel: int) -> Tensor:
    """Dice + cross-entropy of the annotated organ's probability; background is the sum of all other channels.

    logits (B, 1+K, X, Y, Z), mask (B, X, Y, Z) of the organ whose channel is given.
    """
    others = [other for other in range(logits.shape[1]) if other != channel]
    margin = logits[:, channel] - logits[:, others].logsumexp(1)  # its sigmoid is the softmax, at any distance from 0
    return soft_dice(margin.sigmoid(), mask, smooth=1e-5) + F.binary_cross_entropy_with_logits(margin, mask)


def naive(logits: Tensor, mask: Tensor, channel: int) -> Tensor:
    """Soft Dice, mean over cases and all channels, as if organs that are not annotated were background."""
    p = logits.softmax(1)
    target = torch.zeros_like(p)
    target[:, channel], target[:, 0] = mask, 1 - mask
    overlap, total = (p * target).sum((2, 3, 4)), (p + target).sum((2, 3, 4))
    return (1 - (2 * overlap + 1e-5) / (total + 1e-5)).mean()


def train_central(
    network: UNet,
    sites: Sites,
    config: TrainingConfig,
    *,
    loss: Loss,
    steps_per_round: int = 12,
    checkpoint: Checkpoint | None = None,
    on_round: OnRound | None = None,
    label_of: str = "each case",
) -> None:
    """Train on pooled cases: every site's `config.steps` steps, each on a batch of one site drawn by its cases.

    With `label_of` "first case" a batch mixes sites and only the organ of its first case is read from its labels: the
    mistake of the released central code (method.md section 5.6).
    `on_round(steps per site)` is called after every `steps_per_round` steps per site; what it gives goes into the
    curve of `checkpoint`, from which an interrupted training goes on.
    """
    total, stride = config.steps * len(sites), steps_per_round * len(sites)
    optimizer = torch.optim.Adam(network.parameters(), config.learning_rate, fused=True)
    checkpoint = checkpoint or Checkpoint()
    checkpoint.restore(network, [optimizer])
    counts = np.array([len(cases) for cases in sites.values()])
    mixed = label_of == "first case"
    drawn = step_generator(*config.seed_words, "sites").choice(len(sites), total, p=counts / counts.sum())
    for start in range(checkpoint.done, total, stride):
        stop = min(start + stride, total)
        losses = [
            _step(network, optimizer, sites, int(drawn[step]), step, total, config, loss, mixed=mixed)
            for step in range(start, stop)
        ]
        checkpoint.done = stop
        _close_round(checkpoint, stop // len(sites), {"loss": float(np.mean(losses))}, on_round)
        checkpoint.save(network, [optimizer], now=stop == total)


def train_fedavg(
    network: UNet,
    sites: Sites,
    config: TrainingConfig,
    *,
    loss: Loss,
    steps_per_round: int,
    server_momentum: float = 0.0,
    distil: Distil | None = None,
    checkpoint: Checkpoint | None = None,
    on_round: OnRound | None = None,
) -> None:
    """Conventional FedAvg: after every round all weights are averaged over the sites, each counting the same.

    `distil(logits, teacher's logits, mask, channel, round, rounds)` is added to the loss; the teacher is the model at
    the start of the round. `server_momentum` as in a study: the server adds so much of its last step to every step.
    `checkpoint` and `on_round` as in `train_central`.
    """
    clients = [copy.deepcopy(network) for _ in sites]
    optimizers = [torch.optim.Adam(client.parameters(), config.learning_rate, fused=True) for client in clients]
    checkpoint = checkpoint or Checkpoint()
    checkpoint.restore(network, optimizers)
    for client in clients:
        client.load_state_dict(network.state_dict())
    rounds = -(-config.steps // steps_per_round)
    for start in range(checkpoint.done, config.steps, steps_per_round):
        stop = min(start + steps_per_round, config.steps)
        added = partial(distil, number=start // steps_per_round, rounds=rounds) if distil else None
        losses = {}
        for k, (organ, client, optimizer) in enumerate(zip(sites, clients, optimizers, strict=True)):
            values = [
                _step(client, optimizer, sites, k, step, config.steps, config, loss, network.eval(), added)
                for step in range(start, stop)
            ]
            losses[f"loss/{organ}"] = float(np.mean(values))
        mean = _mean_state([client.state_dict() for client in clients])
        if server_momentum:
            _go_on(network, mean, checkpoint.momentum, server_momentum)
        for model in (network, *clients):
            model.load_state_dict(mean)
        checkpoint.done = stop
        _close_round(checkpoint, stop, losses, on_round)
        checkpoint.save(network, optimizers, now=stop == config.steps)


def predict(
    network: nn.Module, organs: Sequence[str], patch_size: Sequence[int], voxels: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """Label values (X, Y, Z) of the most probable channel; windows as in `inference.margins`."""
    network.eval()
    image = torch.from_numpy(voxels)[None, None]
    with torch.inference_mode():
        logits = sliding_window_inference(image, tuple(patch_size), 1, network, overlap=0.5, mode="gaussian")
    values = np.array([0, *(ORGANS[organ].value for organ in organs)], np.uint8)
    labels: NDArray[np.uint8] = values[logits[0].argmax(0).numpy()]
    return labels


def _mean_state(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    mean = average_statistics(lambda i, key: states[i][key].cpu().numpy(), states[0], [1.0] * len(states))
    return {key: torch.from_numpy(np.array(value)) for key, value in mean.items()}


def _go_on(network: nn.Module, mean: dict[str, Tensor], momentum: dict[str, Tensor], share: float) -> None:
    """Turn the mean of the sites into the server's next weights; statistics stay what they are."""
    for key, parameter in network.named_parameters():
        weights = parameter.detach().cpu()
        momentum[key] = share * momentum.get(key, torch.zeros_like(weights)) + mean[key] - weights
        mean[key] = weights + momentum[key]


def _close_round(checkpoint: Checkpoint, steps: int, row: dict[str, Any], on_round: OnRound | None) -> None:
    checkpoint.curve.append({"step": steps, **row, **(on_round(steps) if on_round else {})})


def _step(
    network: UNet,
    optimizer: torch.optim.Optimizer,
    sites: Sites,
    k: int,
    step: int,
    total: int,
    config: TrainingConfig,
    loss: Loss,
    teacher: nn.Module | None = None,
    distil: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None = None,
    *,
    mixed: bool = False,
) -> float:
    network.train()
    for group in optimizer.param_groups:
        group["lr"] = cosine(step, total, config.learning_rate)
    organs = list(sites) if mixed else [list(sites)[k]]
    batch = draw_batch(
        [case for organ in organs for case in sites[organ]],
        organs=organs,
        patch_size=config.patch_size,
        batch_size=config.batch_size,
        rng=step_generator(*config.seed_words, "mixed" if mixed else organs[0], step),
        contrast=config.contrast,
    )
    channel = int(batch.annotated[0].int().argmax())
    k = channel if mixed else k
    device = next(network.parameters()).device
    images, mask = channels_last(batch.images.to(device)), batch.masks[:, channel].to(device)
    with autocast_for_gradients(images, network.strides, config.precision):
        logits = network(images).float()
        if distil and teacher:
            with torch.no_grad():
                known = teacher(images).float()
    value = loss(logits, mask, k + 1)
    if distil and teacher:
        value = value + distil(logits, known, mask, k + 1)
    optimizer.zero_grad()
    value.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(network.parameters(), CLIP_NORM)
    optimizer.step()
    return float(value.detach())
