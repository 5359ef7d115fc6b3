"""A loader whose batches are made while training: it counts environment steps, as a `Loader` counts examples."""

import math
from typing import Callable, Iterator

import torch

from dl.mytorch.data.loader import Batch, Transform


class Experience:
    """Takes the place of the `Loader` of training where the model makes its data: batch t is what `collect()` returns then.

    The loop asks for a batch when the step before is done, and saves between two steps: so the batch is that of the present
    weights, and is made again after a resume, from the state that the task keeps (`Task.own_state`).

    Args:
        batch_size: environment steps of a batch, over all ranks.
        num_examples: environment steps of an epoch; made up to whole batches.

    `collect` is set before training: the rows of this rank. `transform` is as in `Loader`.
    """

    def __init__(self, batch_size: int, num_examples: int) -> None:
        self.batch_size = batch_size
        self.num_examples = math.ceil(num_examples / batch_size) * batch_size
        self.collect: Callable[[], Batch] | None = None
        self.transform: Transform | None = None

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return self.num_examples // self.batch_size

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on. Raises `ValueError` if nothing collects them."""
        if self.collect is None:
            raise ValueError("nothing collects the batches: set `collect` first")
        for t in range(start, len(self)):
            batch = self.collect()
            yield batch if self.transform is None else self.transform(batch, torch.Generator().manual_seed(t))
