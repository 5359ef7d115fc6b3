"""The U-Net of diffusers as ours: pretrained weights, and the proof in test_model.py."""

from torch import nn

from dl.modules.Diffusion.DDPM.model import AttentionBlock, UNet
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_torchvision

# diffusers' names as regular expressions, and ours.
NAMES = (
    (r"^conv_in", "stem"),
    (r"^conv_norm_out", "norm"),
    (r"^conv_out", "head"),
    (r"^time_embedding\.linear_(\d)", r"time.fc\1"),
    (r"^class_embedding", "label"),
    (r"^(down|up)_blocks\.(\d+)\.resnets\.(\d+)", r"\1.\2.blocks.\3.residual"),
    (r"^(down|up)_blocks\.(\d+)\.attentions\.(\d+)", r"\1.\2.blocks.\3.attention"),
    (r"^(down|up)_blocks\.(\d+)\.(?:down|up)samplers\.0", r"\1.\2.resample"),
    (r"^mid_block\.resnets\.(\d)", r"middle.\1.residual"),
    (r"^mid_block\.attentions\.0", "middle.0.attention"),
    (r"\.time_emb_proj", ".time"),
    (r"\.conv_shortcut", ".shortcut"),
    (r"\.group_norm", ".norm"),
    (r"\.to_q", ".query"),
    (r"\.to_k", ".key"),
    (r"\.to_v", ".value"),
    (r"\.to_out\.0", ".output"),
)
# What appendix B fixes. The published google/ddpm-* networks have these values.
FIXED = {
    "time_embedding_type": "positional",
    "freq_shift": 1,
    "flip_sin_to_cos": False,
    "center_input_sample": False,
    "downsample_padding": 0,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "mid_block_scale_factor": 1,
    "act_fn": "silu",
    "norm_eps": 1e-6,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "attn_norm_num_groups": None,
    "time_embedding_dim": None,
}


def from_diffusers(reference: nn.Module) -> UNet:
    """Return our copy of a `diffusers.UNet2DModel` of the paper's kind, with its weights.

    The last of its `num_class_embeds` becomes our "no label". Raises `ValueError` that names what is not of this paper.
    """
    config = dict(reference.config)
    kinds = {f"{name}{side}Block2D" for name in ("", "Attn") for side in ("Down", "Up")}
    wrong = [f"{name} {config[name]!r}" for name, value in FIXED.items() if config[name] != value]
    wrong += [kind for kind in (*config["down_block_types"], *config["up_block_types"]) if kind not in kinds]
    if config["num_class_embeds"] == 1:
        wrong.append("num_class_embeds 1, no class beside that of no label")
    attention = tuple(i for i, kind in enumerate(config["down_block_types"]) if kind.startswith("Attn"))
    mirrored = tuple(i for i, kind in enumerate(reversed(config["up_block_types"])) if kind.startswith("Attn"))
    if wrong or attention != mirrored:
        raise ValueError(f"no network of this paper: {', '.join(wrong) or 'attention differs on the way up'}")
    model = UNet(
        widths=tuple(config["block_out_channels"]),
        depth=config["layers_per_block"],
        attention=attention,
        in_channels=config["in_channels"],
        out_channels=config["out_channels"],
        num_classes=(config["num_class_embeds"] or 1) - 1,
        dropout=config["dropout"],
        groups=config["norm_num_groups"],
        head_dim=config["attention_head_dim"] or 0,
    )
    model.load_state_dict({renamed(name): weight for name, weight in reference.state_dict().items()})
    return model


def renamed(name: str) -> str:
    """Return our name of a parameter of diffusers' network."""
    return substituted(name, NAMES)


def to_diffusers(model: UNet) -> nn.Module:
    """Return a `diffusers.UNet2DModel` with the weights of a U-Net of ours, the inverse of `from_diffusers`.

    Raises `ValueError` for one whose channels are squares of pixels, `ImportError` without the package diffusers.
    """
    if model.patch > 1:
        raise ValueError(f"squares of {model.patch} x {model.patch} pixels as channels are not in the class")
    import_torchvision()  # diffusers imports it, too
    import diffusers

    kinds = ["Attn" if isinstance(level.blocks[0].attention, AttentionBlock) else "" for level in model.down]
    attention = [module for module in model.modules() if isinstance(module, AttentionBlock)]
    several = [block.query.out_features // block.heads for block in attention if block.heads > 1]
    reference = diffusers.UNet2DModel(
        **FIXED,
        in_channels=model.in_channels,
        out_channels=model.head.out_channels,
        block_out_channels=[level.blocks[0].residual.conv1.out_channels for level in model.down],
        layers_per_block=len(model.down[0].blocks),
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        num_class_embeds=model.num_classes + 1 if model.num_classes else None,
        dropout=model.middle[0].residual.dropout.p,
        norm_num_groups=model.norm.num_groups,
        attention_head_dim=several[0] if several else None,
    )
    return inverse(from_diffusers, reference, model)
