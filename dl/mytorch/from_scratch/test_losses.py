"""Losses against torch's, with all their arguments, and against numbers and formulas worked by hand."""

import itertools
import math
from functools import partial
from typing import Any, Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from dl.mytorch.from_scratch import losses
from dl.mytorch.testing import assert_same_function

REDUCTIONS = ["mean", "sum", "none"]


def compare(name: str, *inputs: Tensor, **options: Any) -> None:
    own, twin = (partial(getattr(module, name), **options) for module in (losses, F))
    assert_same_function(own, twin, *inputs)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
@pytest.mark.parametrize("weighted", [True, False])
def test_cross_entropy_is_torch_s(reduction: str, smoothing: float, weighted: bool) -> None:
    weight = torch.rand(5).double() if weighted else None
    options = {"weight": weight, "reduction": reduction, "label_smoothing": smoothing}
    for places in ((), (3,), (2, 3)):
        logits, target = 10 * torch.randn(4, 5, *places), torch.randint(5, (4, *places))
        compare("cross_entropy", logits, target, **options)
        compare("cross_entropy", logits, target, ignore_index=int(target.flatten()[0]), **options)
        compare("cross_entropy", logits, torch.rand(4, 5, *places).softmax(1), **options)


def test_cross_entropy_of_nothing_is_torch_s() -> None:
    ignored = torch.full((3,), -100)
    assert losses.cross_entropy(torch.randn(3, 4), ignored).isnan() and F.cross_entropy(torch.randn(3, 4), ignored).isnan()
    assert losses.cross_entropy(torch.randn(3, 4), ignored, reduction="sum") == 0
    compare("cross_entropy", torch.randn(0, 4), torch.zeros(0, dtype=torch.long), reduction="sum")


def test_a_class_that_cannot_be_has_no_share() -> None:
    logits = torch.tensor([[0.0, 0.0, -math.inf]])
    assert losses.cross_entropy(logits, torch.tensor([1])).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_regression_losses_are_torch_s(reduction: str) -> None:
    x, y = 2 * torch.randn(4, 3), torch.randn(4, 3)
    compare("mse_loss", x, y, reduction=reduction)
    for delta in (0.5, 1.0, 2.0):
        compare("huber_loss", x, y, reduction=reduction, delta=delta)


def test_a_mean_does_not_overflow_in_half_precision() -> None:
    x, y = torch.full((70_000,), 2.0, dtype=torch.float16), torch.zeros(70_000, dtype=torch.float16)
    assert losses.mse_loss(x, y) == F.mse_loss(x, y) == 4


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_is_torch_s(reduction: str) -> None:
    x = torch.cat([torch.randn(3, 4), torch.tensor([[-1e3, 1e3, -40.0, 40.0]])])
    for weight, pos_weight in itertools.product((None, torch.rand(4).double()), repeat=2):
        options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
        compare("binary_cross_entropy_with_logits", x, torch.rand(4, 4), **options)
    with pytest.raises(ValueError, match=r"\(4, 1\)"):
        losses.binary_cross_entropy_with_logits(x, torch.rand(4, 1))


def test_binary_cross_entropy_at_0_has_torch_s_gradient() -> None:
    target = torch.tensor([0.0, 0.3, 0.5, 1.0]).double()
    for pos_weight in (None, torch.tensor(3.0).double()):
        compare("binary_cross_entropy_with_logits", torch.zeros(4), target, pos_weight=pos_weight, reduction="none")


@pytest.mark.parametrize("reduction", [*REDUCTIONS, "batchmean"])
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides")
def test_kl_divergence_is_torch_s(reduction: str) -> None:
    x, p = torch.randn(3, 4).log_softmax(1), torch.randn(3, 4).softmax(1)
    compare("kl_div", x, p, reduction=reduction)
    compare("kl_div", x, p.log(), reduction=reduction, log_target=True)
    one_hot = torch.eye(4)[:3].double()  # 0 log 0
    torch.testing.assert_close(losses.kl_div(x, one_hot, reduction), F.kl_div(x, one_hot, reduction=reduction))


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("swap", [True, False])
def test_triplet_loss_is_torch_s(reduction: str, swap: bool) -> None:
    embeddings = [torch.randn(6, 4) for _ in range(3)]
    for margin, p in ((1.0, 2.0), (0.3, 1.0), (2.0, 3.0)):
        compare("triplet_margin_loss", *embeddings, margin=margin, p=p, swap=swap, reduction=reduction)


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match="'average': there are"):
        losses.mse_loss(torch.ones(1), torch.ones(1), reduction="average")


def test_nt_xent_is_the_paper_s_equation() -> None:
    first, second = torch.randn(3, 4).double(), torch.randn(3, 4).double()
    views = [*first, *second]

    def similarity(i: int, j: int) -> float:
        return math.exp(torch.cosine_similarity(views[i], views[j], dim=0).item() / 0.2)

    expected = 0.0
    for i in range(6):
        others = sum(similarity(i, k) for k in range(6) if k != i)
        expected -= math.log(similarity(i, (i + 3) % 6) / others) / 6
    assert losses.nt_xent(first, second, temperature=0.2).item() == pytest.approx(expected, abs=1e-12)
    assert torch.autograd.gradcheck(losses.nt_xent, (first.requires_grad_(), second.requires_grad_()))


def test_nt_xent_of_views_at_right_angles_is_known() -> None:
    views = torch.eye(4)  # all pairs of a view and another's have cosine 0, partners 1
    expected = -math.log(math.exp(2) / (math.exp(2) + 6))  # e^(1 / 0.5), and 2 B - 2 others
    assert losses.nt_xent(views, 3 * views).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("blank", [0, 3])
def test_ctc_is_torch_s(reduction: str, joined: bool, blank: int) -> None:
    symbols = torch.tensor([s for s in range(4) if s != blank])
    targets = symbols[torch.tensor([[0, 0, 1], [2, 1, 0], [1, 0, 0], [0, 2, 2]])]  # repetitions among them
    lengths, ends = torch.tensor([3, 2, 1, 3]), torch.tensor([7, 3, 7, 5])
    wanted = torch.cat([row[:length] for row, length in zip(targets, lengths)]) if joined else targets
    options = {"blank": blank, "reduction": reduction}
    # torch's gradient is the one after a log-softmax
    own, twin = (lambda x, f=f: f(x.log_softmax(2), wanted, ends, lengths, **options) for f in (losses.ctc_loss, F.ctc_loss))
    assert_same_function(own, twin, torch.randn(7, 4, 4))


@pytest.mark.parametrize("zero_infinity", [True, False])
def test_ctc_of_empty_and_of_unreadable_targets_is_torch_s(zero_infinity: bool) -> None:
    targets, lengths, ends = torch.tensor([[1, 1], [2, 1], [1, 2]]), torch.tensor([2, 0, 2]), torch.tensor([2, 2, 2])
    x = torch.randn(2, 3, 4).double().requires_grad_()
    results = []
    for f in (losses.ctc_loss, F.ctc_loss):
        loss = f(x.log_softmax(2), targets, ends, lengths, reduction="none", zero_infinity=zero_infinity)
        (gradient,) = torch.autograd.grad(loss[1:].sum(), x)
        results.append((loss, gradient[:, 1:]))  # torch's of what no path reads is NaN, whatever it is multiplied by
    assert results[0][0][0] == (0 if zero_infinity else math.inf)  # 1, blank, 1 takes three steps
    for own, twin in zip(*results):
        torch.testing.assert_close(own, twin, rtol=0, atol=1e-10)


def test_ctc_of_no_steps_reads_as_the_empty_target_alone() -> None:
    targets, ends, lengths = torch.tensor([[1, 2], [1, 2], [1, 2]]), torch.tensor([5, 0, 0]), torch.tensor([2, 1, 0])
    x = torch.randn(5, 3, 4).log_softmax(2)
    own, twin = (f(x, targets, ends, lengths, reduction="none") for f in (losses.ctc_loss, F.ctc_loss))
    torch.testing.assert_close(own, twin)
    assert own[1:].tolist() == [math.inf, 0.0]


def test_ctc_does_not_look_at_what_targets_are_filled_up_with() -> None:
    x, ends, lengths = torch.randn(5, 2, 4).log_softmax(2), torch.tensor([5, 4]), torch.tensor([1, 2])
    expected = losses.ctc_loss(x, torch.tensor([[1, 0], [2, 3]]), ends, lengths)
    for padding in (-1, 2, 100):
        assert torch.equal(losses.ctc_loss(x, torch.tensor([[1, padding], [2, 3]]), ends, lengths), expected)


def test_ctc_sums_over_all_paths() -> None:
    probabilities = torch.rand(4, 1, 3).double().softmax(2)
    target = [1, 2]
    total = 0.0
    for path in itertools.product(range(3), repeat=4):
        if [symbol for symbol, _ in itertools.groupby(path) if symbol] == target:
            total += math.prod(probabilities[step, 0, symbol].item() for step, symbol in enumerate(path))
    loss = losses.ctc_loss(probabilities.log(), torch.tensor([target]), torch.tensor([4]), torch.tensor([2]), reduction="sum")
    assert loss.item() == pytest.approx(-math.log(total), abs=1e-12)


def int64(*shape: int) -> Tensor:
    return torch.zeros(*shape, dtype=torch.int64)


# Each is a call of torch.nn.functional
REFUSED: list[Callable[[Any], Any]] = [
    lambda F: F.mse_loss(torch.zeros(2, 3), torch.zeros(2, 4)),
    lambda F: F.mse_loss(torch.zeros(2, 3), torch.zeros(2, 3), reduction="avg"),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2) + 3),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2) - 1),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(3)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(1)),
    lambda F: F.cross_entropy(torch.zeros(3, 3), int64(2)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), torch.zeros(2, 1)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), torch.zeros(1, 3)),
    lambda F: F.cross_entropy(torch.zeros(2, 3, 4), int64(2, 3)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2), weight=torch.zeros(1)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2), weight=torch.zeros(4)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2), label_smoothing=1.5),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2).int()),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2).bool()),
    lambda F: F.cross_entropy(int64(2, 3), int64(2)),
    lambda F: F.cross_entropy(torch.zeros(2, 3), int64(2), reduction="avg"),
    lambda F: F.huber_loss(torch.zeros(2), torch.zeros(2), delta=0.0),
    lambda F: F.huber_loss(torch.zeros(2), torch.zeros(2), delta=-1.0),
    lambda F: F.binary_cross_entropy_with_logits(torch.zeros(2, 3), torch.zeros(2, 1)),
    lambda F: F.binary_cross_entropy_with_logits(torch.zeros(2, 3), torch.zeros(2, 3), pos_weight=torch.zeros(2)),
    lambda F: F.kl_div(torch.zeros(2), torch.zeros(2), reduction="avg"),
    lambda F: F.kl_div(torch.zeros(2, 3), torch.zeros(2, 2)),
    lambda F: F.triplet_margin_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(3)),
    lambda F: F.triplet_margin_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(2, 3), margin=-1.0),
    lambda F: F.triplet_margin_loss(torch.zeros(2, 3), torch.zeros(2, 3), torch.zeros(4, 3)),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) + 5, int64(2) + 2),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) + 4, int64(2) + 3),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(3) + 4, int64(2) + 2),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) + 4, int64(1) + 2),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) + 4, int64(2) + 2, blank=3),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) - 1, int64(2) + 2),
    lambda F: F.ctc_loss(torch.zeros(4, 2, 3), int64(2, 2) + 1, int64(2) + 4, int64(2) - 1),
]


@pytest.mark.filterwarnings("ignore")
def test_what_torch_s_losses_refuse_ours_refuse() -> None:
    for i, call in enumerate(REFUSED):
        for home in (F, losses):
            with pytest.raises((ValueError, RuntimeError, TypeError, IndexError)):
                call(home)
                pytest.fail(f"{home.__name__} takes number {i}")


def test_embeddings_of_zeros_are_as_far_from_all_and_send_finite_gradients() -> None:
    views = torch.zeros(2, 4, requires_grad=True)
    loss = losses.nt_xent(views, torch.zeros(2, 4))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3)) and views.grad.isfinite().all()
