"""What the tests of Llama share."""

from torch import Tensor, nn

SIZES = {"vocab_size": 11, "hidden_size": 24, "intermediate_size": 20, "num_hidden_layers": 2, "num_attention_heads": 6}


class AsOurs(nn.Module):
    """A model of transformers, called and answering as ours."""

    def __init__(self, reference: nn.Module) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        return self.reference(input_ids=tokens, attention_mask=(~padding).long()).logits
