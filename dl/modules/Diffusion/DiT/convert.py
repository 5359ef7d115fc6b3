"""diffusers' transformer as ours: pretrained weights, and the proof in test_model.py."""

import torch
from torch import nn

from dl.modules.Diffusion.DiT.model import DiT
from dl.mytorch.names import substituted

# diffusers' names as regular expressions, and ours.
NAMES = (
    (r"^pos_embed\.proj", "patch_embedding"),
    (r"^transformer_blocks\.0\.norm1\.emb\.timestep_embedder\.linear_(\d)", r"time.fc\1"),
    (r"^transformer_blocks\.0\.norm1\.emb\.class_embedder\.embedding_table", "label"),
    (r"^transformer_blocks", "blocks"),
    (r"\.norm1\.linear", ".modulation"),
    (r"\.attn1\.to_q", ".attention.query"),
    (r"\.attn1\.to_k", ".attention.key"),
    (r"\.attn1\.to_v", ".attention.value"),
    (r"\.attn1\.to_out\.0", ".attention.output"),
    (r"\.ff\.net\.0\.proj", ".feed_forward.fc1"),
    (r"\.ff\.net\.2", ".feed_forward.fc2"),
    (r"^proj_out_1", "head.modulation"),
    (r"^proj_out_2", "head.output"),
)
# What the paper fixes. The published facebook/DiT-XL-2-256 and -512 have these values.
FIXED = {
    "dropout": 0.0,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "upcast_attention": False,
}


def from_diffusers(reference: nn.Module) -> DiT:
    """Return our copy of a `diffusers.DiTTransformer2DModel`, with its weights.

    There every block has its own embedding of time and label; in the published networks these are copies of one, which
    ours has once. Raises `ValueError` where they differ, and for what is not of this paper.
    """
    config = dict(reference.config)
    wrong = [f"{name} {config[name]!r}" for name, value in FIXED.items() if config[name] != value]
    first, *others = (block.norm1.emb.state_dict() for block in reference.transformer_blocks)
    wrong += ["blocks whose embeddings of time and label differ"] * any(
        not torch.equal(first[name], other[name]) for other in others for name in first
    )
    if wrong:
        raise ValueError(f"no network of this paper: {', '.join(wrong)}")
    model = DiT(
        image_size=config["sample_size"],
        patch_size=config["patch_size"],
        dim=config["num_attention_heads"] * config["attention_head_dim"],
        depth=config["num_layers"],
        num_heads=config["num_attention_heads"],
        in_channels=config["in_channels"],
        out_channels=config["out_channels"] or 0,
        num_classes=config["num_embeds_ada_norm"],
        frequency_shift=1,
    )
    for block in model.blocks:
        block.norm2.eps = config["norm_eps"]
    weights = {renamed(name): weight for name, weight in reference.state_dict().items()}
    model.load_state_dict({name: weight for name, weight in weights.items() if ".norm1.emb." not in name})
    return model


def renamed(name: str) -> str:
    """Our name of a parameter of diffusers' network; embeddings of blocks after the first keep theirs, for ours has none."""
    return substituted(name, NAMES)
