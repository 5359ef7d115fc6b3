"""The actor and the critic: sizes, first weights, distributions against torch's, and what every model has to prove."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Categorical, Independent, Normal

from dl.modules.Reinforcement.PPO import train
from dl.modules.Reinforcement.PPO.model import build
from dl.modules.Reinforcement.PPO.task import PPO
from dl.mytorch import testing
from dl.mytorch.data import Batch
from dl.mytorch.environments import Environments
from dl.mytorch.introspect import count_parameters

pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')


def test_networks_have_the_parameters_of_their_layers() -> None:
    actor, critic = 4 * 64 + 64 + 64 * 64 + 64 + 64 * 2 + 2, 4 * 64 + 64 + 64 * 64 + 64 + 64 + 1
    assert count_parameters(build("mlp64")) == actor + critic == 9155
    assert (
        count_parameters(build("mlp64", observation_size=3, num_actions=0, action_size=1)) == (3 - 4) * 64 * 2 - 65 + 9155 + 1
    )


def test_weights_begin_orthogonal_and_the_policy_undecided() -> None:
    model = build("mlp64", observation_size=3, num_actions=4)
    gains = {"actor.linear2": math.sqrt(2), "critic.linear2": math.sqrt(2), "actor.output": 0.01, "critic.output": 1}
    for name, gain in gains.items():
        weight = model.get_submodule(name).weight
        torch.testing.assert_close(weight @ weight.T, gain**2 * torch.eye(len(weight)), atol=1e-5, rtol=0)
    assert not any(layer.bias.any() for layer in model.modules() if isinstance(layer, nn.Linear))
    probabilities = model(torch.randn(5, 3))[0].softmax(-1)
    assert (probabilities - 0.25).abs().max() < 0.01


def test_distributions_are_torch_s() -> None:
    discrete, continuous = (build("tiny", observation_size=3, num_actions=k, action_size=a) for k, a in ((4, 0), (0, 2)))
    nn.init.normal_(continuous.log_std)
    nn.init.normal_(discrete.actor.output.weight)
    seen = torch.randn(6, 3)
    parameters = discrete(seen)[0]
    own, theirs, actions = discrete.distribution(parameters), Categorical(logits=parameters), torch.arange(6) % 4
    torch.testing.assert_close(own.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(own.entropy(), theirs.entropy())
    assert own.mode().tolist() == theirs.mode.tolist()
    parameters = continuous(seen)[0]
    own, actions = continuous.distribution(parameters), torch.randn(6, 2)
    theirs = Independent(Normal(parameters[:, :2], parameters[:, 2:].exp()), 1)
    torch.testing.assert_close(own.log_prob(actions), theirs.log_prob(actions))
    torch.testing.assert_close(own.entropy(), theirs.entropy())
    assert torch.equal(own.mode(), theirs.mean)


def test_the_actor_and_the_critic_share_nothing() -> None:
    model = build("tiny")
    model(torch.randn(3, 4))[1].sum().backward()
    assert all(parameter.grad is None for parameter in model.actor.parameters())


def rows() -> Batch:
    """A rollout of CartPole, whose advantages no value explains."""
    torch.manual_seed(0)
    task = PPO(Environments("CartPole-v1", 2, 0), rollout_steps=4)
    return task.collect(build("tiny")) | {"advantages": torch.randn(8)}


TINY = {"model": "tiny", "num_envs": 4, "rollout_steps": 8, "env_steps": 4 * 8 * 6, "batch_size": 16, "update_epochs": 2}
TINY |= {"eval_every": 2, "save_every": 2, "eval_episodes": 2, "test_episodes": 2, "device": "cpu"}
CONFIG = train.Config(out="unused", **TINY)

test_standard = testing.standard_checks(
    build,
    train.main,
    CONFIG,
    rows,
    splits=lambda config: train.agent_splits(config, config.num_envs * config.rollout_steps),
    task=lambda: PPO(Environments("CartPole-v1", 1, 0)),
    inputs=lambda: (torch.randn(3, 4),),
    skip={"overfits_one_batch": "the loss has no least value that is known: it is a gain over another policy"},
)
