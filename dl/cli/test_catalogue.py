"""Models are found by their folders, named in any usual way, and described by their own docstrings."""

import functools
import os
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from dl.cli import catalogue
from dl.cli.catalogue import UnknownName
from dl.mytorch.command_line import parse
from dl.mytorch.introspect import without_values

DOCSTRING = '''"""Deep Thought.

"A Machine
for Answers of 1942", D. Adams,
1979, https://example.org/abs/2004.1234v1, section 42. See also "Another" of 2001.
"""
'''


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of models of our own: CNN/Alpha, CNN/Twin, RNN/Twin."""
    for name in ("CNN/Alpha", "CNN/Twin", "RNN/Twin"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "model.py").write_text(DOCSTRING, encoding="utf-8")
    (tmp_path / "CNN" / "Empty").mkdir()
    monkeypatch.setattr(catalogue, "MODULES", tmp_path)
    return tmp_path


def test_models_are_the_folders_with_a_model_file(models: Path) -> None:
    assert catalogue.names() == ["CNN/Alpha", "CNN/Twin", "RNN/Twin"]


@pytest.mark.parametrize("name", ["CNN/Alpha", "cnn/alpha", "Alpha", "ALPHA", "CNN/Alpha/"])
def test_a_model_is_found_by_its_name_in_any_case(models: Path, name: str) -> None:
    assert catalogue.find(name) == "CNN/Alpha"


def test_a_model_is_found_by_the_path_of_its_folder_or_file(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalogue.find(str(models / "CNN" / "Alpha")) == "CNN/Alpha"
    assert catalogue.find(str(models / "RNN" / "Twin" / "model.py")) == "RNN/Twin"
    monkeypatch.chdir(models / "RNN")
    assert catalogue.find(os.path.join("Twin", "model.py")) == "RNN/Twin"
    assert catalogue.find(os.path.join("..", "CNN", "Alpha")) == "CNN/Alpha"


def test_a_short_name_of_two_models_is_refused_with_both(models: Path) -> None:
    with pytest.raises(UnknownName, match="CNN/Twin, RNN/Twin"):
        catalogue.find("twin")


@pytest.mark.parametrize("name", ["CNN/Alfa", "alpa", "dl/modules/CNN/Alfa"])
def test_a_mistyped_name_is_refused_with_near_ones(models: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="near: CNN/Alpha"):
        catalogue.find(name)


@pytest.mark.parametrize("name", ["zzz", "/", "CNN/Empty", __file__])
def test_what_is_no_model_is_refused(models: Path, name: str) -> None:
    with pytest.raises(UnknownName, match="no model"):
        catalogue.find(name)


def test_paper_is_read_from_the_docstring(models: Path) -> None:
    expected = ("Deep Thought", "A Machine for Answers of 1942", "1979", "https://example.org/abs/2004.1234v1")
    assert catalogue.paper("CNN/Alpha") == expected


def test_a_paper_without_title_year_and_link_leaves_them_empty(models: Path) -> None:
    (models / "CNN" / "Alpha" / "model.py").write_text('"""Just a name"""', encoding="utf-8")
    assert catalogue.paper("CNN/Alpha") == ("Just a name", "", "", "")


def test_a_paper_may_be_older_than_computers(models: Path) -> None:
    (models / "CNN" / "Alpha" / "model.py").write_text(
        '"""Squares.\n\n"Comets", A.-M. Legendre, 1805, http://example.org/1\n"""', encoding="utf-8"
    )
    assert catalogue.paper("CNN/Alpha") == ("Squares", "Comets", "1805", "http://example.org/1")


def test_a_link_ends_before_the_sign_that_follows_it(models: Path) -> None:
    (models / "CNN" / "Alpha" / "model.py").write_text(
        '"""A.\n\n"T", 2015, https://arxiv.org/abs/1512.03385: more\n"""', encoding="utf-8"
    )
    assert catalogue.paper("CNN/Alpha").link == "https://arxiv.org/abs/1512.03385"


def test_presets_leave_out_the_tiny_one_unless_asked_for() -> None:
    assert catalogue.presets("CNN/LeNet") == ["modern", "textbook", "lenet5"]
    assert catalogue.presets("CNN/LeNet", "tiny") == ["tiny"]
    with pytest.raises(UnknownName, match="no preset huge; there are modern, textbook, lenet5, tiny"):
        catalogue.presets("CNN/LeNet", "huge")


def test_parameters_are_those_of_the_presets() -> None:
    assert catalogue.parameters("CNN/LeNet") == {"modern": 61_706, "textbook": 61_706, "lenet5": 60_000}


def test_values_are_computed_only_where_they_are_read() -> None:
    assert catalogue.without_values(lambda: torch.zeros(10**12)).is_meta
    assert catalogue.without_values(lambda: torch.full((), 3.0).item()) == 3.0
    with pytest.raises(OverflowError, match="depends on values, and 3,000,000,000 parameters are too many"):
        catalogue.without_values(lambda: torch.full((), 3.0).item(), lambda: 3 * 10**9)


def test_a_network_too_large_for_values_has_no_flops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalogue.cost("GPT/Qwen3", "char_experts")[1] > 0
    monkeypatch.setattr(catalogue, "LARGEST", 10**6)
    assert catalogue.cost("GPT/Qwen3", "char_experts") == (1_289_728, None)
    assert catalogue.cost("GPT/Qwen3", "char")[1] > 0


# One model each, or that of the run that is tuned: no --model.
NO_CHOICE = {"Linear/LinearRegression", "Linear/SoftmaxRegression", "Alignment/DPO"}


@pytest.mark.parametrize("name", sorted(set(catalogue.names()) - NO_CHOICE))
def test_every_preset_is_a_choice_of_its_recipe(name: str) -> None:
    config = catalogue.module(name, "train").Config
    for preset in catalogue.presets(name):
        assert parse(config, ["--model", preset]).model == preset
    with pytest.raises(ValueError, match="--model has to be one of"):
        config(model="none")


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in catalogue.names() if name.startswith(("CNN", "MLP"))])
def test_every_preset_of_a_classifier_takes_small_images(name: str) -> None:
    recipe = catalogue.module(name, "train")
    for preset in catalogue.presets(name):
        config = recipe.Config(model=preset)
        with without_values():
            output = recipe.build_model(config).eval()(torch.zeros(2, 1, 28, 28))
        assert output.shape == (2, 10), preset


@pytest.mark.slow
@pytest.mark.parametrize("name", catalogue.names())
def test_every_preset_takes_its_example(name: str) -> None:
    model = catalogue.module(name)
    for preset in model.PRESETS:
        with suppress(OverflowError):  # of a mixture of experts with billions of parameters
            count = functools.partial(lambda preset: catalogue.parameters(name, preset)[preset], preset)
            catalogue.without_values(lambda: model.build(preset).eval()(*model.example(preset)), count)
