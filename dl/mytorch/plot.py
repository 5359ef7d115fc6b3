"""Figures with matplotlib: each function returns a `Figure`, to show in a notebook, to save, or to log as an image.

matplotlib is imported when the first figure is drawn: training that draws none does not pay for it.
"""

import contextlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from dl.mytorch.config import UserError
from dl.mytorch.fonts import drawable

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def shortened(name: str, most: int) -> str:
    """Return a name of `most` characters or less."""
    return name if len(name) <= most else f"{name[: most - 3]}..."


def figure(width: float, height: float) -> "Figure":
    """Return an empty figure, sizes in inches, that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100)


def curves(history: Sequence[dict[str, Any]]) -> "Figure":
    """One chart for each quantity, with training and validation together, over optimizer steps; the best one is marked.

    Where the records count what an agent made while it learnt, see `Task.counted`, that is what the charts are over.
    """
    records = [record for record in history if "val" in record]
    over = counted(history)
    names = list(dict.fromkeys(name for record in records for part in ("train", "val") for name in record.get(part, {})))
    tested = next((record["test"] for record in history if "test" in record), {})
    charts = max(1, len(names))
    fig = figure(4.2 * charts, 3.4)
    # Margins by hand, here and below: matplotlib's automatic ones take as long as the drawing.
    fig.subplots_adjust(left=0.5 / (4.2 * charts), right=1 - 0.1 / (4.2 * charts), bottom=0.15, top=0.9, wspace=0.18)
    for axes, name in zip(fig.subplots(1, charts, squeeze=False)[0], names):
        for part, color in (("train", "tab:gray"), ("val", "tab:blue")):
            points = [(r[over], r[part][name]) for r in records if r.get(part, {}).get(name) is not None]
            if points:
                axes.plot(*zip(*points), color=color, label="validation" if part == "val" else part, marker=".")
        values = [(r["val"][name], r[over]) for r in records if r["val"].get(name) is not None]
        if values:
            lowest, place = min(values)
            axes.plot(place, lowest, "o", color="tab:orange", label=f"lowest: {lowest:.4g}")
        if tested.get(name) is not None:
            axes.axhline(tested[name], color="tab:red", linestyle=":", label=f"test: {tested[name]:.4g}")
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel("optimizer step")
        if over != "step":
            axes.set_xlabel(over.replace("_", " "))
            axes.xaxis.set_major_formatter(lambda x, _: f"{x / 1000:g}k")
        if math.isfinite(axes.dataLim.ymin):  # else there is nothing but NaN
            axes.set_ylim(bottom=min(0, axes.dataLim.ymin))
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    return fig


def counted(history: Sequence[dict[str, Any]]) -> str:
    """Return the name of what a history is drawn over: of its `Task.counted`, or "step"."""
    known = ("epoch", "step", "lr", "train", "val", "test")
    return next((name for record in history[:1] for name in record if name not in known), "step")


def to_unit(images: Tensor) -> Tensor:
    """Return each image (..., C, H, W) stretched to [0, 1]: what a person can look at, whatever the normalisation was."""
    images = images.detach().float().cpu()
    low = images.amin((-3, -2, -1), keepdim=True)
    high = images.amax((-3, -2, -1), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def grid(images: Tensor, columns: int = 8, enlarge: int = 1, gap: int = 1, stretch: bool = True) -> Tensor:
    """Return images (N, C, H, W) side by side in one (C, height, width) with white between them.

    Pixels come out `enlarge` times as large; with `stretch` each image is brought to [0, 1] by itself.
    """
    images = to_unit(images) if stretch else images
    images = images.repeat_interleave(enlarge, -1).repeat_interleave(enlarge, -2)
    count, channels, height, width = images.shape
    columns = min(columns, count)
    rows = math.ceil(count / columns)
    canvas = torch.ones(channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    for i, image in enumerate(images):
        top, left = i // columns * (height + gap), i % columns * (width + gap)
        canvas[:, top : top + height, left : left + width] = image
    return canvas


def kernels(weight: Tensor) -> Tensor:
    """Kernels (out, in, H, W) as one image: in colour for 3 input channels, else each input channel in grey."""
    if weight.shape[1] != 3:
        weight = weight.flatten(0, 1).unsqueeze(1)[:256]
    return grid(weight, enlarge=max(1, 64 // weight.shape[-1]), gap=4)


def image_grid(images: Tensor, titles: Sequence[str], columns: int = 8) -> "Figure":
    """Images (N, C, H, W) with N at least 1, each under its title. A title "" leaves its place empty; long lines are cut."""
    height, width = images.shape[-2:]
    columns = min(columns, len(images))
    space, gap = math.ceil(0.35 * height), math.ceil(0.15 * width)  # above each image, for its title; between images
    blank = torch.tensor([title == "" for title in titles])[:, None, None, None]
    framed = torch.nn.functional.pad(to_unit(images).masked_fill(blank, 1.0), (0, 0, space, 0), value=1.0)
    canvas = grid(framed, columns, gap=gap, stretch=False)
    fig = figure(1.3 * columns, 1.3 * columns * canvas.shape[1] / canvas.shape[2])
    axes = fig.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow(canvas.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1)
    titles, options = drawable(titles)
    for i, title in enumerate(titles):
        x = i % columns * (width + gap) + width / 2
        y = i // columns * (height + space + gap) + space - 0.05 * height
        title = "\n".join(shortened(line, 22) for line in title.splitlines())
        axes.text(x, y, title, ha="center", va="bottom", fontsize=7, linespacing=0.9, **options)
    return fig


def predictions(images: Sequence[Tensor], answers: Sequence[Sequence[tuple[str, float]]]) -> "Figure":
    """Each image (3, H, W) of bytes with its answers, (class, probability) with the likeliest first, as bars beside it."""
    fig = figure(8, 2.6 * len(images))
    fig.subplots_adjust(left=0.02, right=0.98, bottom=0.02, top=0.98, wspace=0.05, hspace=0.1)
    for (left, right), image, answer in zip(fig.subplots(len(images), 2, squeeze=False), images, answers):
        left.imshow(image.permute(1, 2, 0).numpy())
        right.barh(range(len(answer)), [probability for _, probability in answer], color="tab:blue", alpha=0.35)
        names, options = drawable(name for name, _ in answer)
        for i, (name, (_, probability)) in enumerate(zip(names, answer)):
            right.text(0.01, i, f"{probability:.1%}  {name}", va="center", fontsize=9, **options)
        right.set_xlim(0, 1)
        right.set_ylim(max(len(answer), 5) - 0.5, -0.5)
        for axes in (left, right):
            axes.axis("off")
    return fig


def feature_maps(maps: dict[str, Tensor], columns: int = 16) -> "Figure":
    """Outputs of layers, name -> (C, H, W), a row each: the channels that vary most over the map, brightest = largest."""
    from matplotlib import colormaps

    fig = figure(0.75 * columns, 0.95 * len(maps))
    for place, (name, channels) in enumerate(maps.items()):
        channels = channels.detach().float().cpu()
        chosen = channels.flatten(1).std(1, correction=0).topk(min(columns, len(channels))).indices.sort().values
        axes = fig.add_axes((0.005, 1 - (place + 1) / len(maps), 0.99, 0.78 / len(maps)))
        axes.axis("off")
        rows = to_unit(channels[chosen].unsqueeze(1))  # each channel by itself: (columns, 1, H, W)
        size = max(32, rows.shape[-1])
        rows = torch.nn.functional.interpolate(rows, (size, size))  # small maps as squares one can see
        colours = torch.from_numpy(colormaps["viridis"](rows[:, 0].numpy())[..., :3]).permute(0, 3, 1, 2)  # (columns, 3, H, W)
        colours = torch.nn.functional.pad(colours, (0, 0) * 3 + (0, columns - len(colours)), value=1.0)  # white where none is
        axes.imshow(grid(colours, columns, gap=2, stretch=False).permute(1, 2, 0).numpy(), aspect="auto")
        shape = " x ".join(map(str, channels.shape))
        axes.set_title(f"{name}: {shape}", fontsize=8, loc="left", pad=2)
    return fig


def attention_maps(images: Tensor, weights: Tensor, titles: Sequence[str] | None = None) -> "Figure":
    """Draw a row for each image (N, C, H, W): the image, the mean of its heads' weights (N, heads, h, w), then head by head.

    A map lies over the whole image; each is stretched by itself, bright is much. `titles` are those of the images.
    """
    from matplotlib import colormaps

    count, heads = weights.shape[:2]
    maps = torch.cat([weights.mean(1, keepdim=True), weights], dim=1).flatten(0, 1)  # (N (1 + heads), h, w)
    maps = torch.nn.functional.interpolate(to_unit(maps[:, None]), images.shape[-2:])
    colours = torch.from_numpy(colormaps["inferno"](maps[:, 0].numpy())).permute(0, 3, 1, 2)[:, :3].float()
    shown = to_unit(images).expand(-1, 3, -1, -1)[:, None]  # (N, 1, 3, H, W)
    tiles = torch.cat([shown, colours.unflatten(0, (count, 1 + heads))], dim=1).flatten(0, 1)
    names = ["mean", *(f"head {i}" for i in range(1, heads + 1))]
    return image_grid(tiles, [name for title in titles or ["image"] * count for name in (title, *names)], columns=2 + heads)


def heat_maps(image: Tensor, maps: Tensor, titles: Sequence[str]) -> "Figure":
    """Draw an image (C, H, W), then maps (N, h, w) over it, each stretched by itself: what is bright counts most."""
    from matplotlib import colormaps

    size = max(128, image.shape[-1])
    image = torch.nn.functional.interpolate(to_unit(image)[None], (size, size)).expand(1, 3, -1, -1)
    maps = torch.nn.functional.interpolate(to_unit(maps.float().cpu()[:, None]), (size, size), mode="bilinear")
    colours = torch.from_numpy(colormaps["inferno"](maps[:, 0].numpy())).permute(0, 3, 1, 2)[:, :3].float()
    tiles = torch.cat([image, 0.4 * image.mean(1, keepdim=True) + 0.6 * colours])
    return image_grid(tiles, ["image", *titles], columns=len(tiles))


def word_attention(weights: dict[str, Tensor], rows: Sequence[str], columns: Sequence[str], across: int = 3) -> "Figure":
    """Attention weights by name, (rows, columns) each: what the word of a row looks at, dark is much. `across` in a line."""
    down = math.ceil(len(weights) / across)
    words, options = drawable([*rows, *columns, *weights])
    rows, columns, names = words[: len(rows)], words[len(rows) : -len(weights)], words[-len(weights) :]
    width, height = 0.28 * len(columns) + 1.3, 0.28 * len(rows) + 1.3  # of one chart, in inches
    fig = figure(width * across, height * down)
    for place, (name, matrix) in enumerate(zip(names, weights.values())):
        line, column = divmod(place, across)
        left, bottom = (column * width + 1.0) / (width * across), ((down - 1 - line) * height + 0.2) / (height * down)
        box = (left, bottom, 0.28 * len(columns) / (width * across), 0.28 * len(rows) / (height * down))
        axes = fig.add_axes(box)
        axes.imshow(matrix.detach().float().cpu().numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", fontsize=8, **options)
        axes.set_yticks(range(len(rows)), rows, fontsize=8, **options)
        axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)
        axes.set_xlabel(name, fontsize=8, **options)
    return fig


def confusion_matrix(counts: Tensor, names: Sequence[str]) -> "Figure":
    """Draw counts (true class, predicted class), the share of each true class as colour; the diagonal is left pale."""
    counts, (names, options) = counts.cpu(), drawable(shortened(name, 24) for name in names)
    shares = counts / counts.sum(1, keepdim=True).clamp_min(1)
    room = 0.6 + 0.08 * max(10, *map(len, names))  # inches left and below, for the names
    cell = min(0.5, 15 / len(names))  # inches
    size = cell * len(names) + room + 0.4
    fig = figure(size, size)
    axes = fig.add_axes((room / size, room / size, cell * len(names) / size, cell * len(names) / size))
    wrong = shares.clone().fill_diagonal_(0)
    axes.imshow(wrong.numpy(), cmap="Reds", vmin=0, vmax=max(1e-9, wrong.max().item()))
    if len(names) <= 100:  # more could neither be read nor be drawn in a second
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=min(10, 60 * cell), **options)
        axes.set_yticks(range(len(names)), names, fontsize=min(10, 60 * cell), **options)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    if len(names) <= 20:
        for i, j in np.ndindex(counts.shape):
            dark = wrong[i, j] > 0.6 * wrong.max()
            axes.text(j, i, f"{int(counts[i, j])}", ha="center", va="center", fontsize=8, color="white" if dark else "black")
    error = 1 - counts.diag().sum() / counts.sum().clamp_min(1)
    axes.set_title(f"{int(counts.sum()):,} examples, error {error:.2%}")
    return fig


def scatter(
    points: Tensor, labels: Sequence[str], images: Tensor | None = None, mark: Tensor | None = None, cells: int = 24
) -> "Figure":
    """Points (N, 2) in the colours of their labels; with images (N, C, H, W), one of each of cells x cells places lies on top.

    `mark` (M, 2) are places to point out with a star.
    """
    from matplotlib import colormaps

    fig = figure(9, 8)
    axes = fig.add_axes((0.01, 0.01, 0.82, 0.98))
    axes.axis("off")
    names = sorted(set(labels))
    for i, name in enumerate(names):
        own = points[torch.tensor([label == name for label in labels])].cpu()
        colour = colormaps["tab10" if len(names) <= 10 else "gist_rainbow"](i if len(names) <= 10 else i / len(names))
        axes.scatter(own[:, 0], own[:, 1], s=8, color=colour, linewidths=0, label=str(i), alpha=0.7)
    low, high = points.amin(0), points.amax(0)
    size = ((high - low).amax() / cells).item()
    if images is not None:
        places = ((points - low) / size).long().tolist()
        first = {tuple(place): i for i, place in reversed(list(enumerate(places)))}.values()
        for i, image in zip(first, to_unit(images[list(first)])):
            x, y = points[i].tolist()
            extent = (x - 0.4 * size, x + 0.4 * size, y - 0.4 * size, y + 0.4 * size)
            axes.imshow(image.permute(1, 2, 0).squeeze(-1).numpy(), cmap="gray", extent=extent, zorder=2)
    if mark is not None:
        axes.scatter(mark[:, 0], mark[:, 1], s=500, marker="*", color="red", edgecolors="white", zorder=3)
    axes.set_xlim(low[0].item() - size, high[0].item() + size)
    axes.set_ylim(low[1].item() - size, high[1].item() + size)
    axes.set_aspect("equal")
    if len(names) <= 40:
        legend = axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, markerscale=3)
        shown, options = drawable(name or "-" for name in names)
        for text, name in zip(legend.get_texts(), shown):  # set here, as matplotlib leaves out what begins with "_"
            text.set(text=name, **options)
    return fig


def to_tensor(fig: "Figure") -> Tensor:
    """Return a drawn figure as an image (3, H, W) in [0, 1]."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return torch.from_numpy(np.asarray(canvas.buffer_rgba())[..., :3].copy()).permute(2, 0, 1).float() / 255


def save_figure(fig: "Figure", path: Path | str) -> None:
    """A figure as a PNG, or whatever the ending of `path` says. Raises `UserError` when it cannot be written."""
    with _written(path) as kind:
        fig.savefig(path, format=kind)


def save_image(image: Tensor, path: Path | str) -> None:
    """An image (C, H, W) in [0, 1], of one channel or three, as `save_figure` does."""
    from matplotlib.image import imsave

    pixels = image.detach().float().cpu().clamp(0, 1).expand(3, -1, -1).permute(1, 2, 0)
    with _written(path) as kind:
        imsave(path, pixels.numpy(), format=kind)


@contextlib.contextmanager
def _written(path: Path | str) -> Iterator[str]:
    """Yield the kind of file by the ending of `path`; an error while writing becomes one line."""
    try:
        yield Path(path).suffix.lower().removeprefix(".") or "png"
    except (OSError, ValueError, KeyError) as error:
        reason = f"no kind of image file is named {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"the figure {path} cannot be written: {reason}") from None
