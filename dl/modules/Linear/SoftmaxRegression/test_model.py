"""Softmax regression against its formula, and through its real recipe."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Linear.SoftmaxRegression import train
from dl.modules.Linear.SoftmaxRegression.model import build
from dl.mytorch import testing
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.introspect import count_parameters
from dl.mytorch.tasks import Classification


@pytest.mark.parametrize(("channels", "image_size"), [(1, 28), (3, 32)])
def test_logits_have_one_row_per_image(channels: int, image_size: int) -> None:
    model = build(in_channels=channels, image_size=image_size, num_classes=7)
    assert model(torch.randn(3, channels, image_size, image_size)).shape == (3, 7)


def test_parameters_are_7850() -> None:
    assert count_parameters(build()) == 7_850  # 28 * 28 * 10 weights and 10 biases


class Formula(nn.Module):
    """x W + b, with a weight for each pixel and class."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weight = nn.Parameter(model.output.weight.detach().clone())
        self.bias = nn.Parameter(model.output.bias.detach().clone())

    def forward(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,kchw->bk", images, self.weight.view(-1, *images.shape[1:])) + self.bias


@pytest.mark.parametrize("image_size", [28, 32])
def test_the_model_equals_its_formula(image_size: int) -> None:
    model = build(image_size=image_size)
    testing.assert_same_as(model, Formula(model), torch.randn(4, 1, image_size, image_size))


def test_the_gradient_is_probability_minus_truth_times_the_image() -> None:
    model, batch = build().double(), synthetic.images(8)
    batch["images"] = batch["images"].double()
    Classification().step(model, batch).loss.backward()
    truth = torch.eye(10, dtype=torch.float64)[batch["labels"]]
    excess = (model(batch["images"]).softmax(1) - truth).detach() / 8  # (B, K)
    torch.testing.assert_close(model.output.weight.grad, excess.T @ batch["images"].flatten(1))
    torch.testing.assert_close(model.output.bias.grad, excess.sum(0))


def test_a_number_added_to_all_logits_changes_no_probability() -> None:
    model, images = build().double(), torch.randn(4, 1, 28, 28, dtype=torch.float64)
    before = model(images).softmax(1)
    model.output.bias.data += 100
    torch.testing.assert_close(model(images).softmax(1), before)


def test_the_order_of_pixels_does_not_matter() -> None:
    model, images, order = build().double(), torch.randn(4, 784, dtype=torch.float64), torch.randperm(784)
    before = model(images.view(4, 1, 28, 28))
    model.output.weight.data = model.output.weight.data[:, order]
    torch.testing.assert_close(model(images[:, order].view(4, 1, 28, 28)), before)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", epochs=1, batch_size=4),
    lambda: synthetic.images(32),
    variants=[{"preset": "linear"}],
    overfit=[testing.Overfit({"preset": "linear"}, lambda: synthetic.images(16))],
)


def test_recipe_learns_tiny_data_and_leaves_a_run(tmp_path: Path, no_figures: None, tiny_images: Splits) -> None:
    config = train.Config(out=str(tmp_path), data="fashion_mnist-sample", epochs=5, batch_size=16)
    history = train.main(config, tiny_images)
    assert history.test["top1_error"] < 0.2 < history[0]["train"]["top1_error"]
    assert {"history.json", "summary.txt", "best.pt"} <= {path.name for path in tmp_path.iterdir()}
