import json
from pathlib import Path

import pytest
import torch

from dl.benchmarks import detection, detection_peers
from dl.mytorch.layers.boxes import iou, nms


def test_boxes_lie_in_their_images_and_have_an_area() -> None:
    data = detection.batch(20)
    real = data["labels"] >= 0
    boxes = data["boxes"][real]
    assert 3 <= real.sum(1).min() and real.sum(1).max() <= 13
    assert (boxes[:, :2] >= 0).all() and (boxes[:, 2] <= 216).all() and (boxes[:, 3] <= 160).all()
    assert (boxes[:, 2:] - boxes[:, :2] >= 20 - 1e-3).all()


def test_the_loop_suppresses_the_same_boxes() -> None:
    boxes, scores = detection.clusters(200)
    assert torch.equal(nms(boxes, scores, 0.5), detection_peers.loop(boxes, scores, 0.5))
    assert 20 <= len(nms(boxes, scores, 0.5)) < 100 and (iou(boxes, boxes) > 0.5).sum() > 400


@pytest.mark.slow
@pytest.mark.parity
@pytest.mark.parametrize("task", ["fcos", "fasterrcnn"])
def test_both_begin_with_the_same_loss(task: str) -> None:
    contenders = detection.steps(task, detection.batch(2))
    losses = {}
    for name, step in contenders.items():
        torch.manual_seed(0)
        losses[name] = step().item()
    assert losses["ours"] == pytest.approx(losses["torchvision"], rel=1e-4 if task == "fcos" else 0.2)  # samples are drawn


@pytest.mark.parity
def test_the_benchmark_records_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pycocotools")
    data = detection.evaluation(images=4, detections=20)
    assert detection.our_map(data) == pytest.approx(detection_peers.mean_ap(data, detection.CLASSES)(), abs=1e-9)
    monkeypatch.setattr(detection, "evaluation", lambda: data)
    monkeypatch.setattr(detection, "clusters", lambda count: (data[0][0].boxes, data[0][0].scores))
    out = tmp_path / "detection.json"
    assert detection.main(["--tasks", "nms,map", "--rounds", "1", "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert set(record["per_second"]) == {"map", "nms"} and len(record["per_second"]["map"]["ours"]) == 1
    assert "of pycocotools" in capsys.readouterr().out
