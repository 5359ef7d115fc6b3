"""Each standard check is found out by a network, or a run, that is broken its way."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dl.mytorch import TrainConfig
from dl.mytorch.data import Splits
from dl.mytorch.testing import Overfit, assert_presets_build, standard_checks
from dl.mytorch.testing.training import Scaled, small_batch

PRESETS = {"tiny": {}}


def example(preset: str) -> tuple[Tensor]:
    return (torch.zeros(2, 4),)


def build(preset: str, broken: str = "") -> nn.Module:
    """A network (or one that fails the proof `broken`) beside PRESETS, as in a model.py."""
    model = Scaled(lambda result, scale: result * (scale.detach() if broken == "gradients" else scale))
    if broken == "independence":
        model.use = lambda result, scale: result * scale + result.mean()
    if broken == "overfits":
        model.use = lambda result, scale: 1e-9 * result * scale
    return nn.Sequential(model) if broken == "presets" else model


def main(config: TrainConfig, data: Splits) -> None:
    raise AssertionError("the run was asked for")


@pytest.mark.parametrize(
    ("name", "broken", "says"),
    [
        ("gradients_reach_every_parameter", "gradients", "scale gets no gradient"),
        ("batch_independence", "independence", "output of example 0 alone"),
        ("overfits_one_batch", "overfits", "the loss on one batch is still"),
        ("resumes_exactly", "", "the run was asked for"),
        ("presets_build", "presets", "layers of preset tiny without a name: 0"),
    ],
)
def test_each_standard_check_is_an_item_that_fails_for_a_model_broken_its_way(
    tmp_path: Path, name: str, broken: str, says: str
) -> None:
    def make(preset: str) -> nn.Module:
        return build(preset, broken)

    test = standard_checks(make, main, TrainConfig("unused", ""), small_batch, overfit=[Overfit(lr=0.1, below=0.5)])
    items = {item.id: item.values for item in test.pytestmark[-1].args[1]}
    assert len(items) == 5
    for own in items:
        if own == name:
            with pytest.raises(AssertionError, match=says):
                test(*items[own], tmp_path)
        elif own != "resumes_exactly":
            test(*items[own], tmp_path)


def test_variants_are_items_of_their_own_and_a_check_is_off_only_with_a_reason() -> None:
    skip = {"batch_independence": "a batch is one example"}
    variants = [{}, {"broken": "overfits"}]
    test = standard_checks(build, main, TrainConfig("unused", ""), small_batch, variants=variants, skip=skip)
    items = {item.id: [mark.kwargs["reason"] for mark in item.marks] for item in test.pytestmark[-1].args[1]}
    assert items == {
        **{f"gradients_reach_every_parameter-{i}": [] for i in (0, 1)},
        **{f"batch_independence-{i}": ["a batch is one example"] for i in (0, 1)},
        **{"overfits_one_batch": [], "resumes_exactly": [], "presets_build": []},
    }
    for wrong in ({"batch_independence": " "}, {"batch_norm": "it has some"}):
        with pytest.raises(ValueError, match="it has a reason for each check that is off, of gradients_reach"):
            standard_checks(build, main, TrainConfig("unused", ""), small_batch, skip=wrong)


def test_the_tiny_preset_takes_its_example(monkeypatch: pytest.MonkeyPatch) -> None:
    assert_presets_build(build)
    monkeypatch.setitem(globals(), "example", lambda preset: (torch.zeros(2, 5),))
    with pytest.raises(RuntimeError, match="2x5 and 4x3"):
        assert_presets_build(build)
