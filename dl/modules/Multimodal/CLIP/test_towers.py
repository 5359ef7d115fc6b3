"""What search asks of a run: images of any size and texts in one space, by an index on disk and its command."""

from pathlib import Path

import pytest
import torch

from dl.cli.runs import Run
from dl.cli.testing import make_run
from dl.modules.DataMining.ImageSearch import index, search
from dl.modules.Multimodal.CLIP import train
from dl.modules.Multimodal.CLIP.model import example
from dl.modules.Multimodal.CLIP.towers import Towers
from dl.mytorch import plot
from dl.mytorch.data.images.emoji import sample


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with the weights of the start."""
    torch.manual_seed(0)
    return make_run(tmp_path / "clip", "Multimodal/CLIP", data="emoji-sample", device="cpu")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of the drawn emoji, as PNG files with their names."""
    (tmp_path / "images").mkdir()
    emoji = sample(64)
    for image, name in zip(emoji.images, emoji.labels["en"]):
        plot.save_image(image.float() / 255, tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


@torch.no_grad()
def test_images_and_texts_become_what_the_network_makes_of_them(run: Path) -> None:
    towers = Towers(Run.open(run))
    size = example("tiny")[0].shape[-1]
    image = torch.randint(256, (3, size, size), dtype=torch.uint8)
    expected = towers.model.encode_images(image[None] / 127.5 - 1)
    torch.testing.assert_close(towers.images([image]), expected)
    large = torch.full((3, 2 * size, 3 * size), 9, dtype=torch.uint8)
    torch.testing.assert_close(towers.images([large, image])[1:], expected, atol=1e-5, rtol=1e-4)
    alone = towers.texts(["red circle"])
    torch.testing.assert_close(towers.texts(["red circle", "a text that is longer"])[:1], alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.norm(dim=1), torch.ones(1))


def test_a_text_finds_the_image_that_the_network_puts_nearest(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = ["--index", str(tmp_path / "index")]
    assert index.main([str(images), "--weights", str(run), *where]) == 0
    figure = tmp_path / "found.png"
    capsys.readouterr()
    assert search.main(["--text", "red circle", "--top", "3", "--figure", str(figure), *where]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "The nearest to 'red circle' of 24 images." and len(lines) == 5 and figure.exists()
    towers, emoji = Towers(Run.open(run)), sample(64)
    with torch.no_grad():
        similarities = (towers.images(list(emoji.images)) @ towers.texts(["red circle"]).T)[:, 0]
    best = [emoji.labels["en"][row] for row in similarities.topk(3).indices.tolist()]
    assert [line.split("  ")[-1].removesuffix(".png") for line in lines[1:4]] == best
    query = images / f"{best[0]}.png"  # by an image, as ever
    assert search.main(["--top", "1", "--figure", str(figure), *where, str(query)]) == 0
    assert query.name in capsys.readouterr().out.splitlines()[1]


def test_a_network_without_texts_and_a_wrong_call_are_one_line(
    run: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lenet, where = make_run(tmp_path / "lenet", "CNN/LeNet"), ["--index", str(tmp_path / "index")]
    assert index.main([str(images), "--weights", str(run), "--layer", "image", *where]) == 1
    assert "--layer image: texts compare with what the image tower" in capsys.readouterr().err
    assert index.main([str(images), "--weights", str(lenet), *where]) == 0
    assert search.main(["--text", "red circle", *where]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "error: a network of CNN/LeNet reads no texts: index by a run of Multimodal/CLIP"
    for words in ([], ["--text", " "], [str(images / "a.png"), "--text", "red"]):
        with pytest.raises(SystemExit):
            search.main([*words, *where])
        assert "give an IMAGE or a --text, one of them" in capsys.readouterr().err


def test_a_network_of_byte_pairs_is_refused_in_one_line(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="byte-pair ids, whose vocabulary is not here"):
        model = train.build_model(train.Config(model="tiny"))
        model.text.eos_id = 49407
        monkeypatch.setattr(Run, "model", lambda self: model)
        Towers(Run.open(run))
