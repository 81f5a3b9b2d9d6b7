"""PReLU's quicker backward pass: the same numbers under the same keys."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from segviz_core.activation import QuickPReLU, prelu, quicken


def gradients(layer: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    x = x.clone().requires_grad_()
    y = layer(x)
    (y * torch.linspace(-1, 1, y.numel()).reshape(y.shape)).sum().backward()
    return [y.detach(), x.grad, layer.weight.grad]


@pytest.mark.parametrize("slope", [0.25, 0.0, -0.4, 1.5])
def test_values_and_gradients_are_those_of_torch(slope):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 4, 4, 4)
    x[0, 0, 0] = 0
    plain, quick = nn.PReLU(init=slope), QuickPReLU(init=slope)
    for expected, found in zip(gradients(plain, x), gradients(quick, x), strict=True):
        torch.testing.assert_close(found, expected)


def test_rows_with_a_slope_per_column_have_the_gradients_of_torch():
    torch.manual_seed(0)
    x, slopes, weights = torch.randn(50, 6), torch.linspace(-1, 1, 6), torch.randn(50, 6)
    found = []
    for function in (F.prelu, prelu):
        inputs = [x.clone().requires_grad_(), slopes.clone().requires_grad_()]
        (function(*inputs) * weights).sum().backward()
        found.append([value.grad for value in inputs])
    torch.testing.assert_close(found[1], found[0])


def test_frozen_slopes_pass_the_gradient_on():
    x = torch.randn(5, 4, requires_grad=True)
    prelu(x, torch.full((4,), 0.5)).sum().backward()
    torch.testing.assert_close(x.grad, torch.where(x > 0, 1.0, 0.5))


def test_slope_learns_in_full_precision_from_bf16_features():
    layer, x = QuickPReLU(), torch.randn(2, 8, 16, 16, 16).bfloat16()
    layer(x).float().sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    assert layer.weight.grad.item() == pytest.approx(x.float().clamp(max=0).sum().item(), rel=1e-3)


def test_layers_of_one_slope_are_replaced_under_the_same_keys():
    network = nn.Sequential(nn.Conv3d(1, 4, 1), nn.PReLU(init=0.1), nn.Sequential(nn.PReLU(4, init=0.3)))
    before = copy.deepcopy(network.state_dict())
    quicken(network)
    assert [type(network[1]), type(network[2][0])] == [QuickPReLU, nn.PReLU]
    assert network.state_dict().keys() == before.keys()
    for key, value in network.state_dict().items():
        assert torch.equal(value, before[key]), key
