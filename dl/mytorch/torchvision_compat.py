"""Importing torchvision, also where its build does not fit torch's."""

import sys
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dl.mytorch.config import UserError

BOXES = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
POOLED = "float spatial_scale, SymInt pooled_height, SymInt pooled_width"
SCHEMAS = {
    "nms": BOXES,
    "qnms": BOXES,
    "roi_align": f"(Tensor input, Tensor rois, {POOLED}, int sampling_ratio, bool aligned) -> Tensor",
    "_roi_align_backward": f"(Tensor grad, Tensor rois, {POOLED}, SymInt batch_size, SymInt channels, SymInt height, "
    "SymInt width, int sampling_ratio, bool aligned) -> Tensor",
}


def import_torchvision() -> ModuleType:
    """Return torchvision, usable although torch is a CPU build and torchvision is not.

    A package index may pair a CPU build of torch with a CUDA build of torchvision. The library of compiled operators
    then fails to load, and `import torchvision` stops with "operator torchvision::nms does not exist", because it
    registers a shape rule for an operator that nobody has declared. The two operators are declared, so that it imports, and
    `nms` and `roi_align`, of which its detectors are made, get our code. A healthy pair is left as it is.
    """
    try:
        import torchvision
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", SCHEMAS[name])
        import torchvision
    extension = getattr(torchvision, "extension", None)
    if extension is not None and not extension._has_ops():
        _register_operators()
        # What asks for the compiled operators. The second would have torch.compile make one, for more than a minute.
        for module in (extension, sys.modules["torchvision.ops.roi_align"]):
            module._has_ops = lambda: True
    return torchvision


def import_transformers() -> ModuleType:
    """Return transformers, which imports torchvision if that is there. Raises `UserError` if transformers is not installed."""
    import_torchvision()
    try:
        import transformers
    except ImportError:
        raise UserError('the package transformers is not installed: pip install -e ".[export]"') from None
    return transformers


def _register_operators() -> None:
    """Give torchvision's `nms` and `roi_align` our code, for all devices, with derivative, shape rules and autocast."""
    from dl.mytorch.layers.boxes import nms
    from dl.mytorch.layers.roi_align import pool, pool_backward

    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            torch.library.define(f"torchvision::{name}", schema)
    kernels = {"nms": nms, "roi_align": pool, "_roi_align_backward": pool_backward}
    for name, kernel in kernels.items():
        torch.library.impl(f"torchvision::{name}", "CompositeExplicitAutograd", kernel)

    rules = sys.modules["torchvision._meta_registrations"]  # that of nms is registered already
    torch.library.register_fake("torchvision::roi_align", rules.meta_roi_align)
    torch.library.register_fake("torchvision::_roi_align_backward", rules.meta_roi_align_backward)

    torch.library.register_autograd("torchvision::roi_align", _roi_align_backward, setup_context=_remember_roi_align)
    torch.library.impl("torchvision::nms", AUTOCAST, _nms_in_float32)
    torch.library.impl("torchvision::roi_align", AUTOCAST, _roi_align_in_float32)


def _remember_roi_align(ctx: Any, inputs: tuple, output: Tensor) -> None:
    maps, rois, scale, height, width, *ctx.how = inputs
    ctx.save_for_backward(rois)
    ctx.sizes = (scale, height, width, *maps.shape)


def _roi_align_backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    gradient = torch.ops.torchvision._roi_align_backward(gradient, *ctx.saved_tensors, *ctx.sizes, *ctx.how)
    return gradient, *[None] * 6


AUTOCAST = ("AutocastCPU", "AutocastCUDA", "AutocastXPU")


def _without_autocast() -> Any:
    """Return a context in which an operator called by its autocast rule is the operator itself."""
    keys = [torch._C.DispatchKeySet(getattr(torch._C.DispatchKey, key)) for key in AUTOCAST]
    return torch._C._ExcludeDispatchKeyGuard(keys[0] | keys[1] | keys[2])


def _single(x: Tensor) -> Tensor:
    """Return half precision as float32, and doubles as they are."""
    return x.float() if x.is_floating_point() and x.dtype != torch.float64 else x


def _nms_in_float32(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    with _without_autocast():
        return torch.ops.torchvision.nms(_single(boxes), _single(scores), threshold)


def _roi_align_in_float32(maps: Tensor, rois: Tensor, *options: Any) -> Tensor:
    with _without_autocast():
        return torch.ops.torchvision.roi_align(_single(maps), _single(rois), *options).to(maps.dtype)
