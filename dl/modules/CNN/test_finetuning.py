"""Networks that start from the weights of another training."""

import dataclasses
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dl.cli.exporting import FORMATS
from dl.cli.runs import Run
from dl.cli.testing import write_run
from dl.modules.CNN import finetuning
from dl.modules.CNN.ResNet import train
from dl.mytorch import testing
from dl.mytorch.checkpoint import save
from dl.mytorch.config import UserError
from dl.mytorch.data import Loader, Splits, synthetic
from dl.mytorch.optim import sgd


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A run of a tiny network of ten classes."""
    return write_run(tmp_path / "source", "CNN/ResNet")


def config(weights: Path | str, **flags: Any) -> train.Config:
    return train.Config(
        **{"out": "unused", "model": "tiny", "weights": str(weights), "precision": "fp32", "channels_last": False, **flags}
    )


def images(classes: int = 3) -> Splits:
    sets = [synthetic.images(count, classes, 1, 28, seed) for seed, count in enumerate((24, 8, 8))]
    return Splits(*(Loader(data, 8, shuffle=i == 0) for i, data in enumerate(sets)))


def built(classes: int, asked: train.Config) -> nn.Module:
    torch.manual_seed(5)
    return finetuning.start(train.build_model(asked, classes), asked)


@pytest.mark.parametrize("kind", ["", "torch", "safetensors"])
def test_all_but_the_last_layer_starts_from_a_run_or_an_exported_file(source: Path, kind: str) -> None:
    run, weights = Run.open(source), source
    if kind:
        weights = source / f"export{FORMATS[kind][1]}"
        FORMATS[kind][0](run, weights)
    theirs, ours = run.model().state_dict(), built(3, config(weights)).state_dict()
    fresh = train.build_model(config(""), 3).state_dict()
    for name, weight in ours.items():
        assert torch.equal(weight, theirs[name]) == (not name.startswith("head.")), name
    assert ours["head.weight"].shape == fresh["head.weight"].shape == (3, 16)
    assert torch.equal(built(10, config(weights)).head.weight, theirs["head.weight"])  # the same classes


def test_what_is_frozen_is_the_same_after_training(source: Path, tmp_path: Path, no_figures: None) -> None:
    before = Run.open(source).model().state_dict()
    for flags, moved in (({"freeze": True}, {"head"}), ({}, {"head", "stem", "blocks"})):
        asked = config(source, out=str(tmp_path / f"run{len(moved)}"), epochs=1, batch_size=8, **flags)
        train.main(asked, images(10))
        after = torch.load(Path(asked.out) / "last.pt", weights_only=True)["model"]
        assert {name.split(".")[0] for name, weight in before.items() if not torch.equal(weight, after[name])} == moved


@pytest.mark.parametrize("freeze", [False, True])
def test_a_run_resumes_without_the_weights_that_it_started_from(
    source: Path, tmp_path: Path, no_figures: None, freeze: bool
) -> None:
    gone = iter([False, False, True])  # when the stopped run starts again

    def data() -> Splits:
        if next(gone):
            shutil.rmtree(source)
        return images(10)

    asked = config(source, out=str(tmp_path), epochs=1, batch_size=8, save_every=1, freeze=freeze)
    testing.assert_resumes_exactly(train.main, asked, data)
    assert not source.exists()


def test_the_backbone_has_a_part_of_the_rate(source: Path) -> None:
    model = built(3, config(source))
    asked = config(source, backbone_lr=0.1)
    optimizer = finetuning.rates(sgd(2.0, weight_decay=0.5), asked)(model)
    rates = {
        parameter: (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert len(rates) == len(list(model.parameters()))
    for name, parameter in model.named_parameters():
        assert rates[parameter] == (2.0 if name.startswith("head.") else 0.2, 0.5 if parameter.ndim > 1 else 0.0), name
    assert repr(finetuning.rates(sgd(2.0), asked)) == "slower_backbone(optimizer=sgd(lr=2.0), backbone_lr=0.1)"
    assert finetuning.rates(sgd(2.0), config(source))(model).param_groups[0]["lr"] == 2.0


def test_weights_of_another_network_or_that_are_broken_are_refused(source: Path, tmp_path: Path, torchvision: Any) -> None:
    state = Run.open(source).model().state_dict()
    for change, message in (
        ({"stem.conv.weight": torch.zeros(8, 1, 5, 5)}, "stem.conv.weight differs"),
        ({"stem.norm.bias": torch.full((8,), torch.nan)}, "stem.norm.bias holds numbers that are not finite"),
        ({"more": torch.zeros(1)}, "not the names of --model tiny"),
    ):
        save({**state, **change}, tmp_path / "weights.pt")
        with pytest.raises(UserError, match=message):
            built(3, config(tmp_path / "weights.pt"))
    with pytest.raises(UserError, match="is a run of CNN/LeNet"):
        built(3, config(write_run(tmp_path / "lenet")))
    with pytest.raises(UserError, match="nothing"):
        built(3, config(tmp_path / "nothing.pt"))


def test_flags_that_need_weights_say_so() -> None:
    for flags in ({"freeze": True}, {"backbone_lr": 0.5}):
        with pytest.raises(ValueError, match="with --weights"):
            dataclasses.replace(train.Config(), **flags)


def test_torchvision_s_file_starts_the_preset_of_its_name(tmp_path: Path, torchvision: Any) -> None:
    torch.manual_seed(0)
    reference = torchvision.models.squeezenet1_1(weights=None, num_classes=4)
    torch.save(reference.state_dict(), tmp_path / "squeezenet1_1.pth")
    from dl.modules.CNN.SqueezeNet import train as squeezenet
    from dl.modules.CNN.SqueezeNet.convert import from_torchvision

    (tmp_path / "ants").mkdir()
    (tmp_path / "bees").mkdir()
    asked = squeezenet.Config(data=f"folder:{tmp_path}", weights=str(tmp_path / "squeezenet1_1.pth"), model="squeezenet1_1")
    ours, theirs = finetuning.start(squeezenet.build_model(asked), asked).state_dict(), from_torchvision(reference).state_dict()
    different = [name for name, weight in ours.items() if not torch.equal(weight, theirs[name])]
    assert different and all(ours[name].shape[0] == 2 for name in different)
    small = dataclasses.replace(asked, model="small")
    with pytest.raises(UserError, match="torchvision's weights go with --model squeezenet1_0, squeezenet1_1"):
        finetuning.start(squeezenet.build_model(small), small)
