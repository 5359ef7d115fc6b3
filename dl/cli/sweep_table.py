"""What came of a sweep: the trainings of each setting as a row of a table and of a figure."""

import statistics
from typing import TYPE_CHECKING, Any, Sequence

from dl.cli.listing import NEGATIVE, first_metric
from dl.cli.results import spread
from dl.mytorch import plot

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Half of the width of a 95 % interval of the mean, in standard errors: Student's t with 1, 2, ... degrees of freedom.
T95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131)

Result = dict[str, Any]  # of one training: setting, seed, folder, and the figures of the best checkpoint, val and test


def judged_by(found: Sequence[Result]) -> str:
    """Return the quantity of validation that compares the trainings."""
    return first_metric(list(found[0]["val"]))


def interval(values: Sequence[float]) -> float | None:
    """Return half of the width of the 95 % interval of the mean, by Student's t; None of a single value.

    Beyond 15 degrees of freedom t is 1.96 + 2.5 / degrees, which is right to a hundredth.
    """
    degrees = len(values) - 1
    if degrees < 1:
        return None
    t = T95[degrees - 1] if degrees <= len(T95) else 1.96 + 2.5 / degrees
    return t * statistics.stdev(values) / len(values) ** 0.5


def table(found: Sequence[Result]) -> list[list[str]]:
    """Return a row for each setting, headings first; the one with the lowest mean on validation data is marked."""
    quantity = judged_by(found)
    groups = grouped(found)
    means = {setting: statistics.mean(each["val"][quantity] for each in group) for setting, group in groups.items()}
    rows = [["setting", "n", f"validation {title(quantity)}", "95 % interval", f"test {title(quantity)}", ""]]
    for setting, group in groups.items():
        values = [each["val"][quantity] for each in group]
        tests = [each["test"][quantity] for each in group if each["test"] and quantity in each["test"]]
        half = interval(values)
        ends = "" if half is None else " to ".join(shown(quantity, [means[setting] + side * half]) for side in (-1, 1))
        best = "best" if len(groups) > 1 and means[setting] == min(means.values()) else ""
        rows.append([setting or "as given", str(len(group)), shown(quantity, values), ends, shown(quantity, tests), best])
    return rows


def grouped(found: Sequence[Result]) -> dict[str, list[Result]]:
    """Return the trainings of each setting."""
    return {
        setting: [each for each in found if each["setting"] == setting]
        for setting in dict.fromkeys(e["setting"] for e in found)
    }


def draw(found: Sequence[Result]) -> "Figure":
    """Return a row for each setting: a dot for each seed, the mean, and its 95 % interval."""
    quantity, groups = judged_by(found), grouped(found)
    scale = 100 if quantity.endswith("error") else -1 if NEGATIVE in quantity else 1
    height = 1.0 + 0.4 * len(groups)  # inches: 0.55 below for the axis, 0.4 a row, 0.45 above for the legend
    fig = plot.figure(7, height)
    axes = fig.add_axes((0.3, 0.55 / height, 0.66, 0.4 * len(groups) / height))
    for row, group in enumerate(groups.values()):
        values = [scale * each["val"][quantity] for each in group]
        axes.plot(values, [row] * len(values), "o", color="tab:blue", alpha=0.6, label="a training" if row == 0 else None)
        half = interval(values) or 0.0
        label = "mean, 95 % interval" if row == 0 else None
        axes.errorbar(
            statistics.mean(values), row, xerr=half, fmt="|", color="tab:orange", capsize=4, markersize=12, label=label
        )
    axes.set_yticks(range(len(groups)), [plot.shortened(setting or "as given", 32) for setting in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"validation {title(quantity)}{' (%)' if scale == 100 else ''}")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False, fontsize=8)
    return fig


def title(quantity: str) -> str:
    return quantity.replace(NEGATIVE, "").replace("_", " ")


def shown(quantity: str, values: Sequence[float]) -> str:
    """Return the mean and standard deviation of values, errors in per cent; "" of none."""
    if not values:
        return ""
    if NEGATIVE in quantity:
        return spread(values, ".1f", -1)
    return f"{spread(values, '.2f', 100)} %" if quantity.endswith("error") else spread(values, ".4f")
