"""A look inside a model: what its layers are, what they cost, and their outputs."""

import math
import sys
import time
from collections import Counter
from contextlib import AbstractContextManager, contextmanager, nullcontext
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._device import DeviceContext
from torch.utils.flop_counter import FlopCounterMode

from dl.mytorch import contract
from dl.mytorch.config import UserError


class _WithoutValues(DeviceContext):
    """The device "meta", without what takes most of the time there: filling, and layers that torch computes in Python."""

    FILLINGS = {Tensor.normal_, Tensor.uniform_, Tensor.fill_, Tensor.zero_}
    ACTIVATIONS = {F.relu, F.hardtanh, F.gelu, F.dropout}

    def __torch_function__(self, function: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if function in self.FILLINGS:
            return args[0]
        if function is torch.zeros or function is torch.ones:
            function = torch.empty
        elif function in self.ACTIVATIONS:
            return args[0] if kwargs.get("inplace") else F.silu(args[0])  # which is not computed in Python
        elif function is F.batch_norm and all(kwargs[name] is not None for name in ("weight", "bias")):
            scale, shift = (kwargs[name].view(-1, *[1] * (args[0].ndim - 2)) for name in ("weight", "bias"))
            if args[0].shape[1] == len(scale):
                return torch.addcmul(shift, args[0], scale)
        return super().__torch_function__(function, types, args, kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Tensors made inside have a shape but no values: the largest model then takes no memory and no time."""
    inits = {name: init for name, init in vars(nn.init).items() if name.endswith("_") and not name.startswith("_")}
    vars(nn.init).update(dict.fromkeys(inits, lambda tensor, *_, **__: tensor))  # in Python they take half of the time
    try:
        with _WithoutValues(torch.device("meta")):
            yield
    finally:
        vars(nn.init).update(inits)


def count_parameters(model: nn.Module) -> int:
    """Trainable parameters, a shared one once."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def count_flops(model: nn.Module, *inputs: Any) -> int:
    """FLOPs of the matrix products and convolutions of one forward pass, a multiply-add counted as two."""
    counter = _flop_counter()
    with torch.no_grad(), counter:
        model(*inputs)
    return counter.get_total_flops()


def _flop_counter() -> FlopCounterMode:
    """torch's, which does not know the one step that an LSTM is on a CPU: rows (T, B, C) go through two matrices."""

    def lstm(x: Any, from_input: Any, from_state: Any, *_: Any, **__: Any) -> int:
        return 2 * x[0] * x[1] * (math.prod(from_input) + math.prod(from_state))

    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mkldnn_rnn_layer: lstm})


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run the block with torch computing on `count` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_flops(device: torch.device, dtype: torch.dtype, side: int = 0, seconds: float = 0.3) -> float:
    """Return the FLOPs per second of a matrix product (side, side), the fastest of those in so many seconds.

    This is what a program can reach on this machine on torch's threads. On a CPU their time is that which they computed, so
    that other programs do not count. side: default 1024 on a CPU, else 8192.
    """
    clock = time.perf_counter if device.type != "cpu" else lambda: time.process_time() / torch.get_num_threads()
    side = side or (1024 if device.type == "cpu" else 8192)
    a, b = (torch.ones(side, side, device=device, dtype=dtype) for _ in range(2))
    fastest, end = math.inf, math.inf
    while time.perf_counter() < end:
        end, started = min(end, time.perf_counter() + seconds), clock()
        (a @ b).flatten()[0].item()  # which waits for it
        fastest = min(fastest, max(clock() - started, 1e-9))
    return 2 * side**3 / fastest


def flops_of(summary: Path) -> int:
    """Return the FLOPs of one example by a file that `summarize` has filled."""
    return int(summary.read_text(encoding="utf-8").split()[-1].replace(",", ""))


def layer_summary(model: nn.Module, *inputs: Any) -> str:
    """Return a table of every layer in the order of its first use: name, type, output shape, parameters, FLOPs; then totals.

    FLOPs are those of matrix products and convolutions, a multiply-add counted as two, for the given inputs. A
    layer's parameters and FLOPs include those of the layers inside it; the indentation shows which these are.
    """
    return summarize(model, lambda: model(*inputs))


def summarize(model: nn.Module, call: Callable[[], Any]) -> str:
    """`layer_summary` of a `model` that `call` runs once, in evaluation mode."""
    names = {module: name for name, module in model.named_modules()}
    shapes: dict[str, str] = {}
    hooks = []

    def reserve(module: nn.Module, _: Any) -> None:
        shapes.setdefault(names[module], "")  # a parent is called before its children, but finishes after them

    def record(module: nn.Module, _: Any, output: Any) -> None:
        shapes[names[module]] = _shape(output)

    for module in names:
        hooks += [module.register_forward_pre_hook(reserve), module.register_forward_hook(record)]
    training = {module: module.training for module in names}
    counter = _flop_counter()
    try:
        model.eval()
        # A compiled model would not be counted, and torch would remember not to compile it in training either.
        with torch.no_grad(), counter, uncompiled():
            call()
    finally:
        for module in names:
            module.training = training[module]
        for hook in hooks:
            hook.remove()
    flops = {name: sum(of.values()) for name, of in counter.get_flop_counts().items()}
    root = type(model).__name__
    modules = dict(model.named_modules())
    rows = [("layer", "type", "output shape", "parameters", "FLOPs")]
    for name, shape in shapes.items():
        if name:
            cost = flops.get(f"{root}.{name}", 0)
            inside = [other for other in shapes if other and name.startswith(other + ".")]  # a list of layers has no row
            label = "  " * len(inside) + name.removeprefix(max(inside, key=len, default="")).removeprefix(".")
            rows.append((label, type(modules[name]).__name__, shape, f"{count_parameters(modules[name]):,}", f"{cost:,}"))
    rows.append(("total", root, shapes.get("", ""), f"{count_parameters(model):,}", f"{counter.get_total_flops():,}"))
    return _table(rows)


def uncompiled() -> AbstractContextManager[Any]:
    """Return a context in which compiled modules run as they are written, with hooks.

    torch._dynamo takes as long to import as torch itself, and as long as nobody has imported it nothing is compiled.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else nullcontext()


def summarize_step(model: nn.Module, step: Callable[[nn.Module, dict[str, Tensor]], Any], batch: dict[str, Tensor]) -> str:
    """`summarize` of a task's `step` with the first example of a batch. Raises what `explained` makes of an error in it."""
    example = contract.Asked({name: tensor[:1] for name, tensor in batch.items()})
    try:
        return summarize(model, lambda: contract.check_output(step(model, example)))
    except (RuntimeError, ValueError) as error:
        raise explained(error, lambda batch: step(model, batch), example) from error


def explained(error: Exception, call: Callable[[dict[str, Tensor]], Any], batch: dict[str, Tensor]) -> Exception:
    """Return what `call(batch)` should have raised instead of `error`.

    That is a `UserError` with the smallest size that works, if the "images" (B, C, H, W) of the batch are too small for the
    network; else `error` itself. `call` is tried on squares of up to 1,024 pixels.
    """
    images = batch.get("images")
    if isinstance(error, UserError) or images is None or images.ndim != 4:
        return error

    def fits(side: int) -> bool:
        try:
            call(batch | {"images": images.new_zeros(*images.shape[:2], side, side)})
        except (RuntimeError, ValueError):
            return False
        return True

    height, width = images.shape[2:]
    fails = min(height, width)
    smallest = next((2**power for power in range(11) if 2**power > fails and fits(2**power)), 0)
    if not smallest:
        return error
    while smallest - fails > 1:
        middle = (smallest + fails) // 2
        smallest, fails = (middle, fails) if fits(middle) else (smallest, middle)
    return UserError(
        f"images of {height}x{width} pixels are too small for this network, which takes {smallest}x{smallest} or more; "
        f"--image-size {smallest} brings those of a folder to this size"
    )


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(f"{cell:{'<' if i < 3 else '>'}{w}}" for i, (cell, w) in enumerate(zip(row, widths))) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _shape(output: Any) -> str:
    if isinstance(output, Tensor):
        return str(tuple(output.shape))
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, (tuple, list)):
        return ", ".join(_shape(part) for part in output if part is not None)
    return type(output).__name__


class Probe:
    """The outputs of named layers, as they are computed.

        with Probe(model, "conv1", "fc1") as probe:
            model(images)
        probe["conv1"]  # the output of the last call

    A name ends in a layer as `model.named_modules()` calls it; raises `KeyError`, with near names, for any other.
    Outputs keep their graph, so that gradients can be asked of them.
    """

    def __init__(self, model: nn.Module, *names: str) -> None:
        self.outputs: dict[str, Any] = {}
        self.modules = dict(model.named_modules())
        self.names = names
        for name in names:
            self._check(name, self.modules)

    def __enter__(self) -> "Probe":
        self.hooks = [self.modules[name].register_forward_hook(self._keeper(name)) for name in self.names]
        return self

    def __exit__(self, *_: Any) -> None:
        for hook in self.hooks:
            hook.remove()

    def __getitem__(self, name: str) -> Any:
        self._check(name, self.outputs)
        return self.outputs[name]

    def _keeper(self, name: str) -> Callable[..., None]:
        def keep(module: nn.Module, inputs: Any, output: Any) -> None:
            self.outputs[name] = output

        return keep

    def _check(self, name: str, known: dict[str, Any]) -> None:
        if name not in known:
            near = get_close_matches(name, known, n=3) or list(known)[:8]
            raise KeyError(f"no output of a layer {name!r} here; near: {', '.join(filter(None, near))}")


def first_kernels(model: nn.Module) -> Tensor | None:
    """Return the kernels (out, in, height, width) of the first convolution larger than 1x1, or None: the eye can read these."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
            return module.weight.detach()
    return None


def check_same_layers(model: nn.Module, reference: nn.Module) -> None:
    """Raise `ValueError` unless both have the same convolutions and norms, with the same settings, in any order.

    For copies of a network that was built elsewhere: weights that fit say nothing of stride, dilation, eps or momentum.
    """
    kinds = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm)
    ours, theirs = (Counter(str(m) for m in network.modules() if isinstance(m, kinds)) for network in (model, reference))
    if ours != theirs:
        missing, more = (", ".join(difference) or "nothing" for difference in (theirs - ours, ours - theirs))
        raise ValueError(f"no network of this paper: it has {missing} where ours has {more}")
