"""Training speed of SimCLR beside lightly's loop, and of the generative models in latents beside diffusers'.

    OMP_NUM_THREADS=1 python -m dl.benchmarks.self_supervised --cpu-time
    OMP_NUM_THREADS=1 python -m dl.benchmarks.self_supervised --cpu-time --tasks simclr,views

A step is forward, loss, backward and an update, in fp32 and in one memory format; both contenders of a task have the same
network with the same initial weights, the same optimizer and the same batch size.

- simclr       each with its data: random images of 32 x 32 in memory. lightly: its `SimCLRTransform` on images of PIL, its
               `NTXentLoss`, and the loop of its documentation, in which each view passes the network by itself. Ours: views as
               operations on a batch, and `Trainer.step`
- views        the same steps on the same two tensors: without the making of views
- autoencoder  diffusers' `AutoencoderKL` in a loop written by hand, and ours with its weights by `Trainer.step`
- ddpm         diffusers' U-Net with one head in a loop written by hand, and ours by `Trainer.step`, see dl.benchmarks.diffusion

How a round goes and how figures are made of it is said in `dl.benchmarks.common`; ratios are to the first contender of a task.
"""

import argparse
import copy
import sys
import tempfile
from typing import Any, Callable, Iterator, Sequence

import torch
from torch import Tensor, nn

from dl.benchmarks import common, diffusion
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.Diffusion.LatentDiffusion import train_autoencoder
from dl.modules.Diffusion.LatentDiffusion.convert import autoencoder_from_diffusers
from dl.modules.Diffusion.LatentDiffusion.task import Reconstruction
from dl.modules.SelfSupervised.SimCLR import train as simclr
from dl.modules.SelfSupervised.SimCLR.model import build
from dl.modules.SelfSupervised.SimCLR.task import Contrastive
from dl.modules.SelfSupervised.views import make_view, two_views
from dl.mytorch import Trainer
from dl.mytorch.data import Batch, Loader
from dl.mytorch.optim import adamw, constant, sgd
from dl.mytorch.torchvision_compat import import_torchvision

TASKS = ("simclr", "views", "autoencoder", "ddpm")
SIDE, BATCHES = 32, 4  # pixels; batches of an epoch


# ---- SimCLR --------------------------------------------------------------------------------------------------------


def config(folder: str) -> simclr.Config:
    """Return the recipe's settings, in fp32."""
    return simclr.Config(out=folder, data="cifar10", device="cpu", precision="fp32")


def network(preset: str) -> nn.Module:
    """Return the network that both train."""
    torch.manual_seed(0)
    return build(preset, small=True).to(memory_format=torch.channels_last)


def lightly_s_step(preset: str, settings: simclr.Config, views: Iterator[Sequence[Tensor]]) -> Callable[[], float]:
    """Return one step of the loop in lightly's documentation."""
    import_torchvision()  # which lightly imports, too
    from lightly.loss import NTXentLoss

    model = network(preset).train()
    criterion = NTXentLoss(temperature=settings.temperature)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, momentum=0.9, weight_decay=settings.weight_decay)

    def step() -> float:
        first, second = (view.to(memory_format=torch.channels_last) for view in next(views))
        loss = criterion(model(first), model(second))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return step


def our_step(preset: str, settings: simclr.Config, batches: Iterator[Batch]) -> Callable[[], None]:
    """Return one step of our loop."""
    model = network(preset)
    bank = Loader({"images": torch.zeros(1, 3, SIDE, SIDE), "labels": torch.zeros(1, dtype=torch.long)}, 1)
    optimizer = sgd(settings.lr, momentum=0.9, weight_decay=settings.weight_decay)
    trainer = Trainer(model, Contrastive(settings.temperature, bank, model.dim), optimizer, constant(), settings)
    model.train()

    def step() -> None:
        batch = next(batches)
        trainer.step([{name: x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for name, x in batch.items()}])

    return step


def lightly_s_views(images: Tensor, settings: simclr.Config) -> Iterator[Sequence[Tensor]]:
    """Yield two views of each image of a batch, as a loader with lightly's transform makes them of images of PIL."""
    from PIL import Image

    import_torchvision()
    from lightly.transforms import SimCLRTransform

    strengths = {"cj_strength": settings.color, "min_scale": settings.min_scale, "random_gray_scale": settings.grey}
    transform = SimCLRTransform(input_size=SIDE, gaussian_blur=settings.blur, **strengths)

    class Views(torch.utils.data.Dataset):
        pictures = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]

        def __len__(self) -> int:
            return len(self.pictures)

        def __getitem__(self, i: int) -> Sequence[Tensor]:
            return transform(self.pictures[i])

    loader = torch.utils.data.DataLoader(Views(), len(images) // BATCHES, shuffle=True, drop_last=True)
    while True:
        yield from loader


def our_views(images: Tensor, settings: simclr.Config) -> Iterator[Batch]:
    """Yield batches with two views of each image."""
    data = {"images": images, "labels": torch.zeros(len(images), dtype=torch.long)}
    loader = Loader(data, len(images) // BATCHES, shuffle=True, transform=two_views(make_view(settings)))
    epoch = 0
    while True:
        yield from loader.batches(epoch)
        epoch += 1


def repeated(value: Any) -> Iterator[Any]:
    while True:
        yield value


def contrastive(task: str, preset: str, size: int, folder: str) -> common.Contenders:
    """Return a step of lightly's loop and one of ours, on `size` images, each with its views or both with the same."""
    settings = config(folder)
    if task == "simclr":
        images = torch.randint(256, (BATCHES * size, 3, SIDE, SIDE), dtype=torch.uint8)
        theirs, ours = lightly_s_views(images, settings), our_views(images, settings)
    else:
        views = torch.randn(2, size, 3, SIDE, SIDE)
        batch = {"first": views[0], "second": views[1], "labels": torch.zeros(size, dtype=torch.long)}
        theirs, ours = repeated(list(views)), repeated(batch)
    return {"lightly": lightly_s_step(preset, settings, theirs), "ours": our_step(preset, settings, ours)}


# ---- diffusers -----------------------------------------------------------------------------------------------------


def autoencoders(widths: Sequence[int], size: int, folder: str) -> common.Contenders:
    """Return a step of diffusers' autoencoder in a loop written by hand, and one of ours with its weights."""
    import_torchvision()
    from diffusers import AutoencoderKL

    blocks = {"down_block_types": ("DownEncoderBlock2D",) * len(widths), "up_block_types": ("UpDecoderBlock2D",) * len(widths)}
    torch.manual_seed(0)
    theirs = AutoencoderKL(block_out_channels=widths, layers_per_block=1, norm_num_groups=4, sample_size=SIDE, **blocks)
    ours, images = autoencoder_from_diffusers(copy.deepcopy(theirs)), torch.rand(size, 3, SIDE, SIDE) * 2 - 1
    theirs, images = theirs.to(memory_format=torch.channels_last), images.to(memory_format=torch.channels_last)
    options = {"out": folder, "data": "cifar10", "device": "cpu", "precision": "fp32", "grad_clip": 0.0}
    settings = train_autoencoder.Config(**options)
    make = adamw(settings.lr, weight_decay=settings.weight_decay)
    trainer = Trainer(ours, Reconstruction(settings.kl_weight), make, constant(), settings)
    optimizer = make(theirs.train())

    def by_hand() -> float:
        posterior = theirs.encode(images).latent_dist
        again = theirs.decode(posterior.sample()).sample
        loss = (again - images).abs().mean() + settings.kl_weight * posterior.kl().mean() / images[0].numel()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return {"diffusers": by_hand, "ours": lambda: trainer.step([{"images": images}])}


def unets(size: int, folder: str) -> common.Contenders:
    """Return a step of diffusers' U-Net in a loop written by hand, and one of ours."""
    images = torch.rand(size, *diffusion.SHAPE) * 2 - 1
    names = {"diffusers": "diffusers, one head", "ours": "Trainer"}
    return {shown: diffusion.training(name, diffusion.network(name), images, folder) for shown, name in names.items()}


# ---- the command ---------------------------------------------------------------------------------------------------


def contenders(task: str, options: argparse.Namespace, folder: str) -> common.Contenders:
    """Return the steps of a task by the names of who makes them."""
    if task in ("simclr", "views"):
        return contrastive(task, options.model, options.batch_size, folder)
    if task == "autoencoder":
        return autoencoders(options.widths, options.batch_size, folder)
    return unets(options.batch_size, folder)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    about = "Training speed of SimCLR beside lightly's, of generative models beside diffusers'."
    parser = common.parser(__spec__.name, about, cpu_time=True)
    names = ",".join(TASKS)
    parser.add_argument("--tasks", type=common.some_of(TASKS), default=TASKS, help=f"some of {names}, separated by commas")
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each contender (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=128, help="images of a step (default: %(default)s)")
    parser.add_argument("--model", default="small", help="preset of SimCLR (default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32], help="of the autoencoder (default: 16 32)")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    about = common.about_this_machine(options.command)
    about |= {name: getattr(options, name) for name in ("rounds", "batch_size", "model", "widths")}
    about |= {"clock": "cpu" if options.cpu_time else "wall"}
    speeds: dict[str, common.Speeds] = {}
    with tempfile.TemporaryDirectory() as folder:
        for task in options.tasks:
            steps = contenders(task, options, f"{folder}/{task}")
            speeds[task] = common.rates(common.seconds(steps, options.rounds, options.clock), options.batch_size)
            print(f"{task}\n{common.table(speeds[task], 'images/s')}", flush=True)
            write(about | {"images_per_second": speeds}, options.out)
    print(f"{about['device']}; written to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
