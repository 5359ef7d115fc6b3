"""The contenders of `python -m dl.benchmarks.trainer`: each trains LeNet as a `Job` says and tells how long that took.

Packages of the extra [bench] are imported by the contender that needs them.
"""

import itertools
import json
import logging
import struct
import time
from pathlib import Path
from typing import Any, Callable, Iterable, Iterator, NamedTuple, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from dl.modules.CNN.LeNet import train
from dl.modules.CNN.LeNet.model import build
from dl.mytorch.data import Batch, Splits, image_splits
from dl.mytorch.torchvision_compat import import_torchvision

BATCH = 128
MEAN, STD = 0.2860, 0.3530  # of Fashion-MNIST, as in dl.mytorch.data.images.idx


class Job(NamedTuple):
    """One training: which data, how long (`steps` above 0 overrides `epochs`), and a folder to write to."""

    data: str
    epochs: int
    steps: int
    folder: Path


Timing = tuple[int, float]  # training examples, seconds


# ---- data ----------------------------------------------------------------------------------------------------------------


def splits(job: Job) -> Splits:
    """Return what the recipe trains on, without its flips, which the others do not make either."""
    return image_splits(train.Config(data=job.data, batch_size=BATCH, hflip=False))


class InMemory(Dataset):
    """Float images, normalised, from which DataLoader cuts whole batches by index."""

    def __init__(self, job: Job) -> None:
        data = splits(job).train.dataset
        self.images = data["images"].float().div_(255).sub_(MEAN).div_(STD)
        self.labels = data["labels"]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        chosen = torch.as_tensor(indices)
        return {"images": self.images[chosen], "labels": self.labels[chosen]}


def whole(batch: Batch) -> Batch:
    """Return the collate function of data that come in batches."""
    return batch


def write_idx(job: Job) -> None:
    """The images as torchvision wants to find them: uncompressed idx files in FashionMNIST/raw."""
    raw = job.folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for prefix, loader in zip(("train", "t10k"), (splits(job).train, splits(job).test)):
        for kind, array in (("images", loader.dataset["images"].squeeze(1)), ("labels", loader.dataset["labels"].byte())):
            header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
            (raw / f"{prefix}-{kind}-idx{array.ndim}-ubyte").write_bytes(header + array.numpy().tobytes())


# ---- contenders ----------------------------------------------------------------------------------------------------------


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)


def by_hand(batches: Iterable[tuple[Tensor, Tensor]], job: Job) -> Timing:
    """Train by the shortest loop there is."""
    model = build("modern")
    optimizer = sgd(model)
    examples = 0
    start = time.perf_counter()
    for images, labels in itertools.islice(batches, job.steps or None):
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        examples += len(labels)
    return examples, time.perf_counter() - start


def ours(job: Job, channels_last: bool = False) -> Timing:
    out = job.folder / "run"
    length = {"epochs": job.epochs, "steps": job.steps}
    config = train.Config(str(out), job.data, batch_size=BATCH, channels_last=channels_last, fresh=True, **length)
    train.main(config, splits(job))
    speed = json.loads((out / "speed.json").read_text(encoding="utf-8"))
    return speed["examples"], speed["training_seconds"]


def floor(job: Job) -> Timing:
    data = InMemory(job)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for _ in range(job.epochs):
            for chosen in torch.randperm(len(data)).split(BATCH):
                yield data.images[chosen], data.labels[chosen]

    return by_hand(batches(), job)


def torchvision(job: Job, num_workers: int = 0) -> Timing:
    import_torchvision()
    from torchvision import datasets, transforms

    write_idx(job)
    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    data = datasets.FashionMNIST(str(job.folder), train=True, transform=transform)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=num_workers)
    return by_hand((batch for _ in range(job.epochs) for batch in loader), job)


def lightning(job: Job) -> Timing:
    import_torchvision()  # lightning imports it, and fails where it does not fit torch
    import lightning as L

    class Module(L.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = build("modern")

        def training_step(self, batch: Batch, _: int) -> Tensor:
            loss = F.cross_entropy(self.model(batch["images"]), batch["labels"])
            self.log("loss", loss, prog_bar=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return sgd(self)

    class Clock(L.Callback):
        def on_train_start(self, *_: Any) -> None:
            self.start = time.perf_counter()

        def on_train_end(self, *_: Any) -> None:
            self.seconds = time.perf_counter() - self.start

    logging.getLogger("lightning").setLevel(logging.ERROR)
    data, clock = InMemory(job), Clock()
    length = {"max_steps": job.steps} if job.steps else {"max_epochs": job.epochs}
    trainer = L.Trainer(accelerator="cpu", default_root_dir=job.folder, callbacks=[clock], limit_val_batches=0, **length)
    trainer.fit(Module(), DataLoader(data, BATCH, shuffle=True, collate_fn=whole))
    return job.steps * BATCH or job.epochs * len(data), clock.seconds


def transformers(job: Job) -> Timing:
    import_torchvision()  # as for lightning
    from transformers import Trainer, TrainingArguments

    class Module(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = build("modern")

        def forward(self, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
            logits = self.model(images)  # (B, K)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    data, model = InMemory(job), Module()
    arguments = TrainingArguments(
        str(job.folder),
        num_train_epochs=job.epochs,
        max_steps=job.steps or -1,
        per_device_train_batch_size=BATCH,
        use_cpu=True,
        dataloader_pin_memory=False,
        remove_unused_columns=False,
    )
    trainer = Trainer(model, arguments, data_collator=whole, train_dataset=data, optimizers=(sgd(model), None))
    seconds = trainer.train().metrics["train_runtime"]
    return job.steps * BATCH or job.epochs * len(data), seconds


CONTENDERS: dict[str, tuple[Callable[[Job], Timing], tuple[str, ...]]] = {  # name -> training, the packages it needs
    "ours": (ours, ()),
    "ours-recipe": (lambda job: ours(job, channels_last=True), ()),
    "floor": (floor, ()),
    "torchvision": (torchvision, ("torchvision",)),
    "torchvision-2": (lambda job: torchvision(job, num_workers=2), ("torchvision",)),
    "lightning": (lightning, ("lightning",)),
    "transformers": (transformers, ("transformers", "accelerate")),
}
