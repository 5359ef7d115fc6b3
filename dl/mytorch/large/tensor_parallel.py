"""Tensor parallelism: ranks compute every forward pass together, each with a part of the layers inside the blocks.

Shoeybi et al. 2019, https://arxiv.org/abs/1909.08053, section 3: of the layers that open a branch, attention or feed-forward,
a rank has some outputs, full heads or hidden units; of the layer that closes it, the inputs that belong to these. So ranks
wait for each other twice a branch: to add up its outputs, and in the backward pass the gradients of its input. All the rest,
embeddings and heads too, every rank computes for itself. With `sequence` what is between the branches is cut along the
sequence (Korthikanti et al. 2022, https://arxiv.org/abs/2205.05198, section 4.2.2): less memory for the same bytes sent.

The last word of a layer's name says what it is, so that no model knows of this. Torch's modules are imported where they are
needed: they take a second.
"""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dl.mytorch.config import UserError
from dl.mytorch.dtensor import local

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

OPENING = {"query", "key", "value", "gate", "up", "fc1"}
CLOSING = {"output", "down", "fc2"}
OF_HEADS = {"query_norm", "key_norm"}  # (B, H, T, D) -> the same: a rank has some of the heads, but all of the weights
NORMS = (nn.LayerNorm, nn.RMSNorm)


def split(model: nn.Module, mesh: "DeviceMesh", sequence: bool = False) -> None:
    """Leave each rank of `mesh` its part of the layers in the blocks of `model`, in place. All ranks of it call this.

    Raises `UserError` for a model without such layers or with others in their place, and for heads and hidden units that do
    not divide into the ranks; later, with `sequence`, for positions that do not.
    """
    from torch.distributed.tensor.parallel import parallelize_module

    found = branches(model)
    plan = {name: _style("between", sequence) for name in _norms_between(model, found)} if sequence else {}
    for name, branch in found.items():
        check_sizes(name, branch, mesh.size())
        plan |= {layer: _style(layer.rpartition(".")[2], sequence) for layer in _layers(name, branch)}
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    parallelize_module(model, mesh, plan)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(trained[name])
    for branch in found.values():
        _gather_input(branch, mesh, sequence)
        _pass_by_when_empty(branch, mesh.size() if sequence else 1)
        if hasattr(branch, "num_heads"):
            branch.num_heads //= mesh.size()  # type: ignore[operator, assignment]
    if sequence:
        _cut_sequence(model.blocks, mesh)  # type: ignore[arg-type]


# ---- what a model is made of ---------------------------------------------------------------------------------------


def branches(model: nn.Module) -> dict[str, nn.Module]:
    """Return the modules inside the blocks of `model` that hold opening and closing layers, by name. `UserError` if none do."""
    words: dict[str, set[str]] = {}
    for name, module in model.named_modules():
        above, _, word = name.rpartition(".")
        if "blocks" in above.split(".") and isinstance(module, nn.Linear):
            words.setdefault(above, set()).add(word)
    found = {name: model.get_submodule(name) for name, of in words.items() if of & OPENING and of & CLOSING}
    if not found:
        raise UserError(f"tensor parallelism is for transformers: it knows no layer in the blocks of a {type(model).__name__}")
    for name, branch in found.items():
        for layer in _layers(name, branch):
            module, word = model.get_submodule(layer), layer.rpartition(".")[2]
            if word not in OF_HEADS and not (word in OPENING | CLOSING and isinstance(module, nn.Linear)):
                raise UserError(f"tensor parallelism does not know the layer {layer} of a {type(model).__name__}")
    return found


def _layers(name: str, branch: nn.Module) -> list[str]:
    """Return the names of the modules with parameters in `branch`, which is called `name`; its own, if it has any."""
    layers = [layer for layer, module in branch.named_modules() if any(True for _ in module.parameters(recurse=False))]
    return [f"{name}.{layer}".rstrip(".") for layer in layers]


def _norms_between(model: nn.Module, found: dict[str, nn.Module]) -> list[str]:
    """Return the names of what has parameters in the blocks but outside of branches: norms, else a `UserError`."""
    if not all(name.startswith("blocks.") for name in found):
        raise UserError(f"--sequence is for one stack of blocks; a {type(model).__name__} has several")
    inside = {layer for name, branch in found.items() for layer in _layers(name, branch)}
    names = [name for name in _layers("blocks", model.blocks) if name not in inside]  # type: ignore[arg-type]
    for name in names:
        if not isinstance(model.get_submodule(name), NORMS):
            raise UserError(f"--sequence: {name} of a {type(model).__name__} is no norm, and would see a part of each sequence")
    return names


def check_sizes(name: str, branch: nn.Module, ranks: int) -> None:
    """Raise `UserError` unless heads, heads of keys and hidden units divide into `ranks`."""
    for word, layer in branch.named_children():
        if word not in OPENING:
            continue
        count, units = layer.out_features, f"outputs of {name}.{word}"
        if word in ("query", "key", "value"):
            width = getattr(branch, "head_dim", 0) or branch.query.out_features // branch.num_heads
            count, units = count // width, f"{word} heads of {name}"
        if count % ranks:
            raise UserError(f"tensor parallelism: {ranks} ranks do not divide the {count} {units}")


# ---- what becomes of it --------------------------------------------------------------------------------------------


def _style(word: str, sequence: bool) -> Any:
    """Return how torch cuts a layer whose name ends with `word`, or a norm between the branches."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, SequenceParallel

    if word in OPENING:
        return ColwiseParallel()
    if word in CLOSING:
        return RowwiseParallel(output_layouts=Shard(1) if sequence else Replicate())
    return SequenceParallel(sequence_dim=1, use_local_output=True)  # dimension 1 is that of heads or of positions


def _gather_input(branch: nn.Module, mesh: "DeviceMesh", sequence: bool) -> None:
    """Have opening layers share one input: one sum of its gradient over ranks, where each layer would ask for one."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    layout = [Shard(1) if sequence else Replicate()]

    def gather(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        x = DTensor.from_local(args[0], mesh, layout, run_check=False)
        return x.redistribute(placements=[Replicate()]), *args[1:]

    branch.register_forward_pre_hook(gather)


def _pass_by_when_empty(branch: nn.Module, parts: int) -> None:
    """Leave out `branch` where a rank has no example of a short last batch: torch 2.13 would reshape it for ever.

    Its parameters get a gradient of 0, since ranks with examples add theirs to it. `parts`: into which its output is cut.
    """
    forward = branch.forward

    def run(x: Tensor, *args: Any) -> Tensor:
        if x.numel():
            return forward(x, *args)
        nothing = sum((local(parameter).sum() for parameter in branch.parameters()), torch.zeros((), device=x.device))
        return local(x)[:, : x.shape[1] // parts] + 0 * nothing

    branch.forward = run  # type: ignore[method-assign]


def _cut_sequence(blocks: nn.ModuleList, mesh: "DeviceMesh") -> None:
    """Cut (B, T, C) along T before the first block, and join it after the last."""
    from torch.distributed.tensor import DTensor, Replicate, Shard

    def cut(_: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        if args[0].shape[1] % mesh.size():  # gloo would abort the process
            raise UserError(f"--sequence: {mesh.size()} ranks do not divide the {args[0].shape[1]} positions of a sequence")
        x = DTensor.from_local(args[0], mesh, [Replicate()], run_check=False)
        return x.redistribute(placements=[Shard(1)]).to_local(), *args[1:]

    def join(_: nn.Module, __: Any, y: Tensor) -> Tensor:
        return DTensor.from_local(y, mesh, [Shard(1)], run_check=False).redistribute(placements=[Replicate()]).to_local()

    blocks[0].register_forward_pre_hook(cut)
    blocks[-1].register_forward_hook(join)
