"""Batch t is a function of (seed, epoch, t): from anywhere, in any process, on any number of ranks."""

import itertools
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import Dataset

from dl.mytorch import testing
from dl.mytorch.data import Batch, Loader, loader
from dl.mytorch.distributed import rng_state

COUNT = 23  # no multiple of the batch sizes below


class Numbers(Dataset):
    """Example i is {"x": i}."""

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": torch.tensor(i)}


class Noisy(Numbers):
    """Example i with a number from each of the global generators, as random transforms take them."""

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        noise = torch.tensor([torch.rand(()).item(), random.random(), np.random.rand()], dtype=torch.float64)
        return {"x": torch.tensor(i), "noise": noise}


def in_memory() -> Batch:
    return {"x": torch.arange(COUNT)}


def add_noise(batch: Batch, generator: torch.Generator) -> Batch:
    return batch | {"augmented": torch.rand(len(batch["x"]), generator=generator)}


def examples(loader: Loader, epoch: int = 0, start: int = 0) -> list[int]:
    return torch.cat([batch["x"] for batch in loader.batches(epoch, start)]).tolist()


def assert_same_batches(first: Any, second: Any) -> None:
    for t, (a, b) in enumerate(itertools.zip_longest(first, second)):
        assert a is not None and b is not None, f"only one has a batch {t}"
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) and a[name].dtype == b[name].dtype for name in a), f"batch {t} differs"


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("make", [in_memory, Numbers])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_each_example_comes_exactly_once_an_epoch(shuffle: bool, make: Any, batch_size: int) -> None:
    data = Loader(make(), batch_size, shuffle=shuffle)
    sizes = [len(batch["x"]) for batch in data.batches()]
    assert sorted(examples(data)) == list(range(COUNT))
    assert len(sizes) == len(data) == -(-COUNT // batch_size)
    assert set(sizes[:-1]) <= {batch_size} and sum(sizes) == COUNT


def test_unshuffled_examples_come_in_order() -> None:
    assert examples(Loader(in_memory(), 5)) == examples(Loader(Numbers(), 5)) == list(range(COUNT))


def test_orders_differ_between_epochs_and_seeds_and_repeat_for_the_same() -> None:
    orders = {
        (seed, epoch): examples(Loader(in_memory(), 5, shuffle=True, seed=seed), epoch)
        for seed in range(4)
        for epoch in range(4)
    }
    assert len({tuple(order) for order in orders.values()}) == 16  # seed 1 of epoch 0 is not seed 0 of epoch 1
    again = Loader(in_memory(), 5, shuffle=True, seed=2)
    assert examples(again, 3) == orders[2, 3] and examples(again, 1) == orders[2, 1] and examples(again, 3) == orders[2, 3]


def test_the_order_of_examples_does_not_depend_on_the_batch_size() -> None:
    assert examples(Loader(in_memory(), 5, shuffle=True)) == examples(Loader(in_memory(), 7, shuffle=True))


def test_shuffled_labels_stay_with_their_images() -> None:
    data = {"x": torch.arange(COUNT), "y": torch.arange(COUNT) ** 2}
    for batch in Loader(data, 4, shuffle=True).batches():
        assert torch.equal(batch["y"], batch["x"] ** 2)


@pytest.mark.parametrize("make", [in_memory, Noisy])
def test_batches_are_the_same_from_the_start_and_from_the_middle(make: Any) -> None:
    data = Loader(make(), 5, shuffle=True, transform=add_noise)
    whole = list(data.batches(epoch=2))
    for start in range(len(data) + 1):
        assert_same_batches(whole[start:], data.batches(epoch=2, start=start))


def test_a_data_set_in_memory_and_one_that_is_indexed_give_equal_batches() -> None:
    for shuffle in (False, True):
        pair = [Loader(source, 5, shuffle=shuffle, seed=3, transform=add_noise) for source in (in_memory(), Numbers())]
        for epoch in (0, 1):
            assert_same_batches(pair[0].batches(epoch), pair[1].batches(epoch))


def test_two_worker_processes_give_the_batches_of_none() -> None:
    alone, helped = (Loader(Noisy(), 5, shuffle=True, seed=1, num_workers=n, transform=add_noise) for n in (0, 2))
    before = rng_state()
    assert_same_batches(alone.batches(epoch=1, start=1), helped.batches(epoch=1, start=1))
    testing.assert_same_state(rng_state(), before, "randomness of the main process")


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_give_the_same_batches_in_every_epoch(workers: int) -> None:
    alone, helped = (Loader(Noisy(), 4, shuffle=True, num_workers=n, transform=add_noise) for n in (0, workers))
    for epoch, start in itertools.product((0, 1), (0, 3)):
        assert_same_batches(alone.batches(epoch, start), helped.batches(epoch, start))


@pytest.mark.parametrize("make", [in_memory, Noisy])
def test_iterating_leaves_the_global_generators_untouched(make: Any) -> None:
    data = Loader(make(), 5, shuffle=True, transform=add_noise)
    before = rng_state()
    for _ in data.batches():
        testing.assert_same_state(rng_state(), before, "randomness between two batches")
    testing.assert_same_state(rng_state(), before, "randomness after the epoch")


def test_batches_do_not_depend_on_the_global_generators() -> None:
    data = Loader(Noisy(), 5, shuffle=True, transform=add_noise)
    first = list(data.batches())
    torch.rand(7)
    random.random()
    np.random.rand(3)
    assert_same_batches(first, data.batches())


def test_augment_gets_a_generator_of_its_own_for_each_batch_and_epoch_which_repeats() -> None:
    data = Loader(in_memory(), 5, transform=add_noise)
    drawn = [batch["augmented"] for epoch in range(3) for batch in data.batches(epoch)]
    assert len({noise[0].item() for noise in drawn}) == 3 * len(data)
    again = [batch["augmented"] for epoch in range(3) for batch in data.batches(epoch)]
    assert all(map(torch.equal, drawn, again))
    other = next(Loader(in_memory(), 5, seed=1, transform=add_noise).batches())["augmented"]
    assert not torch.equal(other, drawn[0])


def test_a_data_set_s_randomness_differs_in_each_of_300_epochs() -> None:
    data = Loader(Noisy(), COUNT)
    drawn = torch.stack([next(data.batches(epoch))["noise"][0] for epoch in range(300)])
    assert all(len(column.unique()) == 300 for column in drawn.T)


def test_a_collate_of_one_s_own_joins_the_examples() -> None:
    data = Loader(Numbers(), 5, collate=lambda group: {"x": torch.stack([e["x"] for e in group]) * 10})
    assert next(data.batches())["x"].tolist() == [0, 10, 20, 30, 40]


@pytest.mark.parametrize(
    "dataset",
    [{}, {"x": torch.zeros(0)}, {"x": torch.zeros(3), "y": torch.zeros(4)}, torch.utils.data.Subset(Numbers(), [])],
    ids=["no tensor", "no example", "two lengths", "empty data set"],
)
def test_empty_and_uneven_data_is_refused(dataset: Any) -> None:
    with pytest.raises(ValueError):
        Loader(dataset, 4)


def test_an_empty_batch_size_is_refused() -> None:
    with pytest.raises(ValueError, match="batches of 0"):
        Loader(in_memory(), 0)


@pytest.mark.parametrize("world", [2, 3, 5])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("make", [in_memory, Numbers])
def test_ranks_partition_every_batch(world: int, shuffle: bool, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def ranks(count: int, batch_size: int) -> list[list[Batch]]:
        monkeypatch.setattr(loader, "data_world_size", lambda: count)
        batches = []
        for rank in range(count):
            monkeypatch.setattr(loader, "data_rank", lambda rank=rank: rank)
            batches.append(list(Loader(make(), batch_size, shuffle=shuffle).batches(epoch=1)))
        return batches

    for batch_size in (1, 4, 11):  # the last batches: 1 of 1, 3 of 4, 1 of 11 examples, for up to 5 ranks
        (whole,) = ranks(1, batch_size)
        shares = ranks(world, batch_size)
        assert {len(share) for share in shares} == {len(whole)}
        for t, batch in enumerate(whole):
            parts = [share[t]["x"] for share in shares]
            assert sorted(torch.cat(parts).tolist()) == sorted(batch["x"].tolist())
            assert max(map(len, parts)) - min(map(len, parts)) <= 1
            assert all(part.dtype == batch["x"].dtype for part in parts)


def test_ranks_augment_from_streams_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "data_world_size", lambda: 2)
    drawn = []
    for rank in (0, 1):
        monkeypatch.setattr(loader, "data_rank", lambda rank=rank: rank)
        drawn += [batch["augmented"][0].item() for batch in Loader(in_memory(), 4, transform=add_noise).batches()]
    assert len(set(drawn)) == len(drawn) == 12


LENGTHS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]  # of the 23 examples


def by_length(batch_size: int, shuffle: bool = True, make: Any = in_memory, **options: Any) -> Loader:
    return Loader(make(), batch_size, shuffle=shuffle, lengths=LENGTHS, **options)


def spread(data: Loader) -> int:
    """What padding to the longest of each batch would add."""
    lengths = [torch.tensor(LENGTHS)[batch["x"]] for batch in data.batches()]
    return sum(int((group.max() - group).sum()) for group in lengths)


@pytest.mark.parametrize("pool", [1, 2, 100])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 40])
def test_by_length_each_example_comes_exactly_once(
    batch_size: int, shuffle: bool, pool: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "POOL", pool)
    sizes = [len(batch["x"]) for batch in by_length(batch_size, shuffle).batches(epoch=1)]
    assert sorted(examples(by_length(batch_size, shuffle), epoch=1)) == list(range(COUNT))
    assert len(sizes) == -(-COUNT // batch_size) and set(sizes[:-1]) <= {batch_size}


def test_by_length_batches_hold_examples_of_about_one_length() -> None:
    assert spread(by_length(5)) < spread(Loader(in_memory(), 5, shuffle=True)) / 4
    for batch in by_length(5).batches():
        lengths = torch.tensor(LENGTHS)[batch["x"]]
        assert torch.equal(lengths, lengths.sort(descending=True).values)


def test_by_length_unshuffled_the_longest_come_first_equals_in_order() -> None:
    assert examples(by_length(5, shuffle=False)) == sorted(range(COUNT), key=lambda i: (-LENGTHS[i], i))


def test_by_length_batches_are_made_and_ordered_anew_each_epoch() -> None:
    groups = [[frozenset(batch["x"].tolist()) for batch in by_length(5).batches(epoch)] for epoch in range(12)]
    five = LENGTHS.index(5)  # one of three examples of that length
    assert len({next(t for t, group in enumerate(epoch) if five in group) for epoch in groups}) > 2  # no curriculum
    assert len({group for epoch in groups for group in epoch if five in group}) > 2  # other companions
    assert [frozenset(b["x"].tolist()) for b in by_length(5).batches(3)] == groups[3] != groups[4]
    assert [frozenset(b["x"].tolist()) for b in by_length(5, seed=1).batches(3)] != groups[3]


@pytest.mark.parametrize("make", [in_memory, Noisy])
def test_by_length_batches_are_the_same_from_the_middle_and_with_workers(make: Any) -> None:
    data = by_length(5, make=make, transform=add_noise)
    whole = list(data.batches(epoch=2))
    for start in range(len(data) + 1):
        assert_same_batches(whole[start:], data.batches(epoch=2, start=start))
    assert_same_batches(whole[1:], by_length(5, make=make, transform=add_noise, num_workers=2).batches(epoch=2, start=1))


@pytest.mark.parametrize("shuffle", [False, True])
def test_by_length_ranks_partition_every_batch_into_like_shares(shuffle: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = list(by_length(4, shuffle).batches(epoch=1))
    monkeypatch.setattr(loader, "data_world_size", lambda: 3)
    shares = []
    for rank in range(3):
        monkeypatch.setattr(loader, "data_rank", lambda rank=rank: rank)
        shares.append(list(by_length(4, shuffle).batches(epoch=1)))
    for batch, *parts in zip(whole, *shares, strict=True):
        assert [part["x"].tolist() for part in parts] == [batch["x"][rank::3].tolist() for rank in range(3)]


def test_a_length_for_each_example_is_asked_for() -> None:
    with pytest.raises(ValueError, match="22 lengths of 23 examples"):
        Loader(in_memory(), 4, lengths=LENGTHS[1:])
