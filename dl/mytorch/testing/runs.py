"""What holds for runs: interrupted and resumed they leave the same bits, and with blocks on disk the same gradients."""

import copy
import dataclasses
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dl.mytorch import checkpoint, optim
from dl.mytorch.config import TrainConfig
from dl.mytorch.data import synthetic
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.files import CHECKSUMS, read_json, write_json
from dl.mytorch.tasks import Classification, Task
from dl.mytorch.testing.twins import assert_within
from dl.mytorch.trainer import Trainer


def forget(path: Path) -> None:
    """Delete the checksum of the file `path`, if there is one, as a person does whose change of the file is meant."""
    checksums = path.with_name(CHECKSUMS)
    known = read_json(checksums) if checksums.exists() else {}
    if known.pop(path.name, None) is not None:
        write_json(known, checksums)


def tiny_splits(channels: int = 1, size: int = 28) -> Splits:
    """Return 10 + 5 + 3 images in batches of 4: three steps."""
    return synthetic.image_splits(channels, size, batch_size=4, counts=(10, 5, 3))


def assert_resumes_exactly(main: Callable[[Any, Splits], Any], config: TrainConfig, make_data: Callable[[], Splits]) -> None:
    """A run of `main` that is stopped after a third of its steps and started again leaves the bits of an undisturbed one.

    `config.out` is an empty folder, in which two runs are made. The stop is a SIGTERM, while the loop runs.
    """
    whole, broken = (dataclasses.replace(config, out=str(Path(config.out) / name)) for name in ("whole", "broken"))
    main(whole, make_data())
    steps = max(record["step"] for record in read_json(Path(whole.out) / "history.json"))
    data = make_data()
    stop_after = max(1, steps // 3) * config.accumulate
    data.train.transform = _stopping(data.train.transform, stop_after)
    try:
        main(broken, data)
    except SystemExit as stopped:
        assert stopped.code == 128 + signal.SIGTERM, f"stopped with status {stopped.code}"
    else:
        raise AssertionError(f"the run took SIGTERM after {stop_after} batches and went on to its end")
    main(broken, make_data())
    assert_same_runs(whole.out, broken.out)


def _stopping(augment: Any, batches: int) -> Callable[[Batch, torch.Generator], Batch]:
    served = 0

    def apply(batch: Batch, generator: torch.Generator) -> Batch:
        nonlocal served
        served += 1
        if served == batches:
            signal.raise_signal(signal.SIGTERM)
        return batch if augment is None else augment(batch, generator)

    return apply


def assert_same_runs(first: Path | str, second: Path | str) -> None:
    """history.json and best.pt of two runs are the same bytes; the states in their last.pt hold the same bits."""
    first, second = Path(first), Path(second)
    for name in ("history.json", "best.pt"):
        same = (first / name).read_bytes() == (second / name).read_bytes()
        why = "does main call seed_everything, and does the task's state hold all that the next step depends on?"
        assert same, f"{name} differs between {first} and {second}: {why}"
    assert_same_state(checkpoint.load(first / "last.pt"), checkpoint.load(second / "last.pt"), "last.pt")


def assert_same_state(a: Any, b: Any, where: str) -> None:
    """Nested dicts and lists hold the same values, tensors the same bits; `where` begins the name of what does not."""
    if isinstance(a, Tensor):
        assert a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b), f"{where} differs"
    elif isinstance(a, dict):
        assert a.keys() == b.keys(), f"{where} has other keys"
        for key in a:
            assert_same_state(a[key], b[key], f"{where}[{key!r}]")
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b), f"{where} has another length"
        for i, (left, right) in enumerate(zip(a, b)):
            assert_same_state(left, right, f"{where}[{i}]")
    else:
        assert a == b, f"{where}: {a!r} and {b!r}"


def assert_streams_exactly(
    model: nn.Module, batch: Batch, folder: Path | str, task: Task | None = None, tolerance: float = 1e-9, **config: Any
) -> None:
    """Three updates with blocks on disk (`offloading.Offloader`) have the gradients, weights and buffers of the ordinary way.

    Each update is from two forwards, by AdamW with clipping, in float64. `config`: more of the trainer's.
    """
    seen = []
    for layerwise in ("none", "stream"):
        own = copy.deepcopy(model).double().train()
        options = TrainConfig(
            str(folder), "", layerwise=layerwise, **{"device": "cpu", "grad_clip": 0.1, "accumulate": 2, **config}
        )
        trainer = Trainer(own, task or Classification(), optim.adamw(1e-3), optim.constant(), options)
        gradients: list[dict[str, Tensor]] = []
        apply = trainer.step.apply_gradients

        def note(*arguments: Any) -> None:
            gradients.append({name: p.grad.clone() for name, p in own.named_parameters() if p.grad is not None})
            apply(*arguments)

        trainer.step.apply_gradients = note  # type: ignore[method-assign]
        torch.manual_seed(0)
        for _ in range(3):
            trainer.step(_halves(batch))
        seen.append((gradients, own.state_dict()))
    for step, (expected, found) in enumerate(zip(*(gradients for gradients, _ in seen), strict=True)):
        assert expected.keys() == found.keys()
        for name in expected:
            assert_within(f"gradient of {name} at step {step}", found[name], expected[name], tolerance)
    for name, value in seen[0][1].items():
        assert_within(f"{name} after three steps", seen[1][1][name].double(), value.double(), tolerance)


def _halves(batch: Batch) -> list[Batch]:
    """In float64."""
    exact = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in batch.items()}
    return [{name: tensor[i::2] for name, tensor in exact.items()} for i in (0, 1)]


def has_compiler() -> bool:
    """Return whether torch.compile can make programs for this CPU."""
    return shutil.which("g++") is not None
