"""A recipe's `main` as a program: its command line, its process group, its errors in one line."""

import contextlib
import dataclasses
import errno
import gc
import os
import sys
from typing import Callable, Iterator, NoReturn, Sequence, TypeVar

import torch
import torch.distributed as dist

from dl import escape_output, explained, print_error
from dl.mytorch import distributed
from dl.mytorch.command_line import parse
from dl.mytorch.config import Config, TrainConfig, UserError
from dl.mytorch.files import room
from dl.mytorch.large import memory
from dl.mytorch.mapped import init_on_disk

Result = TypeVar("Result")


def launch(main: Callable[[Config], Result], config_class: type[Config], argv: Sequence[str] | None = None) -> Result:
    """Parse the command line and run `main(config)`, under `python` or under `torchrun`.

    An error that the user can fix (`UserError`, a full disk, missing rights, too little memory) becomes one line on stderr
    and exit status 1; Ctrl-C outside training exits with 130. Any other exception is a bug and keeps its traceback.
    """
    escape_output()
    config = parse(config_class, argv)
    streamed = config.layerwise == "stream"
    try:
        memory.check_before_building(main, config)
        with _process_group(config), init_on_disk(config.out) if streamed else contextlib.nullcontext():
            return main(config)
    except KeyboardInterrupt:
        _fail("interrupted; the same command resumes from the last save", 130)
    except Exception as error:
        line = _line(error, config)
        if line is None:
            raise
        _fail(line, 1)


def _line(error: Exception, config: TrainConfig) -> str | None:
    """Return what helps against an error that the user can fix, in one line; None for any other error."""
    text = str(error)
    if line := explained(error):
        smaller = ": halve --batch-size and double --accumulate for the same result"
        return line if isinstance(error, UserError) else line + smaller
    if "Too many open files" in text:
        return "too many open files: allow more, say by `ulimit -n 4096`, or take fewer --num-workers"
    # What was under way when a worker was killed: a read of its pipe, or of a socket that it has made.
    cut_off = isinstance(error, (ConnectionError, EOFError, FileNotFoundError)) and getattr(error, "filename", None) is None
    if "DataLoader worker" in text or (cut_off and config.num_workers):
        reason = text.partition("\n")[0].rstrip(". ") if "DataLoader" in text else "a DataLoader worker was killed"
        return f"{reason}: too little memory, or too small a /dev/shm (docker run --shm-size=2g)? Take fewer --num-workers"
    if config.deterministic and "deterministic" in text:
        return f"--deterministic: {text.partition(', but you set')[0]}; leave the flag out, or take --device cpu"
    if "more than 1 value per channel" in text:
        smaller = "choose larger images, or a --batch-size that leaves more than one image for the last batch"
        return f"batch norm cannot learn from one image whose map has shrunk to one pixel: {smaller}"
    if "could not create a primitive" in text:
        return "this processor cannot compute a layer of this network in bf16: --precision auto or fp32"
    several = os.environ.get("WORLD_SIZE", "1") != "1"  # the process group is gone by now
    if several and (isinstance(error, dist.DistError) or "gloo" in text):
        if "imed out" in text or "imeout" in text:
            wait = f"{distributed.TIMEOUT.total_seconds():.0f} s"
            return f"another rank has not answered for {wait}: one of those that print no such line; it hangs or was stopped"
        return "another rank has stopped; its own line says why, or torchrun's summary if it was killed"
    if isinstance(error, OSError) and (error.filename or error.errno):
        return f"{error.strerror}: {error.filename or config.out}{room(config.out) if error.errno == errno.ENOSPC else ''}"
    return None


def _fail(message: str, status: int) -> NoReturn:
    rank = distributed.rank()
    print_error(message, f"[rank {rank}] " if rank else "")
    sys.exit(status)


@contextlib.contextmanager
def _process_group(config: TrainConfig) -> Iterator[None]:
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks == 1:
        yield
        return
    if config.parallel == "none":
        raise UserError(f"torchrun started {ranks} processes, but --parallel is none: add --parallel ddp or --parallel fsdp")
    if os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0" and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        # Restarted ranks would read the addresses of dead ones there: https://github.com/pytorch/pytorch/issues/135712
        way = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 torchrun --rdzv-backend=c10d --max-restarts=..."
        raise UserError(f"torchrun's --max-restarts may wait for ever, unless every start has a store of its own: {way}")
    here = distributed.device(config.device)
    if here.type == "cuda":
        torch.cuda.set_device(here)
    if sys.platform == "win32":
        os.environ.setdefault("USE_LIBUV", "0")  # torch is built without it there, and asks for it all the same
    try:
        dist.init_process_group("nccl" if here.type == "cuda" else "gloo", timeout=distributed.TIMEOUT)
    except (dist.DistError, RuntimeError) as error:
        place = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
        reason = str(error).partition("\n")[0][:200]
        wait = f"{distributed.TIMEOUT.total_seconds():.0f} s"
        raise UserError(f"the {ranks} ranks did not meet at {place} within {wait} ({reason})") from None
    try:
        _check_alike(config)
        yield
        dist.barrier()  # so that gloo's threads have released the tensors before
    finally:
        # It ends gloo's threads, unless something still holds the group: then one that has a tensor to free may abort
        # Python at its exit. FSDP holds it; torch.distributed.nn.functional would, as a default, if imported after this.
        distributed.background_group.cache_clear()
        gc.collect()  # a trainer and its step know each other
        dist.destroy_process_group()


def _check_alike(config: TrainConfig) -> None:
    """All ranks train one model: `UserError` on each of them when their flags differ."""
    first, *others = distributed.gather_objects(dataclasses.asdict(config))
    for place, other in enumerate(others, start=1):
        differs = [f"{name} {other.get(name)} instead of {value}" for name, value in first.items() if other.get(name) != value]
        if differs:
            raise UserError(f"rank {place} was started with other flags than rank 0: {', '.join(differs)}")
