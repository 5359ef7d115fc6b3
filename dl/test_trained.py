"""Runs and published weights become networks that answer; `kernels` and `features` draw what is in them."""

import dataclasses
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from dl import __main__ as front
from dl import catalogue
from dl.mytorch.config import UserError
from dl.mytorch.data import read_image
from dl.mytorch.introspect import without_values
from dl.trained import feature_maps, published, trained


def make_run(folder: Path, recipe: str, **flags: object) -> Path:
    """What a run leaves of itself that matters here, with random weights."""
    train = catalogue.module(recipe, "train")
    config = train.Config(out=str(folder), model="tiny", **flags)
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"recipe": recipe, "config": dataclasses.asdict(config)}))
    torch.save(train.network(config).state_dict(), folder / "best.pt")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize(
    ("recipe", "kernels", "layers"),
    [
        ("CNN/LeNet", "3 x 1 x 5 x 5", "c1"),
        ("CNN/ResNet", "8 x 1 x 3 x 3", "stem, blocks.0, blocks.1"),
        ("CNN/SqueezeNet", "8 x 1 x 3 x 3", "stem, body"),
    ],
)
def test_kernels_and_features_are_drawn_for_any_network_of_convolutions(
    tmp_path: Path, picture: Path, recipe: str, kernels: str, layers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figure = str(make_run(tmp_path / "run", recipe)), str(tmp_path / "figure.png")
    assert front.main(["kernels", run, "--figure", figure]) == 0
    assert capsys.readouterr().out.endswith(f"{kernels}\n") and read_image(figure).shape[2] > 100
    assert front.main(["features", run, str(picture), "--figure", figure]) == 0
    assert f", {layers}" in capsys.readouterr().out and read_image(figure).shape[2] == 1200


def test_maps_of_layers_that_are_asked_for_are_theirs(tmp_path: Path) -> None:
    classifier = trained(make_run(tmp_path / "run", "CNN/ResNet"))
    pixels = torch.randint(256, (3, 28, 28), dtype=torch.uint8)
    found = feature_maps(classifier, pixels, ["stem.conv"])
    with torch.no_grad():
        torch.testing.assert_close(found["stem.conv"], classifier.model.stem.conv(classifier.prepare(pixels))[0])
    assert not classifier.model.training and len(classifier.classes) == 10


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "mlp", "MLP/MLP"))
    resnet = str(make_run(tmp_path / "resnet", "CNN/ResNet"))

    def refused(*argv: str) -> str:
        assert front.main(list(argv)) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "no convolution" in refused("kernels", run)
    assert "no layer of MLP gives maps" in refused("features", run, str(picture))
    assert "layer head of ResNet gives no maps" in refused("features", resnet, str(picture), "--layers", "head")
    assert "no output of a layer 'blocks.7'" in refused("features", resnet, str(picture), "--layers", "blocks.7")
    assert "there is no such file" in refused("features", resnet, str(tmp_path / "none.png"))
    assert "holds no trained network" in refused("kernels", str(tmp_path))


def test_runs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "CNN/LeNet")
    with pytest.raises(UserError, match="a run of CNN/LeNet, not of CNN/ResNet"):
        trained(run, "CNN/ResNet")
    for recipe, message in (("CNN/Torn", "no recipe"), ("Linear/LinearRegression", "takes no pictures")):
        (run / "config.json").write_text(json.dumps({"recipe": recipe, "config": {}}))
        with pytest.raises(UserError, match=message):
            trained(run)


PUBLISHED = [
    ("CNN/DenseNet", "densenet121"),
    ("CNN/GoogLeNet", "googlenet"),
    *(
        pytest.param(f"CNN/{folder}", name, marks=pytest.mark.parity)
        for folder, name in [
            ("AlexNet", "alexnet"),
            ("ConvNeXt", "convnext_tiny"),
            ("EfficientNet", "efficientnet_b1"),
            ("MobileNetV2", "mobilenet_v2"),
            ("ResNeXt", "resnext50_32x4d"),
            ("ResNet", "resnet50"),
            ("SqueezeNet", "squeezenet1_0"),
            ("VGG", "vgg11_bn"),
            ("WideResNet", "wide_resnet50_2"),
        ]
    ),
    pytest.param("Transformers/ViT", "vit_b_32", marks=pytest.mark.parity),
    pytest.param("Transformers/ViT", "vit_h_14", marks=pytest.mark.parity),
]


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize(("backbone", "name"), PUBLISHED)
def test_published_files_are_read_as_by_torchvision_s_own_builders(
    torchvision: ModuleType, backbone: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = torchvision.models
    best = models.get_model_weights(name).DEFAULT
    with without_values():  # a builder without weights asks for the size of the images only where it matters
        shapes = models.get_model(name, **({"image_size": best.meta["min_size"][0]} if "vit" in name else {})).state_dict()
    file = {}
    for key, tensor in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue  # older than most files
        old = re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)  # as DenseNet's files call them
        file[old] = torch.rand(tensor.shape) + 0.5 if tensor.ndim == 1 else torch.randn(tensor.shape) / tensor[0].numel() ** 0.5
    torch.save(file, tmp_path / "weights.pth")
    monkeypatch.setattr(type(best), "get_state_dict", lambda *_, **__: dict(file))
    reference = models.get_model(name, weights=best).eval()
    own = published(backbone, name, tmp_path / "weights.pth")
    images = own.prepare(torch.randint(256, (3, 300, 300), dtype=torch.uint8))
    with torch.no_grad():
        expected = reference(images)
        assert expected.std() > 0.01  # and so the inputs, whose scale may be wrong, show
        torch.testing.assert_close(own.model(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_published_weights_are_found_by_folder_and_preset(torchvision: ModuleType, tmp_path: Path) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    classifier = published("CNN/SqueezeNet", "squeezenet1_1", tmp_path / "weights.pth")
    pixels = torch.randint(256, (3, 70, 90), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(classifier.model(classifier.prepare(pixels)), reference(classifier.prepare(pixels)))
    assert classifier.classes == [f"class {i}" for i in range(7)]
    with pytest.raises(UserError, match="CNN/NiN has no published network; there are none"):
        published("CNN/NiN")
    with pytest.raises(UserError, match="no published network small; there are squeezenet1_0, squeezenet1_1"):
        published("CNN/SqueezeNet", "small")
    with pytest.raises(UserError, match="does not hold the weights of torchvision's squeezenet1_0"):
        published("CNN/SqueezeNet", "", tmp_path / "weights.pth")
