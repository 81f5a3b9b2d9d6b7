"""What the network computes in: bf16 where the machine multiplies it in hardware, else fp32; and the order of memory.

For training and for whole volumes in torch. Weights, statistics and losses stay fp32 in any case.
"""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

Precision = Literal["auto", "fp32", "bf16"]


def autocast(device: torch.device, precision: Precision = "auto") -> torch.autocast:
    """The precision of forward passes: "auto" is bf16 where `device` computes it, else fp32."""
    bf16 = precision == "bf16" or (precision == "auto" and computes_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16)


def computes_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 in hardware: elsewhere it is slower than fp32, or as slow."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)  # emulated before Ampere
    able: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def channels_last(images: Tensor) -> Tensor:
    """The same (B, 1, X, Y, Z) marked as channels-last, which every convolution after it keeps (oneDNN and cuDNN)."""
    return torch.empty_like(images, memory_format=torch.channels_last_3d).copy_(images)
