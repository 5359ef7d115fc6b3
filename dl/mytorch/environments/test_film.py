"""An episode as a strip of frames and as a GIF."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.environments import record, save_gif, strip
from dl.mytorch.testing.environments import scripted


def zeros(observations: Tensor) -> Tensor:
    return torch.zeros(len(observations), dtype=torch.int64)


def test_an_episode_has_a_frame_before_each_step_and_one_after_the_last() -> None:
    frames, total = record(scripted(steps=4), zeros, seed=0)
    assert [int(frame[0, 0, 0]) for frame in frames] == [0, 40, 80, 120, 160] and total == 10
    frames, _ = record("Scripted-v0", zeros, seed=0, most=2)
    assert len(frames) == 3


def test_a_strip_shows_frames_from_the_first_to_the_last() -> None:
    frames = [np.full((20, 30, 3), 10 * t, np.uint8) for t in range(11)]
    image = strip(frames, count=3, height=20)
    assert image.shape == (3, 22, 3 * 32)
    assert (image[0, 10, [16, 48, 80]] * 255).round().tolist() == [0, 50, 100] and image[:, 0].eq(0.8).all()
    assert strip(frames[:1], count=3, height=20).shape == (3, 22, 32)


def test_a_gif_holds_the_frames_evenly_chosen_and_the_last(tmp_path: Path) -> None:
    frames = [np.full((20, 30, 3), 20 * t, np.uint8) for t in range(12)]
    save_gif(frames, tmp_path / "episode.gif", most=4, width=60)
    with Image.open(tmp_path / "episode.gif") as image:
        assert image.size == (60, 40) and image.n_frames == 5 and image.info["duration"] == 120
        image.seek(4)
        assert image.convert("RGB").getpixel((3, 3)) == (220, 220, 220)


@pytest.mark.slow
def test_cartpole_is_drawn_without_a_display() -> None:
    pytest.importorskip("pygame", reason='pygame is not installed: pip install -e ".[rl]"')
    frames, total = record("CartPole-v1", zeros, seed=0)
    assert frames[0].shape == (400, 600, 3) and len(frames) == total + 1


def test_an_environment_that_cannot_draw_itself_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    name = scripted()
    import gymnasium

    monkeypatch.setattr(gymnasium.spec(name).entry_point, "render", lambda self: None)
    with pytest.raises(UserError, match="^the environment Scripted-v0 draws no images"):
        record(name, zeros, seed=0)
