"""The proof on a model's page: what was measured against its twins, its tests, and the public errors that these exclude."""

import ast
import html
import re
from pathlib import Path
from typing import Any

from prose import ROOT

from dl.mytorch.testing import proofs

KINDS = {"outputs": "outputs", "gradients": "gradients", "weights": "weights", "values": "compared"}  # kind -> its heading


def section(name: str, words: dict[str, Any]) -> str:
    """Return the parts below what the README of the model `name` says."""
    return "\n\n".join(filter(None, [measured(name, words), tests(name, words), errors(name, words)]))


def measured(name: str, words: dict[str, Any]) -> str:
    """Return the largest differences from twins as a table, with what they were measured by; a line where there is none."""
    folder = ROOT / "dl/modules" / name
    found = proofs.read(folder)
    command = f"`pytest --proof dl/modules/{name}`"
    if found is None:
        return f"*{words['not measured']}* {command}"
    there = {f"{path.name}::{test.name}" for path, test in _tests(folder)}
    twins = {test: values for test, values in against_twins(found).items() if test in there}
    kinds = [kind for kind in KINDS if any(kind in values for values in twins.values())]
    headings = [words["tests"], *(words[KINDS[kind]] for kind in kinds), words["tolerance"]]
    rows = [f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
    for test, values in sorted(twins.items(), key=lambda item: not item[1]["parity"]):
        said = sentence(test.partition("::")[2])
        times = f" ({values['cases']} x)" if values["cases"] > 1 else ""
        cells = [f"{values[kind]:.1e}".replace("0.0e+00", "0") if kind in values else "" for kind in kinds]
        rows.append(f"| {said}{times} | {' | '.join(cells)} | {values['tolerance']:.0e} |")
    versions = ", ".join(f"{library} {version}" for library, version in found["versions"].items() if library != "dl")
    how = words["measured"].format(commit=found["commit"][:7], versions=versions, processor=found["processor"])
    stale = (
        f"*{words['stale']}* {command}" if found["stale"] or len(there & found["tests"].keys()) < len(found["tests"]) else ""
    )
    table = "\n".join(rows) if twins else words["no twin"]
    return "\n\n".join(filter(None, [stale, how, table]))


def against_twins(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the tests of a proof that compare gradients, or values with those of another library."""
    return {test: values for test, values in found["tests"].items() if "gradients" in values or "values" in values}


def _tests(folder: Path) -> list[tuple[Path, ast.FunctionDef]]:
    found = []
    for path in sorted(folder.glob("test_*.py")):
        nodes = ast.parse(path.read_text(encoding="utf-8")).body
        found += [(path, node) for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]
    return found


def sentence(name: str) -> str:
    """Return what the name of a test says: "it is torch's" for test_it_is_torch_s."""
    return re.sub(r" s(?= |$)", "'s", name.removeprefix("test_").replace("_", " "))


def tests(name: str, words: dict[str, Any]) -> str:
    """Return the names of the tests as sentences, those against another library first."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for _, node in _tests(ROOT / "dl/modules" / name):
        parity = any("parity" in ast.unparse(each) for each in node.decorator_list)
        found[parity].append(sentence(node.name))
    blocks = []
    for parity, title in ((True, words["against others"]), (False, words["tests"])):
        if found[parity]:
            items = "\n".join(f"<li>{html.escape(each)}</li>" for each in found[parity])
            blocks.append(f"<details><summary>{title}: {len(found[parity])}</summary><ul>\n{items}\n</ul></details>")
    return "\n".join(blocks)


def errors(name: str, words: dict[str, Any]) -> str:
    """Return the public errors that tests of the model or of its category exclude, and where the others are."""
    text = (ROOT / "docs/public-errors.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if f"](../dl/modules/{name}/" in line]
    cells = [re.split(r"(?<!\\) \| ", row.strip("| ")) for row in rows]
    up = "../../../.."  # links are as of the model's README
    items = [f"- {row[0]} {words['excluded by']} {row[1].replace('](..', f']({up}')}" for row in cells]
    return "\n".join([*items, "" if items else "", words["other errors"].format(link=f"{up}/docs/public-errors.md")])
