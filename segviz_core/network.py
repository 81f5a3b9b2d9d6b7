"""The network: one representation block shared by all organs, one small head per organ (method.md section 2)."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from monai.networks.nets import UNet
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from segviz_core.activation import prelu, quicken
from segviz_core.head_stages import head_stages

Features = Tensor | tuple[Tensor, Tensor]
"""What a representation gives: half resolution features, or those and what the decoder reads at quarter resolution."""

NORM_TYPES = (_NormBase, nn.GroupNorm, nn.LayerNorm)
"""Norm layers are found by type, never by a fragment of their name (method.md 5.2)."""

NORMS: Mapping[str, Any] = {
    "batch": "BATCH",
    "instance": ("INSTANCE", {"affine": True}),
    "group": ("GROUP", {"num_groups": 8}),
}
"""What MONAI calls the norm layers of the representation; a head always has batch norm."""


@dataclass(frozen=True)
class NetworkConfig:
    """Size of MONAI's 3D UNet; the default is the published one (arXiv 2301.07074).

    With one head it has 4,808,917 parameters: representation 4,807,072, head 1,845 (method.md section 2). With
    `head_stages` 2 a head has the last two decoder stages instead of one: 36,503 of these parameters. `norm`, of the
    representation, is one of NORMS; all but batch norm is for experiments alone (openvino_graph.py refuses it).
    """

    channels: tuple[int, ...] = (16, 32, 64, 128, 256)
    strides: tuple[int, ...] = (2, 2, 2, 2)
    num_res_units: int = 2
    norm: str = "batch"
    head_stages: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; batch norm and heads of one stage go without saying."""
        values = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return {k: v for k, v in values.items() if (k, v) not in (("norm", "batch"), ("head_stages", 1))}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "NetworkConfig":
        """The settings stored by `to_dict`."""
        sizes = tuple(values["channels"]), tuple(values["strides"])
        return cls(*sizes, values["num_res_units"], values.get("norm", "batch"), head_stages(values))


class Head(nn.Module):
    """Task head of one organ: MONAI UNet's last decoder stage, half resolution features -> 2 logits per voxel.

    Input (B, C, X/2, Y/2, Z/2), output (B, 2, X, Y, Z): background and organ.
    """

    def __init__(self, last_stage: nn.Sequential) -> None:
        super().__init__()
        stage: Any = last_stage
        self.up: nn.ConvTranspose3d = stage[0].conv
        self.norm: nn.BatchNorm3d = stage[0].adn.N
        self.act: nn.PReLU = stage[0].adn.A
        self.residual: nn.Conv3d = stage[1].conv.unit0.conv

    def forward(self, features: Features) -> Tensor:
        return fused_logits(features, [self])[:, 0]


class DeepHead(Head):
    """A head of two stages: MONAI UNet's last two decoder stages. Input: what `DeepRepresentation` gives."""

    def __init__(self, model: Any) -> None:
        super().__init__(model[2])
        self.stage: nn.Sequential = model[1].submodule[2]

    def half_resolution(self, features: tuple[Tensor, Tensor]) -> Tensor:
        """The input of the last stage: (B, C, X/2, Y/2, Z/2)."""
        skipped, below = features
        return torch.cat([skipped, self.stage(below)], dim=1)


class DeepRepresentation(nn.Module):
    """All but the last two decoder stages: features of half and of quarter resolution."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.first: nn.Module = model[0]
        self.below: nn.Sequential = model[1].submodule[:2]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        skipped = self.first(x)
        return skipped, self.below(skipped)


class SegVizNet(nn.Module):
    """`representation` (all but the last `head_stages` decoder stages of MONAI's UNet), and these as `heads[organ]`.

    Cut and uncut networks agree bit for bit. A (B, 1, X, Y, Z) input in [0, 1] gives, per organ, the logits of
    background and organ. Every head starts from its own draw of `torch`'s generator.
    """

    def __init__(self, config: NetworkConfig, organs: Sequence[str]) -> None:
        super().__init__()
        self.config = config
        width = 8 if config.norm == "group" else 2  # of the last stage, which is cut off: groups must divide it too
        trunk = unet(config, channels=width, norm=config.norm).model
        deep = config.head_stages == 2
        self.representation: nn.Module = DeepRepresentation(trunk) if deep else trunk[:2]
        models = {organ: unet(config).model for organ in organs}
        self.heads = nn.ModuleDict({o: DeepHead(m) if deep else Head(m[2]) for o, m in models.items()})

    @property
    def organs(self) -> tuple[str, ...]:
        """Names of the organs that have a head, in the order of the heads."""
        return tuple(self.heads)

    def forward(self, x: Tensor, organs: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Logits (B, 2, X, Y, Z) per organ of `organs` (default: all)."""
        names = self.organs if organs is None else tuple(organs)
        logits = fused_logits(self.representation(x), [self.head(organ) for organ in names])
        return {organ: logits[:, i] for i, organ in enumerate(names)}

    def head(self, organ: str) -> Head:
        """The head of `organ`."""
        head = self.heads[organ]
        assert isinstance(head, Head)
        return head


def fused_logits(features: Features, heads: Sequence[Head]) -> Tensor:
    """Run K heads on the same features as one wide head: (B, C, x, y, z) -> (B, K, 2, X, Y, Z).

    The transposed kernels are concatenated into one 32 -> 2K layer, the residual convolutions lie along the diagonal of
    one 2K -> 2K (method.md section 2; K groups take up to four times as long); equal to separate heads within 2e-6.
    All heads must be in the same mode; running statistics of heads in train mode are updated. Deep heads, each of which
    makes features of its own, run one after the other.
    """
    if isinstance(features, tuple):
        return torch.cat([fused_logits(own, [head]) for own, head in _own_features(features, heads)], dim=1)
    x = _hidden(features, heads)
    biases = _joined(head.residual.bias for head in heads)
    x = x + F.conv3d(x, _diagonal([head.residual.weight for head in heads]), biases, padding=1)
    return x.reshape(x.shape[0], len(heads), 2, *x.shape[2:])


def fused_margins(features: Features, heads: Sequence[Head]) -> Tensor:
    """Organ minus background of `fused_logits`, all that losses and labels need: (B, C, x, y, z) -> (B, K, X, Y, Z)."""
    if isinstance(features, tuple):
        return torch.cat([fused_margins(own, [head]) for own, head in _own_features(features, heads)], dim=1)
    x = _hidden(features, heads, folded=True)
    itself = torch.zeros_like(heads[0].residual.weight[:1])  # what the residual is added to, as one of its taps
    itself[0, 0, 1, 1, 1], itself[0, 1, 1, 1, 1] = -1.0, 1.0
    kernels = [head.residual.weight[1:] - head.residual.weight[:1] + itself for head in heads]
    biases = (_present(head.residual.bias) for head in heads)
    return F.conv3d(x, _diagonal(kernels), _joined(bias[1:] - bias[:1] for bias in biases), padding=1)


def norm_keys(module: nn.Module) -> frozenset[str]:
    """State keys (parameters and running statistics) of all norm layers of `module`, found by type."""
    return frozenset(
        f"{name}.{key}" if name else key
        for name, child in module.named_modules()
        if isinstance(child, NORM_TYPES)
        for key in child.state_dict()
    )


def _own_features(features: tuple[Tensor, Tensor], heads: Sequence[Head]) -> Iterator[tuple[Tensor, Head]]:
    for head in heads:
        assert isinstance(head, DeepHead)
        yield head.half_resolution(features), head


def _hidden(features: Tensor, heads: Sequence[Head], *, folded: bool = False) -> Tensor:
    """Both channels of every head before its residual convolution: (B, C, x, y, z) -> (B, 2K, X, Y, Z).

    With `folded`, norm layers in eval mode become part of the transposed convolution.
    """
    if any(head.training != heads[0].training for head in heads):
        raise ValueError("Fused heads: expected heads that all train or all evaluate, found both.")
    folded = folded and not heads[0].training
    weight, bias = torch.cat([head.up.weight for head in heads], dim=1), _joined(head.up.bias for head in heads)
    if folded:
        scale = _joined(
            head.norm.weight * torch.rsqrt(_present(head.norm.running_var) + head.norm.eps) for head in heads
        )
        mean = _joined(head.norm.running_mean for head in heads)
        weight = weight * scale.view(1, -1, 1, 1, 1)
        bias = (bias - mean) * scale + _joined(head.norm.bias for head in heads)
    x = F.conv_transpose3d(features, weight, bias, stride=2, padding=1, output_padding=1)
    if not folded:
        x = _fused_batch_norm(x, [head.norm for head in heads])
    return _prelu(x, _joined(head.act.weight.expand(2) for head in heads))


def _diagonal(kernels: Sequence[Tensor]) -> Tensor:
    """K kernels (n, 2, 3, 3, 3) that each see their own two channels as one (nK, 2K, 3, 3, 3)."""
    blocks: Tensor = torch.block_diag(*(kernel.flatten(1) for kernel in kernels))  # type: ignore[no-untyped-call]
    return blocks.reshape(len(blocks), -1, 3, 3, 3)


def _prelu(x: Tensor, slopes: Tensor) -> Tensor:
    """PReLU with one slope per channel, over rows of (Z, C): a loop over two channels alone would not be vectorised."""
    rows = x.permute(0, 2, 3, 4, 1).flatten(3).flatten(0, 2)
    return prelu(rows, slopes.repeat(x.shape[4])).reshape(*x.shape[:1], *x.shape[2:], -1).permute(0, 4, 1, 2, 3)


def _fused_batch_norm(x: Tensor, norms: Sequence[nn.BatchNorm3d]) -> Tensor:
    first = norms[0]
    mean, variance = _joined(norm.running_mean for norm in norms), _joined(norm.running_var for norm in norms)
    weight, bias = _joined(norm.weight for norm in norms), _joined(norm.bias for norm in norms)
    if not first.training:
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, first.eps)
    assert first.momentum is not None
    x = F.batch_norm(x, mean, variance, weight, bias, True, first.momentum, first.eps)
    with torch.no_grad():
        for i, norm in enumerate(norms):
            _present(norm.running_mean).copy_(mean[2 * i : 2 * i + 2])
            _present(norm.running_var).copy_(variance[2 * i : 2 * i + 2])
            _present(norm.num_batches_tracked).add_(1)
    return x


def _joined(parts: Iterable[Tensor | None]) -> Tensor:
    return torch.cat([_present(part) for part in parts])


def _present(value: Tensor | None) -> Tensor:
    assert value is not None
    return value


def unet(config: NetworkConfig, *, channels: int = 2, norm: str = "batch") -> UNet:
    """MONAI's network, uncut, with `channels` outputs."""
    network = UNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=channels,
        channels=config.channels,
        strides=config.strides,
        num_res_units=config.num_res_units,
        norm=NORMS[norm],
    )
    quicken(network)
    return network
