"""Batches by position: batch t of an epoch is a function of (seed, epoch, t) alone, so any run can resume anywhere."""

import math
from dataclasses import dataclass, field
from typing import Any, Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dl.mytorch.config import UserError
from dl.mytorch.distributed import data_rank, data_world_size, fork_rng

Batch = dict[str, Tensor]
Transform = Callable[[Batch, torch.Generator], Batch]
POOL = 100  # batches of `lengths` that are sorted together: more means less padding, fewer means more chance


class Loader:
    """Cuts a data set into batches, each example once an epoch, the last batch as short as it comes out.

    Args:
        dataset: either a dict of tensors with one length, kept in memory, from which a batch is cut by index;
            or anything with `len` and `[i]`, whose examples `num_workers` processes prepare and `collate` joins.
        batch_size: examples per batch over all ranks; of these, rank r of n that read different data takes each n-th from r on.
        shuffle: a new order each epoch, drawn from (seed, epoch).
        lengths: of each example, where `collate` pads to the longest: examples of about one length share a batch, so that
            little is padding. With `shuffle`, each epoch draws again which ones, and the order of the batches; without,
            the longest come first. Inside a batch they always do.
        shards: of each example, the number of the file that it is in: of n ranks, rank r takes of each batch what is in files
            r, r + n, ... alone, in place of each n-th example. Batches stay what they are, a rank's part is as it falls out.
        collate: list of examples -> batch; default: torch's.
        transform: (batch, generator) -> batch, on whole batches; the generator is seeded by (seed, epoch, t, rank).

    Raises `UserError` when there is nothing to load, when tensors differ in length, and for a batch that is no dict of tensors.
    """

    def __init__(
        self,
        dataset: Batch | Dataset,
        batch_size: int,
        *,
        shuffle: bool = False,
        seed: int = 0,
        num_workers: int = 0,
        lengths: Sequence[int] | None = None,
        shards: Tensor | None = None,
        collate: Callable[[list], Batch] | None = None,
        transform: Transform | None = None,
    ) -> None:
        from dl.mytorch import contract  # no part of the loop

        self.num_examples = contract.count_examples(dataset, batch_size, lengths)
        self.dataset, self.in_memory = dataset, isinstance(dataset, dict)
        self.lengths, self.shards = None if lengths is None else torch.as_tensor(lengths), shards
        self.batch_size, self.shuffle, self.seed, self.num_workers = batch_size, shuffle, seed, num_workers
        self.collate, self.transform = contract.Collate(collate), transform
        self.reader: DataLoader | None = None  # the workers of the epoch before

    def __len__(self) -> int:
        """Return batches in an epoch."""
        return math.ceil(self.num_examples / self.batch_size)

    def batches(self, epoch: int = 0, start: int = 0) -> Iterator[Batch]:
        """Yield the batches of an epoch from number `start` on; of each, the part of this rank (which may be empty)."""
        share = epoch, data_rank(), data_world_size()  # asked here: a worker process knows nothing of ranks
        source = Epoch(self, *share)
        places = range(start, len(self))
        batches = (source[t] for t in places) if self.in_memory else self._read([(share, t) for t in places])
        for t, batch in zip(places, batches):
            if self.transform is not None:
                batch = self.transform(batch, torch.Generator().manual_seed(source.seed(t)))
            yield batch

    def _read(self, places: list[tuple[tuple[int, int, int], int]]) -> Iterator[Batch]:
        """Yield the batches of pairs ((epoch, rank, world), t). Worker processes, if there are any, stay for the next epoch."""
        from dl.mytorch.data import workers  # of data sets that are not in memory

        reader, self.reader = self.reader or workers.reader(self), None  # taken: a second reader at the same time is a new one
        reader.sampler[:] = places
        try:
            yield from reader
        except UserError as error:  # out of a worker it comes as a whole traceback, whose last line is enough
            message = str(error).rstrip().rpartition("UserError: ")[2]
            error.__traceback__ = None  # its frames hold the workers, which would end late, after waiting for 5 seconds
        except GeneratorExit:
            self.reader = reader
            raise
        else:
            self.reader = reader
            return
        del reader
        raise UserError(message)


class Epoch:
    """The batches of one epoch, which can be cut at any place and in any process."""

    def __init__(self, loader: Loader, epoch: int, rank: int, world: int) -> None:
        self.loader, self.rank, self.world = loader, rank, world
        mixed = int(np.random.SeedSequence((loader.seed, epoch)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(mixed)
        self.order = torch.randperm(loader.num_examples, generator=generator) if loader.shuffle else None
        if loader.lengths is not None:
            self.order = self._by_length(generator)
        self.first_seed = (mixed << 24) + 1 + self.rank
        self.owned = None if loader.shards is None else loader.shards % world == rank

    def __getitem__(self, t: int) -> Batch:
        loader = self.loader
        start, end = t * loader.batch_size, min((t + 1) * loader.batch_size, loader.num_examples)
        if loader.in_memory and self.order is None:
            return {name: tensor[start + self.rank : end : self.world] for name, tensor in loader.dataset.items()}
        batch = torch.arange(start, end) if self.order is None else self.order[start:end]
        chosen = batch[self.rank :: self.world] if self.owned is None else batch[self.owned[batch]]
        if loader.in_memory:  # by index_select, which is faster than tensor[index]
            return {name: tensor.index_select(0, chosen.to(tensor.device)) for name, tensor in loader.dataset.items()}
        return self._collated(chosen.tolist(), t)

    def _by_length(self, generator: torch.Generator) -> Tensor:
        """Return the shuffled order in pools of POOL batches, sorted by length, longest first, their batches shuffled again.

        Unshuffled, all examples are one pool, and stay sorted. The one short batch stays the last.
        """
        lengths, size = self.loader.lengths, self.loader.batch_size
        if self.order is None:
            return lengths.argsort(descending=True, stable=True)
        pools = self.order.split(POOL * size)
        order = torch.cat([pool[lengths[pool].argsort(descending=True, stable=True)] for pool in pools])
        whole = len(order) // size  # batches
        shuffled = order[: whole * size].view(whole, size)[torch.randperm(whole, generator=generator)]
        return torch.cat([shuffled.flatten(), order[whole * size :]])

    def seed(self, t: int) -> int:
        """One for each batch and rank."""
        return self.first_seed + t * self.world

    def _collated(self, indices: Sequence[int], t: int) -> Batch:
        some = indices or [0 if self.owned is None else int(self.owned.int().argmax())]  # a batch may have none for this rank
        # An example may use any of the global generators, as torchvision's transforms do.
        with fork_rng(self.seed(t) % (2**32 - 5)):  # a prime: by 2^32 most of (seed, epoch) would be cut away
            batch = self.loader.collate([self.loader.dataset[i] for i in some])
        return batch if indices else {name: tensor[:0] for name, tensor in batch.items()}


@dataclass(frozen=True)
class Splits:
    """The loaders of training, of validation (which chooses the best checkpoint) and of the final test.

    A run writes the rest into its folder, and refuses to resume with another: `names` of the classes, where the set has
    some of its own; `vocabularies`, by the name of the tensor in a batch whose ids they explain; `split`, the names of the
    examples of each part, see split.py.
    """

    train: Loader
    val: Loader
    test: Loader | None = None
    names: Sequence[str] = ()
    vocabularies: Mapping[str, Any] = field(default_factory=dict)
    split: Mapping[str, list[str]] | None = None

    def __post_init__(self) -> None:
        from dl.mytorch import contract

        contract.check_splits(self)

    def __iter__(self) -> Iterator[Loader | None]:
        return iter((self.train, self.val, self.test))
