"""The curves of a recorded run as SVG. Pointing at a point shows its value, and a table below has all of them."""

import html
from typing import Any

from dl.cli import results
from dl.cli.listing import NEGATIVE

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 200, 70, 24, 22  # pixels


def section(name: str, words: dict[str, Any]) -> str:
    """Return the curves of a model's run: of its recipe's defaults, else of its best; "" if its records have none."""
    groups = [group for _, group in filter(None, [results.default_group(name), *results.best_groups(name).values()])]
    record = next((each for group in groups for each in group if each.get("curve")), None)
    if record is None:
        return ""
    curve, parts = record["curve"], []
    for quantity in dict.fromkeys(series.partition(" ")[2] for series in curve if series != "step"):
        lines = {split: curve[f"{split} {quantity}"] for split in ("train", "val") if f"{split} {quantity}" in curve}
        if len(curve["step"]) > 1:
            parts.append(svg(name, quantity, curve["step"], lines, words))
    headings = ["step", *(f"{words[series.partition(' ')[0]]} {_title(series)}" for series in curve if series != "step")]
    columns = [[str(step) for step in curve["step"]]]
    columns += [[_shown(_title(name, raw=True), value) for value in values] for name, values in curve.items() if name != "step"]
    cells = "".join(f"<tr>{''.join(f'<td>{each}</td>' for each in row)}</tr>\n" for row in zip(*columns))
    heads = "".join(f"<th>{html.escape(each)}</th>" for each in headings)
    values = f"<details><summary>{words['values']}</summary>\n<table><tr>{heads}</tr>\n{cells}</table></details>"
    return "\n\n".join([*parts, f"{words['curve of']} [{record['path'].stem}](results/{record['path'].name})", values])


def svg(name: str, quantity: str, steps: list[int], lines: dict[str, list[Any]], words: dict[str, Any]) -> str:
    """Return the drawing of one quantity over steps; what it shows is read aloud in its place."""
    sign, title = (-1 if NEGATIVE in quantity else 1), results.title(quantity)
    known = [sign * value for values in lines.values() for value in values if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    across = (WIDTH - LEFT - 10) / max(1, steps[-1] - steps[0])
    up = (HEIGHT - TOP - BOTTOM) / ((high - low) or 1)
    ends = "; ".join(
        f"{words[split]}: {_shown(quantity, values[0])} - {_shown(quantity, values[-1])}" for split, values in lines.items()
    )
    spoken = html.escape(f"{name}, {title}, {words['steps']} {steps[0]} - {steps[-1]}. {ends}")
    parts = [f'<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{spoken}">']
    parts.append(f'<text x="{LEFT}" y="14">{html.escape(title)}</text>')
    for x, (split, values) in zip((WIDTH - 190, WIDTH - 90), lines.items()):
        parts.append(f'<path class="{split}" d="M{x} 10h24"/><text x="{x + 30}" y="14">{words[split]}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - 10}"/>')
    for value, y in ((high, TOP + 4), (low, HEIGHT - BOTTOM)):
        parts.append(f'<text x="{LEFT - 6}" y="{y}" text-anchor="end">{_shown(quantity, sign * value)}</text>')
    for step, x, anchor in ((steps[0], LEFT, "start"), (steps[-1], WIDTH - 10, "end")):
        parts.append(f'<text x="{x}" y="{HEIGHT - 6}" text-anchor="{anchor}">{step:,}</text>')
    parts.append(f'<text x="{(WIDTH + LEFT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{words["steps"]}</text>')
    for split, values in lines.items():
        places = [
            (LEFT + (step - steps[0]) * across, HEIGHT - BOTTOM - (sign * value - low) * up, step, value)
            for step, value in zip(steps, values)
            if value is not None
        ]
        parts.append(f'<path class="{split}" d="M{"L".join(f"{x:.1f} {y:.1f}" for x, y, *_ in places)}"/>')
        for x, y, step, value in places:
            said = f"{words['steps']} {step:,}, {words[split]}: {title} {_shown(quantity, value)}"
            parts.append(f'<circle class="{split}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{html.escape(said)}</title></circle>')
    return "\n".join([*parts, "</svg>"])


def _title(series: str, raw: bool = False) -> str:
    quantity = series.partition(" ")[2]
    return quantity if raw else results.title(quantity)


def _shown(quantity: str, value: float | None) -> str:
    return "-" if value is None else results.figure(quantity, value)
