"""What each model has to prove, as one line of its test_model.py: `test_standard = testing.standard_checks(...)`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from dl.mytorch.config import TrainConfig
from dl.mytorch.data.loader import Batch, Splits
from dl.mytorch.tasks import Classification, Task
from dl.mytorch.testing.laws import assert_batch_independent, assert_gradients_flow, assert_overfits, assert_presets_build
from dl.mytorch.testing.runs import assert_resumes_exactly, tiny_splits


class Overfit(NamedTuple):
    """A network that `standard_checks` overfits, and how: options of `build`, the batch, the rest as in `assert_overfits`."""

    options: Mapping[str, Any] = {}
    batch: Callable[[], Batch] | None = None  # that of the gradients
    task: Callable[[], Task] | None = None  # that of the gradients
    lr: float = 1e-2
    below: float = 0.05


def standard_checks(
    build: Callable[..., nn.Module],
    main: Callable[[Any, Splits], Any],
    config: TrainConfig | Callable[[Path], TrainConfig],
    batch: Callable[[], Batch],
    *,
    splits: Callable[[Any], Splits] = lambda config: tiny_splits(),
    task: Callable[[], Task] = Classification,
    variants: Sequence[Mapping[str, Any]] = ({},),
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
    inputs: Callable[[], tuple[Tensor, ...]] | None = None,
    output: Callable[[nn.Module], nn.Module] = lambda model: model,
    overfit: Sequence[Overfit] = (Overfit(),),
    skip: Mapping[str, str] = {},
) -> Callable[..., None]:
    """Return the test of what every model has to prove, an item for each proof: `test_standard = standard_checks(...)`.

    Networks are of the preset "tiny" with the options of each of `variants`, their weights changed by `prepare`. A step of
    `task` on `batch` gives every parameter a gradient. For each of `inputs` (default: three images of the batch) the output
    in evaluation mode is the same alone; `output` wraps a network whose output is not a tensor with a row for each. Each of
    `overfit` overfits its batch. `main(config, splits(config))` is interrupted and resumed without a trace; `config` may need
    an empty folder for its data. Every preset builds. `skip` switches a check off by its name and says why.
    """

    def network(options: Mapping[str, Any]) -> nn.Module:
        return build(**{"preset": "tiny", **options})

    def gradients(folder: Path, options: Mapping[str, Any]) -> None:
        assert_gradients_flow(prepare(network(options)), batch(), task())

    def independence(folder: Path, options: Mapping[str, Any]) -> None:
        examples = inputs() if inputs else (batch()["images"][:3],)
        assert_batch_independent(output(prepare(network(options))), *examples)

    def overfits(folder: Path, case: Overfit) -> None:
        data, learner = (case.batch or batch)(), (case.task or task)()
        assert_overfits(network(case.options), data, learner, lr=case.lr, below=case.below)

    def resumes(folder: Path, _: None) -> None:
        own = dataclasses.replace(config(folder) if callable(config) else config, out=str(folder / "runs"), plots=False)
        assert_resumes_exactly(main, own, lambda: splits(own))

    proofs = {
        "gradients_reach_every_parameter": (gradients, variants),
        "batch_independence": (independence, variants),
        "overfits_one_batch": (overfits, overfit),
        "resumes_exactly": (resumes, [None]),
        "presets_build": (lambda folder, _: assert_presets_build(build), [None]),
    }
    return _as_test(proofs, skip)


def _as_test(
    proofs: Mapping[str, tuple[Callable[[Path, Any], None], Sequence[Any]]], skip: Mapping[str, str]
) -> Callable[..., None]:
    """Return a parametrized test: each proof, called with an empty folder and each of its cases, but for those of `skip`."""
    import pytest

    for name, reason in skip.items():
        if name not in proofs or not reason.strip():
            raise ValueError(f"skip is {name}: {reason!r}; it has a reason for each check that is off, of {', '.join(proofs)}")
    items = []
    for name, (proof, cases) in proofs.items():
        marks = [pytest.mark.skip(reason=skip[name])] if name in skip else []
        for i, case in enumerate(cases):
            items.append(pytest.param(proof, case, id=f"{name}-{i}" if len(cases) > 1 else name, marks=marks))

    @pytest.mark.parametrize(("proof", "case"), items)
    @pytest.mark.usefixtures("no_figures", "no_reports")
    def test_standard(proof: Callable[[Path, Any], None], case: Any, tmp_path: Path) -> None:
        proof(tmp_path, case)

    return test_standard
