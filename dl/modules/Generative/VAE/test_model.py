"""The autoencoder against the paper's formulas, its bound against the likelihood itself, and through its real recipe."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Bernoulli, Normal
from torch.distributions import kl_divergence as kl_of_distributions

from dl.modules.Generative.VAE import train
from dl.modules.Generative.VAE.model import Reparameterization, build
from dl.modules.Generative.VAE.task import NegativeELBO, kl_divergence, manifold, reconstruction_loss, unit
from dl.mytorch import testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.introspect import count_parameters, without_values

CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", epochs=2, batch_size=16)


def images(count: int = 6, size: int = 8) -> Batch:
    """Images in [-1, 1]."""
    batch = synthetic.images(count, size=size)
    return batch | {"images": batch["images"].tanh()}


# ---- networks ------------------------------------------------------------------------------------------------------


def test_parameters_are_those_of_appendix_c() -> None:
    with without_values():
        # 784 x 500 + 500, twice 500 Z + Z, 500 Z + 500, 500 x 784 + 784.
        assert count_parameters(build("mlp20")) == 392_500 + 2 * 10_020 + 10_500 + 392_784 == 815_824
        assert count_parameters(build("mlp2")) == 788_788 and count_parameters(build("mlp200")) == 1_086_184
        assert all(build(f"mlp{latent}").latent == latent for latent in (2, 3, 5, 10, 20, 200))


class PaperTwin(nn.Module):
    """Appendix C with the names of its matrices, and one draw."""

    def __init__(self, pixels: int, hidden: int, latent: int) -> None:
        super().__init__()
        shapes = {3: (hidden, pixels), 1: (hidden, latent), 2: (pixels, hidden), 4: (latent, hidden), 5: (latent, hidden)}
        for number, shape in shapes.items():  # in the order of our parameters
            setattr(self, f"w{number}", nn.Parameter(torch.empty(shape)))
            setattr(self, f"b{number}", nn.Parameter(torch.empty(shape[0])))

    def forward(self, x: Tensor) -> Tensor:
        x, w = x.flatten(1), dict(self.named_parameters())
        h = (x @ w["w3"].T + w["b3"]).tanh()
        mu, variance = h @ w["w4"].T + w["b4"], (h @ w["w5"].T + w["b5"]).exp()
        z = mu + variance.sqrt() * torch.randn_like(mu)
        y = (z @ w["w1"].T + w["b1"]).tanh() @ w["w2"].T + w["b2"]
        return torch.cat([y, mu, variance.log()], dim=1)


class Joined(nn.Module):
    """Our outputs in one tensor."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([output.flatten(1) for output in self.model(x)], dim=1)


def test_network_equals_the_formulas_of_appendix_c() -> None:
    model, twin = build("mlp3", hidden=9, image_size=6), PaperTwin(36, 9, 3)
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.data.copy_(own.data)
    testing.assert_same_as(Joined(model), twin, torch.rand(5, 1, 6, 6))


@pytest.mark.parametrize(("preset", "size", "channels"), [("tiny", 28, 1), ("conv", 32, 3), ("mlp5", 12, 3)])
def test_what_comes_out_has_the_shape_of_the_image(preset: str, size: int, channels: int) -> None:
    model = build(preset, image_size=size, in_channels=channels)
    logits, mean, log_variance = model(torch.rand(2, channels, size, size))
    assert logits.shape == (2, channels, size, size) and mean.shape == log_variance.shape == (2, model.latent)
    assert model.draw(model.prior(2)).shape == logits.shape
    with pytest.raises(ValueError, match="30 pixels cannot be halved 2 times"):
        build("tiny", image_size=30)


# ---- the bound -----------------------------------------------------------------------------------------------------


def test_kl_divergence_is_that_of_torch_and_of_hand() -> None:
    mean, log_variance = torch.randn(5, 3).double(), torch.randn(5, 3).double()
    expected = kl_of_distributions(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected)
    by_hand = kl_divergence(torch.tensor([[0.0, 0.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(4)]]))
    assert by_hand.tolist() == pytest.approx([0.0, 0.5 * 9 + 0.5 * (4 - 1 - math.log(4))])


def test_reconstruction_is_the_log_probability_of_all_pixels() -> None:
    pixels, logits = torch.randint(2, (4, 2, 3, 3)).double(), torch.randn(4, 2, 3, 3).double()
    expected = -Bernoulli(logits=logits).log_prob(pixels).flatten(1).sum(1)
    torch.testing.assert_close(reconstruction_loss(logits, pixels), expected)
    assert reconstruction_loss(torch.zeros(1, 1, 2, 3), torch.full((1, 1, 2, 3), 0.3)).item() == pytest.approx(6 * math.log(2))


def test_gradients_reach_mean_and_variance_through_the_draw() -> None:
    mean, log_variance = torch.full((200_000, 1), 1.5).requires_grad_(), torch.full((200_000, 1), -0.8).requires_grad_()
    z = Reparameterization()(mean, log_variance)
    z.square().mean().backward()  # E z^2 = mean^2 + variance
    assert mean.grad.sum().item() == pytest.approx(2 * 1.5, rel=0.02)
    assert log_variance.grad.sum().item() == pytest.approx(math.exp(-0.8), rel=0.02)
    assert z.mean().item() == pytest.approx(1.5, rel=0.02) and z.var().item() == pytest.approx(math.exp(-0.8), rel=0.02)


@torch.no_grad()
def test_loss_exceeds_the_true_one_by_the_divergence_from_the_posterior() -> None:
    """With one latent variable all integrals are sums over a grid: -ELBO = -log p(x) + KL(q(z|x) || p(z|x))."""
    model = build("mlp5", latent=1, hidden=20, image_size=4).double()
    model.decoder.fc.weight.normal_(std=2.0)  # so that the image depends on z
    x = torch.randint(2, (3, 1, 4, 4)).double()
    mean, log_variance = model.encode(x)
    z = torch.linspace(-9, 9, 4001, dtype=torch.float64)[:, None]  # (N, 1)
    step = (z[1] - z[0]).item()
    logits = model.decode(z)
    likelihood = torch.stack([-reconstruction_loss(logits, one.expand_as(logits)) for one in x])  # log p(x|z), (3, N)
    prior = Normal(0.0, 1.0).log_prob(z[:, 0])
    posterior_of = Normal(mean, (log_variance / 2).exp()).log_prob(z[:, 0])  # log q(z|x), (3, N)
    true = -((likelihood + prior).exp().sum(1) * step).log()
    gap = (posterior_of.exp() * (posterior_of - (likelihood + prior + true[:, None]))).sum(1) * step
    bound = (posterior_of.exp() * -likelihood).sum(1) * step + kl_divergence(mean, log_variance)
    torch.testing.assert_close(bound, true + gap, atol=1e-6, rtol=0)
    assert (gap > 0.01).all()
    # What the task computes is a draw of that bound; weighted by importance, as in the paper's appendix D, draws come nearer.
    many = x[:1].expand(20_000, 1, 4, 4)
    output = NegativeELBO().step(model, {"images": many * 2 - 1})
    assert output.loss.item() == pytest.approx(bound[0].item(), rel=0.01) and output.count == 20_000
    drawn = mean[0] + (log_variance[0] / 2).exp() * torch.randn(20_000, 1).double()
    weights = -reconstruction_loss(model.decode(drawn), many) + Normal(0.0, 1.0).log_prob(drawn[:, 0])
    weights = weights - Normal(mean[0], (log_variance[0] / 2).exp()).log_prob(drawn)[:, 0]
    by_importance = math.log(20_000) - weights.logsumexp(0).item()
    assert by_importance == pytest.approx(true[0].item(), abs=0.02) and by_importance < bound[0] - 0.01


def test_loss_is_reconstruction_and_kl_of_the_same_images() -> None:
    task = NegativeELBO()
    metrics = task.train_metrics()
    output = task.step(build("tiny", image_size=8), images())
    for metric in metrics.values():
        metric.update(output.outputs)
    parts = [metric.compute() for metric in metrics.values()]
    assert list(metrics) == ["reconstruction_loss", "kl_loss"] and sum(parts) == pytest.approx(output.loss.item(), rel=1e-5)


# ---- training ------------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """In place of a draw."""

    def forward(self, mean: Tensor, log_variance: Tensor) -> Tensor:
        return mean


def without_noise(model: nn.Module) -> nn.Module:
    model.reparameterization = Mean()
    return model


def two_images() -> Batch:
    return {"images": torch.stack([torch.ones(1, 8, 8), torch.ones(1, 8, 8).triu() * 2 - 1])}


test_standard = testing.standard_checks(
    build,
    train.main,
    dataclasses.replace(CONFIG, epochs=1, batch_size=4, ema=0.9),
    images,
    task=NegativeELBO,
    output=without_noise,
    variants=[{"preset": preset, "image_size": 8, "hidden": 16} for preset in ("tiny", "mlp2")],
    # ln 2 nats say which of both it is; a guess at each pixel would cost 44.
    overfit=[testing.Overfit({"preset": "mlp2", "image_size": 8, "hidden": 32}, two_images, lr=2e-2, below=4.0)],
)


@torch.no_grad()
def test_figures_show_samples_what_comes_back_lines_and_the_plane() -> None:
    task, model = NegativeELBO(), build("tiny", image_size=8)
    assert set(task.report(model)) == {"samples", "manifold"}  # before any image was seen
    task.begin_evaluation(model)
    task.eval_step(model, images(12))
    shown = task.report(model)
    assert shown["samples"].shape == (1, 8 * 17 - 1, 8 * 17 - 1) and shown["manifold"].shape == (1, 20 * 17 - 1, 20 * 17 - 1)
    assert shown["reconstructions"].shape == (1, 2 * 17 - 1, 10 * 17 - 1)
    assert shown["interpolations"].shape == (1, 5 * 17 - 1, 10 * 17 - 1)
    original = unit(images(12)["images"])[3]
    torch.testing.assert_close(shown["reconstructions"][:, :16:2, 51:67:2], original)
    assert "manifold" not in task.report(build("mlp3", image_size=8, hidden=4))
    points = manifold(4).view(4, 4, 2)
    assert Normal(0.0, 1.0).cdf(points[:, 0, 0]).tolist() == pytest.approx([0.125, 0.375, 0.625, 0.875])


def test_recipe_refuses_what_would_change_the_images() -> None:
    with pytest.raises(ValueError, match="--mixup"):
        dataclasses.replace(CONFIG, mixup=0.2)


def test_images_that_the_network_cannot_halve_are_refused_before_training(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    config = train.Config(out="unused", data=f"folder:{tmp_path}", image_size=30, model="conv")
    with pytest.raises(UserError, match="--model conv does not fit .*: images of 30 pixels .* 2 times: multiples of 4 can"):
        train.build_model(config)
