"""A run's folder: what was asked for, how it went, and the pictures. Only rank 0 writes."""

import dataclasses
import json
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from dl.mytorch import plot, system
from dl.mytorch.config import TrainConfig, UserError
from dl.mytorch.distributed import barrier, is_main, restarted, world
from dl.mytorch.files import write_json

# Flags that change where and how fast a run goes, but not what it computes: a resumed run may change them.
FREE = {
    *("out", "fresh", "num_workers", "device", "parallel", "compile", "deterministic", "checkpoint_activations"),
    *("log_every", "save_every"),
}
FILES = (
    *("config.json", "history.json", "speed.json", "summary.txt", "split.json"),
    *("best.pt", "last.pt", "last.pt.tmp", "best.pt.tmp"),
)


class History(list):
    """One record per evaluation, oldest first; the test's record last. It is `history.json`.

    A record: {"epoch", "step", "lr", "train": {quantity: mean}, "val": {quantity: mean}}; the last one has "test"
    instead, and the epoch and step of the checkpoint that was tested.
    """

    @property
    def test(self) -> dict[str, float] | None:
        """What the test gave, or None before it."""
        return self[-1].get("test") if self else None

    def best(self, monitor: str = "loss") -> dict[str, Any] | None:
        """The record with the lowest validation `monitor`, the first of equals; None before any evaluation."""
        return min((r for r in self if "val" in r), key=lambda record: record["val"][monitor], default=None)

    def line(self) -> str:
        """The newest record in a line."""
        record = self[-1]
        parts = [f"epoch {record['epoch']:3d}", f"step {record['step']:6d}"]
        for split in ("train", "val", "test"):
            if split in record:
                parts += [split + "".join(f"  {name} {_number(name, value)}" for name, value in record[split].items())]
        return " | ".join(parts)

    def table(self, monitor: str = "loss") -> str:
        """The best checkpoint on each split, as people read it."""
        best = self.best(monitor)
        rows = {"train": best["train"], "validation": best["val"]} | ({"test": self.test} if self.test else {})
        names = list(best["val"])
        wide = max(14, *(len(name) + 2 for name in names))
        lines = [f"best checkpoint: epoch {best['epoch']}, step {best['step']}"]
        lines += [" " * 12 + "".join(f"{name:>{wide}}" for name in names)]
        for split, means in rows.items():
            numbers = (_number(name, means[name]) if name in means else "" for name in names)
            lines += [f"{split:<12}" + "".join(f"{number:>{wide}}" for number in numbers)]
        return "\n".join(lines)


def _number(name: str, value: float) -> str:
    return f"{value:.2%}" if name.endswith("error") else f"{value:.4f}"


def read_json(path: Path) -> Any:
    """The content of a JSON file; `UserError` when it is damaged."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); --fresh starts the run over") from None


def trained_run(run: Path | str, *recipes: str) -> dict[str, Any]:
    """What config.json says of a run that has a best checkpoint; with `recipes`, "<Category>/<Model>", only of one of these.

    Its "precision" is what the run took, its "config" has what was asked for.
    Raises `UserError` for a folder that holds none, or a run of another recipe.
    """
    run = Path(run)
    if run.is_file():
        raise UserError(f"{run} is a file; the folder of a run is asked for, say {run.parent}")
    if not (run / "config.json").exists():
        modules = [f"`python -m dl.modules.{recipe.replace('/', '.')}.train`" for recipe in recipes or ("CNN/LeNet",)]
        raise UserError(f"{run} holds no trained network, no best.pt; {' or '.join(modules)} makes one")
    described = read_json(run / "config.json")
    if not _of_a_run(described):
        raise UserError(f"{run}/config.json is not of a run of this project")
    if recipes and described["recipe"] not in recipes:
        raise UserError(f"{run} is a run of {described['recipe']}, not of {', '.join(recipes)}")
    if not (run / "best.pt").exists():
        again = described.get("command") or f"python -m dl train {described['recipe']} --out {run}"
        raise UserError(f"{run} holds no trained network yet, no best.pt: before its first evaluation; `{again}` resumes it")
    return described | {"precision": _precision(described)}


def recorded_precision(config: TrainConfig) -> str | None:
    """Return the precision taken by the run that `config` resumes; None for a new run, or one that `open_run` refuses."""
    path = Path(config.out) / "config.json"
    if (config.fresh and not restarted()) or not path.exists():
        return None
    described = read_json(path)
    if not _of_a_run(described):
        return None
    precision = _precision(described)
    if config.precision == "auto" and precision not in ("fp32", "bf16"):
        raise UserError(f"{path} says precision {precision!r}, which is neither fp32 nor bf16; --fresh starts the run over")
    return precision


def _precision(described: dict[str, Any]) -> str | None:
    """What a run took. Before `auto` there was, it was what was asked for."""
    return described.get("precision", described["config"].get("precision"))


def open_run(config: TrainConfig, precision: str | None = None) -> Path:
    """Claim the folder `config.out`: emptied of an old run with `fresh`, else new or of a run with the same config.

    precision: what the run takes; default: what the config asks for. A run is resumed with the precision that it took,
    which "auto" stands for.
    Raises `UserError` when it holds a run of another config, naming what differs, or files of these names that are of no run.
    """
    out = Path(config.out)
    if is_main():
        out.mkdir(parents=True, exist_ok=True)
        _refuse_what_is_not_ours(out)
        if config.fresh and (out / "config.json").exists() and not restarted():
            for folder in [out / "tensorboard", *out.glob("shards-[0-9]*"), *out.glob("block[0-9]*")]:
                shutil.rmtree(folder, ignore_errors=True)
            # config.json last: until then it is a run.
            for path in [*out.glob("*.png"), *out.glob("vocabulary-*.json"), *(out / name for name in reversed(FILES))]:
                path.unlink(missing_ok=True)
        asked = dataclasses.asdict(config)
        if (out / "config.json").exists():
            described = read_json(out / "config.json")
            found = {**described["config"], "precision": _precision(described)}
            if asked["precision"] == "auto":
                asked["precision"] = found["precision"]
            differs = [
                f"{name} {found.get(name, '(none)')} there, {asked.get(name, '(none)')} asked for"
                for name in sorted(found.keys() | asked.keys())
                if found.get(name) != asked.get(name) and name not in FREE
            ]
            if differs:
                raise UserError(
                    f"{out} holds a run with another config ({'; '.join(differs)}): "
                    "choose another --out, or --fresh to delete that run"
                )
        else:
            write_json(_describe(config, asked) | {"precision": precision or config.precision}, out / "config.json")
    barrier()
    return out


def _of_a_run(described: Any) -> bool:
    """Whether this can be the content of a run's config.json, a name that many programs give to a file of theirs."""
    return isinstance(described, dict) and {"recipe", "config"} <= described.keys()


def _refuse_what_is_not_ours(out: Path) -> None:
    """Raise `UserError` for a folder in which a run would overwrite or delete another program's files."""
    found = [name for name in FILES if (out / name).exists()]
    try:
        ours = _of_a_run(json.loads((out / "config.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        ours = not found
    except ValueError:
        ours = True  # damaged: the caller says so, or starts over
    if not ours:
        raise UserError(f"{out} holds {found[0]}, which is not of a run of this project: choose another --out")


def _describe(config: TrainConfig, asked: dict[str, Any]) -> dict[str, Any]:
    recipe = Path(getattr(sys.modules.get(type(config).__module__), "__file__", None) or "notebook").resolve()
    module = getattr(sys.modules["__main__"], "__spec__", None)  # None for a file that was run by its path
    return {
        "recipe": "/".join(recipe.parts[-3:-1]),  # .../<Category>/<Model>/train.py
        "file": recipe.stem,
        "command": shlex.join(["python", *(["-m", module.name] if module else sys.argv[:1]), *sys.argv[1:]]),
        "config": asked,
        "commit": _commit(recipe.parent),
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "ranks": world(),
    }


def _commit(folder: Path) -> str:
    """The commit of the code, with "+" when files differ from it or are new; "" outside git."""
    git = ["git", "-C", str(folder)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit + ("+" if changed else "")


def device_name(device: torch.device) -> str:
    """What a reader of a table calls the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"
    return device.type


def peak_memory(device: torch.device) -> int:
    """Bytes that this process, or its CUDA device, has held at most."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return system.peak_memory()


class Logger:
    """TensorBoard, JSON files, pictures and the progress bar of one run. On other ranks than 0 it does nothing.

    Training and validation write the same tags in two TensorBoard runs, so that they share a chart.
    """

    def __init__(self, out: Path, step: int, total_steps: int) -> None:
        self.out = out
        self.step = step
        self.writers: dict[str, Any] = {}
        self.bar = tqdm(total=total_steps, initial=step, unit="step", disable=None if is_main() else True, leave=False)
        earlier = out / "speed.json"
        self.earlier = read_json(earlier) if is_main() and earlier.exists() and step else {}

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_: Any) -> None:
        self.bar.close()
        for writer in self.writers.values():
            writer.close()

    def say(self, text: str) -> None:
        """A line for the person at the terminal, above the progress bar."""
        if is_main():
            self.bar.write(text)

    def scalars(self, split: str, values: dict[str, float], step: int) -> None:
        """Points of curves; `split` is "train", "val" or "test"."""
        if is_main():
            for name, value in values.items():
                self._writer(split).add_scalar(name, value, step)

    def show(self, shown: dict[str, Tensor | str], step: int, split: str = "val", keep: bool = False) -> list[Path]:
        """Pictures and texts of the task into TensorBoard and, with `keep`, into the folder; the paths of these."""
        paths: list[Path] = []
        if is_main():
            for name, value in shown.items():
                if isinstance(value, str):
                    self._writer(split).add_text(name, value, step)
                    continue
                self._writer(split).add_image(name, value, step)
                if keep:
                    paths.append(self.out / f"{name}.png")
                    plot.save_image(value, paths[-1])
        return paths

    def history(self, history: History) -> None:
        """Rewrite history.json."""
        if is_main():
            write_json(history, self.out / "history.json")

    def evaluated(self, history: History, pictures: dict[str, Tensor | str], best: bool) -> None:
        """The newest record goes into history.json, onto the charts and to the terminal; the task's pictures with it."""
        record = history[-1]
        self.history(history)
        for split in ("train", "val"):
            self.scalars(split, record[split], record["step"])
        self.show(pictures, record["step"])
        self.say(history.line() + ("  best" if best else ""))

    def finished(self, history: History, pictures: dict[str, Tensor | str], config: TrainConfig) -> None:
        """Everything that is drawn or written once, at the end."""
        if is_main():
            paths = [self.out / "curves.png", *self.show(pictures, history[-1]["step"], "test", keep=True)]
            plot.save_figure(plot.curves(history), paths[0])
            if history.test:
                self.scalars("test", history.test, history[-1]["step"])
                flags = {k: v for k, v in dataclasses.asdict(config).items() if isinstance(v, (bool, int, float, str))}
                final = {f"test/{name}": value for name, value in history.test.items()}
                self._writer("test").add_hparams(flags, final, run_name=".")
            self.history(history)  # last: a run whose history has a test is finished
            self.say("\n".join(["pictures:", *(f"  {path}" for path in paths)]))

    def summary(self, text: str) -> None:
        """Write summary.txt."""
        if is_main():
            (self.out / "summary.txt").write_text(text + "\n", encoding="utf-8")

    def speed(self, device: torch.device, seconds: float, training_seconds: float, examples: int) -> None:
        """Rewrite speed.json: this session's figures and, in the sums, those of the sessions before it."""
        if is_main():
            seconds += self.earlier.get("seconds", 0)
            training_seconds += self.earlier.get("training_seconds", 0)
            examples += self.earlier.get("examples", 0)
            speed = {
                "device": device_name(device),
                "seconds": round(seconds, 2),
                "training_seconds": round(training_seconds, 2),
                "examples": examples,
                "examples_per_second": round(examples / max(training_seconds, 1e-9), 1),
                "peak_memory_bytes": max(peak_memory(device), self.earlier.get("peak_memory_bytes", 0)),
            }
            write_json(speed, self.out / "speed.json")

    def _writer(self, split: str) -> Any:
        if split not in self.writers:
            from torch.utils.tensorboard import SummaryWriter

            self.writers[split] = SummaryWriter(str(self.out / "tensorboard" / split), purge_step=self.step + 1)
        return self.writers[split]
