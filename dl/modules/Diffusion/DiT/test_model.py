"""DiT: sizes, laws, equality with diffusers' (in the parity tier), the recipe."""

import dataclasses
from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import guided
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.DiT import train
from dl.modules.Diffusion.DiT.convert import FIXED, from_diffusers, renamed
from dl.modules.Diffusion.DiT.model import (
    PRESETS,
    Attention,
    Block,
    DiT,
    build,
    square_positions,
)
from dl.modules.Diffusion.testing import assert_labels_and_times_count, one_image
from dl.mytorch import Probe, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision

SIZES = {"dit_s_2": 32_865_056, "dit_b_2": 130_315_808, "dit_l_2": 457_840_672, "dit_xl_2": 674_834_720}
SMALL = {"image_size": 8, "patch_size": 2, "dim": 16, "depth": 2, "num_heads": 2}


def awake(model: nn.Module) -> nn.Module:
    """`model` with all weights of an ordinary size: at the start, its blocks do nothing."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def batch(channels: int = 1, size: int = 28) -> tuple[Tensor, Tensor]:
    return torch.randn(3, channels, size, size), torch.tensor([0, 17, 999])


# ---- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", SIZES)
def test_the_paper_s_networks_have_the_sizes_of_table_1(preset: str) -> None:
    with without_values():
        model = build(preset)
    assert count_parameters(model) == SIZES[preset]
    millions = {"dit_s_2": 33, "dit_b_2": 130, "dit_l_2": 458, "dit_xl_2": 675}
    assert round(SIZES[preset] / 1e6) == millions[preset]
    # The authors' code counts the fixed positions, too, and tells 675,129,632 for its DiT-XL/2.
    assert preset != "dit_xl_2" or SIZES[preset] + model.positions.numel() == 675_129_632


@pytest.mark.parametrize(
    ("options", "shape"),
    [({}, (1, 28)), ({"out_channels": 2, "num_classes": 5}, (2, 28)), ({"in_channels": 3, "image_size": 14}, (3, 14))],
)
def test_predictions_have_the_shape_of_the_images(options: dict[str, Any], shape: tuple[int, int]) -> None:
    channels, size = shape
    output = build("tiny", **options)(*batch(options.get("in_channels", 1), size))
    assert output.shape == (3, channels, size, size)


def test_wrong_sizes_and_labels_are_refused() -> None:
    with pytest.raises(ValueError, match="patch_size 7 has to divide image_size 30"):
        build("tiny", image_size=30)
    with pytest.raises(ValueError, match="4 dim 18"):
        build("tiny", dim=18)
    with pytest.raises(ValueError, match="dim 16 has to divide into num_heads 3"):
        build("tiny", num_heads=3)
    with pytest.raises(ValueError, match="takes images of 28 x 28; got 8 x 8"):
        build("tiny")(*batch(size=8))
    with pytest.raises(ValueError, match="made without labels"):
        build("tiny")(*batch(), labels=torch.tensor([0, 1, 2]))
    with pytest.raises(ValueError, match="labels are from 0 to 4, or 5 for none"):
        guided(build("tiny", num_classes=5), torch.tensor([6]))


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_every_block_starts_as_the_identity_and_the_prediction_as_0() -> None:
    model = build("tiny", num_classes=5)
    assert not model(*batch()).any()
    x, condition = torch.randn(2, 16, 16), torch.randn(2, 16)
    assert all(torch.equal(block(x, condition), x) for block in model.blocks)


def test_block_is_figure_3() -> None:
    block, x, condition = awake(Block(8, 2)).double(), torch.randn(2, 5, 8).double(), torch.randn(2, 8).double()
    told = F.linear(condition, block.modulation.weight, block.modulation.bias)
    shift1, scale1, gate1, shift2, scale2, gate2 = told.view(2, 6, 1, 8).unbind(1)
    y = x + gate1 * block.attention(F.layer_norm(x, (8,), eps=1e-6) * (1 + scale1) + shift1)
    z = F.layer_norm(y, (8,), eps=1e-6) * (1 + scale2) + shift2
    z = F.gelu(block.feed_forward.fc1(z), approximate="tanh")
    torch.testing.assert_close(block(x, condition), y + gate2 * block.feed_forward.fc2(z))


def test_attention_is_torch_s_in_outputs_and_weights() -> None:
    layer, x = awake(Attention(8, 2)).double(), torch.randn(2, 5, 8).double()
    layers = (layer.query, layer.key, layer.value)
    reference = nn.MultiheadAttention(8, 2, batch_first=True).double()
    weight, bias = (torch.cat([getattr(part, name) for part in layers]) for name in ("weight", "bias"))
    output = {"out_proj.weight": layer.output.weight, "out_proj.bias": layer.output.bias}
    reference.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias, **output})
    expected, weights = reference(x, x, x, average_attn_weights=False)
    torch.testing.assert_close(layer(x), expected)
    with Probe(layer, "weights") as probe:
        torch.testing.assert_close(layer(x), expected)
    torch.testing.assert_close(probe["weights"], weights)


def test_positions_tell_the_column_then_the_row() -> None:
    table = square_positions(3, 8).view(3, 3, 8)
    for row in range(3):
        for column in range(3):
            waves = [f(torch.tensor([place, place / 100.0])) for place in (column, row) for f in (torch.sin, torch.cos)]
            torch.testing.assert_close(table[row, column], torch.cat(waves).double(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="divide by 4; got 6"):
        square_positions(3, 6)


def test_a_patch_of_the_prediction_comes_from_its_token() -> None:
    model = build("tiny", out_channels=2)
    nn.init.normal_(model.head.output.weight)
    tokens = []
    model.head.output.register_forward_hook(lambda layer, inputs, output: tokens.append(output))
    with torch.no_grad():
        images = model(*batch())
    patch = tokens[0].view(3, 4, 4, 7, 7, 2)[:, 1, 2]  # second row, third column
    torch.testing.assert_close(images[:, :, 7:14, 14:21], patch.permute(0, 3, 1, 2))


def test_labels_and_times_change_the_prediction_and_no_label_is_the_last_row() -> None:
    assert_labels_and_times_count(awake(build("tiny", num_classes=5)), *batch())


def test_the_start_has_the_authors_scales() -> None:
    model = build("small", num_classes=10)
    kernel = model.patch_embedding.weight
    assert kernel.var().item() == pytest.approx(2 / (16 + 128), rel=0.1)
    assert model.time.fc1.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert model.label.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not model.blocks[0].modulation.weight.any() and model.blocks[0].attention.query.weight.any()


# ---- the recipe ----------------------------------------------------------------------------------------------------


def task(**options: Any) -> Denoising:
    return Denoising(DiffusionSchedule("cosine", "x0", steps=20, learned_variance=True), (1, 8, 8), **options)


LEARNED = {**SMALL, "in_channels": 1, "out_channels": 2, "num_classes": 10}
RUN = {"times": 20, "epochs": 1, "ema": 0.9, "precision": "fp32", "learned_variance": True}
test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", batch_size=4, **RUN),
    lambda: synthetic.images(32, size=8),
    task=lambda: task(drop_label=0.5),
    variants=[LEARNED],
    prepare=awake,
    inputs=lambda: (*batch(size=8), torch.tensor([0, 10, 3])),
    overfit=[testing.Overfit(LEARNED, one_image, lambda: task(drop_label=0.0), below=0.3)],
)


def test_recipe_refuses_too_few_times_and_patches_that_do_not_fit() -> None:
    config = train.Config(data="fashion_mnist-sample", model="tiny", **RUN)
    with pytest.raises(ValueError, match="--times has to be at least 2"):
        dataclasses.replace(config, times=1)
    with pytest.raises(UserError, match="--model tiny does not fit --data cifar10: patch_size 7"):
        train.build_model(dataclasses.replace(config, data="cifar10"))


# ---- diffusers -----------------------------------------------------------------------------------------------------


def reference(**options: Any) -> nn.Module:
    """Theirs, whose blocks share one embedding of time and label."""
    import_torchvision()  # diffusers imports it, too
    diffusers = pytest.importorskip("diffusers")
    small = {"num_attention_heads": 2, "attention_head_dim": 8, "in_channels": 3, "num_layers": 2, "sample_size": 8}
    network = diffusers.DiTTransformer2DModel(**{**small, "num_embeds_ada_norm": 5, **FIXED, **options})
    for block in network.transformer_blocks:
        block.norm1.emb = network.transformer_blocks[0].norm1.emb
    return network


class DiffusersTwin(nn.Module):
    """diffusers' network, whose output is a tensor and whose parameters come in the order of ours."""

    def __init__(self, network: nn.Module, model: DiT) -> None:
        super().__init__()
        self.network = network
        self.order = [name for name, _ in model.named_parameters()]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        ours = {renamed(name): parameter for name, parameter in self.network.named_parameters()}
        assert set(ours) == set(self.order)
        return (ours[name] for name in self.order)

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return self.network(images, times, labels, return_dict=False)[0]


@pytest.mark.parity
@pytest.mark.parametrize("options", [{}, {"patch_size": 4, "out_channels": 6, "norm_eps": 1e-6, "in_channels": 1}])
def test_network_is_diffusers_in_outputs_gradients_and_steps(options: dict[str, Any]) -> None:
    network = awake(reference(**options))
    model = from_diffusers(network)
    inputs = *batch(options.get("in_channels", 3), 8), torch.tensor([0, 5, 3])
    testing.assert_same_as(model, DiffusersTwin(network, model), *inputs)


@pytest.mark.parity
def test_the_paper_s_networks_have_as_many_parameters_in_diffusers() -> None:
    for preset, expected in SIZES.items():
        options = PRESETS[preset]
        heads = options["num_heads"]
        latents = {"sample_size": 32, "in_channels": 4, "out_channels": 8, "num_embeds_ada_norm": 1000}
        sizes = {"num_attention_heads": heads, "attention_head_dim": options["dim"] // heads, "num_layers": options["depth"]}
        with torch.device("meta"):
            assert count_parameters(reference(**latents, **sizes)) == expected


@pytest.mark.parity
def test_networks_of_other_papers_are_refused() -> None:
    with pytest.raises(ValueError, match="no network of this paper: activation_fn 'gelu'"):
        from_diffusers(reference(activation_fn="gelu"))
    network = reference()
    network.transformer_blocks[1].norm1.emb = reference().transformer_blocks[0].norm1.emb
    with pytest.raises(ValueError, match="embeddings of time and label differ"):
        from_diffusers(network)
