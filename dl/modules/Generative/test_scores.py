"""One table of all models that draw images: their rows, what does not compare, and what is recorded."""

import dataclasses
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dl.cli.runs import Run
from dl.cli.testing import make_run
from dl.modules.Diffusion.LatentDiffusion import train as latent
from dl.modules.Diffusion.LatentDiffusion import train_autoencoder
from dl.modules.Diffusion.score import precision_recall
from dl.modules.Generative import scores
from dl.modules.Generative.VQVAE import prior
from dl.mytorch import checkpoint
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits
from dl.mytorch.files import write_recorded_json

DATA = {"data": "fashion_mnist-sample", "device": "cpu"}


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Tiny runs with the weights of the start; the set has twelve images, and the README is empty."""
    pixels = torch.randint(256, (12, 1, 28, 28), dtype=torch.uint8)
    loader = Loader({"images": pixels, "labels": torch.arange(12) % 10}, 4)
    monkeypatch.setattr(scores, "image_splits", lambda config: Splits(loader, loader, loader))
    monkeypatch.setattr(scores, "HERE", tmp_path)
    monkeypatch.setattr(scores.catalogue, "ROOT", tmp_path)
    (tmp_path / "README.md").write_text("<!-- scores -->\n<!-- /scores -->\n", encoding="utf-8")
    found = {
        name: str(make_run(tmp_path / name, recipe, **DATA, **options))
        for name, recipe, options in (
            *(("resnet", "CNN/ResNet", {}), ("gan", "Generative/DCGAN", {})),
            ("wgan", "Generative/DCGAN", {"loss": "wgan_gp", "critic_steps": 3}),
            *(("flow", "Generative/RealNVP", {}), ("vqvae", "Generative/VQVAE", {}), ("ddpm", "Diffusion/DDPM", {"times": 50})),
        )
    }
    second = {"prior": ("Generative/VQVAE", prior), "autoencoder": ("Diffusion/LatentDiffusion", train_autoencoder)}
    second |= {"latent": ("Diffusion/LatentDiffusion", latent)}
    for name, (recipe, module) in second.items():
        first = {"prior": {"autoencoder": found["vqvae"]}, "latent": {"autoencoder": str(tmp_path / "autoencoder")}}.get(
            name, {}
        )
        found[name] = make_run_of(module, tmp_path / name, recipe, **first)
    return found


def make_run_of(module: ModuleType, folder: Path, recipe: str, **options: str) -> str:
    """Return a run of another file than train.py, or one that needs a run."""
    config = module.Config(out=str(folder), model="tiny", **DATA, **options)
    folder.mkdir()
    described = {"recipe": recipe, "file": module.__name__.rpartition(".")[2], "config": dataclasses.asdict(config)}
    write_recorded_json(described, folder / "config.json")
    checkpoint.save(module.build_model(config).state_dict(), folder / "best.pt")
    return str(folder)


def test_runs_of_all_kinds_stand_in_one_table_with_the_floor(
    runs: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = ["--classifier", runs["resnet"], "--num", "8", "--record"]
    assert scores.main([runs["gan"], runs["wgan"], runs["flow"], runs["prior"], *few, "--real"]) == 0
    assert scores.main([runs["ddpm"], runs["latent"], runs["wgan"], *few, "--calls", "3"]) == 0  # beside those, and again
    capsys.readouterr()
    rows = [line.split(" | ") for line in (tmp_path / "README.md").read_text(encoding="utf-8").splitlines() if "| 8 |" in line]
    found = {(row[0], row[1], row[2], row[3]) for row in rows}
    assert found == {
        ("| DCGAN", "`tiny`", "", "1"),
        ("| DCGAN", "`tiny`, loss wgan_gp, critic_steps 3", "", "1"),
        ("| RealNVP", "`tiny`", "", "1"),
        ("| VQVAE, prior", f"`tiny`, autoencoder {runs['vqvae']}", "", "50"),
        ("| DDPM", "`tiny`, times 50", "ddim, 3 steps", "3"),
        ("| LatentDiffusion", f"`tiny`, autoencoder {tmp_path / 'autoencoder'}", "ddim, 2 steps", "3"),  # and the decoder
        ("| training images", "", "", ""),
    }
    distances = [float(row[5]) for row in rows]
    assert distances == sorted(distances) and abs(distances[0]) < 0.01 and rows[0][0] == "| training images"  # the same here
    assert len(rows) == 7


def test_what_cannot_be_scored_is_one_line_before_anything_is_drawn(
    runs: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = ["--classifier", runs["resnet"], "--num", "8"]
    other = str(make_run(tmp_path / "other", "Generative/DCGAN", data="fashion_mnist", device="cpu"))
    for words, message in (
        ([runs["gan"], *judge[:2], "--num", "7"], "--num has to be from 8"),
        ([runs["gan"], *judge, "--calls", "0"], "--calls has to be from 1"),
        ([runs["gan"], *judge[:2], "--num", "13"], "there are 12 images to compare with"),
        ([runs["gan"], "--classifier", runs["flow"]], "whose network does not classify images"),
        ([runs["resnet"], *judge], "is a run of CNN/ResNet, which draws no images"),
        ([runs["autoencoder"], *judge], "is a run of an autoencoder, which draws nothing by itself"),
        ([runs["gan"], other, *judge], "was trained on fashion_mnist, "),
        ([runs["prior"], *judge, "--calls", "49"], "an image takes 50 network calls, more than --calls 49"),
    ):
        assert scores.main(words) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ") and message in said.err and said.err.count("\n") == 1 and not said.out


def test_scores_that_do_not_compare_are_in_no_table() -> None:
    about = dict.fromkeys(("preset", "how", "command", "commit"), "") | {"settings": [], "calls": 1}
    row = {"model": "A", **about, "data": "d", "num": 8, "seed": 0, "classifier": {}, **dict.fromkeys(scores.QUANTITIES, 0.5)}
    assert scores.table([row, row | {"model": "B"}]).count("| 0.50 |") == 2
    with pytest.raises(UserError, match="num: scores of B have 9, those of A 8: they do not compare"):
        scores.table([row, row | {"model": "B", "num": 9}])


def test_the_readme_shows_the_recorded_scores() -> None:
    for path, _, table in scores.tables():
        assert table in path.read_text(encoding="utf-8")


def test_precision_and_recall_are_the_same_in_parts() -> None:
    points = torch.randn(2, 2100, 2).double()  # above 2000, in parts
    real, drawn = points[0], points[1] + 0.5
    radius = torch.cdist(real, real).kthvalue(4, dim=1).values
    among = (torch.cdist(drawn, real) <= radius).any(1).double().mean().item()
    assert precision_recall(real, drawn)[0] == pytest.approx(among, abs=1e-3)


def test_what_draws_a_run_repeats_with_its_seed(runs: dict[str, str]) -> None:
    for name, calls in (("gan", 1), ("ddpm", 2)):
        draw, needed, _ = scores.drawing(Run.open(runs[name]), 2)
        images = draw(3, 1)
        assert needed == calls and images.shape == (3, 1, 28, 28) and 0 <= images.min() and images.max() <= 1
        assert torch.equal(draw(3, 1), images) and not torch.equal(draw(3, 2), images)
