"""The networks of diffusers as ours: pretrained weights, and the proof in test_model.py."""

from typing import Any, Mapping

from torch import nn

from dl.modules.Diffusion.LatentDiffusion.autoencoder import Autoencoder
from dl.modules.Diffusion.LatentDiffusion.unet import UNet
from dl.mytorch.names import substituted

# diffusers' names as regular expressions, and ours: of both networks, of the autoencoder, of the U-Net.
BOTH = (
    (r"(^|\.)conv_in\.", r"\1stem."),
    (r"(^|\.)conv_norm_out\.", r"\1norm."),
    (r"(^|\.)conv_out\.", r"\1head."),
    (r"\.conv_shortcut\.", ".shortcut."),
    (r"\.to_q\.", ".query."),
    (r"\.to_k\.", ".key."),
    (r"\.to_v\.", ".value."),
    (r"\.to_out\.0\.", ".output."),
)
AUTOENCODER = (
    (r"^quant_conv\.", "to_moments."),
    (r"^post_quant_conv\.", "from_latents."),
    (r"\.(?:down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r".levels.\1.blocks.\2."),
    (r"\.(?:down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0\.", r".levels.\1.resample."),
    (r"\.mid_block\.resnets\.0\.", ".middle.block1."),
    (r"\.mid_block\.resnets\.1\.", ".middle.block2."),
    (r"\.mid_block\.attentions\.0\.", ".middle.attention."),
    (r"\.group_norm\.", ".norm."),
)
UNET = (
    (r"^time_embedding\.linear_(\d)\.", r"time.fc\1."),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.(\d+)\.", r"\1.\2.blocks.\3.residual."),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)\.", r"\1.\2.blocks.\3.attention."),
    (r"^down_blocks\.(\d+)\.downsamplers\.0\.conv\.", r"down.\1.resample."),
    (r"^up_blocks\.(\d+)\.upsamplers\.0\.", r"up.\1.resample."),
    (r"^mid_block\.resnets\.(\d)\.", r"middle.\1.residual."),
    (r"^mid_block\.attentions\.0\.", "middle.0.attention."),
    (r"\.time_emb_proj\.", ".time."),
    (r"\.proj_in\.", ".input."),
    (r"\.proj_out\.", ".output."),
    (r"\.transformer_blocks\.0\.", "."),
    (r"\.attn1\.", ".self_attention."),
    (r"\.attn2\.", ".cross_attention."),
    (r"\.ff\.net\.0\.proj\.", ".feed_forward.fc1."),
    (r"\.ff\.net\.2\.", ".feed_forward.fc2."),
)
# What the paper fixes.
FIXED_AUTOENCODER = {"act_fn": "silu", "use_quant_conv": True, "use_post_quant_conv": True, "mid_block_add_attention": True}
FIXED_UNET = {
    **{"act_fn": "silu", "norm_eps": 1e-5, "downsample_padding": 1, "mid_block_type": "UNetMidBlock2DCrossAttn"},
    **{"flip_sin_to_cos": True, "freq_shift": 0, "center_input_sample": False, "dropout": 0.0},
    **{"use_linear_projection": False, "transformer_layers_per_block": 1, "only_cross_attention": False},
    **{"dual_cross_attention": False, "class_embed_type": None, "addition_embed_type": None, "time_embedding_dim": None},
    **{"resnet_time_scale_shift": "default", "encoder_hid_dim": None, "num_attention_heads": None, "attention_type": "default"},
}


def autoencoder_from_diffusers(reference: nn.Module) -> Autoencoder:
    """Return our copy of a `diffusers.AutoencoderKL`. Raises `ValueError` that names what is not of this paper.

    Its `scaling_factor`, by which diffusers' pipelines multiply, is no part of the network there or here.
    """
    config = dict(reference.config)
    wrong = differing(config, FIXED_AUTOENCODER)
    wrong += [kind for kind in config["down_block_types"] if kind != "DownEncoderBlock2D"]
    wrong += [kind for kind in config["up_block_types"] if kind != "UpDecoderBlock2D"]
    if wrong or config["in_channels"] != config["out_channels"]:
        raise ValueError(f"no autoencoder of this paper: {', '.join(wrong) or 'other channels come out'}")
    model = Autoencoder(
        widths=tuple(config["block_out_channels"]),
        depth=config["layers_per_block"],
        latent_channels=config["latent_channels"],
        in_channels=config["in_channels"],
        groups=config["norm_num_groups"],
    )
    model.load_state_dict({renamed(name, AUTOENCODER): weight for name, weight in reference.state_dict().items()})
    return model


def unet_from_diffusers(reference: nn.Module) -> UNet:
    """Return our copy of a `diffusers.UNet2DConditionModel`. Raises `ValueError` that names what is not of this paper.

    What its config calls `attention_head_dim` is the number of heads.
    """
    config = dict(reference.config)
    kinds = {f"{name}{side}Block2D" for name in ("", "CrossAttn") for side in ("Down", "Up")}
    wrong = differing(config, FIXED_UNET)
    wrong += [kind for kind in (*config["down_block_types"], *config["up_block_types"]) if kind not in kinds]
    wrong += [
        f"{name} {config[name]}" for name in ("attention_head_dim", "cross_attention_dim") if type(config[name]) is not int
    ]
    attention = tuple(i for i, kind in enumerate(config["down_block_types"]) if kind.startswith("Cross"))
    mirrored = tuple(i for i, kind in enumerate(reversed(config["up_block_types"])) if kind.startswith("Cross"))
    if wrong or attention != mirrored:
        raise ValueError(f"no network of this paper: {', '.join(wrong) or 'attention differs on the way up'}")
    model = UNet(
        widths=tuple(config["block_out_channels"]),
        depth=config["layers_per_block"],
        attention=attention,
        num_heads=config["attention_head_dim"],
        context_dim=config["cross_attention_dim"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        groups=config["norm_num_groups"],
    )
    model.load_state_dict({renamed(name, UNET): weight for name, weight in reference.state_dict().items()})
    return model


def differing(config: Mapping[str, Any], fixed: Mapping[str, Any]) -> list[str]:
    """Return, in words, what of `config` is not as in `fixed`."""
    return [f"{name} {config[name]!r}" for name, value in fixed.items() if config[name] != value]


def renamed(name: str, names: tuple[tuple[str, str], ...]) -> str:
    """Return our name of a parameter of diffusers' network."""
    return substituted(name, (*names, *BOTH))
