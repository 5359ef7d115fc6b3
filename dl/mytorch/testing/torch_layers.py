"""Blocks of transformers as torch's own layers, or any reference, with the parameters of a copy of ours: twins."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


class UnderTheirNames(nn.Module):
    """`reference` with the parameters of `copy`, for `assert_same_as` where the two cut their tensors in other ways.

    `theirs(copy)` gives these parameters by the reference's names, as functions of them, so that gradients get back.
    """

    def __init__(self, reference: nn.Module, copy: nn.Module, theirs: Callable[[nn.Module], dict[str, Tensor]]) -> None:
        super().__init__()
        self.copy, self.theirs = copy, theirs
        self.reference = [reference]  # not a child: its own parameters do not count

    def forward(self, *inputs: Tensor) -> Tensor:
        return torch.func.functional_call(self.reference[0], self.theirs(self.copy), inputs)


def torch_names(attention: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of query, key, value and output by the names of `nn.MultiheadAttention`, as functions of them."""
    parts = [attention.query, attention.key, attention.value]
    names = {"in_proj_weight": torch.cat([part.weight for part in parts]), "out_proj.weight": attention.output.weight}
    if attention.output.bias is not None:
        names |= {"in_proj_bias": torch.cat([part.bias for part in parts]), "out_proj.bias": attention.output.bias}
    return names


def torch_block_names(block: nn.Module) -> Mapping[str, Tensor]:
    """Return the parameters of a transformer's block by the names of `nn.TransformerEncoderLayer` or the decoder's."""
    layers = {"linear1": block.feed_forward.fc1, "linear2": block.feed_forward.fc2}
    layers |= {name: layer for name, layer in block.named_children() if name.startswith("norm")}
    named = {f"{name}.{part}": tensor for name, layer in layers.items() for part, tensor in layer.named_parameters()}
    for our, name in (("attention", "self_attn"), ("self_attention", "self_attn"), ("cross_attention", "multihead_attn")):
        if hasattr(block, our):
            named |= {f"{name}.{part}": tensor for part, tensor in torch_names(getattr(block, our)).items()}
    return named


class TorchBlock(nn.Module):
    """A copy of a transformer's block, run through torch's `reference`: `nn.TransformerEncoderLayer` or the decoder's.

    For `assert_same_as`. The last inputs are those that `masks` names; `options` are further arguments of the reference. Its
    dropouts after the layers are set to 0: they draw in another order of memory.
    """

    def __init__(self, block: nn.Module, reference: nn.Module, masks: Sequence[str] = (), **options: Any) -> None:
        super().__init__()
        self.block, self.masks, self.options = copy.deepcopy(block), masks, options
        for name, module in reference.named_children():
            if name in ("dropout1", "dropout2", "dropout3"):
                module.p = 0.0
        self.reference = [reference]  # not a child: its own parameters do not count

    def forward(self, *inputs: Tensor) -> Tensor:
        streams = len(inputs) - len(self.masks)
        options = dict(zip(self.masks, inputs[streams:])) | self.options
        self.reference[0].train(self.training)
        return torch.func.functional_call(self.reference[0], torch_block_names(self.block), inputs[:streams], options)
