"""Training and sampling speed of DDPM's U-Net against that of diffusers, at the same sizes.

    python -m dl.benchmarks.diffusion                 5 rounds of training on batches of 64, DDIM with 50 steps
    python -m dl.benchmarks.diffusion --rounds 9 --samples 64
    OMP_NUM_THREADS=1 python -m dl.benchmarks.diffusion --cpu-time     on a busy machine

All networks have 1.7 million parameters: widths 32, 64, 64, two blocks for each, attention at the second and third
resolution of 32x32 images in colour. They train with AdamW to predict the noise in one batch in memory.

- diffusers            `UNet2DModel` in a loop written by hand, fp32, with its default width 8 of an attention head
- diffusers, one head  the same with one head, as in the paper
- by hand              our network with one head in the same loop, fp32: the equal of the second
- by hand, width 8     our network with heads of width 8, fp32: the equal of the first
- Trainer              our network with one head by `Trainer.step`, with clipping and moving average, fp32
- recipe               the same, its forward pass in bfloat16

Sampling is DDIM: ours by `ddim`, diffusers' by its `DDIMScheduler` as its pipeline does. How a round goes and how figures
are made of it is said in `dl.benchmarks.common`; ratios are to both of diffusers.
"""

import argparse
import sys
import tempfile
from typing import Any, Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dl.benchmarks import common
from dl.cli.command import command
from dl.cli.records import write
from dl.modules.Diffusion.DDPM.model import UNet
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DDPM.samplers import ddim
from dl.modules.Diffusion.DDPM.task import Denoising
from dl.modules.Diffusion.DDPM.train import Config
from dl.mytorch import Trainer
from dl.mytorch.optim import adamw, constant
from dl.mytorch.torchvision_compat import import_torchvision

NAMES = ["diffusers", "diffusers, one head", "by hand", "by hand, width 8", "Trainer", "recipe"]
SHAPE = (3, 32, 32)
OPTIMIZER = adamw(1e-3, weight_decay=0.0)
PROCESS = DiffusionSchedule("linear", "epsilon")


def peer(head_width: int | None) -> nn.Module:
    """diffusers' network."""
    import_torchvision()  # which diffusers imports, too
    from diffusers import UNet2DModel

    down, up = ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"], ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"]
    return UNet2DModel(
        sample_size=32,
        block_out_channels=(32, 64, 64),
        layers_per_block=2,
        attention_head_dim=head_width,
        down_block_types=down,
        up_block_types=up,
    )


def network(name: str) -> nn.Module:
    """Return the network of a contender."""
    if name.startswith("diffusers"):
        return peer(None if name.endswith("one head") else 8)
    return UNet(widths=(32, 64, 64), attention=(1, 2), head_dim=8 if name.endswith("width 8") else 0)


def training(name: str, model: nn.Module, images: Tensor, folder: str) -> Callable[[], None]:
    """One training step."""
    model.train()
    if name in ("Trainer", "recipe"):
        precision = "bf16" if name == "recipe" else "fp32"
        config = Config(out=folder, data="cifar10", device="cpu", precision=precision, channels_last=False)
        trainer = Trainer(model, Denoising(PROCESS, SHAPE), OPTIMIZER, constant(), config)
        batch = {"images": images, "labels": torch.zeros(len(images), dtype=torch.int64)}
        return lambda: trainer.step([batch])
    optimizer = OPTIMIZER(model)

    def step() -> None:
        times, noise = PROCESS.sample_timesteps(len(images)), torch.randn_like(images)
        output = model(PROCESS.q_sample(images, noise, times), times)
        F.mse_loss(output if isinstance(output, Tensor) else output.sample, noise).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def sampling(name: str, model: nn.Module, noise: Tensor, steps: int) -> Callable[[], Tensor]:
    """Draw images from noise by DDIM."""
    if not name.startswith("diffusers"):
        return lambda: ddim(model, PROCESS, noise, steps)
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(timestep_spacing="trailing")

    def draw() -> Tensor:
        scheduler.set_timesteps(steps)
        x = noise
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t).sample, t, x).prev_sample
        return x

    return draw


def in_inference(name: str, model: nn.Module, draw: Callable[[], Any]) -> Callable[[], None]:
    """`draw` as it is done with a trained network, in the precision of the contender."""

    def step() -> None:
        model.eval()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=name == "recipe"):
            draw()

    return step


def ratios(speeds: common.Speeds) -> str:
    """Return the table with ratios to diffusers' default and to diffusers with one head."""
    return common.table(speeds, "images/s", *(name for name in NAMES[:2] if name in speeds))


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = common.parser(__spec__.name, "Training and sampling speed of DDPM's U-Net, beside diffusers'.", cpu_time=True)
    parser.add_argument("--rounds", type=int, default=5, help="timed training steps of each contender")
    parser.add_argument("--batch-size", type=int, default=64, help="images of a training step")
    parser.add_argument("--sample-rounds", type=int, default=3, help="timed samplings of each contender")
    parser.add_argument("--samples", type=int, default=16, help="images drawn in each measurement of sampling")
    parser.add_argument("--steps", type=int, default=50, help="steps of DDIM")
    some, names = common.some_of(NAMES, always=NAMES[0], separator=";"), "; ".join(NAMES)
    parser.add_argument("--only", type=some, default=NAMES, help=f"some of {names} (bf16), separated by semicolons")
    return common.parse(parser, argv)


@command(parse)
def main(options: argparse.Namespace) -> None:
    torch.manual_seed(0)
    about = common.about_this_machine(options.command)
    networks = {name: network(name) for name in options.only}
    images, noise = torch.rand(options.batch_size, *SHAPE) * 2 - 1, torch.randn(options.samples, *SHAPE)
    with tempfile.TemporaryDirectory() as folder:
        steps = {name: training(name, model, images, folder) for name, model in networks.items()}
        trained = common.rates(common.seconds(steps, options.rounds, options.clock), options.batch_size)
    draws = {name: in_inference(name, m, sampling(name, m, noise, options.steps)) for name, m in networks.items()}
    seconds = common.seconds(draws, options.sample_rounds, options.clock)
    drawn = common.rates(seconds, options.samples)
    sizes = {name: getattr(options, name) for name in ("batch_size", "rounds", "samples", "steps", "sample_rounds")}
    sizes |= {"clock": "cpu" if options.cpu_time else "wall"}
    write(about | sizes | {"training_images_per_second": trained, "seconds_to_sample": seconds}, options.out)
    print(f"{about['device']}, training, batch {options.batch_size}\n{ratios(trained)}\n")
    print(f"{options.samples} images by DDIM, {options.steps} steps\n{ratios(drawn)}\nwritten to {options.out}")


if __name__ == "__main__":
    sys.exit(main())
