"""TrainConfig: every knob of a run. Its fields are the flags of the command line, see command_line.py."""

import dataclasses
import inspect
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Iterable, Literal, Mapping, TypeVar, get_args, get_origin, get_type_hints


class UserError(ValueError):
    """Something the user can fix: `launch` prints it as one line and exits with 1."""


def user_path(text: str) -> Path:
    """Return a path of the command line, with ~ as the home folder: shells leave that of `--out=~/run` alone."""
    return Path(os.path.expanduser(text))  # unlike Path's, it leaves the ~ that names no user


def flag(default: Any, help: str, choices: Iterable[str] = (), alias: str = "") -> Any:
    """Return a field of a config with the sentence that `--help` shows for it and the values it is limited to, if any.

    `alias` is an earlier name of the field: `parse` takes it as a hidden flag, and config.json of an earlier run, or a
    recorded result, is read with it (`current_names`).
    """
    return dataclasses.field(default=default, metadata={"help": help, "choices": tuple(choices), "alias": alias})


@dataclass(frozen=True)
class TrainConfig:
    """What every recipe can be told. A recipe subclasses it, sets its own defaults and adds its own flags.

    Raises `UserError`, naming the flag, for an invalid value.
    """

    # Presets of another recipe that are this one's since: its (recipe, preset) -> preset of today. Such runs are resumed.
    moved: ClassVar[Mapping[tuple[str, str], str]] = {}

    out: str = dataclasses.field(metadata={"help": "folder of this run; a run found there is resumed"})
    data: str = dataclasses.field(metadata={"help": "name of the data set"})
    seed: int = flag(0, "seeds the weights, the validation split and every shuffle")
    epochs: int = flag(1, "passes over the training set")
    steps: int = flag(0, "optimizer steps; above 0 it overrides --epochs")
    batch_size: int = flag(128, "examples per forward, over all ranks")
    accumulate: int = flag(1, "forwards per optimizer step")
    lr: float = flag(1e-3, "peak learning rate")
    weight_decay: float = flag(0.0, "weight decay")
    grad_clip: float = flag(0.0, "largest norm of the gradient; 0 = no clipping", alias="clip")
    ema: float = flag(0.0, "decay of the moving average of the weights, say 0.999 (less in the first steps); 0 = none")
    precision: Literal["auto", "fp32", "bf16"] = flag(
        "fp32", "of the forward pass; weights stay in fp32. auto: bf16 where the device computes in it natively, else fp32"
    )
    deterministic: bool = flag(
        False, "on CUDA, the same seed gives the same bits, more slowly; on one CPU it does without this flag"
    )
    parallel: Literal["none", "ddp", "fsdp", "hsdp", "tp"] = flag(
        "none",
        "how ranks share the work, under torchrun: ddp, each has the whole model; fsdp, each has a part of every weight; "
        "hsdp, groups of ranks have all parts each; tp, each has a part of the layers in the blocks",
    )
    shard_size: int = flag(0, "hsdp: ranks of such a group; 0 = those of one machine")
    tensor_size: int = flag(1, "fsdp: ranks that share the layers in the blocks besides, as with tp")
    sequence: bool = flag(False, "with these or tp: what is between the layers is cut along the sequence, less memory")
    checkpoint_activations: bool = flag(False, "blocks compute their inside again in the backward pass: less memory, more time")
    layerwise: Literal["none", "greedy", "stream"] = flag(
        "none",
        "stream: blocks live on disk and visit the device in turn, same gradients; greedy: trained in turn, each under a head",
    )
    compile: bool = flag(False, "torch.compile the model: a slow first step, faster ones after")
    channels_last: bool = flag(False, "store images with the channel innermost: faster convolutions")
    num_workers: int = flag(0, "processes that prepare batches; sets kept in memory need none")
    device: str = flag("auto", "auto, cpu, cuda, cuda:1, mps ...; auto takes the fastest there is")
    log_every: int = flag(50, "steps between two points of the training curve")
    eval_every: int = flag(0, "steps between two evaluations; 0 = each epoch")
    save_every: int = flag(0, "steps between two saves of the full state; 0 = each epoch")
    plots: bool = flag(True, "draw figures and write TensorBoard's charts; history.json is written anyway")
    profile: int = flag(0, "steps to profile, after the first five: profile.txt and profile.json (a trace) in --out; 0 = none")
    fresh: bool = flag(False, "start over although --out holds a run")

    def __init_subclass__(cls) -> None:
        for name in vars(cls).keys() - inspect.get_annotations(cls).keys() - {"moved"}:
            if not name.startswith("_") and not hasattr(vars(cls)[name], "__get__"):  # a method or a property has it
                raise UserError(f"{cls.__name__}.{name} needs its type, as in `{name}: int = 1`: without it, it is no flag")

    def __post_init__(self) -> None:
        if isinstance(self.out, (str, os.PathLike)):
            object.__setattr__(self, "out", os.path.expanduser(self.out))  # shells let `--out=~/run` be
        for name, hint in get_type_hints(type(self)).items():
            value = getattr(self, name)
            if choices := choices_of(type(self), name, hint):
                self._check(name, value in choices, f"one of {', '.join(choices)}")
            elif hint in _KINDS:
                self._check(name, type(value) in _KINDS[hint][0], _KINDS[hint][1])
            if isinstance(value, str):
                self._check(name, value == value.encode(errors="replace").decode(), "text in UTF-8")  # else no log can hold it
            if isinstance(value, float):
                self._check(name, math.isfinite(value), "a finite number")
                self._check(name, abs(value) <= 1e30, "at most 1e30 in size, so that its products stay finite in fp32")
            if isinstance(value, int) and name != "seed":
                self._check(name, abs(value) < 2**31, "below 2^31")
        for name in ("epochs", "batch_size", "accumulate", "log_every"):
            self._check(name, getattr(self, name) >= 1, "at least 1")
        for name in ("seed", "steps", "weight_decay", "grad_clip", "num_workers", "eval_every", "save_every", "profile"):
            self._check(name, getattr(self, name) >= 0, "0 or more")
        self._check("seed", self.seed < 2**32, "below 2^32")
        self._check("num_workers", self.num_workers <= 256, "at most 256: each is a process of some 200 MB")
        self._check("lr", self.lr > 0, "above 0")
        self._check("ema", 0 <= self.ema < 1, "at least 0 and below 1")
        self._check("out", self.out.strip() != "", "the name of a folder")
        if self.layerwise != "none" and (self.parallel != "none" or self.compile or self.ema):
            raise UserError("--layerwise is for one process, without --parallel, --compile and --ema")

    def data_path(self, kind: str) -> Path | None:
        """Return PATH, with ~ as the home folder, if `data` is `kind`PATH, as folder:PATH; else None."""
        return user_path(self.data.removeprefix(kind)) if self.data.startswith(kind) else None

    def _check(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise UserError(f"{flag_name(name)} has to be {rule}; got {repr(getattr(self, name))[:50]}")


# What a field of a kind can be in Python, and how that is called.
_KINDS: dict[type, tuple[tuple[type, ...], str]] = {
    **{int: ((int,), "an integer"), float: ((float, int), "a number")},
    **{bool: ((bool,), "true or false"), str: ((str,), "a text")},
}


Config = TypeVar("Config", bound=TrainConfig)


def current_names(cls: type[TrainConfig], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return `values`, those of a config.json, with today's names of the fields of `cls` in place of their aliases."""
    names = {metadata_of(cls, field.name).get("alias"): field.name for field in dataclasses.fields(cls)}
    return {names.get(name, name): value for name, value in values.items()}


def flag_name(name: str) -> str:
    return "--" + name.replace("_", "-")


def choices_of(cls: type, name: str, hint: Any) -> tuple[str, ...]:
    """Return the values that a field is limited to: its type's if that is a `Literal`, else its flag's; () = no limit."""
    return get_args(hint) if get_origin(hint) is Literal else metadata_of(cls, name).get("choices", ())


def metadata_of(cls: type, name: str) -> Mapping[str, Any]:
    """Return what the nearest class says by `flag`: a recipe changes a default without repeating the rest."""
    for base in cls.__mro__:
        field = base.__dict__.get("__dataclass_fields__", {}).get(name)
        if field is not None and "help" in field.metadata:
            return field.metadata
    return {}
