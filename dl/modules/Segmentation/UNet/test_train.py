"""U-Net's recipe as processes: on two ranks, and killed."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from dl.modules.Segmentation.testing import discs
from dl.mytorch import checkpoint
from dl.mytorch.files import read_json
from dl.mytorch.testing.processes import assert_kills_change_nothing, finish

pytestmark = pytest.mark.slow


def write_discs(folder: Path) -> Path:
    """Write eleven images of different sizes with masks in which some pixels do not count; return the folder."""
    for kind in ("images", "masks"):
        (folder / kind).mkdir(parents=True)
    for i in range(11):
        drawn = discs(1, size=40 + 2 * i, seed=i)
        image = (drawn["images"][0, 0] * 40 + 128).clamp(0, 255).byte()
        mask = drawn["masks"][0]
        mask[: 3 * i] = 255  # another number of rows in each image
        Image.fromarray(image.numpy()).save(folder / "images" / f"{i}.png")
        Image.fromarray(mask.numpy()).save(folder / "masks" / f"{i}.png")
    return folder


def start(out: Path, data: Path, *flags: str, ranks: int = 1) -> subprocess.Popen:
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    words = [
        sys.executable,
        *torchrun,
        "-m",
        "dl.modules.Segmentation.UNet.train",
        "--out",
        str(out),
        "--data",
        f"masks:{data}",
    ]
    words += ["--model", "tiny", "--device", "cpu", "--no-plots", *flags]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_two_ranks_equal_one_process(tmp_path: Path) -> None:
    """Ranks have three and two of five images, with different numbers of pixels that count; nothing is drawn, as each would."""
    data = write_discs(tmp_path / "data")
    flags = ["--batch-size", "5", "--accumulate", "2", "--steps", "4", "--eval-every", "2", "--momentum", "0.9", "--lr", "0.01"]
    flags += ["--window", "64", "--no-flips", "--zoom", "0", "--elastic", "0", "--jitter", "0"]
    finish(start(tmp_path / "one", data, *flags))
    finish(start(tmp_path / "two", data, *flags, "--parallel", "ddp", ranks=2))
    one, two = (checkpoint.load(tmp_path / name / "last.pt") for name in ("one", "two"))
    for name, weights in one["model"].items():
        torch.testing.assert_close(two["model"][name], weights, atol=1e-5, rtol=0, msg=name)
    for left, right in zip(*(read_json(tmp_path / name / "history.json") for name in ("one", "two")), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            assert right[split] == pytest.approx(left[split], abs=1e-3)  # a pixel on the edge of two classes may change sides


def test_kills_leave_the_bytes_of_the_undisturbed_run(tmp_path: Path) -> None:
    """kill -9 at ten random moments after a checkpoint, of which there is one at every step."""
    data = write_discs(tmp_path / "data")
    flags = ["--batch-size", "3", "--window", "24", "--steps", "400", "--save-every", "1", "--eval-every", "50"]
    wait = random.Random(0)
    assert_kills_change_nothing(lambda out: start(out, data, *flags), tmp_path, [wait.uniform(0, 0.1) for _ in range(10)])
