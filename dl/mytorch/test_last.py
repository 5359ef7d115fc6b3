"""last.pt waits for its shards. That a killed run resumes from it is in test_processes.py."""

from concurrent.futures import Future
from pathlib import Path

import pytest

from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.last import LastCheckpoint


def test_the_save_before_stays_beside(tmp_path: Path) -> None:
    committed: list[dict] = []
    last = LastCheckpoint(tmp_path, committed.append)
    last.commit(block=True)
    assert committed == []
    for step in (1, 2):
        last.pending = ({"step": step}, None)
        last.commit(block=False)
        assert committed[-1] == {"step": step} and last.pending is None
    assert [checkpoint.load(tmp_path / name)["step"] for name in ("last-before.pt", "last.pt")] == [1, 2]


def test_shards_are_awaited_and_older_ones_go(tmp_path: Path) -> None:
    committed: list[dict] = []
    last, writing = LastCheckpoint(tmp_path, committed.append), Future()
    for name in ("shards-1", "shards-2"):
        (tmp_path / name).mkdir()
    last.pending = ({"shards": "shards-2"}, writing)
    last.commit(block=False)
    assert committed == [] and not last.path.exists()
    writing.set_result(None)
    last.commit(block=False)
    assert committed == [{"shards": "shards-2"}] and last.path.exists()
    assert [path.name for path in tmp_path.glob("shards-*")] == ["shards-2"]


@pytest.mark.parametrize("before", [True, False])
def test_what_cannot_be_restored_is_one_line_that_helps(tmp_path: Path, before: bool) -> None:
    last = LastCheckpoint(tmp_path, print)
    if before:
        (tmp_path / "last-before.pt").touch()
    with pytest.raises(
        UserError, match=r"last.pt is damaged, or not of this run \(KeyError: 'model'\). What helps: "
    ) as refused:
        with last.read():
            raise KeyError("model")
    assert ("rename last-before.pt to last.pt" in str(refused.value)) is before
