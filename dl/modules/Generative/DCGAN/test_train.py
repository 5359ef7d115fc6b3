"""The game: its losses by hand, who moves when, the distance that judges it, and runs that resume."""

import dataclasses
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.modules.Diffusion.frechet import frechet_distance
from dl.modules.Generative.DCGAN import train
from dl.modules.Generative.DCGAN.model import build
from dl.modules.Generative.DCGAN.step import AdversarialStep
from dl.modules.Generative.DCGAN.task import Adversarial, PixelFrechetDistance, discriminator_loss, generator_loss
from dl.mytorch import Trainer, checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.files import read_json
from dl.mytorch.optim import adamw, constant
from dl.mytorch.testing.processes import assert_kills_change_nothing, finish

SHORT = {"steps": 6, "batch_size": 16, "eval_every": 3, "precision": "fp32", "device": "cpu"}
CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", **SHORT)


def images(count: int = 8) -> Batch:
    batch = synthetic.images(count)
    return batch | {"images": batch["images"].tanh()}


# ---- losses --------------------------------------------------------------------------------------------------------


def test_losses_by_hand() -> None:
    real, drawn = torch.tensor([0.0, math.log(3)]), torch.tensor([0.0, -math.log(3)])  # D says 1/2 and 3/4; 1/2 and 1/4
    assert discriminator_loss(real, drawn).tolist() == pytest.approx([2 * math.log(2), 2 * math.log(4 / 3)])
    assert generator_loss(drawn).tolist() == pytest.approx([math.log(2), math.log(4)])
    ones, zeros = torch.ones(2), torch.zeros(2)
    cross_entropy = F.binary_cross_entropy_with_logits
    expected = cross_entropy(real, ones, reduction="none") + cross_entropy(drawn, zeros, reduction="none")
    torch.testing.assert_close(discriminator_loss(real, drawn), expected)


def test_generator_loss_does_not_saturate_where_the_discriminator_is_sure() -> None:
    logits = torch.tensor([-20.0], requires_grad=True)
    generator_loss(logits).sum().backward()
    assert logits.grad.item() == pytest.approx(-1, abs=1e-6)  # of log(1 - D), the loss of the game itself, it would be 2e-9


def test_evaluation_gives_the_mean_of_both_losses_over_all_images() -> None:
    task, model = Adversarial(10), build("tiny").eval()
    output = task.eval_step(model, images())
    parts = [output.outputs[name].mean().item() for name in ("discriminator_loss", "generator_loss")]
    assert output.loss.item() == pytest.approx(sum(parts) / 2) and output.count == 8
    assert parts[0] == pytest.approx(2 * math.log(2), abs=0.05)  # at the start the discriminator knows nothing


# ---- steps ---------------------------------------------------------------------------------------------------------


def trainer_for(folder: Path, task: Adversarial | None = None, **changes: Any) -> Trainer:
    config = dataclasses.replace(CONFIG, out=str(folder), **changes)
    adam = adamw(config.lr, weight_decay=0.0, betas=(0.5, 0.999))
    torch.manual_seed(0)
    model = build("tiny")
    both = task or Adversarial(10)
    return Trainer(model, both, lambda m: [adam(m.generator), adam(m.discriminator)], constant(), config, AdversarialStep)


def parameters(model: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


def same(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.equal(left, right) for left, right in zip(a, b, strict=True))


def test_each_player_s_update_leaves_the_other_alone(tmp_path: Path) -> None:
    trainer = trainer_for(tmp_path)
    generator, discriminator = trainer.model.generator, trainer.model.discriminator
    before = parameters(generator), parameters(discriminator)
    trainer.step.update([images()], trainer.task.discriminator_step, trainer.step.optimizers[1])
    assert same(parameters(generator), before[0]) and not same(parameters(discriminator), before[1])
    between = parameters(discriminator)
    trainer.step.update([images()], trainer.task.generator_step, trainer.step.optimizers[0])
    assert not same(parameters(generator), before[0]) and same(parameters(discriminator), between)
    assert all(parameter.grad is None for parameter in trainer.model.parameters())


def test_a_step_equals_one_written_by_hand(tmp_path: Path) -> None:
    trainer, batch = trainer_for(tmp_path, ema=0.5), images()
    torch.manual_seed(0)
    model = build("tiny")
    parts = (model.generator, model.discriminator)
    adams = [torch.optim.Adam(part.parameters(), lr=2e-4, betas=(0.5, 0.999)) for part in parts]
    torch.manual_seed(1)
    for _ in range(3):
        trainer.step([batch])
    torch.manual_seed(1)
    for _ in range(3):
        drawn = model.generator(torch.rand(8, 10) * 2 - 1).detach()
        model.zero_grad()
        real, fake = model.discriminator(batch["images"]), model.discriminator(drawn)
        (-real.sigmoid().log().mean() - (1 - fake.sigmoid()).log().mean()).backward()
        adams[1].step()
        model.zero_grad()
        (-model.discriminator(model.generator(torch.rand(8, 10) * 2 - 1)).sigmoid().log().mean()).backward()
        adams[0].step()
    for (name, own), expected in zip(trainer.model.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(own, expected, atol=1e-5, rtol=0, msg=name)
    means = trainer.step.train_metrics.compute()
    assert means["loss"] == pytest.approx((means["discriminator_loss"] + means["generator_loss"]) / 2)


class Given(Adversarial):
    """The noise comes with the images: the same however these are spread."""

    def noise(self, batch: Batch) -> Tensor:
        return batch["noise"]


def test_accumulation_equals_one_big_batch(tmp_path: Path) -> None:
    batch = images() | {"noise": torch.rand(8, 10) * 2 - 1}
    parts = [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 5), slice(5, 8))]
    trainers = [trainer_for(tmp_path, Given(10)) for _ in range(2)]
    for trainer, batches in zip(trainers, ([batch], parts)):
        trainer.model.double()
        for part in [*trainer.model.generator.blocks, *trainer.model.discriminator.blocks, trainer.model.generator.project]:
            part.norm = nn.Identity()  # with a batch norm, what an image becomes depends on its batch
        as_double = [{name: tensor.double() for name, tensor in part.items()} for part in batches]
        for _ in range(2):
            trainer.step(as_double)
    for (name, own), expected in zip(trainers[1].model.named_parameters(), trainers[0].model.parameters()):
        torch.testing.assert_close(own, expected, atol=1e-9, rtol=0, msg=name)


@pytest.mark.parametrize("player", ["generator_step", "discriminator_step"])
def test_a_loss_that_is_not_finite_stops_before_that_player_moves(
    tmp_path: Path, player: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = trainer_for(tmp_path)
    step = getattr(trainer.task, player)
    monkeypatch.setattr(trainer.task, player, lambda *given: step(*given)._replace(loss=step(*given).loss * math.nan))
    before = parameters(getattr(trainer.model, player.removesuffix("_step")))
    with pytest.raises(UserError, match="not finite at step 1"):
        trainer.step([images()])
    assert same(parameters(getattr(trainer.model, player.removesuffix("_step"))), before)


# ---- the distance --------------------------------------------------------------------------------------------------


def distance(real: Tensor, drawn: Tensor, *cuts: int) -> float:
    metric = PixelFrechetDistance()
    for a, b in zip(real.tensor_split(cuts), drawn.tensor_split(cuts)):
        metric.update({"real": a, "drawn": b})
    return metric.compute()


def test_distance_is_that_of_the_pixels_in_any_split(monkeypatch: pytest.MonkeyPatch) -> None:
    real, drawn = torch.rand(40, 1, 4, 4), torch.rand(40, 1, 4, 4) * 0.5
    expected = frechet_distance(real.flatten(1), drawn.flatten(1))
    assert distance(real, drawn) == pytest.approx(expected, rel=1e-9)
    assert distance(real, drawn, 3, 3, 20) == pytest.approx(expected, rel=1e-9)  # one part is empty
    assert distance(real, real) == pytest.approx(0, abs=1e-9)
    assert math.isnan(PixelFrechetDistance().compute())
    monkeypatch.setattr(PixelFrechetDistance, "most", 50)
    large = torch.rand(60, 3, 8, 8)  # 192 numbers become 48, each the mean of four
    small = F.avg_pool2d(large, 2).flatten(1)
    assert distance(large, large * 0.5) == pytest.approx(frechet_distance(small, small * 0.5), rel=1e-6)


def test_distance_falls_as_images_get_nearer_and_sees_that_all_look_alike() -> None:
    real = images(300)["images"][:, :, :8, :8]
    others = images(600)["images"][300:, :, :8, :8]
    noisy = [distance(real, others + level * torch.randn_like(others)) for level in (0.0, 0.2, 0.5)]
    assert noisy[0] < noisy[1] < noisy[2]
    assert distance(real, others[:1].expand_as(others)) > noisy[0]  # one image, always


# ---- runs ----------------------------------------------------------------------------------------------------------


def test_a_run_saves_both_optimizers_and_its_best_distance(
    tmp_path: Path, no_figures: None, no_reports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelFrechetDistance, "most", 50)  # 784 numbers would take most of the time
    config = dataclasses.replace(CONFIG, out=str(tmp_path), ema=0.9)
    train.main(config, dataclasses.replace(synthetic.image_splits(), test=None))
    state = checkpoint.load(tmp_path / "last.pt")
    assert [len(optimizer["state"]) for optimizer in state["optimizers"]] == [7, 5]  # parameters of each player
    assert {int(of_one["step"]) for optimizer in state["optimizers"] for of_one in optimizer["state"].values()} == {6}
    history = read_json(tmp_path / "history.json")
    assert state["best"] == min(record["val"]["pixel_frechet_distance"] for record in history)


@torch.no_grad()
def test_figures_show_samples_and_lines_between_them() -> None:
    shown = Adversarial(10).report(build("tiny").eval())
    assert shown["samples"].shape == (1, 8 * 57 - 1, 8 * 57 - 1)
    assert shown["interpolations"].shape == (1, 8 * 57 - 1, 10 * 57 - 1)


def test_recipe_refuses_what_cannot_be_meant() -> None:
    for wrong in ({"beta1": 1.0}, {"cutmix": 1.0}):
        with pytest.raises(ValueError, match="--" + next(iter(wrong))):
            dataclasses.replace(CONFIG, **wrong)


def test_images_that_the_networks_cannot_halve_are_refused_before_training() -> None:
    with pytest.raises(UserError, match="--model lsun does not fit .*: images of 28 pixels .* 4 times: multiples of 16 can"):
        train.build_model(dataclasses.replace(CONFIG, model="lsun"))


# ---- whole commands ------------------------------------------------------------------------------------------------


def start(out: Path, *flags: str, module: str = "dl.modules.Generative.DCGAN.train", ranks: int = 1) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    words = [sys.executable, *torchrun, "-m", module, "--out", str(out), "--data", "fashion_mnist-sample", "--model", "tiny"]
    return subprocess.Popen([*words, "--device", "cpu", *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.slow
def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 at whatever moment after a checkpoint, which is written at every step, five times."""
    flags = ["--steps", "60", "--save-every", "1", "--eval-every", "20", "--ema", "0.9"]
    pauses = [0.02 * kills for kills in range(5)]
    assert_kills_change_nothing(lambda out: start(out, *flags), tmp_path, pauses)


# The noise of a batch and no batch norms: then what a step gives does not depend on who computes which part of it.
TWO_RANKS = """
import dataclasses, sys
import torch
from torch import nn
from dl.modules.Generative.DCGAN import train
from dl.modules.Generative.DCGAN.model import build
from dl.modules.Generative.DCGAN.step import AdversarialStep
from dl.modules.Generative.DCGAN.task import Adversarial
from dl.mytorch import Trainer, launch, seed_everything
from dl.mytorch.data import synthetic
from dl.mytorch.optim import constant, sgd


class Given(Adversarial):
    def noise(self, batch):
        return batch["images"][:, 0, 0, :10]

    def preview(self, model):
        return {}

    report = preview


def main(config):
    torch.set_num_threads(1)
    seed_everything(config.seed)
    model = build("tiny")
    for part in [*model.generator.blocks, *model.discriminator.blocks, model.generator.project]:
        part.norm = nn.Identity()
    make = sgd(0.05, momentum=0.9)
    optimizers = lambda model: [make(model.generator), make(model.discriminator)]
    return Trainer(model, Given(10), optimizers, constant(), config, AdversarialStep).fit(synthetic.image_splits())


if __name__ == "__main__":
    launch(main, train.Config)
"""


@pytest.mark.slow
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_ranks_equal_one_process(tmp_path: Path, parallel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """50 images in batches of 16, two to a step: the last batch has 2."""
    (tmp_path / "two_ranks_recipe.py").write_text(TWO_RANKS, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    flags = ["--batch-size", "16", "--steps", "0", "--epochs", "3", "--accumulate", "2", "--ema", "0.9", "--precision", "fp32"]
    finish(start(tmp_path / "one", *flags, module="two_ranks_recipe"))
    finish(start(tmp_path / "two", *flags, "--parallel", parallel, module="two_ranks_recipe", ranks=2))
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    for part in ("model", "ema"):
        for name, weights in one[part].items():
            assert torch.as_tensor(weights - two[part][name]).abs().max() <= 1e-6, (part, name)
    for left, right in zip(*(read_json(tmp_path / name / "history.json") for name in ("one", "two")), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            for name, value in left[split].items():
                assert right[split][name] == pytest.approx(value, abs=1e-4), (split, name)
