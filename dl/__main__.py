"""The command line: `python -m dl COMMAND`.

Each command imports what it needs when it runs: `--help` and a mistyped name do not wait for torch.
"""

import argparse
import runpy
import sys
from difflib import get_close_matches
from os.path import expanduser
from pathlib import Path
from typing import Callable, Sequence

from dl.cli import catalogue, listing, verbs
from dl.cli.command import run

PROBED = "only this one of its metrics; or frechet; or, of an encoder, knn,linear and beside them pixels,random; or, of a "
PROBED += "language model, bits_per_byte,word_perplexity of a text, choices: lines {prompt, choices, answer} of *.jsonl"
NAMING = "MODEL is a name (CNN/LeNet, or lenet) or the path of its folder or of a file in it."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status: 1 for what the user can fix, 2 for a wrong call."""
    argv = list(sys.argv[1:] if argv is None else argv)
    return run(lambda: _run(argv))


def _run(argv: list[str]) -> int:
    ours = _own_words(argv)
    parser, commands = _parser()
    if argv and (near := get_close_matches(argv[0], commands.choices, n=1)) and argv[0] not in near:
        parser.error(f"no command {argv[0]}; did you mean {near[0]}?")
    if not argv:
        parser.print_help()
        return 0
    args = parser.parse_args(argv[:ours])
    args.flags = argv[ours:]
    return args.run(args)


def _own_words(argv: list[str]) -> int:
    """Return how many words are for this file: those after the model of `train`, `sweep`, `test` are others'."""
    if argv[:1] and argv[0] in verbs.VERBS:
        return 2 if argv[0] not in verbs.FRONTS and argv[1:2] in (["-h"], ["--help"]) else 1
    if argv[:1] in (["train"], ["sweep"]):
        return 2
    if argv[:1] == ["test"]:
        flags_follow = argv[1:2] and argv[1].startswith("-") and argv[1] not in ("-h", "--help")
        return 1 if flags_follow else 2
    return len(argv)


def user_path(text: str) -> Path:
    """`dl.mytorch.config.user_path`, which would bring torch along."""
    return Path(expanduser(text))


def _parser() -> tuple[argparse.ArgumentParser, argparse._SubParsersAction]:
    parser = argparse.ArgumentParser(prog="python -m dl", description="Deep-learning papers in PyTorch: look, train, test.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_of_models(commands)
    _add_of_runs(commands)
    _add_explain(commands)
    _add_of_records(commands)
    _add(commands, "doctor", doctor, "check versions, devices, data and disk, and say what helps")
    return parser, commands


def _add_of_models(commands: argparse._SubParsersAction) -> None:
    """Add list, train, sweep, test, summary."""
    command = _add(commands, "list", listing.show_models, "all models: paper, parameters, best recorded result")
    command.add_argument("category", nargs="?", default="", metavar="CATEGORY", help="only of this folder, say CNN")
    command.add_argument("--json", action="store_true", help="as JSON, with FLOPs")

    command = _add(commands, "train", train, "train a model", usage="%(prog)s MODEL [flags of the recipe]")
    command.epilog = NAMING + " `python -m dl train MODEL --help` shows the flags of its recipe."
    command.add_argument("model", metavar="MODEL", help="which one")

    does = "train with each combination of flags and several seeds, and compare"
    command = _add(commands, "sweep", sweep, does, usage="%(prog)s MODEL [--seeds N] [--jobs N] [--lr 0.05,0.1 ...]")
    command.epilog = NAMING + " `python -m dl sweep MODEL --help` shows all."
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


def _add_of_runs(commands: argparse._SubParsersAction) -> None:
    """Add what a trained run does: generate, translate, sample, predict, search, score; evaluate; export; runs."""
    for name, does in verbs.VERBS.items():
        command = _add(commands, name, verb, does, usage="%(prog)s RUN_OR_MODEL ...")
        command.epilog = "RUN is the folder of a run; MODEL stands for its newest finished run below runs/. With --help after "
        command.epilog += "it, the flags of its own command are shown."
        command.set_defaults(verb=name)

    command = _add(commands, "evaluate", evaluate, "test a trained run again, on its own test split or on other data")
    command.add_argument("folder", type=expanduser, metavar="RUN", help="folder of a run, say runs/demo")
    command.add_argument("--data", default="", metavar="SET", help="other data that its recipe takes")
    command.add_argument("--with", dest="metric", nargs="+", default=[""], metavar=("METRIC", "FILE"), help=PROBED)
    command.add_argument(
        "--labels", default="", metavar="SHARES", help="of --with linear: shares of the labels beside, as 1%%,10%%"
    )
    stride = "of a text that is longer than the model's context: how far windows are apart (default: half of the context)"
    command.add_argument("--stride", type=int, metavar="N", help=stride)
    command.add_argument("--classifier", type=expanduser, metavar="RUN", help="run whose features --with frechet compares")

    command = _add(commands, "export", export, "the best weights of a run, for other programs")
    command.add_argument("folder", type=expanduser, metavar="RUN", help="folder of a run, say runs/demo")
    formats = "a state dict; or a class of transformers or torchvision; a graph, of classifiers of images; a file of llama.cpp"
    command.add_argument("--format", choices=("torch", "safetensors", "hf", "onnx", "gguf"), required=True, help=formats)
    command.add_argument("--out", type=user_path, metavar="PATH", help="to write, of hf a folder (default: in RUN)")

    command = _add(commands, "runs", listing.show_runs, "all runs: model, data, best figure, state, size, age")
    command.add_argument("folder", nargs="?", type=user_path, default=Path("runs"), metavar="FOLDER")
    command.add_argument(
        "--prune", action="store_true", help="delete what only resuming needs, last.pt and shards, of finished runs"
    )


def _add_of_records(commands: argparse._SubParsersAction) -> None:
    """Add results, reproduce."""
    command = _add(commands, "results", results, "rewrite the tables in the READMEs from the recorded results")
    runs = "first add finished runs (folders below runs/) to the recorded results of their models"
    command.add_argument("--record", type=expanduser, metavar="RUN", nargs="+", default=[], help=runs)
    dirty = "record runs of code that is in no commit too; their rows say so"
    command.add_argument("--allow-dirty", action="store_true", help=dirty)

    command = _add(commands, "compare", compare, "runs side by side: flags that differ, figures, rates, curves")
    command.add_argument("runs", type=user_path, nargs="+", metavar="RUN", help="folders of runs, or of folders of runs")
    command.add_argument("--figure", type=user_path, default=Path("compare.png"), help="to write (default: %(default)s)")
    command.add_argument(
        "--tensorboard", type=user_path, metavar="FOLDER", help="also write them for TensorBoard, into a new folder"
    )

    command = _add(commands, "reproduce", reproduce, "train again what is recorded, by the recorded commands, and compare")
    command.epilog = NAMING
    command.add_argument("model", metavar="MODEL", nargs="?", help="which one; without it, all")
    minutes = "only records of trainings that took so long at most"
    command.add_argument("--max-minutes", type=float, default=float("inf"), metavar="N", help=minutes)


def _add_explain(commands: argparse._SubParsersAction) -> None:
    """explain, and kernels and features, which are its names of version 0.1."""
    for name in ("explain", "kernels", "features"):
        does = (
            "draw what a trained network has learnt: kernels, what its layers see in an image, why it decides"
            if name == "explain"
            else None
        )
        command = _add(commands, name, explain, does, usage="%(prog)s RUN [IMAGE] [flags]")
        command.add_argument("folder", type=expanduser, metavar="RUN", help="folder of a run, say runs/demo")
        if name != "kernels":
            command.add_argument("image", type=expanduser, nargs="?" if name == "explain" else None, metavar="IMAGE")
        if name == "explain":
            how = "kernels of the first layer; of an IMAGE features, what speaks for a class, or changes that mislead"
            command.add_argument("--how", choices=("kernels", "features", "grad_cam", "fgsm"), required=True, help=how)
        else:
            command.set_defaults(how=name)
        layers = (
            "of features, or one for grad_cam, named as by `python -m dl summary`; default: all parts that give maps, the last"
        )
        command.add_argument("--layers", metavar="LAYER", nargs="+", default=[], help=layers)
        command.add_argument(
            "--figure", type=expanduser, default="", help="figure to write (default: kernels.png, features.png and so on)"
        )


def _add(
    commands: argparse._SubParsersAction,
    name: str,
    run: Callable[[argparse.Namespace], int | None],
    does: str | None,
    **options: str,
) -> argparse.ArgumentParser:
    shown = {"help": does, "description": does[0].upper() + does[1:] + "."} if does else {}  # else a hidden one
    command = commands.add_parser(name, **shown, **options)
    command.set_defaults(run=run)
    return command


def train(args: argparse.Namespace) -> int:
    """`python -m dl train CNN/LeNet ...` is `python -m dl.modules.CNN.LeNet.train ...`."""
    module = f"dl.modules.{catalogue.find(args.model).replace('/', '.')}.train"
    sys.argv = [module, *args.flags]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def sweep(args: argparse.Namespace) -> int:
    """`python -m dl sweep CNN/LeNet --lr 0.05,0.1 --seeds 3`"""
    from dl.cli import sweep

    return sweep.main(args.model, args.flags)


def test(args: argparse.Namespace) -> int:
    """`python -m dl test CNN/LeNet ...` is `pytest dl/modules/CNN/LeNet ...`, from any folder."""
    import pytest

    folder = catalogue.MODULES / catalogue.find(args.model) if args.model else catalogue.ROOT / "dl"
    return int(pytest.main([str(folder), *args.flags]))


def summary(args: argparse.Namespace) -> int:
    """`python -m dl summary CNN/LeNet [PRESET]`"""
    name = catalogue.find(args.model)
    preset = catalogue.presets(name, args.preset)[0]
    try:
        shape, table = catalogue.without_values(
            lambda: _summarize(name, preset, args.input), lambda: catalogue.parameters(name, preset)[preset]
        )
    except OverflowError as error:
        raise catalogue.UnknownName(f"{name} {preset}: {error}; a smaller preset has the same layers") from None
    print(f"{name} {preset}, input {shape}\n\n{table}")
    return 0


def _summarize(name: str, preset: str, shape: list[int] | None) -> tuple[tuple[int, ...], str]:
    """Return the shape of the model's input, of each if it takes several, and its `layer_summary` for it."""
    import torch

    from dl.mytorch import layer_summary
    from dl.mytorch.config import UserError

    module = catalogue.module(name)
    inputs = module.example(preset)
    try:
        if shape:
            inputs = tuple(torch.zeros(shape, dtype=x.dtype) for x in inputs)
        return tuple(inputs[0].shape), layer_summary(module.build(preset), *inputs)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{name} {preset} takes no input of shape {tuple(shape or inputs[0].shape)}: {reason}; see --input"
        ) from None


def explain(args: argparse.Namespace) -> int:
    """`python -m dl explain RUN --how kernels|features|grad_cam|fgsm [IMAGE]`"""
    from dl.cli import explaining

    draw = {"grad_cam": explaining.attribution, "fgsm": explaining.attack, "features": explaining.features}
    return draw.get(args.how, explaining.kernels)(args)


def evaluate(args: argparse.Namespace) -> int:
    """`python -m dl evaluate RUN`"""
    from dl.cli.evaluate import evaluate

    return evaluate(args)


def export(args: argparse.Namespace) -> int:
    """`python -m dl export RUN --format torch|safetensors|hf|onnx|gguf`"""
    from dl.cli import exporting

    return exporting.export(args)


def verb(args: argparse.Namespace) -> int:
    """`python -m dl generate RUN_OR_MODEL ...` is the command of the model's folder."""
    return verbs.run_verb(args.verb, args.flags)


def results(args: argparse.Namespace) -> int:
    """`python -m dl results [--record RUN ...]`"""
    from dl.cli import facts, records, results

    for folder in args.record:
        print(f"recorded: {records.record(folder, args.allow_dirty)}")
    for report in results.rewrite_readmes():
        print(report)
    print(facts.write())
    return 0


def compare(args: argparse.Namespace) -> int:
    """`python -m dl compare RUN RUN ...`"""
    from dl.cli import compare

    compare.main(args)
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """`python -m dl reproduce [MODEL] [--max-minutes N]`"""
    from dl.cli import reproduce

    return reproduce.main(args)


def doctor(args: argparse.Namespace) -> int:
    """`python -m dl doctor`"""
    from dl.cli import doctor

    return doctor.main()


if __name__ == "__main__":
    sys.exit(main())
