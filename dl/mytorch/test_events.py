"""TensorBoard's files; that TensorBoard reads them is in test_logger.py."""

import errno
import threading
from pathlib import Path

import pytest

from dl.mytorch.events import Events


def test_no_thread_is_needed_and_each_point_is_on_disk_at_once(tmp_path: Path) -> None:
    threads = threading.active_count()
    events = Events(tmp_path / "tensorboard" / "val", purge_step=1)
    sizes = []
    for step in range(3):
        events.add_scalar("loss", 1.0, step)
        sizes.append(sum(path.stat().st_size for path in (tmp_path / "tensorboard" / "val").iterdir()))
    assert threading.active_count() == threads and sizes == sorted(set(sizes))
    for path in (tmp_path / "tensorboard" / "val").iterdir():
        path.unlink()  # nothing that a run needs
    events.add_scalar("loss", 1.0, 3)
    events.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
def test_a_full_disk_is_an_error_of_the_caller(tmp_path: Path) -> None:
    events = Events(tmp_path / "tensorboard" / "val", purge_step=1)
    events.file.close()
    events.records._writer = events.file = open("/dev/full", "wb", buffering=0)
    with pytest.raises(OSError) as full:
        events.add_scalar("loss", 1.0, 1)
    assert full.value.errno == errno.ENOSPC
    events.close()


def test_a_run_whose_folder_is_gone_gets_no_new_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Events(tmp_path / "gone" / "tensorboard" / "val", purge_step=1)
