"""The split of a run: written once, compared ever after."""

from pathlib import Path

import pytest

from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.data.split import FILE, check_split, record_split

SPLIT = {"train": ["a/1", "a/2"], "val": ["a/3"], "test": ["a/4"]}


def test_a_split_is_written_once_and_compared_after(tmp_path: Path) -> None:
    config = TrainConfig(str(tmp_path), "x")
    check_split(SPLIT, config)  # no run yet
    record_split(SPLIT, tmp_path)
    before = (tmp_path / FILE).read_bytes()
    check_split(SPLIT, config)
    record_split(SPLIT, tmp_path)
    other = SPLIT | {"val": ["a/2"], "train": ["a/1", "a/3"]}
    for call in (lambda: check_split(other, config), lambda: record_split(other, tmp_path)):
        with pytest.raises(UserError, match="its parts are others"):
            call()
    assert (tmp_path / FILE).read_bytes() == before
    check_split(other, TrainConfig(str(tmp_path), "x", fresh=True))


def test_a_split_that_was_changed_by_hand_is_refused(tmp_path: Path) -> None:
    record_split(SPLIT, tmp_path)
    (tmp_path / FILE).write_text((tmp_path / FILE).read_text(encoding="utf-8").replace("a/3", "a/5"), encoding="utf-8")
    with pytest.raises(UserError, match="split.json was changed since it was written"):
        check_split(SPLIT, TrainConfig(str(tmp_path), "x"))
