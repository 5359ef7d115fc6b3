"""What fine-tuning trains: an encoder and the output layer for the classes of sentences."""

from typing import Literal

from torch import Tensor, nn

from dl.modules.Transformers.BERT.model import BERT, mean_of_tokens
from dl.mytorch.layers import ConcatHead

# B batch, T tokens, C width


class SentenceClassifier(nn.Module):
    """Fine-tuning, section 4.1 and figure 4 (b): the encoder, dropout on its pooled sentence, the output layer.

    The encoder's pooler is the hidden layer between what the sentence is summed up in and the output.

    Args:
        encoder: with the pooler, without the heads of pre-training.
        pooling: what the pooler reads: the "first" token, as in the paper, or the "mean" of all that are not padding; with
            "both", the pooled first token and the mean are joined and pass through one more hidden layer.

    forward: tokens (B, T), padding_mask (B, T) -> logits (B, num_classes). Raises `ValueError` for another encoder.
    """

    def __init__(
        self, encoder: BERT, num_classes: int, dropout: float = 0.1, pooling: Literal["first", "mean", "both"] = "first"
    ) -> None:
        super().__init__()
        if encoder.pooler is None or encoder.mlm_head is not None or encoder.nsp_head is not None:
            raise ValueError("a classifier of sentences needs an encoder with the pooler and without mlm and nsp")
        if pooling not in ("first", "mean", "both"):
            raise ValueError(f"pooling has to be first, mean or both; got {pooling!r}")
        self.encoder, self.pooling = encoder, pooling
        dim = encoder.token_embedding.embedding_dim
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(dim, num_classes)
        if pooling == "both":
            self.head = ConcatHead([dim, dim], dim, num_classes, nn.Tanh, dropout)
        self.init_weights()

    def init_weights(self) -> None:
        """Draw the head as all other layers: normal, std 0.02, biases 0 (run_classifier.py of the paper's code)."""
        for layer in self.head.modules():
            if isinstance(layer, nn.Linear):
                nn.init.normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def forward(self, tokens: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        output = self.encoder(tokens, padding_mask=padding_mask)
        if self.pooling == "first":
            return self.head(self.dropout(output.pooled))
        mean = mean_of_tokens(output.hidden, padding_mask)  # (B, T, C) -> (B, C)
        if self.pooling == "mean":
            assert self.encoder.pooler is not None  # an encoder without it is refused above
            return self.head(self.dropout(self.encoder.pooler(mean)))
        return self.head(self.dropout(output.pooled), mean)
