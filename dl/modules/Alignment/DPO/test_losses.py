"""The losses at hand-worked numbers, and trl's functions."""

import math
from collections import defaultdict
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.modules.Alignment.DPO.losses import dpo, ipo, kto, log_odds, margin, mismatched_kl, orpo

# log p of each token: an answer of five tokens that is chosen, one of four that is rejected, and both under the reference
CHOSEN = torch.tensor([-0.5, -1, -0.25, -2, -0.75], dtype=torch.float64)
REJECTED = torch.tensor([-1.5, -0.5, -3, -1], dtype=torch.float64)
REFERENCE = [torch.tensor(x, dtype=torch.float64) for x in ([-0.7, -0.9, -0.5, -1.8, -1], [-1, -0.6, -2.5, -1.2])]
SUMS = [tokens.sum()[None] for tokens in (CHOSEN, REJECTED, *REFERENCE)]  # -4.5, -6, -4.9, -5.3
BOTH = torch.tensor([True, False])


def test_losses_have_the_worked_values() -> None:
    assert dpo(*SUMS).item() == pytest.approx(0.639658918622, abs=1e-12)
    assert ipo(*SUMS).item() == pytest.approx(15.21, abs=1e-12)  # (1.1 - 5)^2; means over tokens would give 22.515
    answers = kto(torch.cat(SUMS[:2]), torch.cat(SUMS[2:]), BOTH, 0.15)
    assert answers.mean().item() == pytest.approx(0.486256555267, abs=1e-12)
    chosen, rejected = CHOSEN.mean()[None], REJECTED.mean()[None]
    assert (log_odds(chosen) - log_odds(rejected)).item() == pytest.approx(0.869352983983, abs=1e-12)
    assert orpo(chosen, rejected, -chosen).item() == pytest.approx(0.935010933112, abs=1e-12)


def test_a_policy_that_is_its_reference_starts_at_ln_2_one_half_and_the_target() -> None:
    same = [SUMS[0], SUMS[1], SUMS[0], SUMS[1]]
    assert margin(*same).item() == 0 and dpo(*same, beta=3.0).item() == pytest.approx(math.log(2))
    assert ipo(*same, beta=0.5).item() == 1
    assert kto(torch.cat(SUMS[:2]), torch.cat(SUMS[:2]), BOTH, 0.0).tolist() == [0.5, 0.5]


def test_gradients_are_those_of_the_papers() -> None:
    log_probs = torch.cat(SUMS[:2]).requires_grad_()
    reference = torch.cat(SUMS[2:])
    (gradient,) = torch.autograd.grad(dpo(log_probs[0], log_probs[1], *reference), log_probs)
    wrong = 1 / (1 + math.exp(0.11))  # DPO, equation 8: beta times the probability of the wrong order
    assert gradient.tolist() == pytest.approx([-0.1 * wrong, 0.1 * wrong], abs=1e-12)
    (gradient,) = torch.autograd.grad(ipo(log_probs[0], log_probs[1], *reference), log_probs)
    assert gradient.tolist() == pytest.approx([-7.8, 7.8], abs=1e-12)
    kl = mismatched_kl((log_probs - reference).sum() * -1, 2)
    (gradient,) = torch.autograd.grad(kto(log_probs, reference, BOTH, kl).sum(), log_probs)
    slopes = [torch.sigmoid(torch.tensor(0.1 * (r - 0.15)).double()).item() for r in (0.4, -0.7)]
    expected = [sign * 0.1 * s * (1 - s) for sign, s in zip((-1, 1), slopes)]  # as if z0 were a number
    assert kl.item() == pytest.approx(0.15) and gradient.tolist() == pytest.approx(expected, abs=1e-12)


def test_the_kl_of_mismatched_answers_is_never_negative() -> None:
    assert mismatched_kl(torch.tensor(-3.0), 2) == 0 and mismatched_kl(torch.tensor(3.0), 2) == 1.5


def test_weights_of_good_and_bad_answers_are_separate() -> None:
    losses = kto(torch.zeros(2), torch.zeros(2), BOTH, 0.0, desirable_weight=1.5, undesirable_weight=0.5)
    assert losses.tolist() == [0.75, 0.25]


def test_odds_of_a_certain_answer_are_finite_and_so_is_their_gradient() -> None:
    log_probs = torch.tensor([0.0, -1e-9, -1e-4, -100.0], requires_grad=True)
    odds = log_odds(log_probs)
    odds.sum().backward()
    assert odds.isfinite().all() and log_probs.grad.isfinite().all()
    assert odds[2:].tolist() == pytest.approx([math.log(1 / (math.exp(1e-4) - 1)), -100], rel=1e-5)


# ---- trl -----------------------------------------------------------------------------------------------------------


class Alone:
    """An accelerator of one process."""

    device, num_processes = "cpu", 1

    def gather(self, value: Any, *_: Any, **__: Any) -> Any:
        return value

    gather_for_metrics = reduce = gather


@pytest.fixture(scope="module")
def trl() -> ModuleType:
    from dl.mytorch.torchvision_compat import import_torchvision

    import_torchvision()
    return pytest.importorskip("trl")


def stub(**attributes: Any) -> SimpleNamespace:
    model = SimpleNamespace(training=True)
    usual = {"accelerator": Alone(), "model": model, "aux_loss_enabled": False, "_total_train_tokens": 0, "_tp_size": 1}
    return SimpleNamespace(**usual, _metrics=defaultdict(lambda: defaultdict(list)), beta=0.1, **attributes)


def padded(chosen: Tensor, rejected: Tensor) -> Tensor:
    """Return log p of both answers, (2, 5), after a prompt of one token."""
    return torch.stack([chosen, torch.cat([rejected, torch.zeros(1).double()])])


def their_inputs(log_probs: Tensor) -> tuple[Any, dict[str, Tensor]]:
    """Return a stand-in for a model whose labels have log p (B, T), and the batch that it is asked about."""
    rows, length = log_probs.shape
    mask = torch.ones(rows, length + 1, dtype=torch.long)
    mask[1, -1] = 0
    answers = mask.clone()
    answers[:, 0] = 0

    def model(labels: Tensor, **_: Any) -> SimpleNamespace:
        found = log_probs * (labels[:, 1:] != -100)
        nothing = torch.zeros_like(log_probs)
        return SimpleNamespace(log_probs=found, entropy=nothing, mean_logits=nothing, is_top1=nothing.bool())

    ids = torch.zeros(rows, length + 1, dtype=torch.long)
    return model, {"input_ids": ids, "attention_mask": mask, "completion_mask": answers}


@pytest.mark.parity
@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_dpo_and_ipo_are_trl_s_in_value_and_gradient(trl: ModuleType, loss: str) -> None:
    """Its IPO takes means over tokens."""
    from trl.trainer.dpo_trainer import DPOTrainer

    tokens = padded(CHOSEN, REJECTED).requires_grad_()
    model, batch = their_inputs(tokens)
    batch |= {"ref_chosen_logps": SUMS[2], "ref_rejected_logps": SUMS[3]}
    options = {"label_smoothing": 0.0, "ld_alpha": None, "f_divergence_type": "reverse_kl", "precompute_ref_logps": True}
    trainer = stub(loss_types=[loss], loss_weights=[1.0], use_weighting=False, **options)
    theirs = DPOTrainer._compute_loss(trainer, model, batch, False)
    answers = tokens[0], tokens[1, :4], *REFERENCE
    ours = dpo(*(a.sum() for a in answers)) if loss == "sigmoid" else ipo(*(a.mean() for a in answers))
    assert theirs.item() == pytest.approx(ours.item(), abs=1e-12)
    pairs = [torch.autograd.grad(value, tokens)[0] for value in (theirs, ours)]
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-12)


@pytest.mark.parity
def test_kto_is_trl_s_in_value_and_gradient(trl: ModuleType) -> None:
    from trl.trainer.kto_trainer import KTOTrainer

    tokens = padded(CHOSEN, REJECTED).requires_grad_()
    model, batch = their_inputs(tokens)
    batch |= {"label": BOTH, "ref_logps": torch.cat(SUMS[2:]), "ref_KL_logps": torch.zeros(2).double()}
    options = {"desirable_weight": 1.5, "undesirable_weight": 0.5}
    others = {"calculate_KL": True, "precompute_ref_logps": True, "loss_type": "kto"}
    mismatched = torch.tensor([0.1, 0.2]).double()
    trainer = stub(_compute_kl_logps=lambda m, b: mismatched, **others, **options)
    theirs = KTOTrainer._compute_loss(trainer, model, batch, False)
    kl = mismatched_kl(mismatched.sum(), 2)
    ours = kto(torch.stack([tokens[0].sum(), tokens[1, :4].sum()]), torch.cat(SUMS[2:]), BOTH, kl, **options).mean()
    assert theirs.item() == pytest.approx(ours.item(), abs=1e-12)
    pairs = [torch.autograd.grad(loss, tokens)[0] for loss in (theirs, ours)]
    torch.testing.assert_close(*pairs, rtol=0, atol=1e-12)


@pytest.mark.parity
def test_orpo_s_odds_are_trl_s(trl: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    monkeypatch.setattr(Tensor, "float", Tensor.double)
    chosen, rejected = torch.tensor([-0.9, -0.2]).double(), torch.tensor([-1.5, -2.5]).double()
    losses, *_ = ORPOTrainer.odds_ratio_loss(stub(), chosen, rejected)
    torch.testing.assert_close(orpo(chosen, rejected, chosen * 0), -losses, rtol=0, atol=1e-12)
