"""GoogLeNet against torchvision, against table 1 of the paper, by hand, and through its real recipe."""

import contextlib
import importlib
from types import ModuleType
from typing import Any, Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.CNN.GoogLeNet import train
from dl.modules.CNN.GoogLeNet.convert import from_torchvision
from dl.modules.CNN.GoogLeNet.model import STYLES, AuxiliaryHead, GoogLeNetOutput, Inception, build
from dl.modules.CNN.GoogLeNet.task import AuxiliaryClassification
from dl.mytorch import Probe, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import ImageSet, synthetic
from dl.mytorch.introspect import count_parameters, without_values

VARIANTS = [{}, {"style": "paper", "width": 1 / 8}, {"aux": False}]


def parameters(preset: str, **overrides: Any) -> int:
    with without_values():
        return count_parameters(build(preset, **overrides))


def heads(output: Tensor | tuple) -> Tensor:
    """The outputs of all heads side by side: the last head, then those after 4a and 4d, which torchvision has backwards."""
    if isinstance(output, Tensor):
        return output
    return torch.cat(output if isinstance(output, GoogLeNetOutput) else (output[0], output[2], output[1]), dim=1)


class AllHeads(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return heads(self.model(images))


# ---- sizes ---------------------------------------------------------------------------------------------------------

# Table 1, row by row: channels in, the six widths, and the column "params", in thousands.
TABLE_1 = {
    "3a": (192, (64, 96, 128, 16, 32, 32), 159),
    "3b": (256, (128, 128, 192, 32, 96, 64), 380),
    "4a": (480, (192, 96, 208, 16, 48, 64), 364),
    "4b": (512, (160, 112, 224, 24, 64, 64), 437),
    "4c": (512, (128, 128, 256, 24, 64, 64), 463),
    "4d": (512, (112, 144, 288, 32, 64, 64), 580),
    "4e": (528, (256, 160, 320, 32, 128, 128), 840),
    "5a": (832, (256, 160, 320, 32, 128, 128), 1072),
    "5b": (832, (384, 192, 384, 48, 128, 128), 1388),
}


def convolution(into: int, out: int, side: int) -> int:
    return side * side * into * out + out


def inception(into: int, widths: tuple[int, ...]) -> int:
    one, reduce_three, three, reduce_five, five, pool = widths
    return sum(
        convolution(*layer)
        for layer in [
            (into, one, 1),
            (into, reduce_three, 1),
            (reduce_three, three, 3),
            (into, reduce_five, 1),
            (reduce_five, five, 5),
            (into, pool, 1),
        ]
    )


def test_paper_network_has_the_parameters_of_table_1() -> None:
    with without_values():
        model = build("paper")
    stem = convolution(3, 64, 7) + convolution(64, 64, 1) + convolution(64, 192, 3)
    modules = {name: inception(into, widths) for name, (into, widths, _) in TABLE_1.items()}
    head = 1024 * 1000 + 1000
    assert count_parameters(model.stem) == stem == 9_472 + 4_160 + 110_784
    for name, block in model.body.items():
        assert count_parameters(block) == modules.get(name, 0)
    assert count_parameters(model.head) == head == 1_025_000
    assert parameters("paper", aux=False) == stem + sum(modules.values()) + head == 6_998_552
    for head_at, into in (("4a", 512), ("4d", 528)):
        auxiliary = convolution(into, 128, 1) + (2048 * 1024 + 1024) + (1024 * 1000 + 1000)
        assert count_parameters(model.aux[head_at]) == auxiliary
    assert count_parameters(model) == 6_998_552 + 3_188_840 + 3_190_888 == 13_378_280


@pytest.mark.parametrize("name", TABLE_1)
def test_column_of_parameters_in_table_1_is_right_within_8_percent(name: str) -> None:
    into, widths, thousands = TABLE_1[name]
    assert inception(into, widths) / 1024 == pytest.approx(thousands, rel=0.08)  # 4c is off by 7 %, most by less than 2


def test_network_with_norms_has_as_many_parameters_as_torchvision_s() -> None:
    assert parameters("googlenet", aux=False) == 6_624_904
    assert parameters("googlenet") == 13_004_888


@pytest.mark.parametrize(
    ("preset", "stem", "side", "first"),
    [("googlenet", "imagenet", 224, 28), ("paper", "imagenet", 256, 32), ("paper", "small", 28, 28)],
)
def test_maps_have_the_sides_of_table_1(preset: str, stem: str, side: int, first: int) -> None:
    with without_values():
        model = build(preset, stem=stem)
        with Probe(model, "stem", "body.4a", "body.5b") as probe:
            logits = model.eval()(torch.empty(1, 3, side, side))
    assert probe["stem"].shape == (1, 192, first, first)
    assert probe["body.4a"].shape == (1, 512, first // 2, first // 2)
    assert probe["body.5b"].shape == (1, 1024, first // 4, first // 4)
    assert logits.shape == (1, 1000)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("side", [28, 32])
def test_logits_have_one_row_per_image(variant: dict[str, Any], side: int) -> None:
    model = build("tiny", **variant, num_classes=7, in_channels=2)
    images = torch.randn(3, 2, side, side)
    assert heads(model(images)).shape == (3, 7 if variant.get("aux") is False else 21)
    assert model.eval()(images).shape == (3, 7)


# ---- torchvision ---------------------------------------------------------------------------------------------------


def published(torchvision: ModuleType, **options: Any) -> nn.Module:
    return testing.randomize_norms(torchvision.models.googlenet(weights=None, init_weights=False, num_classes=5, **options))


def narrow(torchvision: ModuleType, **options: Any) -> nn.Module:
    """torchvision's class with an eighth of all channels: all that the published network has, in a fraction of the time."""
    parts = importlib.import_module("torchvision.models.googlenet")

    def conv(into: int, out: int, **kernel: Any) -> nn.Module:
        return parts.BasicConv2d(into if into == 3 else into // 8, out // 8, **kernel)

    def block(into: int, *widths: int) -> nn.Module:
        return parts.Inception(into // 8, *(maps // 8 for maps in widths))

    def aux(into: int, num_classes: int, dropout: float) -> nn.Module:
        head = parts.InceptionAux(into // 8, num_classes, dropout=dropout)
        head.conv, head.fc1, head.fc2 = conv(into, 128, kernel_size=1), nn.Linear(256, 128), nn.Linear(128, num_classes)
        return head

    model = parts.GoogLeNet(num_classes=5, init_weights=False, blocks=[conv, block, aux], **options)
    model.fc = nn.Linear(128, 5)
    return testing.randomize_norms(model)


@pytest.mark.parametrize("make", [narrow, pytest.param(published, marks=pytest.mark.parity)])
@pytest.mark.parametrize(
    ("mode", "height", "width", "options"),
    [
        ("train", 64, 97, {"aux_logits": True}),
        ("train", 65, 64, {"aux_logits": False}),
        ("eval", 64, 65, {"aux_logits": True, "transform_input": True}),
    ],
)
def test_network_is_torchvision_s_in_outputs_gradients_and_steps(
    torchvision: ModuleType, make: Callable, mode: str, height: int, width: int, options: dict[str, bool]
) -> None:
    reference = make(torchvision, **options).train(mode == "train")
    model = from_torchvision(reference).train(mode == "train")
    images = torch.randn(2, 3, height, width)
    assert heads(model(images)).shape == (2, 15 if mode == "train" and options["aux_logits"] else 5)
    if mode == "eval":  # in evaluation the auxiliary heads get no gradient
        model, reference = from_torchvision(without_heads(reference)), reference
    steps = 3 if make is published else 1
    testing.assert_same_as(AllHeads(model), AllHeads(reference), images, train=mode == "train", steps=steps)


def without_heads(reference: nn.Module) -> nn.Module:
    """As `googlenet(weights=...)` leaves it."""
    reference.aux_logits, reference.aux1, reference.aux2 = False, None, None
    return reference


def test_running_statistics_move_as_torchvision_s(torchvision: ModuleType) -> None:
    reference = narrow(torchvision, aux_logits=True)
    model = from_torchvision(reference)
    images = torch.randn(2, 3, 64, 64)
    model(images)
    reference(images)
    for (name, own), other in zip(model.named_buffers(), reference.buffers(), strict=True):
        torch.testing.assert_close(own, other, msg=name)


def test_torchvision_s_network_is_converted_to_our_preset(torchvision: ModuleType) -> None:
    with without_values():
        reference = torchvision.models.googlenet(aux_logits=True, init_weights=False)
        assert str(from_torchvision(reference)) == str(build("googlenet"))


def test_rates_of_dropout_are_converted(torchvision: ModuleType) -> None:
    model = from_torchvision(narrow(torchvision, aux_logits=True, dropout=0.1, dropout_aux=0.4))
    assert [layer.p for layer in model.modules() if isinstance(layer, nn.Dropout)] == [0.4, 0.4, 0.1]


def test_other_networks_and_other_blocks_are_refused(torchvision: ModuleType) -> None:
    with without_values():
        with pytest.raises(ValueError, match="no GoogLeNet"):
            from_torchvision(torchvision.models.resnet18())
        reference = torchvision.models.googlenet(init_weights=False)
        reference.inception5b.branch3[1].conv = nn.Conv2d(48, 128, 5, padding=2, bias=False)
        with pytest.raises(ValueError, match="blocks"):
            from_torchvision(reference)


def test_transformed_images_are_padded_with_0_after_the_transformation() -> None:
    model = build("tiny", stem="imagenet", transform_input=True).double()
    images = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    with Probe(model, "stem.conv1.conv") as probe:
        model.eval()(images)
    kernel, maps = model.stem.conv1.conv.weight, probe["stem.conv1.conv"]
    scale, shift = [0.458, 0.448, 0.45], [-0.03, -0.088, -0.188]  # std / 0.5 and (mean - 0.5) / 0.5
    corner = torch.zeros(4, dtype=torch.float64)
    for channel in range(3):
        for y in range(4):  # the other rows and columns of the 7x7 kernel at (0, 0) lie outside of the image
            for x in range(4):
                pixel = images[0, channel, y, x] * scale[channel] + shift[channel]
                corner += kernel[:, channel, y + 3, x + 3] * pixel
    torch.testing.assert_close(maps[0, :, 0, 0], corner)
    folded = kernel * torch.tensor(scale, dtype=torch.float64)[:, None, None]
    bias = (kernel.sum((2, 3)) * torch.tensor(shift, dtype=torch.float64)).sum(1)
    in_one = F.conv2d(images, folded, bias, stride=2, padding=3)
    torch.testing.assert_close(in_one[..., 2:-2, 2:-2], maps[..., 2:-2, 2:-2])
    assert not torch.isclose(in_one[..., 0, :], maps[..., 0, :]).any()  # the shift of pixels that are not there


# ---- the paper's style by hand -------------------------------------------------------------------------------------


class PaperTwin(nn.Module):
    """Table 1 and figure 3 with functions only, from the weights of a model of the paper's style with all nine modules."""

    def __init__(self, model: nn.Module, large_stem: bool) -> None:
        super().__init__()
        self.names = [name for name, _ in model.named_parameters()]
        self.weights = nn.ParameterList(p.detach().clone() for p in model.parameters())
        self.large_stem = large_stem

    def of(self, part: str) -> Iterator[Tensor]:
        return (weight for name, weight in zip(self.names, self.weights) if name.startswith(part))

    def forward(self, x: Tensor) -> Tensor:
        stem, body, head = self.of("stem"), self.of("body"), self.of("head")
        x = self.conv(x, stem, stride=2 if self.large_stem else 1)
        x = self.normalize(self.pool(x) if self.large_stem else x)
        x = self.normalize(self.conv(self.conv(x, stem), stem))
        x = self.pool(x) if self.large_stem else x
        outputs = []
        for name in "3a 3b | 4a 4b 4c 4d 4e | 5a 5b".split():
            if name == "|":
                x = self.pool(x)
                continue
            one = self.conv(x, body)
            three = self.conv(self.conv(x, body), body)
            five = self.conv(self.conv(x, body), body)
            x = torch.cat([one, three, five, self.conv(F.max_pool2d(x, 3, 1, 1), body)], dim=1)
            if self.training and name in ("4a", "4d"):
                outputs.append(self.classify(x, self.of(f"aux.{name}")))
        logits = F.linear(F.dropout(x.mean((2, 3)), 0.4, self.training), *head)
        return torch.cat([logits, *outputs], dim=1)

    def classify(self, x: Tensor, weights: Iterator[Tensor]) -> Tensor:
        x = self.conv(F.avg_pool2d(x, 5, 3), weights).flatten(1)
        x = F.linear(x, next(weights), next(weights)).relu()
        return F.linear(F.dropout(x, 0.7, self.training), *weights)

    @staticmethod
    def conv(x: Tensor, weights: Iterator[Tensor], stride: int = 1) -> Tensor:
        kernel, bias = next(weights), next(weights)
        return F.conv2d(x, kernel, bias, stride, padding=kernel.shape[-1] // 2).relu()

    @staticmethod
    def pool(x: Tensor) -> Tensor:
        edge = (0, (x.shape[3] - 3) % 2, 0, (x.shape[2] - 3) % 2)
        return F.max_pool2d(F.pad(x, edge, value=-torch.inf), 3, 2)

    @staticmethod
    def normalize(x: Tensor) -> Tensor:
        """Section 3.3 of AlexNet's paper: each channel is divided by what its two neighbours on either side and itself hold."""
        squares = F.pad(x.square(), (0, 0, 0, 0, 2, 2))
        around = sum(squares[:, i : i + x.shape[1]] for i in range(5))
        return x / (1 + 1e-4 / 5 * around) ** 0.75


@pytest.mark.parametrize(("mode", "stem", "height", "width"), [("train", "small", 28, 32), ("eval", "imagenet", 64, 81)])
def test_paper_s_network_is_the_twin_by_hand(mode: str, stem: str, height: int, width: int) -> None:
    model = build("paper", width=1 / 16, stem=stem, num_classes=5, aux=mode == "train")
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, 0.1, 0.1)  # as after training
    twin = PaperTwin(model, large_stem=stem == "imagenet")
    testing.assert_same_as(AllHeads(model), twin, 10 * torch.randn(2, 3, height, width), train=mode == "train", steps=2)


# ---- laws ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("style", "reach"), [("paper", 2), ("torchvision", 1)])
def test_each_branch_looks_as_far_as_its_kernel(style: str, reach: int) -> None:
    network = STYLES[style]
    block = Inception(2, (3, 4, 5, 3, 4, 6), network.conv, network.largest).double().eval()
    for parameter in block.parameters():
        parameter.data.abs_()  # no ReLU is dead
    x = torch.rand(1, 2, 9, 9, dtype=torch.float64)
    x[..., 3, 3] = 2.0  # the largest that the pooling at 4, 4 sees
    x.requires_grad_()
    parts = block(x).split([3, 5, 4, 6], dim=1)
    for part, far in zip(parts, [0, 1, reach, 1]):
        (gradient,) = torch.autograd.grad(part[0, :, 4, 4].sum(), x, retain_graph=True)
        seen = gradient[0].abs().sum(0).nonzero()
        assert (seen - 4).abs().max() == far


def test_auxiliary_heads_see_the_maps_after_4a_and_4d_and_work_in_training_only() -> None:
    model = build("tiny", dropout_aux=0.0)
    images = torch.randn(4, 3, 28, 28)
    with Probe(model, "body.4a", "body.4d") as probe:
        output = model(images)
    assert isinstance(output, GoogLeNetOutput)
    torch.testing.assert_close(output.aux1, model.aux["4a"](probe["body.4a"]))
    torch.testing.assert_close(output.aux2, model.aux["4d"](probe["body.4d"]))
    assert isinstance(model.eval()(images), Tensor)


def test_paper_s_auxiliary_head_takes_means_over_5x5_every_3_pixels() -> None:
    head = AuxiliaryHead(1, 1 / 64, 3, dropout=0.0)
    maps = torch.rand(1, 1, 14, 14)
    means = [[maps[0, 0, y : y + 5, x : x + 5].mean() for x in (0, 3, 6, 9)] for y in (0, 3, 6, 9)]
    torch.testing.assert_close(head.pool(maps)[0, 0], torch.tensor(means))


def test_initialisation_has_the_variance_of_fan_in() -> None:
    model = build("paper", width=0.5, aux=False)
    kernel = model.body["5b"].branch3.conv.conv.weight  # 96 maps to 192, 3 x 3
    assert kernel.std().item() == pytest.approx((2 / (9 * 96)) ** 0.5, rel=0.02)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("conv.bias"))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "caffe"}, "style 'caffe'"),
        ({"stem": "cifar"}, "stem 'cifar'"),
        ({"blocks": ("4a", "4d", "4z")}, "4z"),
        ({"blocks": ("3a",)}, "auxiliary heads follow"),
        ({"transform_input": True, "in_channels": 1}, "3 channels, not 1"),
    ],
)
def test_what_is_no_network_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build("tiny", **wrong)


WITHOUT_DROPOUT = {"in_channels": 1, "dropout": 0.0, "dropout_aux": 0.0}
test_standard = testing.standard_checks(
    build,
    train.main,
    train.Config(data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4),
    lambda: synthetic.images(8, channels=3),
    task=AuxiliaryClassification,
    variants=VARIANTS,
    prepare=testing.randomize_norms,
    overfit=[testing.Overfit(WITHOUT_DROPOUT, lambda: synthetic.images(16, size=8), lr=2e-2)],
    splits=lambda config: testing.tiny_splits(size=8),
)


# ---- the recipe ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "aux", "fits"), [(32, True, True), (64, True, False), (64, False, True), (224, True, True)])
def test_images_that_the_auxiliary_heads_cannot_take_are_refused(
    size: int, aux: bool, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    about = ImageSet(3, size, ("a", "b"), True, lambda batch, _: batch)
    monkeypatch.setattr(train, "image_set", lambda config: about)
    with contextlib.nullcontext() if fits else pytest.raises(UserError, match="--no-aux may help"), without_values():
        train.build_model(train.Config(model="paper", aux=aux))
