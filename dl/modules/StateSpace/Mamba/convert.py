"""Pretrained weights for our Mamba: those of transformers."""

from torch import nn

from dl.modules.StateSpace.Mamba.model import Mamba
from dl.mytorch.names import substituted

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
