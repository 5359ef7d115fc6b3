"""The curves of a recorded run as SVG. Pointing at a point shows its value, and a table below has all of them."""

import html
from typing import Any

from dl.cli import results
from dl.cli.listing import NEGATIVE

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 560, 200, 70, 24, 22  # pixels


def section(name: str, words: dict[str, Any]) -> str:
    """Return the curves of a model's run: of its recipe's defaults, else of its best; a line if its records have none."""
    groups = [group for _, group in filter(None, [results.default_group(name), *results.best_groups(name).values()])]
    record = next((each for group in groups for each in group if each.get("curve")), None)
    if record is None:
        drawn = groups and any(groups[0][0]["path"].parent.glob("*curves.png"))  # by the run itself
        return f"*{words['no curve']}*" if groups and not drawn else ""
    curve = record["curve"]
    series = {name: tuple(name.split(" ", 1)) for name in curve if name != "step"}  # "val loss": ("val", "loss")
    drawings = []
    for quantity in dict.fromkeys(quantity for _, quantity in series.values()):
        lines = {split: curve[each] for each, (split, other) in series.items() if other == quantity}
        drawings += [svg(name, quantity, curve["step"], lines, words)] if len(curve["step"]) > 1 else []
    about = f"{words['curve of']} [{record['path'].stem}](results/{record['path'].name})"
    return "\n\n".join([*drawings, about, table(curve["step"], {series[name]: curve[name] for name in series}, words)])


def table(steps: list[int], series: dict[tuple[str, ...], list[Any]], words: dict[str, Any]) -> str:
    """Return all values of a curve; `series` are {(split, quantity): values}."""
    columns = [[f"{step:,}" for step in steps]]
    columns += [[_shown(quantity, value) for value in values] for (_, quantity), values in series.items()]
    headings = [words["steps"], *(f"{words[split]} {results.title(quantity)}" for split, quantity in series)]
    heads = "".join(f"<th>{html.escape(each)}</th>" for each in headings)
    cells = "".join(f"<tr>{''.join(f'<td>{each}</td>' for each in row)}</tr>\n" for row in zip(*columns))
    return f"<details><summary>{words['values']}</summary>\n<table><tr>{heads}</tr>\n{cells}</table></details>"


def svg(name: str, quantity: str, steps: list[int], lines: dict[str, list[Any]], words: dict[str, Any]) -> str:
    """Return the drawing of one quantity over steps; what it shows is read aloud in its place."""
    sign, title = (-1 if NEGATIVE in quantity else 1), results.title(quantity)
    lines = {split: values for split, values in lines.items() if any(value is not None for value in values)}
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
    for x, split in zip((WIDTH - 190, WIDTH - 90), lines):
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
            parts.append(
                f'<circle class="{split}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"><title>{html.escape(said)}</title></circle>'
            )
    return "\n".join([*parts, "</svg>"])


def _shown(quantity: str, value: float | None) -> str:
    return "-" if value is None else results.figure(quantity, value)
