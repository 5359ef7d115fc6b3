"""The page of a model: card, drawing, model.py line by line, proof, result."""

import ast
import json
import os
import re
import textwrap
from pathlib import Path
from typing import Any

import annotated
import curves
import diagram
import equations
import proof
from prose import CHINESE, ROOT, Links, sections, with_formulas

from dl.cli import catalogue, facts, front, results
from dl.mytorch.introspect import layer_summary
from dl.mytorch.testing import proofs

HERE = Path(__file__).parent

FIRST = (
    "What to look at in model.py",
    "How it is proven",
    "What is proven",
    "Results",
    "What the paper reports",
    "Deviations",
    "Train it",
)

PARTS = {"code": "code", "proof": "proof", "run it": "run", "result": "results", "deviations": "deviations"}


def page(name: str, words: dict[str, str], links: Links, language: str) -> str:
    """Return the page of the model `name`, "CNN/LeNet", as Markdown; `words` are the site's own in the language."""
    readme, here = f"dl/modules/{name}/README.md", f"models/{name}.md"
    text = (ROOT / readme).read_text(encoding="utf-8")
    chinese = CHINESE.search(text)
    parts = sections(CHINESE.sub("", text))
    intro = folded(parts.pop(""), words["all layers"])
    title = intro.partition("\n")[0]
    if language == "zh" and chinese:
        intro = f"{title}\n\n{' '.join(chinese[1].split())}\n\n{_formulas(intro)}\n\n*{words['rest']}*"
    kept = {heading: body.partition("\n")[2] for heading, body in parts.items()}
    look = folded(kept.get(FIRST[0], ""), words["all layers"])
    proven = kept.get(FIRST[1]) or kept.get(FIRST[2], "")
    others = [body for heading, body in parts.items() if heading not in FIRST]
    formulas = [body for body in others if "$$" in body]
    paper, recorded = words["the paper reports"].capitalize(), kept.get("Results", "")
    paper = f"## {paper} {{: #what-the-paper-reports }}\n\n{kept[FIRST[4]]}" if FIRST[4] in kept else ""
    whole = [
        intro,
        card(name, words, language),
        *formulas,
        drawing(name, words),
        f"## {words['code']} {{: #code }}\n\n{look}\n\n{code(name, links)}",
        f"## {words['proof']} {{: #proof }}\n\n{proven}\n\n{proof.section(name, words)}",
        f"## {words['run it']} {{: #run }}\n\n{run_it(name, words)}\n\n{kept.get('Train it', '')}",
        f"## {words['result']} {{: #results }}\n\n{recorded}\n\n{curves.section(name, words)}\n\n{figures(name)}",
        paper,
        f"## {words['deviations']} {{: #deviations }}\n\n{kept.get('Deviations') or deviations(name)}",
        *(body for body in others if body not in formulas),
    ]
    return links.rewritten(with_formulas(equations.without_comments("\n\n".join(whole))), readme, here)


def code(name: str, links: Links) -> str:
    """Return model.py line by line, then what computes an equation of the README in another file."""
    folder = ROOT / "dl/modules" / name
    found = equations.read(folder / "README.md")
    parts = []
    for path in dict.fromkeys([folder / "model.py", *(each.file for each in found)]):
        file = path.relative_to(ROOT).as_posix()
        source = os.path.relpath(links.target(file), Path(f"models/{name}.md").parent).replace(os.sep, "/")
        own = [each for each in found if each.file == path]
        if path.name == "model.py" and path.parent == folder:
            parts.append(annotated.page(path, source, own))
        else:
            shown = path.relative_to(folder).as_posix() if path.is_relative_to(folder) else file
            parts.append(f"### {shown}\n\n{annotated.page(path, source, own, path.stem)}")
    return "\n\n".join(parts)


def _formulas(text: str) -> str:
    return "\n\n".join(re.findall(r"\$\$.+?\$\$", text, re.DOTALL))


def folded(text: str, title: str) -> str:
    """Return a text whose tables of layers are folded away: the drawing above shows the outermost."""
    change = rf'<details markdown="1"><summary>{title}</summary>\n\n\1\n\n</details>'
    return re.sub(r"^(```\nlayer .*?^```)$", change, text, flags=re.MULTILINE | re.DOTALL)


def card(name: str, words: dict[str, str], language: str) -> str:
    """Return what there is to know of a model in a table of two columns."""
    paper, known = catalogue.paper(name), facts.read()[name]
    group = (results.default_group(name) or next(iter(results.best_groups(name).values()), ("", [])))[1]
    _, source, proven, reported, here, trained = front.row(name)
    rows = [
        (words["paper"], f'"{paper.title}", {source}'),
        (words["the paper reports"], reported),
        (words["here"], re.sub(r"\]\([^)]*\)", "](#results)", here)),
        (words["trained"], ", ".join(filter(None, [trained, *dict.fromkeys(each["device"] for each in group)]))),
        (words["data"], _data(group, words)),
        (words["proven against"], f"{proven}{_tolerance(name)}"),
        (words["sizes"], ", ".join(f"`{preset}` {_number(count)}" for preset, (count, _) in known["presets"].items())),
        ("FLOPs", ", ".join(f"`{preset}` {_number(flops)}" for preset, (_, flops) in known["presets"].items() if flops)),
    ]
    if language == "zh":
        rows[1:6] = [(key, front.translated(value, "README.zh-CN.md")) for key, value in rows[1:6]]
    links = " \u00b7 ".join(f"[{words[word]}](#{place})" for word, place in PARTS.items())
    return "\n".join([links, "", "| | |", "| --- | --- |", *(f"| **{key}** | {value} |" for key, value in rows if value)])


def _data(group: list[Any], words: dict[str, str]) -> str:
    """Return the set that a group of runs was trained on, with its licence as docs/data.md states it."""
    data = group[0]["config"]["data"] if group else ""
    for line in (ROOT / "docs/data.md").read_text(encoding="utf-8").splitlines():
        cells = line.strip("| ").split(" | ")
        if data and f"`{data.removesuffix('-sample')}`" in cells[0]:
            return f"[{data}](../../../../docs/data.md), {words['licence']}: {cells[-1]}"
    return data


def _tolerance(name: str) -> str:
    """Return the largest difference that a model's proof found, and what was allowed; "" without a proof."""
    twins = proof.against_twins(proofs.read(ROOT / "dl/modules" / name) or {"tests": {}}).values()
    if not twins:
        return ""
    largest = max(each.get(kind, 0.0) for each in twins for kind in proof.KINDS)
    return f": [{f'{largest:.0e}' if largest else '0'}, \u2264 {max(each['tolerance'] for each in twins):.0e}](#proof)"


def _number(count: int) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def drawing(name: str, words: dict[str, str]) -> str:
    """Return the recipe's network as a drawing of its layers, and one of the inside of each kind of block."""
    module, preset = catalogue.module(name), _drawn(name)

    def compute() -> str:
        return layer_summary(module.build(preset).eval(), *module.example(preset))

    summary = catalogue.without_values(compute)
    check_layers(name, (ROOT / "dl/modules" / name / "README.md").read_text(encoding="utf-8"), summary)
    parts = [diagram.svg(f"{name} {preset}", diagram.layers(summary)), f"`{preset}`: {words['drawing']}"]
    for block in diagram.blocks(summary):
        title = words["inside"].format(block=f"{block[0].name} ({block[0].kind})")
        parts += [diagram.svg(f"{name} {preset}, {title}", block), title]
    return "\n\n".join(parts)


def check_layers(name: str, readme: str, summary: str) -> None:
    """Raise `ValueError` if a table of layers in a README has one that no preset of the model has by that name and type."""
    known = diagram.rows(summary)
    for table in re.findall(r"^```\n(layer .*?)^```", readme, re.MULTILINE | re.DOTALL):
        if not diagram.rows(table) <= known:  # it may be of another preset than the drawn one
            known = known.union(*(_layers(name, preset) for preset in catalogue.presets(name)))
        for layer, kind in sorted(diagram.rows(table) - known):
            raise ValueError(f"dl/modules/{name}/README.md shows the layer {layer} ({kind}), which model.py does not have")


def _layers(name: str, preset: str) -> set[tuple[str, str]]:
    """Return the layers of a preset by their full names and all ends of these, as a table has them below their parents."""
    network = catalogue.without_values(lambda: catalogue.module(name).build(preset))
    found = set()
    for path, module in network.named_modules():
        words = re.sub(r"\.\d+", ".#", path).split(".")
        found |= {(".".join(words[i:]), type(module).__name__) for i in range(len(words))}
    return found


def _drawn(name: str) -> str:
    """Return the preset that train.py takes by default, else the first one."""
    default = getattr(catalogue.module(name, "train").Config, "model", "")
    return default if default in catalogue.presets(name) else catalogue.presets(name)[0]


def run_it(name: str, words: dict[str, Any]) -> str:
    """Return the commands that train the model for a minute, on data that come along, and as it was recorded."""
    minute = json.loads((HERE / "minute.json").read_text(encoding="utf-8"))[name]
    trained = front.row(name)[5]
    lines = [
        f"**{words['in a minute']}**\n\n```\npython -m dl train {name} {minute}\n```" if minute else words["after another"],
        f"**{words['in full']}** ({trained})\n\n```\npython -m dl train {name}\n```",
    ]
    return "\n\n".join(lines)


def deviations(name: str) -> str:
    """Return what model.py says of its deviations from the paper."""
    said = ast.get_docstring(ast.parse((ROOT / "dl/modules" / name / "model.py").read_text(encoding="utf-8"))) or ""
    found = re.search(r"^Deviations\b.*?(?=\n\n|\Z)", said, re.MULTILINE | re.DOTALL)
    text = textwrap.dedent(found[0].removeprefix("Deviations:").strip()) if found else ""
    return annotated.as_markdown(text[:1].upper() + text[1:])


def figures(name: str) -> str:
    """Return the figures of recorded runs that the README does not show."""
    folder = ROOT / "dl/modules" / name
    shown = (folder / "README.md").read_text(encoding="utf-8")
    paths = [path for kind in ("png", "gif") for path in sorted((folder / "results").glob(f"*.{kind}"))]
    return "\n\n".join(f"![{name}: {path.stem}](results/{path.name})" for path in paths if path.name not in shown)


def words_of(path: Path, language: str) -> dict[str, Any]:
    """Return the site's own words in a language."""
    return json.loads(path.read_text(encoding="utf-8"))[language]
