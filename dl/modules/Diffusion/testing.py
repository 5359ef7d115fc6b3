"""What the tests of diffusion models share."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from dl.modules.Diffusion.DDPM import train
from dl.modules.Diffusion.FlowMatching import train as flow
from dl.mytorch import checkpoint
from dl.mytorch.data import Batch, synthetic
from dl.mytorch.data.images.tar import write_shards
from dl.mytorch.files import write_json

CONFIG = train.Config(out="unused", data="fashion_mnist-sample", model="tiny", times=50, prediction="v", precision="fp32")


def one_image() -> Batch:
    """Return one image (1, 8, 8) with its label, eight times."""
    return {name: tensor[:1].expand(8, *tensor.shape[1:]) for name, tensor in synthetic.images(1, size=8).items()}


def assert_labels_and_times_count(model: nn.Module, images: Tensor, times: Tensor) -> None:
    """Check, for three images and five classes, that each label and time has another prediction; no label is the sixth row."""
    labelled = [model(images, times, torch.full((3,), label)) for label in (1, 2, 5)]
    assert not torch.allclose(labelled[0], labelled[1])
    assert torch.equal(model(images, times), labelled[2])
    assert not torch.allclose(model(images, times), model(images, times.flip(0)))
    assert torch.equal(model(images), model(images, torch.zeros(3)))


def make_run(folder: Path, config: train.Config = CONFIG, recipe: str = "Diffusion/DDPM") -> Path:
    """Return what a training leaves that sampling reads, with the weights of the start."""
    folder.mkdir()
    described = {"recipe": recipe, "config": dataclasses.asdict(config), "command": "", "commit": ""}
    write_json(described, folder / "config.json")
    torch.manual_seed(0)
    build_model = flow.build_model if recipe.endswith("FlowMatching") else train.build_model
    checkpoint.save(build_model(config).state_dict(), folder / "best.pt")
    return folder


def make_images(kind: str, folder: Path) -> dict[str, Any]:
    """24 grey images of two classes in a folder, or in shards of tar: the flags that name them."""
    for i in range(24):
        path = folder / ("train" if i < 14 else "test") / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (10 * i,) * 3).save(path)
    if kind == "tar":
        write_shards(folder, folder / "shards")
    return {"data": f"{kind}:{folder / 'shards' if kind == 'tar' else folder}", "image_size": 8}
