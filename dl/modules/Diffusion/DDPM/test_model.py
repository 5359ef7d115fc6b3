"""The U-Net: sizes, laws, and equality with diffusers' (in the parity tier)."""

import re
from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Diffusion.DDPM import train
from dl.modules.Diffusion.DDPM.convert import FIXED, from_diffusers, renamed
from dl.modules.Diffusion.DDPM.model import AttentionBlock, ResidualBlock, UNet, build
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.testing import assert_labels_and_times_count, one_image
from dl.mytorch import Probe, testing
from dl.mytorch.data import synthetic
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.names import renamed as renamed_earlier
from dl.mytorch.torchvision_compat import import_torchvision


def awake(model: nn.Module) -> nn.Module:
    """`model` with all weights of an ordinary size: at the start, its residual branches are nearly nothing."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def batch(channels: int = 1, height: int = 8, width: int = 8) -> tuple[Tensor, Tensor]:
    return torch.randn(3, channels, height, width), torch.tensor([0, 17, 999])


# ---- sizes ---------------------------------------------------------------------------------------------------------


def test_the_paper_s_network_has_35_746_307_parameters() -> None:
    with without_values():
        assert count_parameters(build("cifar10")) == 35_746_307  # appendix B: 35.7 million


@pytest.mark.parametrize(
    ("options", "height", "width"),
    [({}, 8, 12), ({"patch": 2}, 12, 8), ({"out_channels": 2, "num_classes": 5}, 28, 28), ({"in_channels": 3}, 32, 32)],
)
def test_predictions_have_the_shape_of_the_images(options: dict[str, Any], height: int, width: int) -> None:
    channels = options.get("in_channels", 1)
    output = build("tiny", **options)(*batch(channels, height, width))
    assert output.shape == (3, options.get("out_channels", channels), height, width)


def test_attention_is_at_the_chosen_resolutions_and_in_the_middle() -> None:
    with without_values():
        model = build("cifar10")
    places = [name for name, module in model.named_modules() if isinstance(module, AttentionBlock)]
    down = [f"down.1.blocks.{i}.attention" for i in range(2)]  # 16 x 16
    assert places == down + [f"up.2.blocks.{i}.attention" for i in range(3)] + ["middle.0.attention"]


@pytest.mark.parametrize(
    ("options", "height", "message"),
    [({}, 9, "9 x 8: both sides have to be multiples of 2"), ({"patch": 2}, 10, "multiples of 4")],
)
def test_sides_that_cannot_be_halved_are_refused(options: dict[str, Any], height: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("tiny", **options)(*batch(height=height))


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of groups 3"):
        build("tiny", groups=3)
    with pytest.raises(ValueError, match="made without labels"):
        build("tiny")(*batch(), labels=torch.tensor([0, 1, 2]))


# ---- laws ----------------------------------------------------------------------------------------------------------


def test_residual_block_is_the_formula_of_its_docstring() -> None:
    block = awake(ResidualBlock(4, 6, embedding=5, groups=2, dropout=0.0)).double()
    x, embedding = torch.randn(2, 4, 3, 5).double(), torch.randn(2, 5).double()
    y = F.silu(F.group_norm(x, 2, block.norm1.weight, block.norm1.bias, 1e-6))
    y = F.conv2d(y, block.conv1.weight, block.conv1.bias, padding=1) + block.time(embedding)[..., None, None]
    y = F.silu(F.group_norm(y, 2, block.norm2.weight, block.norm2.bias, 1e-6))
    y = F.conv2d(y, block.conv2.weight, block.conv2.bias, padding=1)
    torch.testing.assert_close(block(x, embedding), y + F.conv2d(x, block.shortcut.weight, block.shortcut.bias))


@pytest.mark.parametrize("heads", [1, 2])
def test_attention_block_is_torch_s_attention_over_the_positions_of_the_normed_map(heads: int) -> None:
    block, x = awake(AttentionBlock(4, heads, groups=2)).double(), torch.randn(2, 4, 3, 5).double()
    layers = (block.query, block.key, block.value)
    reference = nn.MultiheadAttention(4, heads, batch_first=True).double()
    weight, bias = (torch.cat([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
    output = {"out_proj.weight": block.output.weight, "out_proj.bias": block.output.bias}
    reference.load_state_dict({"in_proj_weight": weight, "in_proj_bias": bias, **output})
    positions = F.group_norm(x, 2, block.norm.weight, block.norm.bias, 1e-6).flatten(2).transpose(1, 2)
    with Probe(block, "weights") as probe:
        torch.testing.assert_close(block(x), x + reference(*3 * [positions])[0].transpose(1, 2).view_as(x))
    torch.testing.assert_close(probe["weights"].mean(1), reference(*3 * [positions])[1])
    torch.testing.assert_close(block(x), x + reference(*3 * [positions])[0].transpose(1, 2).view_as(x))  # by the kernel


def test_weights_under_the_names_of_earlier_versions_fit() -> None:
    model = build("tiny")
    part = r"(\.attention)\.(query|key|value|output)\."
    earlier = {re.sub(part, r"\1.attention.\2.", name): weight for name, weight in model.state_dict().items()}
    assert "middle.0.attention.attention.query.weight" in earlier and "middle.0.attention.norm.weight" in earlier
    assert renamed_earlier(model, earlier).keys() == model.state_dict().keys()


def test_halving_pads_right_and_below_and_doubling_repeats() -> None:
    model = awake(build("tiny"))
    x = torch.randn(1, 8, 4, 4)
    down, up = model.down[0].resample, model.up[0].resample
    framed = torch.zeros(1, 8, 5, 5)
    framed[..., :4, :4] = x
    torch.testing.assert_close(down(x), F.conv2d(framed, down.conv.weight, down.conv.bias, stride=2))
    x = torch.randn(1, 16, 2, 3)
    doubled = x.repeat_interleave(2, -1).repeat_interleave(2, -2)
    torch.testing.assert_close(up(x), F.conv2d(doubled, up.conv.weight, up.conv.bias, padding=1))


def test_patches_are_channels_of_the_same_network() -> None:
    whole, patched = (awake(build("tiny", **o)) for o in ({"in_channels": 4}, {"patch": 2}))
    patched.load_state_dict(whole.state_dict())
    images, times = batch()
    torch.testing.assert_close(patched(images, times), F.pixel_shuffle(whole(F.pixel_unshuffle(images, 2), times), 2))


def test_labels_and_times_change_the_prediction_and_no_label_is_the_last_row() -> None:
    assert_labels_and_times_count(awake(build("tiny", num_classes=5)), *batch())


def denoising(drop_label: float, **process: Any) -> Denoising:
    return Denoising(DiffusionSchedule(**process), (1, 8, 8), drop_label=drop_label)


X0 = {"schedule": "cosine", "prediction": "x0", "steps": 20}
test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", times=20, epochs=1, batch_size=4, ema=0.9, precision="fp32"),
    lambda: synthetic.images(32, size=8),
    splits=lambda config: testing.tiny_splits(size=8),
    task=lambda: denoising(0.5),
    variants=[{"num_classes": 10}],
    prepare=awake,
    inputs=lambda: (*batch(), torch.tensor([0, 10, 3])),
    overfit=[testing.Overfit({"num_classes": 10}, one_image, lambda: denoising(0.0, **X0), below=0.4)],  # 1.9 at the start
)


def test_the_start_predicts_nearly_nothing_with_the_authors_scales() -> None:
    model = build("small")
    assert model(*batch(1, 28, 28)).abs().max() < 1e-3
    kernel = model.down[0].blocks[0].residual.conv1.weight
    assert kernel.var().item() == pytest.approx(2 / (9 * (48 + 48)), rel=0.05)
    assert model.middle[0].attention.output.weight.abs().max() < 1e-5
    assert model.middle[0].residual.conv2.weight.abs().max() < 1e-5


# ---- diffusers -----------------------------------------------------------------------------------------------------


def reference(**options: Any) -> nn.Module:
    import_torchvision()  # diffusers imports it, too
    diffusers = pytest.importorskip("diffusers")
    fixed = {name: value for name, value in FIXED.items() if name != "time_embedding_dim"}
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    small = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4, "attention_head_dim": None}
    return diffusers.UNet2DModel(**{**fixed, **blocks, **small, **options})


class DiffusersTwin(nn.Module):
    """diffusers' network, whose output is a tensor and whose parameters come in the order of ours."""

    def __init__(self, network: nn.Module, model: UNet) -> None:
        super().__init__()
        self.network = network
        self.order = [name for name, _ in model.named_parameters()]

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        ours = {renamed(name): parameter for name, parameter in self.network.named_parameters()}
        assert set(ours) == set(self.order)
        return (ours[name] for name in self.order)

    def forward(self, images: Tensor, times: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.network(images, times, labels, return_dict=False)[0]


@pytest.mark.parity
@pytest.mark.parametrize(
    ("options", "height", "width", "train"),
    [
        ({}, 8, 12, True),
        ({"layers_per_block": 2, "attention_head_dim": 4, "num_class_embeds": 6}, 12, 8, True),
        (
            {
                "block_out_channels": (8, 12, 12),
                "in_channels": 1,
                "out_channels": 2,
                "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            },
            28,
            28,
            False,
        ),
    ],
)
def test_network_is_diffusers_in_outputs_gradients_and_steps(
    options: dict[str, Any], height: int, width: int, train: bool
) -> None:
    network = awake(reference(**options))
    model = from_diffusers(network)
    inputs = [*batch(options.get("in_channels", 3), height, width)]
    inputs += [torch.tensor([0, 5, 3])] if "num_class_embeds" in options else []
    testing.assert_same_as(model, DiffusersTwin(network, model), *inputs, train=train)


@pytest.mark.parity
def test_the_paper_s_network_is_diffusers_too() -> None:
    widths = {"block_out_channels": (128, 256, 256, 256), "layers_per_block": 2, "norm_num_groups": 32}
    down = ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D")
    up = ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    network = reference(**widths, down_block_types=down, up_block_types=up)
    model = from_diffusers(network)
    assert str(model) == str(build("cifar10", dropout=0.0))
    testing.assert_same_as(model, DiffusersTwin(network, model), *batch(3, 16, 16), steps=1)


@pytest.mark.parity
@pytest.mark.parametrize(
    "wrong",
    [
        {"flip_sin_to_cos": True},
        {"norm_eps": 1e-5},
        {"num_class_embeds": 1},
        {"down_block_types": ("DownBlock2D", "DownBlock2D")},
    ],
)
def test_networks_of_other_papers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="no network of this paper"):
        from_diffusers(reference(**wrong))
