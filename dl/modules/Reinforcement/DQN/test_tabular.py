"""Exact references: value iteration, Q-learning in a table, and that the network's update finds the same values."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from dl.modules.Reinforcement.DQN.model import QNetwork
from dl.modules.Reinforcement.DQN.task import td_target

gymnasium = pytest.importorskip("gymnasium")

# S states, A actions


class Table:
    """An environment of gymnasium's toy_text as arrays: what follows each action with which chance."""

    def __init__(self, name: str, **options: Any) -> None:
        env = gymnasium.make(name, **options).unwrapped
        states, actions = env.observation_space.n, env.action_space.n
        self.chances = np.zeros((states, actions, states))  # of s', where the episode continues: its end has no value
        self.rewards = np.zeros((states, actions))
        for s in range(states):
            for a in range(actions):
                for chance, following, reward, terminated in env.P[s][a]:
                    self.rewards[s, a] += chance * reward
                    self.chances[s, a, following] += chance * (not terminated)


def value_iteration(table: Table, gamma: float, tolerance: float = 1e-13) -> np.ndarray:
    """The values of actions (S, A) under the best policy: Sutton & Barto, section 4.4."""
    values, change = np.zeros_like(table.rewards), np.inf
    while change > tolerance:
        before, values = values, table.rewards + gamma * table.chances @ values.max(1)
        change = np.abs(values - before).max()
    return values


def linear_solution(table: Table, gamma: float, policy: np.ndarray) -> np.ndarray:
    """The values of states (S,) under a policy (S,): (I - gamma P)^-1 r."""
    states = np.arange(len(policy))
    return np.linalg.solve(np.eye(len(policy)) - gamma * table.chances[states, policy], table.rewards[states, policy])


def q_update(value: float, reward: float, best_next: float, rate: float, gamma: float) -> float:
    """Watkins's rule: Sutton & Barto, equation 6.8."""
    return value + rate * (reward + gamma * best_next - value)


def q_learning(table: Table, gamma: float, sweeps: int, rate: float) -> np.ndarray:
    """Q-learning of an environment without chance: each action of each state, once a sweep."""
    values = np.zeros_like(table.rewards)
    for _ in range(sweeps):
        for s, a in np.ndindex(*values.shape):
            best = table.chances[s, a] @ values.max(1)
            values[s, a] = q_update(values[s, a], table.rewards[s, a], best, rate, gamma)
    return values


still = partial(Table, "FrozenLake-v1", is_slippery=False)


@pytest.mark.parametrize(
    ("name", "options", "gamma", "start", "expected"),
    [
        ("FrozenLake-v1", {}, 1.0, 0, 14 / 17),
        ("FrozenLake-v1", {}, 0.99, 0, 0.542026),
        ("FrozenLake-v1", {}, 0.9, 0, 0.0688909),
        ("FrozenLake-v1", {"map_name": "8x8"}, 0.99, 0, 0.414640),
        ("FrozenLake-v1", {"is_slippery": False}, 0.99, 0, 0.99**5),
        ("CliffWalking-v1", {}, 1.0, 36, -13),
        ("CliffWalking-v1", {}, 0.99, 36, -12.247898),
        ("CliffWalking-v1", {}, 1.0, 0, -14),
    ],
)
def test_value_iteration_gives_the_known_values(
    name: str, options: dict[str, Any], gamma: float, start: int, expected: float
) -> None:
    table = Table(name, **options)
    values = value_iteration(table, gamma)
    assert values[start].max() == pytest.approx(expected, abs=1e-6)
    if gamma < 1:
        exact = linear_solution(table, gamma, values.argmax(1))
        assert np.abs(values.max(1) - exact).max() < 1e-10


def test_q_learning_by_hand() -> None:
    assert q_update(0.5, reward=1, best_next=2, rate=0.1, gamma=0.9) == pytest.approx(0.73)


@pytest.mark.parametrize(("rate", "sweeps"), [(1.0, 8), (0.5, 60)])
def test_q_learning_finds_the_values_of_value_iteration(rate: float, sweeps: int) -> None:
    values = q_learning(still(), 0.9, sweeps=sweeps, rate=rate)
    assert np.abs(values - value_iteration(still(), 0.9)).max() < 1e-8


@pytest.mark.parametrize("options", [{}, {"double": True}, {"dueling": True}])
def test_the_network_s_update_finds_the_values_of_value_iteration(options: dict[str, Any]) -> None:
    """States as one-hot rows and no hidden layer: the network is a table. All transitions are one batch."""
    table, double = still(), options.pop("double", False)
    expected = torch.from_numpy(value_iteration(table, 0.9)).float()
    states, actions = expected.shape
    network, target = (QNetwork((states,), actions, hidden=(), **options) for _ in range(2))
    for name, parameter in network.named_parameters():  # which a table has not
        parameter.data.zero_()
        parameter.requires_grad_("bias" not in name)
    optimizer = torch.optim.SGD(network.parameters(), lr=8)  # a quarter of each error
    chances, rewards = (torch.from_numpy(x).float().flatten(0, 1) for x in (table.chances, table.rewards))
    going = chances.sum(1)  # 0 where the episode ends
    for step in range(160):
        if step % 10 == 0:
            target.load_state_dict(network.state_dict())
        with torch.no_grad():
            after = target(chances)
            y = td_target(rewards, 0.9 * going, after, network(chances) if double else after)
        loss = (network(torch.eye(states)).flatten() - y).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(network(torch.eye(states)), expected, atol=2e-3, rtol=0)
