"""Linear regression against its closed form, three ways to the same numbers, and through its real recipe."""

from pathlib import Path

import pytest
import torch

from dl.modules.Linear.LinearRegression import train
from dl.modules.Linear.LinearRegression.data import rows, rule, table
from dl.modules.Linear.LinearRegression.model import build, solve
from dl.mytorch import load_weights, testing
from dl.mytorch.data import Batch, Splits
from dl.mytorch.introspect import count_parameters
from dl.mytorch.tasks import Regression


def doubles(num_examples: int = 60, num_features: int = 5, noise: float = 0.5) -> Batch:
    return {name: tensor.double() for name, tensor in rows(num_examples, num_features, noise).items()}


def tiny_table() -> Splits:
    return table(num_examples=50, num_features=3, noise=0.5, batch_size=16)


@pytest.mark.parametrize(("num_features", "num_targets"), [(1, 1), (7, 3)])
def test_predictions_have_one_row_per_example(num_features: int, num_targets: int) -> None:
    model = build(num_features=num_features, num_targets=num_targets)
    assert model(torch.randn(4, num_features)).shape == (4, num_targets)


def test_parameters_are_a_weight_per_feature_and_a_bias() -> None:
    assert [count_parameters(build(num_features=size)) for size in (1, 10, 784)] == [2, 11, 785]


def test_the_model_equals_torch_s_linear_layer() -> None:
    model, twin = build(num_features=5, num_targets=2), torch.nn.Linear(5, 2)
    twin.load_state_dict(model.linear.state_dict())
    testing.assert_same_as(model, twin, torch.randn(6, 5))


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(num_features=3, epochs=1, batch_size=16),
    lambda: rows(20, 3, noise=0.5),
    splits=lambda config: tiny_table(),
    task=Regression,
    inputs=lambda: (torch.randn(4, 3),),
    overfit=[testing.Overfit({}, lambda: rows(16, 3, noise=0), lr=0.1, below=1e-3)],
)


def test_without_noise_the_normal_equations_find_the_rule_itself() -> None:
    data, (weight, bias) = rows(60, 5, noise=0), rule(5)
    model = solve(data["features"].double(), data["targets"].double())
    torch.testing.assert_close(model.linear.weight.float(), weight.T)
    torch.testing.assert_close(model.linear.bias.float(), bias)


def test_the_normal_equations_equal_torch_s_least_squares() -> None:
    data = doubles()
    model = solve(data["features"], data["targets"])
    with_ones = torch.cat([data["features"], torch.ones(60, 1)], dim=1)
    expected = torch.linalg.lstsq(with_ones, data["targets"]).solution  # by QR factors
    torch.testing.assert_close(model.linear.weight, expected[:-1].T)
    torch.testing.assert_close(model.linear.bias, expected[-1])


def test_what_the_solution_leaves_over_is_uncorrelated_with_every_feature() -> None:
    data = doubles()
    remains = data["targets"] - solve(data["features"], data["targets"])(data["features"])
    assert remains.mean().abs() < 1e-12
    assert (data["features"].T @ remains).abs().max() < 1e-12


def test_gradient_descent_ends_at_the_closed_form() -> None:
    data = doubles()
    model, exact = build(num_features=5).double(), solve(data["features"], data["targets"])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        Regression().step(model, data).loss.backward()
        optimizer.step()
    for own, expected in zip(model.parameters(), exact.parameters()):
        torch.testing.assert_close(own, expected, rtol=0, atol=1e-9)


def test_the_noise_is_what_remains() -> None:
    data = rows(10_000, 3, noise=0.5)
    weight, bias = rule(3)
    errors = data["targets"] - (data["features"] @ weight + bias)
    assert errors.std() == pytest.approx(0.5, rel=0.03)


def test_parts_of_a_table_share_the_rule_but_no_row() -> None:
    train_part, val_part, other_seed = rows(50, 3, 0), rows(50, 3, 0, part=1), rows(50, 3, 0, seed=1)
    assert not torch.isin(train_part["features"], val_part["features"]).any()
    found = [solve(*(x.double() for x in data.values())).linear.weight for data in (train_part, val_part, other_seed)]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 0.1


@pytest.mark.parametrize("flags", [{"num_examples": 0}, {"num_features": 0}, {"noise": -1.0}])
def test_a_table_that_cannot_be_meant_is_refused(flags: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"--{next(iter(flags)).replace('_', '-')} has to be"):
        train.Config(**flags)


def test_recipe_is_as_good_as_the_closed_form(tmp_path: Path, no_figures: None) -> None:
    history = train.main(train.Config(out=str(tmp_path), epochs=16, lr=0.03))
    learn, _, test = (rows(1000, 10, 0.5, part=part) for part in range(3))
    exact = solve(learn["features"].double(), learn["targets"].double()).float()
    best = (exact(test["features"]) - test["targets"]).square().mean().sqrt().item()
    assert history.test["rmse"] == pytest.approx(best, rel=1e-3)
    assert 0 < history.test["unexplained"] < 0.05 < history[0]["train"]["unexplained"]
    trained = load_weights(build(), tmp_path / "best.pt")
    torch.testing.assert_close(trained.linear.weight, exact.linear.weight, rtol=0, atol=2e-3)
    assert {"history.json", "summary.txt", "best.pt"} <= {path.name for path in tmp_path.iterdir()}
