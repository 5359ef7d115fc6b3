"""GRPO: rollouts and what they carry, updates by hand, the reference; and through its recipe."""

import copy
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dl.cli.runs import Run
from dl.modules.Alignment.GRPO import train
from dl.modules.Alignment.GRPO.losses import LOSSES, losses
from dl.modules.Alignment.GRPO.model import build
from dl.modules.Alignment.GRPO.step import GRPOStep
from dl.modules.Alignment.GRPO.task import GRPO
from dl.modules.Alignment.recipe import frozen
from dl.modules.Alignment.sampling import answer_log_probs, until_end
from dl.modules.Alignment.SFT import train as sft
from dl.modules.Alignment.sums import END, Sums
from dl.modules.GPT.lora import adapt
from dl.mytorch import optim, testing
from dl.mytorch.config import UserError
from dl.mytorch.testing.processes import assert_kills_change_nothing

SUMS = Sums(2)
PAIRS = torch.tensor([[7, 35], [61, 0], [99, 4], [5, 5]])


def policy() -> nn.Module:
    torch.manual_seed(0)
    model = build("tiny").double().eval()
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def task(**options: Any) -> GRPO:
    """Rewards for right digits, so that groups of a random network carry signal."""
    return GRPO(SUMS, **{"group": 8, "reward": "digits", **options})


def gradients(model: nn.Module, learner: GRPO, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    model.zero_grad()
    learner.step(model, batch).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in model.parameters()])


# ---- rollouts ------------------------------------------------------------------------------------------------------


def test_a_rollout_is_a_function_of_weights_prompts_seed_and_step() -> None:
    model, learner = policy(), task(seed=3)
    first = learner.rollout(model, PAIRS, step=5)
    torch.rand(1)  # the global generator plays no part, and is left alone
    state = torch.get_rng_state()
    again = learner.rollout(model, PAIRS, step=5)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(first[name], again[name]) for name in first)
    for other in (learner.rollout(model, PAIRS, step=6), task(seed=4).rollout(model, PAIRS, step=5)):
        assert first["answers"].shape != other["answers"].shape or not torch.equal(first["answers"], other["answers"])


@pytest.mark.parametrize("temperature", [0.5, 1.0])
def test_right_after_the_rollout_each_ratio_is_exactly_one(monkeypatch: pytest.MonkeyPatch, temperature: float) -> None:
    """The log-probabilities are at the temperature of the draw, and each is of its own token."""
    model, learner, seen = policy(), task(temperature=temperature), {}

    def note(loss: str, found: torch.Tensor, old: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen["ratios"] = (found - old).exp()
        return losses(loss, found, old, *rest)

    monkeypatch.setattr("dl.modules.Alignment.GRPO.task.losses", note)
    batch = learner.rollout(model, PAIRS, 0)
    output = learner.step(model, batch)
    assert torch.equal(seen["ratios"], torch.ones_like(seen["ratios"]))
    output.loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    learner.step(model, batch)
    assert not torch.isclose(seen["ratios"], torch.ones_like(seen["ratios"])).all()


def test_rewards_are_for_right_answers_or_for_digits_before_a_wrong_one() -> None:
    right = SUMS.answers(PAIRS[:1])  # 2 4 0 .
    answers = right.repeat(4, 1)
    answers[1, 3], answers[2, 1], answers[3, 0] = 5, 9, 9
    assert task(reward="exact").rewards(PAIRS[:1], answers[None]).tolist() == [[1, 0, 0, 0]]
    assert task().rewards(PAIRS[:1], answers[None]).tolist() == [[1, 0.75, 0.25, 0]]


def test_groups_without_signal_are_left_out_and_nothing_changes() -> None:
    """The mean is over all answers, so gradients are those with the groups that teach nothing."""
    model = policy()
    for loss in LOSSES:
        learner = task(loss=loss, reward="exact")
        learner.rewards = lambda pairs, answers: (answers[..., 0] % 2).double() * (torch.arange(len(pairs)) % 2)[:, None]
        batch = learner.rollout(model, PAIRS, 0)
        assert batch["signal"].tolist() == [False, True, False, True] and len(batch["advantages"]) == 16
        learner.reference = copy.deepcopy(model)  # with one, all groups are learnt from
        whole = learner.rollout(model, PAIRS, 0)
        assert len(whole["advantages"]) == 32
        torch.testing.assert_close(gradients(model, learner, batch), gradients(model, learner, whole), rtol=0, atol=1e-12)


def test_what_follows_the_first_end_mark_is_neither_attended_nor_learnt_from() -> None:
    model, learner = policy(), task()
    batch = learner.rollout(model, PAIRS, 0)
    batch["answers"][::2, 1] = END
    changed = {**batch, "answers": batch["answers"].clone()}
    tail = ~until_end(batch["answers"])
    changed["answers"][tail] = torch.randint(0, 10, (int(tail.sum()),))
    assert not torch.equal(changed["answers"], batch["answers"])
    found = [gradients(model, learner, dict(each)) for each in (batch, changed)]
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)


def test_the_gradient_is_that_of_rewarded_log_probabilities() -> None:
    """REINFORCE by hand: - advantage x log p of whole answers, over their number."""
    model, learner = policy(), task(loss="rloo", temperature=0.5)
    batch = learner.rollout(model, PAIRS, 0)
    found = gradients(model, learner, batch)
    log_probs = answer_log_probs(model, batch["prompts"], batch["answers"], 0.5) * until_end(batch["answers"])
    model.zero_grad()
    (-(batch["advantages"] * log_probs.sum(1)).sum() / 32).backward()
    torch.testing.assert_close(found, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=0, atol=1e-12)


def test_a_step_without_any_signal_leaves_the_weights() -> None:
    model = build("tiny")
    learner = task(reward="exact")
    step = GRPOStep(model, learner, optim.adamw(1e-2), train.Config(out="unused", device="cpu"))
    before = copy.deepcopy(model.state_dict())
    step([{"pairs": PAIRS}])
    testing.assert_same_state(model.state_dict(), before, "weights")
    assert step.steps_done == 1 and step.train_metrics.compute()["signal"] == 0
    assert step.gradient_norm == 0  # which the loop logs
    learner.reward = "digits"
    step([{"pairs": PAIRS}])
    assert step.train_metrics.compute()["signal"] > 0 and not torch.equal(model.norm.weight, before["norm.weight"])


def test_an_update_raises_the_probability_of_rewarded_answers() -> None:
    model, learner = policy(), task()
    batch = learner.rollout(model, PAIRS, 0)
    good = batch["advantages"] > 0
    before = answer_log_probs(model, batch["prompts"], batch["answers"]).detach()
    learner.step(model, batch).loss.backward()
    torch.optim.SGD(model.parameters(), 0.05).step()
    moved = ((answer_log_probs(model, batch["prompts"], batch["answers"]) - before) * until_end(batch["answers"])).sum(1)
    assert (moved * batch["advantages"]).mean() > 0 and moved[good].mean() > moved[~good].mean()


# ---- the reference -------------------------------------------------------------------------------------------------


def test_at_first_the_policy_is_its_reference_with_adapters_too() -> None:
    """KL at step 0 is 0: the reference is the policy as it began, not the network before it."""
    start = policy()
    for model in (start, adapt(copy.deepcopy(start), rank=2)):
        learner = task(reference=frozen(copy.deepcopy(model)), kl_weight=0.04)
        batch = learner.rollout(model, PAIRS, 0)
        found = answer_log_probs(model, batch["prompts"], batch["answers"])
        assert torch.equal(found, batch["reference"])
        assert torch.equal(batch["reference"], answer_log_probs(start, batch["prompts"], batch["answers"]))


def test_another_reference_than_at_the_beginning_is_refused() -> None:
    first, second = (task(reference=frozen(build("tiny")), kl_weight=0.1) for _ in range(2))
    first.load_own_state(first.own_state())
    with pytest.raises(UserError, match="--init-from names has other weights"):
        second.load_own_state(first.own_state())


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(**flags: Any) -> train.Config:
    small = {"model": "tiny", "init_from": "", "group": 4, "batch_size": 4, "steps": 3, "eval_every": 2, "reward": "digits"}
    return train.Config(**{**small, "eval_samples": 1, "device": "cpu", "plots": False, **flags})


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"group": 1}, "--group has to be at least 2"),
        ({"temperature": 0.0}, "--temperature has to be above 0"),
        ({"accumulate": 2}, "--accumulate has to be 1"),
        ({"digits": 4}, "--digits has to be from 1 to 3"),
        ({"kl_weight": -1.0}, "--kl-weight has to be 0 or more"),
    ],
)
def test_an_invalid_value_names_its_flag(flags: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        config(**flags)


def test_a_run_begins_with_the_weights_of_another_by_its_seed(tmp_path: Path) -> None:
    options = {"model": "tiny", "steps": 1, "eval_samples": 1, "device": "cpu", "plots": False}
    sft.main(sft.Config(out=str(tmp_path / "sft-0"), **options))
    flags = {
        "init_from": str(tmp_path / "sft-{seed}"),
        "lora_rank": 2,
        "kl_weight": 0.1,
        "steps": 2,
        "update_epochs": 2,
        "lr": 1e-30,
    }
    history = train.main(config(out=str(tmp_path / "grpo"), **flags))
    assert set(history.test) == {"loss", "greedy_error", "sampled_error"} and 0 < history[0]["train"]["signal"] <= 1
    assert history[0]["train"]["kl"] == 0  # the reference is that run, and nothing was learnt yet
    tuned, start = (Run.open(tmp_path / name).model().state_dict() for name in ("grpo", "sft-0"))
    assert torch.equal(tuned["blocks.0.attention.query.linear.weight"], start["blocks.0.attention.query.weight"])
    assert torch.equal(tuned["token_embedding.weight"], start["token_embedding.weight"])
    with pytest.raises(UserError, match="holds no trained network"):
        train.main(config(out=str(tmp_path / "other"), init_from=str(tmp_path / "none")))


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    lambda: {"pairs": PAIRS},
    splits=lambda own: SUMS.splits(own.batch_size, own.seed),
    task=task,
    inputs=lambda: (SUMS.prompts(PAIRS),),
    skip={"overfits_one_batch": "a policy's loss does not fall: its ratios are 1"},
)


def start(out: Path, *flags: str) -> subprocess.Popen:
    words = [sys.executable, "-m", "dl.modules.Alignment.GRPO.train", "--out", str(out), "--init-from", "", "--device", "cpu"]
    return subprocess.Popen([*words, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 at ten random moments after a checkpoint, of which there is one at every second step."""
    flags = ["--model", "tiny", "--reward", "digits", "--batch-size", "8", "--steps", "300", "--save-every", "2"]
    flags += ["--eval-every", "100", "--eval-samples", "1", "--update-epochs", "2", "--no-plots"]
    wait = random.Random(0)
    assert_kills_change_nothing(lambda out: start(out, *flags), tmp_path, [wait.uniform(0, 0.1) for _ in range(10)])
