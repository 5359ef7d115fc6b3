"""An episode as something to look at: a strip of frames, and a GIF."""

import os
from pathlib import Path
from typing import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.environments.member import Member
from dl.mytorch.environments.play import Policy
from dl.mytorch.environments.vector import move
from dl.mytorch.files import atomic_write


@torch.no_grad()
def record(name: str, policy: Policy, seed: int, most: int = 10_000) -> tuple[list[np.ndarray], float]:
    """Play one episode; return what a camera sees, (H, W, 3) uint8 before each step and after the last, and the return.

    It ends after `most` steps. Raises `UserError` for an environment that cannot draw itself.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws without a display,
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # and without a greeting
    member = Member(name, 0, seed, render_mode="rgb_array")
    frames, over = [member.render()], False
    while not over and member.length < most:
        action = policy(torch.from_numpy(member.observation[None])).cpu()
        _, _, (terminated,), (truncated,) = move([member], action)
        over = terminated or truncated
        frames.append(member.render())
    member.env.close()
    return frames, member.total


def strip(frames: Sequence[np.ndarray], count: int = 8, height: int = 160) -> Tensor:
    """Return `count` frames (H, W, 3) of an episode, from the first to the last, side by side: (3, `height`, ...) in [0, 1]."""
    chosen = [frames[i] for i in np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)]
    images = torch.from_numpy(np.stack(chosen)).permute(0, 3, 1, 2).float() / 255  # (N, 3, H, W)
    width = round(height * images.shape[-1] / images.shape[-2])
    small = F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return F.pad(small, (1, 1, 1, 1), value=0.8).permute(1, 2, 0, 3).flatten(2)  # a grey line around each


def save_gif(frames: Sequence[np.ndarray], path: Path, most: int = 200, width: int = 240, seconds: float = 0.04) -> None:
    """Write an episode as an endless GIF of at most `most` of its frames, evenly chosen."""
    from PIL import Image

    step = -(-len(frames) // most)
    chosen = [*frames[::step], *([frames[-1]] if (len(frames) - 1) % step else [])]
    height = round(width * frames[0].shape[0] / frames[0].shape[1])
    images = [Image.fromarray(frame).resize((width, height), Image.Resampling.BOX).quantize(64) for frame in chosen]
    with atomic_write(path) as file:
        images[0].save(
            file, format="GIF", save_all=True, append_images=images[1:], duration=round(1000 * seconds * step), loop=0
        )
