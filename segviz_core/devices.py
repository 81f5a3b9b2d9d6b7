"""Where torch trains: on an NVIDIA card that it can use, else on the processor."""

import torch

from segviz_core.networks import no_card


def torch_device(name: str = "auto") -> torch.device:
    """The device called `name` (auto, cpu or cuda): auto takes an NVIDIA card where torch can use one.

    Raises:
        InputError: cuda without such a card.
    """
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise no_card()
    return torch.device("cuda")


def out_of_memory(error: BaseException) -> bool:
    """Whether a card had too little free memory: torch's own error, or a sentence that was raised from it."""
    return any(isinstance(e, torch.OutOfMemoryError) for e in (error, error.__cause__))
