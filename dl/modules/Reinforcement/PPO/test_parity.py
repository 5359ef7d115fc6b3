"""Advantages, loss and updates against those of stable-baselines3, in float64, without a step of an environment."""

from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dl.modules.Reinforcement.PPO import train
from dl.modules.Reinforcement.PPO.model import ActorCritic, build
from dl.modules.Reinforcement.PPO.step import PPOStep
from dl.modules.Reinforcement.PPO.task import PPO, gae
from dl.mytorch.optim import adamw

pytestmark = pytest.mark.parity
T, N, SIZE = 6, 3, 4  # steps, environments, numbers of an observation
NAMES = {  # of the actor and the critic with one hidden layer, and of stable-baselines3's policy
    **{"actor.linear1": "mlp_extractor.policy_net.0", "actor.output": "action_net"},
    **{"critic.linear1": "mlp_extractor.value_net.0", "critic.output": "value_net"},
}


@pytest.fixture
def sb3(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The package, which casts observations to float32 by itself, without that."""
    found = pytest.importorskip("stable_baselines3", reason='not installed: pip install -e ".[parity]"')
    policies = found.common.policies
    monkeypatch.setattr(policies, "preprocess_obs", lambda obs, space, normalize_images=True: obs)
    return found


def their_model(sb3: ModuleType, continuous: bool, **options: Any) -> Any:
    """PPO of stable-baselines3 in float64, in an environment that has nothing but spaces."""
    gymnasium = pytest.importorskip("gymnasium")
    box, discrete = gymnasium.spaces.Box, gymnasium.spaces.Discrete

    class Nowhere(gymnasium.Env):
        observation_space = box(-10, 10, (SIZE,), np.float64)
        action_space = box(-2, 2, (2,), np.float32) if continuous else discrete(3)

    vector = sb3.common.vec_env.DummyVecEnv([Nowhere] * N)
    options = {"n_steps": T, "policy_kwargs": {"net_arch": [5]}, "device": "cpu", "seed": 0, **options}
    model = sb3.PPO("MlpPolicy", vector, **options)
    model.policy.double()
    model.set_logger(sb3.common.logger.Logger(None, []))
    return model


def fill(model: Any, continuous: bool, ends: bool) -> SimpleNamespace:
    """Put a rollout into their buffer, and return it as tensors (T, N, ...)."""
    draw = np.random.default_rng(3)
    made = SimpleNamespace(
        observations=draw.normal(size=(T, N, SIZE)),
        actions=draw.normal(size=(T, N, 2)).astype(np.float32) if continuous else draw.integers(0, 3, (T, N, 1)),
        rewards=draw.normal(size=(T, N)),
        values=draw.normal(size=(T, N)),
        log_probs=draw.normal(-1, 0.1, size=(T, N)),
        last_values=draw.normal(size=N),
        terminated=(draw.random((T, N)) < 0.3) & ends,
    )
    buffer = model.rollout_buffer
    buffer.reset()
    for name in ("observations", "actions", "rewards", "values", "log_probs"):
        setattr(buffer, name, getattr(made, name).astype(np.float64))
    buffer.episode_starts = np.concatenate([np.zeros((1, N)), made.terminated[:-1]])
    buffer.advantages, buffer.returns = np.zeros((T, N)), np.zeros((T, N))
    buffer.compute_returns_and_advantage(torch.from_numpy(made.last_values), made.terminated[-1])
    buffer.pos, buffer.full = T, True
    return SimpleNamespace(**{name: torch.from_numpy(value) for name, value in vars(made).items()})


def our_advantages(made: SimpleNamespace, gamma: float, lam: float) -> Tensor:
    following = torch.cat([made.values[1:], made.last_values[None]])
    never = torch.zeros_like(made.terminated)
    return gae(made.rewards, made.values, following, made.terminated, never, gamma, lam)


@pytest.mark.parametrize("lam", [0.0, 0.8, 1.0])
def test_advantages_are_theirs(sb3: ModuleType, lam: float) -> None:
    model = their_model(sb3, continuous=False, gamma=0.9, gae_lambda=lam)
    made = fill(model, continuous=False, ends=True)
    assert made.terminated.any() and not made.terminated.all()
    ours = our_advantages(made, 0.9, lam)
    torch.testing.assert_close(ours, torch.from_numpy(model.rollout_buffer.advantages), atol=1e-12, rtol=0)
    torch.testing.assert_close(ours + made.values, torch.from_numpy(model.rollout_buffer.returns), atol=1e-12, rtol=0)


def copied(theirs: nn.Module, continuous: bool) -> ActorCritic:
    """Our network with their weights."""
    actions = {"num_actions": 0, "action_size": 2} if continuous else {"num_actions": 3}
    model = build("tiny", observation_size=SIZE, widths=(5,), **actions).double()
    weights = theirs.state_dict()
    own = {f"{ours}.{kind}": weights[f"{name}.{kind}"] for ours, name in NAMES.items() for kind in ("weight", "bias")}
    model.load_state_dict(own | ({"log_std": weights["log_std"]} if continuous else {}))
    return model


class Permuted(PPO):
    """Minibatches in their order."""

    def minibatches(self, rows: int, size: int) -> tuple[Tensor, ...]:
        return torch.from_numpy(np.random.permutation(rows)).split(size)


@pytest.mark.parametrize("continuous", [False, True])
def test_weights_after_two_rounds_of_updates_are_theirs(sb3: ModuleType, continuous: bool, tmp_path: Any) -> None:
    """Two rollouts of 18 rows, three epochs of minibatches of 8, 8 and 2; entropy bonus, clipping, a rate that falls."""
    options = {"gamma": 0.9, "gae_lambda": 0.8, "batch_size": 8, "n_epochs": 3, "ent_coef": 0.02, "max_grad_norm": 0.1}
    theirs = their_model(sb3, continuous, learning_rate=lambda left: 0.05 * left, clip_range=lambda left: 0.2 * left, **options)
    ours = copied(theirs.policy, continuous)
    size = {"num_actions": 0, "action_size": 2} if continuous else {"num_actions": 3, "action_size": 0}
    task = Permuted(SimpleNamespace(spaces=SimpleNamespace(**size)), clip=0.2, entropy_weight=0.02)
    config = train.Config(out=str(tmp_path), batch_size=8, update_epochs=3, grad_clip=0.1, device="cpu")
    step = PPOStep(ours, task, adamw(0.05, weight_decay=0.0, eps=1e-5), config)
    for left in (1.0, 0.5):
        made = fill(theirs, continuous, ends=True)
        advantages = our_advantages(made, 0.9, 0.8)
        rows = {"observations": made.observations, "log_probs": made.log_probs, "advantages": advantages}
        rows |= {"actions": made.actions.double() if continuous else made.actions[..., 0]}
        rows |= {"targets": advantages + made.values, "returns": torch.full_like(advantages, torch.nan)}
        theirs._current_progress_remaining = left
        np.random.seed(7)
        theirs.train()
        for group in step.param_groups():
            group["lr"] = group["initial_lr"] * left
        np.random.seed(7)
        step([{name: tensor.transpose(0, 1).flatten(0, 1) for name, tensor in rows.items()}])
    expected = copied(theirs.policy, continuous)
    for (name, own), other in zip(ours.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-9, rtol=0, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("continuous", [False, True])
def test_log_probabilities_entropies_and_values_are_theirs(sb3: ModuleType, continuous: bool) -> None:
    theirs = their_model(sb3, continuous).policy
    ours, seen = copied(theirs, continuous), torch.randn(9, SIZE, dtype=torch.float64)
    actions = torch.randn(9, 2, dtype=torch.float64) if continuous else torch.randint(0, 3, (9,))
    values, log_probs, entropies = theirs.evaluate_actions(seen, actions)
    parameters, own_values = ours(seen)
    policy = ours.distribution(parameters)
    for own, other in ((own_values, values.flatten()), (policy.log_prob(actions), log_probs), (policy.entropy(), entropies)):
        torch.testing.assert_close(own, other, atol=1e-12, rtol=0)
    torch.testing.assert_close(ours.act(seen), theirs.get_distribution(seen).mode())
