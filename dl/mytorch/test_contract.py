"""A newcomer's first mistakes: each is one line that says what to do, where the mistake can first be seen."""

from pathlib import Path
from typing import Any, Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from dl.mytorch import StepOutput, Task, TrainConfig, Trainer
from dl.mytorch.config import UserError
from dl.mytorch.data import Batch, Loader, Splits
from dl.mytorch.metrics import Mean, Metric
from dl.mytorch.optim import constant, sgd

X = torch.zeros(6, 4)


class Squares(Task):
    """The mean square of what the model makes of "x"."""

    def step(self, model: nn.Module, batch: Batch) -> Any:
        squares = model(batch["x"]).square().mean(1)
        return StepOutput(squares.mean(), len(squares), {"squares": squares.detach()})


def fit(task: Task, folder: Path, batch: Batch | None = None) -> None:
    """Train for one step."""
    loader = Loader(batch or {"x": X}, 6)
    config = TrainConfig(str(folder), "x", plots=False)
    Trainer(nn.Linear(4, 2), task, sgd(0.1), constant(), config).fit(Splits(loader, loader))


def trainer(**wrong: Any) -> Trainer:
    right = {"model": nn.Linear(4, 2), "task": Squares(), "optimizer": sgd(0.1), "schedule": constant()}
    return Trainer(**{**right, **wrong}, config=TrainConfig("unused", "x"))


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        return iter([])


@pytest.mark.parametrize(
    ("dataset", "says"),
    [
        (Endless(), r"cannot read an Endless: give it a dict of tensors, or a data set with len\(\) and \[i\]"),
        (iter([X]), "cannot read a list_iterator"),
        ({"x": X, "boxes": [X] * 6}, "'boxes' is a list: make it one, or give a list of examples, and collate="),
        ({"x": np.zeros((6, 4))}, "dict of tensors; 'x' is a ndarray"),
    ],
    ids=["iterable", "iterator", "list", "numpy"],
)
def test_a_data_set_that_cannot_be_cut_into_batches_is_refused_when_the_loader_is_made(dataset: Any, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Loader(dataset, 2, shuffle=True)


RAGGED = [{"x": torch.zeros(i)} for i in range(3)]


@pytest.mark.parametrize(
    ("dataset", "collate", "says"),
    [
        (RAGGED, None, r"cannot be stacked to a batch \(stack expects.*\): pad them to one shape in Loader\(collate=\.\.\.\)"),
        ([{"x": None}] * 3, None, r"cannot be stacked to a batch .*NoneType"),
        ([{"x": "a"}] * 3, None, "'x' is a list: pad or concatenate it"),
        (RAGGED, lambda examples: {"x": [example["x"] for example in examples]}, "'x' is a list: pad or concatenate it"),
        (TensorDataset(X, X), None, "got a list: let the data set give dicts"),
        (X, None, r"got a tensor of shape \(3, 4\): let the data set give dicts"),
    ],
    ids=["ragged", "None", "text", "collate gives a list", "tuples", "tensor"],
)
def test_a_batch_that_is_no_dict_of_tensors_is_refused(dataset: Any, collate: Callable | None, says: str) -> None:
    with pytest.raises(UserError, match=says):
        next(Loader(dataset, 3, collate=collate).batches())


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ((Loader({"x": X}, 2), None), "lacks validation data, which choose the best checkpoint: keep a tenth"),
        ((DataLoader(X), Loader({"x": X}, 2)), "train has to be a dl.mytorch.data.Loader; got a DataLoader"),
        ((Loader({"x": X}, 2), Loader({"x": X}, 2), {"x": X}), "test has to be a dl.mytorch.data.Loader; got a dict"),
    ],
    ids=["no validation", "DataLoader", "tensors"],
)
def test_splits_are_of_loaders_and_validation_is_one_of_them(parts: tuple, says: str) -> None:
    with pytest.raises(UserError, match=says):
        Splits(*parts)


class Returns(Squares):
    """A step with another result."""

    def __init__(self, change: Callable[[StepOutput], Any]) -> None:
        self.change = change

    def step(self, model: nn.Module, batch: Batch) -> Any:
        return self.change(super().step(model, batch))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda output: output.loss, r"return StepOutput\(loss, count, outputs\); got a tensor of shape \(\)"),
        (lambda output: tuple(output), r"return StepOutput\(loss, count, outputs\); got a tuple"),
        (
            lambda output: output._replace(loss=output.outputs["squares"]),
            r"one number in a .*got a tensor of shape \(1,\)",
        ),
        (lambda output: output._replace(loss=output.loss.item()), "one number in a tensor, .* got a float"),
        (lambda output: output._replace(count=None), "number of items that the loss is a mean of; got None"),
        (
            lambda output: output._replace(outputs=X),
            r"outputs of Task.step are a dict .*got a tensor of shape \(6, 4\)",
        ),
    ],
    ids=["loss alone", "tuple", "several losses", "float", "no count", "tensor"],
)
def test_what_a_step_returns_is_checked_before_the_first_update(change: Callable, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        fit(Returns(change), tmp_path)


def test_a_task_that_reads_what_a_batch_lacks_hears_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the task reads 'x' of a batch, which has features, labels"):
        fit(Squares(), tmp_path, {"features": X, "labels": X})


class Pair(Metric):
    """Two numbers, which no metric can be."""

    def update(self, outputs: Batch) -> None:
        self.add(1.0, 2.0)

    def formula(self, *sums: float) -> Any:
        return dict(zip("ab", sums))


class Measured(Squares):
    """With a metric, and an evaluation that gives what training does not."""

    def __init__(self, **metrics: Any) -> None:
        self.measured = metrics

    def metrics(self) -> dict[str, Any]:
        return self.measured

    def eval_step(self, model: nn.Module, batch: Batch) -> StepOutput:
        return self.step(model, batch)._replace(outputs={"found": torch.zeros(3)})


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        (
            Mean("found"),
            "reads 'found', but the outputs of the step are squares: a metric that only evaluation feeds is left",
        ),
        (Pair(), "metric m has to be one number, which falls; got a dict: of several numbers each is a metric"),
        (Pair, "metric m has to be an object of a subclass of Metric .*got the class Pair"),
    ],
    ids=["evaluation alone", "dict", "class"],
)
def test_a_metric_is_one_number_of_what_each_step_puts_out(metric: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        fit(Measured(m=metric), tmp_path)


class Remembers(Squares):
    """Something to save that is no row for an example."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def state(self) -> dict[str, Tensor]:
        return {"seen": self.value}


@pytest.mark.parametrize(("value", "says"), [(torch.tensor(7), r"a tensor of shape \(\)"), (7, "an int")])
def test_the_state_of_a_task_has_a_row_for_each_example(value: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a row for each example of a batch; 'seen' is {says}"):
        fit(Remembers(value), tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"model": lambda x: x}, "model has to be an nn.Module; got a function"),
        ({"task": Squares}, "task has to be an object of a subclass of Task; got the class Squares"),
        ({"optimizer": torch.optim.SGD([nn.Parameter(X)], 0.1)}, "optimizer has to be a function .*adamw.*got a SGD"),
        ({"schedule": None}, r"schedule has to be a function \(step, total steps\) .*constant\(\); got None"),
    ],
    ids=["model", "task", "optimizer", "schedule"],
)
def test_a_trainer_is_made_of_a_module_a_task_and_two_functions(wrong: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        trainer(**wrong)
