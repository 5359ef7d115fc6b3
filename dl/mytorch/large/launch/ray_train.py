"""A recipe on a cluster of Ray: its `main` in the workers of a `TorchTrainer`, in the process group that Ray has made.

    python -m dl.mytorch.large.launch.ray_train --workers 16 --gpus dl.modules.GPT.GPT2.train --parallel fsdp --out runs/gpt2

What follows the recipe are its own flags; --out has to be a folder that all machines see. When a worker or a machine is
lost, Ray starts all workers again, and the run in --out resumes from its last save, as it does by the same command. Ray's own
files are in the folder `ray` there. Needs the extra [ray].
"""

import argparse
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Sequence

from dl import print_error
from dl.mytorch import command_line
from dl.mytorch.config import UserError


def train(asked: dict[str, Any]) -> str:
    """Train in a worker. Return the line of an error that the user can fix: what is raised has Ray start again."""
    os.chdir(asked["folder"])  # that of the command, from which its paths are meant
    recipe = importlib.import_module(asked["recipe"])
    try:
        recipe.main(command_line.parse(recipe.Config, asked["flags"]))
    except UserError as error:
        return str(error)
    return ""


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line, and that of the recipe before anything starts: `config` is what it asks for."""
    parser = command_line.Parser(prog="python -m dl.mytorch.large.launch.ray_train", description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="processes that train together")
    parser.add_argument("--gpus", action="store_true", help="give each of them a GPU")
    parser.add_argument("--restarts", type=int, default=3, help="how often all are started again after one is lost")
    parser.add_argument("--timeout", type=int, default=60, help="seconds that a worker waits for another one before that")
    parser.add_argument("recipe", help="module of the recipe, say dl.modules.GPT.GPT2.train")
    parser.add_argument("flags", nargs=argparse.REMAINDER, help="its flags")
    options = parser.parse_args(argv)
    try:
        recipe = importlib.import_module(options.recipe)
        options.config = command_line.parse(recipe.Config, options.flags)
    except (AttributeError, ModuleNotFoundError) as error:
        parser.error(f"{options.recipe} is no module with a recipe, as dl.modules.GPT.GPT2.train is ({error})")
    if options.config.fresh:
        parser.error("--fresh would start over whenever a worker is lost: delete the run, or choose another --out")
    if options.workers > 1 and options.config.parallel == "none":
        parser.error(f"{options.workers} workers train one run: add --parallel ddp or --parallel fsdp after the recipe")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    options = parse(argv)
    out = Path(options.config.out).resolve()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
        from ray.train.torch import TorchConfig, TorchTrainer
    except ImportError:
        print_error('Ray is not installed: pip install -e ".[ray]"')
        return 1
    if "RAY_ADDRESS" not in os.environ:  # no cluster: one on this machine, for as long as this takes
        ray.init(include_dashboard=False)
    trainer = TorchTrainer(
        train,
        train_loop_config={"recipe": options.recipe, "flags": options.flags, "folder": os.getcwd()},
        scaling_config=ScalingConfig(num_workers=options.workers, use_gpu=options.gpus),
        torch_config=TorchConfig(backend="nccl" if options.gpus else "gloo", timeout_s=options.timeout),
        run_config=RunConfig(name="ray", storage_path=str(out), failure_config=FailureConfig(max_failures=options.restarts)),
    )
    try:
        line = trainer.fit().return_value
    except TrainingFailedError as error:
        line = f"the workers failed {options.restarts + 1} times, at last so: {str(error).strip().splitlines()[-1]}"
    finally:
        ray.shutdown()
    if line:
        print_error(line)
    return int(bool(line))


if __name__ == "__main__":
    sys.exit(main())
