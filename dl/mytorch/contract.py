"""What a data set, a task and a metric have to be. Whatever else they are is one line that says what to do.

Everything here is called where the mistake can first be seen: when the loader, the splits or the trainer is made, at the
first batch, at the first step. No part of the loop.
"""

from typing import Any, Callable, Iterable, Sequence

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import IterableDataset, default_collate

from dl.mytorch.config import UserError

Batch = dict[str, Tensor]


def count_examples(dataset: Any, batch_size: int, lengths: Sequence[int] | None) -> int:
    """Return the number of examples of what a `Loader` is made of. Raises `UserError` for what it cannot cut into batches."""
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise UserError(
            f"a Loader cannot read {_kind(dataset)}: give it a dict of tensors, or a data set with len() and [i], from which "
            "any batch can be made again when a run resumes"
        )
    if isinstance(dataset, dict):
        _check_tensors(dataset, "a data set in memory", "make it one, or give a list of examples, and collate=")
    counts = {len(tensor) for tensor in dataset.values()} if isinstance(dataset, dict) else {len(dataset)}
    if len(counts) != 1:
        raise UserError(f"the tensors of a data set have one length; got {sorted(counts)}")
    (count,) = counts
    if count == 0 or batch_size < 1:
        raise UserError(f"nothing to load: {count} examples, batches of {batch_size}")
    if lengths is not None and len(lengths) != count:
        raise UserError(f"{len(lengths)} lengths of {count} examples")
    return count


class Collate:
    """A function of a list of examples that makes a batch: `function`, or torch's. `UserError` for what is no batch."""

    def __init__(self, function: Callable[[list], Batch] | None) -> None:
        self.function = function

    def __call__(self, examples: list) -> Batch:
        batch = _stacked(examples) if self.function is None else self.function(examples)
        if not isinstance(batch, dict):
            raise UserError(
                f"a batch has to be a dict of tensors; got {_kind(batch)}: let the data set give dicts, as "
                '{"images": image, "labels": label}, or make one in Loader(collate=...)'
            )
        _check_tensors(batch, "a batch", "pad or concatenate it in Loader(collate=...), with its lengths as another tensor")
        return batch


def _stacked(examples: list) -> Any:
    try:
        return default_collate(examples)
    except (KeyError, RuntimeError, TypeError) as error:
        if isinstance(error, RuntimeError) and "equal size" not in str(error):
            raise  # no fault of the examples: a worker process without shared memory, say
        raise UserError(
            f"the examples cannot be stacked to a batch ({str(error).partition(chr(10))[0]}): pad them to one shape in "
            "Loader(collate=...), a function of a list of examples, with their lengths or a mask as another tensor"
        ) from None


def check_splits(splits: Iterable[Any]) -> None:
    """Raise `UserError` unless training and validation are Loaders, and the test is one or None."""
    for name, loader in zip(("train", "val", "test"), splits):
        if loader is None and name == "val":
            raise UserError("Splits lacks validation data, which choose the best checkpoint: keep a tenth of the training data")
        if not hasattr(loader, "batches") and not (loader is None and name == "test"):
            raise UserError(f"Splits: {name} has to be a dl.mytorch.data.Loader; got {_kind(loader)}")


def check_recipe(model: Any, task: Any, optimizer: Any, schedule: Any) -> None:
    """Raise `UserError` for arguments that no `Trainer` can be made of, or a monitor that evaluation does not measure."""
    if not isinstance(model, nn.Module):
        raise UserError(f"Trainer: model has to be an nn.Module; got {_kind(model)}")
    if isinstance(task, type) or not hasattr(task, "eval_step"):
        raise UserError(f"Trainer: task has to be an object of a subclass of Task; got {_kind(task)}")
    if isinstance(optimizer, Optimizer) or not callable(optimizer):
        raise UserError(
            "Trainer: optimizer has to be a function model -> optimizer, as dl.mytorch.optim.adamw(1e-3); got "
            f"{_kind(optimizer)}"
        )
    if not callable(schedule):
        raise UserError(
            "Trainer: schedule has to be a function (step, total steps) -> multiplier of the learning rate, as "
            f"dl.mytorch.optim.constant(); got {_kind(schedule)}"
        )
    for name, metric in {**task.train_metrics(), **task.metrics()}.items():
        if isinstance(metric, type) or not hasattr(metric, "_pending"):
            raise UserError(
                f"metric {name} has to be an object of a subclass of Metric that calls super().__init__(); got {_kind(metric)}"
            )
    measured = ["loss", *task.metrics()]
    if task.monitor not in measured:
        raise UserError(f"the task monitors {task.monitor!r}, but evaluation gives {', '.join(measured)}")


def check_output(output: Any) -> None:
    """Raise `UserError` unless `output` is a `StepOutput` with a single tensor as its loss, and tensors for the metrics."""
    if not isinstance(output, tuple) or not hasattr(output, "loss"):
        raise UserError(f"Task.step has to return StepOutput(loss, count, outputs); got {_kind(output)}")
    if not isinstance(output.loss, Tensor) or output.loss.ndim:
        raise UserError(
            f"the loss of Task.step has to be one number in a tensor, the mean over `count` items; got {_kind(output.loss)}"
        )
    if not isinstance(output.count, (int, float, Tensor)):
        raise UserError(f"the count of Task.step is the number of items that the loss is a mean of; got {_kind(output.count)}")
    if not isinstance(output.outputs, dict):
        raise UserError(f"the outputs of Task.step are a dict of tensors, which the metrics read; got {_kind(output.outputs)}")


class Asked(dict[str, Tensor]):
    """A batch that says what it holds to a task that reads something else of it."""

    def __missing__(self, key: str) -> Tensor:
        raise UserError(f"the task reads {key!r} of a batch, which has {', '.join(self)}")


def missing_output(name: str, error: KeyError, outputs: Batch) -> Exception:
    """Return what metric `name`, which raised `error`, should have raised: a `UserError` if it asked for what a step lacks."""
    if error.args[0] in outputs:
        return error
    return UserError(
        f"metric {name} reads {error.args[0]!r}, but the outputs of the step are {', '.join(outputs) or 'empty'}: "
        "a metric that only evaluation feeds is left out of Task.train_metrics"
    )


def check_number(name: str, value: Any) -> float:
    """Return `value`, that of metric `name`. Raises `UserError` unless it is one number."""
    if isinstance(value, (int, float)):
        return value
    raise UserError(f"metric {name} has to be one number, which falls; got {_kind(value)}: of several numbers each is a metric")


def check_rows(state: Any) -> None:
    """Raise `UserError` unless the state of a task is a dict of tensors with a row for each example of a batch."""
    for name, rows in state.items():
        if not isinstance(rows, Tensor) or rows.ndim == 0:
            raise UserError(
                f"Task.state has to give tensors with a row for each example of a batch; {name!r} is {_kind(rows)}: "
                "what is not of single examples is given by Task.own_state"
            )


def _check_tensors(values: dict[Any, Any], what: str, remedy: str) -> None:
    for name, value in values.items():
        if not isinstance(value, Tensor):
            raise UserError(f"{what} has to be a dict of tensors; {name!r} is {_kind(value)}: {remedy}")


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None:
        return "None"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOUaeiou' else 'a'} {name}"
