"""A network as drawings: a box for each named layer, with the shape that leaves it; and what is inside its blocks."""

import html
import re
from typing import NamedTuple

ROW, INNER_ROW, WIDTH, LEFT, RIGHT, INDENT = 34, 30, 560, 130, 150, 8  # pixels


class Layer(NamedTuple):
    """A row of a drawing: `depth` parts are around it, and the `inner` rows after it are inside it."""

    name: str
    kind: str
    shape: str
    parameters: str
    depth: int = 0
    inner: int = 0


def tree(summary: str) -> list[Layer]:
    """Return the rows of a table by `layer_summary`, each with its depth and how many of the rows after it are its parts."""
    found: list[Layer] = []
    for line in summary.splitlines()[2:]:
        cells = re.split(r"\s{2,}", line.strip())
        if not line.startswith(("-", "total")) and len(cells) > 3:
            found.append(Layer(*cells[:4], depth=(len(line) - len(line.lstrip())) // 2))
    for i, layer in enumerate(found):
        ends = (j for j in range(i + 1, len(found)) if found[j].depth <= layer.depth)
        found[i] = layer._replace(inner=next(ends, len(found)) - i - 1)
    return found


def layers(summary: str) -> list[Layer]:
    """Return the outermost layers of a table by `layer_summary`; equal blocks in a row become one."""
    merged: list[list[Layer]] = []
    for layer in (each._replace(inner=0) for each in tree(summary) if not each.depth):
        last = merged[-1][-1] if merged else None
        if last and _list_of(layer) and (_list_of(layer), layer[1:]) == (_list_of(last), last[1:]):
            merged[-1].append(layer)
        else:
            merged.append([layer])
    return [_joined(group) for group in merged]


def blocks(summary: str) -> list[list[Layer]]:
    """Return the inside of each kind of outermost block, or, where no list has blocks, of each outermost layer with parts.

    It is the first block of its kind with its parts, of which lists show their first one.
    """
    rows = tree(summary)
    outer = [(i, layer) for i, layer in enumerate(rows) if not layer.depth and layer.inner]
    found: dict[str, list[Layer]] = {}
    for i, layer in [each for each in outer if "." in each[1].name] or outer:
        found.setdefault(layer.kind if "." in layer.name else layer.name, rows[i : i + 1 + layer.inner])
    return [_with_firsts(block) for block in found.values()]


def _with_firsts(rows: list[Layer]) -> list[Layer]:
    """Return rows in which the parts of a list that are of one kind are a single one, the first."""
    kept: list[Layer] = []
    i = 0
    while i < len(rows):
        group = [rows[i]]
        after = i + 1 + rows[i].inner
        while after < len(rows) and _like(rows[i], rows[after]):
            group.append(rows[after])
            after += 1 + rows[after].inner
        own = _with_firsts(rows[i + 1 : i + 1 + rows[i].inner])
        kept += [_joined(group)._replace(inner=len(own)), *own]
        i = after
    return kept


def _like(one: Layer, other: Layer) -> bool:
    """Whether two rows are of one list, or are equal blocks that have their numbers in their names."""
    stems = [_list_of(each) or (re.sub(r"\d+$", "", each.name) if each.inner else "") for each in (one, other)]
    return bool(stems[0]) and (stems[0], one.kind, one.depth) == (stems[1], other.kind, other.depth)


def _list_of(layer: Layer) -> str:
    """Return the list that a layer is in, "blocks" for "blocks.3", else ""."""
    stem, _, place = layer.name.rpartition(".")
    return stem if place.isdecimal() else ""


def _joined(group: list[Layer]) -> Layer:
    last = re.search(r"\d*$", group[-1].name)
    return group[0] if len(group) == 1 or not last else group[0]._replace(name=f"{group[0].name} to {last[0]}")


def rows(summary: str) -> set[tuple[str, str]]:
    """Return name and type of each layer in a table by `layer_summary`, "#" for the places in lists."""
    cells = [re.split(r"\s{2,}", line.strip()) for line in summary.splitlines()[1:] if not line.startswith(("-", "total"))]
    return {(re.sub(r"\.\d+", ".#", name), kind) for name, kind, *more in (row for row in cells if len(row) > 3)}


def svg(title: str, found: list[Layer]) -> str:
    """Return the drawing as SVG; `title` is read aloud in its place.

    Outermost layers go from the input at the top to the output. What is inside a part has a frame, in the order in which it is
    called; no line leads from one to the next, as some are called side by side.
    """
    nested = any(layer.inner for layer in found)
    row = INNER_ROW if nested else ROW
    words = ", ".join(f"{layer.name} ({layer.kind}) {layer.shape}" for layer in found)
    parts = [
        '<div class="drawing" tabindex="0">',
        f'<svg class="diagram" viewBox="0 0 {WIDTH} {row * len(found) + 10}" role="img"',
        f' aria-label="{html.escape(f"{title}: {words}")}">',
        f"<title>{html.escape(title)}</title>",
    ]
    for i, layer in enumerate(found):
        y, left = row * i + 4, LEFT + INDENT * layer.depth
        width, tall = WIDTH - RIGHT - INDENT * layer.depth - left, row * layer.inner + (22 if nested else 24)
        tall += 6 - 2 * layer.depth if layer.inner else 0  # so that frames that end together do not touch
        frame = ' class="frame"' if layer.inner else ""
        parts.append(f'<rect{frame} x="{left}" y="{y}" width="{width}" height="{tall}" rx="4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 16}" text-anchor="end">{html.escape(layer.name)}</text>')
        parts.append(f'<text x="{left + 10}" y="{y + 16}">{html.escape(layer.kind)}</text>')
        parts.append(f'<text class="shape" x="{WIDTH - RIGHT + 8}" y="{y + 16}">{html.escape(layer.shape)}</text>')
        if not nested and i + 1 < len(found):
            parts.append(f'<path d="M{left + width / 2} {y + 24}v{row - 24}"/>')
    return "\n".join([*parts, "</svg></div>"])
