"""Six transformers on 2 and 4 ranks that share every forward pass, or have copies of their shards: as one process. Slow tier.

In float64 and without dropout, so that nothing differs but the order of sums. Twenty steps, each from two batches, clipped,
with a moving average; the last batch of an epoch has 3 examples, so that one of four ranks has none. Every run writes shards.
"""

import hashlib
import signal
import sys
from pathlib import Path
from typing import Any, Callable, NamedTuple

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dl.modules.Diffusion.DDPM.process import DiffusionSchedule
from dl.modules.Diffusion.DiT.model import build as dit
from dl.modules.GPT.GPT2.model import build as gpt2
from dl.modules.GPT.Llama.model import build as llama
from dl.modules.GPT.Qwen3.model import build as qwen3
from dl.modules.Transformers.BERT.model import build as bert
from dl.modules.Transformers.BERT.task import PreTraining
from dl.modules.Transformers.ViT.model import build as vit
from dl.mytorch import Task, TrainConfig, Trainer, checkpoint, distributed
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.data.sequences import IGNORED
from dl.mytorch.dtensor import local, offset
from dl.mytorch.files import read_json
from dl.mytorch.optim import adamw
from dl.mytorch.tasks import Classification, StepOutput
from dl.mytorch.text.tasks import LanguageModeling

pytestmark = pytest.mark.slow

EXAMPLES, BATCH, STEPS, LENGTH = 27, 8, 20, 16
TURN = 5  # steps of a chain's link
TENSOR, SEQUENCE = {"parallel": "tp"}, {"parallel": "tp", "sequence": True}
COPIES, BOTH = {"parallel": "hsdp", "shard_size": 2}, {"parallel": "fsdp", "tensor_size": 2}
WAYS: dict[int, dict[str, dict[str, Any]]] = {
    2: {"tp": TENSOR, "sequence": SEQUENCE},
    4: {"tp": TENSOR, "hsdp": COPIES, "fsdp-tp": BOTH, "fsdp-sequence": BOTH | {"sequence": True}},
}
CHAINS: dict[
    int, list[dict[str, Any]]
] = {  # a run that each way takes up five steps after the one before; at last, one process
    2: [TENSOR, {"parallel": "fsdp"}, SEQUENCE],
    4: [COPIES, BOTH, TENSOR],
}


class Denoise(Task):
    """DDPM's loss with noise and times from the batch."""

    def step(self, model: nn.Module, batch: Batch) -> StepOutput:
        noisy = DiffusionSchedule(steps=20).q_sample(batch["images"], batch["noise"], batch["times"])
        squares = (model(noisy, batch["times"], batch["labels"]) - batch["noise"]).square()
        return StepOutput(squares.sum() / max(1, squares.numel()), len(noisy), {})  # a rank may have no example


def numbers(*shape: int, below: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape))
    if below:
        return torch.randint(below, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def text(count: int) -> Batch:
    targets = numbers(count, LENGTH, below=11).masked_fill(numbers(count, LENGTH, below=4) == 0, IGNORED)
    return {"tokens": numbers(count, LENGTH, below=11), "targets": targets}


def sentences(count: int) -> Batch:
    """The end of each is padding, and 0 to 3 tokens are masked, so that ranks have different numbers of them."""
    tokens = (numbers(count, LENGTH, below=49) + 1).masked_fill(torch.arange(LENGTH) > 12, 0)
    targets = numbers(count, 3, below=50).masked_fill(numbers(count, 3, below=3) == 0, IGNORED)
    rest = {"segments": numbers(count, LENGTH, below=2), "positions": numbers(count, 3, below=9), "targets": targets}
    return {"tokens": tokens, **rest, "labels": numbers(count, below=2)}


def images(count: int) -> Batch:
    drawn = {"images": numbers(count, 1, 8, 8), "labels": numbers(count, below=10)}
    return drawn | {"noise": numbers(count, 1, 8, 8).flip(0), "times": numbers(count, below=20)}


class Case(NamedTuple):
    model: Callable[[], nn.Module]
    task: Callable[[], Task]
    data: Callable[[int], Batch]


SIZES: dict[str, Any] = {"dim": 16, "depth": 2, "num_heads": 4}
PATCHES = {**SIZES, "image_size": 8, "patch_size": 2, "in_channels": 1, "num_classes": 10}
GROUPED = {**SIZES, "num_heads": 8, "num_kv_heads": 4, "hidden_dim": 24}
CASES = {
    "GPT2": Case(lambda: gpt2("tiny", **SIZES), LanguageModeling, text),
    "Llama": Case(lambda: llama("tiny", **GROUPED), LanguageModeling, text),
    "Qwen3": Case(lambda: qwen3("tiny", **GROUPED), LanguageModeling, text),
    "BERT": Case(lambda: bert("tiny", **SIZES, dropout=0.0), PreTraining, sentences),
    "ViT": Case(lambda: vit("tiny", **PATCHES), Classification, images),
    "DiT": Case(lambda: dit("tiny", **PATCHES), Denoise, images),
}
SEQUENCES = ("GPT2", "Llama", "Qwen3", "BERT")  # ViT has 17 positions; what modulates DiT's would see a part of them
RUNS = [(n, way, name) for n in WAYS for way in WAYS[n] for name in CASES if name in SEQUENCES or "sequence" not in way]


def model_of(name: str) -> nn.Module:
    """With no zeros, which would hide what they are multiplied with."""
    torch.manual_seed(0)
    model = CASES[name].model().double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def train(name: str, out: Path, stop: int = 0, **flags: Any) -> Trainer:
    """The run `out`, as far as step `stop`, if that is given."""
    case = CASES[name]
    data = case.data(EXAMPLES)
    held_out = {key: tensor[:13] for key, tensor in data.items()}
    flags = {"steps": STEPS, "batch_size": BATCH, "accumulate": 2, "grad_clip": 0.5, "ema": 0.9, "eval_every": 10} | flags
    config = TrainConfig(str(out), "", device="cpu", plots=False, save_every=100, **flags)

    def schedule(step: int, total: int) -> float:
        if stop and step == stop - 1:
            trainer.step.signals.append(signal.SIGTERM)
        return 1.0

    trainer = Trainer(model_of(name), case.task(), adamw(1e-2, fused=name == "GPT2"), schedule, config)
    try:
        trainer.fit(Splits(Loader(data, BATCH), Loader(held_out, 5), Loader(held_out, 4)))
    except SystemExit:
        assert stop and trainer.steps_done >= stop
    return trainer


def assert_equal_copies(trainer: Trainer) -> None:
    """What several ranks hold of a weight, of its average and of its moments has the same bits on each of them."""
    step = trainer.step
    named = {f"{i}{name}": tensor for i, m in enumerate((step.model, step.ema)) for name, tensor in m.named_parameters()}
    named |= {f"{i}{j}": t for i, of in enumerate(step.optimizer.state.values()) for j, t in of.items()}
    found = {(name, offset(t)): hashlib.sha256(local(t).detach().numpy().tobytes()).hexdigest() for name, t in named.items()}
    for other in distributed.gather_objects(found):
        assert {place for place in found.keys() & other.keys() if found[place] != other[place]} == set()


class Collectives(TorchDispatchMode):
    """The names of the collectives that are made inside, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        namespace, _, name = func.name().partition("::")
        if "c10d" in namespace and "wait" not in name and "wrap" not in name:
            self.names.append(name.partition(".")[0])
        return func(*args, **(kwargs or {}))


def count_sums(name: str, folder: Path) -> int:
    """Return the all-reduces of the forward and backward pass of one batch in tensor parallelism."""
    step = Trainer(model_of(name), CASES[name].task(), adamw(1e-2), lambda step, total: 1.0, config(folder, **TENSOR)).step
    with Collectives() as made:
        step.task.step(step.network, CASES[name].data(2)).loss.backward()
    assert set(made.names) == {"all_reduce"}
    return len(made.names)


def config(folder: Path, **flags: Any) -> TrainConfig:
    return TrainConfig(str(folder / "unused"), "", device="cpu", plots=False, **flags)


def run_rank(rank: int, folder: Path, ranks: int, runs: list[tuple[int, str, str]]) -> None:
    torch.set_num_threads(1)
    checkpoint.LARGE = 0  # all write shards
    sys.stdout = open("/dev/null", "w", encoding="utf-8")
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting-{ranks}", rank=rank, world_size=ranks)
    for n, way, name in runs:
        if n == ranks:
            trainer = train(name, folder / f"{name}-{way}-{ranks}", **WAYS[ranks][way])
            assert_equal_copies(trainer)
    for i, flags in enumerate(CHAINS[ranks]):
        train("GPT2", folder / f"chain-{ranks}", stop=TURN * (i + 1), **flags)
    if ranks == 2:
        assert count_sums("GPT2", folder) == 4 * SIZES["depth"]
        assert count_sums("Llama", folder) == 4 * SIZES["depth"]
    dist.barrier()
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs of several ranks."""
    place = tmp_path_factory.mktemp("ranks")
    for ranks in WAYS:
        torch.multiprocessing.spawn(run_rank, args=(place, ranks, RUNS), nprocs=ranks)
    return place


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the run of one process for the name of a case."""
    place = tmp_path_factory.mktemp("alone")

    def run(name: str) -> Path:
        if not (place / name).exists():
            train(name, place / name)
        return place / name

    return run


@pytest.mark.parametrize(("ranks", "way", "name"), RUNS)
def test_weights_and_metrics_are_those_of_one_process(
    folder: Path, alone: Callable[[str], Path], ranks: int, way: str, name: str
) -> None:
    run = folder / f"{name}-{way}-{ranks}"
    assert (run / f"shards-{STEPS}").is_dir()
    assert_same_state(alone(name), run)
    for left, right in zip(*(read_json(out / "history.json") for out in (alone(name), run)), strict=True):
        for split in left.keys() & {"train", "val", "test"}:
            assert right[split] == pytest.approx(left[split], abs=1e-9), split


@pytest.mark.parametrize("ranks", CHAINS)
def test_a_run_is_taken_up_by_any_other_way_and_alone(folder: Path, alone: Callable[[str], Path], ranks: int) -> None:
    run = folder / f"chain-{ranks}"
    train("GPT2", run)
    assert_same_state(alone("GPT2"), run)


def assert_same_state(alone: Path, run: Path) -> None:
    """Weights and their average at the end of the runs, which may be in shards."""
    expected, found = (checkpoint.load(out / "last.pt") for out in (alone, run))
    found = checkpoint.load(run / found["shards"]) if "shards" in found else found
    for part in ("model", "ema"):
        assert found[part].keys() == expected[part].keys()
        for name, weights in expected[part].items():
            assert (weights.double() - found[part][name].double()).abs().max() <= 1e-9, (run.name, part, name)
