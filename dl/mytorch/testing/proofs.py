"""How far a model is from its twins: `pytest --proof FOLDER` measures, and writes proof.json beside each model.py."""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from dl.mytorch import provenance
from dl.mytorch.files import read_json, write_json
from dl.mytorch.testing import twins

FILE = "proof.json"
EXACT = 1e-8  # what is compared in less than float64 is no proof
LIBRARIES = (
    *("diffusers", "lightly", "pycocotools", "sacrebleu", "scipy", "sklearn", "stable_baselines3", "tiktoken", "timm"),
    *("torch_geometric", "torchrl", "transformers", "trl"),
)
TEST = {
    "values?": float,
    "outputs?": float,
    "gradients?": float,
    "weights?": float,
    "tolerance": float,
    "cases": int,
    "parity": bool,
}
SCHEMA = {
    **{"commit": str, "versions": {str: str}, "processor": str, "capability": str},
    **{"model.py": str, "tests": {str: TEST}, "skipped": [str]},
}


def read(folder: Path) -> dict[str, Any] | None:
    """Return the proof of the model in `folder`, with "stale" if its model.py is another one by now; None if there is none.

    Its "tests" are {file::name: largest differences of outputs, gradients, weights after the steps}, over all "cases" of a
    test's parameters; "values" are all that a parity test compares by `torch.testing.assert_close`. Raises `UserError`,
    naming the file and the field, for a damaged one.
    """
    if not (folder / FILE).exists():
        return None
    proof = read_json(folder / FILE, SCHEMA)
    return proof | {"stale": proof["model.py"] != _sha256(folder / "model.py")}


class Recorder:
    """A plugin of pytest. A folder with a failure keeps the proof that it has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.tests: dict[Path, dict[str, dict[str, Any]]] = {}
        self.skipped: dict[Path, set[str]] = {}
        self.failed: set[Path] = set()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        twins.LARGEST.clear()
        tests = self.tests.setdefault(item.path.parent, {})
        parity = item.get_closest_marker("parity") is not None
        with measured() if parity else contextlib.nullcontext():
            yield  # which raises if the test fails
        if twins.LARGEST:
            name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
            known = tests.setdefault(name, {"cases": 0, "parity": parity})
            known["cases"] += 1
            known |= {kind: max(value, known.get(kind, 0.0)) for kind, value in twins.LARGEST.items()}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._note(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._note(report)

    def _note(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        path = self.root / report.nodeid.partition("::")[0]
        if report.failed:
            self.failed.add(path.parent)
        elif report.skipped and path.name != "train.py":
            self.skipped.setdefault(path.parent, set()).add(report.nodeid.rpartition("/")[2].partition("[")[0])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for folder, tests in sorted(self.tests.items()):
            shown = (folder / FILE).relative_to(self.root)
            if folder in self.failed:
                terminalreporter.write_line(f"{shown}: not written, a test failed")
            elif (folder / "model.py").exists():
                write_json(self._proof(folder, tests), folder / FILE)
                terminalreporter.write_line(f"{shown}: {len(tests)} tests")

    def _proof(self, folder: Path, tests: dict[str, dict[str, Any]]) -> dict[str, Any]:
        there = {name: getattr(sys.modules.get(name), "__version__", "") for name in LIBRARIES}
        about = provenance.machine()
        return {
            "commit": provenance.commit(self.root),
            "versions": provenance.versions() | {name: version for name, version in there.items() if version},
            **{name: about[name] for name in ("processor", "capability")},
            "model.py": _sha256(folder / "model.py"),
            "tests": {
                name: {kind: _short(value) for kind, value in sorted(test.items())} for name, test in sorted(tests.items())
            },
            "skipped": sorted(self.skipped.get(folder, ())),
        }


@contextlib.contextmanager
def measured() -> Iterator[None]:
    """Note the largest difference in `torch.testing.assert_close` as "values", if it allows `EXACT` at most."""
    assert_close = torch.testing.assert_close

    def close(actual: Any, expected: Any, **options: Any) -> None:
        assert_close(actual, expected, **options)
        if options.get("rtol") == 0 and options["atol"] <= EXACT:
            for name, value in (("values", _largest(actual, expected)), ("tolerance", float(options["atol"]))):
                twins.LARGEST[name] = max(twins.LARGEST.get(name, 0.0), value)

    torch.testing.assert_close = close
    try:
        yield
    finally:
        torch.testing.assert_close = assert_close


def _largest(actual: Any, expected: Any) -> float:
    """Return the largest difference of two tensors, or of lists or dicts of them."""
    if isinstance(actual, dict):
        return max((_largest(actual[name], expected[name]) for name in actual), default=0.0)
    if isinstance(actual, (list, tuple)):
        return max((_largest(one, other) for one, other in zip(actual, expected)), default=0.0)
    one, other = (torch.as_tensor(x).detach().double() for x in (actual, expected))
    return (one - other).abs().max().item() if one.numel() else 0.0


def _short(value: float | bool) -> float | bool:
    """Return a difference with two digits; what is not one as it is."""
    return float(f"{value:.1e}") if isinstance(value, float) else value


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes().replace(b"\r\n", b"\n")).hexdigest()  # git writes these on Windows
