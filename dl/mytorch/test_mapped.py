"""Tests of mapped.py: tensors in files that are gone with the process."""

import atexit
import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dl.mytorch import layers, mapped, testing
from dl.mytorch.config import UserError


def test_where_files_in_use_cannot_be_removed_they_are_removed_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_end: list[Any] = []
    unlink = os.unlink

    def refuse(path: str) -> None:
        raise PermissionError(errno.EACCES, "The process cannot access the file", path)

    monkeypatch.setattr(os, "unlink", refuse)
    monkeypatch.setattr(atexit, "register", lambda function, *arguments: at_end.append((function, arguments)))
    zeros = mapped.mmap_zeros((2, 3), torch.float32, tmp_path)
    zeros += 1
    assert zeros.sum() == 6 and len(list(tmp_path.iterdir())) == len(at_end) == 1
    monkeypatch.setattr(os, "unlink", unlink)
    for function, arguments in at_end:
        function(*arguments)
    assert not list(tmp_path.iterdir())


def test_a_disk_without_room_for_weights_is_an_error_before_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no room in .* for weights on disk: No space left on device"):
        mapped.mmap_zeros((2, 3), torch.float32, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.delattr(os, "posix_fallocate")
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(UserError, match="No space left on device"):
        mapped.mmap_zeros((2, 3), torch.float32, tmp_path)
    assert not list(tmp_path.iterdir())


def test_large_weights_are_born_in_files_with_the_same_values(tmp_path: Path) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return layers.sequential(embed=nn.Embedding(300, 300), fc=nn.Linear(300, 10), conv=nn.Conv2d(100, 100, 3))

    plain = build()
    with mapped.init_on_disk(tmp_path):
        born = build()
        assert not mapped.is_mapped(torch.empty(300, 300)) and not any(tmp_path.iterdir())
    assert [mapped.is_mapped(p.data) for p in born.parameters()] == [True, False, False, True, False]
    testing.assert_same_state(born.state_dict(), plain.state_dict(), "weights")
