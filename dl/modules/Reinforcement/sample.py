"""Play an episode with the agent of a run, greedily: as a GIF, and beside it as a strip of frames.

python -m dl.modules.Reinforcement.sample runs/Reinforcement/PPO --out episode.gif
python -m dl.modules.Reinforcement.sample runs/Reinforcement/PPO --seed 3 --env LunarLander-v3
"""

import argparse
import sys
from pathlib import Path
from typing import Sequence

from dl.cli.command import command
from dl.cli.runs import Run
from dl.modules.Reinforcement.task import greedy
from dl.mytorch import plot
from dl.mytorch.command_line import Parser
from dl.mytorch.config import UserError, user_path
from dl.mytorch.distributed import device
from dl.mytorch.environments import record, save_gif, spaces_of, strip


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = (__doc__ or "").partition("\n")[0]
    parser = Parser(description=about, prog="python -m dl.modules.Reinforcement.sample")
    parser.add_argument("run", type=user_path, help="folder of a run")
    parser.add_argument("--seed", type=int, default=0, help="of the environment (default: %(default)s)")
    parser.add_argument("--env", default="", help="another environment of the same spaces; default: that of the run")
    parser.add_argument("--out", type=user_path, default=Path("episode.gif"), help="GIF to write (default: %(default)s)")
    return parser.parse_args(argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    if options.out.suffix.lower() != ".gif" or options.seed < 0:
        raise UserError(f"--out has to end in .gif and --seed to be 0 or more; got {options.out} and {options.seed}")
    run = Run.open(options.run)
    if not run.recipe.startswith("Reinforcement/"):
        raise UserError(f"{options.run} is a run of {run.recipe}, which is no agent")
    name = options.env or run.config.data
    if spaces_of(name).sizes != spaces_of(run.config.data).sizes:
        raise UserError(f"--env {name}: its observations or actions are of another size than those of {run.config.data}")
    model = run.model().to(device(run.config.device))
    frames, total = record(name, greedy(model), options.seed)
    save_gif(frames, options.out)
    plot.save_image(strip(frames), options.out.with_suffix(".png"))
    print(f"return {total:g} in {len(frames) - 1} steps: {options.out}, {options.out.with_suffix('.png')}")


if __name__ == "__main__":
    sys.exit(main())
