"""Agents beside stable-baselines3's, with the same settings on CartPole: steps and seconds to a mean return of 475, each seed.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.agents PPO
    OMP_NUM_THREADS=1 python -m dl.benchmarks.agents DQN --env-steps 50000

Both are evaluated by the same function on the same 20 seeds of episodes, greedily, every 2,560 environment steps. Seconds are
those for which the process had a core, evaluation left out. Seeds are trained one after the other, contenders in turn, after
a short training of each that is not counted.
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
from dl.mytorch.files import read_json

ENV, SOLVED, EVERY, EPISODES = "CartPole-v1", 475, 2560, 20  # the bar is env.spec.reward_threshold
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
}
NUM_ENVS = {"PPO": 8, "DQN": 1}


def ours(algorithm: str, seed: int, env_steps: int) -> Curve:
    """Train by our recipe, and return what the evaluations gave."""
    train, times, begun = catalogue.module(f"Reinforcement/{algorithm}", "train"), [], time.process_time()
    evaluate = Trainer.evaluate

    def timed(trainer: Trainer, loader: Any) -> dict[str, float]:
        started = time.process_time()
        means = evaluate(trainer, loader)
        times.append((started, time.process_time()))
        return means

    with tempfile.TemporaryDirectory() as folder, mock.patch.object(Trainer, "evaluate", timed):
        options = {"eval_episodes": EPISODES, "test_episodes": 1, "plots": False, "device": "cpu"}
        history = train.main(train.Config(out=folder, data=ENV, seed=seed, env_steps=env_steps, **options))
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

    curve, evaluating, begun = [], 0.0, time.process_time()

    def policy(observations: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(model.predict(observations.numpy(), deterministic=True)[0])

    def evaluate() -> None:
        nonlocal evaluating
        started = time.process_time()
        mean = play(ENV, policy, range(VALIDATION, VALIDATION + EPISODES)).returns.mean().item()
        curve.append((model.num_timesteps, started - begun - evaluating, mean))
        evaluating += time.process_time() - started

    class Evaluated(BaseCallback):
        def _on_step(self) -> bool:
            return True

        def _on_rollout_start(self) -> None:  # what was done before is learned from by now
            if self.num_timesteps and self.num_timesteps % EVERY == 0:
                evaluate()

    environments = make_vec_env(ENV, n_envs=NUM_ENVS[algorithm], seed=seed)
    options = {"seed": seed, "device": "cpu", **THEIRS[algorithm]}
    model = getattr(stable_baselines3, algorithm)("MlpPolicy", environments, **options)
    model.learn(env_steps, callback=Evaluated())
    if curve[-1][0] != model.num_timesteps:
        evaluate()
    return curve


def row(curve: Curve) -> dict[str, Any]:
    """Return what is recorded of one training: `steps` and `seconds` to the bar are None if it was never reached."""
    reached = next(((steps, seconds) for steps, seconds, mean in curve if mean >= SOLVED), (None, None))
    return {
        **{"steps_to_475": reached[0], "seconds_to_475": reached[1], "seconds": curve[-1][1], "last": curve[-1][2]},
        "evaluations": [[steps, round(mean, 2)] for steps, _, mean in curve],
    }


def tables() -> list[tuple[Path, str, str]]:
    """Return the tables of the READMEs of what is recorded, see `dl.cli.results.OTHERS`."""
    training = {"seed": int, "steps_to_475": (int, None), "seconds_to_475": (float, None), "seconds": float, "last": float}
    record = read_json(FILE, {str: {"trainings": {str: [training]}}})
    folder = catalogue.MODULES / "Reinforcement"
    return [(folder / name / "README.md", "beside", table(of["trainings"])) for name, of in record.items()]


def table(trainings: dict[str, list[dict[str, Any]]]) -> str:
    """Return the trainings as Markdown: a row for each seed, and the medians."""
    rows = []
    for trained in zip(*trainings.values()):
        cells = [(each["steps_to_475"], each["seconds_to_475"], each["seconds"], each["last"]) for each in trained]
        rows.append([str(trained[0]["seed"]), *(shown for quantities in zip(*cells) for shown in _shown(quantities))])
    medians = []
    for quantity in ("steps_to_475", "seconds_to_475", "seconds", "last"):
        never = float("inf")
        found = [median(never if own[quantity] is None else own[quantity] for own in of) for of in trainings.values()]
        medians += _shown([None if value == never else value for value in found])
    quantities = ("steps to 475", "seconds to 475", "seconds in all", "return at the end")
    headings = ["seed", *(f"{quantity}, {name}" for quantity in quantities for name in trainings)]
    return markdown_table(headings, [*rows, ["median", *medians]])


def _shown(values: Sequence[float | None]) -> list[str]:
    return ["never" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in values]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Agents beside stable-baselines3's on CartPole.")
    parser.add_argument("algorithm", choices=list(THEIRS), help="what both train")
    parser.add_argument("--env-steps", type=int, default=100_000, help="environment steps of a training (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="trainings of each (default: %(default)s)")
    parser.add_argument(
        "--only", type=common.some_of(("ours", "stable-baselines3")), help="contenders, by commas; default: both"
    )
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    contenders: dict[str, Callable[[str, int, int], Curve]] = {"ours": ours, "stable-baselines3": theirs}
    names = options.only or list(contenders)
    torch.set_num_threads(1)
    about = common.about_this_machine(options.command)
    trainings: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for name in names:
        contenders[name](options.algorithm, 0, 2 * EVERY)
    for seed in range(options.seeds):
        for name in common.turns(names, seed):
            found = row(contenders[name](options.algorithm, seed, options.env_steps))
            trainings[name].append({"seed": seed, **found})
            print(f"seed {seed}, {name}: {json.dumps({k: v for k, v in found.items() if k != 'evaluations'})}", flush=True)
    known = read_json(options.out, {str: object}) if options.out.exists() else {}
    measured = {**about, "env_steps": options.env_steps, "trainings": trainings}
    print(table(trainings))
    print(write(known | {options.algorithm: measured}, options.out))


if __name__ == "__main__":
    sys.exit(main())
