"""torchvision is importable here, whatever its build, and its detectors run; a healthy one is left alone."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from dl.mytorch import torchvision_compat
from dl.mytorch.layers.boxes import nms
from dl.mytorch.layers.roi_align import roi_align
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
    monkeypatch.setattr(torch.library, "impl", None)
    assert import_torchvision() is healthy
    healthy.extension = SimpleNamespace(_has_ops=lambda: True)
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


def random_boxes(count: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Return boxes on a coarse grid, so that overlaps repeat and some are empty, and scores, of which some are equal."""
    corner = torch.randint(12, (count, 2))
    boxes = torch.cat([corner, corner + torch.randint(6, (count, 2))], dim=1)
    return boxes.to(dtype), torch.randint(20, (count,)).to(dtype) / 20


@pytest.fixture
def ours(torchvision: ModuleType) -> ModuleType:
    if torchvision.extension._has_ops.__module__ != torchvision_compat.__name__:
        pytest.skip("this torchvision has its compiled operators")
    return torchvision


def test_its_detectors_suppress_by_our_operator(ours: ModuleType) -> None:
    boxes, scores = random_boxes(100, torch.float32)
    kept = ours.ops.nms(boxes, scores, 0.3)
    assert torch.equal(kept, nms(boxes, scores, 0.3)) and 0 < len(kept) < 100
    labels = torch.arange(100) % 3
    assert torch.equal(ours.ops.batched_nms(boxes, scores, labels, 0.3), nms(boxes, scores, 0.3, labels))


def test_its_detectors_pool_by_our_operator_and_its_derivative(ours: ModuleType) -> None:
    maps = torch.randn(2, 3, 6, 7, dtype=torch.float64, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 5, 5], [1, -2, 0, 3.5, 9]], dtype=torch.float64)
    pooled = ours.ops.roi_align(maps, rois, (2, 3), 0.5, 2)
    assert torch.equal(pooled, roi_align(maps, rois, (2, 3), 0.5, 2))
    (gradient,) = torch.autograd.grad(pooled.square().sum(), maps, retain_graph=True)
    (expected,) = torch.autograd.grad(roi_align(maps, rois, (2, 3), 0.5, 2).square().sum(), maps)
    assert torch.equal(gradient, expected)
    assert ours.ops.roi_align(maps.to("meta"), rois.to("meta"), (2, 3)).shape == (2, 3, 2, 3)


def test_its_operators_run_under_autocast_in_float32(ours: ModuleType) -> None:
    boxes, scores = random_boxes(20, torch.float32)
    maps = torch.randn(1, 2, 6, 7, requires_grad=True)
    rois = torch.tensor([[0, 1, 1, 5, 5.0]])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours.ops.nms(boxes, scores.bfloat16(), 0.3), nms(boxes, scores.bfloat16(), 0.3))
        pooled = ours.ops.roi_align(maps.bfloat16(), rois, (2, 2))
        assert pooled.dtype == torch.bfloat16
        pooled.sum().backward()
    assert maps.grad.shape == maps.shape


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("samples", [-1, 1, 2])
def test_pooling_is_that_of_torchvision_s_code_without_operators(ours: ModuleType, samples: int, aligned: bool) -> None:
    twin = sys.modules["torchvision.ops.roi_align"]._roi_align.__wrapped__  # torch.compile aside
    maps = torch.randn(2, 2, 9, 8, dtype=torch.float64)
    corner = torch.rand(40, 2, dtype=torch.float64) * 40 - 4
    rois = torch.cat([torch.randint(2, (40, 1)), corner, corner + torch.rand(40, 2) ** 2 * 24], dim=1)
    pooled = ours.ops.roi_align(maps, rois, (3, 2), 0.25, samples, aligned)
    expected = twin(maps, rois, 0.25, 3, 2, samples, aligned)
    near = (rois[:, 1:] > -2).all(1) & (rois[:, 1:] < 30).all(1)  # its own code pools the border further out than a pixel
    torch.testing.assert_close(pooled[near], expected[near], rtol=0, atol=1e-12)
    assert near.sum() > 10
