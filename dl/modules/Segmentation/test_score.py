"""A run's predictions over images, its threshold and its errors: worked cases, and the commands on a tiny run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dl import __main__ as front
from dl.cli.testing import write_run
from dl.modules.Segmentation import score
from dl.modules.Segmentation.predict import prepare
from dl.modules.Segmentation.score import Seen, best, mean_rand_error, pixel_error, probabilities
from dl.mytorch import plot
from dl.mytorch.data.images import isbi
from dl.mytorch.data.images.masks import MaskConfig, mask_set


class Places(nn.Module):
    """Logits that depend on the value of a pixel and on its row: no symmetry leaves them as they are."""

    def predict(self, images: Tensor) -> Tensor:
        logit = images[:, 0] + torch.arange(images.shape[2])[:, None] / 10
        return torch.stack([torch.zeros_like(logit), logit], dim=1)


def test_the_mean_over_symmetries_turns_each_back() -> None:
    image = torch.randn(2, 1, 4, 4)
    rows = torch.arange(4.0)[:, None].expand(4, 4) / 10
    places = [rows, rows.flip(0), rows.T, rows.T.flip(1)]  # each twice
    expected = torch.stack([(image[:, 0] + place).sigmoid() for place in places]).mean(0)
    torch.testing.assert_close(probabilities(Places(), image, tta=True), expected)
    torch.testing.assert_close(probabilities(Places(), image, tta=False), (image[:, 0] + rows).sigmoid())
    assert probabilities(Places(), torch.randn(1, 1, 3, 5), tta=True).shape == (1, 3, 5)


def test_the_threshold_is_that_of_the_least_error_over_all_images() -> None:
    seen = [
        Seen(torch.tensor([[0.2, 0.35, 0.9]]), torch.tensor([[0, 1, 1]])),
        Seen(torch.tensor([[0.3, 0.1, 0.6]]), torch.tensor([[0, 255, 1]])),
    ]
    assert pixel_error(seen, 0.5) == pytest.approx(1 / 5) and pixel_error(seen, 0.32) == 0
    assert best(pixel_error, seen, [0.1, 0.25, 0.32, 0.5]) == 0.32


def test_a_gap_in_a_membrane_merges_two_cells() -> None:
    mask = torch.tensor([[1, 1, 0, 1, 1], [1, 1, 0, 1, 1]])
    closed, open_ = mask.float(), torch.where(torch.arange(2)[:, None] == 0, 1.0, mask.float())
    assert mean_rand_error([Seen(closed, mask)], 0.5) == 0
    assert mean_rand_error([Seen(open_, mask)], 0.5) == pytest.approx(1 - 0.5 / (0.5 * 1 + 0.5 * 0.5))
    nothing = Seen(closed, torch.zeros(2, 5))  # a label without cells has no Rand error
    assert mean_rand_error([Seen(open_, mask), nothing], 0.5) == mean_rand_error([Seen(open_, mask)], 0.5)


def test_an_image_in_colour_becomes_the_grey_that_the_network_knows() -> None:
    image = torch.tensor([255, 0, 0], dtype=torch.uint8).view(3, 1, 1).expand(3, 2, 5)
    found = prepare(image, mask_set(MaskConfig(out="runs", data="isbi2012")))
    torch.testing.assert_close(found, torch.full((1, 1, 2, 5), (0.299 - 0.5) / 0.17))


def test_predict_draws_the_classes_of_images_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn: dict[str, Tensor] = {}
    monkeypatch.setattr(plot, "save_image", lambda image, path: drawn.update({path.name: image}))
    run = write_run(tmp_path / "run", "Segmentation/UNet")
    for name, shape in (("a.png", (30, 20)), ("b.png", (25, 25, 3))):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)).save(tmp_path / name)
    images = [str(tmp_path / name) for name in ("a.png", "b.png")]
    assert front.main(["predict", str(run), *images, "--figure", str(tmp_path / "out.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"{images[0]}: membrane ") and ", cell " in lines[0] and len(lines) == 3
    assert drawn["out.png"].shape == (3, 2 * 30 + 6, 2 * 20 + 6)
    assert front.main(["predict", str(run), str(tmp_path / "no.png")]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_score_states_errors_at_the_threshold_chosen_on_the_other_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = (torch.rand(30, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.7).byte()
    monkeypatch.setattr(isbi, "isbi2012", lambda: (masks[:, None] * 100 + 50, masks))
    run = write_run(tmp_path / "run", "Segmentation/UNet")
    opened = score.Run.open(run)
    known, test = score.see(opened, mask_set(opened.config), tta=False)
    assert len(known) == 25 and len(test) == 5 and torch.equal(test[0].mask, masks[25])
    assert score.main([str(run)]) == 0
    said = capsys.readouterr().out
    assert "of 5 test images" in said and "Dice membrane" in said and "Rand error" in said
