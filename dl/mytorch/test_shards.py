"""Folders of shards: what any number of ranks wrote is read by any other, bit for bit; nothing in them is unpickled."""

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from dl.mytorch import checkpoint, safetensors, shards, testing
from dl.mytorch.config import UserError
from dl.mytorch.dtensor import full_state_dict
from dl.mytorch.large import sharding
from dl.mytorch.testing.pickles import Malicious

WHOLE = {"w": torch.arange(21.0).view(7, 3), "n": torch.tensor(5), "half": torch.ones(2, 2, dtype=torch.bfloat16)}


def piece(folder: Path, rank: int, tensors: dict[str, Tensor], starts: dict[str, list[int]]) -> dict[str, dict]:
    """The file of a rank, and its entry in the index."""
    path = folder / f"rank-{rank}.safetensors"
    metadata = {name: json.dumps({"shape": list(WHOLE[name].shape), "start": start}) for name, start in starts.items()}
    with open(path, "wb") as file:
        sha256 = safetensors.write(tensors, file, metadata)
    return {path.name: {"sha256": sha256, "size": path.stat().st_size}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """As three ranks would have written it, two of them with parts of unlike size."""
    place = tmp_path / "shards-3"
    place.mkdir()
    files = piece(place, 0, WHOLE | {"w": WHOLE["w"][:3]}, {"w": [0, 0], "n": [], "half": [0, 0]})
    files |= piece(place, 1, {"w": WHOLE["w"][3:6]}, {"w": [3, 0]})
    files |= piece(place, 2, {"w": WHOLE["w"][6:]}, {"w": [6, 0]})
    (place / "index.json").write_text(json.dumps({"files": files}), encoding="utf-8")
    return place


def test_the_parts_of_several_ranks_are_put_together(folder: Path) -> None:
    testing.assert_same_state(shards.read(folder), WHOLE, "shards")


def test_one_process_writes_and_reads_the_state_as_it_was_when_it_was_given(tmp_path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in WHOLE.items()}
    writing = shards.write(tmp_path / "shards-1", tensors)
    tensors["w"].zero_()  # training continues
    assert writing.result() is None
    testing.assert_same_state(shards.read(tmp_path / "shards-1"), WHOLE, "shards")
    assert sorted(os.listdir(tmp_path / "shards-1")) == ["index.json", "rank-0.safetensors"]


def test_a_folder_that_cannot_be_written_is_a_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file"):
        shards.write(tmp_path / "file", WHOLE).result()


@pytest.mark.parametrize("name", ["index.json", "rank-0.safetensors", "rank-2.safetensors"])
def test_a_missing_or_changed_file_is_named(name: str, folder: Path) -> None:
    content = (folder / name).read_bytes()
    damaged = [content[:-1], content[: len(content) // 2], content.replace(b"F32", b"I32").replace(b"size", b"sign")]
    for bytes_there in (None, b"", *damaged):
        (folder / name).unlink()
        if bytes_there is not None:
            (folder / name).write_bytes(bytes_there)
        else:
            assert not (folder / name).exists()
        with pytest.raises(UserError, match=name) as refused:
            shards.read(folder)
        assert "\n" not in str(refused.value)
        (folder / name).write_bytes(content)
    shards.read(folder)


def test_a_part_that_is_missing_outside_or_of_another_shape_is_named(folder: Path) -> None:
    index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
    wrong = {
        "lacks a part of w": ({"w": WHOLE["w"][6:]}, {"w": [0, 0]}),
        "lies outside": ({"w": WHOLE["w"][5:]}, {"w": [6, 0]}),
        "has to be": ({"w": WHOLE["w"][6:]}, {"w": ["6", 0]}),
        "does not say": ({"w": WHOLE["w"][6:]}, {}),
        "another shape or type": ({"w": WHOLE["w"][6:].double()}, {"w": [6, 0]}),
    }
    for says, (tensors, starts) in wrong.items():
        index["files"] |= piece(folder, 2, tensors, starts)
        (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")
        with pytest.raises(UserError, match=says):
            shards.read(folder)


def test_the_pickles_of_old_shards_are_refused_and_not_run(tmp_path: Path) -> None:
    """In a folder of shards, and in one that stands in place of a file."""
    mark = tmp_path / "executed"
    for name in ("shards-1", "best.pt"):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".metadata").write_bytes(pickle.dumps(Malicious(mark)))
        for read in (shards.read, checkpoint.load, lambda path: checkpoint.load_weights(nn.Linear(1, 1), path)):
            with pytest.raises(UserError, match=f"{name} refused: it holds pickles, as shards of version 0.1 do.*--fresh"):
                read(tmp_path / name)
    state = {"shards": "shards-1", "optimizers": [], "rng": []}
    with pytest.raises(UserError, match="it holds pickles"):
        checkpoint.restore(state, tmp_path / "last.pt", nn.Linear(1, 1), [], None)
    assert not mark.exists()


def test_a_folder_without_shards_is_a_line(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "nothing"):
        with pytest.raises(UserError, match="no complete folder of shards"):
            shards.read(path)


def trained(seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A network of odd sizes after three steps; other ranks train the same."""
    torch.manual_seed(seed)
    blocks = [nn.Linear(5, 3), nn.Linear(3, 5, bias=False), nn.BatchNorm1d(5)]
    model = nn.Sequential(*blocks, nn.Linear(5, 1)).double()
    if dist.is_initialized():
        sharding.shard(model, init_device_mesh("cpu", (dist.get_world_size(),)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01 * (1 + seed))
    for _ in range(3):
        model(torch.randn(4, 5, dtype=torch.float64)).square().mean().backward()
        optimizer.step()
    return model, optimizer


def state_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict:
    return full_state_dict({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def run_rank(rank: int, place: Path, turn: int, ranks: int) -> None:
    """Take up what the turn before wrote, whatever number of ranks it had, and write it again."""
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{place}/meeting-{turn}", rank=rank, world_size=ranks)
    model, optimizer = trained(seed=turn)
    if turn:
        state = torch.load(place / f"last-{turn - 1}.pt", weights_only=True)
        checkpoint.restore(state, place / "last.pt", model, [optimizer], None)
    found = state_of(model, optimizer)
    state, writing = shards.capture(place / f"shards-{turn}", model, [optimizer], None)
    writing.result()
    if rank == 0:
        torch.save(state, place / f"last-{turn}.pt")
        torch.save(found, place / f"found-{turn}.pt")
    if ranks > 1:
        dist.barrier()
        dist.destroy_process_group()


@pytest.mark.slow
def test_what_any_number_of_ranks_wrote_is_read_by_any_other_with_difference_0(tmp_path: Path) -> None:
    """1 to 2 to 4 to 3 to 1: rows of 5, 3 and 1, so that ranks have parts of unlike size, or none."""
    for turn, ranks in enumerate((1, 2, 4, 3, 1)):
        if ranks == 1:
            run_rank(0, tmp_path, turn, ranks)
        else:
            torch.multiprocessing.spawn(run_rank, args=(tmp_path, turn, ranks), nprocs=ranks)
        first, found = (torch.load(tmp_path / f"found-{i}.pt", weights_only=True) for i in (0, turn))
        testing.assert_same_state(found, first, f"turn {turn}, {ranks} ranks")


@pytest.mark.parametrize("flips", [5, pytest.param(200, marks=pytest.mark.slow)])
def test_flipped_bits_of_shards_are_named_by_their_file(folder: Path, flips: int) -> None:
    randomness = random.Random(0)
    for name in ("index.json", "rank-0.safetensors", "rank-1.safetensors"):
        content = (folder / name).read_bytes()
        for _ in range(flips):
            place, bit = randomness.randrange(len(content)), 1 << randomness.randrange(8)
            (folder / name).write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                testing.assert_same_state(shards.read(folder), WHOLE, "shards")
            except UserError as error:
                assert str(folder) in str(error) and "\n" not in str(error)
        (folder / name).write_bytes(content)
