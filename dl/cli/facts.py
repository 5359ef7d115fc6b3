"""What `python -m dl list` shows of models without importing torch: facts.json, which `python -m dl results` writes."""

import json
from pathlib import Path
from typing import Any

from dl.cli import catalogue

FILE = Path(__file__).with_suffix(".json")


def read() -> dict[str, Any]:
    """Return {model: {"presets": {preset: [parameters, FLOPs]}, "best": [result, ...]}}."""
    return json.loads(FILE.read_text(encoding="utf-8"))


def compute(name: str) -> dict[str, Any]:
    """Return what there is to know of a model: its presets' parameters and FLOPs, see `catalogue.cost`, and best results."""
    from dl.cli import results

    costs = {preset: list(catalogue.cost(name, preset)) for preset in catalogue.presets(name)}
    return {"presets": costs, "best": results.best_results(name)}


def write() -> str:
    """Rewrite the file, and return a line that says so."""
    from dl.mytorch.files import write_json

    write_json({name: compute(name) for name in catalogue.names()}, FILE)
    return f"{FILE.relative_to(catalogue.ROOT)}: rewritten"
