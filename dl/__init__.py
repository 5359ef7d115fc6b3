"""Deep-learning papers in PyTorch. This file is read by every Python, before any whose syntax an older one does not know."""

import importlib
import importlib.util
import os
import sys

if sys.version_info < (3, 11):
    found = "%d.%d (%s)" % (sys.version_info[0], sys.version_info[1], sys.executable)
    sys.exit("dl needs Python 3.11 or newer, and this is %s. `make test PYTHON=python3.11` installs all into .venv." % found)

if not os.path.exists(os.path.join(os.path.dirname(__file__), "cli", "facts.json")):  # a wheel holds no records and no samples
    sys.exit(
        "dl was installed without its records and samples. Clone its repository, and there: pip install -r requirements.txt"
    )


def print_error(message: str, where: str = "") -> None:
    """Print what the user can fix: the only place that does."""
    print(where + "error: " + message, file=sys.stderr, flush=True)


def shown_bytes(count: float) -> str:
    """Return a number of bytes as readable text: "1.2 GB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 999.5:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"


def escape_output() -> None:
    r"""Print as escapes (\xb1) what the terminal's encoding lacks, and to nowhere where output is closed: no traceback."""
    sys.stdout, sys.stderr = (stream or open(os.devnull, "w", encoding="utf-8") for stream in (sys.stdout, sys.stderr))
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


NO_MEMORY = (
    "can't allocate memory",
    "not enough memory",
    "Cannot allocate memory",
    "Unable to allocate",
    "can't start new thread",
)


def explained(error: Exception) -> "str | None":
    """Return the line for an error that the user can fix, a `UserError` or too little memory; None for other errors."""
    config, torch = map(sys.modules.get, ("dl.mytorch.config", "torch"))  # what nobody has imported has raised nothing
    if config and isinstance(error, config.UserError):
        return str(error)
    no_memory = isinstance(error, MemoryError) or (torch and isinstance(error, torch.OutOfMemoryError))
    return "out of memory" if no_memory or any(words in str(error) for words in NO_MEMORY) else None


def explain_missing(kind: type, error: BaseException, trace: object) -> None:
    """`sys.excepthook` of an interpreter without the installed packages: one line in place of a traceback."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).split(".")[0] in NEEDED:
        environment = r".venv\Scripts\activate" if sys.platform == "win32" else ". .venv/bin/activate"
        print_error(
            f"{sys.executable} has no {error.name}. `make test` installs all into .venv; then `{environment}` "
            "in each new terminal. By hand: pip install -r requirements.txt"
        )
    else:
        sys.__excepthook__(kind, error, trace)  # type: ignore[arg-type]


NEEDED = ("torch", "numpy", "tqdm", "PIL", "torchvision", "tensorboard", "matplotlib")
if importlib.util.find_spec("torch") is None:
    sys.excepthook = explain_missing


def __getattr__(name: str) -> object:
    """`dl.Run`, which imports torch: only when it is asked for."""
    if name != "Run":
        raise AttributeError("module 'dl' has no attribute %r" % name)
    return importlib.import_module("dl.cli.runs").Run
