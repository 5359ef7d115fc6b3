"""LeNet against torch's own layers, against the paper's numbers, and through its real recipe."""

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.LeNet import train
from dl.modules.CNN.LeNet.model import PRESETS, build
from dl.mytorch import testing
from dl.mytorch.data import Splits, synthetic
from dl.mytorch.introspect import count_parameters


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("image_size", [28, 32])
def test_logits_have_one_row_per_image(preset: str, image_size: int) -> None:
    model = build(preset, image_size=image_size, num_classes=7)
    assert model(torch.randn(3, 1, image_size, image_size)).shape == (3, 7)


def test_colour_images_are_taken() -> None:
    assert build("modern", in_channels=3, image_size=32)(torch.randn(2, 3, 32, 32)).shape == (2, 10)


def test_paper_network_has_the_paper_s_60000_parameters() -> None:
    model = build("lenet5")
    # Section II.B: C1 156, S2 12, C3 1,516, S4 32, C5 48,120, F6 10,164; the output's codes are fixed.
    layers = [model.c1, model.s2, model.c3, model.s4, model.c5, model.f6, model.output]
    assert [count_parameters(layer) for layer in layers] == [156, 12, 1516, 32, 48120, 10164, 0]
    assert count_parameters(model) == 60_000


@pytest.mark.parametrize("preset", ["modern", "textbook"])
def test_dense_variants_have_61706_parameters(preset: str) -> None:
    assert count_parameters(build(preset)) == 61_706  # d2l.ai, section 7.6: 156 + 2,416 + 48,120 + 10,164 + 850


@pytest.mark.parametrize(("preset", "act", "pool"), [("modern", nn.ReLU, nn.MaxPool2d), ("textbook", nn.Sigmoid, nn.AvgPool2d)])
@pytest.mark.parametrize("image_size", [28, 32])
def test_dense_variants_equal_a_plain_stack_of_torch_layers(preset: str, act: type, pool: type, image_size: int) -> None:
    model = build(preset, image_size=image_size)
    twin = nn.Sequential(
        *(nn.Conv2d(1, 6, 5, padding=2 if image_size == 28 else 0), act(), pool(2, 2)),
        *(nn.Conv2d(6, 16, 5), act(), pool(2, 2), nn.Conv2d(16, 120, 5), act(), nn.Flatten()),
        *(nn.Linear(120, 84), act(), nn.Linear(84, 10)),
    )
    copy_weights(model, twin)
    testing.assert_same_as(model, twin, torch.randn(4, 1, image_size, image_size))


class PaperTwin(nn.Module):
    """The 1998 network unit by unit, as section II.B tells it: slow, and without a line of model.py."""

    TABLE_I = """
        X...XXX..XXXX.XX
        XX...XXX..XXXX.X
        XXX...XXX..X.XXX
        .XXX..XXXX..X.XX
        ..XXX..XXXX.XX.X
        ...XXX..XXXX.XXX
    """  # rows: maps of S2; columns: maps of C3

    def __init__(self, codes: Tensor) -> None:
        super().__init__()
        sizes = {"c1": [(6, 1, 5, 5), (6,)], "s2": [(6,), (6,)], "c3": [(60, 5, 5), (16,)], "s4": [(16,), (16,)]}
        sizes |= {"c5": [(120, 16, 5, 5), (120,)], "f6": [(84, 120), (84,)]}
        for name, shapes in sizes.items():
            setattr(self, name, nn.ParameterList(torch.empty(shape) for shape in shapes))
        self.register_buffer("codes", codes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.squash(F.conv2d(F.pad(images, (2, 2, 2, 2)), *self.c1))
        x = self.squash(self.subsample(x, *self.s2))
        rows = self.TABLE_I.split()
        kernels, maps = iter(self.c3[0]), []
        for out in range(16):
            connected = [into for into in range(6) if rows[into][out] == "X"]
            maps.append(self.c3[1][out] + sum(F.conv2d(x[:, [into]], next(kernels)[None, None]) for into in connected))
        x = self.squash(torch.cat(maps, dim=1))
        x = self.squash(self.subsample(x, *self.s4))
        x = self.squash(F.linear(x.flatten(1), self.c5[0].flatten(1), self.c5[1]))
        x = self.squash(F.linear(x, *self.f6))
        return -torch.stack([((x - code) ** 2).sum(1) for code in self.codes], dim=1)

    @staticmethod
    def squash(x: Tensor) -> Tensor:
        return 1.7159 * torch.tanh(2 * x / 3)

    @staticmethod
    def subsample(x: Tensor, coefficient: Tensor, bias: Tensor) -> Tensor:
        total = x[..., ::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, ::2] + x[..., 1::2, 1::2]
        return torch.stack([coefficient[i] * total[:, i] + bias[i] for i in range(x.shape[1])], dim=1)


def test_paper_network_equals_its_description_unit_by_unit() -> None:
    model = build("lenet5")
    twin = PaperTwin(model.output.codes)
    copy_weights(model, twin)
    testing.assert_same_as(model, twin, torch.randn(3, 1, 28, 28))


def copy_weights(model: nn.Module, twin: nn.Module) -> None:
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.data.copy_(own.data)


def test_codes_are_fixed_signs_and_differ_between_classes() -> None:
    codes = build("lenet5").output.codes
    assert torch.equal(codes.abs(), torch.ones(10, 84))
    assert torch.equal(codes, build("lenet5").output.codes)
    assert min((a != b).sum() for a, b in itertools.combinations(codes, 2)) > 20


def test_paper_initialisation_is_bounded_by_fan_in() -> None:
    model = build("lenet5")
    assert 0.9 * 2.4 / 400 < model.c5.weight.abs().max() <= 2.4 / 400
    smallest, largest = model.c3.weight[:3].abs().max(), model.c3.weight[-6:].abs().max()  # 3 and 6 connections
    assert 0.7 * 2.4 / 75 < smallest <= 2.4 / 75
    assert 0.7 * 2.4 / 150 < largest <= 2.4 / 150


test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(32),
    variants=[{"preset": preset} for preset in PRESETS],
    # Five sigmoids in a row pass on little of a gradient: "textbook" learns one batch too, but not in a second.
    overfit=[testing.Overfit({"preset": preset}, lambda: synthetic.images(16)) for preset in ("modern", "lenet5", "tiny")],
)


def test_recipe_learns_tiny_data_and_leaves_a_run(tmp_path: Path, tiny_images: Splits) -> None:
    config = train.Config(out=str(tmp_path), data="fashion_mnist-sample", epochs=8, batch_size=16, lr=0.05)
    history = train.main(config, tiny_images)
    assert history.test["top1_error"] < 0.3 < history[0]["train"]["top1_error"]
    expected = {"config.json", "history.json", "speed.json", "summary.txt", "best.pt", "last.pt", "tensorboard"}
    expected |= {"curves.png", "kernels.png", "confusion.png"}
    assert expected <= {path.name for path in tmp_path.iterdir()}
