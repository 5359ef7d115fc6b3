"""The front page: its tables, and that both languages say the same."""

import dataclasses
import re
import runpy
from pathlib import Path

import pytest

from dl.cli import catalogue, front, records
from dl.cli.testing import commands, fenced, make_finished_run, make_project, write_run
from dl.modules.Alignment.GRPO import train as grpo
from dl.modules.CNN.ResNet import train as resnet

ENGLISH, CHINESE = ((catalogue.ROOT / name).read_text(encoding="utf-8") for name in front.ABOUT["headings"])
EXAMPLES = [block for language, block in fenced(ENGLISH) if language == "python"]


def test_every_model_stands_in_one_group_of_at_most_14() -> None:
    groups, where = front.ABOUT["groups"].values(), "dl/cli/front.json names each model once in `groups`, and in `proven`"
    assert sorted(name for names in groups for name in names) == catalogue.names() == sorted(front.ABOUT["proven"]), where
    assert all(len(names) <= 14 for names in groups), "a new group has lines <!-- models: GROUP --> in both front pages"
    for page, count in ((ENGLISH, f"| {len(catalogue.names())} models,"), (CHINESE, f"| {len(catalogue.names())} 个模型、")):
        assert count in page, f"the comparison with others on the front page has to begin with {count!r}"


@pytest.mark.parametrize("name", catalogue.names())
def test_the_reference_of_a_model_is_used_by_its_tests(name: str) -> None:
    files = [catalogue.MODULES / name, catalogue.MODULES / name.partition("/")[0]]
    tests = "".join(path.read_text(encoding="utf-8") for folder in files for path in folder.glob("test_*.py"))
    for library in re.findall(
        "torchvision|transformers|diffusers|lstsq|LSTM|GRU|Transformer|[Tt]win", front.ABOUT["proven"].get(name, "")
    ):
        assert library.lower() in tests.lower()


def test_a_row_is_the_paper_and_a_record_in_the_paper_s_unit() -> None:
    cells = front.row("Transformers/Transformer")
    assert cells[0] == "[Transformer](dl/modules/Transformers/Transformer)" and cells[2] == "torch's Transformer"
    assert cells[1] == "[Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)"
    assert cells[3].startswith("WMT 2014 English-German: BLEU 28.4 (big)")
    (record,) = [record for record in records.of_model("Transformers/Transformer") if record["config"]["data"] == "multi30k"]
    figure = f"Multi30k: BLEU {100 - 100 * record['test']['bleu_error']:.2f}"
    assert cells[4] == f"[{figure}](dl/modules/Transformers/Transformer/README.md#results)"
    assert cells[5] == "medium, 12 epochs, 3 min (H200)"
    assert front.row("CNN/LeNet")[4:] == [
        "[error 8.94 \u00b1 0.16 %](dl/modules/CNN/LeNet/README.md#results)",
        "modern, 15 epochs, 49 s, 3 seeds",
    ]


def test_a_row_is_the_run_of_the_recipe_s_defaults_and_without_one_the_best(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = make_project(tmp_path, monkeypatch)
    records.record(make_finished_run(project / "longer", 0.05, epochs=99))
    assert front.row("CNN/LeNet")[4].startswith("[error 5.00 %]")
    records.record(make_finished_run(project / "default", 0.30, seed=3))
    assert front.row("CNN/LeNet")[4].startswith("[error 30.00 %]")


@pytest.mark.parametrize(("asked", "taken", "default"), [("auto", "bf16", True), ("bf16", "bf16", False)])
def test_what_auto_took_is_no_other_than_the_default_run(asked: str, taken: str, default: bool) -> None:
    config = dataclasses.asdict(resnet.Config(precision=asked, seed=2))
    assert records.is_default({"recipe": "CNN/ResNet", "config": config, "precision": taken}) == default


def test_the_folder_of_the_run_that_one_began_from_is_free_but_no_other_flag_is() -> None:
    for changed, default in (({}, True), ({"digits": 3}, False)):
        config = dataclasses.asdict(grpo.Config(init_from="runs/elsewhere", **changed))
        record = {"recipe": "Alignment/GRPO", "config": config, "precision": config["precision"]}
        assert records.is_default(record) == default


def test_an_error_that_papers_report_as_what_rises_is_shown_as_that() -> None:
    record = {"test": {"map50_error": 0.1465, "iou_error": 0.2}}
    assert (
        front._figure("map50_error", [record]) == "mAP@0.5 85.35"
        and front._figure("iou_error", [record]) == "iou error 20.00 %"
    )


@pytest.mark.parametrize(
    ("name", "cited"),
    [
        ("CNN/ResNet", "He et al."),
        ("CNN/VGG", "Simonyan & Zisserman"),
        ("RNN/TextCNN", "Kim"),
        ("GPT/DeepSeekV3", "DeepSeek-AI"),
    ],
)
def test_authors_are_named_as_one_cites_them(name: str, cited: str) -> None:
    assert front._authors(name) == cited


def test_what_a_paper_reports_has_the_quantity_of_its_column() -> None:
    assert front._reported("Detection/FCOS") == "COCO minival: AP 37.1 (ResNet-50-FPN)"
    assert front._reported("RNN/AWDLSTM") == "WikiText-2, words: perplexity 65.6 (awd)"
    assert front._reported("CNN/ResNet") == "CIFAR-10: error 8.75 % (resnet20)"


# ---- the pages ------------------------------------------------------------------------------------------------------


def outside_blocks(page: str) -> str:
    return re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)


def without_comments(code: str) -> list[str]:
    return [line for line in (re.sub(r"\s*#.*", "", line) for line in code.splitlines()) if line]


def test_both_languages_have_the_same_sections_tables_links_and_commands() -> None:
    for pattern in (
        r"^#+ ",
        r"^\|.*?(?=\|)",
        r"^(?:<!-- .*|!\[)",
        r"^\d+\. ",
        r"\]\(((?!README|#)[^)]+)\)",
    ):  # anchors are in words
        found = [re.findall(pattern, outside_blocks(page), re.MULTILINE) for page in (ENGLISH, CHINESE)]
        if pattern.startswith(r"^\|"):  # a row may begin in words: how many there are, with how many cells
            found = [[line.count("|") for line in page.splitlines() if line.startswith("|")] for page in (ENGLISH, CHINESE)]
        assert sorted(found[0]) == sorted(found[1]) if "(?!README" in pattern else found[0] == found[1], pattern
    assert list(commands(ENGLISH)) == list(commands(CHINESE))
    examples = ([without_comments(block) for language, block in fenced(page) if language] for page in (ENGLISH, CHINESE))
    assert next(examples) == next(examples)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: without_comments(example)[-1])
def test_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_figures: None) -> None:
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "demo")
    (tmp_path / "example.py").write_text(example, encoding="utf-8")
    assert "history" in runpy.run_path("example.py") or "Run.open" in example


def test_the_first_120_lines_answer_what_a_reader_asks_first() -> None:
    start = "\n".join(ENGLISH.splitlines()[:120])
    answers = ("--data folder:", "Run.open(", "results/*.json", "What do I read first?", "\n## Add a model\n")
    assert all(answer in start for answer in answers)


@pytest.mark.parametrize("name", front.ABOUT["headings"])
def test_what_the_page_links_to_is_there(name: str) -> None:
    page = (catalogue.ROOT / name).read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in re.findall(r"^#+ (.*)$", page, re.MULTILINE)
    }
    for target in re.findall(r"\]\((?!http)([^)]+)\)", page):
        path, _, anchor = target.partition("#")
        assert (catalogue.ROOT / path).exists() if path else anchor in headings, target
    assert (catalogue.ROOT / "docs" / "images" / "front.png").stat().st_size < 150_000


def test_the_tests_that_exclude_public_errors_are_there() -> None:
    """Five stand on the front page, all ten on their own, with the same words."""
    listed = (catalogue.ROOT / "docs" / "public-errors.md").read_text(encoding="utf-8").replace("](../dl/", "](dl/")
    row = r"^\|.*\]\(https://github\.com/\S+/\d+\) \| \[(.+?)\]\((.+?)\) \|.*$"
    rows = list(re.finditer(row, listed, re.MULTILINE))
    front_page = [match[0] for match in re.finditer(row, ENGLISH, re.MULTILINE)]
    assert len(rows) == 10 and len(front_page) == 5 and {match[0] for match in rows} >= set(front_page)
    for words, path in (match.groups() for match in rows):
        assert f"def test_{re.sub(r'[^a-z0-9]', '_', words)}(" in (catalogue.ROOT / path).read_text(encoding="utf-8"), words


SECTIONS = ("What to look at in model.py", "Train it", "Try this", "How it is proven", "Results", "Deviations")


@pytest.mark.parametrize(
    "name", [name for group in ("basics", "images", "text", "language", "generation") for name in front.ABOUT["groups"][group]]
)
def test_a_model_s_readme_has_its_equation_what_to_look_at_and_one_thing_to_try(name: str) -> None:
    text = (catalogue.MODULES / name / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\$\$\n[^$]+\n\$\$$", text, re.MULTILINE)
    places = [text.find(f"\n## {section}\n") for section in SECTIONS]
    assert -1 not in places and places == sorted(places)
    assert "seen here" in text[places[2] : places[3]].lower()
