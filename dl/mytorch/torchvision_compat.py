"""Importing torchvision, also where its build does not fit torch's."""

from types import ModuleType

import torch


def import_torchvision() -> ModuleType:
    """Return torchvision, usable although torch is a CPU build and torchvision is not.

    A package index may pair a CPU build of torch with a CUDA build of torchvision. The library of compiled operators
    then fails to load, and `import torchvision` stops with "operator torchvision::nms does not exist", because it
    registers a shape rule for an operator that nobody has declared. Declaring the two operators (without giving them
    code: calling them still fails, clearly) is all that the import needs. A healthy pair is left as it is.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision
    return torchvision
