"""Where float64 is computed: on the tensor's device, or on the CPU if that device has no float64, as Apple's MPS."""

import torch
from torch import Tensor

WITHOUT_FLOAT64 = {"mps"}  # types of devices


def float64_device(device: torch.device) -> torch.device:
    """Return `device`, or the CPU if `device` has no float64."""
    return torch.device("cpu") if device.type in WITHOUT_FLOAT64 else device


def with_float64(tensor: Tensor) -> Tensor:
    """Return `tensor`, copied to the CPU if its device has no float64. Its dtype stays."""
    return tensor.to(float64_device(tensor.device))
