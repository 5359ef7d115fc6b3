"""WGAN-GP: the penalty by hand, where it is measured, a critic that sees one image at a time, steps, and runs that resume."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.modules.Generative.DCGAN import train
from dl.modules.Generative.DCGAN.model import Discriminator, build
from dl.modules.Generative.DCGAN.step import AdversarialStep, Players
from dl.modules.Generative.DCGAN.task import PixelFrechetDistance, WassersteinGP, gradient_penalty
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.optim import sgd
from dl.mytorch.testing.runs import assert_resumes_exactly, tiny_splits

RATE = 0.01
SHORT = {"steps": 3, "batch_size": 4, "eval_every": 3, "precision": "fp32", "device": "cpu"}
GAME = {"loss": "wgan_gp", "critic_steps": 2, "beta1": 0.0, "beta2": 0.9}
WGAN = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", **SHORT, **GAME)


def images() -> Tensor:
    return synthetic.images(8)["images"].tanh()


def test_the_penalty_is_on_the_norm_over_all_numbers_of_an_image() -> None:
    """Of channels alone it would be 37.5."""
    weight = torch.tensor([3.0, 4.0, 0.0, 0.0])
    real, drawn = torch.randn(2, 5, 1, 2, 2)
    penalties = gradient_penalty(lambda x: x.flatten(1) @ weight, real, drawn, torch.rand(5, 1, 1, 1))
    assert (10 * penalties).tolist() == pytest.approx([160.0] * 5)


def test_each_image_has_one_point_on_the_line_to_its_drawn_one() -> None:
    seen = []

    def critic(points: Tensor) -> Tensor:
        seen.append(points.detach())
        return points.flatten(1).sum(1)

    task, (real, drawn) = WassersteinGP(10), torch.randn(2, 50, 3, 4, 4).double()
    task.penalized(torch.zeros(50), critic, real, drawn)
    shares = ((seen[0] - drawn) / (real - drawn)).flatten(1)  # (B, C X X)
    torch.testing.assert_close(shares, shares[:, :1].expand_as(shares), atol=1e-6, rtol=0)
    assert 0 <= shares.min() and shares.max() <= 1 and shares[:, 0].std() > 0.2


def test_the_gradient_at_an_image_depends_on_no_other_image() -> None:
    def gradients(critic: Discriminator, points: Tensor) -> Tensor:
        points = points.clone().requires_grad_()
        return torch.autograd.grad(critic(points).sum(), points)[0]

    batch = torch.randn(4, 1, 28, 28).double()
    for norm, alone in (("layer", True), ("batch", False)):
        critic = build("tiny", norm=norm).discriminator.double()
        one, first = gradients(critic, batch[:1]), gradients(critic, batch)[:1]
        assert torch.allclose(one, first, atol=1e-12, rtol=0) == alone, norm


class Given(WassersteinGP):
    """Noise and shares come with the images."""

    def noise(self, batch: Batch) -> Tensor:
        return batch["noise"]

    def shares(self, images: Tensor) -> Tensor:
        return (images[:, :, :1, :1] + 1) / 2


def batches(count: int) -> list[Batch]:
    """Return steps' batches of eight images, in float64."""
    torch.manual_seed(1)
    return [{"images": images().double(), "noise": torch.rand(8, 10).double() * 2 - 1} for _ in range(count)]


def step_for(**changes: Any) -> AdversarialStep:
    """Return the step of networks in float64, without the batch norms of the generator."""
    torch.manual_seed(0)
    model = train.build_model(WGAN).double()
    for part in [*model.generator.blocks, model.generator.project]:
        part.norm = nn.Identity()
    return AdversarialStep(model, Given(10, 2), train.for_both(sgd(RATE)), dataclasses.replace(WGAN, **changes))


def test_steps_equal_those_written_by_hand() -> None:
    step, model = step_for(), step_for().model
    critic, generator = model.discriminator, model.generator
    for i, batch in enumerate(batches(4)):
        before = step.model.generator.output.conv.weight.clone()
        step([batch])
        assert torch.equal(step.model.generator.output.conv.weight, before) == (i % 2 == 0)  # every second step is its, too
        real, drawn = batch["images"], generator(batch["noise"]).detach()
        share = (real[:, :, :1, :1] + 1) / 2
        penalty = 0.0
        for k in range(8):  # each by itself
            x = (share[k] * real[k] + (1 - share[k]) * drawn[k])[None].requires_grad_()
            slope = torch.autograd.grad(critic(x)[0], x, create_graph=True)[0]
            penalty = penalty + (slope.pow(2).sum().sqrt() - 1) ** 2 / 8
        descend(critic, critic(drawn).mean() - critic(real).mean() + 10 * penalty)
        if i % 2:
            descend(generator, -critic(generator(batch["noise"])).mean())
    assert_same_weights(step.model, model)


def descend(player: nn.Module, loss: Tensor) -> None:
    """Take a step of gradient descent."""
    with torch.no_grad():
        for parameter, gradient in zip(player.parameters(), torch.autograd.grad(loss, [*player.parameters()])):
            parameter -= RATE * gradient


def assert_same_weights(model: nn.Module, expected: nn.Module) -> None:
    for (name, own), other in zip(model.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-9, rtol=0, msg=name)


def in_two(batch: Batch) -> list[Batch]:
    return [{name: tensor[rows] for name, tensor in batch.items()} for rows in (slice(0, 5), slice(5, 8))]


def test_two_batches_of_a_step_equal_one() -> None:
    one, two = step_for(), step_for()
    for batch in batches(2):
        one([batch])
        two(in_two(batch))
    assert_same_weights(two.model, one.model)


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    step = step_for(parallel="ddp")
    for batch in batches(2):
        step([in_two(batch)[rank]])
    torch.save(step.model.state_dict(), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    one = step_for()
    for batch in batches(2):
        one([batch])
    for rank in range(2):
        two = step_for().model
        two.load_state_dict(torch.load(tmp_path / f"{rank}.pt", weights_only=True))
        assert_same_weights(two, one.model)


def test_training_measures_the_distance_and_the_penalty_and_evaluation_leaves_the_penalty_out() -> None:
    task, model = WassersteinGP(10), build("tiny", norm="layer")
    outputs = task.discriminator_step(Players(model.generator, model.discriminator), {"images": images()}).outputs
    assert outputs.keys() | {"generator_loss"} == task.train_metrics().keys()
    expected = 10 * outputs["gradient_penalty"] - outputs["wasserstein_distance"]
    torch.testing.assert_close(outputs["discriminator_loss"], expected)
    with torch.no_grad():
        means = task.eval_step(model.eval(), {"images": images()}).outputs
        scores = model.discriminator(means["drawn"]) - model.discriminator(means["real"])
    torch.testing.assert_close(means["discriminator_loss"], scores)
    assert task.metrics().keys() == {"pixel_frechet_distance", "discriminator_loss", "generator_loss"}


def test_a_run_stopped_between_two_updates_of_the_generator_resumes_exactly(
    tmp_path: Path, no_figures: None, no_reports: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PixelFrechetDistance, "most", 50)
    config = dataclasses.replace(WGAN, out=str(tmp_path), critic_steps=3, plots=False)
    assert_resumes_exactly(train.main, config, tiny_splits)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"critic_steps": 0}, "--critic-steps has to be at least 1"),
        ({"penalty": -1.0}, "--penalty has to be a finite number"),
        ({"compile": True}, "--compile: --loss wgan_gp needs gradients of gradients"),
        ({"parallel": "fsdp"}, "--parallel fsdp: --loss wgan_gp needs gradients of gradients"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as refused:
        dataclasses.replace(WGAN, **wrong)
    assert "\n" not in str(refused.value)
