"""Images of what a generative model draws, for any that has `prior(count, generator)` and `draw(latents)`."""

import torch
from torch import Tensor, nn

from dl.mytorch import plot


def samples(model: nn.Module, count: int, seed: int, batch: int = 500) -> Tensor:
    """Return `count` images (count, C, X, X) in [0, 1], drawn from the prior."""
    latents = model.prior(count, torch.Generator().manual_seed(seed))
    return torch.cat([model.draw(part) for part in latents.to(_device(model)).split(batch)]).cpu()


def on_lines(model: nn.Module, starts: Tensor, ends: Tensor, steps: int = 10) -> Tensor:
    """Return images of `steps` points on the line from each of `starts` (N, Z) to that of `ends`: (N * steps, C, X, X)."""
    share = torch.linspace(0, 1, steps, device=starts.device)[:, None]
    points = starts[:, None] * (1 - share) + ends[:, None] * share  # (N, steps, Z)
    return model.draw(points.flatten(0, 1).to(_device(model))).cpu()


def walks(model: nn.Module, rows: int, seed: int, steps: int = 10) -> Tensor:
    """Return images on lines between pairs of points of the prior."""
    starts, ends = model.prior(2 * rows, torch.Generator().manual_seed(seed)).chunk(2)
    return on_lines(model, starts, ends, steps)


def image_grid(images: Tensor, columns: int) -> Tensor:
    """Return images (N, C, X, X) in [0, 1] as one, (C, height, width)."""
    return plot.grid(images.float().cpu(), columns, enlarge=2, stretch=False)


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device
