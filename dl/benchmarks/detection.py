"""Detectors beside torchvision's: a training step, the suppression of overlaps, and mAP beside pycocotools.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.detection --cpu-time
    OMP_NUM_THREADS=1 python -m dl.benchmarks.detection --cpu-time --tasks nms,map

A step is forward, losses, backward and SGD with momentum, on 8 images of 160 x 216 with 3 to 13 boxes each. The networks have
the same weights: a ResNet-18, a pyramid of 64 channels, and what our presets have. torchvision's get the batch as it is, as
ours do: without its resizing. Where its compiled operators are missing, it uses ours, see dl/mytorch/torchvision_compat.py.

nms is of boxes that overlap in clusters of ten, beside the loop as one would write it first. mAP is of 72 images with 14 boxes
and 100 detections each. The contenders of a task take turns, see `dl.benchmarks.common`; ratios are to the first of them.
"""

import argparse
import sys
from typing import Callable, Sequence

import torch
from torch import Tensor, nn

from dl.benchmarks import common
from dl.benchmarks import detection_peers as peers
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.CNN.ResNet.convert import renamed
from dl.modules.Detection.FasterRCNN.convert import renamed_head
from dl.modules.Detection.FasterRCNN.model import build as build_faster
from dl.modules.Detection.FCOS.convert import from_torchvision
from dl.modules.Detection.metrics import Truth, matches, precisions
from dl.mytorch.data import Batch
from dl.mytorch.layers.boxes import Detections, area, nms
from dl.mytorch.torchvision_compat import import_torchvision

TASKS = ("fcos", "fasterrcnn", "nms", "map")
HEIGHT, WIDTH, CLASSES = 160, 216, 3
FASTER = {"mask_channels": 0, "resnet": {"preset": "resnet18"}, "num_classes": CLASSES}  # beside those of the preset "small"


# ---- what is trained -----------------------------------------------------------------------------------------------


def batch(size: int, height: int = HEIGHT, width: int = WIDTH, seed: int = 0) -> Batch:
    """Return noise of full size with 3 to 13 boxes of 20 to 100 pixels in each image."""
    generator = torch.Generator().manual_seed(seed)
    images, limits = torch.randn(size, 3, height, width, generator=generator), torch.tensor([width, height])
    counts = torch.randint(3, 14, (size, 1), generator=generator)
    sides = 20 + 80 * torch.rand(size, 13, 2, generator=generator)
    corners = torch.rand(size, 13, 2, generator=generator) * (limits - sides).clamp(min=0)
    boxes = torch.cat([corners, torch.minimum(corners + sides, limits)], dim=-1)
    labels = torch.randint(CLASSES, (size, 13), generator=generator)
    labels = labels.where(torch.arange(13) < counts, -1)
    return {"images": images, "sizes": torch.tensor([[height, width]] * size), "boxes": boxes, "labels": labels}


def our_faster(state: dict[str, Tensor]) -> nn.Module:
    """Return our preset "small" on a ResNet-18 with the weights of torchvision's, `peers.faster`."""
    model, prefix = build_faster("small", **FASTER), "backbone.body."
    body = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    weights = {f"features.{name}": weight for name, weight in renamed(body, (2, 2, 2, 2)).items()}
    weights |= {renamed_head(name): weight for name, weight in state.items() if not name.startswith(prefix)}
    model.load_state_dict(weights)
    return model


def our_losses(model: nn.Module, data: Batch) -> Callable[[], dict[str, Tensor]]:
    return lambda: {name: loss for name, loss in model(*data.values()).items() if name != "count"}


def training(model: nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], Tensor]:
    """Return one step, which returns its loss."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-3, momentum=0.9)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = torch.stack(list(losses().values())).sum()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def steps(task: str, data: Batch) -> common.Contenders:
    """Return a step of torchvision's network and one of ours, which begin with the same weights."""
    import_torchvision()
    theirs = (peers.fcos if task == "fcos" else peers.faster)(CLASSES)
    ours = (from_torchvision if task == "fcos" else our_faster)(theirs.state_dict())
    first = 0 if task == "fcos" else 1  # where theirs has a background, it is class 0
    return {
        "torchvision": training(theirs, peers.losses(theirs, data, first)),
        "ours": training(ours, our_losses(ours, data)),
    }


# ---- boxes ---------------------------------------------------------------------------------------------------------


def clusters(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return boxes (count, 4) in clusters of ten, and their scores."""
    generator = torch.Generator().manual_seed(seed)
    corners = 600 * torch.rand(count // 10, 1, 2, generator=generator)
    boxes = torch.cat([corners, corners + 60], dim=-1) + 10 * torch.randn(count // 10, 10, 4, generator=generator)
    return boxes.flatten(0, 1), torch.rand(count // 10 * 10, generator=generator)


def suppressions() -> common.Contenders:
    """Return ours and the loop, of 200 and of 2,000 boxes."""
    few, many = clusters(200), clusters(2000)
    return {
        "200 boxes": lambda: nms(*few, 0.5),
        "2,000 boxes": lambda: nms(*many, 0.5),
        "200, loop": lambda: peers.loop(*few, 0.5),
        "2,000, loop": lambda: peers.loop(*many, 0.5),
    }


# ---- mAP -----------------------------------------------------------------------------------------------------------


def evaluation(images: int = 72, boxes: int = 14, detections: int = 100) -> list[tuple[Detections, Truth]]:
    """Return images of 640 x 480 with boxes, and detections near them."""
    generator, data = torch.Generator().manual_seed(0), []
    for _ in range(images):
        corners = torch.rand(boxes, 2, generator=generator) * torch.tensor([540, 380])
        true = torch.cat([corners, corners + 60 + 40 * torch.rand(boxes, 2, generator=generator)], dim=1).double()
        labels = torch.randint(CLASSES, (boxes,), generator=generator)
        near = torch.randint(boxes, (detections,), generator=generator)
        moved = true[near] + 8 * torch.randn(detections, 4, generator=generator)
        found = Detections(moved, labels[near], torch.rand(detections, generator=generator))
        data.append((found, Truth(true, labels, torch.zeros(boxes, dtype=torch.bool), area(true))))
    return data


def our_map(data: Sequence[tuple[Detections, Truth]]) -> float:
    rows, counts = zip(*(matches(found, truth, CLASSES) for found, truth in data))
    return float(precisions(torch.cat(rows), torch.stack(counts).sum(0), range(CLASSES)).mean())


def evaluations() -> common.Contenders:
    data = evaluation()
    return {"pycocotools": peers.mean_ap(data, CLASSES), "ours": lambda: our_map(data)}


# ---- the command ---------------------------------------------------------------------------------------------------


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Detectors beside torchvision's, mAP beside pycocotools.", cpu_time=True)
    names = ",".join(TASKS)
    parser.add_argument("--tasks", type=common.some_of(TASKS), default=TASKS, help=f"some of {names}, separated by commas")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each contender (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=8, help="images of a training step (default: %(default)s)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command)
    about |= {"clock": "cpu" if options.cpu_time else "wall", "rounds": options.rounds, "batch_size": options.batch_size}
    speeds: dict[str, common.Speeds] = {}
    for task in options.tasks:
        torch.manual_seed(0)
        if task in ("fcos", "fasterrcnn"):
            contenders, items, unit = steps(task, batch(options.batch_size)), options.batch_size, "images/s"
        else:
            contenders, items, unit = (suppressions() if task == "nms" else evaluations()), 1, "calls/s"
        speeds[task] = common.rates(common.seconds(contenders, options.rounds, options.clock), items)
        print(f"{task}\n{common.table(speeds[task], unit)}", flush=True)
        write(about | {"per_second": speeds}, options.out)
    print(f"{about['device']}; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
