"""The scores: by hand, against formulas of special cases, against scipy (parity tier), and their command."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from dl.cli.runs import Run
from dl.modules.CNN.ResNet import train as resnet
from dl.modules.Diffusion import score
from dl.modules.Diffusion.DDPM import sample
from dl.modules.Diffusion.DDPM.data import some_examples
from dl.modules.Diffusion.score import features, frechet_distance, precision_recall, standardised
from dl.modules.Diffusion.testing import CONFIG, make_images, make_run
from dl.mytorch import checkpoint
from dl.mytorch.data import ImageConfig, Loader, Splits, image_splits
from dl.mytorch.files import read_json, write_json
from dl.mytorch.testing.device import device_without_float64


def test_frechet_distance_of_diagonal_normals_is_the_formula() -> None:
    points = torch.randn(500, 3).double()
    points = (points - points.mean(0)) / points.std(0)
    points = torch.linalg.solve_triangular(torch.linalg.cholesky(points.T.cov()), points.T, upper=False).T  # covariance I
    shift, first, second = torch.tensor([1.0, 2.0, 0.0]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, 0.5])
    expected = shift.square().sum() + (first - second).square().sum()
    assert frechet_distance(points * first, points * second + shift) == pytest.approx(expected.item(), abs=1e-9)
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_frechet_distance_does_not_change_in_a_mirror_or_turned() -> None:
    first, second = torch.randn(50, 4).double(), torch.randn(60, 4).double() @ torch.randn(4, 4).double() + 1
    turn = torch.linalg.qr(torch.randn(4, 4).double()).Q
    assert frechet_distance(first @ turn, second @ turn) == pytest.approx(frechet_distance(first, second), abs=1e-9)
    assert frechet_distance(second, first) == pytest.approx(frechet_distance(first, second), abs=1e-9)


@pytest.mark.parity
def test_frechet_distance_is_that_with_scipy_s_root() -> None:
    linalg = pytest.importorskip("scipy.linalg")
    first, second = torch.randn(90, 6).double(), torch.randn(80, 6).double() @ torch.randn(6, 6).double()
    a, b = first.T.cov(), second.T.cov()
    root = torch.from_numpy(linalg.sqrtm((a @ b).numpy()).real)
    expected = (first.mean(0) - second.mean(0)).square().sum() + (a + b - 2 * root).trace()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), abs=1e-9)


def test_on_a_device_without_float64_the_scores_are_the_same() -> None:
    first, second = torch.randn(12, 3), torch.randn(10, 3) + 1
    distance, shares = frechet_distance(first, second), precision_recall(first, second)
    with device_without_float64() as device:
        there = first.to(device), second.to(device)
        assert frechet_distance(*there) == pytest.approx(distance, rel=1e-12) and precision_recall(*there) == shares


def test_precision_falls_with_drawn_points_off_the_real_ones_and_recall_with_missed_ones() -> None:
    line = torch.arange(10.0)[:, None]
    assert precision_recall(line, line) == (1.0, 1.0)
    assert precision_recall(line, torch.cat([line, line + 100])) == (0.5, 1.0)  # half of the drawn are nothing real
    assert precision_recall(torch.cat([line, line + 100]), line) == (1.0, 0.5)  # half of the real are never drawn
    # A point is among the line's if it is within 3, the distance to the third neighbour, of an end.
    assert precision_recall(line, torch.tensor([[-3.0], [-3.1], [12.0], [12.1]]), nearest=3)[0] == 0.5


@pytest.fixture
def runs(tmp_path: Path) -> list[str]:
    """A diffusion model's and a classifier's, with the weights of the start."""
    return [str(make_run(tmp_path / "ddpm")), "--classifier", make_classifier(tmp_path / "resnet", data="fashion_mnist-sample")]


def make_classifier(folder: Path, **data: Any) -> str:
    """A run of a classifier with the weights of the start."""
    config = resnet.Config(out="unused", model="tiny", **data)
    folder.mkdir()
    described = {"recipe": "CNN/ResNet", "config": dataclasses.asdict(config), "command": "", "commit": ""}
    write_json(described, folder / "config.json")
    checkpoint.save(resnet.build_model(config).state_dict(), folder / "best.pt")
    return str(folder)


@pytest.fixture
def twelve(monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """Random images in the place of Fashion-MNIST."""
    pixels = torch.randint(256, (12, 1, 28, 28), dtype=torch.uint8)
    loader = Loader({"images": pixels, "labels": torch.arange(12) % 10}, 4)
    monkeypatch.setattr(score, "image_splits", lambda config: Splits(loader, loader, loader))
    return pixels


def test_command_states_all_scores(runs: list[str], twelve: Tensor, capsys: pytest.CaptureFixture) -> None:
    assert score.main([*runs, "--num", "12", "--steps", "1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert "Frechet distance | precision | recall | of the class" in said[0] and said[2].startswith("| ddim | 1 | 1.0 | 12 |")
    assert score.main([*runs, "--num", "12", "--real"]) == 0  # here, training and test images are the same
    assert "| training images |  |  | 12 | 0.00 | 1.000 | 1.000 |" in capsys.readouterr().out.replace("-0.00", "0.00")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "51"], "--steps 51"),
        (["--num", "7"], "--num has"),
        (["--num", str(10**18)], "--num has to be from 8 to 1,000,000"),
        (["--seed", "-1"], "--seed has to be from 0"),
        (["--sampler", "euler"], "takes ddim, ddpm, dpm"),
    ],
)
def test_what_cannot_be_scored_is_refused(
    runs: list[str], words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert score.main([*runs, *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_recorded_scores_replace_those_of_the_same_settings(
    runs: list[str], twelve: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(score.catalogue, "ROOT", tmp_path)
    monkeypatch.setattr(score.catalogue, "MODULES", tmp_path)
    readme = tmp_path / "Diffusion" / "DDPM" / "README.md"
    readme.parent.mkdir(parents=True)
    readme.write_text("# DDPM\n\n<!-- scores -->\n<!-- /scores -->\n", encoding="utf-8")
    for words in (["--steps", "1"], ["--steps", "2"], ["--steps", "1"]):
        assert score.main([*runs, "--num", "12", *words, "--record"]) == 0
    kept = read_json(readme.parent / "results" / "scores" / "fashion_mnist-sample.json")
    assert [row["steps"] for row in kept["scores"]] == [2, 1]
    assert [line.split(" | ")[1] for line in readme.read_text(encoding="utf-8").splitlines() if "ddim" in line] == ["2", "1"]
    again = read_json(Path(runs[0]) / "config.json") | {"command": "another"}
    write_json(again, Path(runs[0]) / "config.json")
    assert score.main([*runs, "--num", "12", "--steps", "3", "--record"]) == 0  # another run: its scores alone
    assert readme.read_text(encoding="utf-8").count("| ddim |") == 1


def test_the_readmes_show_the_recorded_scores() -> None:
    tables = score.tables()
    assert tables and all(table in path.read_text(encoding="utf-8") for path, _, table in tables)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_samples_are_compared_with_images_in_files(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = make_images(kind, tmp_path / "images")
    run = str(make_run(tmp_path / "ddpm", dataclasses.replace(CONFIG, **data)))
    seen = {}
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: seen.update(shape=image.shape))
    assert sample.main([run, "--num", "2", "--steps", "1", "--nearest"]) == 0 and seen["shape"] == (3, 16, 4 * 17 - 1)
    words = [run, "--classifier", make_classifier(tmp_path / "resnet", **data), "--steps", "1"]
    for more in ([], ["--real"]):
        assert score.main([*words, "--num", "8", *more]) == 0
    assert score.main([*words, "--num", "11"]) == 1 and "there are 10 images" in capsys.readouterr().err
    assert score.main([*words, "--num", "8", "--record"]) == 1 and "--record keeps" in capsys.readouterr().err
    chosen = some_examples(image_splits(ImageConfig(out="unused", **data)).test, 5)
    assert chosen["images"].shape == (5, 3, 8, 8) and chosen["images"].dtype == torch.uint8
    assert chosen["labels"].unique().tolist() == [0, 1]  # the first 5 of a folder are of one


def test_drawn_images_reach_the_classifier_as_real_ones_do(runs: list[str]) -> None:
    found = sample.Diffusion.open(Path(runs[0]))
    pixels = torch.randint(256, (5, 1, 28, 28), dtype=torch.uint8)
    real = found.about.standard({"images": pixels}, torch.Generator())["images"]
    torch.testing.assert_close(standardised(pixels / 127.5 - 1, found.about), real)
    classifier = Run.open(runs[2]).model()
    seen, said = features(classifier, real, batch=2)
    torch.testing.assert_close(classifier.head(seen), classifier(real), atol=1e-5, rtol=1e-4)
    assert torch.equal(said, classifier(real).argmax(1))
