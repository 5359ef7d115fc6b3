"""Token files: what is written is read, chunks are the text's, and batches are a function of their place alone."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dl.mytorch import distributed
from dl.mytorch.config import UserError
from dl.mytorch.data import loader
from dl.mytorch.data.text.tokens import map_tokens, shuffled_chunks, write_tokens


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The ids 0, 7, 14 ... of 100 tokens: each tells its place."""
    write_tokens(tmp_path / "tokens.bin", [range(0, 350, 7), [], range(350, 700, 7)])
    return tmp_path / "tokens.bin"


def test_parts_are_joined_and_read_again(file: Path) -> None:
    assert map_tokens(file).tolist() == list(range(0, 700, 7))
    assert file.stat().st_size == 200
    assert write_tokens(file, [[65535]]) == 1 and map_tokens(file).tolist() == [65535]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_ranks_together_see_every_chunk_once_an_epoch(file: Path, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    monkeypatch.setattr(loader, "data_world_size", lambda: world)
    orders = []
    for epoch in range(2):
        seen = []
        for rank in range(world):
            monkeypatch.setattr(loader, "data_rank", lambda: rank)
            for batch in shuffled_chunks(file, 4, 8, end=41).batches(epoch):
                assert torch.equal(batch["targets"], batch["tokens"] + 7) and batch["tokens"].dtype == torch.int64
                seen += batch["tokens"].tolist()
        assert sorted(sum(seen, [])) == list(range(0, 40 * 7, 7))  # the last target being id 40
        orders.append(seen)
    assert orders[0] != orders[1] and distributed.world_size() == 1


def test_a_batch_depends_on_seed_epoch_and_place_alone(file: Path) -> None:
    whole = list(shuffled_chunks(file, 4, 8).batches(epoch=1))
    for start in (1, 3):
        for batch, expected in zip(shuffled_chunks(file, 4, 8).batches(epoch=1, start=start), whole[start:], strict=True):
            assert torch.equal(batch["tokens"], expected["tokens"])
    others = [shuffled_chunks(file, 4, 8, seed=1).batches(epoch=1), shuffled_chunks(file, 4, 8).batches(epoch=2), whole[1:]]
    assert all(not torch.equal(next(iter(other))["tokens"], whole[0]["tokens"]) for other in others)


def test_damaged_files_wrong_ids_and_short_texts_are_refused(file: Path) -> None:
    with pytest.raises(UserError, match="too short for chunks of 100"):
        shuffled_chunks(file, 100, 8)
    with pytest.raises(UserError, match="can hold ids below 65,536; got -1 to 2"):
        write_tokens(file, [[2, -1]])
    with pytest.raises(UserError, match="got 0 to 65536"):
        write_tokens(file, [[0, 65536]])
    assert len(map_tokens(file)) == 100  # the old file is still there
    for content in (b"", b"123"):
        file.write_bytes(content)
        with pytest.raises(UserError, match=f"has {len(content)} bytes"):
            map_tokens(file)
    with pytest.raises(UserError, match="does not exist"):
        map_tokens(file.with_name("none"))


MEMORY = """
import resource
import sys
from itertools import islice
from pathlib import Path

from dl.mytorch.data.text.tokens import shuffled_chunks

for name in ("small.bin", "large.bin"):
    chunks = shuffled_chunks(Path(sys.argv[1]) / name, 256, 16)
    for epoch in range(4):
        for _ in islice(chunks.batches(epoch), 240):
            pass
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count memory otherwise")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """15,360 chunks from 200 MB touch a quarter of its pages; the most that was ever held is nearly that for 2 MB."""
    for name, size in (("small.bin", 2_000_000), ("large.bin", 200_000_000)):
        with open(tmp_path / name, "wb") as file:
            file.truncate(size)
    run = subprocess.run([sys.executable, "-c", MEMORY, str(tmp_path)], capture_output=True, text=True, check=True, timeout=300)
    small, large = map(int, run.stdout.split())  # KiB
    assert large - small < 8_000
