"""The pages that are not of a model: guides, code in the order of reading, the API, all results."""

import inspect
import re
from pathlib import Path
from typing import Any

import annotated
from prose import ROOT, in_language

import dl.mytorch
from dl.cli import facts, front

GUIDES = {  # page -> file, in the order of reading
    "first.md": "docs/first-steps.md",
    "core/index.md": "dl/mytorch/README.md",
    "core/scaling.md": "dl/mytorch/large/SCALING.md",
    "scratch/index.md": "dl/mytorch/from_scratch/README.md",
    "results/language.md": "dl/modules/GPT/README.md",
    "results/images.md": "dl/modules/Generative/README.md",
    "results/unlabelled.md": "dl/modules/SelfSupervised/README.md",
    "tools/bpe.md": "dl/modules/GPT/BPE/README.md",
    "tools/search.md": "dl/modules/DataMining/ImageSearch/README.md",
    "tools/open-set.md": "dl/modules/DataMining/OpenSet/README.md",
    "tools/tsne.md": "dl/modules/DataMining/TSNE/README.md",
    "use/install.md": "docs/install.md",
    "use/commands.md": "docs/commands.md",
    "use/data.md": "docs/data.md",
    "use/tasks.md": "docs/tasks.md",
    "use/errors.md": "docs/public-errors.md",
    "use/glossary.md": "docs/glossary.md",
    "use/contributing.md": ".github/CONTRIBUTING.md",
    "use/changes.md": "CHANGELOG.md",
}
SCRATCH = Path("dl/mytorch/from_scratch")


def chapters() -> dict[str, list[str]]:
    """Return {"core": its files in the order of reading, "scratch": those of the course}, as the READMEs list them."""
    core = re.findall(r"^\d+\. \[[^\]]+\]\((.+?)\)", _read("dl/mytorch/README.md"), re.MULTILINE)
    scratch = []
    for place in re.findall(r"^\d+\. \[[^\]]+\]\((.+?)\)", _read(f"{SCRATCH}/README.md"), re.MULTILINE):
        scratch.append((SCRATCH / place).as_posix())
        if place.endswith("README.md"):
            folder = (SCRATCH / place).parent
            listed = [folder / file for file in re.findall(r"\]\((\w+\.py)\)", _read(f"{SCRATCH}/{place}"))]
            others = (path.relative_to(ROOT) for path in sorted((ROOT / folder).glob("*.py")))
            left_out = ("__init__.py", "testing.py")
            scratch += dict.fromkeys(
                path.as_posix()
                for path in [*listed, *others]
                if path.name not in left_out and not path.name.startswith("test_")
            )
    return {"core": [f"dl/mytorch/{file}" for file in core], "scratch": scratch}


def page_of(part: str, file: str) -> str:
    """Return the page of a file of `chapters`."""
    start = {"core": "dl/mytorch", "scratch": SCRATCH.as_posix()}[part]
    inner = Path(file).relative_to(start)
    inner = inner.with_name("index.md") if inner.name == "README.md" else inner.with_suffix(".md")
    return f"{part}/{inner.as_posix()}"


def chapter(file: str, source: str, words: dict[str, Any], language: str) -> str:
    """Return a file of `chapters` as Markdown: a README as it is, code with its notes beside it."""
    if file.endswith(".md"):
        return in_language(_read(file), language, words)
    return f"# {'/'.join(Path(file).parts[2:]).removeprefix('from_scratch/')}\n\n{annotated.page(ROOT / file, source)}"


def guide(file: str, words: dict[str, Any], language: str) -> str:
    """Return a file of `GUIDES` as Markdown, with its Chinese paragraph on the Chinese page only."""
    return in_language(_read(file), language, words)


def first_commands() -> str:
    """Return the commands from nothing to a trained and compared GPT-2, which a slow test executes."""
    return "\n\n".join(re.findall(r"^```\n.*?^```$", _read("docs/first-steps.md"), re.MULTILINE | re.DOTALL))


def all_results(words: dict[str, Any], names: list[str], readme: str) -> str:
    """Return what every model reached on each data set, beside what its paper reports."""
    parts = [f"# {words['results']}", words["about results"]]
    for group, own in front.ABOUT["groups"].items():
        rows = []
        for name in (name for name in own if name in names):
            best = "<br>".join(facts.read()[name]["best"]) or "not trained here yet"
            cells = [best, front.row(name)[3]]
            rows.append(
                f"| [{name.partition('/')[2]}](../models/{name}.md#results) | "
                + " | ".join(front.translated(cell, readme) for cell in cells)
                + " |"
            )
        if rows:
            headings = [words[word].capitalize() for word in ("model", "here", "the paper reports")]
            head = f"| {' | '.join(headings)} |\n| --- | --- | --- |"
            parts += [f"## {words['groups'].get(group, group)}", "\n".join([head, *rows])]
    return "\n\n".join(parts)


def api(words: dict[str, Any]) -> str:
    """Return the exported names of `dl.mytorch`, with signatures and docstrings."""
    parts = [f"# {words['api']}: dl.mytorch", words["about api"]]
    exported = {name: getattr(dl.mytorch, name) for name in (*vars(dl.mytorch), *dl.mytorch._LATER)}
    for name, value in sorted(exported.items()):
        if callable(value) and not name.startswith("_") and value.__module__.startswith("dl."):
            parts.append(f"## {name}\n\n```python\n{signature(name, value)}\n```\n\n{annotated.as_markdown(_said(value))}")
            if inspect.isclass(value):
                parts.append("\n".join(f"- `{method}`: {line}" for method, line in _methods(value)))
    return "\n\n".join(parts)


def signature(name: str, value: Any) -> str:
    """Return how a name is called; on several lines if one is too long, without the modules of types."""
    found = inspect.signature(value)
    arguments = [_plain(str(each)) for each in found.parameters.values()]
    returns = (
        "" if found.return_annotation is found.empty else f" -> {_plain(inspect.formatannotation(found.return_annotation))}"
    )
    text = f"{name}({', '.join(arguments)}){returns}"
    return text if len(text) <= 88 else f"{name}(\n    " + ",\n    ".join(arguments) + f",\n){returns}"


def _plain(text: str) -> str:
    """Return types without their modules, and a class or function that is a default by its name."""
    text = re.sub(r"<(?:class|function) '?([\w.]+)'?[^>]*>", r"\1", text)
    return re.sub(r"\b(?:[a-zA-Z_]\w*\.)+(?=[A-Za-z_])|~", "", text)


def _said(value: Any) -> str:
    return inspect.getdoc(value) or "" if value.__doc__ and not value.__doc__.startswith(f"{value.__name__}(") else ""


def _methods(kind: type) -> list[tuple[str, str]]:
    """Return the methods that a class defines, each with the first line of its docstring."""
    found = []
    for name, value in vars(kind).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        if not name.startswith("_") and (inspect.isfunction(function) and (said := inspect.getdoc(function))):
            brackets = "" if isinstance(value, property) else "()"
            found.append((f"{name}{brackets}", said.partition("\n\n")[0].replace("\n", " ")))
    return found


def _read(file: str) -> str:
    return (ROOT / file).read_text(encoding="utf-8")
