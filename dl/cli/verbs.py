"""`python -m dl generate RUN_OR_MODEL ...` and the like: the command of the model's folder, found by what the run is of."""

import os
import sys
from pathlib import Path
from typing import Any, Sequence

from dl.cli import catalogue
from dl.cli.catalogue import UnknownName

VERBS = {
    "generate": "continue a text with a language model",
    "translate": "translate sentences",
    "sample": "draw samples of a generative model, or an episode of an agent",
    "predict": "name what images show or sentences say, or draw a class for each pixel or a box for each object",
    "search": "find the images of an index that are nearest to one",
    "score": "how like the real images the samples of runs are, in one table",
}
FRONTS = {"search": "search", "score": "scores"}  # verbs of an index, or of several runs, and the files of their commands


# Where else a command may be: of classifiers of any category, or one for all.
EVERYWHERE = {"predict": ["*/*/predict.py"], "search": ["*/*/search.py"], "scores": ["*/scores.py"]}


def run_verb(verb: str, words: Sequence[str]) -> int:
    """Call the module's own command. Raises `UnknownName` for a model that has none of this kind."""
    if verb in FRONTS:
        return find_command(FRONTS[verb]).main(words)
    if not words:
        raise UnknownName(f"name a run or a model: python -m dl {verb} RUN_OR_MODEL ...")
    first, *rest = words
    run = Path(os.path.expanduser(first))
    of_run = (run / "config.json").exists()
    command = find_command(verb, _recipe(run) if of_run else catalogue.find(first))
    if "--help" in rest or "-h" in rest:
        return command.main(["--help"])
    path = str(run if of_run else _latest(first))
    return command.main([*rest, "--run", path] if verb == "predict" else [path, *rest])


def find_command(verb: str, recipe: str = "") -> Any:
    """Return the module `verb` of a model's category, of its folder, or of a model beside it."""
    category = recipe.partition("/")[0]
    places = [f"{category}/{verb}.py", f"{recipe}/{verb}.py", f"{category}/*/{verb}.py"] if recipe else []
    for place in [*places, *EVERYWHERE.get(verb, ())]:
        found = sorted(catalogue.MODULES.glob(place))
        if len(found) == 1:
            return catalogue.module(found[0].parent.relative_to(catalogue.MODULES).as_posix(), verb)
    raise UnknownName(f"{recipe} has no command {verb}; `python -m dl --help` shows all")


def _recipe(run: Path) -> str:
    from dl.mytorch.run import read_described  # not above: it brings torch along

    return read_described(run)["recipe"]


def _latest(model: str) -> Path:
    """Return the newest finished run of a model below runs/, else the one that comes with the project."""
    from dl.cli import bundled
    from dl.cli.runs import NoRun, Run

    try:
        return Run.latest(model).path
    except NoRun:
        recipe = catalogue.find(model)
        if not bundled.file_of(recipe).exists():
            raise
        file = bundled.file_of(recipe).relative_to(catalogue.ROOT)
        print(f"no finished run of {recipe} below runs: taking {file}, which comes with the project", file=sys.stderr)
        return bundled.unpack(recipe)
