"""Pretrained weights for our Mamba: those of transformers."""

from torch import nn

from dl.modules.StateSpace.Mamba.model import Mamba
from dl.mytorch.inverse import inverse
from dl.mytorch.names import substituted
from dl.mytorch.torchvision_compat import import_transformers

# The names of transformers as regular expressions, and ours.
NAMES = (
    (r"^backbone\.", ""),
    (r"^embeddings", "token_embedding"),
    (r"^layers\.(\d+)", r"blocks.\1"),
    (r"\.mixer\.in_proj", ".input"),
    (r"\.mixer\.conv1d", ".conv"),
    (r"\.mixer\.x_proj", ".ssm.select"),
    (r"\.mixer\.dt_proj", ".ssm.step"),
    (r"\.mixer\.(A_log|D)", r".ssm.\1"),
    (r"\.mixer\.out_proj", ".output"),
    (r"^norm_f", "norm"),
    (r"^lm_head", "output"),
)


def from_transformers(reference: nn.Module) -> Mamba:
    """Return our copy of a `transformers.MambaForCausalLM`, with its weights.

    Raises `ValueError` for what the class builds beyond the paper: another activation, a convolution without a bias; and for
    other classes.
    """
    config = reference.config
    if type(reference).__name__ != "MambaForCausalLM":
        raise ValueError(f"a {type(reference).__name__} is no MambaForCausalLM")
    if config.hidden_act != "silu" or not config.use_conv_bias:
        raise ValueError("another activation than silu, or a convolution without a bias, is not this paper's")
    tied = reference.lm_head.weight is reference.backbone.embeddings.weight
    model = Mamba(
        dim=config.hidden_size,
        depth=config.num_hidden_layers,
        vocab_size=config.vocab_size,
        state_dim=config.state_size,
        expand=config.expand,
        conv_width=config.conv_kernel,
        step_rank=config.time_step_rank,
        tied=tied,
        biases=config.use_bias,
        norm_eps=config.layer_norm_epsilon,
    )
    weights = reference.state_dict()
    if tied:
        del weights["lm_head.weight"]
    model.load_state_dict({substituted(name, NAMES): weight for name, weight in weights.items()})
    return model


def to_transformers(model: Mamba) -> nn.Module:
    """Return a `transformers.MambaForCausalLM` with the weights of a Mamba of ours, the inverse of `from_transformers`."""
    transformers, first = import_transformers(), model.blocks[0]
    vocab_size, dim = model.token_embedding.weight.shape
    config = transformers.MambaConfig(
        vocab_size=vocab_size,
        hidden_size=dim,
        num_hidden_layers=len(model.blocks),
        state_size=first.ssm.A_log.shape[1],
        expand=first.conv.out_channels // dim,
        conv_kernel=first.conv.kernel_size[0],
        time_step_rank=first.ssm.step.in_features,
        use_bias=first.input.bias is not None,
        layer_norm_epsilon=model.norm.eps,
        tie_word_embeddings=model.output is None,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=None,
    )
    return inverse(from_transformers, transformers.MambaForCausalLM(config), model)
