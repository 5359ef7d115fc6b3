"""The task and the recipe: the loss by hand, labels that are dropped, a run that resumes, samples that are learnt."""

import dataclasses
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM import train
from dl.modules.Diffusion.DDPM.data import signed
from dl.modules.Diffusion.DDPM.model import PRESETS, build
from dl.modules.Diffusion.DDPM.process import Process
from dl.modules.Diffusion.DDPM.task import Denoising, picture
from dl.mytorch import testing
from dl.mytorch.data import Batch, Splits, synthetic
from dl.mytorch.data.augment import normalize

SMALL = {"times": 20, "epochs": 2, "batch_size": 16, "ema": 0.9, "precision": "fp32"}
CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", **SMALL)


class Recorder(nn.Module):
    """Gives zeros and keeps what it was asked."""

    num_classes = 10

    def forward(self, images: Tensor, times: Tensor, labels: Tensor) -> Tensor:
        self.asked = (images, times, labels)
        return torch.zeros_like(images)


def images(count: int = 400) -> Batch:
    return {"images": torch.full((count, 1, 4, 4), 0.5), "labels": torch.arange(count) % 10}


def splits() -> Splits:
    return synthetic.image_splits(size=8)


@pytest.mark.parametrize(("prediction", "expected"), [("epsilon", 1.0), ("x0", 0.25)])
def test_loss_of_predicting_nothing_is_the_mean_square_of_the_target(prediction: str, expected: float) -> None:
    output = Denoising(Process("linear", prediction), (1, 4, 4)).step(Recorder(), images())
    assert output.loss.item() == pytest.approx(expected, rel=0.1) and output.count == 400


def test_times_cover_the_process_and_labels_are_dropped_in_training_only() -> None:
    task, model = Denoising(Process("linear", steps=20), (1, 4, 4), drop_label=0.25), Recorder()
    task.step(model, images())
    _, times, labels = model.asked
    assert set(times.tolist()) == set(range(20))
    dropped = labels == 10
    assert 0.15 < dropped.float().mean() < 0.35 and torch.equal(labels[~dropped], images()["labels"][~dropped])
    task.eval_step(model, images())
    assert torch.equal(model.asked[2], images()["labels"])


def test_images_are_brought_to_the_ends_of_the_range() -> None:
    standard = normalize([0.2, 0.5], [0.3, 0.7])
    pixels = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 1, 1, 3).expand(1, 2, 1, 3)
    batch = signed(standard)(standard({"images": pixels}, None), None)
    torch.testing.assert_close(batch["images"], torch.tensor([-1.0, -0.6, 1.0]).expand(1, 2, 1, 3))


def test_one_image_is_learnt_by_heart() -> None:
    task = Denoising(Process("cosine", "x0", steps=20), (1, 8, 8), drop_label=0.0)
    one = {name: tensor[:1].expand(8, *tensor.shape[1:]) for name, tensor in synthetic.images(1, size=8).items()}
    testing.assert_overfits(build("tiny", num_classes=10), one, task, lr=1e-2, steps=40, below=0.3)


def test_every_parameter_gets_a_gradient() -> None:
    model = build("tiny", num_classes=10)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    testing.assert_gradients_flow(model, synthetic.images(32, size=8), Denoising(Process(), (1, 8, 8), drop_label=0.5))


def test_pictures_have_a_column_for_each_class_and_rows_from_noise_to_image() -> None:
    task = Denoising(Process("linear", steps=10), (1, 8, 8), steps=5)
    with torch.no_grad():
        for model in (build("tiny", num_classes=3), build("tiny")):
            task.metrics(), task.eval_step(model, synthetic.images(6, size=8, num_classes=3))
            shown = task.report(model)
            columns = model.num_classes or 8
            assert shown["samples"].shape == (1, 8 * 17 - 1, columns * 17 - 1)
            assert shown["denoising"].shape == (1, 6 * 17 - 1, 8 * 17 - 1)
            assert set(shown) == {"samples", "denoising", "loss_by_time"}
    assert picture(torch.tensor([-1.0, 3.0]).view(2, 1, 1, 1), 2)[0, 0].tolist() == [0, 0, 1, 1, 1]


def test_recipe_resumes_exactly_with_its_average(tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Denoising, "preview", lambda task, model: {})
    monkeypatch.setattr(Denoising, "report", lambda task, model: {})
    testing.assert_resumes_exactly(train.main, dataclasses.replace(CONFIG, out=str(tmp_path)), splits)


def test_recipe_offers_presets_and_refuses_what_would_change_the_images() -> None:
    assert set(get_type_hints(train.Config)["model"].__args__) <= set(PRESETS)
    wrong: dict[str, Any]
    for wrong in ({"mixup": 0.2}, {"label_smoothing": 0.1}, {"times": 0}, {"drop_label": 2.0}, {"schedule": "cosin"}):
        with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
            dataclasses.replace(CONFIG, **wrong)
