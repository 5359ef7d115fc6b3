"""Whole runs: what they record, what evaluation leaves alone, what goes wrong in an environment, kills and ranks."""

import dataclasses
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dl.cli.evaluate import means_of
from dl.cli.runs import Run
from dl.modules.Reinforcement import sample
from dl.modules.Reinforcement.PPO import train
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.files import read_json
from dl.mytorch.testing.environments import scripted
from dl.mytorch.testing.processes import assert_kills_change_nothing, finish

pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')

TINY = {"model": "tiny", "num_envs": 2, "rollout_steps": 4, "env_steps": 24, "batch_size": 8, "update_epochs": 1}
TINY |= {"eval_every": 1, "save_every": 1, "eval_episodes": 2, "test_episodes": 3, "device": "cpu", "plots": False}


def config(out: Path, **changes: Any) -> train.Config:
    return train.Config(**{"out": str(out), **TINY, **changes})


def test_a_run_counts_environment_steps_and_records_a_return_that_falls(tmp_path: Path) -> None:
    history = train.main(config(tmp_path, data=scripted(steps=3)))
    assert [record["environment_steps"] for record in history[:-1]] == [8, 16, 24]
    assert all(record["val"] == {"loss": None, "negative_return": -6} for record in history[:-1])
    assert history[1]["train"]["negative_return"] == -6 and history.test["negative_return"] == -6


def test_evaluation_leaves_training_alone(tmp_path: Path) -> None:
    for name, often in (("often", 1), ("once", 3)):
        train.main(config(tmp_path / name, data="CartPole-v1", eval_every=often))
    often, once = (checkpoint.load(tmp_path / name / "last.pt") for name in ("often", "once"))
    for part in ("model", "own", "rng"):
        testing.assert_same_state(often[part], once[part], part)


def test_a_run_that_cannot_resume_exactly_says_so_in_a_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    line = "note: Scripted-v0: its state can neither be set nor replayed; the run resumes, but not exactly\n"
    train.environments_for(config(tmp_path, data=scripted()))
    assert capfd.readouterr().err == line
    train.environments_for(config(tmp_path, data="CartPole-v1"))
    assert capfd.readouterr().err == ""


def test_an_environment_that_raises_is_one_line_and_the_last_good_state_is_kept(tmp_path: Path) -> None:
    name = scripted(steps=9, fails={6: RuntimeError("the motor is broken")})
    with pytest.raises(UserError, match=r"^the environment Scripted-v0 \(number 0\), in step 5 .* RuntimeError: the motor is"):
        train.main(config(tmp_path, data=name, eval_every=9))
    assert checkpoint.load(tmp_path / "last.pt")["position"] == (1, 0, 1)


def test_an_environment_of_unsupported_spaces_is_refused_before_a_network_is_built(tmp_path: Path) -> None:
    from gymnasium.spaces import MultiDiscrete

    with pytest.raises(UserError, match="^Scripted-v0 has actions MultiDiscrete of shape .*: supported are"):
        train.main(config(tmp_path / "run", data=scripted(action_space=MultiDiscrete([2, 3]))))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_envs": 0}, "--num-envs has to be at least 1"),
        ({"gamma": 1.5}, "--gamma has to be at least 0 and at most 1"),
        ({"gae_lambda": -0.1}, "--gae-lambda has to be at least 0"),
        ({"clip_range": 0.0}, "--clip-range has to be above 0"),
        ({"accumulate": 2}, "--accumulate has to be 1: an agent's step makes its own minibatches"),
        ({"precision": "bf16"}, "--precision has to be fp32"),
        ({"layerwise": "greedy"}, "--layerwise has to be none"),
        ({"parallel": "fsdp"}, "--parallel has to be none or ddp: an agent acts with the whole network"),
    ],
)
def test_an_invalid_value_names_its_flag(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(tmp_path, **changes)


def test_a_run_is_tested_again_and_played_into_a_gif(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train.main(config(tmp_path / "run", data=scripted(steps=3)))
    run = Run.open(tmp_path / "run")
    assert means_of(run)["negative_return"] == -6
    assert run.model().act(torch.zeros(1, 2)).shape == (1,)
    capsys.readouterr()
    assert sample.main([str(tmp_path / "run"), "--out", str(tmp_path / "episode.gif")]) == 0
    assert capsys.readouterr().out.startswith("return 6 in 3 steps: ")
    with Image.open(tmp_path / "episode.gif") as image:
        assert image.n_frames == 4
    assert (tmp_path / "episode.png").exists()
    assert sample.main([str(tmp_path / "run"), "--env", "CartPole-v1"]) == 1
    assert "of another size than those of Scripted-v0" in capsys.readouterr().err


# ---- whole commands ------------------------------------------------------------------------------------------------


def start(out: Path, *flags: str, ranks: int = 1) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    words = [sys.executable, *torchrun, "-m", "dl.modules.Reinforcement.PPO.train", "--out", str(out), "--model", "tiny"]
    return subprocess.Popen([*words, "--device", "cpu", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["CartPole-v1", "LunarLander-v3"])
def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path, name: str) -> None:
    """kill -9 at ten random moments after a checkpoint, of which there is one at every iteration; three in LunarLander."""
    if name == "LunarLander-v3":
        pytest.importorskip("Box2D", reason='box2d is not installed: pip install -e ".[rl]"')
    flags = ["--env", name, "--num-envs", "4", "--env-steps", str(4 * 32 * 150), "--update-epochs", "4", "--batch-size", "64"]
    flags += ["--save-every", "1", "--eval-every", "50", "--eval-episodes", "2", "--test-episodes", "2", "--no-plots"]
    wait = random.Random(0)
    pauses = [wait.uniform(0, 0.1) for _ in range(10 if name == "CartPole-v1" else 3)]
    assert_kills_change_nothing(lambda out: start(out, *flags), tmp_path, pauses)


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    """Ranks have two and one of three environments, and ten, nine rows of a minibatch; of the last, one and none."""
    flags = ["--num-envs", "3", "--rollout-steps", "32", "--batch-size", "19", "--update-epochs", "2", "--env-steps", "960"]
    flags += ["--eval-every", "2", "--save-every", "2", "--eval-episodes", "3", "--test-episodes", "3", "--no-plots"]
    finish(start(tmp_path / "one", *flags))
    finish(start(tmp_path / "two", *flags, "--parallel", "ddp", ranks=2))
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, weights in one["model"].items():
        torch.testing.assert_close(two["model"][name], weights, atol=1e-5, rtol=0, msg=name)
    testing.assert_same_state(one["own"], two["own"], "own")
    for left, right in zip(*(read_json(tmp_path / name / "history.json") for name in ("one", "two")), strict=True):
        assert left.get("val") == right.get("val") and left.get("test") == right.get("test")
        assert right.get("train") == pytest.approx(left.get("train"), abs=1e-4)


@pytest.mark.slow
def test_an_agent_learns_to_balance_a_pole(tmp_path: Path) -> None:
    """A random one holds it for 22 steps."""
    options = {"env_steps": 25_600, "eval_episodes": 5, "plots": False, "device": "cpu"}
    history = train.main(train.Config(out=str(tmp_path), **options))
    assert -history.best("negative_return")["val"]["negative_return"] > 150


def test_flags_of_the_config_are_those_of_the_zoo() -> None:
    """https://github.com/DLR-RM/rl-baselines3-zoo, hyperparams/ppo.yml, CartPole-v1."""
    zoo = {"num_envs": 8, "rollout_steps": 32, "batch_size": 256, "gae_lambda": 0.8, "gamma": 0.98, "update_epochs": 20}
    zoo |= {"entropy_weight": 0.0, "lr": 1e-3, "clip_range": 0.2, "anneal": True, "env_steps": 100_000, "grad_clip": 0.5}
    assert dataclasses.asdict(train.Config()).items() >= zoo.items()
