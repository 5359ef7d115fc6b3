"""Published weights for our BERT: those of transformers."""

import re
from functools import partial
from typing import Callable

from torch import nn

from dl.modules.Transformers.BERT.model import BERT

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "gelu": nn.GELU,
    "gelu_new": partial(nn.GELU, approximate="tanh"),
    "gelu_pytorch_tanh": partial(nn.GELU, approximate="tanh"),
    "relu": nn.ReLU,
    "silu": nn.SiLU,
}

# Their names as regular expressions, and ours.
NAMES = (
    (r"^bert\.", ""),
    (r"^embeddings\.word_embeddings", "token_embedding"),
    (r"^embeddings\.token_type_embeddings", "segment_embedding"),
    (r"^embeddings\.position_embeddings\.weight", "positions.table"),
    (r"^embeddings\.LayerNorm", "norm"),
    (r"^encoder\.layer\.(\d+)", r"blocks.\1"),
    (r"attention\.self\.", "attention.layer."),
    (r"attention\.output\.dense", "attention.layer.output"),
    (r"attention\.output\.LayerNorm", "attention.norm"),
    (r"intermediate\.dense", "feed_forward.layer.fc1"),
    (r"(blocks\.\d+)\.output\.dense", r"\1.feed_forward.layer.fc2"),
    (r"(blocks\.\d+)\.output\.LayerNorm", r"\1.feed_forward.norm"),
    (r"^pooler\.dense", "pooler.fc"),
    (r"^cls\.predictions\.transform\.dense", "mlm_head.hidden"),
    (r"^cls\.predictions\.transform\.LayerNorm", "mlm_head.norm"),
    (r"^cls\.predictions\.bias", "mlm_head.bias"),
    (r"^cls\.seq_relationship", "nsp_head"),
)
TIED = ("cls.predictions.decoder.weight", "cls.predictions.decoder.bias")  # other names of weights that are there already


def from_transformers(reference: nn.Module) -> BERT:
    """Our copy of a `transformers.BertModel`, `BertForPreTraining` or `BertForMaskedLM`, with the heads that it has.

    Raises `ValueError` for what these classes build beyond the paper: a decoder, an output layer of its own weights, an
    activation that is not known here; and for other classes.
    """
    config, encoder = reference.config, getattr(reference, "bert", reference)
    heads = getattr(reference, "cls", None)
    mlm, nsp = hasattr(heads, "predictions"), hasattr(heads, "seq_relationship")
    if type(reference).__name__ not in ("BertModel", "BertForPreTraining", "BertForMaskedLM"):
        raise ValueError(f"a {type(reference).__name__} is none of BertModel, BertForPreTraining and BertForMaskedLM")
    if config.is_decoder or config.add_cross_attention:
        raise ValueError("a decoder, or a model with cross attention, is no network of this paper")
    if mlm and heads.predictions.decoder.weight is not encoder.embeddings.word_embeddings.weight:
        raise ValueError("the output layer has weights of its own; the paper's has those of the token embeddings")
    if config.hidden_act not in ACTIVATIONS:
        raise ValueError(f"hidden_act {config.hidden_act!r} is none of {', '.join(ACTIVATIONS)}")
    model = BERT(
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        hidden_dim=config.intermediate_size,
        vocab_size=config.vocab_size,
        max_length=config.max_position_embeddings,
        num_segments=config.type_vocab_size,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        activation=ACTIVATIONS[config.hidden_act],
        norm_eps=config.layer_norm_eps,
        mlm=mlm,
        nsp=nsp,
        pooler=encoder.pooler is not None,
    )
    weights = {}
    for name, weight in reference.state_dict().items():
        if name not in TIED:
            for theirs, our in NAMES:
                name = re.sub(theirs, our, name)
            weights[name] = weight
    model.load_state_dict(weights)
    return model
