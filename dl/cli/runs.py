"""A trained run as an object: `Run.open("runs/CNN/ResNet").model()` is its network with the best weights."""

import dataclasses
import functools
import inspect
import sys
from pathlib import Path
from typing import Any, Callable, Mapping

from torch import nn

from dl.cli import catalogue, folders
from dl.mytorch.checkpoint import load_weights
from dl.mytorch.config import Config, TrainConfig, UserError, current_names
from dl.mytorch.data import ImageConfig, Vocabulary, data_of_run, image_set
from dl.mytorch.data.split import names_file, read_names
from dl.mytorch.distributed import device, restarted
from dl.mytorch.files import read_recorded_json, regular_file
from dl.mytorch.logger import SPEED, History, read_history
from dl.mytorch.run import read_described, taken_precision


class NoRun(UserError):
    """There is no finished run of a model."""


class Run:
    """A trained run. `path` is its folder, `recipe` its model, as "CNN/ResNet", `described` what its config.json says.

    What else there is of it is read when it is first asked for. All raise `UserError` for a file that is missing, damaged or
    changed, and that names it.
    """

    def __init__(self, path: Path, described: dict[str, Any]) -> None:
        self.path, self.described = path, catalogue.current(described)
        self.recipe: str = self.described["recipe"]
        self.precision: str | None = described["precision"]  # taken; `config.precision` is what was asked for

    @classmethod
    def open(cls, path: Path | str, *recipes: str) -> "Run":
        """Return the run in the folder `path`; with `recipes`, "<Category>/<Model>", only one of these.

        Raises `UserError` for a folder that holds none with a best checkpoint, or a run of another recipe.
        """
        run = Path(path)
        if run.is_file():
            raise UserError(f"{run} is a file; the folder of a run is asked for, say {run.parent}")
        if not (run / "config.json").exists():
            modules = [f"`python -m dl.modules.{recipe.replace('/', '.')}.train`" for recipe in recipes or ("CNN/LeNet",)]
            raise UserError(f"{run} holds no trained network, no best.pt; {' or '.join(modules)} makes one")
        described = read_described(run)
        if recipes and described["recipe"] not in recipes:
            raise UserError(f"{run} is a run of {described['recipe']}, not of {', '.join(recipes)}")
        if not (run / "best.pt").exists():
            again = described.get("command") or f"python -m dl train {described['recipe']} --out {run}"
            raise UserError(
                f"{run} holds no best.pt yet, no trained network: before its first evaluation; `{again}` resumes it"
            )
        regular_file(run / "best.pt")
        return cls(run, described | {"precision": taken_precision(described)})

    @classmethod
    def latest(cls, model: str, root: Path | str = "runs") -> "Run":
        """Return the newest finished run of `model`, by any name that the catalogue knows, below the folder `root`.

        Raises `UnknownName` for a model, `NoRun` where there is none, `UserError` for one that is damaged.
        """
        recipe = catalogue.find(model)
        finished = [run for run in folders.found(Path(root)) if run.recipe == recipe and run.finished and run.trained]
        if not finished:
            raise NoRun(f"no finished run of {recipe} below {root}; `python -m dl train {recipe}` makes one")
        return cls.open(max(finished, key=lambda run: run.changed).path)

    @functools.cached_property
    def module(self) -> Any:
        """Return the recipe: train.py, or another file of the model's folder that was run."""
        try:
            return catalogue.module(self.recipe, self.described.get("file", "train"))
        except ModuleNotFoundError as error:
            if not str(error.name).startswith("dl.modules."):  # a package that is not installed
                raise
            raise UserError(f"{self.path} is a run of {self.recipe}, which is no recipe of this project") from None

    @functools.cached_property
    def config(self) -> Any:
        """Return the `Config` of the recipe, under today's names: `out` is where the run lies now.

        Flags of an earlier version are named in one line on stderr. Where its images are gone, `data` is "classes:FILE".
        """
        where, values = self.path / "config.json", self.described["config"]
        cls: type[TrainConfig] = self.module.Config
        if line := earlier_flags(cls, values):
            print(f"note: {where} is of an earlier version: {line}", file=sys.stderr)
        kept = {"out": str(self.path), "fresh": False}
        if issubclass(cls, ImageConfig) and isinstance(values.get("data"), str):
            kept["data"] = data_of_run(self.path, values["data"])
        config = restore(cls, {**values, **kept}, where)
        try:
            device(config.device)
        except UserError:  # it was trained on a device that is not here
            config = dataclasses.replace(config, device="auto")
        return config

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Return the names of the classes, in the order of the labels; () without classes."""
        if (file := names_file(self.path)).exists():
            return read_names(file)
        return image_set(self.config).classes if isinstance(self.config, ImageConfig) else ()

    @functools.cached_property
    def vocabularies(self) -> Mapping[str, Any]:
        """Return the tokens of texts by name, "tokens", or "source" and "target"; empty for a run on no text."""
        read: Callable[[Path], Any] = getattr(self.module.Config, "read_vocabulary", Vocabulary.load)
        paths = {path.stem.partition("-")[2]: path for path in sorted(self.path.glob("vocabulary-*.json"))}
        return {name: read(path) for name, path in paths.items() if name != "classes"}

    @property
    def history(self) -> History:
        """Return the record of each evaluation, and of the test."""
        return read_history(self.path / "history.json")

    @property
    def speed(self) -> dict[str, Any]:
        """Return the seconds, the examples and the peak memory."""
        return read_recorded_json(self.path / "speed.json", SPEED)

    def model(self) -> nn.Module:
        """Return a new network with the best weights, in evaluation mode, on the CPU.

        Raises `UserError` if config.json and best.pt do not belong together.
        """
        config = self.config
        if isinstance(config, ImageConfig) and (classes := names_file(self.path)).exists():  # the images may be others by now
            config = dataclasses.replace(config, data=f"classes:{classes}")
        texts = (self.vocabularies,) if self.vocabularies else ()
        _, *more = inspect.signature(self.module.build_model).parameters.values()
        if more and more[0].default is inspect.Parameter.empty and not texts:
            raise UserError(f"{self.path} lacks its vocabulary-*.json: the tokens that its network reads")
        return load_best(lambda: self.module.build_model(config, *texts), self.path)


def resumes(config: TrainConfig) -> bool:
    """Return whether a training by `config` resumes: then last.pt has all weights, and what they came from may be gone."""
    return Path(config.out, "last.pt").exists() and (not config.fresh or restarted())


def restore(cls: type[Config], values: Mapping[str, Any], where: Path | str) -> Config:
    """Return the config of a run from `values`, those of its config.json.

    Fields that have been renamed since are understood (`alias` of `flag`), fields that a recipe no longer has are ignored.

    Raises `UserError`, naming `where` and the field, for a value of another type or outside its range.
    """
    values = current_names(cls, values)
    try:
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls) if field.name in values})
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def earlier_flags(cls: type[TrainConfig], values: Mapping[str, Any]) -> str:
    """Return what `values`, those of a config.json, have under other names than today's, in words; "" if nothing."""
    fields, words = {field.name for field in dataclasses.fields(cls)}, []
    for name in values:
        (today,) = current_names(cls, {name: None})
        before, now = ("--" + each.replace("_", "-") for each in (name, today))
        if today not in fields:
            words.append(f"{before} is no more")
        elif today != name:
            words.append(f"{before} is {now} now")
    return ", ".join(words)


def load_best(make: Callable[[], nn.Module], run: Path) -> nn.Module:
    """Return the network that `make` builds by a run's config.json, with the weights of its best.pt, in evaluation mode.

    Raises `UserError` if they do not belong together, before a network that is far larger than its weights takes memory.
    """
    path = run / "best.pt"
    wanted = catalogue.without_values(lambda: sum(parameter.nbytes for parameter in make().parameters()))
    found = sum(part.stat().st_size for part in (path, *path.rglob("*")))
    if wanted > 2 * found + 2**26:
        raise UserError(f"{run / 'config.json'} is of a network of {wanted:,} bytes, best.pt has {found:,}: not of one run")
    return load_weights(make(), path).eval()
