"""Advantages and losses by hand, and trl's (parity tier)."""

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.Alignment.GRPO.losses import LOSSES, Loss, advantages, kl_divergence, losses
from dl.mytorch.torchvision_compat import import_torchvision


def rows(*values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# Two answers, of 5 and 4 tokens: what follows the second's end mark is 9, a value that has to play no part.
LOG_PROBS = rows([-0.5, -1, -0.25, -2, -0.75], [-1.5, -0.5, -3, -1, 9])
REFERENCE = rows([-0.7, -0.9, -0.5, -1.8, -1], [-1, -0.6, -2.5, -1.2, 9])
RATIOS = rows([0.3, -0.3, 0.1, 0, 0.25], [0.3, -0.3, 0.1, -0.25, 9])  # their logarithms
ADVANTAGES = torch.tensor([1.0, -1.0], dtype=torch.float64)
MASK = torch.tensor([[True] * 5, [True] * 4 + [False]])


def loss_of(loss: Loss, log_probs: Tensor, old: Tensor, kl_weight: float = 0.0, mask: Tensor = MASK) -> Tensor:
    kl = kl_weight * kl_divergence(log_probs, REFERENCE) if kl_weight else None
    return losses(loss, log_probs, old, ADVANTAGES, mask, 0.2, kl).mean()


def test_advantages_by_hand() -> None:
    rewards = rows([1, 0, 0, 0.5], [1, 1, 1, 1])
    expected = {"grpo": [1.30530975, -0.78318585, -0.78318585, 0.26106195], "dr_grpo": [0.625, -0.375, -0.375, 0.125]}
    expected["rloo"] = [0.8333333333, -0.5, -0.5, 0.1666666667]
    for loss in LOSSES:
        torch.testing.assert_close(advantages(rewards, loss), rows(expected[loss], [0] * 4), rtol=0, atol=1e-8)


def test_each_paper_s_loss_on_policy_has_a_value_of_its_own() -> None:
    """With beta .04; on the policy the ratios are 1, and the value is no measure of success."""
    longer = [torch.nn.functional.pad(part, (0, 3)) for part in (LOG_PROBS, REFERENCE, MASK)]
    kl = 0.04 * kl_divergence(longer[0], longer[1])
    values = {
        "grpo": loss_of("grpo", LOG_PROBS, LOG_PROBS, 0.04),
        "dr_grpo": loss_of("dr_grpo", LOG_PROBS, LOG_PROBS, 0.04),
        "dr_grpo of length 8": losses("dr_grpo", longer[0], longer[0], ADVANTAGES, longer[2], 0.2, kl).mean(),
        "rloo": loss_of("rloo", LOG_PROBS, LOG_PROBS),
    }
    expected = {"grpo": 0.002016677544, "dr_grpo": -0.098304333168, "dr_grpo of length 8": -0.061440208230, "rloo": 0.0}
    assert {name: value.item() for name, value in values.items()} == pytest.approx(expected, abs=1e-12)


def test_clipped_tokens_have_no_gradient() -> None:
    log_probs = LOG_PROBS.clone().requires_grad_()
    loss = loss_of("grpo", log_probs, LOG_PROBS - RATIOS)
    loss.backward()
    assert loss.item() == pytest.approx(-0.017720198169, abs=1e-12)
    expected = rows([0, -0.074082, -0.110517, -0.1, 0], [0.168732, 0, 0.138146, 0, 0])
    torch.testing.assert_close(log_probs.grad, expected, rtol=0, atol=1e-6)


def test_rloo_weighs_whole_answers() -> None:
    """The gradient of each real token is its answer's advantage over the number of answers: sums, not means."""
    log_probs = LOG_PROBS.clone().requires_grad_()
    loss_of("rloo", log_probs, LOG_PROBS).backward()
    assert torch.equal(log_probs.grad, rows([-0.5] * 5, [0.5] * 4 + [0]))


def test_what_follows_the_end_mark_changes_no_loss() -> None:
    changed = LOG_PROBS.clone()
    changed[1, 4] = -5
    for loss in LOSSES:
        assert torch.equal(loss_of(loss, LOG_PROBS, LOG_PROBS - RATIOS), loss_of(loss, changed, LOG_PROBS - RATIOS))


def test_the_divergence_from_itself_is_zero_and_from_others_above() -> None:
    assert not kl_divergence(LOG_PROBS, LOG_PROBS).any()
    assert (kl_divergence(LOG_PROBS, REFERENCE)[MASK] > 0).all()


# ---- trl -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trl() -> Any:
    import_torchvision()  # trl's import would import a build that does not fit
    pytest.importorskip("trl", reason='trl is not installed: pip install -e ".[parity]"')
    from trl.trainer import grpo_trainer, rloo_trainer

    return SimpleNamespace(GRPO=grpo_trainer.GRPOTrainer, RLOO=rloo_trainer.RLOOTrainer)


def their_loss(trl: Any, loss: Loss, log_probs: Tensor, old: Tensor, kl_weight: float) -> Tensor:
    """That of trl's trainers, which are called without being built."""
    same = staticmethod(lambda values, **_: values)
    accelerator = SimpleNamespace(gather=same, gather_for_metrics=same, reduce=same, device="cpu", num_processes=1)
    stub = SimpleNamespace(
        accelerator=accelerator,
        model=SimpleNamespace(training=True),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _get_per_token_logps_and_entropies=lambda *_, **__: (log_probs, torch.zeros_like(log_probs), None),
        loss_type=loss,
        beta=kl_weight,
        epsilon_low=0.2,
        epsilon_high=0.2,
        importance_sampling_level="token",
        max_completion_length=5,
        current_gradient_accumulation_steps=1,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        aux_loss_enabled=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
    )
    ids = torch.ones(2, 5, dtype=torch.int64)
    inputs = {"prompt_ids": ids[:, :1], "prompt_mask": ids[:, :1], "completion_ids": ids, "completion_mask": MASK.long()}
    inputs |= {"advantages": ADVANTAGES, "ref_per_token_logps": REFERENCE, "old_per_token_logps": old}
    inputs["old_logps"] = (old * MASK).sum(1)
    return (trl.RLOO if loss == "rloo" else trl.GRPO)._compute_loss(stub, None, inputs)


@pytest.mark.parity
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kl_weight", [0.0, 0.04])
def test_losses_and_gradients_are_those_of_trl(trl: Any, loss: Loss, kl_weight: float) -> None:
    if loss == "rloo" and kl_weight:
        pytest.skip("trl subtracts it from the rewards")
    for ratios in (torch.zeros_like(RATIOS), RATIOS):
        found = []
        for function in (lambda *given: their_loss(trl, *given), loss_of):
            log_probs = LOG_PROBS.clone().requires_grad_()
            value = function(loss, log_probs, LOG_PROBS - ratios, kl_weight)
            value.backward()
            found.append((value, log_probs.grad))
        for theirs, ours in zip(*found):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)
