"""The squashed normal distribution by hand and against torch.distributions, the networks against plain stacks."""

import math

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.recipe import agent_splits
from dl.modules.Reinforcement.SAC import train
from dl.modules.Reinforcement.SAC.model import Actor, build, log_slope
from dl.modules.Reinforcement.SAC.task import SoftActorCritic
from dl.modules.Reinforcement.testing import SMALL
from dl.mytorch import testing
from dl.mytorch.data import Batch
from dl.mytorch.introspect import count_parameters, without_values


class Given(Actor):
    """An actor with the same mean and logarithm of the standard deviation everywhere."""

    def __init__(self, mean: float, log_std: float) -> None:
        nn.Module.__init__(self)
        self.given = mean, log_std

    def forward(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = (torch.full((len(observations), 1), number, dtype=observations.dtype) for number in self.given)
        return mean, log_std


def test_action_and_log_probability_by_hand() -> None:
    """Mean 0.3, log std -1, noise 0.5: u = 0.483940, a = 0.449393, log pi = 0.181651."""
    actions, log_probs = Given(0.3, -1.0).sample(torch.zeros(1, 3, dtype=torch.float64), torch.full((1, 1), 0.5).double())
    assert actions.item() == pytest.approx(0.449393, abs=1e-6) and log_probs.item() == pytest.approx(0.181651, abs=1e-6)
    inexact = log_probs + log_slope(torch.tensor(0.483940).double()) - math.log(1 - actions.item() ** 2 + 1e-6)
    assert inexact.item() == pytest.approx(0.181650, abs=1e-6)  # as many other libraries have it


def test_log_slope_is_exact_where_tanh_rounds_to_1() -> None:
    u = torch.tensor([0.0, 1.0, -2.0], dtype=torch.float64)
    torch.testing.assert_close(log_slope(u), (1 - u.tanh().square()).log())
    far = torch.tensor([10.0, -10.0, 60.0], requires_grad=True)
    assert (1 - far.tanh().square()).min() == 0  # in float32: its logarithm is infinite
    assert log_slope(far).tolist() == pytest.approx([-18.6137, -18.6137, 2 * math.log(2) - 120], abs=1e-3)
    log_slope(far).sum().backward()
    assert far.grad.tolist() == pytest.approx([-2, 2, -2], abs=1e-4)


def test_log_probabilities_are_those_of_torch_distributions() -> None:
    actor = build("tiny", low=(-1.0, 0.0), high=(1.0, 5.0)).double().actor
    x, noise = torch.randn(6, 3).double(), torch.randn(6, 2).double()
    mean, log_std = actor(x)
    twin = torch.distributions.TransformedDistribution(
        torch.distributions.Normal(mean, log_std.exp()), [torch.distributions.TanhTransform(cache_size=1)]
    )
    actions, log_probs = actor.sample(x, noise)
    torch.testing.assert_close(log_probs, twin.log_prob(actions).sum(-1))


def test_probabilities_of_all_actions_add_up_to_1() -> None:
    actor, grid = Given(0.4, -0.5), torch.linspace(-0.9999, 0.9999, 20_001, dtype=torch.float64)
    noise = (grid.atanh() - 0.4) / math.exp(-0.5)
    actions, log_probs = actor.sample(torch.zeros(len(grid), 3, dtype=torch.float64), noise[:, None])
    assert torch.trapezoid(log_probs.exp(), actions.squeeze()).item() == pytest.approx(1, abs=1e-3)


def test_the_standard_deviation_stays_between_bounds() -> None:
    actor = build("tiny").actor
    for bias, expected in ((100.0, 2.0), (-100.0, -20.0)):
        actor.layers.output.bias.data[1] = bias
        assert actor(torch.zeros(1, 3))[1].item() == expected


def test_actions_are_between_the_bounds_of_the_environment() -> None:
    model = build("tiny", low=(-2.0, 0.0), high=(2.0, 10.0))
    units = model.in_units(torch.tensor([[-1.0, -1.0], [0.0, 0.0], [1.0, 1.0], [0.5, 0.5]]))
    assert units.tolist() == [[-2, 0], [0, 5], [2, 10], [1, 7.5]]
    x = torch.randn(5, 3)
    torch.testing.assert_close(model.act(x), model.in_units(model(x)[0]))
    torch.testing.assert_close(model(x)[0], model.actor(x)[0].tanh())


def test_networks_equal_plain_stacks() -> None:
    model = build("mlp256", widths=(6, 5), low=(-1.0, -1.0), high=(1.0, 1.0))
    twin = nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))
    for which, critic in enumerate((model.critic.first, model.critic.second)):
        twin.load_state_dict(dict(zip(twin.state_dict(), critic.state_dict().values(), strict=True)))
        testing.assert_same_as(critic, twin, torch.randn(4, 5))
        x, actions = torch.randn(4, 3), torch.rand(4, 2)
        torch.testing.assert_close(model.critic(x, actions)[which], twin(torch.cat([x, actions], -1)).squeeze(-1))
    first, second = (critic.linear1.weight for critic in (model.critic.first, model.critic.second))
    assert not torch.equal(first, second)  # else the lower of two values is the value


def test_the_network_of_the_paper_has_its_parameters() -> None:
    with without_values():
        model = build("mlp256")
    assert count_parameters(model.actor) == 4 * 256 + 257 * 256 + 257 * 2
    assert count_parameters(model.critic) == 2 * (5 * 256 + 257 * 256 + 257) and count_parameters(model.temperature) == 1


def transitions() -> Batch:
    numbers = {"observations": torch.randn(8, 3), "next_observations": torch.randn(8, 3), "rewards": torch.randn(8)}
    return numbers | {"actions": torch.rand(8, 1) * 2 - 1, "discounts": torch.tensor([0.0, 0.9]).repeat(4)}


def task() -> SoftActorCritic:
    made = SoftActorCritic(None, None)
    made.begin(build("tiny"))
    return made


@pytest.fixture(autouse=True)
def _gymnasium() -> None:
    pytest.importorskip("gymnasium")


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(**SMALL, env_steps=24, train_every=4, learning_starts=5, capacity=12, eval_episodes=2, test_episodes=2),
    transitions,
    splits=lambda config: agent_splits(config, config.train_every),
    task=task,
    inputs=lambda: (torch.randn(3, 3),),
    output=lambda model: model.actor.layers,
    skip={"overfits_one_batch": "of three losses only the critics' goes to 0"},
)
