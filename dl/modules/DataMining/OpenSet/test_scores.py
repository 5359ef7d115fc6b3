"""Scores against numbers worked out by hand, and against SciPy and scikit-learn."""

import math

import pytest
import torch
from torch import Tensor

from dl.modules.DataMining.mahalanobis import shrunk
from dl.modules.DataMining.OpenSet import metrics, scores
from dl.modules.DataMining.OpenSet.scores import KNN, Mahalanobis, OpenMax, TrainingStatistics, ViM, fit_weibull
from dl.modules.DataMining.threshold import conformal_threshold, quantile_threshold
from dl.mytorch.config import UserError
from dl.mytorch.testing.device import device_without_float64

LOG = math.log
TWO = torch.tensor([[LOG(6), LOG(2)], [0.0, 0.0]])  # probabilities 3/4 and 1/4, then 1/2 each


def close(found: Tensor, expected: list[float]) -> None:
    torch.testing.assert_close(found.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-7)


def test_scores_of_logits_by_hand() -> None:
    close(scores.msp(TWO), [0.25, 0.5])
    close(scores.max_logit(TWO), [-LOG(6), 0.0])
    close(scores.energy(TWO), [-LOG(8), -LOG(2)])
    close(scores.energy(TWO, temperature=0.5), [-0.5 * LOG(40), -0.5 * LOG(2)])
    close(scores.entropy(TWO), [0.75 * LOG(4 / 3) + 0.25 * LOG(4), LOG(2)])


def test_mahalanobis_by_hand() -> None:
    features = torch.tensor([[-1.0, 0], [1, 0], [9, -2], [9, 2]])  # means (0, 0), (9, 0); variances 1/2 and 2
    score = Mahalanobis(features, torch.tensor([0, 0, 7, 7]))
    close(score(torch.tensor([[1.0, 0], [9, 4], [4, 2]])), [2.0, 8.0, 34.0])


def test_mahalanobis_leaves_out_what_never_varies() -> None:
    features = torch.tensor([[-1.0, 5], [1, 5], [3, 5], [5, 5]])
    assert Mahalanobis(features, torch.tensor([0, 0, 1, 1]))(torch.tensor([[2.0, 5]])).item() == pytest.approx(4)


def test_shrinkage_grows_where_images_are_few_and_makes_every_direction_count() -> None:
    centred = torch.randn(400, 6, dtype=torch.float64) * torch.tensor([1.0, 2, 3, 1, 1, 1])
    shares = []
    for count in (5, 40, 400):
        covariance = centred[:count].T @ centred[:count] / count
        found = shrunk(covariance, centred[:count])
        assert found.trace().item() == pytest.approx(covariance.trace().item())
        shares.append(1 - (found[0, 1] / covariance[0, 1]).item())
        assert torch.linalg.eigvalsh(found)[0] > 0
    assert 1 >= shares[0] > shares[1] > shares[2] > 0
    few = Mahalanobis(centred[:3], torch.zeros(3), shrink=True)
    assert few(10 * torch.linalg.qr(centred[:3].T, mode="complete")[0].T[-1:]).item() > 50  # outside of what three span


def test_knn_is_the_distance_on_the_circle_of_length_1() -> None:
    score = KNN(torch.tensor([[3.0, 0], [0, 0.1], [-7, 0]]), k=2)
    close(score(torch.tensor([[5.0, 0], [-1, -1]])), [2**0.5, (2 + 2**0.5) ** 0.5])


def test_vim_by_hand() -> None:
    """Features (x, y), of which the classes read x + 1 and -x - 1: the origin is (-1, 0); x varies most, y is the residual."""
    weight, bias = torch.tensor([[1.0, 0], [-1, 0]]), torch.tensor([1.0, -1])
    features = torch.tensor([[9.0, 1], [-11, -1], [9, -1], [-11, 1]])
    score = ViM(TrainingStatistics(features, features @ weight.T + bias, torch.tensor([0, 1, 0, 1]), weight, bias), dim=1)
    assert score.alpha.item() == pytest.approx(10, rel=1e-2)  # the largest logits are 10, the residuals 1
    query = torch.tensor([[1.0, 3.0]])
    found = score(query, query @ weight.T + bias)
    assert found.item() == pytest.approx(30 - LOG(math.exp(2) + math.exp(-2)), rel=1e-2)


def test_vim_refuses_a_space_that_leaves_no_residual() -> None:
    known = TrainingStatistics(torch.randn(5, 3), torch.randn(5, 2), torch.zeros(5), torch.randn(2, 3), torch.zeros(2))
    with pytest.raises(ValueError, match="dim 3"):
        ViM(known, dim=3)


def test_weibull_is_fitted_where_the_likelihood_is_greatest() -> None:
    values = torch.tensor([1.0, 1.3, 1.7, 2.5, 4.0, 1.2], dtype=torch.float64)
    shape, scale = fit_weibull(values)

    def likelihood(shape: float, scale: float) -> float:
        parts = values / scale
        return (LOG(shape / scale) + (shape - 1) * parts.log() - parts**shape).sum().item()

    best = likelihood(shape, scale)
    for other in [(shape * 1.001, scale), (shape / 1.001, scale), (shape, scale * 1.001), (shape, scale / 1.001)]:
        assert likelihood(*other) < best
    with pytest.raises(ValueError, match="above 0"):
        fit_weibull(torch.zeros(3))


def test_openmax_by_hand() -> None:
    """One class so far from its mean that F is 1: with alpha 1 its whole logit goes to "unknown"."""
    logits = torch.tensor([[4.0, 0], [5, 0], [6, 0], [0, 4], [0, 5], [0, 6], [9, 8]])
    score = OpenMax(logits[:6], torch.tensor([0, 0, 0, 1, 1, 1]), tail=2, alpha=1)
    close(score.means, [[5.0, 0], [0, 5]])  # type: ignore[arg-type]
    close(score.start, [0.0, 0.0])  # both distances are 1
    far = torch.tensor([[100.0, 2.0]])
    close(score(far), [1 / (1 + math.exp(2 - 100) + math.exp(0 - 100))])
    assert score(torch.tensor([[5.0, 0]])).item() == pytest.approx(1 / (math.exp(5) + 2), rel=1e-6)  # at the mean F is 0


def test_openmax_refuses_a_class_that_the_network_never_gets_right() -> None:
    with pytest.raises(ValueError, match="class 1"):
        OpenMax(torch.tensor([[4.0, 0], [6, 0], [3, 2]]), torch.tensor([0, 0, 1]))


def test_openmax_counts_rightly_classified_images_only() -> None:
    logits = torch.tensor([[4.0, 0], [6, 0], [0, 50], [0, 5], [0, 7]])
    assert OpenMax(logits, torch.tensor([0, 0, 0, 1, 1])).means.tolist() == [[5, 0], [0, 6]]


def test_all_eight_scores_rise_far_from_what_was_seen() -> None:
    labels = torch.arange(300) % 3
    weight, bias = torch.eye(3, 5) * 4, torch.zeros(3)
    noise = 0.1 * torch.randn(300, 5) * torch.tensor([1, 1, 1, 1, 0.3])
    features = torch.eye(3, 5)[labels] + noise
    known = TrainingStatistics(features, features @ weight.T + bias, labels, weight, bias)
    strange = torch.tensor([[0.3, 0.3, 0.3, 0, 2.0]])
    fitted = scores.fit_all(known)
    assert list(fitted) == ["MSP", "MaxLogit", "energy", "entropy", "Mahalanobis", "kNN", "ViM", "OpenMax"]
    for name, score in fitted.items():
        seen = score(known.features, known.logits)
        assert seen.shape == (300,) and (score(strange, strange @ weight.T + bias) > seen.quantile(0.9)).item(), name


def known_of(features: Tensor, labels: Tensor, classes: int) -> TrainingStatistics:
    """What a network whose weights are the first rows of the identity makes of these features."""
    weight, bias = torch.eye(classes, features.shape[1]), torch.zeros(classes)
    return TrainingStatistics(features, features @ weight.T, labels, weight, bias)


DEGENERATE = {
    "half of the features are always 0": lambda x: x * torch.tensor([1.0, 1, 1, 0, 0, 0]),
    "nearly so: their rounding is left": lambda x: x * torch.tensor([1.0, 1, 1, 1e-9, 1e-9, 1e-9]),
    "half are constant": lambda x: torch.where(torch.arange(6) < 3, x, 0.1),
    "half repeat the others": lambda x: x[:, :3].repeat(1, 2),
    "tiny": lambda x: x * 1e-21,
    "huge": lambda x: x * 1e19,
}


@pytest.mark.parametrize("change", list(DEGENERATE))
def test_every_score_is_finite_and_tells_images_apart_with_degenerate_features(change: str) -> None:
    features = torch.relu(torch.randn(60, 6)) + torch.eye(6)[torch.arange(60) % 2] * 5
    features = DEGENERATE[change](features)
    known = known_of(features, features[:, :2].argmax(1), 2)
    for name, score in scores.fit_all(known).items():
        found = score(features, known.logits)
        assert found.isfinite().all(), name
        if name in ("Mahalanobis", "kNN") or change not in ("tiny", "huge"):  # logits of that size say nothing
            assert len(found.unique()) > 1, name


def test_one_class_and_one_example_of_each_class() -> None:
    features = torch.randn(30, 4).abs()
    single = known_of(features, torch.zeros(30, dtype=torch.long), 1)
    assert all(score(features, single.logits).isfinite().all() for score in scores.fit_all(single).values())
    few = known_of(torch.eye(2, 4), torch.arange(2), 2)
    for score in (KNN(few.features), lambda x: ViM(few)(x, x[:, :2]), lambda x: OpenMax(few.logits, few.labels)(x[:, :2])):
        assert score(torch.tensor([[1.0, 0, 0, 0], [0.2, 0.3, 4, 0]])).isfinite().all()
    with pytest.raises(UserError, match="2 training features do not vary within their classes"):
        Mahalanobis(few.features, few.labels)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-20])
def test_identical_features_have_no_mahalanobis_distance_but_other_scores(value: float) -> None:
    known = known_of(torch.full((30, 4), value), torch.zeros(30, dtype=torch.long), 1)
    for shrink in (False, True):
        with pytest.raises(UserError, match="do not vary"):
            Mahalanobis(known.features, known.labels, shrink)
    query = torch.tensor([[0.3, 0.2, 0.9, 0.1]])
    for score in (ViM(known), lambda x, y: KNN(known.features)(x), lambda x, y: OpenMax(known.logits, known.labels)(y)):
        assert score(query, query[:, :1]).isfinite().all()


def test_without_a_residual_vim_is_the_energy() -> None:
    features = torch.relu(torch.randn(300, 16)) * (torch.arange(16) < 6)
    known = known_of(features, torch.zeros(300), 4)
    close(ViM(known)(features, known.logits), scores.energy(known.logits.double()).tolist())


def test_directions_of_any_scale_are_those_of_the_ordinary_scale() -> None:
    features, query = torch.randn(40, 8), torch.randn(3, 8)
    expected = KNN(features, k=3)(query)
    assert torch.equal(scores._directions(features), torch.nn.functional.normalize(features))
    for scale in (2.0**-120, 2.0**-60, 2.0**100):
        assert torch.equal(KNN(features * scale, k=3)(query * scale), expected)
    assert scores._directions(torch.zeros(1, 3)).tolist() == [[0, 0, 0]]


def test_features_that_are_not_finite_and_no_features_are_refused() -> None:
    bad = known_of(torch.randn(9, 4).index_fill_(0, torch.tensor([3]), math.nan), torch.zeros(9), 2)
    for fit in (lambda: Mahalanobis(bad.features, bad.labels), lambda: KNN(bad.features), lambda: ViM(bad)):
        with pytest.raises(UserError, match="4 of 36 are NaN"):
            fit()
    with pytest.raises(UserError, match="none"):
        Mahalanobis(bad.features[:0], bad.labels[:0])
    assert scores.entropy(torch.tensor([[0.0, -math.inf, 0.0]])).item() == pytest.approx(LOG(2))


def test_fits_and_weights_have_the_precision_of_float64() -> None:
    values = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)
    shape, scale = fit_weibull(values)
    assert scale == pytest.approx(((1 + 2**shape + 4**shape) / 3) ** (1 / shape), rel=1e-14)  # mean(x^k)^(1/k)
    logits = torch.eye(3, dtype=torch.float64).repeat(2, 1) * torch.tensor([4.0, 4, 4, 6, 6, 6], dtype=torch.float64)[:, None]
    score = OpenMax(logits, torch.arange(3).repeat(2))
    far = torch.tensor([[900.0, 899.0, 898.0]], dtype=torch.float64)  # F is 1 for all: of the first, second, third 1, 2/3, 1/3
    unknown = 900 + 899 * 2 / 3 + 898 / 3
    expected = 1 / (1 + sum(math.exp(left - unknown) for left in (0, 899 / 3, 898 * 2 / 3)))
    assert score(far).item() == pytest.approx(expected, rel=1e-12)


def test_a_device_without_float64_has_the_same_scores() -> None:
    features = torch.randn(40, 6).abs() + torch.eye(6)[torch.arange(40) % 2] * 5
    known = known_of(features, torch.arange(40) % 2, 2)
    expected = [score(features[:5], known.logits[:5]) for score in scores.fit_all(known).values()]
    with device_without_float64() as device:
        there = TrainingStatistics(*(tensor.to(device) for tensor in known))
        fitted = scores.fit_all(there).values()
        found = [score(features[:5].to(device), known.logits[:5].to(device)).cpu() for score in fitted]
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other)


def test_measures_refuse_nan_and_nothing() -> None:
    for known, unknown in (([], [1.0]), ([1.0], []), ([math.nan], [1.0]), ([1.0, 2.0], [math.nan])):
        for measure in (metrics.auroc, metrics.aupr_in, metrics.aupr_out, metrics.fpr95):
            with pytest.raises(ValueError, match="none NaN"):
                measure(torch.tensor(known), torch.tensor(unknown))


def test_measures_by_hand() -> None:
    known, unknown = torch.tensor([1.0, 2, 3, 4]), torch.tensor([3.0, 5])
    assert metrics.auroc(known, unknown) == pytest.approx((2.5 + 4) / 8)
    # From above: 5 (right), 4, then both 3s: precision 1 at recall 1/2, 2/4 at recall 1.
    assert metrics.aupr_out(known, unknown) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 4)
    # From below: 1, 2 (right), both 3s, 4: precision 1, 1, 3/4, 4/5.
    assert metrics.aupr_in(known, unknown) == pytest.approx((1 + 1 + 3 / 4 + 4 / 5) / 4)
    assert metrics.fpr95(known, unknown) == 0.5
    assert metrics.fpr95(torch.arange(100), torch.tensor([94, 95, 96, 97])) == 0.25


def test_thresholds_accept_what_they_promise() -> None:
    scores_ = torch.arange(1.0, 101)[torch.randperm(100)]
    assert quantile_threshold(scores_) == 95 and conformal_threshold(scores_) == 96  # ceil(101 * 0.95)
    assert conformal_threshold(scores_[:10]) == math.inf
    with pytest.raises(ValueError, match="none NaN"):
        quantile_threshold(torch.tensor([1.0, math.nan]))


def test_conformal_threshold_accepts_95_percent_on_average() -> None:
    draws = torch.randn(600, 60)  # 59 held out, 1 to test
    accepted = [draw[-1].item() <= conformal_threshold(draw[:-1]) for draw in draws]
    assert abs(sum(accepted) / len(accepted) - 0.95) < 0.03


@pytest.mark.parity
@pytest.mark.parametrize("decimals", [0, 6])
def test_measures_are_scikit_learn_s(decimals: int) -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    known, unknown = (torch.randn(3000) * 3).round(decimals=decimals), (torch.randn(800) * 3 + 2).round(decimals=decimals)
    both, truth = torch.cat([known, unknown]), torch.cat([torch.zeros(3000), torch.ones(800)])
    assert metrics.auroc(known, unknown) == pytest.approx(sklearn.roc_auc_score(truth, both), abs=1e-12)
    assert metrics.aupr_out(known, unknown) == pytest.approx(sklearn.average_precision_score(truth, both), abs=1e-12)
    assert metrics.aupr_in(known, unknown) == pytest.approx(sklearn.average_precision_score(1 - truth, -both), abs=1e-12)
    accepted_unknown, accepted_known, _ = sklearn.roc_curve(1 - truth, -both, drop_intermediate=False)
    assert metrics.fpr95(known, unknown) == pytest.approx(accepted_unknown[accepted_known >= 0.95].min(), abs=1e-12)


@pytest.mark.parity
def test_shrunk_covariance_is_scikit_learn_s() -> None:
    sklearn = pytest.importorskip("sklearn.covariance")
    centred = torch.randn(30, 8, dtype=torch.float64) * torch.arange(1, 9)
    expected, _ = sklearn.ledoit_wolf(centred.numpy(), assume_centered=True)
    torch.testing.assert_close(shrunk(centred.T @ centred / 30, centred), torch.from_numpy(expected))


@pytest.mark.parity
def test_weibull_fit_is_scipy_s() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = stats.weibull_min.rvs(1.7, scale=3.0, size=200, random_state=0)
    shape, _, scale = stats.weibull_min.fit(values, floc=0)
    assert fit_weibull(torch.from_numpy(values)) == pytest.approx((shape, scale), rel=1e-4)
