"""What may be wrong with this machine, and what helps: `python -m dl doctor`.

It has to run where torch is missing or broken, so this file imports only what comes with Python.
"""

import importlib
import importlib.metadata
import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple
from urllib.parse import urlparse
from urllib.request import url2pathname

ROOT = Path(__file__).resolve().parents[2]
INSTALL = "pip install -r requirements.txt"


class Finding(NamedTuple):
    """One line of the report."""

    mark: str  # "ok"; "note": work can continue; "problem": it cannot
    text: str


def main() -> int:
    """Print all findings. 1 if one of them is a problem, else 0."""
    findings: list[Finding] = []
    for check in (python, packages, installation, torchvision_build, devices, data_sets, text_sets, disk):
        for finding in check():
            print(f"{finding.mark:<8} {finding.text}")
            findings.append(finding)
    problems = sum(finding.mark == "problem" for finding in findings)
    print(f"\n{problems} problem{'s' * (problems != 1)}" if problems else "\nready")
    return 1 if problems else 0


def python() -> Iterator[Finding]:
    """Python against requires-python."""
    running = ".".join(map(str, sys.version_info[:3]))
    wanted = re.search(r'requires-python = ">=(\d+)\.(\d+)"', _text("pyproject.toml"))
    if wanted and sys.version_info[:2] < (int(wanted[1]), int(wanted[2])):
        yield Finding("problem", f"Python {running} is older than {wanted[1]}.{wanted[2]}, which this project needs")
    else:
        yield Finding("ok", f"Python {running}, {sys.executable}")


def packages() -> Iterator[Finding]:
    """Installed packages against the pins, which are what is tested."""
    for name, pin in re.findall(r"^([\w-]+)==(\S+)", _text("requirements.txt"), re.MULTILINE):
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding("problem", f"{name} is not installed: {INSTALL}")
            continue
        if version.partition("+")[0] == pin:  # "+cpu" names a build, not another version
            yield Finding("ok", f"{name} {version}")
        elif name == "torch" and version.partition(".")[0] != pin.partition(".")[0]:
            yield Finding("problem", f"torch {version} is another major version than {pin}: {INSTALL}")
        else:
            yield Finding("note", f"{name} {version}; tested with {pin}: {INSTALL}")


def installation() -> Iterator[Finding]:
    """Yield whether `import dl` finds this checkout from any folder."""
    for found in importlib.metadata.distributions(name="dl"):
        origin = json.loads(found.read_text("direct_url.json") or "{}")  # none: the egg-info in the checkout itself
        if origin.get("dir_info", {}).get("editable"):
            folder = Path(url2pathname(urlparse(origin["url"]).path)).resolve()
            if folder == ROOT:
                yield Finding("ok", f"dl is installed in editable form from {ROOT}")
            else:
                yield Finding("note", f"elsewhere `import dl` finds {folder}, not this {ROOT}: pip install -e . here")
            return
    yield Finding("note", f"`import dl` works only in {ROOT}: pip install -e . makes it work everywhere")


def torchvision_build() -> Iterator[Finding]:
    """Yield whether torchvision fits torch. See dl/mytorch/torchvision_compat.py."""
    try:
        importlib.import_module("torchvision")
    except (ImportError, OSError) as error:
        yield Finding("problem", f"torchvision does not import ({error}): {INSTALL}")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            yield Finding("problem", f"torchvision does not import ({error}): {INSTALL}")
            return
        build = importlib.metadata.version("torch").partition("+")[2]  # "cpu" or "cu128"; none for PyPI's own
        index = f" --index-url https://download.pytorch.org/whl/{build}" if build else ""
        yield Finding(
            "note",
            "torchvision is built for another torch than this one (CUDA and CPU, say): `import torchvision` fails with "
            '"operator torchvision::nms does not exist". This project works around it. To fix it, install torchvision '
            f"from where torch is from: pip install --force-reinstall --no-deps torchvision{index}",
        )
    else:
        yield Finding("ok", "torchvision fits torch")


def devices() -> Iterator[Finding]:
    """Yield which devices there are to train on."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it loads is missing
        yield Finding("problem", f"torch does not import: {error}")
        return
    yield Finding("ok", f"{_processor(torch.get_num_threads())}; {_auto_precision(torch.device('cpu'))}")
    for i in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(i)
        yield Finding(
            "ok", f"cuda:{i}: {gpu.name}, {gpu.total_memory / 2**30:.0f} GiB; {_auto_precision(torch.device('cuda', i))}"
        )
    if torch.backends.mps.is_available():
        yield Finding("ok", f"mps: Apple GPU; {_auto_precision(torch.device('mps'))}")
    if not torch.cuda.is_available() and shutil.which("nvidia-smi"):
        way = "pip install --force-reinstall torch torchvision --index-url https://download.pytorch.org/whl/cu126"
        built = (
            f"is built for CUDA {torch.version.cuda}, newer than the driver" if torch.version.cuda else "is built for the CPU"
        )
        yield Finding(
            "note",
            f"the NVIDIA GPU is not used: torch {torch.__version__} {built}. `nvidia-smi` shows the newest CUDA of the driver; "
            f"for 12.6 or newer: {way}",
        )


def _processor(threads: int) -> str:
    """Return the processor's name, threads and instructions."""
    try:
        from dl.mytorch.provenance import machine
    except (ImportError, OSError):  # data_sets says it
        return f"CPU, threads: {threads}"
    about = machine()
    return f"CPU {about['processor']}, threads: {threads}; {about['capability']}"


def _auto_precision(device: Any) -> str:
    """Return what `--precision auto` takes on a torch.device."""
    try:
        from dl.mytorch.precision import native_bf16
    except (ImportError, OSError):  # data_sets says it
        return "--precision auto unknown"
    native, clause = native_bf16(device)
    return f"--precision auto takes {'bf16' if native else 'fp32'}: {clause}"


def data_sets() -> Iterator[Finding]:
    """Yield which data sets are there; the bundled sample, which tests and demo need, is read and its checksums compared."""
    try:
        from dl.mytorch.config import UserError
        from dl.mytorch.data import sources
        from dl.mytorch.data.images import sets
    except (ImportError, OSError) as error:
        yield Finding("problem", f"the core does not import: {error}")
        return
    for name, source in sets.SOURCES.items():
        folder = sources.find(source)
        bundled = name.endswith("-sample")
        if folder is None:
            helps = f"{source.help}{'; training downloads it' if source.fetch else ''}"
            yield Finding("problem" if bundled else "note", f"{name} is not on this machine: {helps}")
            continue
        try:
            if bundled:
                sources.read(name, source)
            yield Finding("ok", f"{name} in {folder}{', checksums right' if bundled else ''}")
        except UserError as error:
            yield Finding("problem", f"{error}. {source.help}")


def text_sets() -> Iterator[Finding]:
    """Yield which sets of text are there; the bundled ones have to be."""
    try:
        from dl.mytorch.data import sources
        from dl.mytorch.data.text.shakespeare import SOURCES as plays
        from dl.mytorch.data.text.translation import SOURCES as pairs
        from dl.mytorch.data.text.wikitext2 import SOURCE as wikitext2
    except (ImportError, OSError):  # said already, with the data sets
        return
    sets = {**plays, "wikitext2": wikitext2, **pairs}
    first = {source.places: name for name, source in reversed(sets.items())}  # a set may be read in two ways
    for name, source in sets.items():
        if first[source.places] != name:
            continue
        bundled, folder = name.endswith("-sample"), sources.find(source)
        if folder is None:
            way = source.help if bundled else f"training downloads it; without a network: {source.help}"
            yield Finding("problem" if bundled else "note", f"{name} is not in {source.folders[0]}: {way}")
        else:
            yield Finding("ok", f"{name} in {folder}")


def disk() -> Iterator[Finding]:
    """Room for data and runs, and for what worker processes hand over."""
    for name in ("data", "runs"):
        folder = ROOT / name
        free = shutil.disk_usage(folder if folder.exists() else ROOT).free / 1e9
        mark, helps = ("ok", "") if free >= 5 else ("note", ": little for large data sets and checkpoints")
        yield Finding(mark, f"{folder}: {free:.0f} GB free{helps}")
    shared = Path("/dev/shm")  # only Linux has it
    if shared.exists():
        size = shutil.disk_usage(shared).total / 1e9
        if size >= 1:
            yield Finding("ok", f"{shared}: {size:.1f} GB for --num-workers")
        else:
            yield Finding("note", f"{shared} has {size:.2f} GB: --num-workers 1 and more may die; docker run --shm-size=2g")


def _text(name: str) -> str:
    """Return a file of the checkout; "" where dl was installed without it."""
    path = ROOT / name
    return path.read_text(encoding="utf-8") if path.exists() else ""
