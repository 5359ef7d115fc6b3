"""Build the site: python docs/build.py [--serve]. It needs `pip install -e ".[docs]"`.

Every page is made of what is here anyhow: READMEs, model.py, tests, records. Markdown goes to runs/site/<language>, the site
to runs/site/html/<language>. A link that leads nowhere, an image that is not there, a layer or a line that the code does
not have, and a number that is not that of the records stop the build.
"""

import argparse
import datetime
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

sys.path.insert(0, str(Path(__file__).parent))  # the files beside this one, wherever it is started

try:
    import guides
    import model_page
    import yaml
    from prose import ROOT, Links, with_formulas
except ModuleNotFoundError as missing:
    sys.exit(f'{missing.name} is missing: pip install -e ".[docs]"')

from dl.cli import catalogue, front, results
from dl.mytorch import provenance

HERE = Path(__file__).parent
OUT = ROOT / "runs" / "site"
LANGUAGES = {"en": "README.md", "zh": "README.zh-CN.md"}  # and the front page in each


def model_names() -> list[str]:
    """Return all models in the order in which one learns them."""
    return [name for names in front.ABOUT["groups"].values() for name in names if name in catalogue.names()]


def write_pages(folder: Path, language: str, only: Callable[[str], bool] = lambda name: True) -> dict[str, Any]:
    """Write the Markdown of a language into `folder`, and return the navigation. `only` chooses models."""
    words = model_page.words_of(HERE / "words.json", language)
    names = [name for name in model_names() if only(name)]
    chapters = {guides.page_of(part, file): file for part, files in guides.chapters().items() for file in files}
    pages = {file: page for page, file in (chapters | guides.GUIDES).items()}
    pages |= {f"dl/modules/{name}/README.md": f"models/{name}.md" for name in names} | dict.fromkeys(
        LANGUAGES.values(), "index.md"
    )
    links = Links(pages, folder)
    for page, file in guides.GUIDES.items():
        write(folder / page, links.rewritten(with_formulas(guides.guide(file, words, language)), file, page))
    for page, file in chapters.items():
        source = os.path.relpath(links.copied(file), Path(page).parent).replace(os.sep, "/")
        write(folder / page, links.rewritten(with_formulas(guides.chapter(file, source, words, language)), file, page))
    for name in names:
        write(folder / f"models/{name}.md", model_page.page(name, words, links, language))
    write(folder / "core/api.md", guides.api(words))
    write(folder / "results/index.md", guides.all_results(words, names, LANGUAGES[language]))
    write(folder / "index.md", start(words, names, LANGUAGES[language]))
    shutil.copyfile(HERE / "site.css", folder / "site.css")
    return {"nav": navigation(words, names), "copyright": made(words)}


def navigation(words: dict[str, Any], names: list[str]) -> list[Any]:
    """Return what the menu shows."""
    groups = [
        {words["groups"].get(group, group): [{name.partition("/")[2]: f"models/{name}.md"} for name in own if name in names]}
        for group, own in front.ABOUT["groups"].items()
    ]
    code = {part: [guides.page_of(part, file) for file in files] for part, files in guides.chapters().items()}

    def below(part: str) -> list[Any]:
        return [page for page in guides.GUIDES if page.startswith(f"{part}/") and not page.endswith("index.md")]

    return [
        {words["start"]: ["index.md", "first.md"]},
        {words["models"]: [group for group in groups if [*group.values()][0]]},
        {words["core"]: ["core/index.md", *code["core"], *below("core"), {words["api"]: "core/api.md"}]},
        {words["scratch"]: ["scratch/index.md", *code["scratch"]]},
        {words["results"]: [{words["results"]: "results/index.md"}, *below("results")]},
        {words["tools"]: below("tools")},
        {words["use"]: below("use")},
    ]


def made(words: dict[str, Any]) -> str:
    """Return when and of which commit the site is made, which stands on every page."""
    commit = provenance.commit(ROOT).rstrip("+")[:7] or "?"  # what builds it leaves files
    return words["made"].format(date=datetime.date.today(), commit=commit)


def start(words: dict[str, Any], names: list[str], readme: str) -> str:
    """Return the start page: the way to a first model, then all models in the order in which one learns them."""
    parts = [f"# {words['title']}", words["about"], f"## {words['first']}", words["about first"], guides.first_commands()]
    headings = [words[word].capitalize() for word in ("model", "paper", "proven against", "here")]
    for group, own in front.ABOUT["groups"].items():
        rows = [front.row(name) for name in own if name in names]
        if rows:
            lines = [f"| {' | '.join(headings)} |", "| --- | --- | --- | --- |"]
            for name, row in zip((name for name in own if name in names), rows):
                here = row[4].replace("](dl/modules/", "](models/").replace("/README.md#", ".md#") or row[5]
                cells = [row[1], *(front.translated(cell, readme) for cell in (row[2], here))]
                lines.append(f"| [{name.partition('/')[2]}](models/{name}.md) | {' | '.join(cells)} |")
            parts += [f"## {words['groups'].get(group, group)}", "\n".join(lines)]
    return "\n\n".join([*parts, made(words)])


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def configuration(language: str, nav: dict[str, Any]) -> Path:
    """Write what zensical reads for a language, and return the file."""
    settings = yaml.safe_load((HERE / "mkdocs.yml").read_text(encoding="utf-8")) | nav
    settings["docs_dir"], settings["site_dir"] = language, f"html/{language}"
    settings["theme"]["language"] = language
    others = [{"name": "English", "link": "../en/", "lang": "en"}, {"name": "\u4e2d\u6587", "link": "../zh/", "lang": "zh"}]
    settings["extra"] = {"alternate": others, "generator": False}
    path = OUT / f"{language}.yml"
    path.write_text(yaml.safe_dump(settings, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def check_tables(tables: list[tuple[Path, str, str]]) -> None:
    """Raise `ValueError` for a file whose table is not that of the records: (file, marker, table) each."""
    for path, _, table in tables:
        if table not in path.read_text(encoding="utf-8"):
            raise ValueError(f"{path}: a table is not that of the records; `python -m dl results` brings it up to date")


def main() -> int:
    parser = argparse.ArgumentParser(description="Build the site.", prog="python docs/build.py")
    parser.add_argument("--serve", action="store_true", help="show it at http://localhost:8000 (English)")
    options = parser.parse_args()
    check_tables([*results.models_tables(), *results.other_tables(), *results.front_tables()])
    shutil.rmtree(OUT, ignore_errors=True)
    for language in LANGUAGES:
        nav = write_pages(OUT / language, language)
        file = configuration(language, nav)
        print(f"{language}: {sum(1 for _ in (OUT / language).rglob('*.md'))} pages", flush=True)
        subprocess.run(
            [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(file)],
            check=True,
            cwd=OUT,
            env=os.environ | {"NO_COLOR": "1"},
        )
    write(
        OUT / "html" / "index.html", '<meta http-equiv="refresh" content="0; url=en/index.html"><a href="en/index.html">en</a>'
    )
    if options.serve:
        subprocess.run([sys.executable, "-m", "http.server", "8000", "-d", str(OUT / "html")], check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
