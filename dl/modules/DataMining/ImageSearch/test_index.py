"""The index on disk: incremental, whole after any kill, never trusted when damaged; and search on it, command by command."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Sequence

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dl.modules.CNN.LeNet import train as lenet
from dl.modules.DataMining.ImageSearch import decision, index, search
from dl.modules.DataMining.ImageSearch.features import Extractor
from dl.modules.DataMining.ImageSearch.images import open_images
from dl.modules.DataMining.ImageSearch.index import Index, calibrate, update
from dl.modules.DataMining.ImageSearch.store import write_manifest
from dl.modules.DataMining.mahalanobis import Mahalanobis
from dl.modules.DataMining.neighbours import Exact
from dl.mytorch import Probe
from dl.mytorch.config import UserError
from dl.mytorch.features import features_and_logits

NETWORK = {"backbone": "none", "weights": "", "preset": "", "layer": "", "size": 3, "sha256": ""}


class Colours:
    """Features without a network: the mean colour. Counts its images, and stops where it is told to."""

    def __init__(self, stop_after: int = -1) -> None:
        self.count, self.stop_after = 0, stop_after

    def __call__(self, images: Sequence[Tensor]) -> Tensor:
        if 0 <= self.stop_after <= self.count:
            raise KeyboardInterrupt
        self.count += len(images)
        return torch.stack([image.float().mean((1, 2)) for image in images])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """30 images of two classes; shards of 4, batches of 2."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # which takes most of the time
    monkeypatch.setattr(index, "SHARD", 4)
    monkeypatch.setattr(index, "BATCH", 2)
    generator = np.random.default_rng(0)
    for label, base in (("dark", 20), ("light", 200)):
        (tmp_path / "images" / label).mkdir(parents=True)
        for i in range(15):
            pixels = generator.integers(base, base + 50, (9, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / label / f"{i:02d}.png")
    return tmp_path / "images"


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def table(path: Path) -> dict[str, list[float]]:
    found = Index(path)
    return dict(zip(found.names, torch.cat(found.vectors).tolist()))


def make(out: Path, images: Path, embed: Colours | None = None) -> Colours:
    embed = embed or Colours()
    update(out, open_images(str(images)), embed, NETWORK)
    calibrate(out)
    return embed


@pytest.mark.parametrize("stop_after", [0, 6, 12, 28])
def test_an_index_that_was_stopped_goes_on_to_the_same_bytes(folder: Path, tmp_path: Path, stop_after: int) -> None:
    make(tmp_path / "whole", folder)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "broken", folder, Colours(stop_after))
    (tmp_path / "broken" / "000099.npy").write_bytes(b"written, but not yet named by index.json")
    (tmp_path / "broken" / "000000.npy.abc.tmp").write_bytes(b"half")
    again = make(tmp_path / "broken", folder)
    assert again.count == 30 - stop_after // 4 * 4  # whole shards are kept
    assert content(tmp_path / "broken") == content(tmp_path / "whole")


def test_only_new_and_changed_images_are_embedded_and_what_is_gone_leaves(folder: Path, tmp_path: Path) -> None:
    assert make(tmp_path / "index", folder).count == 30
    before = content(tmp_path / "index")
    assert make(tmp_path / "index", folder).count == 0 and content(tmp_path / "index") == before
    (folder / "dark" / "03.png").unlink()
    Image.new("RGB", (5, 5), (1, 2, 3)).save(folder / "dark" / "07.png")
    Image.new("RGB", (5, 5), (4, 5, 6)).save(folder / "light" / "new.png")
    assert make(tmp_path / "index", folder).count == 2
    make(tmp_path / "anew", folder)
    assert table(tmp_path / "index") == table(tmp_path / "anew")
    assert table(tmp_path / "index")["dark/07.png"] == [1, 2, 3] and len(table(tmp_path / "index")) == 30


def test_what_is_no_image_is_left_out_and_tried_again_when_it_changes(folder: Path, tmp_path: Path) -> None:
    bad = folder / "dark" / "bad.png"
    bad.write_text("no image", encoding="utf-8")
    for _ in range(2):
        problems = update(tmp_path / "index", open_images(str(folder)), Colours(), NETWORK)
        assert problems == [f"{bad.resolve()} is not an image of a known format"] or str(bad) in problems[0]
    assert len(table(tmp_path / "index")) == 30
    Image.new("RGB", (5, 5), (1, 2, 3)).save(bad)
    assert update(tmp_path / "index", open_images(str(folder)), Colours(), NETWORK) == []
    assert table(tmp_path / "index")["dark/bad.png"] == [1, 2, 3]


@pytest.mark.parametrize("name", ["000002.npy", "000002.json", "index.json"])
def test_a_damaged_file_is_named(folder: Path, tmp_path: Path, name: str) -> None:
    make(tmp_path / "index", folder)
    path = tmp_path / "index" / name
    damaged = bytearray(path.read_bytes())
    damaged[-20] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=f"{name} was changed since it was written"):
        Index(tmp_path / "index")
    with pytest.raises(UserError, match=f"{name} was changed since it was written"):
        make(tmp_path / "index", folder)
    path.unlink()
    with pytest.raises(UserError, match="is missing|holds no index"):
        Index(tmp_path / "index")


def test_an_index_of_other_images_or_of_another_network_is_left_alone(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "index", folder)
    with pytest.raises(UserError, match="index of another source"):
        make(tmp_path / "index", folder / "dark")
    with pytest.raises(UserError, match="index of another network"):
        update(tmp_path / "index", open_images(str(folder)), Colours(), NETWORK | {"layer": "c1"})


def test_vectors_are_mapped_not_read(folder: Path, tmp_path: Path) -> None:
    make(tmp_path / "index", folder)
    mapped = Index(tmp_path / "index").vectors[0].numpy()
    assert isinstance(mapped.base, np.memmap) or isinstance(mapped, np.memmap) or not mapped.flags.owndata


def test_without_held_out_images_each_fifth_is_calibrated_by_the_others(tmp_path: Path, folder: Path) -> None:
    make(tmp_path / "index", folder)
    index_ = Index(tmp_path / "index")
    features, labels = torch.cat(index_.vectors), torch.tensor([label == "light" for label in index_.labels])
    scores = []
    for i in range(5):
        part = torch.arange(30) % 5 == i
        scores.append(Mahalanobis(features[~part], labels[~part].long(), shrink=True)(features[part]))
    found = index_.about["verdict"]
    assert found["pictures"] == 30
    assert found["distance"] == pytest.approx(torch.cat(scores).sort().values[28].sqrt().item())  # 29 of 30
    write_manifest(tmp_path / "index", index_.about | {"verdict": None})
    calibrate(tmp_path / "index", features[:1])
    found = Index(tmp_path / "index").about["verdict"]
    assert found["how"] == "held out"
    assert found["distance"] == pytest.approx(index_.ood_score(features[:1]).sqrt().item())


def test_labels_of_few_images_are_one_class() -> None:
    assert decision.classes(["b"] * 10 + ["a"] * 10).tolist() == [1] * 10 + [0] * 10
    assert decision.classes(["b"] * 10 + ["a"] * 9).tolist() == [0] * 19


@pytest.mark.parity
def test_a_large_index_is_searched_approximately_until_images_come_or_go(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    make(tmp_path / "index", folder)
    index.approximate(tmp_path / "index", above=31)
    assert isinstance(Index(tmp_path / "index").nearest, Exact)
    index.approximate(tmp_path / "index", above=30)
    found = Index(tmp_path / "index")
    assert isinstance(found.nearest, index.Approximate)
    query = torch.rand(1, 3) * 255
    for distance in ("l1", "l2", "cosine"):
        assert torch.equal(found.nearest.search(query, 3, distance)[1], found.exact.search(query, 3, distance)[1])
    (tmp_path / "index" / "l2.faiss").write_bytes(b"damaged")
    with pytest.raises(UserError, match="l2.faiss was changed since it was written"):
        Index(tmp_path / "index")
    (folder / "dark" / "03.png").unlink()
    make(tmp_path / "index", folder)
    assert isinstance(Index(tmp_path / "index").nearest, Exact)


# ---- with a network ------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """What a run of LeNet leaves of itself that matters here, with random weights."""
    config = lenet.Config(out=str(tmp_path / "run"), model="tiny")
    (tmp_path / "run").mkdir()
    described = {"recipe": "CNN/LeNet", "config": dataclasses.asdict(config)}
    (tmp_path / "run" / "config.json").write_text(json.dumps(described), encoding="utf-8")
    torch.save(lenet.build_model(config).state_dict(), tmp_path / "run" / "best.pt")
    return tmp_path / "run"


def test_features_are_what_the_classifier_reads_or_the_mean_of_a_named_map(run: Path) -> None:
    extractor = Extractor("LeNet", str(run))
    model, image = extractor.classifier.model, torch.randint(256, (3, 40, 30), dtype=torch.uint8)
    with Probe(model, "c1") as probe:
        logits = model(extractor.classifier.prepare(image))
    features = extractor([image])
    last = [module for module in model.modules() if isinstance(module, torch.nn.Linear)][-1]
    torch.testing.assert_close(last(features), logits)
    maps, same = features_and_logits(model, extractor.classifier.prepare(image), "c1")
    torch.testing.assert_close(maps, probe["c1"].mean((2, 3)))
    torch.testing.assert_close(same, logits)


def words(*values: object) -> list[str]:
    return [str(value) for value in values]


def test_index_and_search_from_the_command_line(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = words("--index", tmp_path / "index")
    assert index.main(words(folder, "--backbone", "lenet", "--weights", run) + where) == 0
    assert "30 images" in capsys.readouterr().out
    figure = tmp_path / "figure.png"
    query = folder / "light" / "04.png"
    assert search.main(words(query, "--figure", figure, "--distance", "l1", "--top", 4) + where) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("Known, 4 of 4 nearest are light: its Mahalanobis distance to the nearest class is")
    assert lines[1].split() == ["0.0000", "light", "light/04.png"] and len(lines) == 6
    with Image.open(figure) as drawn:
        assert drawn.width > drawn.height > 100
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (28, 28), dtype=np.uint8)).save(tmp_path / "noise.png")
    assert search.main(words(tmp_path / "noise.png", "--figure", figure) + where) == 0
    assert capsys.readouterr().out.startswith("I don't know this image: its Mahalanobis distance to the nearest class is")


def test_neighbours_that_cannot_be_read_any_more_are_white(folder: Path, run: Path, tmp_path: Path) -> None:
    same = ("--index", tmp_path / "index")
    assert index.main(words(folder, "--weights", run, *same)) == 0
    query, figure = shutil.copy(folder / "dark" / "00.png", tmp_path / "query.png"), tmp_path / "figure.png"
    (folder / "dark" / "00.png").write_text("no image", encoding="utf-8")
    (folder / "dark" / "01.png").unlink()
    assert search.main(words(query, "--top", 1, "--figure", figure, *same)) == 0
    assert figure.exists()
    shown = Index(tmp_path / "index").shown([0, 1, 2])  # in the order of names
    assert [bool((image == 255).all()) for image in shown] == [True, True, False]


def test_who_has_read_enough_gets_no_error(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`search ... | head`, whose end of the pipe is closed."""
    assert index.main(words(folder, "--weights", run, "--index", tmp_path / "index")) == 0
    end, start = os.pipe()
    os.close(end)
    with open(start, "w", buffering=1, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert search.main(words(folder / "dark" / "02.png", "--index", tmp_path / "index")) == 0
    assert capsys.readouterr().err == ""


def test_what_a_person_can_mend_is_one_line(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(command: object, *arguments: object) -> str:
        assert command.main(words(*arguments)) == 1  # type: ignore[attr-defined]
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1
        return error

    there = ("--index", tmp_path / "index")
    assert "no folder and no data set" in refused(index, "nowhere", *there)
    assert "holds no images" in refused(index, run, "--weights", run, "--backbone", "lenet", *there)
    other = refused(index, folder, "--backbone", "resnet", "--weights", run, *there)
    assert "is a run of CNN/LeNet, not of CNN/ResNet" in other
    by_lenet = ("--weights", run)
    assert "no output of a layer 'c9'" in refused(index, folder, *by_lenet, "--layer", "c9", *there)
    assert "no model Net" in refused(index, folder, "--backbone", "Net", *there)
    assert "holds no index" in refused(search, folder / "dark" / "00.png", *there)
    with pytest.raises(SystemExit):
        search.main(words(folder / "dark" / "00.png", "--distance", "euclid"))
    assert "distance 'euclid'" in capsys.readouterr().err
    assert index.main(words(folder, "--backbone", "lenet", "--weights", run, *there)) == 0
    torch.save(lenet.build_model(lenet.Config(out="-", model="tiny")).state_dict(), run / "best.pt")
    assert "made with other weights" in refused(search, folder / "dark" / "00.png", *there)


def test_a_folder_of_other_files_is_left_alone(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Images with numbers for names, vectors, a folder, an index.json of another kind: nothing of it is the index's."""
    mine = tmp_path / "mine"
    (mine / "2024").mkdir(parents=True)
    Image.new("RGB", (5, 5)).save(mine / "0000.png")
    (mine / "000000.npy").write_bytes(b"mine")
    for _ in range(2):
        before = sorted(mine.iterdir())
        for fresh in ([], ["--fresh"]):
            assert index.main(words(mine, "--weights", run, "--index", mine, *fresh)) == 1
            assert capsys.readouterr().err == f"error: {mine} is not empty and holds no index: choose another --index\n"
        assert sorted(mine.iterdir()) == before
        (mine / "index.json").write_text('{"pages": []}', encoding="utf-8")


def test_in_the_folder_of_an_index_only_its_own_files_are_replaced(folder: Path, run: Path, tmp_path: Path) -> None:
    out, mine = tmp_path / "index", dict.fromkeys(("0000.png", "000001.png", "2024.txt", "my.faiss"), b"mine")
    same = ("--weights", run, "--index", out)
    assert index.main(words(folder, *same)) == 0
    before = content(out)
    for name in [*mine, "000099.npy", "000099.json.abc.tmp", "l2.faiss"]:  # the last three are those of an index
        (out / name).write_bytes(b"mine")
    assert index.main(words(folder, *same)) == 0
    assert content(out) == before | mine
    assert index.main(words(folder / "dark", *same, "--fresh")) == 0
    assert len(table(out)) == 15 and mine.items() <= content(out).items()


def test_an_index_is_searched_from_any_folder_and_follows_its_run(
    folder: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = words(folder / "dark" / "03.png", "--index", tmp_path / "index", "--figure", tmp_path / "figure.png", "--top", 1)
    monkeypatch.chdir(tmp_path)
    assert index.main(words("images", "--weights", "run", "--index", "index")) == 0
    monkeypatch.chdir(folder)
    assert search.main(asked) == 0
    run.rename(tmp_path / "moved")
    assert search.main(asked) == 1 and "index again with its new place as --weights" in capsys.readouterr().err
    shards = Index(tmp_path / "index").about["shards"]
    assert index.main(words(folder, "--weights", tmp_path / "moved", "--index", tmp_path / "index")) == 0
    assert search.main(asked) == 0 and Index(tmp_path / "index").about["shards"] == shards


@pytest.mark.slow
def test_an_index_killed_at_any_moment_goes_on_to_the_same_bytes(folder: Path, run: Path, tmp_path: Path) -> None:
    """kill -9 while it works, three times, at moments that fall into different shards."""
    for i in range(60):
        shutil.copy(folder / "dark" / f"{i % 15:02d}.png", folder / "light" / f"copy{i:02d}.png")
    start = "from dl.modules.DataMining.ImageSearch import index; index.SHARD = index.BATCH = 2; raise SystemExit(index.main())"
    own = words(folder, "--backbone", "lenet", "--weights", run, "--index")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def begin(out: Path) -> subprocess.Popen:
        return subprocess.Popen([sys.executable, "-c", start, *own, str(out)], env=environment, stderr=subprocess.DEVNULL)

    assert begin(tmp_path / "whole").wait() == 0
    for shards in (1, 9, 20):
        process = begin(tmp_path / "broken")
        while process.poll() is None and len(list((tmp_path / "broken").glob("*.npy"))) < shards:
            time.sleep(0.001)
        process.kill()
        process.wait()
    assert begin(tmp_path / "broken").wait() == 0
    assert content(tmp_path / "broken") == content(tmp_path / "whole")
