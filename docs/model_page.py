"""The page of a model: card, drawing, model.py line by line, proof, result."""

import ast
import html
import json
import os
import re
from pathlib import Path
from typing import Any

import annotated
import diagram
from prose import ROOT, Links, sections, with_formulas

from dl.cli import catalogue, facts, front
from dl.mytorch.introspect import layer_summary

CHINESE = re.compile(r'^<p lang="zh">(.*?)</p>\n*', re.MULTILINE | re.DOTALL)
FIRST = ("What to look at in model.py", "How it is proven", "What is proven", "Results", "What the paper reports")


def page(name: str, words: dict[str, str], links: Links, language: str) -> str:
    """Return the page of the model `name`, "CNN/LeNet", as Markdown; `words` are the site's own in the language."""
    readme, here = f"dl/modules/{name}/README.md", f"models/{name}.md"
    text = (ROOT / readme).read_text(encoding="utf-8")
    chinese = CHINESE.search(text)
    parts = sections(CHINESE.sub("", text))
    intro = parts.pop("")
    title = intro.partition("\n")[0]
    if language == "zh" and chinese:
        intro = f"{title}\n\n{' '.join(chinese[1].split())}\n\n{_formulas(intro)}"
    kept = {heading: body.partition("\n")[2] for heading, body in parts.items()}
    look = kept.get(FIRST[0], "")
    proof = kept.get(FIRST[1]) or kept.get(FIRST[2], "")
    others = [body for heading, body in parts.items() if heading not in FIRST]
    path = ROOT / "dl/modules" / name / "model.py"
    source = os.path.relpath(links.target(f"dl/modules/{name}/model.py"), Path(here).parent).replace(os.sep, "/")
    whole = [
        intro,
        card(name, words),
        drawing(name, words),
        f"## {words['line by line']} {{: #code }}\n\n{look}\n\n{annotated.page(path, source)}",
        f"## {words['proof']} {{: #proof }}\n\n{proof}\n\n{tests(name, words)}",
        f"## {words['result']} {{: #result }}\n\n{kept.get('Results', '')}\n\n{figures(name)}",
        kept.get("What the paper reports", ""),
        *others,
    ]
    return links.rewritten(with_formulas("\n\n".join(whole)), readme, here)


def _formulas(text: str) -> str:
    return "\n\n".join(re.findall(r"\$\$.+?\$\$", text, re.DOTALL))


def card(name: str, words: dict[str, str]) -> str:
    """Return what there is to know of a model in a table of two columns."""
    paper, known = catalogue.paper(name), facts.read()[name]
    _, source, proven, reported, here, trained = front.row(name)
    rows = [
        (words["paper"], f'"{paper.title}", {source}'),
        (words["the paper reports"], reported),
        (words["here"], re.sub(r"\]\([^)]*\)", "](#result)", here)),
        (words["trained"], trained),
        (words["proven against"], proven),
        (words["sizes"], ", ".join(f"`{preset}` {_number(count)}" for preset, (count, _) in known["presets"].items())),
        ("FLOPs", ", ".join(f"`{preset}` {_number(flops)}" for preset, (_, flops) in known["presets"].items() if flops)),
        (words["try it"], f"`python -m dl train {name}`"),
    ]
    return "\n".join(["| | |", "| --- | --- |", *(f"| **{key}** | {value} |" for key, value in rows if value)])


def _number(count: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def drawing(name: str, words: dict[str, str]) -> str:
    """Return the recipe's network as a drawing of its layers."""
    module, preset = catalogue.module(name), _drawn(name)

    def compute() -> str:
        return layer_summary(module.build(preset).eval(), *module.example(preset))

    summary = catalogue.without_values(compute)
    return f"{diagram.svg(f'{name} {preset}', diagram.layers(summary))}\n\n`{preset}`: {words['drawing']}"


def _drawn(name: str) -> str:
    """Return the preset that train.py takes by default, else the first one."""
    default = getattr(catalogue.module(name, "train").Config, "model", "")
    return default if default in catalogue.presets(name) else catalogue.presets(name)[0]


def tests(name: str, words: dict[str, str]) -> str:
    """Return the names of the tests as sentences, those against another library first."""
    found: dict[bool, list[str]] = {True: [], False: []}
    for path in sorted((ROOT / "dl/modules" / name).glob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                parity = any("parity" in ast.unparse(each) for each in node.decorator_list)
                found[parity].append(node.name.removeprefix("test_").replace("_", " "))
    blocks = []
    for parity, title in ((True, words["against others"]), (False, words["tests"])):
        if found[parity]:
            items = "\n".join(f"<li>{html.escape(each)}</li>" for each in found[parity])
            blocks.append(f"<details><summary>{title}: {len(found[parity])}</summary><ul>\n{items}\n</ul></details>")
    return "\n".join(blocks)


def figures(name: str) -> str:
    """Return the figures of recorded runs that the README does not show."""
    folder = ROOT / "dl/modules" / name
    shown = (folder / "README.md").read_text(encoding="utf-8")
    paths = [path for kind in ("png", "gif") for path in sorted((folder / "results").glob(f"*.{kind}"))]
    return "\n\n".join(f"![{name}: {path.stem}](results/{path.name})" for path in paths if path.name not in shown)


def words_of(path: Path, language: str) -> dict[str, Any]:
    """Return the site's own words in a language."""
    return json.loads(path.read_text(encoding="utf-8"))[language]
