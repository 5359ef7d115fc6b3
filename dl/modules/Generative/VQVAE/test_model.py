"""The quantizer against numbers by hand and diffusers', the networks against plain stacks, and through both real recipes."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.modules.Generative.VQVAE import prior, train
from dl.modules.Generative.VQVAE.model import PRIORS, CodePrior, Quantizer, build
from dl.modules.Generative.VQVAE.task import CodeLikelihood, Reconstruction, perplexity
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.introspect import count_parameters, without_values
from dl.mytorch.torchvision_compat import import_torchvision

CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4)


def images(count: int = 6, size: int = 8) -> Batch:
    """Images in [-1, 1]."""
    batch = synthetic.images(count, size=size)
    return batch | {"images": batch["images"].tanh()}


def by_hand(decay: float = 0.0) -> tuple[Quantizer, Tensor]:
    """Return a quantizer of the codes (0, 0) and (1, 1), and a map (1, 2, 1, 2) of the vectors (.4, 0) and (.9, 1.1)."""
    quantizer = Quantizer(2, 2, decay).double()
    quantizer.codebook.data.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    z = torch.tensor([[0.4, 0.0], [0.9, 1.1]], dtype=torch.float64).T.reshape(1, 2, 1, 2)
    return quantizer, z.requires_grad_()


def rows(gradient: Tensor) -> list[float]:
    """Return a map's vectors one after the other."""
    return gradient.movedim(1, -1).flatten().tolist()


# ---- the quantizer -------------------------------------------------------------------------------------------------


def test_both_terms_and_their_gradients_are_those_of_hand() -> None:
    """With beta before the other term, as in much public code, the loss is the same and the gradients are not."""
    quantizer, z = by_hand()
    quantized = quantizer(z)
    assert quantized.codes.flatten().tolist() == [0, 1] and rows(quantized.vectors) == pytest.approx([0, 0, 1, 1])
    assert quantized.codebook_loss.item() == pytest.approx(0.045) and quantized.commitment_loss.item() == pytest.approx(0.045)
    loss = (quantized.codebook_loss + 0.25 * quantized.commitment_loss).mean()
    assert loss.item() == pytest.approx(0.05625)
    loss.backward()
    assert rows(z.grad) == pytest.approx([0.05, 0, -0.0125, 0.0125])
    assert quantizer.codebook.grad.flatten().tolist() == pytest.approx([-0.2, 0, 0.05, -0.05])


def test_gradients_pass_straight_through_to_the_encoder_and_none_to_the_codebook() -> None:
    quantizer, z = by_hand()
    (3 * quantizer(z).vectors).sum().backward()
    assert rows(z.grad) == [3, 3, 3, 3] and quantizer.codebook.grad is None


def test_a_step_uses_the_codebook_of_before_and_then_moves_it_by_the_average() -> None:
    quantizer, z = by_hand(decay=0.75)
    quantizer.sums.copy_(quantizer.codebook)
    quantized = quantizer.train()(z)
    assert rows(quantized.vectors) == pytest.approx([0, 0, 1, 1]) and quantized.codebook_loss.item() == 0
    assert quantizer.counts.tolist() == pytest.approx([1, 1])  # 3/4 of 1 and a quarter of one vector
    assert quantizer.codebook.flatten().tolist() == pytest.approx([0.1, 0, 0.975, 1.025])
    assert not quantizer.codebook.requires_grad and not list(quantizer.parameters())
    before = quantizer.codebook.clone()
    quantizer.eval()(z)
    assert torch.equal(quantizer.codebook, before)


def test_a_code_that_nothing_takes_stays_finite() -> None:
    quantizer, z = by_hand(decay=0.5)
    for _ in range(200):  # its count halves each time, to 0 in float64 after a thousand, in float32 after 150
        quantizer.float()(z.float()[..., :1])
    assert quantizer.codebook.isfinite().all() and quantizer.codebook[0].tolist() == pytest.approx([0.4, 0], abs=1e-6)


def test_codes_that_nothing_takes_restart_unused_at_vectors_of_the_first_image() -> None:
    quantizer = Quantizer(4, 2, decay=0.5, restart=0.6).double()
    quantizer.codebook.copy_(torch.tensor([[0.0, 0.0], [9.0, 9.0], [9.0, 9.0], [-9.0, 9.0]]))
    quantizer.sums.copy_(quantizer.codebook)
    z = torch.tensor([[[0.1, 0.2]], [[0.3, 0.4]]], dtype=torch.float64).transpose(0, 1)[None].reshape(1, 2, 1, 2)
    quantizer.train()(z)  # both vectors take the first entry; the others have half a vector each and are below 0.6
    first = z[0].flatten(1).T
    assert quantizer.counts.tolist() == [1.5, 1, 1, 0.5]  # of two vectors two entries begin again
    assert torch.equal(quantizer.codebook[1:3], first) and quantizer.codebook[3].tolist() == [-9, 9]
    assert torch.equal(quantizer.sums[1:3], first)


def test_restarts_spread_a_codebook_over_what_the_encoder_makes() -> None:
    generator = torch.Generator().manual_seed(0)
    used = []
    for restart in (0.0, 0.5):
        quantizer = Quantizer(16, 2, decay=0.9, restart=restart).train()
        for _ in range(60):
            quantizer(3 + torch.randn(8, 2, 4, 4, generator=generator))
        used.append(len(quantizer.codes(3 + torch.randn(64, 2, 4, 4, generator=generator)).unique()))
    assert used[1] == 16 > used[0]


def test_perplexity_is_that_of_hand() -> None:
    counts = torch.tensor([[4.0, 2.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0], [7.0, 0.0, 0.0, 0.0]])
    assert perplexity(counts).tolist() == pytest.approx([2**1.75, 4, 1])
    task = Reconstruction(4)
    unused = task.metrics()["unused_codebook"]
    unused.update({"codes": torch.tensor([0, 0, 0, 0, 1]).view(5, 1, 1)})
    unused.update({"codes": torch.tensor([1, 2, 3]).view(3, 1, 1)})
    assert unused.compute() == pytest.approx(1 - 3.3635857 / 4)


@pytest.mark.parity
@pytest.mark.parametrize("legacy", [False, True])
def test_quantizer_is_that_of_diffusers(legacy: bool) -> None:
    """By default diffusers has beta before the term of the codebook."""
    import_torchvision()  # diffusers imports it, too
    vae = pytest.importorskip("diffusers.models.autoencoders.vae")
    theirs = vae.VectorQuantizer(12, 4, beta=0.25, legacy=legacy).double()
    own = Quantizer(12, 4).double()
    own.codebook.data.copy_(theirs.embedding.weight.data)
    z = 0.1 * torch.randn(3, 4, 5, 5, dtype=torch.float64)
    mine, other = z.clone().requires_grad_(), z.clone().requires_grad_()
    quantized = own(mine)
    weights = (0.25, 1.0) if legacy else (1.0, 0.25)
    loss = weights[0] * quantized.codebook_loss.mean() + weights[1] * quantized.commitment_loss.mean()
    vectors, their_loss, (_, _, codes) = theirs(other)
    assert torch.equal(quantized.codes.flatten(), codes.flatten())
    mix = torch.randn_like(vectors)
    (loss + (quantized.vectors * mix).sum()).backward()
    (their_loss + (vectors * mix).sum()).backward()
    gradients = (mine.grad, other.grad), (own.codebook.grad, theirs.embedding.weight.grad)
    for found, expected in ((quantized.vectors, vectors), (loss, their_loss), *gradients):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


# ---- networks ------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(features, features, 3, 1, 1), nn.Conv2d(features, features, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.narrow(self.wide(x.relu()).relu())


class PaperTwin(nn.Module):
    """Section 4.1 written out, with equation 1 by all distances."""

    def __init__(self, features: int, num_codes: int, dim: int) -> None:
        super().__init__()
        ends = nn.Conv2d(1, features, 4, 2, 1), nn.Conv2d(features, features, 4, 2, 1)
        self.encoder = nn.Sequential(
            ends[0], nn.ReLU(), ends[1], Residual(features), Residual(features), nn.Conv2d(features, dim, 1)
        )
        self.codes = nn.Embedding(num_codes, dim)
        ends = nn.ConvTranspose2d(features, features, 4, 2, 1), nn.ConvTranspose2d(features, 1, 4, 2, 1)
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, features, 1), Residual(features), Residual(features), ends[0], nn.ReLU(), ends[1]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        z = self.encoder(x)
        distances = (z[:, None] - self.codes.weight[None, :, :, None, None]).square().sum(2)  # (B, K, Y, Y)
        e = self.codes(distances.argmin(1)).permute(0, 3, 1, 2)
        again = self.decoder(z + e.detach() - z.detach())
        terms = [(z.detach() - e).square().mean((1, 2, 3)), (z - e.detach()).square().mean((1, 2, 3))]
        return again, z + e.detach() - z.detach(), *terms


def test_networks_and_losses_equal_the_paper_written_out() -> None:
    model = build("tiny", image_size=8)
    twin = PaperTwin(8, 6, 3)
    for own, other in zip(model.parameters(), twin.parameters(), strict=True):
        other.data.copy_(own.data)
    testing.assert_same_as(model, twin, torch.randn(4, 1, 8, 8))


def test_paper_s_network_has_256_units_and_512_codes() -> None:
    with without_values():
        model = build("paper")
    blocks = 4 * (256 * 256 * 10 + 2 * 256)
    strided = 2 * 256 * 256 * 16 + 2 * 256 + 2 * 3 * 256 * 16 + 256 + 3 - 256
    assert count_parameters(model.quantizer) == 512 * 64
    assert count_parameters(model) == blocks + strided + 2 * 256 * 64 + 64 + 256 + 256 + 512 * 64
    with pytest.raises(ValueError, match="30 pixels cannot be halved 2 times"):
        build("tiny", image_size=30)


# ---- the prior -----------------------------------------------------------------------------------------------------


def small_prior() -> CodePrior:
    torch.manual_seed(0)
    model = CodePrior(build("tiny", image_size=8, decay=0.9), **PRIORS["tiny"])
    for parameter in model.gpt.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def test_the_prior_learns_alone_and_leaves_the_autoencoder_as_it_was() -> None:
    model, batch = small_prior().train(), images()
    before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    testing.assert_gradients_flow(model, batch, CodeLikelihood(6, 4 / 64))
    assert all(torch.equal(value, before[name]) for name, value in model.autoencoder.state_dict().items())
    assert all(parameter.grad is None for parameter in model.autoencoder.parameters())


def test_a_code_depends_on_those_before_it_alone_and_all_probabilities_are_one() -> None:
    model = small_prior().double().eval()
    codes = torch.randint(6, (2, 4))
    with torch.no_grad():
        before = model.logits(codes)
        for t in range(4):
            after = model.logits(torch.cat([codes[:, :t], (codes[:, t:] + 1) % 6], dim=1))
            assert torch.equal(after[:, : t + 1], before[:, : t + 1])
        every = torch.cartesian_prod(*[torch.arange(6)] * 4)  # all 1296 maps of four codes
        log_probability = model.logits(every).log_softmax(-1).gather(2, every[..., None]).sum((1, 2))
    assert log_probability.exp().sum().item() == pytest.approx(1, abs=1e-9)


@torch.no_grad()
def test_codes_are_drawn_as_often_as_they_are_probable() -> None:
    model = small_prior().eval()
    drawn = model.draw_codes(4000, torch.Generator().manual_seed(0)).flatten(1)
    every = torch.cartesian_prod(torch.arange(6), torch.arange(6))
    logits = model.logits(torch.cat([every, every], dim=1))[:, :2].log_softmax(-1)
    expected = logits.gather(2, every[..., None]).sum((1, 2)).exp()
    shares = torch.bincount(drawn[:, 0] * 6 + drawn[:, 1], minlength=36) / 4000
    assert (shares - expected).abs().max() < 5 * (0.25 / 4000) ** 0.5


def test_bits_of_codes_by_hand() -> None:
    class Sure(nn.Module):
        """Half of the probability on the right one of four codes."""

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            codes = torch.tensor([[0, 0, 1, 2]]).expand(len(images), 4)
            return torch.nn.functional.one_hot(codes, 4) * math.log(3.0), codes

    task = CodeLikelihood(4, 4 / 64)
    output, metrics = task.step(Sure(), images(2)), task.metrics()
    assert output.count == 8 and output.loss.item() == pytest.approx(math.log(2))
    for metric in metrics.values():
        metric.update(output.outputs)
    assert metrics["bits_per_dimension"].compute() == pytest.approx(4 / 64)
    assert metrics["histogram_bits"].compute() == pytest.approx(1.5 * 4 / 64)


# ---- training ------------------------------------------------------------------------------------------------------


def two_images() -> Batch:
    return {"images": torch.stack([torch.ones(1, 8, 8), torch.ones(1, 8, 8).triu() * 2 - 1])}


test_standard = testing.standard_checks(
    build,
    train.main,
    dataclasses.replace(CONFIG, ema=0.9),
    images,
    task=lambda: Reconstruction(6),
    variants=[{"image_size": 8}, {"image_size": 8, "decay": 0.9}],
    inputs=lambda: (images(3)["images"],),
    overfit=[testing.Overfit({"image_size": 8, "decay": 0.9}, two_images, lr=1e-2, below=0.1)],
)


def test_both_stages_train_and_a_run_of_the_second_draws_by_itself(tmp_path: Path, no_figures: None) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    history = train.main(dataclasses.replace(CONFIG, out=str(first), plots=False, steps=2), testing.tiny_splits())
    assert 0 <= history[-1]["test"]["unused_codebook"] < 1
    config = prior.Config(
        out=str(second), data=CONFIG.data, model="tiny", autoencoder=str(first), epochs=1, batch_size=4, plots=False
    )
    testing.assert_resumes_exactly(prior.main, config, testing.tiny_splits)
    state, weights = Run.open(first).model().state_dict(), checkpoint.load(second / "whole" / "best.pt")
    assert all(torch.equal(weights[f"autoencoder.{name}"], value) for name, value in state.items())
    with pytest.raises(UserError, match="is a prior itself"):
        prior.build_model(dataclasses.replace(config, autoencoder=str(second / "whole")))
    with pytest.raises(UserError, match="has other images than"):
        prior.build_model(dataclasses.replace(config, data="cifar10"))


@torch.no_grad()
def test_figures_of_both_stages() -> None:
    task, model = Reconstruction(6), build("tiny", image_size=8)
    assert task.report(model) == {}  # before any image was seen
    used = task.metrics()["unused_codebook"]
    task.begin_evaluation(model)
    used.update(task.eval_step(model, images(12)).outputs)
    shown = task.report(model)
    assert shown["reconstructions"].shape == (1, 2 * 17 - 1, 10 * 17 - 1) and "of 6 codes" in str(shown["codes"])
    assert shown["interpolations"].shape == (1, 5 * 17 - 1, 10 * 17 - 1)
    drawn = CodeLikelihood(6, 4 / 64).report(small_prior())
    assert drawn["samples"].shape == (1, 8 * 17 - 1, 8 * 17 - 1)


def test_recipe_refuses_what_cannot_be_meant() -> None:
    for wrong in ({"codebook_decay": 1.0}, {"beta": 0.0}, {"mixup": 0.2}):
        with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
            dataclasses.replace(CONFIG, **wrong)
