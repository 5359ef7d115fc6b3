"""The tables of all models on the front page, in the order in which one learns them: see front.json."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from dl.cli import catalogue
from dl.cli.listing import NEGATIVE
from dl.cli.records import Record, scores
from dl.cli.results import best_groups, default_group, length, markdown_table, mean_seconds, spread, time, title

ABOUT: dict[str, Any] = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
RISING = {"bleu_error": "BLEU", "unexplained": "R2", "map50_error": "mAP@0.5", "map_error": "mAP"}  # what papers call 1 - this
USUAL = "fashion_mnist"  # the set that is not named in the tables


def tables() -> list[tuple[Path, str, str]]:
    """Return the table of each group of models in each language: the README, the marker there, and the Markdown."""
    there, found = set(catalogue.names()), []
    for group, names in ABOUT["groups"].items():
        rows = [row(name) for name in names if name in there]
        if not rows:
            continue
        for readme, headings in ABOUT["headings"].items():
            in_words = [[cells[0], cells[1], *(translated(cell, readme) for cell in cells[2:])] for cells in rows]
            found.append((catalogue.ROOT / readme, f"models: {group}", markdown_table(headings, in_words)))
    return found


def translated(cell: str, readme: str) -> str:
    """Return a cell in the language of a README."""
    for pattern, words in ABOUT["words"][readme].items():
        cell = re.sub(pattern, words, cell)
    return cell


def row(name: str) -> list[str]:
    """Return a model as cells of Markdown.

    Of its records, that of its recipe's defaults is shown; without one the best on the data of the paper, else on a set that
    many models have, else on the first.
    """
    folder, paper, reported = f"[{name.partition('/')[2]}](dl/modules/{name})", catalogue.paper(name), _reported(name)
    source = f"[{_authors(name)} {paper.year}]({paper.link})"
    best = {
        data: found for data, found in best_groups(name).items() if not data.endswith("-d2l")
    }  # which tests on its training
    if not best:
        return [folder, source, ABOUT["proven"][name], reported, "", "not trained here yet"]
    on_paper_s = [data for data in best if re.sub(r"\W", "", reported.lower()).startswith(data.replace("_", ""))]
    data = next(data for data in (*on_paper_s, USUAL, "wikitext2", *best) if data in best)
    quantity, group = default_group(name) or best[data]
    data = group[0]["config"]["data"]
    where = "" if data == USUAL else f"{ABOUT['data'].get(data, data)}: "
    here = f"[{where}{_figure(quantity, group)}](dl/modules/{name}/README.md#results)"
    return [folder, source, ABOUT["proven"][name], reported, here, _training(group)]


def _authors(name: str) -> str:
    """Return the authors of a paper as one cites them, "He et al.": in model.py they stand between title and year."""
    text = " ".join((catalogue.MODULES / name / "model.py").read_text(encoding="utf-8")[3:2000].split())
    listed = re.search(r'"[^"]+", (.+?),? (?:18|19|20)\d\d', text)
    people = re.split(r", | & | and ", listed[1]) if listed else ["?"]
    surnames = [person.split()[-1] for person in people]
    return " & ".join(surnames) if len(surnames) < 3 and "others" not in surnames else f"{surnames[0]} et al."


def _reported(name: str) -> str:
    """Return what the paper reports, in short: data, figure with its quantity, network."""
    whole = re.fullmatch(r"(?P<data>[^:]+): (?P<figure>.+?) \((?P<network>[^()]*)\)", catalogue.reported(name))
    if whole is None:
        return ""
    figure = re.sub(r" \(.*", "", whole["figure"]).partition(",")[0].replace(":", "").replace("top-1 ", "")
    return f"{whole['data']}: {figure} ({whole['network'].partition(',')[0]})"


def _figure(quantity: str, group: list[Record]) -> str:
    """Return mean and deviation over seeds in the unit that papers report: BLEU, R2 and mAP in percent, an error in percent."""
    values = [scores(record)[quantity] for record in group]
    if quantity in RISING:
        return f"{RISING[quantity]} {spread([1 - value for value in values], '.2f', 100)}"
    if NEGATIVE in quantity:
        return f"{title(quantity)} {spread(values, '.1f', -1)}"
    if quantity.endswith("_error"):
        return f"{title(quantity).replace('top-1 ', '')} {spread(values, '.2f', 100)} %"
    return f"{title(quantity)} {spread(values, '.1f' if 'perplexity' in quantity or statistics.mean(values) > 10 else '.3f')}"


def _training(group: list[Record]) -> str:
    """Return what was trained and for how long; where, unless on two cores, and with how many seeds, unless with one."""
    config, device = group[0]["config"], group[0]["device"]
    preset = config.get("model") or (f"{Path(config['weights']).name} tuned" if "weights" in config else "")
    gpu = re.search(r"NVIDIA (\S+)", device)
    where = f" ({gpu[1]})" if gpu else " (1 core)" if device.endswith(" 1 threads") else ""
    seeds = f"{len(group)} seeds" if len(group) > 1 else ""
    return ", ".join(filter(None, [preset, length(config), time(mean_seconds(group)) + where, seeds]))
