"""The front door: `python -m dl COMMAND`.

Each command imports what it needs when it runs: `--help` and a mistyped name do not wait for torch.
"""

import argparse
import runpy
import sys
from difflib import get_close_matches
from os.path import expanduser
from typing import Callable, Sequence

from dl.cli import catalogue
from dl.cli.command import run

NAMING = "MODEL is a name (CNN/LeNet, or lenet) or the path of its folder or of a file in it."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 1 for what the user can mend, 2 for a wrong call."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    ours = _own_words(argv)
    parser, commands = _parser()
    if argv and (near := get_close_matches(argv[0], commands.choices, n=1)) and argv[0] not in near:
        parser.error(f"no command {argv[0]}; did you mean {near[0]}?")
    args = parser.parse_args(argv[:ours])
    args.flags = argv[ours:]
    return args.run(args)


def _own_words(argv: list[str]) -> int:
    """How many words are for this file: what follows the model of `train` and `test` is for the recipe and for pytest."""
    if argv[:1] == ["train"]:
        return 2
    if argv[:1] == ["test"]:
        flags_follow = argv[1:2] and argv[1].startswith("-") and argv[1] not in ("-h", "--help")
        return 1 if flags_follow else 2
    return len(argv)


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction]:
    parser = argparse.ArgumentParser(prog="python -m dl", description="Deep-learning papers in PyTorch: look, train, test.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _add(commands, "list", show_list, "all models: paper, parameters, best recorded result")

    command = _add(commands, "train", train, "train a model", usage="%(prog)s MODEL [flags of the recipe]")
    command.epilog = NAMING + " `python -m dl train MODEL --help` shows the flags of its recipe."
    command.add_argument("model", metavar="MODEL", help="which one")

    command = _add(commands, "test", test, "run the tests of a model, or all", usage="%(prog)s [MODEL] [flags of pytest]")
    command.epilog = NAMING + " Flags go to pytest: -x stops at the first failure, -m slow takes the slow tests."
    command.add_argument("model", metavar="MODEL", nargs="?", help="which one; without it, the whole project")

    command = _add(commands, "summary", summary, "the layers of a model: output shapes, parameters, FLOPs")
    command.epilog = NAMING
    command.add_argument("model", metavar="MODEL", help="which one")
    command.add_argument("preset", metavar="PRESET", nargs="?", help="a size of PRESETS in its model.py; default: the first")
    shape = "shape of the input, say 1 3 224 224; default: that of `example` in its model.py"
    command.add_argument("--input", metavar="N", type=int, nargs="+", help=shape)

    command = _add(commands, "kernels", kernels, "draw the kernels of a trained network's first convolution")
    command.add_argument("folder", type=expanduser, metavar="RUN", help="folder of a run, say runs/demo")
    command.add_argument("--figure", type=expanduser, default="kernels.png", help="picture to write (default: %(default)s)")

    command = _add(commands, "features", features, "draw what the layers of a trained network see in a picture")
    command.add_argument("folder", type=expanduser, metavar="RUN", help="folder of a run, say runs/demo")
    command.add_argument("image", type=expanduser, metavar="IMAGE", help="JPEG, PNG, WebP ...")
    layers = "layers as `python -m dl summary` names them; default: all parts that give maps"
    command.add_argument("--layers", metavar="LAYER", nargs="+", default=[], help=layers)
    command.add_argument("--figure", type=expanduser, default="features.png", help="picture to write (default: %(default)s)")

    command = _add(commands, "results", results, "rewrite the tables in the READMEs from the recorded results")
    runs = "first add finished runs (folders below runs/) to the recorded results of their models"
    command.add_argument("--record", type=expanduser, metavar="RUN", nargs="+", default=[], help=runs)

    _add(commands, "doctor", doctor, "check versions, devices, data and disk, and say what helps")
    return parser, commands


def _add(
    commands: argparse._SubParsersAction, name: str, run: Callable[[argparse.Namespace], int], does: str, **options: str
) -> argparse.ArgumentParser:
    command = commands.add_parser(name, help=does, description=does[0].upper() + does[1:] + ".", **options)
    command.set_defaults(run=run)
    return command


def show_list(args: argparse.Namespace) -> int:
    """`python -m dl list`"""
    from dl.cli import results

    rows = []
    for name in catalogue.names():
        try:
            rows.append(results.model_row(name))
        except Exception as error:  # whatever is wrong with a model, the others are shown
            rows.append([name, "", f"{type(error).__name__}: {' '.join(str(error).split())}", ""])
    print(_columns([results.MODEL_HEADINGS["README.md"], *rows]))
    return 0


def _columns(rows: list[list[str]]) -> str:
    """Cells in columns, the first row underlined; a cell may have several lines."""
    lines: list[Sequence[str]] = []
    for row in rows:
        cells = [cell.split("\n") for cell in row]
        height = max(map(len, cells))
        lines += zip(*(cell + [""] * (height - len(cell)) for cell in cells))
    widths = [max(map(len, column)) for column in zip(*lines)]
    texts = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines]
    return "\n".join([texts[0], "-" * max(map(len, texts)), *texts[1:]])


def train(args: argparse.Namespace) -> int:
    """`python -m dl train CNN/LeNet ...` is `python -m dl.modules.CNN.LeNet.train ...`."""
    module = f"dl.modules.{catalogue.find(args.model).replace('/', '.')}.train"
    sys.argv = [module, *args.flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def test(args: argparse.Namespace) -> int:
    """`python -m dl test CNN/LeNet ...` is `pytest dl/modules/CNN/LeNet ...`, from any folder."""
    import pytest

    folder = catalogue.MODULES / catalogue.find(args.model) if args.model else catalogue.ROOT / "dl"
    return int(pytest.main([str(folder), *args.flags]))


def summary(args: argparse.Namespace) -> int:
    """`python -m dl summary CNN/LeNet [PRESET]`"""
    name = catalogue.find(args.model)
    preset = catalogue.presets(name, args.preset)[0]
    shape, table = catalogue.without_values(lambda: _summarize(name, preset, args.input))
    print(f"{name} {preset}, input {shape}\n\n{table}")
    return 0


def _summarize(name: str, preset: str, shape: list[int] | None) -> tuple[tuple[int, ...], str]:
    """The shape of the model's input, of each if it takes several, and its `layer_summary` for it."""
    import torch

    from dl.mytorch import layer_summary
    from dl.mytorch.config import UserError

    module = catalogue.module(name)
    inputs = module.example(preset)
    if shape:
        inputs = tuple(torch.zeros(shape, dtype=x.dtype) for x in inputs)
    try:
        return tuple(inputs[0].shape), layer_summary(module.build(preset), *inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{name} {preset} takes no input of shape {tuple(inputs[0].shape)}: {reason}; see --input") from None


def kernels(args: argparse.Namespace) -> int:
    """`python -m dl kernels RUN`"""
    from dl.cli.runs import Run
    from dl.mytorch import plot
    from dl.mytorch.config import UserError
    from dl.mytorch.introspect import first_kernels

    weight = first_kernels(Run.open(args.folder).model())
    if weight is None:
        raise UserError(f"the network of {args.folder} has no convolution whose kernels could be looked at")
    plot.save_image(plot.kernels(weight), args.figure)
    print(f"drawn: {args.figure}, {' x '.join(map(str, weight.shape))}")
    return 0


def features(args: argparse.Namespace) -> int:
    """`python -m dl features RUN IMAGE`"""
    from dl.cli.classifiers import classifier, feature_maps
    from dl.cli.runs import Run
    from dl.mytorch import plot
    from dl.mytorch.data import read_image

    maps = feature_maps(classifier(Run.open(args.folder)), read_image(args.image), args.layers)
    plot.save_figure(plot.feature_maps(maps), args.figure)
    print(f"drawn: {args.figure}, {', '.join(maps)}")
    return 0


def results(args: argparse.Namespace) -> int:
    """`python -m dl results [--record RUN ...]`"""
    from dl.cli import results

    for folder in args.record:
        print(f"recorded: {results.record(folder)}")
    for report in results.rewrite_readmes():
        print(report)
    return 0


def doctor(args: argparse.Namespace) -> int:
    """`python -m dl doctor`"""
    from dl.cli import doctor

    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
