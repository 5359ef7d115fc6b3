"""Six models on 2 and on 4 ranks, DDP and FSDP: the weights and metrics of one process. Slow tier.

In float64 and without dropout, so that nothing differs but the order of sums. Ten steps, each from two batches.
"""

import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn

from dl.modules.CNN.LeNet.model import build as lenet
from dl.modules.CNN.ResNet.model import build as resnet
from dl.modules.Diffusion.DDPM.model import build as unet
from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.GPT.GPT2.model import build as gpt2
from dl.modules.Multimodal.CLIP.model import build as clip
from dl.modules.Multimodal.CLIP.task import Contrastive
from dl.modules.Multimodal.CLIP.tokens import END
from dl.modules.Transformers.BERT.model import build as bert
from dl.modules.Transformers.BERT.task import PreTraining
from dl.mytorch import Task, TrainConfig, Trainer, checkpoint, plot, testing
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.files import read_json
from dl.mytorch.optim import constant, sgd
from dl.mytorch.tasks import Classification, StepOutput
from dl.mytorch.text.tasks import LanguageModeling

pytestmark = pytest.mark.slow

EXAMPLES, BATCH, STEPS = 117, 12, 10  # the last batch of an epoch has 9: ranks get different numbers of examples


class Denoise(Task):
    """DDPM's loss with noise and times from the batch, as chance differs from rank to rank."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        process = DiffusionSchedule(steps=20)
        noisy = process.q_sample(batch["images"], batch["noise"], batch["times"])
        loss = (model(noisy, batch["times"], batch["labels"]) - batch["noise"]).square().mean()
        return StepOutput(loss, len(noisy), {})


def numbers(*shape: int, below: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if below:
        return torch.randint(below, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def images(count: int, channels: int, size: int) -> Batch:
    return {"images": numbers(count, channels, size, size), "labels": numbers(count, below=10)}


def sentences(count: int) -> Batch:
    """Pairs with 0 to 3 masked tokens, so that ranks have different numbers of them."""
    targets = numbers(count, 3, below=50).masked_fill(numbers(count, 3, below=3) == 0, IGNORED)
    rest = {"segments": numbers(count, 9, below=2), "positions": numbers(count, 3, below=9), "targets": targets}
    return {"tokens": numbers(count, 9, below=49) + 1, **rest, "labels": numbers(count, below=2)}


def text(count: int) -> Batch:
    targets = numbers(count, 8, below=11).masked_fill(numbers(count, 8, below=4) == 0, IGNORED)
    return {"tokens": numbers(count, 8, below=11), "targets": targets}


def noise(count: int) -> Batch:
    return {**images(count, 1, 8), "noise": numbers(count, 1, 8, 8) + 0, "times": numbers(count, below=20)}


def pairs(count: int) -> Batch:
    tokens = numbers(count, 5, below=256)
    tokens[:, 4] = END
    texts = dict.fromkeys(("tokens", "tokens_en", "tokens_zh"), tokens)
    return {"images": numbers(count, 3, 16, 16), **texts, "groups": torch.arange(count)}


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    task: Callable[[], Task]
    data: Callable[[int], Batch]


CASES = {
    "LeNet": Case(lambda: lenet("modern"), Classification, lambda count: images(count, 1, 28)),
    "ResNet": Case(lambda: resnet("tiny"), Classification, lambda count: images(count, 3, 8)),
    "BERT": Case(lambda: bert("tiny", dropout=0.0), PreTraining, sentences),
    "GPT2": Case(lambda: gpt2("tiny"), LanguageModeling, text),
    "CLIP": Case(lambda: clip("tiny"), Contrastive, pairs),
    "DDPM": Case(lambda: unet("tiny", dropout=0.0, num_classes=10), Denoise, noise),
}


def train(name: str, out: Path, parallel: str, shards: int = 1, **changes: Any) -> None:
    """The run `out`; with `shards`, one process takes each batch in as many parts as ranks would, and as they would."""
    case = CASES[name]
    examples = EXAMPLES - EXAMPLES % BATCH if name == "ResNet" else EXAMPLES  # else its last parts would be of two sizes
    data = case.data(examples)
    order = torch.cat([part[i::shards] for part in torch.arange(examples).split(BATCH) for i in range(shards)])
    train_set = {key: tensor[order] for key, tensor in data.items()}
    held_out = {key: tensor[:31] for key, tensor in data.items()}
    torch.manual_seed(0)
    model = case.model().double()
    flags = {"steps": STEPS, "batch_size": BATCH // shards, "accumulate": 2 * shards, "parallel": parallel, "device": "cpu"}
    trainer = Trainer(model, case.task(), sgd(0.05, momentum=0.9), constant(), TrainConfig(str(out), "", **flags | changes))
    trainer.task.report = trainer.task.preview = lambda model: {}
    trainer.fit(Splits(Loader(train_set, BATCH // shards), Loader(held_out, 7), Loader(held_out, 5)))


def run_rank(rank: int, folder: Path, ranks: int) -> None:
    torch.set_num_threads(1)
    plot.curves, plot.save_figure = lambda history: None, lambda figure, path: None
    sys.stdout = sys.stderr = open("/dev/null", "w", encoding="utf-8")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
    for name in CASES:
        for parallel in ("ddp", "fsdp"):
            train(name, folder / f"{name}-{parallel}-{ranks}", parallel)
    if ranks == 2 and testing.has_compiler():
        train("GPT2", folder / "compiled", "fsdp", compile=True, checkpoint_activations=True)
        from torch._dynamo.utils import counters  # not above: slow to import, and the default tests collect this file too

        assert counters["frames"]["ok"], "nothing was compiled"
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of several ranks."""
    place = tmp_path_factory.mktemp("ranks")
    for ranks in (2, 4):
        torch.multiprocessing.spawn(run_rank, args=(place, ranks), nprocs=ranks)
    return place


@pytest.mark.parametrize("ranks", [2, 4])
@pytest.mark.parametrize("name", [name for name in CASES if name != "ResNet"])
def test_ranks_equal_one_process_in_weights_and_metrics(folder: Path, no_figures: None, name: str, ranks: int) -> None:
    alone = folder / name
    if not alone.exists():
        train(name, alone, "none")
    for parallel in ("ddp", "fsdp"):
        run = folder / f"{name}-{parallel}-{ranks}"
        assert_same_weights(alone, run)
        for left, right in zip(*(read_json(out / "history.json") for out in (alone, run)), strict=True):
            for split in left.keys() & {"train", "val", "test"}:
                assert right[split] == pytest.approx(left[split], abs=1e-6), (parallel, split)


@pytest.mark.parametrize("ranks", [2, 4])
def test_batch_norms_see_the_part_of_their_rank(folder: Path, no_figures: None, ranks: int) -> None:
    """As one process that takes the parts one by one. Running statistics are those of rank 0, so metrics differ."""
    alone = folder / f"ResNet-{ranks}"
    train("ResNet", alone, "none", shards=ranks)
    for parallel in ("ddp", "fsdp"):
        statistics = ("running_mean", "running_var", "num_batches_tracked")
        assert_same_weights(alone, folder / f"ResNet-{parallel}-{ranks}", without=statistics)


def test_sharded_blocks_that_are_compiled_and_recomputed_end_at_the_same_weights(folder: Path) -> None:
    if not testing.has_compiler():
        pytest.skip("torch.compile on a CPU takes a C++ compiler")
    assert_same_weights(folder / "GPT2-fsdp-2", folder / "compiled")


def assert_same_weights(alone: Path, run: Path, without: tuple[str, ...] = ()) -> None:
    expected, found = (checkpoint.load(out / "last.pt")["model"] for out in (alone, run))
    for name, weights in expected.items():
        if name.rpartition(".")[2] not in without:
            assert (torch.as_tensor(weights) - found[name]).abs().max() <= 1e-6, (run.name, name)
