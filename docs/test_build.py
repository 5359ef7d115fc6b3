"""The site: what its builder makes of READMEs and code. Skipped without the extra [docs]."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("latex2mathml", reason='latex2mathml is not installed: pip install -e ".[docs]"')
pytest.importorskip("yaml", reason='pyyaml is not installed: pip install -e ".[docs]"')
sys.path.insert(0, str(Path(__file__).parent))

import annotated
import build
import diagram
import model_page
import prose

LENET = prose.ROOT / "dl/modules/CNN/LeNet/model.py"
SUMMARY = """layer     type    output shape  parameters  FLOPs
-------------------------------------------------
stem      Conv2d  (1, 4, 8, 8)          36      0
blocks.0  Block   (1, 4, 8, 8)          10      0
  conv    Conv2d  (1, 4, 8, 8)          10      0
blocks.1  Block   (1, 4, 8, 8)          10      0
blocks.2  Block   (1, 8, 4, 4)          20      0
-------------------------------------------------
total     Net     (1, 8, 4, 4)          76      0"""


@pytest.mark.parametrize("path", [LENET, Path(annotated.__file__), prose.ROOT / "dl/modules/GPT/GPT2/model.py"])
def test_every_line_is_shown_once_as_code_or_read_in_a_note(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    found = annotated.parts(source)
    shown = [i for part in found for i in part.lines]
    assert shown == sorted(set(shown))
    notes = " ".join("".join(part.note.split()) for part in found)
    for i, line in enumerate(source.splitlines(), 1):
        words = "".join(line.strip().strip('"#').split())
        assert i in shown or words in notes, (i, line)


def test_docstrings_are_left_code_is_right_and_lines_are_anchors() -> None:
    html = annotated.page(LENET, "../source.txt")
    source = LENET.read_text(encoding="utf-8")
    number = next(i for i, line in enumerate(source.splitlines(), 1) if line.startswith("class LeNet"))
    assert f'id="L{number}" href="../source.txt#L{number}"' in html
    code = re.sub("<[^>]+>", "", "".join(re.findall(r"<code>(.*?)</code></pre>", html, re.DOTALL)))
    assert "def forward(self" in code and '"""' not in code


def test_lists_of_docstrings_become_lists() -> None:
    assert annotated.as_markdown("Do.\n\nArgs:\n    size: of it.\n    kind: which.\n\nMore.") == (
        "Do.\n\n**Args**\n\n- `size`: of it.\n- `kind`: which.\n\nMore."
    )
    assert annotated.as_markdown("Two:\n- a\n- b") == "Two:\n\n- a\n- b"


def test_formulas_stay_in_their_line_and_links_of_docstrings_are_links() -> None:
    import markdown

    text = prose.with_formulas("$w_t$ is a token of $x$, a text.\n\n$$\nx\n$$\n")
    html = markdown.markdown(text, extensions=["md_in_html"])
    assert html.count("<p>") == 1 and re.search(r"<p><span.*</math></span> is a token of <span.*</span>, a text.</p>", html)
    assert annotated.as_markdown("Paper, 2015, https://arxiv.org/abs/1.") == "Paper, 2015, <https://arxiv.org/abs/1>."


def test_formulas_become_mathml_but_not_in_code() -> None:
    text = prose.with_formulas("$a$ and `$b$`\n\n```\nprice $5$\n```\n\n$$\nx^2\n$$\n")
    assert text.count("<math") == 2 and "`$b$`" in text and "price $5$" in text and 'display="block"' in text


def test_prices_are_no_formulas() -> None:
    for text in ("It costs $5 and $6.", "from 5 $ to 6 $ a month", "$5 or $ 6"):
        assert prose.with_formulas(text) == text
    assert prose.with_formulas("$1 - z_t$, $z$").count("<math") == 2


def test_the_start_page_is_made_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    words = model_page.words_of(build.HERE / "words.json", "en")
    assert words["made"].format(date=build.datetime.date.today(), commit="?") in build.start(words, [], "README.md")


def test_links_lead_to_pages_or_copies_and_a_broken_one_stops_the_build(tmp_path: Path) -> None:
    links = prose.Links({"docs/data.md": "use/data.md"}, tmp_path)
    text = "[a](../../../../docs/data.md#b) ![c](results/kernels.png) [d](model.py) [e](https://x.org) `[f](gone)`"
    changed = links.rewritten(text, "dl/modules/CNN/ResNet/README.md", "models/CNN/ResNet.md")
    assert changed == (
        "[a](../../use/data.md#b) ![c](../../files/dl/modules/CNN/ResNet/results/kernels.png) "
        "[d](../../files/dl/modules/CNN/ResNet/model.py.txt) [e](https://x.org) `[f](gone)`"
    )
    assert (tmp_path / "files/dl/modules/CNN/ResNet/model.py.txt").exists()
    with pytest.raises(ValueError, match="dl/modules/CNN/ResNet/gone.png is linked, and is not there"):
        links.rewritten("![x](gone.png)", "dl/modules/CNN/ResNet/README.md", "models/CNN/ResNet.md")


def test_equal_blocks_in_a_row_are_one_box() -> None:
    found = diagram.layers(SUMMARY)
    assert [layer.name for layer in found] == ["stem", "blocks.0 to 1", "blocks.2"]
    drawn = diagram.svg("CNN/Net small", found)
    assert drawn.count("<rect") == 3 and 'role="img"' in drawn and "blocks.2 (Block) (1, 8, 4, 4)" in drawn


def test_the_inside_of_each_kind_of_block_is_drawn_in_frames() -> None:
    (block,) = diagram.blocks(SUMMARY)
    assert [(layer.name, layer.depth, layer.inner) for layer in block] == [("blocks.0", 0, 1), ("conv", 1, 0)]
    drawn = diagram.svg("CNN/Net small, inside", block)
    assert drawn.count("<rect") == 2 and drawn.count('class="frame"') == 1 and "<path" not in drawn


def test_where_no_list_has_blocks_each_layer_with_parts_is_opened() -> None:
    lines = [line.replace("blocks.", "block_") for line in SUMMARY.splitlines()]
    assert [block[0].name for block in diagram.blocks("\n".join(lines))] == ["block_0"]


def test_of_equal_parts_of_a_block_the_first_is_shown() -> None:
    lines = ["layer type shape parameters", "-", "stages.0  Stage  (1, 4)  9"]
    for i in (1, 2):
        lines += [f"  block{i}  Block  (1, 4)  3", "    fc1  Linear  (1, 4)  1", "    fc2  Linear  (1, 4)  1"]
    (block,) = diagram.blocks("\n".join([*lines, "  norm  LayerNorm  (1, 4)  3", "head  Linear  (1, 4)  3"]))
    assert [layer.name for layer in block] == ["stages.0", "block1 to 2", "fc1", "fc2", "norm"]
    assert [layer.inner for layer in block] == [4, 2, 0, 0, 0]


def test_an_equation_stands_at_the_height_of_its_line_and_another_file_shows_its_definition_alone(tmp_path: Path) -> None:
    source = "import math\n\n\ndef loss(x):\n    y = -x\n    return y\n\n\ndef other(x):\n    return x\n"
    (tmp_path / "loss.py").write_text(source, encoding="utf-8")
    equation = model_page.equations.Equation("y = -x", tmp_path / "loss.py", 5, 5)
    html = annotated.page(tmp_path / "loss.py", "loss.py.txt", [equation], "loss")
    shown = re.findall(r'class="note">(.*?)</div>.*?<code>(.*?)</code>', html, re.DOTALL)
    assert [("<math" in note, re.findall(r'id="(\w+)"', code)) for note, code in shown] == [
        (False, ["lossL4"]),
        (True, ["lossL5", "lossL6"]),
    ]
    assert (
        'class="row computes" style="--indent: 4"><span class="start"><a class="line" id="lossL5"' in html
        and html.count("computes") == 1
    )


def test_both_languages_say_the_same_things() -> None:
    words = json.loads((build.HERE / "words.json").read_text(encoding="utf-8"))
    assert words["en"].keys() == words["zh"].keys()
    assert words["en"]["groups"].keys() == words["zh"]["groups"].keys() >= build.front.ABOUT["groups"].keys()


@pytest.mark.parametrize("language", build.LANGUAGES)
def test_a_model_s_page_has_card_drawing_code_proof_and_result(tmp_path: Path, language: str) -> None:
    nav = build.write_pages(tmp_path, language, only=lambda name: name == "CNN/LeNet")
    page = (tmp_path / "models/CNN/LeNet.md").read_text(encoding="utf-8")
    for part in (
        "| **FLOPs** |",
        "<svg",
        "{: #code }",
        "{: #proof }",
        "{: #run }",
        "{: #results }",
        "{: #deviations }",
        'class="annotated"',
        "<details>",
        "results",
    ):
        assert part in page, part
    assert re.search(r'<div class="note"><math .*?</math></div><div class="code">.*?"row computes".*?act1', page, re.DOTALL)
    assert "beside model.py" not in page
    assert build.guides.first_commands() in (tmp_path / "index.md").read_text(encoding="utf-8")
    places = re.findall(r"models/[\w/]+\.md", json.dumps(nav))
    assert places == ["models/CNN/LeNet.md"]
    assert "models/CNN/LeNet.md" in (tmp_path / "index.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"[\w/-]+\.md", json.dumps(nav["nav"])))
    assert listed == {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}  # each page is in the menu
    assert {"core/config.md", "core/data/loader.md", "scratch/layers/conv.md", "results/index.md", "use/glossary.md"} <= listed


def test_a_number_that_is_not_that_of_the_records_stops_the_build(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("| 9.97 % |\n", encoding="utf-8")
    build.check_tables([(path, "results", "| 9.97 % |")])
    with pytest.raises(ValueError, match="README.md: a table is not that of the records"):
        build.check_tables([(path, "results", "| 9.77 % |")])


ZH = "\u4e2d\u6587"


def test_a_chinese_paragraph_takes_the_place_of_the_english_one_above_it_on_the_chinese_page() -> None:
    text = f'# X\n\nEnglish.\n\n<p lang="zh">{ZH}\n<a href="a.md#b">{ZH}</a></p>\n\n## More\n'
    assert prose.in_language(text, "en", {}) == "# X\n\nEnglish.\n\n## More\n"
    assert prose.in_language(text, "zh", {"rest": "R"}) == f"# X\n\n{ZH} [{ZH}](a.md#b)\n\n## More\n"
    after = prose.in_language(f"{text}\nMore.\n", "zh", {"rest": "R"})  # what stays English is said
    assert after == f"# X\n\n{ZH} [{ZH}](a.md#b)\n\n*R*\n\n## More\n\nMore.\n"
    code = f'# X\n\n```\na\n\n\nb\n```\n\n<p lang="zh">{ZH}</p>\n'
    assert prose.in_language(code, "zh", {"rest": "R"}) == f"# X\n\n```\na\n\n\nb\n```\n\n{ZH}\n"


def test_headings_and_tables_are_in_the_language_of_the_page() -> None:
    text = f"## Two words <!-- zh: {ZH} -->\n\n| term | meaning | {prose.CHINESE_COLUMN} |\n|---|---|---|\n| a | b | {ZH} |\n"
    assert prose.in_language(text, "en", {}) == "## Two words\n\n| term | meaning |\n| --- | --- |\n| a | b |\n"
    chinese = prose.in_language(text, "zh", {"rest": "R"})
    assert chinese.startswith(f"## {ZH} {{: #two-words }}\n\n| term | {prose.CHINESE_COLUMN} |") and f"| a | {ZH} |" in chinese


@pytest.mark.parametrize("file", [file for file in build.guides.GUIDES.values() if file != "CHANGELOG.md"])
def test_every_guide_has_a_chinese_paragraph(file: str) -> None:
    text = (prose.ROOT / file).read_text(encoding="utf-8")
    assert prose.CHINESE.search(text)
    english = prose.in_language(text, "en", {})
    assert len(re.findall("[\u4e00-\u9fff]", english)) < len(english) / 20 and "<!-- zh" not in english


@pytest.mark.slow
def test_the_site_is_built_and_a_broken_link_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zensical", reason='zensical is not installed: pip install -e ".[docs]"')
    monkeypatch.setattr(build, "OUT", tmp_path)
    nav = build.write_pages(tmp_path / "en", "en", only=lambda name: name == "CNN/LeNet")
    command = [sys.executable, "-m", "zensical", "build", "--strict", "-f", str(build.configuration("en", nav))]
    subprocess.run(command, check=True, cwd=tmp_path)
    html = (tmp_path / "html/en/models/CNN/LeNet.html").read_text(encoding="utf-8")
    assert re.findall(r'<(?:script|img|link|iframe)[^>]+(?:src|href)="(?:https?:)?//', html) == []  # nothing from other hosts
    with open(tmp_path / "en/models/CNN/LeNet.md", "a", encoding="utf-8") as file:
        file.write("\n[nowhere](Gone.md)\n")
    assert subprocess.run(command, cwd=tmp_path).returncode != 0
