"""A network as a drawing: a box for each named layer, with the shape that leaves it."""

import html
import re
from typing import NamedTuple

ROW, WIDTH, LEFT = 34, 560, 130  # pixels


class Layer(NamedTuple):
    name: str
    kind: str
    shape: str
    parameters: str


def layers(summary: str) -> list[Layer]:
    """Return the outermost layers of a table by `layer_summary`; equal blocks in a row become one."""
    found: list[Layer] = []
    for line in summary.splitlines()[2:]:
        cells = re.split(r"\s{2,}", line.strip())
        if line.startswith((" ", "-", "total")) or len(cells) < 4:
            continue
        found.append(Layer(*cells[:4]))
    merged: list[list[Layer]] = []
    for layer in found:
        stem = layer.name.rpartition(".")[0]
        last = merged[-1][-1] if merged else None
        if last and stem and (stem, layer[1:]) == (last.name.rpartition(".")[0], last[1:]):
            merged[-1].append(layer)
        else:
            merged.append([layer])
    return [
        group[0] if len(group) == 1 else group[0]._replace(name=f"{group[0].name} to {group[-1].name.rpartition('.')[2]}")
        for group in merged
    ]


def rows(summary: str) -> set[tuple[str, str]]:
    """Return name and type of each layer in a table by `layer_summary`, "#" for the places in lists."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in summary.splitlines()[1:] if not line.startswith(("-", "total"))]
    return {(re.sub(r"\.\d+", ".#", name), kind) for name, kind, *more in (row for row in cells if len(row) > 3)}


def svg(title: str, found: list[Layer]) -> str:
    """Return the drawing as SVG, from the input at the top to the output; `title` is read aloud in its place."""
    height = ROW * len(found) + 10
    words = ", ".join(f"{layer.name} ({layer.kind}) {layer.shape}" for layer in found)
    parts = [
        '<div class="drawing" tabindex="0">',
        f'<svg class="diagram" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{html.escape(f"{title}: {words}")}">',
        f"<title>{html.escape(title)}</title>",
    ]
    for i, layer in enumerate(found):
        y = ROW * i + 4
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{WIDTH - LEFT - 150}" height="24" rx="4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{html.escape(layer.name)}</text>')
        parts.append(f'<text x="{LEFT + 10}" y="{y + 16}">{html.escape(layer.kind)}</text>')
        parts.append(f'<text class="shape" x="{WIDTH - 142}" y="{y + 16}">{html.escape(layer.shape)}</text>')
        if i + 1 < len(found):
            middle = LEFT + (WIDTH - LEFT - 150) / 2
            parts.append(f'<path d="M{middle} {y + 24}v{ROW - 24}"/>')
    return "\n".join([*parts, "</svg></div>"])
