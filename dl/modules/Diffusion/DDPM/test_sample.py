"""The command that draws samples: an image for every way to ask, one line for what cannot be."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dl.modules.Diffusion.DDPM import sample
from dl.modules.Diffusion.FlowMatching import train as flow
from dl.modules.Diffusion.testing import CONFIG, make_run
from dl.mytorch.data import Loader, Splits
from dl.mytorch.files import read_json, write_json


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_the_image_has_a_column_for_each_class_or_the_one_asked_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, shown = [], {}
    draw = sample.sample
    monkeypatch.setattr(sample, "sample", lambda *arguments: asked.append(arguments[2]) or draw(*arguments))
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: shown.update({path.name: image.shape}))
    assert sample.main([str(run), "--num", "12", "--steps", "2", "--out", "all.png"]) == 0
    assert sample.main([str(run), "--num", "3", "--steps", "1", "--label", "3", "--guidance", "2", "--out", "three.png"]) == 0
    words = ["--num", "2", "--steps", "1", "--label", "ankle boot", "--sampler", "ddpm", "--out", "boot.png"]
    monkeypatch.setattr(sample.Config, "out", str(run))  # the usual folder of a run
    assert sample.main(words) == 0
    assert [labels.tolist() for labels in asked] == [[*range(10), 0, 1], [3, 3, 3], [9, 9]]
    assert shown["all.png"] == (1, 2 * 57 - 1, 10 * 57 - 1) and shown["three.png"] == (1, 56, 3 * 57 - 1)


def test_samples_are_the_same_with_a_seed_and_in_parts(run: Path) -> None:
    found, labels = sample.Diffusion.open(run), torch.arange(4)

    def draw(seed: int, batch: int = 64) -> Tensor:
        return sample.sample(found, sample.first_noise(found, 4, seed), labels, "dpm_solver_2m", 2, seed=seed, batch=batch)

    whole = draw(1)
    assert whole.shape == (4, 1, 28, 28)
    torch.testing.assert_close(draw(1, batch=3), whole)
    assert not torch.allclose(draw(2), whole)


def test_samples_are_drawn_in_bf16_only_if_the_run_took_it_and_it_is_native(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for taken in ("fp32", "bf16"):
        run = make_run(tmp_path / taken, dataclasses.replace(CONFIG, precision="auto"))
        described = read_json(run / "config.json")
        write_json(described | {"precision": taken}, run / "config.json")
        for native in (False, True):
            monkeypatch.setattr(sample, "native_bf16", lambda device: (native, ""))
            assert sample.Diffusion.open(run).bf16 is (native and taken == "bf16")


def test_interpolations_go_from_each_noise_to_the_next_on_an_arc(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = torch.nn.functional.normalize(torch.randn(3, 1, 28, 28).double(), dim=(1, 2, 3))
    way = sample.between(noise, frames=5).unflatten(0, (3, 5))
    torch.testing.assert_close(way[:, 0], noise)
    torch.testing.assert_close(way[:, -1], noise.roll(-1, 0))
    torch.testing.assert_close(way.flatten(2).norm(dim=2), torch.ones(3, 5).double())  # on the straight line down to 0.7
    steps = (way[:, 1:] - way[:, :-1]).flatten(2).norm(dim=2)
    torch.testing.assert_close(steps, steps[:, :1].expand(3, 4))  # even
    seen, draw = {}, sample.sample
    monkeypatch.setattr(sample, "sample", lambda *arguments: seen.update(labels=arguments[2]) or draw(*arguments))
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: seen.update(shape=image.shape))
    for words, label in (([], 0), (["--label", "3"], 3)):  # of one class, so that a row ends where the next begins
        assert sample.main([str(run), "--num", "2", "--steps", "1", "--interpolate", *words]) == 0
        assert seen["shape"] == (1, 2 * 57 - 1, 8 * 57 - 1) and seen["labels"].tolist() == 16 * [label]


def test_a_flow_is_sampled_by_its_own_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = flow.Config(out="unused", data="fashion_mnist-sample", model="tiny", precision="fp32")
    found = sample.Diffusion.open(make_run(tmp_path / "flow", config, "Diffusion/FlowMatching"))
    assert found.samplers == ["euler"]
    noise = sample.first_noise(found, 2, 0)
    drawn = sample.sample(found, noise, torch.tensor([1, 2]), "euler", 1)
    with torch.no_grad():
        expected = noise - found.model(noise, torch.full((2,), 1000.0), torch.tensor([1, 2]))
    torch.testing.assert_close(drawn, expected)


def test_nearest_training_images_stand_behind_the_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = torch.randint(256, (9, 1, 28, 28), dtype=torch.uint8)
    loader = Loader({"images": pixels, "labels": torch.zeros(9)}, 4)
    training = pixels / 127.5 - 1
    shown = sample.beside_nearest(training[[4, 2]] + 0.1, loader, batch=2)
    torch.testing.assert_close(shown, torch.stack([training[4] + 0.1, training[4], training[2] + 0.1, training[2]]))
    seen = {}
    monkeypatch.setattr(sample, "image_splits", lambda config: seen.update(config=config) or Splits(loader, loader))
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: seen.update(shape=image.shape))
    config = dataclasses.replace(CONFIG, seed=1)  # which draws the training set
    run = str(make_run(tmp_path / "run", config))
    assert sample.main([run, "--num", "5", "--steps", "1", "--nearest"]) == 0
    # The folder that the run is in now holds its split, wherever it was trained.
    assert seen == {"shape": (1, 2 * 57 - 1, 8 * 57 - 1), "config": dataclasses.replace(config, out=run)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "51"], "--steps 51: this run's process has 50"),
        (["--label", "10"], "--label 10: no such class; there are 0 T-shirt, 1 trouser"),
        (["--label", "hat"], "--label hat: no such class"),
        (["--prediction", "epsilon"], "was trained to predict v, not epsilon"),
        (["--num", "0"], "--num has to be at least 1"),
        (["--num", str(10**18)], "--num has to be from 1 to 1,000,000"),
        (["--seed", str(2**64)], "--seed has to be from 0 to 4,294,967,295"),
        (["--sampler", "euler"], "a network that predicts v takes ddim, ddpm, dpm_solver_2m"),
        (["--sampler", "ddpm", "--interpolate"], "--interpolate takes a sampler that adds no noise"),
        (["--sampler", "dpm_solver_2m", "--eta", "0.5"], "--eta is the noise of ddim's steps; --sampler dpm_solver_2m"),
        (["--guidance", "nan"], "--guidance has to be a finite number; got nan"),
        (["--out", "a.xyz"], "--out a.xyz: the name of an image ends in .png, .jpg"),
        (["--text", "a hat"], "--text needs a run of LatentDiffusion with --condition text"),
        (["--num", "1", "--interpolate"], "--interpolate goes from sample to sample: --num at least 2"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    run: Path, words: list[str], message: str, capsys: pytest.CaptureFixture
) -> None:
    assert sample.main([str(run), *words]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: ") and message in said and said.count("\n") == 1


def test_other_folders_and_runs_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    plain = make_run(tmp_path / "plain", dataclasses.replace(CONFIG, classes=False))
    other = make_run(tmp_path / "other", recipe="CNN/LeNet")
    labelled = make_run(tmp_path / "labelled", dataclasses.replace(CONFIG, drop_label=0.0))
    for words, message in (
        ([str(tmp_path)], "holds no trained network"),
        ([str(other)], "is a run of CNN/LeNet"),
        ([str(plain), "--label", "3"], "trained without classes"),
        ([str(plain), "--guidance", "3"], "--guidance needs a run with classes"),
        ([str(labelled), "--guidance", "3"], "this one had --drop-label 0"),
    ):
        assert sample.main(words) == 1 and message in capsys.readouterr().err
