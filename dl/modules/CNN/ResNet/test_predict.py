"""predict: pretrained weights, runs of one's own, and every kind of file that somebody may give it."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from dl.modules.CNN.ResNet import predict, train
from dl.mytorch import plot
from dl.mytorch.data import synthetic


@pytest.fixture
def image(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


@pytest.fixture(scope="module")
def reference(torchvision: ModuleType) -> nn.Module:
    """torchvision's ResNet-18 for ImageNet, with random weights."""
    torch.manual_seed(0)
    return torchvision.models.resnet18(weights=None).eval()


@pytest.fixture(scope="module")
def weights(reference: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights as a file."""
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(reference.state_dict(), path)
    return path


def odd(path: Path, kind: str) -> Path:
    """An image that is not the usual one."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 20, 4), dtype=np.uint8)
    if kind == "1x1":
        Image.fromarray(pixels[:1, :1, :3]).save(path)
    elif kind in ("L", "P", "CMYK", "1", "LA"):
        path = path.with_suffix(".tiff" if kind == "CMYK" else ".png")
        Image.fromarray(pixels[..., :3]).convert(kind).save(path)
    elif kind == "RGBA":
        Image.fromarray(pixels).save(path)
    elif kind == "I;16":
        Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(path)
    return path


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What would be drawn, by the name of its file: drawing has tests of its own, and takes longer than all tests here."""
    contents = {}
    monkeypatch.setattr(plot, "predictions", lambda images, answers: answers)
    monkeypatch.setattr(plot, "feature_maps", lambda maps: maps)
    monkeypatch.setattr(plot, "save_figure", lambda content, path: contents.update({path.name: content}))
    return contents


def test_published_weights_give_the_classes_that_torchvision_gives(
    torchvision: ModuleType,
    reference: nn.Module,
    weights: Path,
    image: Path,
    drawn: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pixel = odd(image.with_name("pixel.png"), "1x1")
    asked = ["--model", "resnet18", "--weights", str(weights), "--figure", "figure.png", "--features", "features.png"]
    assert predict.main([str(image), str(pixel), *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    best = torchvision.models.ResNet18_Weights.DEFAULT
    for place, path in enumerate((image, pixel)):
        with torch.no_grad(), Image.open(path) as opened:
            likely = reference(best.transforms()(opened)[None]).softmax(-1)[0].topk(5)
        names = [best.meta["categories"][i] for i in likely.indices]
        assert lines[6 * place :][:6] == [str(path), *(f"  {p:6.1%}  {name}" for p, name in zip(likely.values, names))]
        assert [name for name, _ in drawn["figure.png"][place]] == names
    assert list(drawn["features.png"]) == ["stem", *(f"blocks.{i}" for i in range(8))]


@pytest.mark.slow
def test_figures_are_files_to_look_at(weights: Path, image: Path) -> None:
    figure, features = image.with_name("figure.png"), image.with_name("features.png")
    asked = ["--model", "resnet18", "--weights", str(weights), "--figure", str(figure), "--features", str(features)]
    assert predict.main([str(image), *asked]) == 0
    with Image.open(figure) as drawn, Image.open(features) as maps:
        assert drawn.size == (800, 260) and maps.width == 1200


@pytest.fixture
def run(tmp_path: Path, no_figures: None, drawn: dict[str, Any]) -> str:
    """The folder of a run of the recipe."""
    config = train.Config(out=str(tmp_path / "run"), data="fashion_mnist-sample", model="tiny", batch_size=16, epochs=1)
    train.main(config, synthetic.image_splits())
    return config.out


def test_a_run_names_its_own_classes(tmp_path: Path, image: Path, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert predict.main([str(image), "--run", run, "--top", "99", "--figure", str(tmp_path / "figure.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1 + 10 + 1 and any("ankle boot" in line for line in lines)
    shares = [float(line.split("%")[0]) for line in lines[1:11]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.6)


def test_odd_images_are_answered(tmp_path: Path, run: str, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [odd(tmp_path / f"{i}.png", kind) for i, kind in enumerate(["1x1", "L", "LA", "P", "1", "I;16", "RGBA", "CMYK"])]
    capsys.readouterr()
    assert predict.main([*map(str, paths), "--run", run, "--figure", str(tmp_path / "figure.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:-1:6] == list(map(str, paths)) and len(lines) == 8 * 6 + 1


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which `predict` ends."""
    assert predict.main([str(argument) for argument in arguments]) == 1
    captured = capsys.readouterr()
    assert "%" not in captured.out and captured.err.startswith("error: ") and captured.err.count("\n") == 1
    return captured.err


def test_what_is_no_image_is_refused_in_one_line(tmp_path: Path, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text.jpg").write_text("not a image", encoding="utf-8")
    (tmp_path / "empty.png").touch()
    (tmp_path / "cut.png").write_bytes(image.read_bytes()[:2000])
    assert "text.jpg is not an image" in refused(capsys, tmp_path / "text.jpg")
    assert "empty.png is empty" in refused(capsys, tmp_path / "empty.png")
    assert "cut.png cannot be read" in refused(capsys, tmp_path / "cut.png")
    assert "nothing.png does not exist" in refused(capsys, tmp_path / "nothing.png")
    assert "is a folder" in refused(capsys, tmp_path)


def test_a_decompression_bomb_is_refused_before_it_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("L", (300, 300)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    assert "90000 pixels" in refused(capsys, tmp_path / "bomb.png")


def test_weights_that_do_not_belong_are_refused_in_one_line(
    tmp_path: Path, image: Path, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "weights of torchvision's resnet34" in refused(capsys, image, "--model", "resnet34", "--weights", weights)
    assert "does not exist" in refused(capsys, image, "--weights", tmp_path / "none.pth")
    assert "is a folder, not a file of weights; a run of yours goes with --run" in refused(capsys, image, "--weights", tmp_path)
    (tmp_path / "torn.pth").write_bytes(weights.read_bytes()[:5000])
    assert "torn.pth is damaged" in refused(capsys, image, "--weights", tmp_path / "torn.pth")
    assert "no best.pt" in refused(capsys, image, "--run", tmp_path)


def test_weights_that_cannot_be_downloaded_say_what_helps(
    image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # nothing was downloaded before
    line = refused(capsys, image)
    assert "download.pytorch.org" in line and "--weights FILE" in line
