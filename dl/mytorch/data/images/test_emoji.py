"""Emoji from packages of the published form, made here: texts matched by code, equal images and tones in one part."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dl.mytorch.config import UserError
from dl.mytorch.data.images.emoji import Emoji, parts, read_packages, sample


def packed(path: Path, files: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as package:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            package.addfile(member, io.BytesIO(content))
    return path


def png(colour: tuple[int, ...], size: int = 64, transparent: bool = False) -> bytes:
    image = Image.new("RGBA", (size, size), (*colour, 0 if transparent else 255))
    buffer = io.BytesIO()
    image.save(buffer, "png")
    return buffer.getvalue()


def text(code: str, label: str, **rest: Any) -> dict[str, Any]:
    return {"hexcode": code, "label": label, "tags": [label.split()[0]], **rest}


@pytest.fixture
def packages(tmp_path: Path) -> tuple[Path, Path]:
    table = [
        {"unified": "2764-FE0F", "image": "2764-fe0f.png", "category": "Symbols", "sort_order": 2},
        {"unified": "1F44B", "image": "1f44b.png", "category": "People", "sort_order": 1}
        | {"skin_variations": {"1F3FB": {"unified": "1F44B-1F3FB", "image": "1f44b-1f3fb.png"}}},
    ]
    colours = {"2764-fe0f": (255, 0, 0), "1f44b": (255, 255, 0), "1f44b-1f3fb": (200, 150, 100)}
    files = {f"img/twitter/64/{name}.png": png(colour) for name, colour in colours.items()}
    files |= {"img/twitter/sheets/64.png": png((0, 0, 0)), "emoji.json": json.dumps(table).encode()}
    skins = [{"hexcode": "1F44B-1F3FB", "label": "waving hand: light skin tone"}]
    en = [text("1F44B", "waving hand", skins=skins), text("2764", "red heart"), text("1F600", "grinning face")]
    zh = [text("1F44B", "挥手", skins=[{"hexcode": "1F44B-1F3FB", "label": "挥手: 较浅肤色"}]), text("2764", "红心")]
    texts = {f"{name}/data.json": json.dumps(rows).encode() for name, rows in (("en", en), ("zh", zh))}
    return packed(tmp_path / "images.tgz", files), packed(tmp_path / "texts.tgz", texts)


def test_images_are_in_the_keyboard_s_order_with_their_texts(packages: tuple[Path, Path]) -> None:
    emoji = read_packages(*packages, size=8)
    assert emoji.labels == {"en": ["waving hand", "red heart"], "zh": ["挥手", "红心"]}
    assert emoji.tags["en"] == [["waving"], ["red"]] and emoji.categories == ["People", "Symbols"]
    assert emoji.images.shape == (2, 3, 8, 8) and emoji.images[:, :, 4, 4].tolist() == [[255, 255, 0], [255, 0, 0]]
    toned = read_packages(*packages, size=64, tones=True)
    assert toned.labels["en"][1] == "waving hand: light skin tone" and toned.tags["zh"][1] == []
    assert toned.bases == [0, 0, 2] and toned.digests[0] == emoji.digests[0] and len(set(toned.digests)) == 3


def test_transparent_pixels_are_white_and_images_that_differ_only_there_are_equal(
    packages: tuple[Path, Path], tmp_path: Path
) -> None:
    clear = {"1F44B": png((1, 2, 3), transparent=True), "2764": png((9, 9, 9), transparent=True)}
    table = [{"unified": code, "image": f"{code}.png", "category": "x", "sort_order": 1} for code in clear]
    files = {f"img/twitter/64/{code}.png": content for code, content in clear.items()}
    files["emoji.json"] = json.dumps(table).encode()
    emoji = read_packages(packed(tmp_path / "clear.tgz", files), packages[1], 8)
    assert (emoji.images == 255).all() and len(set(emoji.digests)) == 1


def test_what_is_no_such_package_is_refused_in_one_line(packages: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "page.tgz").write_bytes(b"<html>")
    with pytest.raises(UserError, match="page.tgz is no npm package"):
        read_packages(tmp_path / "page.tgz", packages[1], 8)
    with pytest.raises(UserError, match="texts.tgz holds no package/emoji.json"):
        read_packages(packages[1], packages[1], 8)
    (tmp_path / "cut.tgz").write_bytes(packages[0].read_bytes()[:-40])
    with pytest.raises(UserError, match="cut.tgz is no npm package"):
        read_packages(tmp_path / "cut.tgz", packages[1], 8)


def numbered(digests: list[str], bases: list[int]) -> Emoji:
    count = len(digests)
    texts = {"en": [str(i) for i in range(count)]}
    return Emoji(torch.zeros(count, 3, 1, 1), texts, {"en": [[]] * count}, ["x"] * count, bases, digests)


def test_equal_images_and_skin_tones_are_in_one_part_and_each_row_in_one() -> None:
    digests = [f"{i % 60:08x}" for i in range(90)]  # the last 30 are images of the first
    bases = [i - i % 3 for i in range(90)]
    found = parts(numbered(digests, bases))
    assert sorted(row for rows in found.values() for row in rows) == list(range(90))
    where = {row: part for part, rows in found.items() for row in rows}
    assert all(where[row] == where[base] for row, base in enumerate(bases))
    assert all(where[i] == where[i + 60] for i in range(30))


def test_a_tone_that_is_the_image_of_another_emoji_s_tone_joins_the_four() -> None:
    chain = numbered(["00000005", "00000009", "00000009", "00000008", "00000008", "00000003"], [0, 0, 2, 2, 4, 5])
    found = parts(chain)
    where = {row: part for part, rows in found.items() for row in rows}
    assert len({where[row] for row in range(5)}) == 1 and where[0] == "test"  # 5 % 5 == 0 is the smallest of the chain


def test_a_fifth_is_the_test_for_every_seed_and_a_tenth_of_the_rest_validates() -> None:
    many = numbered([f"{i:08x}" for i in range(2000)], list(range(2000)))
    first, second = parts(many), parts(many, seed=1)
    assert first["test"] == second["test"] and first["val"] != second["val"]
    assert len(first["test"]) == 400 and 110 < len(first["val"]) < 210


def test_rows_keep_tones_with_their_bases() -> None:
    emoji = numbered(["a", "b", "c"], [0, 1, 1])
    assert emoji.rows([1, 2]).bases == [0, 0] and emoji.rows([1, 2]).labels["en"] == ["1", "2"]
    with pytest.raises(KeyError):
        emoji.rows([0, 2])


def test_the_sample_has_24_names_and_images() -> None:
    emoji = sample(12)
    assert emoji.images.shape == (24, 3, 12, 12) and len(set(emoji.digests)) == 24
    assert len(set(emoji.labels["en"])) == len(set(emoji.labels["zh"])) == 24
