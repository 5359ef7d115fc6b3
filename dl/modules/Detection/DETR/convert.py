"""Pretrained weights for our DETR: those of transformers, as its modules or as the files that they are published in."""

import copy
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dl.modules.Detection.backbone import FrozenNorm, freeze_norms
from dl.modules.Detection.DETR.model import DETR
from dl.mytorch.checkpoint import load, put_weights
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json, regular_file
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

# Their names as regular expressions, and ours. The backbone is a ResNet of transformers or of timm; a block's number is made
# by `renamed`. Files are older than the names o_proj and mlp.
NAMES = (
    (r"^model\.", ""),
    (r"^backbone\.(conv_encoder\.)?model\.", "backbone."),
    (r"^backbone\.conv1\.", "backbone.stem.conv."),
    (r"^backbone\.bn1\.", "backbone.stem.norm."),
    (r"^backbone\.embedder\.embedder\.", "backbone.stem."),
    (r"^(backbone\.blocks\.\d+)\.conv(\d)", r"\1.body.conv\2"),
    (r"^(backbone\.blocks\.\d+)\.bn(\d)", r"\1.body.norm\2"),
    (r"downsample\.0", "shortcut.conv"),
    (r"downsample\.1", "shortcut.norm"),
    (r"\.convolution", ".conv"),
    (r"\.normalization", ".norm"),
    (r"^query_position_embeddings\.weight", "queries"),
    (r"^input_projection", "projection"),
    (r"^decoder\.layernorm", "norm"),
    (r"\.layers\.(\d+)", r".\1"),
    (r"^(encoder\.\d+)\.self_attn_layer_norm", r"\1.norm1"),
    (r"^(encoder\.\d+)\.final_layer_norm", r"\1.norm2"),
    (r"^(encoder\.\d+)\.self_attn", r"\1.attention"),
    (r"self_attn_layer_norm", "norm1"),
    (r"encoder_attn_layer_norm", "norm2"),
    (r"final_layer_norm", "norm3"),
    (r"self_attn", "self_attention"),
    (r"encoder_attn", "cross_attention"),
    (r"\.q_proj", ".query"),
    (r"\.k_proj", ".key"),
    (r"\.v_proj", ".value"),
    (r"\.(o|out)_proj", ".output"),
    (r"\.(mlp\.)?(fc\d)", r".feed_forward.\2"),
    (r"^class_labels_classifier", "class_head"),
    (r"^bbox_predictor\.0", "box_head.fc1"),
    (r"^bbox_predictor\.1", "box_head.fc2"),
    (r"^bbox_predictor\.2", "box_head.fc3"),
)
STAGE = re.compile(r"^backbone\.(?:layer|encoder\.stages\.)(\d+)\.(?:layers\.)?(\d+)\.")
LAYER = re.compile(r"\.layer\.(\d+)\.(convolution|normalization)")
SCHEMA = {
    **{"encoder_attention_heads?": int, "decoder_attention_heads?": int, "dropout?": float, "dilation?": (bool, None)},
    **{"position_embedding_type?": str, "activation_function?": str, "auxiliary_loss?": (bool, None), "model_type?": str},
    **{"backbone_config?": ({"downsample_in_bottleneck?": bool, "downsample_in_first_stage?": bool}, None)},
}


def from_transformers(reference: nn.Module) -> DETR:
    """Return our copy of a `transformers.DetrForObjectDetection`, with frozen norms and the dropout of its config.

    Raises `ValueError` for what its class builds beyond the paper's network: see `network`.
    """
    weights = renamed(reference.state_dict())
    model = network(reference.config.to_dict(), weights)
    model.load_state_dict(weights)
    return model


def from_folder(folder: Path | str) -> DETR:
    """Return the network in a folder of published files, as facebook/detr-resnet-50: config.json and model.safetensors.

    Raises `UserError` for files that are missing, damaged or do not fit together, and for what `from_transformers` refuses.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json", SCHEMA)
    path = regular_file(folder / "model.safetensors")
    if config.get("model_type", "detr") != "detr":
        raise UserError(f"{folder / 'config.json'} is of the model type {config['model_type']!r}; this is for 'detr'")
    weights = renamed(load(path))
    try:
        model = network(config, weights)
    except (KeyError, ValueError) as error:
        raise UserError(f"{folder}: no DETR for object detection ({error})") from None
    put_weights(model, weights, path)
    return model


def renamed(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return their state dict under our names. They count blocks of the backbone within each stage, we through all."""
    names = {name: re.sub(r"^(model\.)?backbone\.(conv_encoder\.)?model\.", "backbone.", name) for name in weights}
    places = {match[0]: (int(match[1]), int(match[2])) for name in names.values() if (match := STAGE.match(name))}
    numbers = {place: i for i, place in enumerate(sorted(set(places.values())))}
    ours = {}
    for theirs, name in names.items():
        if name.endswith("num_batches_tracked"):
            continue
        if match := STAGE.match(name):
            name = f"backbone.blocks.{numbers[places[match[0]]]}.{name[match.end() :]}"
            name = LAYER.sub(lambda layer: f".body.{layer[2][:4]}{int(layer[1]) + 1}", name)
        ours[substituted(name, NAMES)] = weights[theirs]
    return ours


def network(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> DETR:
    """Return a network as large as `weights`, under our names, but not with these weights. The rest is in the config.

    Raises `ValueError` for what the class of transformers builds beyond the paper's network: learned positions, another
    activation, a dilated backbone, and a norm between the blocks of the decoder, which it has with auxiliary_loss.
    """
    backbone = config.get("backbone_config") or {}
    for name, value, wanted in (
        ("position_embedding_type", config.get("position_embedding_type", "sine"), "sine"),
        ("activation_function", config.get("activation_function", "relu"), "relu"),
        ("dilation", bool(config.get("dilation")), False),
        ("downsample_in_first_stage", bool(backbone.get("downsample_in_first_stage")), False),
        ("auxiliary_loss", bool(config.get("auxiliary_loss")), False),
    ):
        if value != wanted:
            raise ValueError(f"{name} is {value}; that of the paper's network is {wanted}")
    heads = {config.get(f"{part}_attention_heads", 8) for part in ("encoder", "decoder")}
    if len(heads) > 1:
        raise ValueError("encoder_attention_heads and decoder_attention_heads are two numbers; the paper's network has one")
    queries, dim = weights["queries"].shape
    width, in_channels = weights["backbone.stem.conv.weight"].shape[:2]
    depths = {part: _numbers(weights, rf"{part}\.(\d+)\.") for part in ("encoder", "decoder")}
    return DETR(
        len(weights["class_head.bias"]) - 1,
        {
            "preset": "resnet50",
            "depths": _stages(weights),
            "kind": "bottleneck" if "backbone.blocks.0.body.conv3.weight" in weights else "basic",
            "stride_in": "1x1" if backbone.get("downsample_in_bottleneck") else "3x3",
            "width": width,
            "stages": (len(_stages(weights)),),
            "frozen": True,
        },
        in_channels,
        dim,
        heads.pop(),
        (depths["encoder"], depths["decoder"]),
        len(weights["encoder.0.feed_forward.fc1.bias"]),
        queries,
        config.get("dropout", 0.1),
    )


def _numbers(weights: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many numbers stand at the place of the `pattern`'s group in the names."""
    return len({match[1] for name in weights if (match := re.match(pattern, name))})


def _stages(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Return the blocks of each stage of the backbone: the output of a block has twice the channels where a stage begins."""
    ends = [weights[name] for name in weights if re.fullmatch(r"backbone\.blocks\.\d+\.body\.norm1\.bias", name)]
    widths = [len(bias) for bias in ends]
    return tuple(widths.count(width) for width in dict.fromkeys(widths))


def to_transformers(model: DETR) -> nn.Module:
    """Return a `transformers.DetrForObjectDetection` with the weights of a DETR of ours, the inverse of `from_transformers`.

    The norms of its backbone are frozen as they are. Raises `ValueError` for another stem, or frozen norms with another eps.
    """
    weights, model = model.state_dict(), copy.deepcopy(model)
    freeze_norms(model.backbone, 1e-5)
    model.load_state_dict({name: weight for name, weight in weights.items() if not name.endswith("num_batches_tracked")})
    if any(norm.eps != 1e-5 for norm in model.modules() if isinstance(norm, FrozenNorm)):
        raise ValueError("frozen norms with another eps than 1e-5 are not in the class")
    transformers, first, stages = import_transformers(), model.encoder[0], _stages(weights)
    bodies, stem = [block.body for block in model.backbone.blocks], model.backbone.stem.conv
    bottleneck = hasattr(bodies[0], "conv3")
    backbone = transformers.ResNetConfig(
        num_channels=stem.in_channels,
        embedding_size=stem.out_channels,
        hidden_sizes=[model.backbone.channels[-1] // 2**i for i in reversed(range(len(stages)))],
        depths=list(stages),
        layer_type="bottleneck" if bottleneck else "basic",
        downsample_in_bottleneck=bottleneck and any(body.conv1.stride != (1, 1) for body in bodies),
        out_features=[f"stage{len(stages)}"],
    )
    heads, hidden = first.attention.num_heads, first.feed_forward.fc1.out_features
    config = transformers.DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        d_model=model.dim,
        num_queries=len(model.queries),
        num_labels=model.num_classes,
        encoder_layers=len(model.encoder),
        encoder_attention_heads=heads,
        encoder_ffn_dim=hidden,
        decoder_layers=len(model.decoder),
        decoder_attention_heads=heads,
        decoder_ffn_dim=hidden,
        dropout=first.dropout.p,
    )
    return inverse(from_transformers, transformers.DetrForObjectDetection(config), model)
