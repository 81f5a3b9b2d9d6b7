"""What the network computes in: bf16 where the machine multiplies it in hardware, else fp32; and the order of memory.

For training and for whole volumes in torch. Weights, statistics and losses stay fp32 in any case.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16"]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """The precision of forward passes: "auto" is bf16 where `device` computes it, else fp32."""
    bf16 = precision == "bf16" or (precision == "auto" and computes_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def autocast_for_gradients(images: Tensor, strides: Sequence[int], precision: Precision = "auto") -> torch.autocast:
    """The same for passes that train a UNet of these `strides`: fp32 where its features get two voxels thick along x.

    There oneDNN 3.12 (torch 2.13) computes the weight gradient of a 3 x 3 x 3 convolution in bf16 from memory that
    nobody wrote: now and then it is not a number.
    """
    thickness = list(accumulate(strides, lambda size, stride: math.ceil(size / stride), initial=images.shape[2]))
    return autocast(images.device, "fp32" if 2 in thickness[1:] else precision)


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 in hardware: elsewhere it is slower than fp32, or as slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # emulated before Ampere
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def channels_last(images: Tensor) -> Tensor:
    """The same (B, 1, X, Y, Z) marked as channels-last, which every convolution after it keeps (oneDNN and cuDNN)."""
    return torch.empty_like(images, memory_format=torch.channels_last_3d).copy_(images)
