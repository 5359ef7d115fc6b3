"""Pretrained weights for our BERT: those of transformers, as its modules or as the files that they are published in."""

from pathlib import Path
from typing import Any, Container, Mapping

import torch
from torch import Tensor, nn

from dl.modules.Transformers.BERT.model import BERT
from dl.mytorch.checkpoint import load, put_weights
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json, regular_file
from dl.mytorch.inverse import inverse
from dl.mytorch.layers.activations import ACTIVATIONS, activation_name
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

# Their names as regular expressions, and ours.
NAMES = (
    (r"^bert\.", ""),
    (r"\.gamma$", ".weight"),  # of norms, in the oldest files
    (r"\.beta$", ".bias"),
    (r"^embeddings\.word_embeddings", "token_embedding"),
    (r"^embeddings\.token_type_embeddings", "segment_embedding"),
    (r"^embeddings\.position_embeddings\.weight", "position_embedding"),
    (r"^embeddings\.LayerNorm", "norm"),
    (r"^encoder\.layer\.(\d+)", r"blocks.\1"),
    (r"attention\.self\.", "attention."),
    (r"attention\.output\.dense", "attention.output"),
    (r"attention\.output\.LayerNorm", "norm1"),
    (r"intermediate\.dense", "feed_forward.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.feed_forward.fc2"),
    (r"(blocks\.\d+)\.output\.LayerNorm", r"\1.norm2"),
    (r"^pooler\.dense", "pooler.fc"),
    (r"^cls\.predictions\.transform\.dense", "mlm_head.hidden"),
    (r"^cls\.predictions\.transform\.LayerNorm", "mlm_head.norm"),
    (r"^cls\.predictions\.bias", "mlm_head.bias"),
    (r"^cls\.seq_relationship", "nsp_head"),
)
# Other names of weights that are there already, with the first ones; the numbers 0, 1, 2 ..., which old files hold.
TWICE = {
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
    "embeddings.position_ids": "",
}
OWN_OUTPUT = "the output layer has separate weights; the paper's has those of the token embeddings"
# What a config.json means by what it leaves out; those of 2018 and 2019 leave out a lot.
DEFAULTS = {
    **{"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072, "vocab_size": 30522},
    **{"max_position_embeddings": 512, "type_vocab_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-12},
    **{"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
}
SIZES = [name for name, value in DEFAULTS.items() if isinstance(value, int)]
SHARES = [name for name, value in DEFAULTS.items() if isinstance(value, float)]
SCHEMA = {f"{name}?": type(value) for name, value in DEFAULTS.items()} | {
    **{"recipe?": object, "model_type?": str, "is_decoder?": (bool, None), "add_cross_attention?": (bool, None)},
}


def from_transformers(reference: nn.Module) -> BERT:
    """Return our copy of a `transformers.BertModel`, `BertForPreTraining` or `BertForMaskedLM`, with the heads that it has.

    Raises `ValueError` for what these classes build beyond the paper: a decoder, an output layer of its own weights, an
    activation that is not known here; and for other classes.
    """
    if type(reference).__name__ not in ("BertModel", "BertForPreTraining", "BertForMaskedLM"):
        raise ValueError(f"a {type(reference).__name__} is none of BertModel, BertForPreTraining and BertForMaskedLM")
    heads = getattr(reference, "cls", None)
    encoder = getattr(reference, "bert", reference)
    if hasattr(heads, "predictions") and heads.predictions.decoder.weight is not encoder.embeddings.word_embeddings.weight:
        raise ValueError(OWN_OUTPUT)
    weights = renamed(reference.state_dict())
    model = network(reference.config.to_dict(), weights)
    model.load_state_dict(weights)
    return model


def from_folder(folder: Path | str, heads: bool = True) -> BERT:
    """Return the network in a folder of published files: config.json and model.safetensors, or the older pytorch_model.bin.

    With the heads of pre-training if they are in the file and `heads` is True, else without any. Raises `UserError` for files
    that are missing, damaged or do not fit together, and for what `from_transformers` refuses.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json", SCHEMA)
    if "recipe" in config:
        raise UserError(f"{folder} is a run of {config['recipe']}; the folder of pretrained weights is asked for")
    if config.get("model_type", "bert") != "bert":
        raise UserError(f"{folder / 'config.json'} is of the model type {config['model_type']!r}; this is for 'bert'")
    old = folder / "pytorch_model.bin"
    path = old if old.exists() and not (folder / "model.safetensors").exists() else folder / "model.safetensors"
    state = load(regular_file(path))  # never a folder of shards
    if not isinstance(state, dict) or not all(isinstance(x, Tensor) for x in state.values()):
        raise UserError(f"{path} does not hold the weights of a model")
    weights = renamed(state)
    if not heads:
        weights = {name: x for name, x in weights.items() if "_head." not in name and not name.startswith("classifier.")}
    elif any(not torch.equal(state[name], state[first]) for name, first in TWICE.items() if {name, first} <= state.keys()):
        raise UserError(f"{path}: {OWN_OUTPUT}")
    try:
        check_sizes({**DEFAULTS, **config}, weights)
        model = network(config, weights)
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'}: {error}") from None
    put_weights(model, weights, path)
    return model


def check_sizes(config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Raise `ValueError` for a network that cannot be, or is much larger than its weights: before it takes memory."""
    check_values(config)
    blocks = len({name.split(".")[1] for name in weights if name.startswith("blocks.")})
    if config["num_hidden_layers"] != blocks:
        raise ValueError(f"num_hidden_layers is {config['num_hidden_layers']}; there are weights of {blocks}")
    dim, vocab_size, hidden_dim = (config[name] for name in ("hidden_size", "vocab_size", "intermediate_size"))
    wanted = dim * (vocab_size + config["max_position_embeddings"] + config["type_vocab_size"])
    wanted += blocks * dim * (4 * dim + 2 * hidden_dim)  # without biases and heads
    if wanted > 2 * sum(weight.numel() for weight in weights.values()):
        raise ValueError(f"a network of {wanted:,} parameters is more than twice as large as its weights")


def check_values(config: Mapping[str, Any]) -> None:
    """Raise `ValueError` for a size below 1 or a probability outside [0, 1)."""
    if wrong := [name for name in SIZES if not 1 <= config[name] < 2**24]:
        raise ValueError(f"{wrong[0]} has to be from 1 to 2^24; got {config[wrong[0]]}")
    if wrong := [name for name in SHARES if not 0 <= config[name] < 1]:
        raise ValueError(f"{wrong[0]} has to be at least 0 and below 1; got {config[wrong[0]]}")


def encoder_from(config: Mapping[str, Any], where: Path | str) -> BERT:
    """Return the network of a configuration of transformers with the pooler, without heads, with newly initialised weights.

    Raises `UserError`, naming `where` the configuration is from, for a network that cannot be.
    """
    try:
        check_values({**DEFAULTS, **config})
        return network(config, ["pooler.fc.weight"])
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under their names -> under ours."""
    weights = {}
    for name, weight in state.items():
        if name.removeprefix("bert.") not in TWICE:
            name = substituted(name, NAMES)
            weights[name] = weight
    return weights


def network(config: Mapping[str, Any], weights: Container[str]) -> BERT:
    """The network of a configuration of transformers, with the heads whose names are in `weights`, but not these weights."""
    config = {**DEFAULTS, **config}
    if config.get("is_decoder") or config.get("add_cross_attention"):
        raise ValueError("a decoder, or a model with cross attention, is no network of this paper")
    if config["hidden_act"] not in ACTIVATIONS:
        raise ValueError(f"hidden_act {config['hidden_act']!r} is none of {', '.join(ACTIVATIONS)}")
    return BERT(
        dim=config["hidden_size"],
        depth=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        hidden_dim=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        max_length=config["max_position_embeddings"],
        num_segments=config["type_vocab_size"],
        dropout=config["hidden_dropout_prob"],
        attention_dropout=config["attention_probs_dropout_prob"],
        activation=ACTIVATIONS[config["hidden_act"]],
        norm_eps=config["layer_norm_eps"],
        mlm="mlm_head.bias" in weights,
        nsp="nsp_head.bias" in weights,
        pooler="pooler.fc.weight" in weights,
    )


def to_transformers(model: BERT) -> nn.Module:
    """Return a `transformers.BertForPreTraining`, `BertForMaskedLM` or `BertModel` with the weights of a BERT of ours.

    Which one depends on the heads. The inverse of `from_transformers`.
    """
    transformers, first = import_transformers(), model.blocks[0]
    config = transformers.BertConfig(
        vocab_size=model.token_embedding.num_embeddings,
        hidden_size=model.token_embedding.embedding_dim,
        num_hidden_layers=len(model.blocks),
        num_attention_heads=first.attention.num_heads,
        intermediate_size=first.feed_forward.fc1.out_features,
        max_position_embeddings=len(model.position_embedding),
        type_vocab_size=model.segment_embedding.num_embeddings,
        hidden_act=activation_name(first.feed_forward.act),
        layer_norm_eps=model.norm.eps,
        hidden_dropout_prob=model.dropout.p,
        attention_probs_dropout_prob=first.attention.dropout.p,
    )
    if model.mlm_head is None:
        reference = transformers.BertModel(config, add_pooling_layer=model.pooler is not None)
    else:
        reference = (transformers.BertForMaskedLM if model.nsp_head is None else transformers.BertForPreTraining)(config)
    return inverse(from_transformers, reference, model)
