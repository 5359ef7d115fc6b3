"""What runs, and on what: the command as it was typed, the commit of the code, the versions and the processor."""

import contextlib
import functools
import os
import platform
import re
import shlex
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

ISA = "ONEDNN_MAX_CPU_ISA"  # makes matrix products those of an older processor, with other roundings


def command() -> str:
    """Return this process's command, each word quoted for a POSIX shell; `python -m dl train lenet` is that of the recipe."""
    module = getattr(sys.modules["__main__"], "__spec__", None)  # None for a file that was run by its path
    return shlex.join(["python", *(["-m", module.name] if module else sys.argv[:1]), *sys.argv[1:]])


@functools.cache  # that of the code which this process has loaded
def commit(folder: Path) -> str:
    """Return the commit of the code, with "+" when files differ from it or are new; "" outside git."""
    git = ["git", "-C", str(folder)]
    try:
        found = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""
    return found + ("+" if changed else "")


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions of Python, of the packages that compute, and of this project."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for name in ("torchvision", "numpy"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.exists() and (version := re.search(r'^version = "(.+)"$', project.read_text(encoding="utf-8"), re.MULTILINE)):
        found["dl"] = version[1]
    return found


def machine() -> dict[str, Any]:
    """Return the processor's name, what it can do and may use, and the threads that compute on it."""
    return {"processor": processor_name(), "capability": capability(), "threads": torch.get_num_threads()}


def processor_name() -> str:
    """Return what the maker calls the processor, as well as the system says it."""
    with contextlib.suppress(OSError):  # Linux
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError):
            asked = ["sysctl", "-n", "machdep.cpu.brand_string"]
            return subprocess.run(asked, capture_output=True, text=True).stdout.strip() or platform.machine()
    return platform.processor() or platform.machine()


def capability() -> str:
    """Return the instructions that this processor's numbers depend on: "AVX2", "AVX512, avx512_bf16, amx_bf16"."""
    able = getattr(torch.cpu, "get_capabilities", dict)()  # not in every torch that this project runs on
    words = [torch.backends.cpu.get_cpu_capability(), *(name for name in ("avx512_bf16", "amx_bf16") if able.get(name))]
    return ", ".join(words + ([f"{ISA}={os.environ[ISA]}"] if os.environ.get(ISA) else []))
