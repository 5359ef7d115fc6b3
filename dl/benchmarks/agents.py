"""Agents beside stable-baselines3's, with the same settings: steps and seconds to a mean return, each seed.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.agents PPO
    OMP_NUM_THREADS=1 python -m dl.benchmarks.agents DQN --env-steps 50000
    OMP_NUM_THREADS=1 python -m dl.benchmarks.agents SAC --env-steps 20000

PPO and DQN learn CartPole, SAC Pendulum. Both are evaluated by the same function on the same seeds of episodes, greedily: 20
every 2,560 environment steps, of Pendulum 200 every 5,000. Seconds are those for which the process had a core, evaluation left
out. Seeds are trained one after the other, contenders in turn, after a short training of each that is not counted; several
processes may share them (--only, --first, --seeds), since all trainings are kept in one file.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import torch

from dl.benchmarks import common
from dl.cli import catalogue
from dl.cli.command import command
from dl.cli.records import write
from dl.cli.results import markdown_table
from dl.mytorch import Trainer
from dl.mytorch.environments import VALIDATION, play
from dl.mytorch.files import check, read_json

# "bar" of CartPole is env.spec.reward_threshold, of Pendulum what the zoo's SAC has; "eval_every" are iterations of ours.
CARTPOLE = {"env": "CartPole-v1", "bar": 475, "every": 2560, "eval_every": 10, "episodes": 20}
PENDULUM = {"env": "Pendulum-v1", "bar": -157, "every": 5000, "eval_every": 5000, "episodes": 200}
TASKS = {"PPO": CARTPOLE, "DQN": CARTPOLE, "SAC": PENDULUM}
FILE = common.RESULTS / "agents.json"
Curve = list[tuple[int, float, float]]  # environment steps, seconds of training, mean return

# stable-baselines3's arguments for the defaults of our recipes, which are those of its zoo.
THEIRS: dict[str, dict[str, Any]] = {
    "PPO": {
        **{"n_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "n_epochs": 20, "ent_coef": 0.0},
        **{"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.2 * left},
    },
    "DQN": {
        **{"learning_rate": 2.3e-3, "batch_size": 64, "buffer_size": 100_000, "learning_starts": 1000, "gamma": 0.99},
        **{"target_update_interval": 10, "train_freq": 256, "gradient_steps": 128, "exploration_fraction": 0.16},
        **{"exploration_final_eps": 0.04, "policy_kwargs": {"net_arch": [256, 256]}},
    },
    "SAC": {"learning_rate": 1e-3, "buffer_size": 100_000},
}
NUM_ENVS = {"PPO": 8, "DQN": 1, "SAC": 1}


def ours(algorithm: str, seed: int, env_steps: int) -> Curve:
    """Train by our recipe, and return what the evaluations gave."""
    task = TASKS[algorithm]
    train, times, begun = catalogue.module(f"Reinforcement/{algorithm}", "train"), [], time.process_time()
    evaluate = Trainer.evaluate

    def timed(trainer: Trainer, loader: Any) -> dict[str, float]:
        started = time.process_time()
        means = evaluate(trainer, loader)
        times.append((started, time.process_time()))
        return means

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Trainer, "evaluate", timed):
        options = {"eval_every": task["eval_every"], "eval_episodes": task["episodes"], "test_episodes": 1, "plots": False}
        history = train.main(
            train.Config(out=folder, data=task["env"], seed=seed, env_steps=env_steps, device="cpu", **options)
        )
    curve, evaluating = [], 0.0
    for record, (started, ended) in zip(history[:-1], times):  # the last is of the test
        curve.append((record["environment_steps"], started - begun - evaluating, -record["val"]["negative_return"]))
        evaluating += ended - started
    return curve


def theirs(algorithm: str, seed: int, env_steps: int) -> Curve:
    """The same by stable-baselines3."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env

    task, curve, evaluating, begun = TASKS[algorithm], [], 0.0, time.process_time()

    def policy(observations: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model.predict(observations.numpy(), deterministic=True)[0])

    def evaluate() -> None:
        nonlocal evaluating
        started = time.process_time()
        mean = play(task["env"], policy, range(VALIDATION, VALIDATION + task["episodes"])).returns.mean().item()
        curve.append((model.num_timesteps, started - begun - evaluating, mean))
        evaluating += time.process_time() - started

    class Evaluated(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:  # what was done before is learned from by now
            if self.num_timesteps and self.num_timesteps % task["every"] == 0:
                evaluate()

    environments = make_vec_env(task["env"], n_envs=NUM_ENVS[algorithm], seed=seed)
    options = {"seed": seed, "device": "cpu", **THEIRS[algorithm]}
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", environments, **options)
    model.learn(env_steps, callback=Evaluated())
    if not curve or curve[-1][0] != model.num_timesteps:
        evaluate()
    return curve


def row(curve: Curve, bar: float) -> dict[str, Any]:
    """Return what is recorded of one training: `steps` and `seconds` to the bar are None if it was never reached."""
    reached = next(((steps, seconds) for steps, seconds, mean in curve if mean >= bar), (None, None))
    return {
        **{f"steps_to_{bar}": reached[0], f"seconds_to_{bar}": reached[1], "seconds": curve[-1][1], "last": curve[-1][2]},
        "evaluations": [[steps, round(mean, 2)] for steps, _, mean in curve],
    }


def keep(path: Path, algorithm: str, measured: dict[str, Any], name: str, training: dict[str, Any]) -> dict[str, Any]:
    """Put a training into the file, in place of one of the same seed, and return all those of the algorithm that it has.

    So what is done is kept, and seeds may be trained by several processes. Trainings of other lengths are dropped.
    """
    known = read_json(path, {str: object}) if path.exists() else {}
    before = known.get(algorithm, {})
    trainings = before["trainings"] if before.get("env_steps") == measured["env_steps"] else {}
    others = [each for each in trainings.get(name, []) if each["seed"] != training["seed"]]
    trainings |= {name: sorted([*others, training], key=lambda each: each["seed"])}
    trainings = dict(sorted(trainings.items()))  # ours is the first
    write(known | {algorithm: {**measured, "trainings": trainings}}, path)
    return trainings


def tables() -> list[tuple[Path, str, str]]:
    """Return the tables of the READMEs of what is recorded, see `dl.cli.results.OTHERS`."""
    made = []
    for name, record in read_json(FILE, {str: object}).items():
        bar = TASKS[name]["bar"]
        training = {"seed": int, f"steps_to_{bar}": (int, None), f"seconds_to_{bar}": (float, None), "seconds": float}
        of = check(record, {"trainings": {str: [training | {"last": float}]}}, str(FILE))["trainings"]
        made.append((catalogue.MODULES / "Reinforcement" / name / "README.md", "beside", table(of, bar)))
    return made


def table(trainings: dict[str, list[dict[str, Any]]], bar: float) -> str:
    """Return the trainings as Markdown: a row for each seed, and the medians."""
    quantities = (f"steps_to_{bar}", f"seconds_to_{bar}", "seconds", "last")
    rows = []
    for trained in zip(*trainings.values()):
        cells = [[each[quantity] for quantity in quantities] for each in trained]
        rows.append([str(trained[0]["seed"]), *(shown for values in zip(*cells) for shown in _shown(values))])
    medians = []
    for quantity in quantities:
        never = float("inf")
        found = [median(never if own[quantity] is None else own[quantity] for own in of) for of in trainings.values()]
        medians += _shown([None if value == never else value for value in found])
    titles = (f"steps to {bar}", f"seconds to {bar}", "seconds in all", "return at the end")
    headings = ["seed", *(f"{title}, {name}" for title in titles for name in trainings)]
    return markdown_table(headings, [*rows, ["median", *medians]])


def _shown(values: Sequence[float | None]) -> list[str]:
    return ["never" if value is None else f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" for value in values]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Agents beside stable-baselines3's.")
    parser.add_argument("algorithm", choices=list(THEIRS), help="what both train")
    parser.add_argument("--env-steps", type=int, default=100_000, help="environment steps of a training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each (default: %(default)s)")
    parser.add_argument("--first", type=int, default=0, help="the first seed (default: %(default)s)")
    parser.add_argument(
        "--only", type=common.some_of(("ours", "stable-baselines3")), help="contenders, separated by commas; default: both"
    )
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    contenders: dict[str, Callable[[str, int, int], Curve]] = {"ours": ours, "stable-baselines3": theirs}
    names = options.only or list(contenders)
    torch.set_num_threads(1)
    measured = {**common.about_this_machine(options.command), "env_steps": options.env_steps}
    bar, trainings = TASKS[options.algorithm]["bar"], {}
    for name in names:
        contenders[name](options.algorithm, 0, 512)
    for seed in range(options.first, options.first + options.seeds):
        for name in common.turns(names, seed):
            found = {"seed": seed, **row(contenders[name](options.algorithm, seed, options.env_steps), bar)}
            print(f"{name}: {json.dumps({k: v for k, v in found.items() if k != 'evaluations'})}", flush=True)
            trainings = keep(options.out, options.algorithm, measured, name, found)
    print(table(trainings, bar))
    print(options.out)


if __name__ == "__main__":
    sys.exit(main())
