"""Objects are found in images of any size, told in their own pixels, and drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dl.cli.testing import make_run
from dl.modules.Detection import predict
from dl.mytorch.data.boxes.sets import BoxConfig
from dl.mytorch.layers.boxes import Detections


class Halves(nn.Module):
    """Finds the left half of each image, surely, and the right one, less so."""

    def detect(self, images: Tensor, sizes: Tensor) -> list[Detections]:
        found = []
        for height, width in sizes.tolist():
            boxes = torch.tensor([[0, 0, width / 2, height], [width / 2, 0, width, height]])
            masks = torch.zeros(2, height, width, dtype=torch.bool)
            masks[0, :, : width // 2] = True
            found.append(Detections(boxes, torch.tensor([1, 3]), torch.tensor([0.9, 0.4]), masks))
        return found


def test_boxes_and_masks_are_in_pixels_of_the_image_that_was_given() -> None:
    image = torch.randint(256, (3, 50, 200), dtype=torch.uint8)
    found = predict.detect(Halves(), image, BoxConfig(out="x", size=100), 0.5)
    assert found.boxes.tolist() == [[0, 0, 100, 50]] and found.labels.tolist() == [1]
    assert found.masks.shape == (1, 50, 200) and found.masks[0, :, :100].all() and not found.masks[0, :, 100:].any()
    assert len(predict.detect(Halves(), image, BoxConfig(out="x", size=100), 0.3).labels) == 2


def test_each_image_has_a_line_and_each_object_a_row() -> None:
    image, nothing = (
        torch.zeros(3, 40, 60, dtype=torch.uint8),
        predict.Detections(torch.zeros(0, 4), *[torch.zeros(0).long()] * 2),
    )
    found, names = predict.detect(Halves(), image, BoxConfig(out="x"), 0.3), ("a", "b", "c", "d")
    assert predict.counts(found, names) == "1 b, 1 d" and predict.counts(nothing, names) == "nothing"
    lines = [line.split() for line in predict.table([Path("x.png"), Path("y.png")], [nothing, found], names).splitlines()]
    assert set(lines.pop(1)[0]) == {"-"}
    assert lines == [
        ["image", "class", "score", "left", "top", "right", "bottom"],
        ["y.png", "b", "0.90", "0.0", "0.0", "30.0", "40.0"],
        ["y.png", "d", "0.40", "30.0", "0.0", "60.0", "40.0"],
    ]


def test_the_command_draws_all_images(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    run, paths = make_run(tmp_path / "run", "Detection/FCOS", data="scenes"), [tmp_path / "a.png", tmp_path / "b.png"]
    for path, size in zip(paths, ((64, 48), (40, 90))):
        Image.fromarray(np.zeros((*size, 3), dtype="uint8")).save(path)
    monkeypatch.setattr(predict, "detect", lambda model, image, *_: Halves().detect(image, torch.tensor([image.shape[1:]]))[0])
    figure = tmp_path / "drawn.png"
    assert predict.main([*map(str, paths), "--run", str(run), "--figure", str(figure)]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0] == f"{paths[0]}: 1 trousers, 1 shoe" and len(said) == 2 + 6 + 1 and said[-1] == f"drawn: {figure}"
    assert figure.exists()


@pytest.mark.parametrize("score", ["-0.1", "1.5", "nan"])
def test_a_score_that_none_can_have_is_refused(score: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        predict.parse(["a.png", "--run", "x", f"--score={score}"])
    assert "is not from 0 to 1" in capsys.readouterr().err
