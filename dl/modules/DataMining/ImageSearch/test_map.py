"""The map of an index, from the command line."""

from pathlib import Path
from typing import Sequence

import pytest
import torch
from PIL import Image
from torch import Tensor

from dl.modules.DataMining.ImageSearch import map as draw
from dl.modules.DataMining.ImageSearch.images import open_images
from dl.modules.DataMining.ImageSearch.index import update
from dl.mytorch.data import read_image

NETWORK = {"backbone": "none", "weights": "", "preset": "", "layer": "", "size": 3, "sha256": ""}


def mean_colours(images: Sequence[Tensor]) -> Tensor:
    return torch.stack([image.float().mean((1, 2)) for image in images])


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """20 images of two classes, by their mean colours."""
    for i in range(20):
        (tmp_path / "images" / "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (6, 6), (100 * (i % 2) + i, i, 50)).save(tmp_path / "images" / "ab"[i % 2] / f"{i}.png")
    images = open_images(str(tmp_path / "images"))
    update(tmp_path / "index", images, mean_colours, NETWORK)
    return tmp_path / "index"


def test_an_index_becomes_a_map_and_a_projector(index: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure, projector = tmp_path / "map.png", tmp_path / "projector"
    words = ["--index", index, "--perplexity", 3, "--iterations", 20, "--figure", figure, "--projector", projector]
    assert draw.main([str(word) for word in words]) == 0
    assert "20 images" in capsys.readouterr().out and read_image(figure).shape == (3, 800, 900)
    (folder,) = projector.glob("**/tensors.tsv")
    assert len(folder.read_text(encoding="utf-8").splitlines()) == 20
    assert folder.with_name("metadata.tsv").read_text(encoding="utf-8").splitlines() == ["a"] * 10 + ["b"] * 10
    assert read_image(folder.with_name("sprite.png")).shape == (3, 160, 160)  # 5 x 5 places of 32
    assert (projector / "projector_config.pbtxt").exists()


def test_a_label_is_one_line_of_the_projector_s_metadata(tmp_path: Path) -> None:
    draw.export(tmp_path, torch.rand(3, 2), ["a\nb", "\u2028", "c\td"], torch.rand(3, 3, 4, 4))
    (metadata,) = tmp_path.glob("**/metadata.tsv")
    assert metadata.read_text(encoding="utf-8").split("\n")[:3] == ["a b", "-", "c d"]


def test_an_image_is_placed_among_few_of_which_one_cannot_be_read_any_more(
    index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draw.Index, "extractor", lambda self: mean_colours)
    (tmp_path / "images" / "a" / "0.png").write_text("no image", encoding="utf-8")
    words = ["--index", index, "--points", 8, "--perplexity", 2, "--iterations", 5, "--figure", tmp_path / "map.png"]
    assert draw.main([str(word) for word in [*words, "--place", tmp_path / "images" / "a" / "2.png"]]) == 0
    first, second = draw.thumbnails(draw.Index(index), torch.tensor([0, 1]))
    assert (first == 1).all() and not (second == 1).any()


def test_a_perplexity_that_is_too_large_is_one_line(index: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw.main(["--index", str(index), "--perplexity", "7"]) == 1
    assert capsys.readouterr().err == "error: --perplexity 7: above 1, and for 20 images at most 6.33333\n"
