"""The commands `index` and `search`, with mean colours for features: what they take, what they refuse, and in which words."""

import os
from pathlib import Path
from typing import Any, Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dl.modules.DataMining.ImageSearch import index, search
from dl.modules.DataMining.ImageSearch import map as draw
from dl.modules.DataMining.ImageSearch.index import Index


class Colours:
    """In the place of a network. Stops as by Ctrl-C before more than `limit` images."""

    about = {"backbone": "none", "weights": "", "preset": "", "layer": "", "size": 3, "sha256": ""}
    limit, count = 10**9, 0

    def __init__(self, *_: Any) -> None:
        pass

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        Colours.count += len(images)
        if Colours.count > self.limit:
            raise KeyboardInterrupt
        return torch.stack([image.float().mean((1, 2)) for image in images])


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 images of 2x2 pixels, each of one colour; they are indexed in shards of 8."""
    monkeypatch.setattr(index, "Extractor", Colours)
    monkeypatch.setattr(Index, "extractor", lambda self: Colours())
    monkeypatch.setattr(Colours, "count", 0)
    monkeypatch.setattr(index, "SHARD", 8)
    monkeypatch.setattr(index, "BATCH", 4)
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    for i in range(30):
        save(tmp_path / "images" / f"{i:02d}.bmp", (8 * i, 7 * i, 255 - 8 * i))
    return tmp_path / "images"


def save(path: Path, colour: tuple[int, int, int]) -> Path:
    Image.new("RGB", (2, 2), colour).save(path)
    return path


def run(*words: Any) -> int:
    return index.main([*map(str, words), "--index", "index"])


def ask(*words: Any) -> int:
    return search.main([*map(str, words), "--index", "index"])


def test_an_image_that_changes_in_place_with_its_size_and_time_is_indexed_anew(images: Path) -> None:
    assert run(images) == 0
    path, time = images / "03.bmp", (images / "03.bmp").stat().st_mtime_ns
    size = path.stat().st_size
    os.utime(save(path, (9, 9, 9)), ns=(time, time))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (size, time)
    os.utime(images / "04.bmp", ns=(0, 0))  # another time alone is no change
    Colours.count = 0
    assert run(images) == 0 and Colours.count == 1
    found = Index("index")
    assert torch.cat(found.vectors)[found.names.index("03.bmp")].tolist() == [9, 9, 9]


def test_ctrl_c_while_indexing_is_one_line_and_keeps_what_is_done(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Colours, "limit", 20)
    assert run(images) == 130
    error = capsys.readouterr().err
    assert error.startswith("stopped: the same command resumes") and error.count("\n") == 1
    assert len(Index("index").names) == 16
    monkeypatch.setattr(Colours, "limit", 10**9)
    Colours.count = 0
    assert run(images) == 0 and Colours.count == 14 and len(Index("index").names) == 30


def test_ctrl_c_while_a_map_is_computed_is_no_traceback(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    assert run(images) == 0
    capsys.readouterr()
    monkeypatch.setattr(draw, "tsne", stopped)
    assert draw.main(["--index", "index", "--perplexity", "5"]) == 130
    assert capsys.readouterr().err == "" and not Path("map.png").exists()


def test_however_many_neighbours_are_asked_for_there_are_those_of_the_index_and_few_are_drawn(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []
    monkeypatch.setattr(search, "figure", lambda image, answer, shown: drawn.append((answer.neighbours, shown)))
    monkeypatch.setattr(search.plot, "save_figure", lambda figure, path: None)
    assert run(images) == 0
    capsys.readouterr()
    assert ask(images / "07.bmp", "--top", 10**18) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1 + 30 + 1
    ((neighbours, shown),) = drawn
    assert len(neighbours) == len(shown) == search.DRAWN and neighbours[0].name == "07.bmp"


@pytest.mark.parametrize(
    ("command", "flags"),
    [
        (search, ["x.png", "--top", "0"]),
        (search, ["x.png", "--top", "1e18"]),
        (search, ["x.png", "--distance", "l0"]),
        (search, ["x.png", "--distance", "lnan"]),
        (index, ["images", "--seed", "-1"]),
        (index, ["images", "--seed", "4294967296"]),
        (index, ["images", "--approximate-above", "0"]),
        (draw, ["--points", "0"]),
        (draw, ["--iterations", "-1"]),
    ],
)
def test_flags_out_of_their_range_are_refused(command: Any, flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(flags)
    assert caught.value.code == 2 and capsys.readouterr().err.splitlines()[-1].count("error: ") == 1


def test_a_power_too_small_for_these_vectors_is_one_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(images) == 0
    capsys.readouterr()
    assert ask(images / "07.bmp", "--distance", "l0.001") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: distance 'l0.001' of 3 numbers would be infinite") and error.count("\n") == 1


def test_empty_folders_and_folders_without_images_are_one_line(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, texts, bad = (images.parent / name for name in ("empty", "texts", "bad"))
    for folder in (empty, texts, bad):
        folder.mkdir()
    (texts / "a.txt").write_bytes(b"text")
    (bad / "a.png").write_bytes(b"no image")
    lines = {empty: "holds no images", texts: "holds no images", bad: "none of the 1 images can be indexed: "}
    for folder, line in lines.items():
        assert run(folder, "--fresh") == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and line in error and error.count("\n") == 1


def test_one_image_is_an_index_of_one(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = images.parent / "one"
    one.mkdir()
    save(one / "a.png", (1, 2, 3))
    assert run(one) == 0 and "1 images" in capsys.readouterr().out
    assert ask(one / "a.png", "--figure", "figure.png") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Too few different images") and lines[1].split() == ["0.0000", "-", "a.png"]
    assert draw.main(["--index", "index"]) == 1
    assert capsys.readouterr().err.startswith("error: --perplexity 30: above 1, and for 1 images at most 0")
    (one / "pipe.png").mkdir()
    assert ask(one / "pipe.png") == 1 and "is a folder, not" in capsys.readouterr().err


def test_names_that_no_terminal_shows_are_escaped() -> None:
    assert search.printable("a b/ä.png") == "a b/ä.png"
    assert search.printable("\x1b[2J\udcff\n") == "\\x1b[2J\\udcff\\n"


def test_images_with_names_that_are_not_utf_8_are_found(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        save(images / "a.bmp", (1, 1, 1)).rename(os.fsdecode(os.fsencode(images) + b"/\xff.bmp"))
    except (OSError, ValueError):
        pytest.skip("this system's file names are Unicode")
    assert run(images) == 0
    Image.fromarray(np.ones((2, 2, 3), np.uint8)).save("query.png")
    assert ask("query.png", "--figure", "figure.png") == 0
    assert capsys.readouterr().out.splitlines()[2].split() == ["0.0000", "-", "\\udcff.bmp"]
