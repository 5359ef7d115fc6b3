"""Pretrained weights for our GPT-2: those of transformers."""

from pathlib import Path

from torch import nn

from dl.modules.GPT.BPE.tokenizer import BPE
from dl.modules.GPT.GPT2.model import GPT2
from dl.modules.GPT.lora import merge
from dl.mytorch.config import UserError
from dl.mytorch.data import sources
from dl.mytorch.files import read_json
from dl.mytorch.inverse import inverse
from dl.mytorch.layers.activations import ACTIVATIONS, activation_name
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

PUBLISHED = ("gpt2", "gpt2-medium", "gpt2-large", "gpt2-xl")

# Their names as regular expressions, and ours.
NAMES = (
    (r"^transformer\.", ""),
    (r"^wte", "token_embedding"),
    (r"^wpe", "position_embedding"),
    (r"^ln_f", "norm"),
    (r"^h\.(\d+)", r"blocks.\1"),
    (r"\.ln_1", ".norm1"),
    (r"\.attn\.c_proj", ".attention.output"),
    (r"\.ln_2", ".norm2"),
    (r"\.mlp\.c_fc", ".feed_forward.fc1"),
    (r"\.mlp\.c_proj", ".feed_forward.fc2"),
)


def from_transformers(reference: nn.Module) -> GPT2:
    """Return our copy of a `transformers.GPT2LMHeadModel`. Its linear layers keep their matrices the other way round.

    Raises `ValueError` for what the class builds beyond the paper: cross attention, an output layer of its own weights,
    other scales of attention, different dropouts of embeddings and layers, an activation that is not known here; and for
    other classes.
    """
    if type(reference).__name__ != "GPT2LMHeadModel":
        raise ValueError(f"a {type(reference).__name__} is no GPT2LMHeadModel")
    config = reference.config
    if config.add_cross_attention:
        raise ValueError("a model with cross attention is no network of this paper")
    if reference.lm_head.weight is not reference.transformer.wte.weight:
        raise ValueError("the output layer has separate weights; the paper's has those of the token embeddings")
    if not config.scale_attn_weights or config.scale_attn_by_inverse_layer_idx:
        raise ValueError("attention has to be scaled by the square root of a head's width alone")
    if config.embd_pdrop != config.resid_pdrop:
        raise ValueError(f"dropout {config.embd_pdrop} of embeddings and {config.resid_pdrop} of layers have to be the same")
    if config.activation_function not in ACTIVATIONS:
        raise ValueError(f"activation_function {config.activation_function!r} is none of {', '.join(ACTIVATIONS)}")
    model = GPT2(
        dim=config.n_embd,
        depth=config.n_layer,
        num_heads=config.n_head,
        vocab_size=config.vocab_size,
        max_length=config.n_positions,
        hidden_dim=config.n_inner,
        dropout=config.resid_pdrop,
        attention_dropout=config.attn_pdrop,
        activation=ACTIVATIONS[config.activation_function],
        norm_eps=config.layer_norm_epsilon,
    )
    weights = {}
    for name, weight in reference.transformer.state_dict().items():
        name = substituted(name, NAMES)
        if ".attn.c_attn." in name:  # query, key and value in one: (C, 3 C) and (3 C,)
            for part, own in zip(("query", "key", "value"), weight.chunk(3, dim=-1)):
                weights[name.replace("attn.c_attn", f"attention.{part}")] = own.mT if own.ndim == 2 else own
        else:
            linear = name.startswith("blocks.") and weight.ndim == 2
            weights[name] = weight.mT if linear else weight
    model.load_state_dict(weights)
    return model


def to_transformers(model: GPT2) -> nn.Module:
    """Return a `transformers.GPT2LMHeadModel` with the weights of a GPT-2 of ours, the inverse of `from_transformers`.

    Adapters of LoRA are merged, in `model` too.

    Raises `ValueError` for linear layers without biases, which transformers has none of.
    """
    merge(model)
    first = model.blocks[0]
    if first.feed_forward.fc1.bias is None:
        raise ValueError("GPT2LMHeadModel has no layers without biases")
    transformers = import_transformers()
    config = transformers.GPT2Config(
        vocab_size=model.token_embedding.num_embeddings,
        n_positions=model.max_length,
        n_embd=model.token_embedding.embedding_dim,
        n_layer=len(model.blocks),
        n_head=first.attention.num_heads,
        n_inner=first.feed_forward.fc1.out_features,
        activation_function=activation_name(first.feed_forward.act),
        resid_pdrop=model.dropout.p,
        embd_pdrop=model.dropout.p,
        attn_pdrop=first.attention.dropout.p,
        layer_norm_epsilon=model.norm.eps,
        bos_token_id=None,
        eos_token_id=None,
    )
    return inverse(from_transformers, transformers.GPT2LMHeadModel(config), model)


def published(name: str) -> tuple[GPT2, BPE]:
    """OpenAI's weights and tokens by their name, or those of a folder that transformers' `save_pretrained` wrote.

    A folder data/pretrained/<name> with the published files stands for a download. Raises `UserError` when they are
    unavailable, damaged, or of another network.
    """
    by_hand = sources.DATA / "pretrained" / name
    if name in PUBLISHED and by_hand.exists():
        name = str(by_hand)
    if name not in PUBLISHED:
        kind = read_json(Path(name) / "config.json", {"model_type?": str}).get("model_type", "gpt2")
        if kind != "gpt2":
            raise UserError(f"{name} holds a network of the type {kind!r}; this is for 'gpt2'")
    transformers = import_transformers()
    from transformers.utils import cached_file

    place = f"openai-community/{name}" if name in PUBLISHED else name
    try:
        reference = transformers.GPT2LMHeadModel.from_pretrained(place)
        folder = Path(name)
        if name in PUBLISHED:
            folder = [Path(cached_file(place, file)).parent for file in ("vocab.json", "merges.txt")][0]
    except Exception as error:  # a damaged file makes it raise nearly anything
        help = f"; its files may be put into {by_hand} by hand" if name in PUBLISHED else ""
        raise UserError(f"{place} cannot be loaded ({' '.join(str(error).split())}){help}") from None
    return from_transformers(reference), BPE.load(folder)
