"""Pretrained weights for our CLIP: those of transformers' CLIPModel."""

from torch import nn

from dl.modules.Multimodal.CLIP.model import CLIP, ImageTransformer, TextTransformer
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

# Their names as regular expressions, and ours. "pre_layrnorm" is their spelling.
NAMES = (
    (r"^vision_model\.embeddings\.class_embedding", "image.class_token"),
    (r"^vision_model\.embeddings\.patch_embedding", "image.patch_embedding"),
    (r"^vision_model\.embeddings\.position_embedding\.weight", "image.position_embedding"),
    (r"^vision_model\.pre_layrnorm", "image.norm1"),
    (r"^vision_model\.post_layernorm", "image.norm2"),
    (r"^text_model\.embeddings\.token_embedding", "text.token_embedding"),
    (r"^text_model\.embeddings\.position_embedding\.weight", "text.position_embedding"),
    (r"^text_model\.final_layer_norm", "text.norm"),
    (r"^vision_model\.encoder\.layers\.", "image.blocks."),
    (r"^text_model\.encoder\.layers\.", "text.blocks."),
    (r"\.layer_norm(\d)\.", r".norm\1."),
    (r"\.self_attn\.q_proj\.", ".attention.query."),
    (r"\.self_attn\.k_proj\.", ".attention.key."),
    (r"\.self_attn\.v_proj\.", ".attention.value."),
    (r"\.self_attn\.out_proj\.", ".attention.output."),
    (r"\.mlp\.fc(\d)\.", r".feed_forward.fc\1."),
    (r"^visual_projection", "image_projection"),
    (r"^text_projection", "text_projection"),
    (r"^logit_scale$", "log_scale"),
)
BUFFERS = ("vision_model.embeddings.position_ids", "text_model.embeddings.position_ids")  # 0, 1, 2 ...


def from_transformers(reference: nn.Module) -> CLIP:
    """Return our copy of a `transformers.CLIPModel`. Its texts are ids of its own tokenizer.

    The id of the end is the config's, but the largest one of the vocabulary where that is 2: the configs of the first
    pretrained weights say so, and mean 49,407. Raises `ValueError` for another class, activation or eps.
    """
    if type(reference).__name__ != "CLIPModel":
        raise ValueError(f"a {type(reference).__name__} is no CLIPModel")
    image, text = reference.config.vision_config, reference.config.text_config
    for config in (image, text):
        if config.hidden_act != "quick_gelu" or config.layer_norm_eps != 1e-5:
            raise ValueError(f"the activation {config.hidden_act} or the eps {config.layer_norm_eps:g} is not the paper's")
    model = CLIP(
        ImageTransformer(
            image.image_size,
            image.patch_size,
            image.hidden_size,
            image.num_hidden_layers,
            image.num_attention_heads,
            image.intermediate_size,
        ),
        TextTransformer(
            text.vocab_size,
            text.max_position_embeddings,
            text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id,
            text.hidden_size,
            text.num_hidden_layers,
            text.num_attention_heads,
            text.intermediate_size,
        ),
        reference.config.projection_dim,
    )
    weights = {substituted(name, NAMES): x for name, x in reference.state_dict().items() if name not in BUFFERS}
    model.load_state_dict(weights | {"log_scale": weights["log_scale"].view(1)})
    return model


def to_transformers(model: CLIP) -> nn.Module:
    """Return a `transformers.CLIPModel` with the weights of a CLIP of ours, the inverse of `from_transformers`.

    Raises `ValueError` for towers that are no transformers, and for SigLIP's bias.
    """
    image, text = model.image, model.text
    if not isinstance(image, ImageTransformer) or not isinstance(text, TextTransformer) or model.bias is not None:
        raise ValueError("a tower that is no transformer, or the bias of SigLIP, is not in the class")
    shared = {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}
    towers = [
        shared
        | {"hidden_size": tower.dim, "num_hidden_layers": len(tower.blocks)}
        | {"num_attention_heads": tower.blocks[0].attention.num_heads}
        | {"intermediate_size": tower.blocks[0].feed_forward.fc1.out_features}
        for tower in (image, text)
    ]
    towers[0] |= {"image_size": image.image_size, "patch_size": image.patch_embedding.kernel_size[0]}
    towers[1] |= {"vocab_size": text.token_embedding.num_embeddings, "max_position_embeddings": len(text.position_embedding)}
    towers[1] |= {"eos_token_id": text.eos_id, "bos_token_id": None, "pad_token_id": None}
    transformers, width = import_transformers(), model.image_projection.out_features
    config = transformers.CLIPConfig(vision_config=towers[0], text_config=towers[1], projection_dim=width)
    return inverse(from_transformers, transformers.CLIPModel(config), model)
