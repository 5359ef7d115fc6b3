"""Runs and pretrained weights become networks that answer; `kernels` and `features` draw what is in them."""

import re
import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from dl import __main__ as front
from dl.cli import catalogue, classifiers
from dl.cli.classifiers import classifier, feature_maps, published
from dl.cli.runs import Run
from dl.cli.testing import make_run
from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.data import read_image
from dl.mytorch.files import write_recorded_json
from dl.mytorch.introspect import without_values


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.linear_gradient("L").resize((40, 30)).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.mark.parametrize(
    ("recipe", "kernels", "layers"),
    [
        ("CNN/LeNet", "3 x 1 x 5 x 5", "c1"),
        ("CNN/ResNet", "8 x 1 x 3 x 3", "stem, blocks.0, blocks.1"),
        ("CNN/SqueezeNet", "8 x 1 x 3 x 3", "stem, body"),
    ],
)
def test_kernels_and_features_are_drawn_for_any_network_of_convolutions(
    tmp_path: Path, image: Path, recipe: str, kernels: str, layers: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figure = str(make_run(tmp_path / "run", recipe)), str(tmp_path / "figure.png")
    assert front.main(["kernels", run, "--figure", figure]) == 0
    assert capsys.readouterr().out.endswith(f"{kernels}\n") and read_image(figure).shape[2] > 100
    assert front.main(["features", run, str(image), "--figure", figure]) == 0
    assert f", {layers}" in capsys.readouterr().out and read_image(figure).shape[2] == 1200


@pytest.mark.parametrize("recipe", ["CNN/LeNet", "CNN/ResNet", "Transformers/ViT", "Transformers/Swin"])
def test_what_speaks_for_a_class_and_what_misleads_are_drawn_for_any_classifier(
    tmp_path: Path, image: Path, recipe: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run, figure = make_run(tmp_path / "run", recipe), str(tmp_path / "figure.png")
    weights = checkpoint.load(run / "best.pt")
    checkpoint.save(
        {name: torch.randn_like(w) * 0.2 if w.is_floating_point() else w for name, w in weights.items()}, run / "best.pt"
    )
    assert front.main(["explain", str(run), str(image), "--how", "grad_cam", "--figure", figure]) == 0
    assert ", layer " in capsys.readouterr().out and read_image(figure).shape[2] > 100
    assert front.main(["explain", str(run), str(image), "--how", "fgsm", "--figure", figure]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == [
        f"each pixel changed by {step} of 255" for step in (0, 1, 2, 4, 8, 16, 32)
    ]


def test_maps_of_layers_that_are_asked_for_are_theirs(tmp_path: Path) -> None:
    resnet = classifier(Run.open(make_run(tmp_path / "run", "CNN/ResNet")))
    pixels = torch.randint(256, (3, 28, 28), dtype=torch.uint8)
    found = feature_maps(resnet, pixels, ["stem.conv"])
    with torch.no_grad():
        torch.testing.assert_close(found["stem.conv"], resnet.model.stem.conv(resnet.prepare(pixels))[0])
    assert not resnet.model.training and len(resnet.classes) == 10


def test_what_cannot_be_drawn_is_one_line(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(make_run(tmp_path / "mlp", "MLP/MLP"))
    resnet = str(make_run(tmp_path / "resnet", "CNN/ResNet"))

    def refused(*argv: str) -> str:
        assert front.main(list(argv)) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    assert "no convolution" in refused("kernels", run)
    assert "no layer of MLP gives maps" in refused("features", run, str(image))
    assert "layer head of ResNet gives no maps" in refused("features", resnet, str(image), "--layers", "head")
    assert "no output of a layer 'blocks.7'" in refused("features", resnet, str(image), "--layers", "blocks.7")
    assert "does not exist" in refused("features", resnet, str(tmp_path / "none.png"))
    assert "holds no trained network" in refused("kernels", str(tmp_path))


def test_parts_of_a_network_that_it_keeps_by_name_give_maps(tmp_path: Path) -> None:
    maps = feature_maps(
        classifier(Run.open(make_run(tmp_path / "run", "CNN/GoogLeNet"))), torch.zeros(3, 28, 28, dtype=torch.uint8)
    )
    assert list(maps) == ["stem", "body.3a", "body.pool3", "body.4a", "body.4d"]


def test_runs_of_other_kinds_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "CNN/LeNet")
    with pytest.raises(UserError, match="a run of CNN/LeNet, not of CNN/ResNet"):
        Run.open(run, "CNN/ResNet")
    no_classes = "does not classify images"
    for recipe, message in (("CNN/Torn", "no recipe"), ("Linear/LinearRegression", no_classes), ("Generative/VAE", no_classes)):
        write_recorded_json({"recipe": recipe, "config": {}}, run / "config.json")
        with pytest.raises(UserError, match=message):
            classifier(Run.open(run))


def test_a_run_on_own_images_keeps_the_names_of_its_classes(tmp_path: Path, no_figures: None) -> None:
    images = tmp_path / "images"
    for i, name in enumerate(["apple", "banana", "sky"]):
        (images / name).mkdir(parents=True)
        for number in range(4):
            Image.new("RGB", (8, 8), (80 * i, 20 * number, 0)).save(images / name / f"{number}.png")
    recipe = catalogue.module("CNN/ResNet", "train")
    flags = {"out": str(tmp_path / "run"), "data": f"folder:{images}", "model": "tiny", "image_size": 8, "precision": "fp32"}
    recipe.main(recipe.Config(**flags, epochs=1))
    (images / "apple").rename(images / "red_apple")
    with pytest.raises(UserError, match="4 new, red_apple/0.png first; 4 gone, apple/0.png first"):
        recipe.main(recipe.Config(**flags, epochs=1))
    shutil.rmtree(images)
    assert classifier(Run.open(tmp_path / "run")).classes == ("apple", "banana", "sky")


PUBLISHED = [
    pytest.param("CNN/DenseNet", "densenet121", "DEFAULT", marks=pytest.mark.slow),
    pytest.param("CNN/GoogLeNet", "googlenet", "DEFAULT", marks=pytest.mark.slow),
    ("CNN/MobileNetV2", "mobilenet_v2", "IMAGENET1K_V1"),  # whose images are prepared otherwise than the newest's
    *(
        pytest.param(backbone, name, weights, marks=pytest.mark.parity)
        for backbone, name, weights in [
            ("CNN/AlexNet", "alexnet", "DEFAULT"),
            ("CNN/ConvNeXt", "convnext_tiny", "DEFAULT"),
            ("CNN/EfficientNet", "efficientnet_b1", "IMAGENET1K_V1"),
            ("CNN/ResNeXt", "resnext50_32x4d", "DEFAULT"),
            ("CNN/ResNet", "resnet50", "IMAGENET1K_V1"),
            ("CNN/SqueezeNet", "squeezenet1_0", "DEFAULT"),
            ("CNN/VGG", "vgg11_bn", "DEFAULT"),
            ("CNN/WideResNet", "wide_resnet50_2", "DEFAULT"),
            ("Transformers/Swin", "swin_t", "DEFAULT"),
            ("Transformers/ViT", "vit_b_32", "DEFAULT"),
            ("Transformers/ViT", "vit_b_16", "IMAGENET1K_SWAG_E2E_V1"),  # of 384 pixels
            ("Transformers/ViT", "vit_l_16", "IMAGENET1K_SWAG_E2E_V1"),  # of 512
        ]
    ),
]


@pytest.mark.filterwarnings("ignore:The default weight initialization of GoogleNet")
@pytest.mark.parametrize(("backbone", "name", "weights"), PUBLISHED)
def test_published_files_are_read_as_by_torchvision_s_own_builders(
    torchvision: ModuleType, backbone: str, name: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    models = torchvision.models
    entry = models.get_model_weights(name)[weights]
    with without_values():  # a builder without weights asks for the size of the images only where it matters
        shapes = models.get_model(name, **({"image_size": entry.meta["min_size"][0]} if "vit" in name else {})).state_dict()
    state = {}
    for key, tensor in shapes.items():
        if key.endswith("num_batches_tracked"):
            continue  # older than most files
        old = re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", key)  # as DenseNet's files call them
        if not tensor.is_floating_point():  # places, which are not just any
            state[old] = models.get_model(name).state_dict()[key]
            continue
        scale = tensor[0].numel() ** -0.5
        state[old] = torch.rand(tensor.shape) + 0.5 if tensor.ndim == 1 else torch.randn(tensor.shape) * scale
    file = tmp_path / Path(entry.url).name
    torch.save(state, file)
    monkeypatch.setattr(type(entry), "get_state_dict", lambda *_, **__: dict(state))
    reference = models.get_model(name, weights=entry).eval()
    own = published(backbone, name, file)
    image = torch.randint(256, (3, 300, 300), dtype=torch.uint8)
    images = entry.transforms()(image)[None]
    assert torch.equal(own.prepare(image), images)
    with torch.no_grad():
        expected = reference(images)
        assert expected.std() > 0.01  # and so the inputs, whose scale may be wrong, show
        torch.testing.assert_close(own.model(images), expected, rtol=1e-3, atol=1e-4 * expected.abs().max().item())


def test_published_weights_are_found_by_folder_and_preset(
    torchvision: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.squeezenet1_1(weights=None, num_classes=7).eval()
    torch.save(dict(sorted(reference.state_dict().items())), tmp_path / "weights.pth")  # the order plays no part
    squeezenet = published("CNN/SqueezeNet", "squeezenet1_1", tmp_path / "weights.pth")
    pixels = torch.randint(256, (3, 70, 90), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(squeezenet.model(squeezenet.prepare(pixels)), reference(squeezenet.prepare(pixels)))
    assert squeezenet.classes == [f"class {i}" for i in range(7)]
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").write_bytes(b"torn")
    with pytest.raises(UserError, match="checkpoints/squeezenet1_1-b8a52dc0.pth is damaged"):
        published("CNN/SqueezeNet", "squeezenet1_1")
    with pytest.raises(UserError, match="CNN/NiN has no published network; there are none"):
        published("CNN/NiN")
    with pytest.raises(UserError, match="no published network small; there are squeezenet1_0, squeezenet1_1"):
        published("CNN/SqueezeNet", "small")
    with pytest.raises(UserError, match="does not hold the weights of torchvision's squeezenet1_0"):
        published("CNN/SqueezeNet", "", tmp_path / "weights.pth")


def test_a_file_in_data_pretrained_is_taken_before_a_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifiers.sources, "DATA", tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))

    def no_network(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    with pytest.raises(UserError, match=f"put it into {tmp_path / 'pretrained'}"):
        classifiers._downloaded("https://download.pytorch.org/models/resnet18-f37072fd.pth")
    (tmp_path / "pretrained").mkdir()
    (tmp_path / "pretrained" / "resnet18-f37072fd.pth").touch()
    found = classifiers._downloaded("https://download.pytorch.org/models/resnet18-f37072fd.pth")
    assert found == tmp_path / "pretrained" / "resnet18-f37072fd.pth"
