"""A page to search with: drop an image, see whether it is known, its five nearest, and its place on the map.

    pip install -e ".[app]"
    python -m dl.modules.DataMining.ImageSearch.app                               # then open http://127.0.0.1:7860
    python -m dl.modules.DataMining.ImageSearch.app --index runs/by-head runs/by-block    # a choice of layers

The page is for this machine only: it answers under local host names alone, as a name of another site can be made to lead
here. Files of more than 20 MB, images of more than 25 million pixels and what is no image are answered by a sentence.
Uploaded files are deleted after an hour, and when the page ends.
"""

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple, Sequence

import numpy as np
from torch import Tensor

from dl.cli.command import command
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.index import FOLDER, Index
from dl.modules.DataMining.ImageSearch.map import chosen_rows, thumbnails
from dl.modules.DataMining.ImageSearch.search import printable, query
from dl.modules.DataMining.TSNE.tsne import place, tsne
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.data import centre_square, read_image
from dl.mytorch.data.images.imagefile import image_size

LARGEST_FILE = 20 * 2**20  # bytes
LARGEST_IMAGE = 25_000_000  # pixels
KEPT = 3600  # seconds, for which an uploaded file is kept
HOSTS = {b"127.0.0.1", b"localhost"}
DISTANCES = ["l2", "l1", "cosine", "dot"]


class Chart(NamedTuple):
    """A map of a part of an index."""

    points: Tensor
    features: Tensor
    labels: list[str]
    images: Tensor


class Source(NamedTuple):
    """An index with its network and its map."""

    index: Index
    extractor: Extractor
    chart: Chart | None  # None: too few images


def open_source(folder: Path, points: int) -> Source:
    """Return the index in `folder`, and a map of at most `points` of its images."""
    index = Index(folder)
    rows = chosen_rows(index, points)
    chart = None
    if len(rows) > 15:
        features = index.exact.rows(rows).float()
        drawn = tsne(features, perplexity=min(30.0, (len(rows) - 1) / 3), iterations=500, exaggerated=150)
        chart = Chart(drawn, features, [printable(index.labels[row]) for row in rows.tolist()], thumbnails(index, rows))
    return Source(index, index.extractor(), chart)


def checked(path: str) -> Tensor:
    """Return an uploaded image (3, H, W) of bytes. Raises `UserError`, without the path, for what the page does not take."""
    size = Path(path).stat().st_size
    if size > LARGEST_FILE:
        raise UserError(f"The file has {size / 2**20:.0f} MB; at most {LARGEST_FILE // 2**20} MB are taken.")
    try:
        width, height = image_size(path)
        if width * height <= LARGEST_IMAGE:
            return read_image(path)
    except UserError as error:
        raise UserError(f"This file {str(error).removeprefix(path).strip()}.") from None
    most = f"at most {LARGEST_IMAGE / 1e6:.0f} million are taken"
    raise UserError(f"The image has {width * height / 1e6:.0f} million pixels; {most}.")


def answer(source: Source, path: str | None, distance: str) -> tuple[str, list[tuple[np.ndarray, str]], np.ndarray | None]:
    """Return what the page shows for an uploaded file: a sentence, the neighbours with captions, the map."""
    if path is None:
        return "Drop an image.", [], _map(source.chart, None)
    try:
        features = source.extractor([checked(path)])
        found = query(source.index, features, 5, distance)
    except UserError as error:
        return f"**{error}**", [], _map(source.chart, None)
    images = [pixels(each) for each in source.index.shown([neighbour.row for neighbour in found.neighbours])]
    captions = [f"{neighbour.label or neighbour.name} {neighbour.distance:.4g}" for neighbour in found.neighbours]
    return f"**{found.decision}**", list(zip(images, captions)), _map(source.chart, features)


def pixels(image: Tensor) -> np.ndarray:
    """Return an image (3, H, W) as a square (128, 128, 3) for the page."""
    return centre_square(image, 128).permute(1, 2, 0).numpy()


def _map(chart: Chart | None, features: Tensor | None) -> np.ndarray | None:
    if chart is None:
        return None
    mark = None if features is None else place(chart.points, chart.features, features)
    drawn = plot.to_tensor(plot.scatter(chart.points, chart.labels, chart.images, mark))
    return (drawn * 255).byte().permute(1, 2, 0).numpy()


class LocalOnly:
    """Answers requests to local host names, and refuses all others: ASGI middleware around `app`.

    A page of another site, whose name leads to 127.0.0.1 once it is open (DNS rebinding), could else read this one.
    """

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        hosts = [value for name, value in scope.get("headers", ()) if name == b"host"]
        if scope["type"] == "lifespan" or (len(hosts) == 1 and hosts[0].lower().partition(b":")[0] in HOSTS):
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send({"type": "http.response.start", "status": 400, "headers": [(b"content-type", b"text/plain")]})
            await send({"type": "http.response.body", "body": b"this page answers under 127.0.0.1 and localhost only"})


def create(sources: dict[str, Source]) -> Any:
    """Return the page. Raises `UserError` when gradio is not installed."""
    try:
        import gradio
    except ImportError:
        raise UserError('the page needs gradio: pip install -e ".[app]"') from None

    def show(path: str | None, name: str, distance: str) -> tuple[str, list[tuple[np.ndarray, str]], np.ndarray | None]:
        return answer(sources[name], path, distance)

    with gradio.Blocks(title="Image search", analytics_enabled=False, delete_cache=(KEPT, KEPT)) as page:
        gradio.Markdown("# Image search")
        with gradio.Row():
            upload = gradio.File(label="An image", type="filepath", file_count="single")
            with gradio.Column():
                name = gradio.Dropdown(list(sources), value=next(iter(sources)), label="Index and layer")
                distance = gradio.Radio(DISTANCES, value="l2", label="Distance")
        decision = gradio.Markdown("Drop an image.", elem_id="verdict")
        nearest = gradio.Gallery(label="The five nearest", columns=5, height=220, elem_id="nearest", object_fit="contain")
        chart = gradio.Image(label="The map", show_label=True)
        for changed in (upload, name, distance):
            changed.change(show, [upload, name, distance], [decision, nearest, chart], api_name=False)
        page.load(show, [upload, name, distance], [decision, nearest, chart], api_name=False)
    return page


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = Parser(description="A page to search images with.", prog="python -m dl.modules.DataMining.ImageSearch.app")
    parser.add_argument(
        "--index", type=user_path, nargs="+", default=[Path(FOLDER)], help="folders of indices (default: the usual)"
    )
    parser.add_argument("--port", type=int, default=7860, help="of the page (default: %(default)s)")
    parser.add_argument("--points", type=int, default=500, help="images on the map at most (default: %(default)s)")
    options = parser.parse_args(argv)
    if not 0 < options.port < 2**16 or options.points < 0:
        parser.error("--port has to be from 1 to 65535, and --points at least 0")
    return options


@command(parse)
def main(options: argparse.Namespace) -> None:
    sources = {}
    for folder in options.index:
        source = open_source(folder, options.points)
        network = source.index.about["network"]
        sources[f"{network['backbone']}, {network['layer'] or 'last layer'} ({folder})"] = source
    launch(create(sources), options.port)


def launch(page: Any, port: int, **options: Any) -> Any:
    """Serve a page of `create` to this machine, until Ctrl-C unless `prevent_thread_lock`."""
    from starlette.middleware import Middleware  # gradio's

    own = {"middleware": [Middleware(LocalOnly)]}
    local = {"server_name": "127.0.0.1", "server_port": port, "max_file_size": LARGEST_FILE}
    return page.launch(**local, app_kwargs=own, quiet=True, **options)


if __name__ == "__main__":
    sys.exit(main())
