"""torchvision is importable here, whatever its build; a healthy one is left alone."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from dl.mytorch.torchvision_compat import import_torchvision


class Declared(list):
    """In place of `torch.library.define`: notes what is declared."""

    def __call__(self, name: str, schema: str) -> None:
        self.append(name)


@pytest.fixture
def declared(monkeypatch: pytest.MonkeyPatch) -> Declared:
    names = Declared()
    monkeypatch.setattr(torch.library, "define", names)
    return names


def put_in_place(code: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A torchvision that consists of `code`."""
    (folder / "torchvision").mkdir()
    (folder / "torchvision" / "__init__.py").write_text(code, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "torchvision", None)  # remembered, and put back after the test
    del sys.modules["torchvision"]
    monkeypatch.syspath_prepend(folder)


def test_models_data_sets_and_transforms_are_usable_and_a_second_import_is_the_first() -> None:
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision is sys.modules["torchvision"]
    assert torchvision.models.squeezenet1_1(num_classes=3)(torch.zeros(1, 3, 32, 32)).shape == (1, 3)
    assert torchvision.transforms.functional.hflip(torch.tensor([[[1.0, 2.0]]])).tolist() == [[[2, 1]]]
    assert torchvision.datasets.FashionMNIST.__name__ == "FashionMNIST"


def test_a_healthy_torchvision_is_left_alone(declared: Declared, monkeypatch: pytest.MonkeyPatch) -> None:
    healthy = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", healthy)
    assert import_torchvision() is healthy
    assert declared == []


def test_the_two_operators_of_an_unfitting_build_are_declared_and_the_import_repeated(
    declared: Declared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import torch
if "torchvision::nms" not in torch.library.define:
    raise RuntimeError("operator torchvision::nms does not exist")
"""
    put_in_place(code, tmp_path, monkeypatch)
    assert import_torchvision().__file__ == str(tmp_path / "torchvision" / "__init__.py")
    assert declared == ["torchvision::nms", "torchvision::qnms"]


def test_other_troubles_of_the_import_are_not_hidden(
    declared: Declared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_in_place("raise RuntimeError('something else')", tmp_path, monkeypatch)
    with pytest.raises(RuntimeError, match="something else"):
        import_torchvision()
    assert declared == []
