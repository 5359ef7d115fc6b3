"""The MLP against matrix products written out, and through its real recipe."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.modules.MLP.MLP import train
from dl.modules.MLP.MLP.model import PRESETS, build
from dl.mytorch import testing
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.introspect import count_parameters


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("channels", "image_size"), [(1, 28), (3, 32)])
def test_logits_have_one_row_per_image(preset: str, channels: int, image_size: int) -> None:
    model = build(preset, in_channels=channels, image_size=image_size, num_classes=7)
    assert model(torch.randn(3, channels, image_size, image_size)).shape == (3, 7)


@pytest.mark.parametrize(
    ("preset", "count"),
    [
        ("d2l", 203_530),  # d2l.ai, section 5.2: 784 * 256 + 256 and 256 * 10 + 10
        ("large", 535_818),  # 784 * 512 + 512, 512 * 256 + 256, 256 * 10 + 10
    ],
)
def test_parameters_are_those_of_the_layers(preset: str, count: int) -> None:
    assert count_parameters(build(preset)) == count


class Formula(nn.Module):
    """max(0, x W1^T + b1) and so on, from a model's parameters in their order."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.numbers = nn.ParameterList(nn.Parameter(p.detach().clone()) for p in model.parameters())

    def forward(self, images: Tensor) -> Tensor:
        x = images.reshape(len(images), -1)
        *hidden, output = zip(self.numbers[::2], self.numbers[1::2])
        for weight, bias in hidden:
            x = (x @ weight.T + bias).clamp(min=0)
        return x @ output[0].T + output[1]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_size", [28, 32])
def test_the_network_equals_matrix_products_written_out(preset: str, image_size: int) -> None:
    model = build(preset, image_size=image_size)
    testing.assert_same_as(model, Formula(model), torch.randn(4, 1, image_size, image_size))


def test_without_hidden_layers_it_is_linear() -> None:
    model, a, b = build(hidden=()).double(), torch.randn(2, 1, 28, 28).double(), torch.randn(2, 1, 28, 28).double()
    bias = model(torch.zeros_like(a))
    torch.testing.assert_close(model(a + b) - bias, model(a) - bias + model(b) - bias)


def test_dropout_acts_in_training_only() -> None:
    model, images = build("large"), torch.randn(4, 1, 28, 28)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


def test_dropped_units_are_a_fifth_and_the_rest_make_up_for_them() -> None:
    drop, ones = build("large").hidden.drop1, torch.ones(100_000)
    kept = drop(ones)
    assert kept.unique().tolist() == pytest.approx([0, 1.25])
    assert kept.mean() == pytest.approx(1, abs=0.01)


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(32),
    variants=[{"preset": preset} for preset in PRESETS],
    overfit=[
        testing.Overfit({"preset": preset}, lambda: synthetic.images(16), lr=lr)
        for preset, lr in (("large", 1e-3), ("d2l", 1e-3), ("tiny", 1e-2))
    ],
)


def test_recipe_learns_tiny_data_and_leaves_a_run(tmp_path: Path, no_figures: None, tiny_images: Splits) -> None:
    config = train.Config(out=str(tmp_path), data="fashion_mnist-sample", epochs=6, batch_size=16, lr=0.02)
    history = train.main(config, tiny_images)
    assert history.test["top1_error"] < 0.3 < history[0]["train"]["top1_error"]
    assert {"history.json", "summary.txt", "best.pt"} <= {path.name for path in tmp_path.iterdir()}
