"""U-Net: sizes and counts of the paper, a twin by hand, tiles, the weights of borders; and through its recipe."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Segmentation.components import components
from dl.modules.Segmentation.task import Segmentation
from dl.modules.Segmentation.testing import disc_splits, discs
from dl.modules.Segmentation.UNet import train
from dl.modules.Segmentation.UNet.model import UNet, build, mirrored
from dl.modules.Segmentation.UNet.weights import border_weights, class_weights
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.introspect import count_parameters, without_values


def test_the_paper_s_network_has_23_convolutions_and_31_030_658_parameters() -> None:
    with without_values():
        model = build("unet")
        assert count_parameters(model) == count_parameters(build("padded")) == 31_030_658
    assert sum(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in model.modules()) == 23


def test_maps_have_the_sizes_of_figure_1() -> None:
    shapes: dict[str, int] = {}
    with without_values():
        model = build("unet")
        for name, module in model.named_modules():
            if name.count(".") == 1:
                module.register_forward_hook(lambda m, _, out, name=name: shapes.update({name: out.shape[-1]}))
        logits = model(torch.zeros(1, 1, 572, 572))
    assert logits.shape == (1, 2, 388, 388) and model.margin == 92
    assert [shapes[f"down.{i}"] for i in range(5)] == [568, 280, 136, 64, 28]
    assert [shapes[f"up.{i}"] for i in range(4)] == [52, 100, 196, 388]


def test_the_contracting_path_s_maps_are_cropped_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    crops = []
    known = UNet.forward.__globals__["centre_crop"]

    def crop(x: Tensor, height: int, width: int) -> Tensor:
        crops.append((x.shape[-1], width, (x.shape[-1] - width) // 2))
        return known(x, height, width)

    monkeypatch.setitem(UNet.forward.__globals__, "centre_crop", crop)
    with without_values():
        build("unet")(torch.zeros(1, 1, 572, 572))
    assert crops == [(64, 56, 4), (136, 104, 16), (280, 200, 40), (568, 392, 88)]
    rows = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 1, 8, 8)
    assert known(rows, 2, 4)[0, 0].tolist() == [[2, 3, 4, 5]] * 2


@pytest.mark.parametrize(("side", "output"), [(508, 324), (540, 356), (572, 388), (588, 404)])
def test_valid_sides_are_16_k_plus_12_and_others_are_refused(side: int, output: int) -> None:
    with without_values():
        model = build("unet", width=1)
        assert model(torch.zeros(1, 1, side, 204)).shape == (1, 2, output, 20)
        with pytest.raises(ValueError, match=f"an image of {side - 1} pixels .* the next is {side}"):
            model(torch.zeros(1, 1, side - 1, 204))
        with pytest.raises(ValueError, match="image of 30 pixels .* the next is 32"):
            build("padded", width=1)(torch.zeros(1, 1, 32, 30))


class Twin(nn.Module):
    """Figure 1 with two poolings, written out."""

    def __init__(self, model: UNet, padding: int) -> None:
        super().__init__()
        self.weights = nn.ParameterList(parameter.detach().clone() for parameter in model.parameters())
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        (a1, a2, b1, b2, c1, c2), (u, d1, d2), (v, e1, e2), (head,) = self.pairs()
        a = self.twice(x, a1, a2)
        b = self.twice(F.max_pool2d(a, 2), b1, b2)
        x = F.conv_transpose2d(self.twice(F.max_pool2d(b, 2), c1, c2), *u, stride=2)
        x = self.twice(torch.cat([b if self.padding else b[:, :, 4:-4, 4:-4], x], 1), d1, d2)
        x = F.conv_transpose2d(x, *v, stride=2)
        x = self.twice(torch.cat([a if self.padding else a[:, :, 16:-16, 16:-16], x], 1), e1, e2)
        return F.conv2d(x, *head)

    def pairs(self) -> list[list[tuple[Tensor, Tensor]]]:
        weights = list(self.weights)
        pairs = list(zip(weights[::2], weights[1::2], strict=True))
        return [pairs[:6], pairs[6:9], pairs[9:12], pairs[12:]]

    def twice(self, x: Tensor, first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
        return F.conv2d(F.conv2d(x, *first, padding=self.padding).relu(), *second, padding=self.padding).relu()


@pytest.mark.parametrize("padded", [False, True])
def test_network_is_its_twin_in_outputs_gradients_and_steps(padded: bool) -> None:
    model = build("tiny", padded=padded)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)  # biases too
    testing.assert_same_as(model, Twin(model, int(padded)), torch.randn(2, 1, 48, 44), tolerance=1e-9)


def test_weights_begin_with_a_variance_of_two_over_the_inputs_of_a_unit() -> None:
    model = build("unet", width=16, depth=2)
    for name, inputs in (
        ("down.1.conv2", 9 * 32),
        ("down.2.conv1", 9 * 32),
        ("up.0.up", 64),
        ("up.1.convolutions.conv1", 9 * 32),
    ):
        module = model.get_submodule(name)
        assert module.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.1), name
        assert not module.bias.any()


# ---- tiles ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize("size", [(50, 37), (3, 90), (1, 1)])
def test_an_image_in_tiles_has_the_classes_of_an_image_in_one_piece(size: tuple[int, int], depth: int) -> None:
    model = build("tiny", depth=depth, width=2).double().eval()
    image = torch.randn(2, 1, *size, dtype=torch.float64)
    with torch.no_grad():
        found = []
        for tile in (1, 20, 1000):
            model.tile = tile
            found.append(model.predict(image))
    assert found[0].shape == (2, 2, *size)
    torch.testing.assert_close(found[0], found[2], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[1], found[2], rtol=0, atol=1e-12)


def test_a_tile_at_the_border_reads_the_mirrored_image() -> None:
    model = build("tiny").double().eval()
    image = torch.randn(1, 1, 24, 24, dtype=torch.float64)
    with torch.no_grad():
        found, expected = model.predict(image), model(F.pad(image, (20,) * 4, mode="reflect"))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    assert mirrored(-3, 6, 3, torch.device("cpu")).tolist() == [1, 2, 1, 0, 1, 2, 1, 0, 1]


def test_padded_networks_take_images_of_any_size() -> None:
    model = build("tiny", padded=True).eval()
    image = torch.randn(1, 1, 24, 16)
    with torch.no_grad():
        assert torch.equal(model.predict(image), model(image))
        assert model.predict(image[..., :21, :15]).shape == (1, 2, 21, 15)


# ---- the weights of the loss ---------------------------------------------------------------------------------------


def test_the_gap_between_two_cells_has_the_worked_weights() -> None:
    weights = border_weights(torch.tensor([[1, 1, 1, 1, 0, 0, 0, 2, 2, 2, 2]]))
    expected = torch.tensor([0.0] * 4 + [7.2614904] * 3 + [0.0] * 4)
    torch.testing.assert_close(weights[0], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(
        border_weights(torch.tensor([[1], [0], [0], [0], [1]])).flatten(), expected[3:8], rtol=1e-6, atol=0
    )


def test_one_cell_alone_has_no_border() -> None:
    mask = torch.zeros(9, 9, dtype=torch.uint8)
    assert not border_weights(mask).any()
    mask[2:5, 2:6] = 1
    assert not border_weights(mask).any()
    mask[8, 8] = 255  # does not count
    assert not border_weights(mask).any()


def test_weights_are_those_of_distances_to_each_cell_by_itself() -> None:
    """Equation 2 by brute force: the distance of each pixel to each pixel of each cell."""
    mask = torch.rand(20, 30, generator=torch.Generator().manual_seed(0)) < 0.15
    mask[5:14, 8:20] = False
    cells = components(mask)
    places = torch.stack(torch.meshgrid(torch.arange(20), torch.arange(30), indexing="ij"), dim=-1).double()
    to_each = [
        (places[:, :, None] - places[cells == i]).square().sum(-1).amin(-1).sqrt() for i in range(1, int(cells.max()) + 1)
    ]
    near = torch.stack(to_each).sort(0).values
    expected = torch.where(mask, 0.0, 10 * torch.exp(-((near[0] + near[1]) ** 2) / 50))
    torch.testing.assert_close(border_weights(mask.byte()).double(), expected, rtol=1e-6, atol=1e-9)


def test_class_weights_give_each_class_the_same_sum() -> None:
    weights = class_weights(torch.tensor([[0, 0, 0, 2]]))
    torch.testing.assert_close(weights, torch.tensor([[2 / 3, 2 / 3, 2 / 3, 2.0]]))


# ---- the recipe ----------------------------------------------------------------------------------------------------


def config(**flags: Any) -> train.Config:
    return train.Config(**{"model": "tiny", "steps": 3, "eval_every": 2, "batch_size": 3, **flags})


def test_what_cannot_be_asked_for_is_refused() -> None:
    for flags, says in (({"border": -1.0}, "--border"), ({"sigma": 0.0}, "--sigma"), ({"momentum": 1.0}, "--momentum")):
        with pytest.raises(UserError, match=says):
            config(**flags)


def test_pixels_weigh_what_the_config_says() -> None:
    mask = torch.tensor([[1, 0, 1]], dtype=torch.uint8)
    assert train.pixel_weights(config(border=0.0, balance=True), mask).tolist() == [[0.75, 1.5, 0.75]]
    torch.testing.assert_close(train.pixel_weights(config(), mask)[0, 1], torch.tensor(1 + 10 * math.exp(-4 / 50)))


def batch() -> dict[str, Tensor]:
    given = discs(4, size=60)
    return {"images": given["images"], "masks": given["masks"][:, 20:40, 20:40]}


test_standard = testing.standard_checks(
    build,
    train.main,
    config(),
    batch,
    splits=lambda _: disc_splits(margin=20),
    task=lambda: Segmentation(("ground", "disc")),
    variants=[{}],
    overfit=[testing.Overfit(lr=1e-2, below=0.1)],
)
