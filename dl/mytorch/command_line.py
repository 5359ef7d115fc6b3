"""The command line of a recipe, made from the fields of its config."""

import argparse
import dataclasses
import difflib
from typing import Any, NoReturn, Sequence, get_type_hints

from dl import print_error
from dl.mytorch.config import Config, TrainConfig, choices_of, flag_name, metadata_of


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, where argparse would print all flags first; knows what a misspelt flag may be."""

    hidden: frozenset[str] = frozenset()  # what `--help` leaves out, and `--help-all` shows

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:
        known, unknown = self.parse_known_args(args, namespace)
        if unknown:
            shown = [action for action in self._actions if action.help != argparse.SUPPRESS]
            names = [name for action in shown for name in action.option_strings]
            near = difflib.get_close_matches(unknown[0].partition("=")[0], names, n=1)
            kind = "flag" if unknown[0].startswith("-") else "argument"
            self.error(f"no such {kind}: {' '.join(unknown)}" + (f"; did you mean {near[0]}?" if near else ""))
        return known

    def error(self, message: str) -> NoReturn:
        print_error(f"{message} (--help explains the flags)")
        self.exit(2)


class _ShortHelp(argparse.Action):
    """`--help`: all flags but the `hidden` ones of the parser."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        for action in parser._actions:
            if action.dest in getattr(parser, "hidden", ()):
                action.help = argparse.SUPPRESS
        parser.print_help()
        parser.exit()


USUAL = ("out", "data", "seed", "epochs", "steps", "batch_size", "lr", "device", "fresh")  # that `--help` shows of every recipe


def parse(cls: type[Config], argv: Sequence[str] | None = None) -> Config:
    """Return a config of class `cls` from command-line words (default: those of this process).

    Field `batch_size` is the flag `--batch-size`; a field of type bool has `--x` and `--no-x`; `choices` of a `flag`, or
    the values of a `Literal`, are all that it takes. An unknown flag or a bad value ends the program with status 2 and one
    line that says why. `--help` shows the usual flags and those that `cls` defines or gives another default, `--help-all` all.
    """
    parser = Parser(
        description=(cls.__doc__ or "").strip().split("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument(
        "-h", "--help", nargs=0, action=_ShortHelp, default=argparse.SUPPRESS, help="show the flags of this recipe"
    )
    parser.add_argument("--help-all", action="help", default=argparse.SUPPRESS, help="show every flag")
    own = {
        name for base in cls.__mro__ if base not in (TrainConfig, object) for name in base.__dict__.get("__annotations__", ())
    }
    parser.hidden = frozenset(field.name for field in dataclasses.fields(cls)) - own - set(USUAL)
    hints = get_type_hints(cls)
    for field in dataclasses.fields(cls):
        options: dict[str, Any] = {"dest": field.name, "help": _help(cls, field.name)}
        if field.default is dataclasses.MISSING:
            options["required"] = True
        else:
            options["default"] = field.default
        if hints[field.name] is bool:
            options["action"] = argparse.BooleanOptionalAction
        elif choices := choices_of(cls, field.name, hints[field.name]):
            options["choices"] = choices
        else:
            options["type"] = hints[field.name]
            options["metavar"] = hints[field.name].__name__.upper()
        parser.add_argument(flag_name(field.name), **options)
        if alias := metadata_of(cls, field.name).get("alias"):
            parser.add_argument(flag_name(alias), **{**options, "help": argparse.SUPPRESS, "default": argparse.SUPPRESS})
    try:
        return cls(**vars(parser.parse_args(argv)))
    except ValueError as error:
        parser.error(str(error))


def _help(cls: type, name: str) -> str:
    return metadata_of(cls, name).get("help", " ").replace("%", "%%")  # a space, so that argparse still prints the default
