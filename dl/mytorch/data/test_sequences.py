"""Texts cut for language models: targets are the next tokens, none is lost, none is counted twice."""

import pytest
import torch

from dl.mytorch.config import UserError
from dl.mytorch.data import Loader
from dl.mytorch.data.sequences import IGNORED, blocks, pad, streams, windows


def test_windows_are_all_chunks_with_the_tokens_after() -> None:
    data = windows(torch.arange(10, 16), 3)
    assert data["tokens"].tolist() == [[10, 11, 12], [11, 12, 13], [12, 13, 14]]
    assert data["targets"].tolist() == [[11, 12, 13], [12, 13, 14], [13, 14, 15]]


def test_windows_take_no_memory() -> None:
    ids = torch.arange(1_000_000)
    data = windows(ids, 1000)  # copied, 16 GB
    first = next(Loader(data, 4, shuffle=True).batches())
    assert data["tokens"].data_ptr() == ids.data_ptr() and data["targets"].data_ptr() == ids[1:].data_ptr()
    assert torch.equal(first["targets"], first["tokens"] + 1) and first["tokens"].shape == (4, 1000)


@pytest.mark.parametrize("count", range(2, 12))
@pytest.mark.parametrize("length", [1, 3, 4, 20])
def test_blocks_predict_each_token_but_the_first_exactly_once(count: int, length: int) -> None:
    ids = torch.arange(100, 100 + count)
    data = blocks(ids, length)
    counted = data["targets"] != IGNORED
    assert data["targets"][counted].tolist() == ids[1:].tolist()
    assert data["tokens"][counted].tolist() == ids[:-1].tolist()
    assert data["tokens"].shape == data["targets"].shape == (-(-(count - 1) // length), length)
    assert (data["tokens"] >= 0).all()  # also where it is filled up: an embedding reads it


@pytest.mark.parametrize("count", [2, 4, 5, 6, 11, 12])
def test_blocks_repeat_their_context(count: int) -> None:
    ids = torch.arange(100, 100 + count)
    data = blocks(ids, 4, context=3)
    counted = data["targets"] != IGNORED
    assert data["targets"][counted].tolist() == ids[1:].tolist() and data["tokens"][counted].tolist() == ids[:-1].tolist()
    assert counted.sum(1).tolist() == [min(4, count - 1)] + [1] * (count - 5)
    assert data["tokens"][1:].tolist() == [list(range(i, i + 4)) for i in range(101, 100 + count - 4)]


def test_texts_that_are_too_short_are_refused() -> None:
    windows(torch.arange(4), 3)
    with pytest.raises(UserError, match="3 tokens is too short for chunks of 3"):
        windows(torch.arange(3), 3)
    with pytest.raises(UserError, match="nothing to predict"):
        blocks(torch.arange(1), 3)


def test_rows_are_padded_at_the_end() -> None:
    rows = [torch.tensor([5, 6, 7]), torch.tensor([8]), torch.tensor([], dtype=torch.long)]
    assert pad(rows, 9).tolist() == [[5, 6, 7], [8, 9, 9], [9, 9, 9]]


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [2, 9, 10, 13, 31])
def test_streams_go_on_from_batch_to_batch_and_predict_each_token_once(size: int, count: int) -> None:
    ids = torch.arange(100, 100 + size)
    data = streams(ids, 3, count)
    batches = list(Loader(data, count).batches())
    assert all(batch["tokens"].shape == batch["targets"].shape == (count, 3) for batch in batches)
    assert [batch["begins"].tolist() for batch in batches] == [[t == 0] * count for t in range(len(batches))]
    tokens, targets = (torch.cat([batch[name] for batch in batches], dim=1) for name in ("tokens", "targets"))  # (count, all)
    counted = targets != IGNORED
    assert tokens[counted].tolist() == ids[:-1].tolist() and targets[counted].tolist() == ids[1:].tolist()
    assert all(row.tolist() == sorted(row.tolist(), reverse=True) for row in counted.int())  # filled up at the end only
    assert tokens.shape[1] - 3 < -(-(size - 1) // count) <= tokens.shape[1]
