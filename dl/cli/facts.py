"""What `python -m dl list` shows of models without importing torch: facts.json, which `python -m dl results` writes."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dl.cli import catalogue

FILE = Path(__file__).with_suffix(".json")


def read() -> dict[str, Any]:
    """Return {model: {"presets": {preset: [parameters, FLOPs]}, "model.py": its SHA-256, "best": [result, ...]}}."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def compute(name: str) -> dict[str, Any]:
    """Return what there is to know of a model: its presets' parameters and FLOPs, see `catalogue.cost`, and best results."""
    from dl.cli import results

    costs = {preset: list(catalogue.cost(name, preset)) for preset in catalogue.presets(name)}
    return {"presets": costs, "model.py": _digest(name), "best": results.best_results(name)}


def current() -> dict[str, Any]:
    """Return what is known of all models, with today's results. Costs, which take seconds, are computed if a model.py changed.

    What a network costs may change by what its model.py imports, too: the slow tests compute all of them.
    """
    from dl.cli import results

    known, found = read(), {}
    for name in catalogue.names():
        unchanged = name in known and known[name].get("model.py") == _digest(name)
        found[name] = known[name] | {"best": results.best_results(name)} if unchanged else compute(name)
    return found


def _digest(name: str) -> str:
    text = (catalogue.MODULES / name / "model.py").read_bytes().replace(b"\r\n", b"\n")  # git writes these on Windows
    return hashlib.sha256(text).hexdigest()


def write() -> str:
    """Rewrite the file, and return a line that says so."""
    from dl.mytorch.files import write_json

    write_json(current(), FILE)
    return f"{FILE.relative_to(catalogue.ROOT)}: rewritten"
