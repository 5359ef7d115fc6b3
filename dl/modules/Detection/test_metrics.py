"""Average precision against worked numbers and, in the parity tier, pycocotools."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.multiprocessing
from torch import Tensor

from dl.modules.Detection import metrics
from dl.modules.Detection.metrics import APError, Truth, assigned, matches, mistakes, precisions
from dl.mytorch.layers.boxes import Detections, area

A, B, C, F = [0, 0, 100, 100], [200, 0, 300, 100], [200, 200, 500, 500], [0, 200, 100, 300]  # none meets another
ONE, ZERO = pytest.approx(1, abs=1e-12), pytest.approx(0, abs=1e-12)


def found(*rows: tuple[list[float], float], label: int = 0) -> Detections:
    boxes = torch.tensor([box for box, _ in rows], dtype=torch.float64).view(-1, 4)
    scores = torch.tensor([score for _, score in rows], dtype=torch.float64)
    return Detections(boxes, torch.full((len(rows),), label), scores)


def truth(*boxes: list[float], crowd: tuple[int, ...] = (), labels: Any = 0) -> Truth:
    corners = torch.tensor(boxes, dtype=torch.float64).view(-1, 4)
    numbers = torch.arange(len(corners))
    return Truth(corners, numbers * 0 + torch.tensor(labels), torch.isin(numbers, torch.tensor(crowd).long()), area(corners))


def score(*images: tuple[Detections, Truth], classes: int = 1, **options: Any) -> Tensor:
    """AP of each class at each threshold, (K, T)."""
    each = [matches(one, true, classes, **options) for one, true in images]
    rows, counts = torch.cat([rows for rows, _ in each]), torch.stack([counts for _, counts in each]).sum(0)
    return precisions(rows, counts, range(classes))


MISSES = [(F, 0.9)] * 100
WORKED = {  # images, AP at 0.5, AP
    "a miss between two hits": ([(found((A, 0.9), (F, 0.8), (B, 0.7)), truth(A, B))], (51 + 50 * 2 / 3) / 101, None),
    "equal scores, the miss first": ([(found((F, 0.5), (A, 0.5)), truth(A))], 0.5, None),
    "equal scores, the hit first": ([(found((A, 0.5), (F, 0.5)), truth(A))], 1.0, None),
    "equal scores, the miss in the first image": ([(found((F, 0.5)), truth()), (found((A, 0.5)), truth(A))], 0.5, None),
    "two in a crowd": ([(found((C, 0.95), ([210, 210, 300, 300], 0.8), (A, 0.9)), truth(A, C, crowd=(1,)))], 1.0, None),
    "one box of two": ([(found(), truth(A)), (found((A, 0.9)), truth(A))], 51 / 101, None),
    "a surer miss in an image without boxes": ([(found((A, 0.9)), truth(A)), (found((F, 0.95)), truth())], 0.5, None),
    "an overlap of exactly a half": ([(found(([0, 0, 100, 50], 0.9)), truth(A))], 1.0, 0.1),
    "a hundred surer misses": ([(found(*MISSES, (A, 0.5)), truth(A))], 0.0, None),
    "found twice": ([(found((A, 0.9), (A, 0.8)), truth(A))], 1.0, None),
    "nothing found": ([(found(), truth(A))], 0.0, None),
}


@pytest.mark.parametrize("case", WORKED)
def test_average_precision_has_the_worked_value(case: str) -> None:
    images, at_half, mean = WORKED[case]
    precision = score(*images)[0]
    assert precision[0].item() == pytest.approx(at_half, abs=1e-12)
    assert precision.mean().item() == pytest.approx(at_half if mean is None else mean, abs=1e-12)


def test_a_class_without_a_box_is_left_out_of_the_mean() -> None:
    """Trap: it would count as 0 although nothing can be found. Nothing anywhere is NaN."""
    both = Detections(*(torch.cat(pair) for pair in list(zip(found((A, 0.9)), found((B, 0.8), label=1)))[:3]))
    precision = score((both, truth(A)), classes=2)
    assert precision[0].mean() == ONE and precision[1].isnan().all()
    assert measured(APError(2), [[(both, truth(A))]], 2) == ZERO
    assert math.isnan(measured(APError(2), [[(both, truth())]], 2))


def test_the_first_box_of_a_set_can_be_found() -> None:
    """Trap: pycocotools takes an annotation of id 0 for none."""
    assert score((found((A, 0.9)), truth(A))).min() == ONE


def test_the_number_of_detections_that_count_can_be_chosen() -> None:
    """Trap: pycocotools' summary is -1 for any number but 100. Each class has its own count."""
    assert score((found(*MISSES[:4], (A, 0.5)), truth(A)), most=5)[0, 0] == pytest.approx(0.2)
    assert score((found(*MISSES[:5], (A, 0.5)), truth(A)), most=5)[0, 0] == 0
    other = Detections(*(torch.cat(pair) for pair in list(zip(found(*MISSES), found((A, 0.5), label=1)))[:3]))
    assert score((other, truth(A, labels=1)), classes=2)[1, 0] == ONE


def test_boxes_outside_of_an_area_count_nowhere() -> None:
    """Trap: pycocotools forgets a box's flag `ignore`. Ends belong to a range; a lone detection outside is no miss."""
    small, tall = [0, 0, 32, 32], [50, 0, 82, 33]
    image = (found((small, 0.5), (F, 0.9), (tall, 0.8)), truth(small, tall))
    assert score(image, area_range=(0, 32**2))[0, 0] == ONE
    assert score(image, area_range=(32**2 + 1, 96**2))[0, 0] == ONE
    assert score(image)[0, 0] == pytest.approx(2 / 3)


def test_a_real_box_is_taken_before_an_ignored_one_that_fits_better() -> None:
    overlaps, ignored = torch.tensor([[0.6, 0.9], [0.7, 0.8]]), torch.tensor([False, True])
    taken = assigned(overlaps, ignored, torch.zeros(2, dtype=torch.bool), torch.tensor([0.5, 0.65]))
    assert taken.tolist() == [[0, 1], [1, 0]]


def one_after_the_other(overlaps: Tensor, ignored: Tensor, crowd: Tensor, limit: float) -> list[int]:
    """The rule as it is written: each detection looks at all boxes."""
    free, taken = [True] * len(ignored), []
    for row in overlaps.tolist():
        best = max(((not ignored[j], row[j], j) for j in range(len(row)) if free[j] and row[j] >= limit), default=None)
        taken.append(-1 if best is None else best[2])
        if best is not None and not crowd[best[2]]:
            free[best[2]] = False
    return taken


def test_choosing_all_at_once_is_choosing_one_after_the_other() -> None:
    generator, limits = torch.Generator().manual_seed(0), torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64)
    for _ in range(60):
        size = torch.randint(1, 12, (2,), generator=generator).tolist()
        overlaps = torch.randint(11, size, generator=generator) / 10.0
        crowd, other = torch.rand(2, size[1], generator=generator) < 0.2
        got = assigned(overlaps.double(), crowd | other, crowd, limits)
        for t, limit in enumerate(limits.tolist()):
            assert got[:, t].tolist() == one_after_the_other(overlaps.double(), crowd | other, crowd, limit)


def test_masks_are_compared_as_masks() -> None:
    mask = torch.zeros(1, 100, 100, dtype=torch.bool)
    mask[:, :, :50] = True
    true = truth([0, 0, 100, 100])._replace(masks=torch.nn.functional.pad(mask, (0, 8, 0, 8)))
    half = mask.clone()
    half[:, 80:] = False  # IoU 0.8
    one = found(([0, 0, 100, 100], 0.9))._replace(masks=half)
    assert score((one, true)).mean() == ONE
    assert score((one, true), masks=True)[0].tolist() == [ONE] * 7 + [0] * 3


def test_mistakes_are_detections_without_a_box_and_boxes_without_a_detection() -> None:
    wrong, missed = mistakes(found((A, 0.9), (C, 0.8), (A, 0.7), (F, 0.6)), truth(A, B, C, crowd=(2,)))
    assert wrong.tolist() == [False, False, True, True] and missed.tolist() == [False, True, False]


# ---- a quantity of a run -------------------------------------------------------------------------------------------


def outputs(images: list[tuple[Detections, Truth]], classes: int) -> dict[str, Tensor]:
    """What a task gives of a batch."""
    rows, truths = [torch.zeros(0, 3 + 2 * metrics.NUM_THRESHOLDS, dtype=torch.float64)], torch.zeros(classes)
    for i, (one, true) in enumerate(images):
        own, counts = matches(one, true, classes)
        rows.append(torch.cat([own.new_full((len(own), 1), i), own], dim=1))
        truths = truths + counts
    return {"matches": torch.cat(rows), "truths": truths}


def measured(metric: APError, batches: list[list[tuple[Detections, Truth]]], classes: int) -> float:
    for images in batches:
        metric.update(outputs(images, classes))
    return metric.compute()


def images(count: int, seed: int = 0, classes: int = 2) -> list[tuple[Detections, Truth]]:
    """Images with boxes near the true ones, with ties of scores and overlaps, crowds, and some without boxes."""
    generator = torch.Generator().manual_seed(seed)

    def whole(low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=generator)

    made = []
    for _ in range(count):
        true, more = int(whole(0, 5)), int(whole(0, 6))
        corner = whole(0, 60, true + more, 2)
        boxes = torch.cat([corner, corner + whole(4, 60, true + more, 2)], dim=1).double()
        moved = (boxes + whole(-2, 3, *boxes.shape)).round()
        moved[:, 2:] = torch.maximum(moved[:, 2:], moved[:, :2] + 1)
        chosen = torch.randperm(2 * len(boxes), generator=generator)[: int(whole(0, 2 * len(boxes) + 1))]
        detected = torch.cat([moved, boxes.roll(1, 0)])[chosen]
        kinds = whole(0, classes, len(boxes))
        labels, scores = torch.cat([kinds, kinds])[chosen], whole(1, 10, len(detected)).double() / 10
        order = scores.argsort(descending=True, stable=True)
        crowd = torch.rand(true, generator=generator) < 0.2
        own = Truth(boxes[:true], kinds[:true], crowd, area(boxes[:true]))
        made.append((Detections(detected[order], labels[order], scores[order]), own))
    return made


@pytest.mark.parametrize("options", [{}, {"thresholds": 10}, {"classes": [1]}])
def test_an_error_does_not_depend_on_batches(options: dict[str, Any]) -> None:
    data = images(9)
    values = {measured(APError(2, **options), [data[i : i + size] for i in range(0, 9, size)], 2) for size in (1, 2, 7, 9)}
    assert len(values) == 1 and 0 < values.pop() < 1


def test_an_error_does_not_depend_on_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks take every other image of a batch; their rows are put into the order of the set, which decides between ties."""
    data, shares = images(9, seed=3), []
    for own in range(2):
        monkeypatch.setattr(metrics, "data_rank", lambda own=own: own)
        metric = APError(2)
        for i in range(0, 9, 3):
            metric.update(outputs(data[i : i + 3][own::2], 2))
        shares.append(metric)
    expected = measured(APError(2), [data], 2)
    rows, truths = torch.cat([torch.cat(share._batches) for share in shares]), shares[0]._truths + shares[1]._truths
    monkeypatch.setattr(metrics, "all_gather", lambda _: rows)
    monkeypatch.setattr(metrics, "all_reduce_sum", lambda _: truths)
    assert shares[1].compute() == expected
    monkeypatch.setattr(metrics.np, "lexsort", lambda keys: range(len(keys[0])))
    assert shares[1].compute() != expected  # in the order of ranks it would be another number


def shares(own: int, world: int) -> list[float]:
    """The errors that a rank computes of nine images in batches of 4, the last of one; and of one image that has nothing."""
    data, nothing = images(9, seed=3), [(found(), truth(A))]
    parts = [data[i : i + 4][own::world] for i in range(0, 9, 4)]
    return [measured(APError(2, 10), parts, 2), measured(APError(1), [nothing[own::world]], 1)]


def run_rank(own: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=own, world_size=2)
    torch.save(shares(own, 2), f"{folder}/{own}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_compute_the_error_of_one_process(tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_rank, args=(str(tmp_path),), nprocs=2)
    assert [torch.load(tmp_path / f"{own}.pt", weights_only=True) for own in range(2)] == [shares(0, 1)] * 2
    assert shares(0, 1)[1] == 1


def test_nothing_is_left_of_the_evaluation_before() -> None:
    metric = APError(1)
    measured(metric, [[(found((A, 0.9)), truth(A, B))]], 1)
    metric.reset()
    assert measured(metric, [[(found((A, 0.9)), truth(A))]], 1) == ZERO


# ---- pycocotools ---------------------------------------------------------------------------------------------------

AREAS = {"all": (0, 1e10), "small": (0, 1024), "medium": (1024, 9216), "large": (9216, 1e10)}


def theirs(data: list[tuple[Detections, Truth]], classes: int, kind: str = "bbox", limits: list[int] | None = None) -> Tensor:
    """pycocotools' AP, (area ranges, K, T), NaN where it has -1. Scores, boxes and areas are the same numbers."""
    library = pytest.importorskip("pycocotools.coco", reason='not installed: pip install -e ".[parity]"')
    from pycocotools.cocoeval import COCOeval
    from pycocotools.mask import encode

    def shape(boxes: Tensor, masks: Tensor | None, i: int) -> dict[str, Any]:
        if masks is not None:  # with a box beside it, the area of a result is that of the box
            return {"segmentation": encode(masks[i].numpy().astype("uint8", order="F"))}
        x0, y0, x1, y1 = boxes[i].tolist()
        return {"bbox": [x0, y0, x1 - x0, y1 - y0]}

    annotations, results = [], []
    for image, (one, true) in enumerate(data):
        for i in range(len(true.labels)):
            known = {"image_id": image, "category_id": int(true.labels[i]), "iscrowd": int(true.crowd[i])}
            own = {"id": len(annotations) + 1, "area": float(true.areas[i])}
            annotations.append(known | own | shape(true.boxes, true.masks, i))
        for i in range(len(one.labels)):
            known = {"image_id": image, "category_id": int(one.labels[i]), "score": float(one.scores[i])}
            results.append(known | shape(one.boxes, one.masks, i))
    coco = library.COCO()
    size = {} if data[0][1].masks is None else dict(zip(("height", "width"), data[0][1].masks.shape[1:]))
    images = [{"id": i, **size} for i in range(len(data))]
    coco.dataset = {"images": images, "annotations": annotations, "categories": [{"id": i} for i in range(classes)], "info": {}}
    coco.createIndex()
    judge = COCOeval(coco, coco.loadRes(results), kind)
    judge.params.maxDets = limits or [100]
    judge.evaluate()
    judge.accumulate()
    precision = torch.from_numpy(judge.eval["precision"])[..., -1]  # (T, R, K, areas)
    return torch.where(precision < 0, torch.nan, precision).mean(1).permute(2, 1, 0)


@pytest.mark.parity
def test_average_precision_is_that_of_pycocotools() -> None:
    """200 sets with ties, crowds and images without boxes, in four ranges of area; half of them of ten detections a class."""
    seen = []
    for seed in range(200):
        data, limit = images(8, seed, classes=3), 100 if seed % 2 else 2
        grow = 4 if seed % 3 == 0 else 1  # to large ones
        data = [(one._replace(boxes=grow * one.boxes), resized(true, grow)) for one, true in data]
        expected = theirs(data, 3, limits=[limit])
        got = torch.stack([score(*data, classes=3, area_range=area, most=limit) for area in AREAS.values()])
        torch.testing.assert_close(got, expected, rtol=0, atol=1e-9, equal_nan=True, msg=lambda text: f"set {seed}: {text}")
        seen.append(expected)
        if seed % 2:
            error = measured(APError(3, thresholds=10), [data[:3], data[3:]], 3)
            assert error == pytest.approx(1 - float(expected[0].mean(1).nanmean()), abs=1e-9, nan_ok=True)
    assert torch.stack(seen).nanmean((0, 2, 3)).min() > 0.1  # in each range boxes are found


def resized(true: Truth, factor: int) -> Truth:
    return true._replace(boxes=factor * true.boxes, areas=true.areas * factor**2)


@pytest.mark.parity
def test_average_precision_of_masks_is_that_of_pycocotools() -> None:
    generator = torch.Generator().manual_seed(1)

    def drawn(boxes: Tensor) -> Tensor:
        places = torch.arange(130) + 0.5
        columns = (places > boxes[:, :1]) & (places < boxes[:, 2:3])
        rows = (places > boxes[:, 1:2]) & (places < boxes[:, 3:])
        return rows[:, :, None] & columns[:, None, :] & (torch.rand(len(boxes), 130, 130, generator=generator) < 0.97)

    for seed in range(20):
        data = []
        for one, true in images(6, seed):
            masks = drawn(true.boxes)
            data.append((one._replace(masks=drawn(one.boxes)), true._replace(masks=masks, areas=masks.flatten(1).sum(1))))
        got = torch.stack([score(*data, classes=2, masks=True, area_range=area) for area in AREAS.values()])
        torch.testing.assert_close(got, theirs(data, 2, "segm"), rtol=0, atol=1e-9, equal_nan=True)
