"""Tests of replay.py: what can be drawn, windows of n steps, priorities, and what a killed run finds again."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.environments.replay import PrioritizedReplay, Replay

SPACES = (((1,), np.float32), ((), np.int64))


def ring(path: Path, capacity: int, spare: int = 0, num_envs: int = 1, kind: Any = Replay, **options: Any) -> Replay:
    return kind(path / "replay.bin", capacity, spare, *SPACES, num_envs=num_envs, **options)


def put(replay: Replay, *numbers: float, terminated: Any = False, truncated: Any = False) -> None:
    """Rows of which each transition goes from its number to the next, with the number as its reward."""
    for number in numbers:
        x = np.full((replay.num_envs, 1), number, np.float32) + 100 * np.arange(replay.num_envs)[:, None]
        flags = {"terminated": terminated, "truncated": truncated}
        replay.add(observations=x, actions=int(number) % 2, rewards=x[:, 0], next_observations=x + 1, **flags)


def all_of(replay: Replay, gamma: float = 0.5, n_step: int = 1) -> dict[str, list[float]]:
    """Every transition that can be drawn, by its observation."""
    batch = replay.gather(replay.draw(400).unique(), gamma, n_step)
    order = batch["observations"][:, 0].argsort()
    return {name: values[order].flatten().tolist() for name, values in batch.items()}


def test_only_the_newest_rows_are_drawn(tmp_path: Path) -> None:
    replay = ring(tmp_path, 5, spare=2)
    put(replay, *range(3))
    assert len(replay) == 3 and all_of(replay)["observations"] == [0, 1, 2]
    put(replay, *range(3, 24))  # more than twice around the file of 9 rows
    found = all_of(replay)
    assert len(replay) == 5 and found["observations"] == [19, 20, 21, 22, 23]
    assert found["next_observations"] == [20, 21, 22, 23, 24] and found["actions"] == [1, 0, 1, 0, 1]


def test_each_transition_of_several_environments_is_drawn_as_often(tmp_path: Path) -> None:
    replay = ring(tmp_path, 3, spare=1, num_envs=2)
    put(replay, *range(7))
    counts = replay.gather(replay.draw(6000), 1.0)["observations"].flatten().unique(return_counts=True)
    assert counts[0].tolist() == [4, 5, 6, 104, 105, 106]
    assert (counts[1] - 1000).abs().max() < 6 * 1000**0.5


def test_discounts_end_at_a_termination_alone(tmp_path: Path) -> None:
    replay = ring(tmp_path, 3)
    put(replay, 0)
    put(replay, 1, terminated=True)
    put(replay, 2, truncated=True)
    assert all_of(replay, gamma=0.5)["discounts"] == [0.5, 0, 0.5]


def test_three_steps_by_hand(tmp_path: Path) -> None:
    """Rewards 1, 2, 3, gamma 0.9, and 10 after them: 12.52; terminated at the second: 2.8."""
    replay = ring(tmp_path, 8)
    put(replay, 1, 2, 3)
    batch = replay.gather(torch.tensor([0]), 0.9, n_step=3)
    assert batch["next_observations"].item() == 4
    assert (batch["rewards"] + batch["discounts"] * 10).item() == pytest.approx(12.52, abs=1e-6)
    put(replay, 1)
    put(replay, 2, terminated=True)
    put(replay, 3)
    batch = replay.gather(torch.tensor([3]), 0.9, n_step=3)
    assert (batch["rewards"] + batch["discounts"] * 10).item() == pytest.approx(2.8, abs=1e-6)
    put(replay, 5, truncated=True)
    put(replay, 9)
    batch = replay.gather(torch.tensor([5, 6]), 0.5, n_step=3)  # 3 + 5 / 2, then V(6) / 4; and 5, then V(6) / 2
    assert batch["rewards"].tolist() == [5.5, 5] and batch["discounts"].tolist() == [0.25, 0.5]
    assert batch["next_observations"].flatten().tolist() == [6, 6]


def test_windows_never_join_rows_across_the_position(tmp_path: Path) -> None:
    replay = ring(tmp_path, 5, num_envs=2)
    put(replay, *range(7))  # rows 5, 6, 2, 3, 4
    found = all_of(replay, gamma=1.0, n_step=3)
    assert found["observations"] == [2, 3, 4, 5, 6, 102, 103, 104, 105, 106]
    assert found["next_observations"] == [5, 6, 7, 7, 7, 105, 106, 107, 107, 107]
    assert found["rewards"] == [9, 12, 15, 11, 6, 309, 312, 315, 211, 106]


# ---- priorities ----------------------------------------------------------------------------------------------------


def prioritized(folder: Path, *errors: float, alpha: float = 0.6) -> PrioritizedReplay:
    replay = PrioritizedReplay(folder / "replay.bin", len(errors), 0, *SPACES, alpha=alpha)
    put(replay, *range(len(errors)))
    replay.update(torch.arange(len(errors)), torch.tensor(errors))
    return replay


def test_priorities_by_hand(tmp_path: Path) -> None:
    replay = prioritized(tmp_path, 1.0, -2.0, 0.5)
    shares = replay.priorities / replay.priorities.sum()
    assert shares.tolist() == pytest.approx([0.314914, 0.477320, 0.207766], abs=2e-6)
    weights = replay.weights(torch.arange(3), beta=0.4)
    assert weights.tolist() == pytest.approx([0.846745, 0.716978, 1], abs=2e-6)
    counts = torch.cat([replay.draw(32) for _ in range(300)]).bincount() / 9600
    torch.testing.assert_close(counts.double(), shares, atol=0.02, rtol=0)


def test_alpha_0_is_uniform_and_beta_1_undoes_the_bias(tmp_path: Path) -> None:
    replay = prioritized(tmp_path, 1.0, 5.0, 0.5, alpha=0.0)
    assert replay.weights(torch.arange(3), beta=1.0).tolist() == [1, 1, 1]
    replay = prioritized(tmp_path, 1.0, 5.0, 0.5)
    shares = replay.priorities / replay.priorities.sum()
    products = shares * replay.weights(torch.arange(3), beta=1.0)
    assert products.tolist() == pytest.approx([products[0].item()] * 3, rel=1e-6)  # each counts the same in expectation


def test_new_transitions_have_the_largest_priority_and_old_ones_are_never_drawn(tmp_path: Path) -> None:
    replay = ring(tmp_path, 3, spare=1, kind=PrioritizedReplay)
    put(replay, 0, 1)
    replay.update(torch.tensor([0]), torch.tensor([9.0]))
    put(replay, 2)
    assert replay.priorities[2] == replay.priorities[0] > replay.priorities[1]
    for _ in range(4):
        put(replay, 3, 4, 5)
        assert set(replay.draw(64).tolist()) == {(replay.position - k) % 5 for k in (1, 2, 3)}


# ---- saving --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Replay, PrioritizedReplay])
def test_what_is_written_after_a_save_leaves_its_rows_alone(tmp_path: Path, kind: Any) -> None:
    """Killed before the second save after it: last-before.pt finds its rows too."""
    replay = ring(tmp_path, 4, spare=3, kind=kind)
    put(replay, *range(9))
    checkpoint.save(replay.state(), tmp_path / "last.pt")
    before = all_of(replay)
    put(replay, *range(9, 15))  # twice what is written between two saves
    again = ring(tmp_path, 4, spare=3, kind=kind)
    again.load_state(checkpoint.load(tmp_path / "last.pt"))
    assert all_of(again) == before and before["observations"] == [5, 6, 7, 8]
    put(again, 9)
    assert all_of(again)["observations"] == [6, 7, 8, 9]


def test_a_replay_without_rows_is_saved_and_restored(tmp_path: Path) -> None:
    again = ring(tmp_path, 4)
    again.load_state(ring(tmp_path, 4).state())
    assert len(again) == 0 and not list(tmp_path.iterdir())
    put(again, 1)
    assert len(again) == 1


def test_a_resumed_run_may_save_more_often_but_not_less(tmp_path: Path) -> None:
    replay = ring(tmp_path, 4, spare=3)
    put(replay, *range(9))
    again = ring(tmp_path, 4, spare=1)
    again.load_state(replay.state())
    assert all_of(again) == all_of(replay)
    with pytest.raises(UserError, match="room for 6 rows between saves, not 8: resume with a --save-every"):
        ring(tmp_path, 4, spare=4).load_state(replay.state())


def test_a_file_that_is_not_the_one_that_was_saved_is_refused(tmp_path: Path) -> None:
    replay = ring(tmp_path, 4, spare=1)
    put(replay, *range(5))
    state, path = replay.state(), tmp_path / "replay.bin"
    replay.file = replay.ring = None  # Windows leaves a mapped file alone
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole + b"0", b""):
        path.write_bytes(damaged)
        with pytest.raises(UserError, match="does not have the 6 rows of 1 transitions that were saved"):
            ring(tmp_path, 4, spare=1).load_state(state)
    path.unlink()
    with pytest.raises(UserError, match="does not exist"):
        ring(tmp_path, 4, spare=1).load_state(state)
    path.mkdir()
    with pytest.raises(UserError, match="is a folder"):
        ring(tmp_path, 4, spare=1).load_state(state)
    path.rmdir()
    path.write_bytes(bytes(len(whole)))
    with pytest.raises(UserError, match="was changed since it was written, or is damaged"):
        ring(tmp_path, 4, spare=1).load_state(state)


@pytest.mark.parametrize(
    "wrong", [{"position": 6}, {"position": -1}, {"count": 5}, {"rows": 3}, {"count": True}, {"sha256": 0}, {"rows": 2**62}]
)
def test_a_damaged_state_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    replay = ring(tmp_path, 4, spare=1)
    put(replay, *range(5))
    with pytest.raises(UserError, match="replay"):
        ring(tmp_path, 4, spare=1).load_state(replay.state() | wrong)
    with pytest.raises(UserError, match="lacks the field"):
        ring(tmp_path, 4, spare=1).load_state({"position": 0})


def test_damaged_priorities_are_refused(tmp_path: Path) -> None:
    state = prioritized(tmp_path, 1.0, 2.0).state()
    for wrong in (torch.ones(3), torch.tensor([1.0, -1.0]), torch.tensor([1.0, torch.nan])):
        with pytest.raises(UserError, match="its priorities"):
            ring(tmp_path, 2, kind=PrioritizedReplay).load_state(state | {"priorities": wrong})


def test_a_full_disk_is_an_error_before_the_first_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match="no room for .*replay.bin: No space left on device"):
        put(ring(tmp_path, 4), 0)
    monkeypatch.delattr(os, "posix_fallocate")  # as on Windows and macOS
    replay = ring(tmp_path, 4)
    put(replay, 0)
    assert all_of(replay)["observations"] == [0]
