"""Telling the word that was there from words that were drawn."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.RNN.Word2Vec.model import Word2Vec
from dl.mytorch import StepOutput, Task
from dl.mytorch.data import Batch, Vocabulary
from dl.mytorch.metrics import Metric, TopKError

SHOWN = ("king", "city", "war", "music", "river", "two", "december", "she", "red", "love")


class NegativeSampling(Task):
    """Mikolov et al. 2013b, equation 4: log sigmoid(u_o v) and, for each word that was drawn, log sigmoid(-u_k v), summed up.

    Batches: those of data.py, the true word the first of the candidates. The loss is the mean over examples; `top1_error` is
    the share of examples in which a drawn word has a larger logit than the true one.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        logits = model(batch["inputs"], batch["candidates"], batch["padding"])  # (B, 1 + K)
        loss = -(F.logsigmoid(logits[:, 0]) + F.logsigmoid(-logits[:, 1:]).sum(1))
        true = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        count = len(logits)
        return StepOutput(loss.sum() / max(1, count), count, {"logits": logits.detach(), "labels": true})

    def metrics(self) -> dict[str, Metric]:
        return {"top1_error": TopKError(1)}

    def preview(self, model: Word2Vec) -> dict[str, Tensor | str]:
        """Return the nearest neighbours of some words."""
        words = [word for word in SHOWN if word in self.vocabulary] or self.vocabulary.tokens[:5]
        return {"neighbours": "\n\n".join(neighbours(model, self.vocabulary, words))}

    def report(self, model: Word2Vec) -> dict[str, Tensor | str]:
        return self.preview(model)


def neighbours(model: Word2Vec, vocabulary: Vocabulary, words: list[str], count: int = 6) -> list[str]:
    """Return a line for each word: those nearest to it, with their cosines.

    Raises `UserError` for a word that has no vector.
    """
    device = model.embedding.weight.device
    ids = torch.tensor([vocabulary[word] for word in words], device=device)
    cosines, nearest = model.neighbours(ids, min(count, len(vocabulary) - 1))
    lines = []
    for word, row, values in zip(words, nearest, cosines.tolist()):
        found = (f"{name} {value:.2f}" for name, value in zip(vocabulary.decode(row), values))
        lines.append(f"{word}: {', '.join(found)}")
    return lines
