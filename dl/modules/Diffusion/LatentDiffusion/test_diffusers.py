"""Both networks against diffusers', by which converted weights are proven, too (in the parity tier)."""

from typing import Any, Iterator

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.LatentDiffusion import convert
from dl.modules.Diffusion.LatentDiffusion.unet import UNet
from dl.mytorch import testing
from dl.mytorch.torchvision_compat import import_torchvision


def awake(model: nn.Module) -> nn.Module:
    """`model` with all weights of an ordinary size."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


class DiffusersTwin(nn.Module):
    """A network of diffusers', whose output is tensors and whose parameters come in the order of ours."""

    def __init__(self, network: nn.Module, model: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.order = [name for name, _ in model.named_parameters()]
        self.names = convert.UNET if isinstance(model, UNet) else convert.AUTOENCODER

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        ours = {convert.renamed(name, self.names): parameter for name, parameter in self.network.named_parameters()}
        assert set(ours) == set(self.order)
        return (ours[name] for name in self.order)


class AutoencoderTwin(DiffusersTwin):
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        posterior = self.network.encode(images).latent_dist
        z = posterior.sample() if self.training else posterior.mode()
        return self.network.decode(z).sample, posterior.mean, posterior.logvar, posterior.kl()


class WithKL(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        again, posterior = self.network(images)
        return again, *posterior, posterior.kl()


class UNetTwin(DiffusersTwin):
    def forward(self, x: Tensor, times: Tensor, context: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        mask = None if padding_mask is None else ~padding_mask
        return self.network(x, times, context, encoder_attention_mask=mask, return_dict=False)[0]


@pytest.mark.parity
@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("options", [{}, {"layers_per_block": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 3}])
def test_autoencoder_is_diffusers_in_outputs_gradients_and_steps(options: dict[str, Any], train: bool) -> None:
    import_torchvision()  # diffusers imports it, too
    diffusers = pytest.importorskip("diffusers")
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    small = {"block_out_channels": (8, 16), "layers_per_block": 1, "latent_channels": 4, "norm_num_groups": 4}
    network = diffusers.AutoencoderKL(**{**kinds, **small, **options})
    model = convert.autoencoder_from_diffusers(network)
    x = torch.randn(2, options.get("in_channels", 3), 8, 12)
    testing.assert_same_as(WithKL(model), AutoencoderTwin(network, model), x, train=train)
    with pytest.raises(ValueError, match="no autoencoder of this paper: use_quant_conv False"):
        convert.autoencoder_from_diffusers(diffusers.AutoencoderKL(**kinds, **small, use_quant_conv=False))


def unet_reference(**options: Any) -> nn.Module:
    import_torchvision()
    diffusers = pytest.importorskip("diffusers")
    down, up = ("DownBlock2D", "CrossAttnDownBlock2D"), ("CrossAttnUpBlock2D", "UpBlock2D")
    small = {"block_out_channels": (8, 16), "layers_per_block": 1, "cross_attention_dim": 12, "norm_num_groups": 4}
    sizes = {"in_channels": 4, "out_channels": 4, "attention_head_dim": 2}
    return diffusers.UNet2DConditionModel(**{"down_block_types": down, "up_block_types": up, **small, **sizes, **options})


THREE = {
    "block_out_channels": (8, 12, 12),
    "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
}


@pytest.mark.parity
@pytest.mark.parametrize(
    ("options", "height", "width", "masked"),
    [
        ({}, 8, 8, False),  # 2 heads of width 8
        ({"attention_head_dim": 4, "layers_per_block": 2}, 8, 12, True),  # 4 heads of width 4
        ({**THREE, "in_channels": 3, "out_channels": 2}, 7, 9, True),  # odd sides
    ],
)
def test_unet_is_diffusers_in_outputs_gradients_and_steps(
    options: dict[str, Any], height: int, width: int, masked: bool
) -> None:
    network = awake(unet_reference(**options))
    model = convert.unet_from_diffusers(network)
    x, context = torch.randn(3, options.get("in_channels", 4), height, width), torch.randn(3, 5, 12)
    mask = [torch.arange(5) >= torch.tensor([[5], [2], [4]])] if masked else []
    testing.assert_same_as(model, UNetTwin(network, model), x, torch.tensor([0, 17, 999]), context, *mask)


@pytest.mark.parity
@pytest.mark.parametrize(
    "wrong", [{"norm_eps": 1e-6}, {"attention_head_dim": (2, 4)}, {"use_linear_projection": True}, {"dropout": 0.1}]
)
def test_networks_of_other_papers_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"no network of this paper: {next(iter(wrong))}"):
        convert.unet_from_diffusers(unet_reference(**wrong))
