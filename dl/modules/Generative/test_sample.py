"""The commands that draw and score samples: an image for every way to ask, one line for what cannot be."""

import dataclasses
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from dl.cli import catalogue
from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM import sample as diffusion
from dl.modules.Diffusion.testing import make_images
from dl.modules.Generative import sample, score
from dl.modules.Generative.images import on_lines, samples, walks
from dl.mytorch import checkpoint
from dl.mytorch.data import Loader, Splits, Vocabulary
from dl.mytorch.files import write_json


def make_run(folder: Path, recipe: str, data: str = "fashion_mnist-sample", **options: Any) -> Path:
    """What a training leaves that sampling reads, with the weights of the start."""
    train = catalogue.module(recipe, "train")
    config = train.Config(out="unused", data=data, model="tiny", device="cpu", **options)
    folder.mkdir()
    write_json({"recipe": recipe, "config": dataclasses.asdict(config)}, folder / "config.json")
    checkpoint.save(train.build_model(config).state_dict(), folder / "best.pt")
    return folder


@pytest.fixture
def pixels(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """The images that the set holds for these tests."""
    pixels = torch.randint(256, (12, 1, 28, 28), dtype=torch.uint8)
    loader = Loader({"images": pixels, "labels": torch.arange(12) % 10}, 4)
    for module in (sample, score):
        monkeypatch.setattr(module, "image_splits", lambda config: Splits(loader, loader, loader))
    return pixels


@pytest.mark.parametrize("recipe", sample.RECIPES)
def test_every_way_to_ask_gives_its_image(
    tmp_path: Path, recipe: str, pixels: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, shown = make_run(tmp_path / "run", recipe), {}
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: shown.update({path.name: image}))
    assert sample.main([str(run), "--num", "12", "--out", "a.png"]) == 0
    assert sample.main([str(run), "--num", "3", "--interpolate", "--out", "b.png"]) == 0
    assert sample.main([str(run), "--num", "6", "--nearest", "--out", "c.png"]) == 0
    rows_and_columns = [(2, 8), (3, 10), (2, 8)]
    assert [image.shape[1:] for image in shown.values()] == [(57 * r - 1, 57 * c - 1) for r, c in rows_and_columns]
    with torch.no_grad():
        first = samples(Run.open(run).model(), 1, seed=0)[0]
    torch.testing.assert_close(shown["c.png"][:, :56:2, :56:2], first)
    second = shown["c.png"][:, :56:2, 57:113:2]  # beside it, an image of the training set
    assert any(torch.allclose(second, image / 255) for image in pixels)


@pytest.mark.parametrize("recipe", sample.RECIPES)
@torch.no_grad()
def test_samples_repeat_with_a_seed_in_any_parts_and_lines_begin_and_end_with_samples(tmp_path: Path, recipe: str) -> None:
    model = Run.open(make_run(tmp_path / "run", recipe)).model()
    whole = samples(model, 5, seed=1)
    assert whole.shape == (5, 1, 28, 28) and 0 <= whole.min() and whole.max() <= 1
    torch.testing.assert_close(samples(model, 5, seed=1, batch=2), whole)
    assert not torch.allclose(samples(model, 5, seed=2), whole)
    latents = model.prior(4, torch.Generator().manual_seed(3))
    line = on_lines(model, latents[:1], latents[1:2], steps=3)
    torch.testing.assert_close(line, model.draw(torch.stack([latents[0], latents[:2].mean(0), latents[1]])))
    ends = samples(model, 4, seed=3)
    torch.testing.assert_close(walks(model, 2, seed=3, steps=2), ends[[0, 2, 1, 3]])


def test_scores_are_stated_and_what_cannot_be_is_refused(
    tmp_path: Path, pixels: torch.Tensor, capsys: pytest.CaptureFixture
) -> None:
    judge = make_run(tmp_path / "resnet", "CNN/ResNet")
    run = make_run(tmp_path / "run", "Generative/VAE")
    assert score.main([str(run), "--classifier", str(judge), "--num", "12"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("Frechet distance ") and "precision" in said and "recall" in said
    for main, words, message in (
        (score.main, [str(run), "--classifier", str(judge), "--num", "3"], "--num has to be at least 8"),
        (score.main, [str(run), "--classifier", str(judge), "--num", "13"], "--num 13: there are 12 images to compare with"),
        (sample.main, [str(run), "--num", "0"], "--num has to be at least 1"),
        (sample.main, [str(run), "--out", "a.xyz"], "--out a.xyz: the name of an image ends in .png, .jpg"),
        (
            sample.main,
            [str(judge)],
            f"is a run of CNN/ResNet, not of {', '.join(sample.RECIPES)}",
        ),
        (sample.main, [str(tmp_path)], "holds no trained network"),
    ):
        assert main(words) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_samples_are_compared_with_images_in_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_images("folder", tmp_path / "images")
    run, judge = (str(make_run(tmp_path / recipe[-3:], recipe, **data)) for recipe in ("Generative/VAE", "CNN/ResNet"))
    seen = {}
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: seen.update(shape=image.shape))
    assert sample.main([run, "--num", "2", "--nearest"]) == 0 and seen["shape"] == (3, 16, 4 * 17 - 1)
    assert score.main([run, "--classifier", judge, "--num", "8"]) == 0


@pytest.mark.parametrize(("recipe", "command"), [("Generative/VAE", sample), ("Diffusion/DDPM", diffusion)])
def test_a_run_draws_when_its_images_are_gone(
    tmp_path: Path, recipe: str, command: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", recipe, **make_images("folder", tmp_path / "images"))
    Vocabulary("ab").save(run / "vocabulary-classes.json")
    shutil.rmtree(tmp_path / "images")
    monkeypatch.setattr(command.plot, "save_image", lambda image, path: None)
    short = ["--steps", "2"] if command is diffusion else []
    assert command.main([str(run), "--num", "2", *short]) == 0
    assert command.main([str(run), "--num", "2", *short, "--nearest"]) == 1
    assert "was trained on images that are not where they were" in capsys.readouterr().err
