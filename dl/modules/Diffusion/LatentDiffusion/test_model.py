"""Both stages: sizes, laws, and through both real recipes. test_diffusers.py compares the networks with diffusers'."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dl.cli.runs import Run
from dl.modules.Diffusion.DDPM import sample
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import guided
from dl.modules.Diffusion.LatentDiffusion import train, train_autoencoder
from dl.modules.Diffusion.LatentDiffusion.autoencoder import Posterior, build_autoencoder
from dl.modules.Diffusion.LatentDiffusion.model import LatentDiffusion, build, text_tokens
from dl.modules.Diffusion.LatentDiffusion.task import LatentDenoising, Reconstruction, encoded, posterior_of, std_of_latents
from dl.modules.Diffusion.LatentDiffusion.unet import UNet
from dl.mytorch import checkpoint, testing
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, synthetic
from dl.mytorch.files import write_json
from dl.mytorch.introspect import count_parameters, without_values

NAMES = ("T-shirt", "bag", "ankle boot")
AUTOENCODER = train_autoencoder.Config(out="unused", data="fashion_mnist-sample", model="tiny", epochs=1, batch_size=4)
CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", times=20, epochs=1, batch_size=4, ema=0.9)
TEXT: dict[str, Any] = {"image_size": 8, "num_classes": 3, "texts": NAMES}
CLASS: dict[str, Any] = {"image_size": 8, "num_classes": 3}


def awake(model: nn.Module) -> nn.Module:
    """`model` with all weights of an ordinary size: at the start, its residual branches are nothing."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model


def images(count: int = 6) -> Batch:
    """Images in [-1, 1] of three classes."""
    batch = synthetic.images(count, size=8, num_classes=3)
    return batch | {"images": batch["images"].tanh()}


def denoising(model: LatentDiffusion, drop_label: float = 0.5) -> LatentDenoising:
    return LatentDenoising(DiffusionSchedule("cosine", "v", steps=20), model, drop_label)


def made_run(folder: Path, **changes: Any) -> Path:
    """Return what both stages leave that others read, in `folder`, with weights of the start."""
    (folder / "first").mkdir()
    config = dataclasses.replace(CONFIG, autoencoder=str(folder / "first"), **changes)
    torch.manual_seed(0)
    for name, file, own, module in (
        ("first", "train_autoencoder", AUTOENCODER, train_autoencoder),
        ("second", "train", config, train),
    ):
        (folder / name).mkdir(exist_ok=True)
        described = {"recipe": "Diffusion/LatentDiffusion", "file": file, "config": dataclasses.asdict(own)}
        write_json(described | {"command": "", "commit": ""}, folder / name / "config.json")
        if name == "first":
            checkpoint.save(module.build_model(own).state_dict(), folder / name / "best.pt")
    model = awake(train.build_model(config))
    model.scale.fill_(0.25)
    checkpoint.save(model.state_dict(), folder / "second" / "best.pt")
    return folder / "second"


# ---- the autoencoder -----------------------------------------------------------------------------------------------


def test_the_paper_s_autoencoder_has_83_653_863_parameters() -> None:
    with without_values():
        assert count_parameters(build_autoencoder("kl_f8")) == 83_653_863


def test_kl_of_the_posterior_is_that_of_hand() -> None:
    """Half of mean^2 + variance - 1 - log variance: of N(2, e), half of 4 + e - 2."""
    posterior = Posterior(torch.tensor([0.0, 2.0]).view(2, 1, 1, 1), torch.tensor([0.0, 1.0]).view(2, 1, 1, 1))
    assert posterior.kl().tolist() == pytest.approx([0, (2 + 2.718281828) / 2])
    drawn = Posterior(torch.full((4000,), 3.0), torch.full((4000,), 2.0)).sample()
    assert drawn.mean().item() == pytest.approx(3, abs=0.2) and drawn.std().item() == pytest.approx(torch.e, rel=0.1)


def test_training_decodes_drawn_latents_and_evaluation_the_means() -> None:
    model, x = awake(build_autoencoder("tiny")), images()["images"]
    again, posterior = model.eval()(x)
    torch.testing.assert_close(again, model.decode(posterior.mean))
    assert torch.equal(again, model(x)[0]) and not torch.allclose(again, model.train()(x)[0])


def test_log_variances_are_cut_and_the_loss_is_that_of_hand() -> None:
    class Known(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Posterior]:
            return x + 0.5, Posterior(torch.full((len(x), 2, 1, 1), 2.0), torch.zeros(len(x), 2, 1, 1))

    output = Reconstruction(kl_weight=0.1).step(Known(), {"images": torch.zeros(3, 1, 4, 4)})
    assert output.loss.item() == pytest.approx(0.5 + 0.1 * 4 / 16) and output.count == 3  # KL 2 for each of 2 latents
    assert output.outputs["mse"].tolist() == [0.25] * 3
    model = build_autoencoder("tiny")
    for bias, cut in ((99.0, 20), (-99.0, -30)):
        nn.init.constant_(model.to_moments.bias, bias)
        assert model.posterior(torch.zeros(1, 1, 4, 4)).log_variance.unique().tolist() == [cut]


def test_images_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match="7 pixels cannot be halved 1 times"):
        build_autoencoder("tiny").posterior(torch.zeros(1, 1, 8, 7))
    with pytest.raises(UserError, match="--model kl_f8 does not fit --data fashion_mnist-sample"), without_values():
        train_autoencoder.build_model(dataclasses.replace(AUTOENCODER, model="kl_f8"))


# ---- the U-Net and the condition -----------------------------------------------------------------------------------


def test_networks_of_published_sizes_have_their_parameters() -> None:
    """859,520,964 is Stable Diffusion's U-Net, which is this one with tokens of 768; 872.3 million the paper's."""
    with without_values():
        assert count_parameters(UNet((320, 640, 1280, 1280))) == 859_520_964
        assert count_parameters(build("text_to_image").unet) == 872_300_484


def test_a_token_that_is_padding_changes_nothing_and_another_does() -> None:
    network = awake(UNet((4, 8), 1, (1,), 2, 6, groups=2)).double()
    x, times, context = torch.randn(2, 4, 5, 7).double(), torch.tensor([3, 9]), torch.randn(2, 3, 6).double()
    mask = torch.tensor([[False, False, True]] * 2)
    seen = network(x, times, context, mask)
    torch.testing.assert_close(seen, network(x, times, context[:, :2]))
    assert torch.equal(seen, network(x, times, context + 9 * mask[..., None], mask))
    assert not torch.allclose(seen, network(x, times, context))
    assert seen.shape == x.shape  # of odd sides, which are halved to 3 and 4


def test_a_new_network_predicts_nothing() -> None:
    assert not build("tiny", **TEXT)(torch.randn(2, 2, 4, 4)).any()


def test_each_class_and_each_text_has_its_prediction_and_the_empty_text_is_no_label() -> None:
    for options in (CLASS, TEXT):
        model, x = awake(build("tiny", **options)).eval(), torch.randn(1, 2, 4, 4)
        outputs = [model(x, torch.tensor([4]), torch.tensor([label])) for label in range(4)]
        for i, output in enumerate(outputs):
            assert not any(torch.allclose(output, other) for other in outputs[:i])
        assert torch.equal(model(x, torch.tensor([4])), outputs[3])
    model.set_texts(["ANKLE boot", "sandal"])  # whatever it was trained on
    torch.testing.assert_close(model(x, torch.tensor([4]), torch.tensor([0])), outputs[2])
    torch.testing.assert_close(model(x, torch.tensor([4]), torch.tensor([2])), outputs[3])
    with pytest.raises(ValueError, match="a text of 70 bytes: 63 are the most"):
        model.set_texts(["x" * 70])


def test_tokens_of_texts_are_a_start_and_their_bytes() -> None:
    assert text_tokens(["aB", "", "é"]).tolist() == [[257, 98, 99], [257, 0, 0], [257, 196, 170]]


def test_with_one_token_the_cross_attention_s_queries_and_keys_learn_nothing() -> None:
    """The softmax over one token is 1 wherever one asks from. A class as one token is the paper's; a text has more."""
    model = awake(build("tiny", **CLASS)).double()
    batch = {name: x.double() if x.is_floating_point() else x for name, x in images().items()}
    denoising(model).step(model, batch).loss.backward()
    idle = {n.split(".attention.")[1] for n, p in model.unet.named_parameters() if p.grad.abs().max() < 1e-12}
    assert idle == {"norm2.weight", "norm2.bias", "cross_attention.query.weight", "cross_attention.key.weight"}


# ---- the scale of the latents --------------------------------------------------------------------------------------


class Watched(nn.Module):
    """Stands for the U-Net: keeps what it sees and predicts 0."""

    def forward(self, x: Tensor, times: Tensor, *context: Tensor) -> Tensor:
        self.seen, self.context = x, context
        return torch.zeros_like(x)


def test_what_the_denoiser_sees_has_a_std_of_one_and_decoding_undoes_the_scale_once() -> None:
    model, batch = build("tiny", **CLASS), images(64)
    awake(model.autoencoder)
    posterior = posterior_of(model.autoencoder, batch)
    posterior = Posterior(20 * posterior.mean, posterior.log_variance)
    batch = posterior._asdict() | {"labels": batch["labels"]}
    latents = posterior.sample()
    assert latents.std() > 2  # or this would show nothing
    model.set_scale(latents.std().item())
    assert model.scale.item() == pytest.approx(1 / latents.std().item())
    model.unet = Watched()
    task = LatentDenoising(DiffusionSchedule(torch.full((1,), 1e-12)), model, drop_label=0)  # almost no noise
    task.step(model, batch)
    assert model.unet.seen.std().item() == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(model.decode(latents * model.scale), model.autoencoder.decode(latents))
    means = Posterior(posterior.mean, torch.full_like(posterior.mean, -30.0))
    torch.testing.assert_close(model.decode(model.encode(means)), model.autoencoder.decode(means.mean))


def test_the_scale_is_measured_on_the_first_images_and_encoding_once_changes_no_loss() -> None:
    model, data = build("tiny", image_size=8, num_classes=10), testing.tiny_splits(size=8)
    awake(model.autoencoder)
    once = encoded(data, model.autoencoder)
    assert once.train.shuffle and not once.val.shuffle and len(once.train) == 3 and once.test.num_examples == 3
    found = []
    for splits in (data, once):
        torch.manual_seed(0)
        std = std_of_latents(splits, model.autoencoder)
        losses = [denoising(model).step(model, batch).loss.item() for batch in splits.train.batches(epoch=1)]
        found.append([std, *losses])
    assert found[0] == pytest.approx(found[1], rel=1e-4)
    torch.manual_seed(0)
    assert found[0][0] == pytest.approx(posterior_of(model.autoencoder, data.train.dataset).sample().std().item(), rel=0.01)
    mean = torch.arange(3000.0).view(-1, 1, 1, 1)
    many = Loader({"mean": mean, "log_variance": torch.full_like(mean, -30)}, 1000, shuffle=True)
    std = std_of_latents(dataclasses.replace(data, train=many, val=many), model.autoencoder)
    assert std == pytest.approx(mean[:2048].std().item(), rel=1e-3)


# ---- guidance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [CLASS, TEXT])
def test_with_drop_1_nothing_depends_on_the_condition_and_in_evaluation_nothing_is_dropped(options: dict[str, Any]) -> None:
    model, batch = awake(build("tiny", **options)), images()
    other = batch | {"labels": (batch["labels"] + 1) % 3}

    def loss(drop_label: float, batch: Batch, evaluate: bool = False) -> float:
        torch.manual_seed(0)
        task = denoising(model, drop_label)
        return (task.eval_step if evaluate else task.step)(model, batch).loss.item()

    assert loss(1.0, batch) == loss(1.0, other)
    assert loss(0.0, batch) != loss(0.0, other)
    assert loss(1.0, batch, evaluate=True) == loss(0.0, batch, evaluate=True) != loss(1.0, other, evaluate=True)


def test_guidance_of_2_goes_twice_as_far_from_the_unconditional_prediction() -> None:
    model = awake(build("tiny", **TEXT)).double().eval()
    x, times, labels = torch.randn(2, 2, 4, 4).double(), torch.tensor([5, 7]), torch.tensor([0, 2])
    with_label, without = model(x, times, labels), model(x, times)
    torch.testing.assert_close(guided(model, labels, 2.0)(x, times), 2 * with_label - without)
    torch.testing.assert_close(guided(model, labels, 0.0)(x, times), without)


# ---- training and sampling -----------------------------------------------------------------------------------------


def one_image(count: int = 8) -> Batch:
    """One image of one class, `count` times."""
    return {name: tensor[:1].expand(count, *tensor.shape[1:]) for name, tensor in images(1).items()}


def overfitting(model: LatentDiffusion) -> LatentDenoising:
    return LatentDenoising(DiffusionSchedule("cosine", "x0", steps=20), model, drop_label=0.0)


test_standard = testing.standard_checks(
    lambda preset="tiny", **options: build_autoencoder(preset, **options),
    train_autoencoder.main,
    AUTOENCODER,
    images,
    splits=lambda config: testing.tiny_splits(),
    task=lambda: Reconstruction(1e-3),
    inputs=lambda: (images(3)["images"],),
    output=lambda model: model,
    overfit=[testing.Overfit({}, lambda: one_image(2), below=0.2)],  # 0.7 at the start
    skip={"presets_build": "of the autoencoder alone: see the test of both stages' presets"},
)


def test_presets_build() -> None:
    testing.assert_presets_build(build)


def test_gradients_reach_every_parameter_of_the_second_stage_and_none_of_the_first() -> None:
    model = awake(build("tiny", **TEXT))
    before = {name: value.clone() for name, value in model.autoencoder.state_dict().items()}
    testing.assert_gradients_flow(model, images(), denoising(model))
    assert all(parameter.grad is None for parameter in model.autoencoder.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.autoencoder.state_dict().items())


def test_the_second_stage_overfits_one_image_and_examples_do_not_meet() -> None:
    model = build("tiny", **TEXT)
    awake(model.autoencoder)
    nn.init.constant_(model.autoencoder.to_moments.bias[2:], -30)  # latents that are drawn are the means
    model.set_scale(posterior_of(model.autoencoder, images(32)).sample().std().item())
    testing.assert_overfits(model, one_image(), overfitting(model), below=0.3)
    testing.assert_batch_independent(model, torch.randn(3, 2, 4, 4), torch.tensor([0, 17, 9]), torch.tensor([0, 3, 1]))


def test_the_second_stage_resumes_exactly_and_keeps_the_first_and_the_scale(
    tmp_path: Path, no_figures: None, no_reports: None
) -> None:
    made_run(tmp_path)
    first, second = tmp_path / "first", tmp_path / "trained"
    config = dataclasses.replace(CONFIG, out=str(second), autoencoder=str(first), plots=False, encode_once=False)
    testing.assert_resumes_exactly(train.main, config, testing.tiny_splits)
    weights = checkpoint.load(second / "whole" / "best.pt")
    state = Run.open(first).model().state_dict()
    assert all(torch.equal(weights[f"autoencoder.{name}"], value) for name, value in state.items())
    assert weights["scale"].item() != 1 and Run.open(second / "whole").model().scale == weights["scale"]
    with pytest.raises(UserError, match="is a run of train.py"):
        train.build_model(dataclasses.replace(config, autoencoder=str(second / "whole")))
    with pytest.raises(UserError, match="has other images than"):
        train.build_model(dataclasses.replace(config, data="cifar10"))


def test_the_command_samples_classes_and_decodes_without_clipping_the_latents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, shown = made_run(tmp_path), {}
    found = sample.Diffusion.open(run)
    asked: list[dict[str, Any]] = []

    def sampler(denoise: Any, process: Any, noise: Tensor, **options: Any) -> Tensor:
        asked.append(options)
        return noise

    noise = sample.first_noise(found, 3, 0)
    assert noise.shape == (3, 2, 14, 14)
    monkeypatch.setitem(sample.SAMPLERS, "ddim", sampler)
    drawn = sample.sample(found, noise, torch.arange(3), "ddim", 2)
    torch.testing.assert_close(drawn, found.model.autoencoder.decode(noise / 0.25))
    assert not asked[0]["clip"]
    monkeypatch.setattr(sample.plot, "save_image", lambda image, path: shown.update({path.name: image.shape}))
    assert sample.main([str(run), "--num", "2", "--steps", "1", "--label", "ankle boot", "--guidance", "2"]) == 0
    assert shown["grid.png"] == (1, 56, 2 * 57 - 1)
    words = ["--num", "4", "--steps", "1", "--text", "a boot", "--text", "sandal", "--text", "hat", "--out", "texts.png"]
    assert sample.main([str(run), *words]) == 0
    assert shown["texts.png"] == (1, 2 * 57 - 1, 3 * 57 - 1)
    assert sample.main([str(run), "--text", "x" * 64]) == 1 and sample.main([str(run), "--text", "a", "--label", "1"]) == 1


def test_an_autoencoder_alone_draws_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made_run(tmp_path)
    assert sample.main([str(tmp_path / "first")]) == 1
    assert "is a run of an autoencoder, which draws nothing by itself" in capsys.readouterr().err


@torch.no_grad()
def test_figures_of_both_stages() -> None:
    task, model = Reconstruction(1e-3), build_autoencoder("tiny")
    assert task.report(model) == {}  # before any image was seen
    task.begin_evaluation(model)
    task.eval_step(model, images(12))
    shown = task.report(model)
    assert shown["reconstructions"].shape == (1, 2 * 17 - 1, 10 * 17 - 1) and str(shown["latents"]).startswith("std ")
    latent = build("tiny", **TEXT)
    drawn = denoising(latent).preview(latent)
    assert drawn["samples"].shape == (1, 2 * 17 - 1, 3 * 17 - 1)


def test_recipes_refuse_what_cannot_be_meant() -> None:
    for wrong in ({"times": 0}, {"drop_label": 1.5}, {"mixup": 0.2}, {"condition": "words"}):
        with pytest.raises(ValueError, match="--" + next(iter(wrong)).replace("_", "-")):
            dataclasses.replace(CONFIG, **wrong)
    with pytest.raises(ValueError, match="--kl-weight"):
        dataclasses.replace(AUTOENCODER, kl_weight=-1.0)
    with pytest.raises(ValueError, match="2 texts for 3 classes"):
        build("tiny", num_classes=3, texts=NAMES[:2])
    with pytest.raises(ValueError, match="multiples of groups 2 and num_heads 3"):
        build("tiny", num_heads=3)
