"""The task and the recipe: the loss by hand, labels that are dropped, a run that resumes, samples that are learnt."""

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM import train
from dl.modules.Diffusion.DDPM.model import build
from dl.modules.Diffusion.DDPM.process import PREDICTIONS, DiffusionSchedule
from dl.modules.Diffusion.DDPM.task import Denoising, image_grid
from dl.modules.Diffusion.DDPM.vlb import variational_bound
from dl.modules.Diffusion.DiT import train as dit
from dl.modules.Diffusion.FlowMatching import train as flow
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Splits, synthetic
from dl.mytorch.data.augment import signed
from dl.mytorch.introspect import without_values
from dl.mytorch.testing.device import device_without_float64

SMALL = {"times": 20, "epochs": 2, "batch_size": 16, "ema": 0.9, "precision": "fp32"}
CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", **SMALL)


class Recorder(nn.Module):
    """Gives zeros and keeps what it was asked."""

    num_classes = 10

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        self.asked = (images, times, labels)
        return torch.zeros_like(images)


class Doubled(nn.Module):
    """Gives zeros, twice as many channels as it gets."""

    num_classes = 10

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        return torch.cat([images, images], dim=1) * 0


def images(count: int = 400) -> Batch:
    return {"images": torch.full((count, 1, 4, 4), 0.5), "labels": torch.arange(count) % 10}


def splits() -> Splits:
    return synthetic.image_splits(size=8)


@pytest.mark.parametrize(("prediction", "expected"), [("epsilon", 1.0), ("x0", 0.25)])
def test_loss_of_predicting_nothing_is_the_mean_square_of_the_target(prediction: str, expected: float) -> None:
    output = Denoising(DiffusionSchedule("linear", prediction), (1, 4, 4)).step(Recorder(), images())
    assert output.loss.item() == pytest.approx(expected, rel=0.1) and output.count == 400


def test_times_cover_the_process_and_labels_are_dropped_in_training_only() -> None:
    task, model = Denoising(DiffusionSchedule("linear", steps=20), (1, 4, 4), drop_label=0.25), Recorder()
    task.step(model, images())
    _, times, labels = model.asked
    assert set(times.tolist()) == set(range(20))
    dropped = labels == 10
    assert 0.15 < dropped.float().mean() < 0.35 and torch.equal(labels[~dropped], images()["labels"][~dropped])
    task.eval_step(model, images())
    assert torch.equal(model.asked[2], images()["labels"])


def test_images_are_brought_to_the_ends_of_the_range() -> None:
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 2, 1, 3)
    torch.testing.assert_close(signed({"images": pixels}, None)["images"], torch.tensor([-1.0, -0.6, 1.0]).expand(1, 2, 1, 3))


def test_figures_have_a_column_for_each_class_and_rows_from_noise_to_image() -> None:
    task = Denoising(DiffusionSchedule("linear", steps=10), (1, 8, 8), steps=5)
    with torch.no_grad():
        for model in (build("tiny", num_classes=3), build("tiny")):
            task.begin_evaluation(model)
            task.eval_step(model, synthetic.images(6, size=8, num_classes=3))
            shown = task.report(model)
            columns = model.num_classes or 8
            assert shown["samples"].shape == (1, 8 * 17 - 1, columns * 17 - 1)
            assert shown["denoising"].shape == (1, 6 * 17 - 1, 8 * 17 - 1)
            assert set(shown) == {"samples", "denoising", "loss_by_time"}
    assert image_grid(torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1), 2)[0, 0].tolist() == [0, 0, 1, 1, 1]


def test_the_denoising_figure_goes_from_the_noise_to_the_last_image() -> None:
    def brighter(denoise: Any, process: DiffusionSchedule, noise: Tensor, steps: int, watch: Any) -> None:
        for i in range(steps):
            watch(i + 1, torch.full_like(noise, 2 * (i + 1) / steps - 1))

    task = Denoising(DiffusionSchedule("linear", steps=40), (1, 8, 8), steps=25, sampler=brighter)
    shown = task.draw_denoising(build("tiny"))
    columns = [shown[0, :16, 17 * i : 17 * i + 16] for i in range(8)]
    torch.testing.assert_close(columns[0][::2, ::2], (task._noise(build("tiny"), 6)[0, 0].clamp(-1, 1) + 1) / 2)
    assert [column.unique().numel() for column in columns[1:]] == [1] * 7
    assert [column[0, 0].item() for column in columns[1:]] == pytest.approx([round(25 * i / 7) / 25 for i in range(1, 8)])


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_on_a_device_without_float64_the_losses_are_the_same(prediction: str) -> None:
    """Of images that are noise, as what is drawn on the device is another noise."""
    task = Denoising(DiffusionSchedule("cosine", prediction, steps=9, learned_variance=True), (1, 4, 4))
    times, (x0, noise, _, output) = torch.arange(9), torch.randn(4, 9, 1, 4, 4)
    output = torch.cat([output, noise], dim=1)

    def values(where: torch.device) -> list[Tensor]:
        own = [tensor.to(where) for tensor in (x0, noise, times)]
        there, process = output.to(where), task.process
        terms = [process.q_sample(*own), process.target(*own), process.predict_x0(there, own[0], own[2])]
        return [*terms, process.noise(*own), variational_bound(process, there, own[0], own[1], own[2])]

    expected = values(torch.device("cpu"))
    with device_without_float64() as device:
        for own, other in zip(values(device), expected, strict=True):
            torch.testing.assert_close(own.cpu(), other)
        batch = {"images": torch.zeros(6, 1, 4, 4).to(device), "labels": torch.arange(6).to(device)}
        assert task.eval_step(Doubled(), batch).loss.isfinite().item() and task.by_time[1].sum() == 6


@pytest.mark.parametrize("learned", [False, True])
def test_networks_for_images_in_colour(learned: bool) -> None:
    for recipe in (train, dit):
        config = recipe.Config(out="unused", data="cifar10", learned_variance=learned)
        with without_values():
            model = recipe.build_model(config)
            output = model(torch.zeros(2, 3, 32, 32), torch.zeros(2), torch.zeros(2, dtype=torch.int64))
        assert output.shape == (2, 6 if learned else 3, 32, 32) and model.num_classes == 10


def test_images_that_the_network_cannot_halve_are_refused_before_training() -> None:
    for recipe in (train, flow):
        config = recipe.Config(out="unused", data="fashion_mnist-sample", model="cifar10")
        with without_values(), pytest.raises(UserError, match="--model cifar10 does not fit .*28 x 28: .* multiples of 8"):
            recipe.build_model(config)


def test_recipe_refuses_what_would_change_the_images() -> None:
    wrong: dict[str, Any]
    for wrong in ({"mixup": 0.2}, {"label_smoothing": 0.1}, {"times": 0}, {"drop_label": 2.0}, {"schedule": "cosin"}):
        with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
            dataclasses.replace(CONFIG, **wrong)


@pytest.mark.slow
def test_killed_runs_go_on_to_the_same_bytes_with_their_average(tmp_path: Path) -> None:
    """kill -9 three times, soon after a save: weights, their moving average, history and generators as if undisturbed."""
    flags = ["--data", "fashion_mnist-sample", "--model", "tiny", "--times", "20", "--learned-variance", "--steps", "40"]
    flags += ["--batch-size", "8", "--ema", "0.9", "--precision", "fp32", "--eval-every", "20", "--save-every", "1"]

    def start(name: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "dl.modules.Diffusion.DDPM.train", *flags, "--out", str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def saved() -> int:
        last = tmp_path / "broken" / "last.pt"
        return last.stat().st_mtime_ns if last.exists() else 0

    assert start("whole").wait(timeout=300) == 0
    for pause in (0.0, 0.05, 0.1):
        process, before = start("broken"), saved()
        while process.poll() is None and saved() == before:
            time.sleep(0.002)
        time.sleep(pause)
        process.kill()
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert start("broken").wait(timeout=300) == 0
    testing.assert_same_runs(tmp_path / "whole", tmp_path / "broken")
    state = checkpoint.load(tmp_path / "broken" / "last.pt")
    assert state["position"][0] == 40 and state["ema"]["n_averaged"] == 40
