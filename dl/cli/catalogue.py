"""Every model of the project, found by its folder dl/modules/<Category>/<Model>: there is no list to keep.

Importing this file imports no torch, so that a mistyped name is answered at once.
"""

import ast
import dataclasses
import importlib
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Callable, NamedTuple, Sequence, TypeVar

ROOT = Path(__file__).resolve().parents[2]
MODULES = ROOT / "dl" / "modules"

# Presets that were another model's in an earlier version, and what they are today; as (model, preset).
MOVED = {("RNN/LSTM", "awd"): ("RNN/AWDLSTM", "awd"), ("RNN/LSTM", "awd_tiny"): ("RNN/AWDLSTM", "tiny")}

LARGEST = 2 * 10**9  # parameters of a network that is computed with values where only shapes are wanted: 8 GB

Result = TypeVar("Result")


class UnknownName(LookupError):
    """A model or a preset that is not there; the message names those that are near."""


class Paper(NamedTuple):
    """What the docstring of a model.py says of its origin; "" for what it does not say."""

    name: str
    title: str
    year: str
    link: str


def names() -> list[str]:
    """Return all models, as "CNN/LeNet", in alphabetical order."""
    return sorted(path.parent.relative_to(MODULES).as_posix() for path in MODULES.glob("*/*/model.py"))


def find(name: str) -> str:
    """Return the model "CNN/LeNet" by this name or by "LeNet", in any case, or by the path of its folder or of a file in it.

    Raises `UnknownName`.
    """
    wanted = name.strip("/").lower()
    by_name: dict[str, list[str]] = {}
    for model in names():
        for key in (model, model.rpartition("/")[2]):
            by_name.setdefault(key.lower(), []).append(model)
    if len(by_name.get(wanted, [])) == 1:
        return by_name[wanted][0]
    if wanted in by_name:
        raise UnknownName(f"{name} is the name of several models: {', '.join(by_name[wanted])}")
    path = Path(name).resolve()
    if MODULES in path.parents and path.exists():
        model = "/".join(path.relative_to(MODULES).parts[:2])
        if model in names():
            return model
    last = "/".join(Path(wanted).parts[-2:])  # of a path, what may be a model's name
    near = [model for key in get_close_matches(last, by_name, n=3) for model in by_name[key]]
    hint = f"near: {', '.join(dict.fromkeys(near))}" if near else "`python -m dl list` shows all"
    raise UnknownName(f"no model {name}; {hint}")


def module(name: str, file: str = "model") -> Any:
    """Return the imported model.py, or another file, of the model "CNN/LeNet"."""
    return importlib.import_module(f"dl.modules.{name.replace('/', '.')}.{file}")


def moved_to(name: str) -> dict[tuple[str, str], str]:
    """Return the presets of a model that were another's, as (model, preset): preset of today."""
    return {earlier: preset for earlier, (model, preset) in MOVED.items() if model == name}


def current(described: dict[str, Any]) -> dict[str, Any]:
    """Return what a run's config.json says, with the recipe and the preset in it that are `MOVED` as they are today."""
    preset = described["config"].get("model")
    if not isinstance(preset, str) or (described["recipe"], preset) not in MOVED:
        return described
    recipe, preset = MOVED[described["recipe"], preset]
    return {**described, "recipe": recipe, "config": {**described["config"], "model": preset}}


def hand_over(name: str, config: type, argv: Sequence[str]) -> bool:
    """Train by the recipe that has the preset which `argv` asks for today, if that has moved from `name`; return whether.

    The defaults are those of `config`, that of the recipe `name`, so that a command means what it meant.
    """
    from dl.mytorch import launch
    from dl.mytorch.command_line import Parser

    parser = Parser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model")
    asked, rest = parser.parse_known_args(argv)
    if (name, asked.model) not in MOVED:
        return False
    recipe, preset = MOVED[name, asked.model]
    train = module(recipe, "train")
    here, there = ({field.name: field.default for field in dataclasses.fields(each)} for each in (config, train.Config))
    differ = {name: value for name, value in here.items() if value != there[name]} | {"model": preset}
    launch(train.main, train.Config, [*(f"--{name.replace('_', '-')}={value}" for name, value in differ.items()), *rest])
    return True


def presets(name: str, wanted: str | None = None) -> list[str]:
    """Return the presets of a model without "tiny", which is for tests; or only the one that is `wanted`.

    Raises `UnknownName` when it has none of this name.
    """
    known = list(module(name).PRESETS)
    if wanted is None:
        return [preset for preset in known if preset != "tiny"]
    if wanted not in known:
        raise UnknownName(f"{name} has no preset {wanted}; there are {', '.join(known)}")
    return [wanted]


def parameters(name: str, wanted: str | None = None) -> dict[str, int]:
    """Trainable parameters of each preset, or of the one that is `wanted`."""
    from dl.mytorch.introspect import count_parameters

    build = module(name).build
    return {preset: without_values(lambda: count_parameters(build(preset))) for preset in presets(name, wanted)}


def cost(name: str, preset: str) -> tuple[int, int | None]:
    """Trainable parameters, and FLOPs for one input (`example` of its model.py), a multiply-add counted as two.

    None where FLOPs depend on values and the network is too large to have any, as large mixtures of experts are.
    """
    from dl.mytorch.introspect import count_flops, count_parameters

    def compute() -> tuple[int, int]:
        model = module(name).build(preset)
        return count_parameters(model), count_flops(model, *module(name).example(preset))

    def size() -> int:
        return parameters(name, preset)[preset]

    try:
        return without_values(compute, size)
    except OverflowError:
        return size(), None


def reported(name: str) -> str:
    """Return what the paper of a model reports: the first row of the table below that heading in its README, or "".

    A figure without words is of the quantity in its column's heading.
    """
    path = MODULES / name / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    table = re.search(r"^## What the paper reports\n(?:(?!#|\|).*\n)*\|(.*)\|\n\|.*\n\|(.*)\|$", text, re.MULTILINE)
    if table is None:
        return ""
    headings, (network, data, figure, *_) = ([cell.strip() for cell in row.split("|")] for row in table.groups())
    quantity = "" if re.match("[a-zA-Z]", figure) else headings[2].removeprefix("test ") + " "
    return f"{data}: {quantity}{figure} ({network})"


def without_values(compute: Callable[[], Result], parameters: Callable[[], int] = lambda: 0) -> Result:
    """`compute()` with tensors that have a shape but no values, see `introspect.without_values`.

    Where values are read, or anything else fails that way, it is computed with values instead. Raises `OverflowError` if the
    network has more than `LARGEST` parameters then.
    """
    from dl.mytorch.introspect import without_values as empty

    try:
        with empty():
            return compute()
    except Exception:  # what is wrong with the model itself, the second attempt raises again
        if (count := parameters()) > LARGEST:
            raise OverflowError(
                f"what it computes depends on values, and {count:,} parameters are too many to have any"
            ) from None
        return compute()


def paper(name: str) -> Paper:
    """Read from the docstring of model.py: its first line, a title in quotation marks, then the year, then a link."""
    source = (MODULES / name / "model.py").read_text(encoding="utf-8")
    if source.startswith('"""'):  # the rest is not parsed: `python -m dl list` does this for all models
        source = source[: source.find('"""', 3) + 3]
    text = ast.get_docstring(ast.parse(source)) or ""
    title = re.search(r'"([^"]+)"', text)
    after_title = text[title.end() :] if title else text
    link = re.search(r"https?://[^\s,;)]+", after_title)
    year = re.search(r"\b(?:18|19|20)\d\d\b", re.sub(r"https?://\S+", "", after_title))
    return Paper(
        name=text.partition("\n")[0].rstrip("."),
        title=" ".join(title[1].split()) if title else "",
        year=year[0] if year else "",
        link=link[0].rstrip(".:") if link else "",
    )
