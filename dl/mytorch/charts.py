"""What is drawn of a run while it goes and at its end: TensorBoard's charts and the figures in its folder."""

import dataclasses
from pathlib import Path
from typing import Any

from torch import Tensor

from dl.mytorch import plot
from dl.mytorch.config import TrainConfig
from dl.mytorch.events import Events
from dl.mytorch.run import FREE

Shown = dict[str, Tensor | str]  # images (C, H, W) in [0, 1] and texts, by name


def changed_flags(config: TrainConfig) -> dict[str, Any]:
    """Return the flags by which a run differs from its recipe's defaults, without those that change no result."""
    flags = ((field, getattr(config, field.name)) for field in dataclasses.fields(config) if field.name not in FREE)
    return {field.name: value for field, value in flags if value != field.default and value is not None}


class Charts:
    """Draws what a `Logger` passes on to it; rank 0 has one, unless the run is asked to go without (`--no-plots`).

    Training and validation write the same tags in two TensorBoard runs, so that they share a chart. Points of an earlier
    session after `step` are replaced.
    """

    def __init__(self, out: Path, step: int) -> None:
        self.out, self.step = out, step
        self.writers: dict[str, Events] = {}

    def close(self) -> None:
        """Close TensorBoard's files."""
        for writer in self.writers.values():
            writer.close()

    def scalars(self, split: str, values: dict[str, float | None], step: int) -> None:
        """Add points of curves, none for None; `split` is "train", "val" or "test"."""
        for name, value in values.items():
            if value is not None:
                self._writer(split).add_scalar(name, value, step)

    def evaluated(self, record: dict[str, Any], shown: Shown) -> None:
        """Add a record of the history, and what the task shows of it."""
        for split in ("train", "val"):
            self.scalars(split, record[split], record["step"])
        self._show(shown, record["step"], "val")

    def finished(self, history: Any, shown: Shown, config: TrainConfig, monitor: str = "loss") -> list[Path]:
        """Draw the curves and what the task reports into the folder, and return the files.

        The run's figures are those of its test, without one those of the checkpoint with the lowest validation `monitor`.
        """
        step = history[-1]["step"]
        self._show(shown, step, "test")
        images = {self.out / f"{name}.png": value for name, value in shown.items() if isinstance(value, Tensor)}
        for path, image in images.items():
            plot.save_image(image, path)
        plot.save_figure(plot.curves(history), self.out / "curves.png")
        part, means = ("test", history.test) if history.test else ("val", (history.best(monitor) or {}).get("val", {}))
        if part == "test":
            self.scalars("test", means, step)
        final = {f"{part}/{name}": value for name, value in means.items() if value is not None}
        self._writer(part).add_hparams(changed_flags(config), final)
        return [self.out / "curves.png", *images]

    def _show(self, shown: Shown, step: int, split: str) -> None:
        for name, value in shown.items():
            add = self._writer(split).add_text if isinstance(value, str) else self._writer(split).add_image
            add(name, value, step)

    def _writer(self, split: str) -> Events:
        if split not in self.writers:
            self.writers[split] = Events(self.out / "tensorboard" / split, purge_step=self.step + 1)
        return self.writers[split]
