"""Lower-is-better metrics whose value does not depend on how the data is split into batches or ranks.

A metric keeps sums over examples on the device where they arise; only `compute` adds up the ranks and reads them.
"""

import math

import torch
from torch import Tensor

from dl.mytorch.data.loader import Batch
from dl.mytorch.distributed import all_reduce_sum, data_rank
from dl.mytorch.float64 import WITHOUT_FLOAT64, float64_device, with_float64


class Metric:
    """`num_sums` sums over examples and a formula over these sums. A subclass gives `update` and `formula`."""

    num_sums = 2

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._sums = torch.zeros(self.num_sums, dtype=torch.float64)
        self._pending: list[Tensor | float] = []

    def update(self, outputs: Batch) -> None:
        """Count the examples of one batch."""
        raise NotImplementedError

    def formula(self, *sums: float) -> float:
        """Return the number, from the sums over all ranks. Default: the first over the second; NaN when nothing was counted."""
        return sums[0] / sums[1] if sums[1] else math.nan

    def compute(self) -> float:
        """Return the number over everything counted since `reset`, on all ranks. Every rank has to call it."""
        return self.formula(*all_reduce_sum(self.sums).tolist())

    def add(self, *values: Tensor | float) -> None:
        """Add single numbers to the sums. Nothing waits for the device, and the additions are put off: they cost a step dearly.

        Raises `ValueError` for a tensor of several numbers.
        """
        for value in values:
            if isinstance(value, Tensor) and value.ndim:
                raise ValueError(f"a sum is a single number; got a tensor {tuple(value.shape)}")
        self._pending += values
        if len(self._pending) >= 64 * self.num_sums:
            self._settle()

    def _settle(self) -> None:
        """Bring everything that was put off into the sums."""
        if self._pending:
            where = next((v.device for v in self._pending if isinstance(v, Tensor)), self._sums.device)
            values = [torch.as_tensor(v, dtype=_widest(where), device=where) for v in self._pending]
            new = torch.stack(values).to(float64_device(where), torch.float64)  # waits for a device that has none, once in 64
            self._sums = self._sums.to(new.device)
            for row in new.view(-1, self.num_sums):  # one by one: the same bits whenever the sums are asked for
                self._sums = self._sums + row
            self._pending = []

    @property
    def sums(self) -> Tensor:
        """(num_sums,), in float64, so that a long epoch loses nothing; on the CPU if the device has no float64."""
        self._settle()
        return self._sums

    @sums.setter
    def sums(self, values: Tensor) -> None:
        self.reset()
        self._sums = values


def _widest(device: torch.device) -> torch.dtype:
    """Return float64, or float32 for a device that has no more: in which the elements of one batch are summed."""
    return torch.float32 if device.type in WITHOUT_FLOAT64 else torch.float64


def _check_shape(what: str, tensor: Tensor, shape: torch.Size) -> None:
    """Raise `ValueError` for a tensor of another shape, even one that would broadcast."""
    if tensor.shape != shape:
        raise ValueError(f"{what} has to be of shape {tuple(shape)}; got {tuple(tensor.shape)}")


class Mean(Metric):
    """Mean of `outputs[key]`: of its elements, or, with `count`, of means that stand for `outputs[count]` items each."""

    def __init__(self, key: str, count: str | None = None) -> None:
        super().__init__()
        self.key, self.count = key, count

    def update(self, outputs: Batch) -> None:
        value = outputs[self.key]
        if self.count is None:
            self.add(value.sum(dtype=_widest(value.device)), value.numel())
        else:
            self.add(total(value.detach(), outputs[self.count]), outputs[self.count])


def total(mean: Tensor, count: Tensor | int) -> Tensor:
    """The sum of which `mean` is the mean over `count` items: 0 for none, where the mean itself is NaN. At least in float32."""
    mean = mean.to(torch.promote_types(mean.dtype, torch.float32))
    if isinstance(count, Tensor):
        return torch.where(count > 0, mean * count, 0.0)
    return mean * count if count else torch.nan_to_num(mean) * 0


class TopKError(Metric):
    """Share of examples whose label is not among the k classes with the largest logits. In [0, 1].

    With k classes or fewer every label is among them: the error is 0. Labels below 0 are not counted. A label whose
    logit is NaN is never among them.

    `outputs["logits"]`: (..., classes); `outputs["labels"]`: (...). `update` raises `ValueError` for other shapes.
    """

    def __init__(self, k: int = 1, logits: str = "logits", labels: str = "labels") -> None:
        super().__init__()
        self.k, self.logits, self.labels = k, logits, labels

    def reset(self) -> None:
        super().reset()
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Batch) -> None:
        """Only keep the batch: 64 small ones are counted at once, which is an integer whatever the order."""
        logits, labels = outputs[self.logits], outputs[self.labels]
        _check_shape("labels", labels, logits.shape[:-1])
        self._waiting.append((logits.detach().flatten(0, -2), labels.flatten()))  # detached: a graph would wait, too
        if len(self._waiting) >= 64 or logits.numel() > 2**16:
            self._settle()

    def _settle(self) -> None:
        if self._waiting:
            # A single batch is a large one: joining would only copy it.
            logits, labels = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in zip(*self._waiting))
            self._waiting = []
            largest, best = logits.topk(min(self.k, logits.shape[-1]), dim=-1)  # (N, k)
            hits = ((best == labels.unsqueeze(-1)) & ~largest.isnan()).sum()
            counted = (labels >= 0).sum()
            self.add(counted - hits, counted)
        super()._settle()


class RMSE(Metric):
    """Square root of the mean squared difference of `outputs["predictions"]` and `outputs["targets"]`, of one shape."""

    def update(self, outputs: Batch) -> None:
        _check_shape("targets", outputs["targets"], outputs["predictions"].shape)
        exact = _widest(outputs["targets"].device)
        difference = outputs["predictions"].to(exact) - outputs["targets"].to(exact)
        self.add(difference.square().sum(), difference.numel())

    def formula(self, *sums: float) -> float:
        return math.sqrt(super().formula(*sums))


class UnexplainedVariance(Metric):
    """Residual sum of squares over the total sum of squares about the mean target: 1 - R^2, where R^2 would rise.

    0 for perfect predictions, 1 for those no better than the mean target, more for worse ones. All elements of
    `outputs["predictions"]` and `outputs["targets"]` are pooled. NaN when the targets do not differ, or by so little
    beside their size that rounding hides it: the sums are of the targets themselves, because these alone add up over
    ranks. In float64 they bear a mean of a million standard deviations.
    """

    num_sums = 4

    def update(self, outputs: Batch) -> None:
        _check_shape("targets", outputs["targets"], outputs["predictions"].shape)
        predictions, targets = (with_float64(outputs[name].detach()).double() for name in ("predictions", "targets"))
        residuals = predictions - targets
        self.add(residuals.square().sum(), targets.square().sum(), targets.sum(), targets.numel())

    def formula(self, *sums: float) -> float:
        residual, squares, total, count = sums
        spread = squares - total**2 / count if count else 0.0
        return residual / spread if spread > 1e-13 * squares else math.nan


class Metrics:
    """The mean loss and the metrics of a task, kept together."""

    def __init__(self, metrics: dict[str, Metric]) -> None:
        self.by_name = {"loss": Mean("loss", "count"), **metrics}

    @torch.no_grad()
    def update(self, loss: Tensor, count: Tensor | int, outputs: Batch) -> None:
        """Count one batch: its loss, a mean over `count` items, and the outputs of its task."""
        for name, metric in self.by_name.items():
            try:
                metric.update({"loss": loss, "count": count} if name == "loss" else outputs)
            except KeyError as error:
                from dl.mytorch import contract

                raise contract.missing_output(name, error, outputs) from error

    def compute(self) -> dict[str, float]:
        """Name -> number over all ranks."""
        from dl.mytorch import contract

        return {name: contract.check_number(name, metric.compute()) for name, metric in self.by_name.items()}

    def reset(self) -> None:
        """Forget everything."""
        for metric in self.by_name.values():
            metric.reset()

    def state(self) -> dict[str, Tensor]:
        """Return the sums over all ranks. Every rank has to call it."""
        return {name: all_reduce_sum(metric.sums) for name, metric in self.by_name.items()}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`, which the ranks hold together: the first takes it, for all."""
        for name in self.by_name.keys() & state.keys() if not data_rank() else ():  # runs of 0.1 have top5_error of two classes
            if state[name].shape != self.by_name[name].sums.shape:
                raise ValueError(f"{name} is not of {len(self.by_name[name].sums)} sums")
            self.by_name[name].sums = state[name]
