"""Trained weights that come with the project."""

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from dl import __main__ as front
from dl.cli import bundled, catalogue
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.mytorch.checkpoint import load, save
from dl.mytorch.config import UserError
from dl.mytorch.run import read_described


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(bundled, "FOLDER", tmp_path / "data" / "weights")
    monkeypatch.setattr(catalogue, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    Path("NOTICE.md").write_text("# Data\n\n| `data/weights/checksums.json` | checksums |\n\nThe end.\n", encoding="utf-8")
    return tmp_path / "data" / "weights"


def test_a_bundled_run_is_the_run_in_half_precision(folder: Path, tmp_path: Path) -> None:
    run = Run.open(write_run(tmp_path / "run", "GPT/GPT2"))
    path = bundled.bundle(run.path)
    assert path == folder / "GPT-GPT2.pt"
    assert all(isinstance(each, Tensor) for each in torch.load(path, weights_only=True).values())
    opened = Run.open(bundled.unpack("GPT/GPT2"))
    assert opened.vocabularies == run.vocabularies and opened.recipe == "GPT/GPT2" and opened.config.model == "tiny"
    for (name, ours), theirs in zip(run.model().state_dict().items(), opened.model().state_dict().values(), strict=True):
        assert torch.equal(theirs, ours.half().float()), name


def test_a_verb_takes_it_where_there_is_no_run_of_one_s_own(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert front.main(["generate", "GPT/GPT2", "ab"]) == 1
    assert "no finished run of GPT/GPT2" in capsys.readouterr().err
    bundled.bundle(write_run(tmp_path / "elsewhere", "GPT/GPT2"))
    assert front.main(["generate", "GPT/GPT2", "ab", "--tokens", "3", "--seed", "0"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("ab") and "taking data/weights/GPT-GPT2.pt, which comes with the project" in said.err
    write_run(tmp_path / "runs" / "mine", "GPT/GPT2")
    assert front.main(["generate", "GPT/GPT2", "ab", "--tokens", "3"]) == 0
    assert "taking" not in capsys.readouterr().err


def test_a_run_of_one_s_own_that_is_damaged_is_not_passed_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled.bundle(write_run(tmp_path / "elsewhere", "GPT/GPT2"))
    mine = write_run(tmp_path / "runs" / "mine", "GPT/GPT2")
    text = (mine / "config.json").read_text(encoding="utf-8")
    (mine / "config.json").write_text(text.replace("elsewhere", "altered"), encoding="utf-8")
    assert front.main(["generate", "GPT/GPT2", "ab"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "config.json was changed since it was written" in line


def changed(folder: Path, change: dict[str, Any], without: str = "") -> None:
    state = {**load(folder / "GPT-GPT2.pt"), **change}
    state.pop(without, None)
    save(state, folder / "GPT-GPT2.pt")


@pytest.mark.parametrize(
    ("change", "without", "message"),
    [
        ({"norm.bias": torch.full((8,), torch.nan)}, "", "norm.bias holds numbers that are not finite"),
        ({"more": torch.zeros(1)}, "", "belongs to another model"),
        ({}, "norm.bias", "belongs to another model"),
        ({}, "file:config.json", "GPT-GPT2.pt is not of GPT/GPT2"),
        ({"file:../away": torch.zeros(1, dtype=torch.uint8)}, "", "'../away' is no text of a run"),
        ({"file:config.json": "text"}, "", "holds more than tensors"),
    ],
)
def test_a_file_that_is_not_what_it_says_is_one_line(
    folder: Path, tmp_path: Path, change: dict[str, Any], without: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundled.bundle(write_run(tmp_path / "run", "GPT/GPT2"))
    changed(folder, change, without)
    assert front.main(["generate", "GPT/GPT2", "ab"]) == 1
    taken, *lines = capsys.readouterr().err.strip().splitlines()
    assert taken.startswith("no finished run") and len(lines) == 1 and message in lines[0]


VERBS = {"generate": "GPT/GPT2", "sample": "Generative/VAE", "predict": "CNN/LeNet", "search": "DataMining/ImageSearch"}
WORDS = {"generate": ["ab"], "sample": [], "predict": ["image.png"], "search": ["image.png"]}
DAMAGES = {
    "a flipped bit": "was changed since it was written, or is damaged",
    "another model": " is not of ",
    "not a number": "holds numbers that are not finite",
    "a missing tensor": "belongs to another model than this",
    "a surplus tensor": "belongs to another model than this",
}


def damage(path: Path, how: str, other: Path) -> None:
    """Change a file of weights; what is written by `save` has its checksum."""
    state = load(path)
    name = next(name for name, weight in state.items() if weight.is_floating_point())
    if how == "a flipped bit":
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    elif how == "another model":
        save(load(other), path)
    elif how == "a missing tensor":
        save({each: weight for each, weight in state.items() if each != name}, path)
    else:
        save({**state, **({"more": torch.zeros(1)} if "surplus" in how else {name: state[name] * torch.nan})}, path)


@pytest.mark.parametrize("how", DAMAGES)
@pytest.mark.parametrize("verb", VERBS)
def test_each_damage_is_one_line_of_each_command(
    folder: Path, tmp_path: Path, verb: str, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = bundled.bundle(write_run(tmp_path / "run", VERBS[verb]))
    damage(path, how, bundled.bundle(write_run(tmp_path / "other", "MLP/MLP")))
    Image.new("L", (28, 28)).save("image.png")
    words = [verb, *([] if verb == "search" else [VERBS[verb]]), *WORDS[verb]]
    assert front.main(words) == 1
    said = capsys.readouterr()
    (line,) = [line for line in said.err.splitlines() if not line.startswith("no ")]  # run, or index, of one's own
    assert line.startswith("error: ") and DAMAGES[how] in line and path.name.removesuffix(".pt") in line and not said.out


def test_a_flipped_bit_and_the_file_of_another_model_are_one_line(folder: Path, tmp_path: Path) -> None:
    path = bundled.bundle(write_run(tmp_path / "run", "GPT/GPT2"))
    bundled.bundle(write_run(tmp_path / "other", "CNN/LeNet"))
    content = path.read_bytes()
    place = len(content) // 2
    path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
    with pytest.raises(UserError, match="GPT-GPT2.pt"):
        bundled.unpack("GPT/GPT2")
    save(load(folder / "CNN-LeNet.pt"), path)
    with pytest.raises(UserError, match="is not of GPT/GPT2"):
        bundled.unpack("GPT/GPT2")


def test_other_bundled_weights_get_another_index(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = catalogue.module("DataMining/ImageSearch", "search")
    made: list[Path] = []

    def make(options: argparse.Namespace) -> None:
        options.index.mkdir(exist_ok=True)
        (options.index / "index.json").touch()
        made.append(options.index)

    monkeypatch.setattr(search.making, "make", make)
    monkeypatch.setattr(search, "read_manifest", lambda index: {"verdict": {}})
    path = bundled.bundle(write_run(tmp_path / "run", "DataMining/ImageSearch"))
    assert search.sample_index() == search.sample_index() == made[0]
    state = load(path)
    save({name: weight / 2 if weight.is_floating_point() else weight for name, weight in state.items()}, path)
    assert search.sample_index() == made[1] != made[0] and len(made) == 2
    monkeypatch.setattr(search, "read_manifest", lambda index: {"verdict": None})  # its making was stopped
    assert search.sample_index() == made[2] == made[1]


def test_notice_has_one_row_of_each_file_in_their_order(folder: Path, tmp_path: Path) -> None:
    lenet, gpt2 = (write_run(tmp_path / name, name) for name in ("CNN/LeNet", "GPT/GPT2"))
    for run in (gpt2, lenet, gpt2):
        bundled.bundle(run)
    row = "| `data/weights/{}.pt` | weights, in half precision | trained here on {} | that of the code |"
    assert Path("NOTICE.md").read_text(encoding="utf-8").splitlines() == [
        *("# Data", "", row.format("CNN-LeNet", "Fashion-MNIST (MIT)")),
        *(row.format("GPT-GPT2", "tiny Shakespeare (public domain)"), "| `data/weights/checksums.json` | checksums |"),
        *("", "The end."),
    ]
    with pytest.raises(UserError, match="was trained on cifar10, of which bundled.py does not say whose it is"):
        bundled.bundle(write_run(tmp_path / "cifar", "CNN/ResNet", data="cifar10"))


def test_what_is_too_large_is_refused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [write_run(tmp_path / name, recipe) for name, recipe in (("a", "GPT/GPT2"), ("b", "CNN/LeNet"))]
    bundled.bundle(runs[0])
    monkeypatch.setattr(bundled, "MOST_IN_ALL", (folder / "GPT-GPT2.pt").stat().st_size + 100)
    bundled.bundle(runs[0])  # again: it takes the place of the first
    with pytest.raises(UserError, match="MB in data/weights, which has"):
        bundled.bundle(runs[1])
    weights = load(runs[0] / "best.pt")
    save({**weights, "norm.bias": weights["norm.bias"] + 1e6}, runs[0] / "best.pt")
    with pytest.raises(UserError, match="norm.bias is out of the range of half precision"):
        bundled.bundle(runs[0])


BUNDLED = sorted((Path(__file__).parents[2] / "data" / "weights").glob("*.pt"))
RECIPES = {name.replace("/", "-"): name for name in (*catalogue.names(), "DataMining/ImageSearch")}


def test_all_that_come_with_the_project_are_small_and_of_a_model_here() -> None:
    sizes = [path.stat().st_size for path in BUNDLED]
    assert all(size <= bundled.MOST for size in sizes) and sum(sizes) <= bundled.MOST_IN_ALL
    assert {path.stem for path in BUNDLED} <= RECIPES.keys()


@pytest.mark.parametrize("path", BUNDLED, ids=lambda path: path.stem)
def test_each_that_comes_with_the_project_opens(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = RECIPES[path.stem]
    if recipe.startswith("Reinforcement/"):
        pytest.importorskip("gymnasium", reason='gymnasium is not installed: pip install -e ".[rl]"')
    state = load(path)
    monkeypatch.setattr(bundled, "FOLDER", tmp_path)
    save(state, tmp_path / path.name)
    folder = bundled.unpack(recipe)
    assert read_described(folder)["commit"] and not read_described(folder)["commit"].endswith("+")
    assert sum(parameter.numel() for parameter in Run.open(folder).model().parameters()) > 0
