"""The README of each model and tool says in Chinese, too, what the folder is about."""

import re

import pytest

from dl.cli import catalogue

PARAGRAPH = re.compile(r'(?<=\n\n)<p lang="zh">((?:(?!\n\n).)*?)</p>(?=\n\n)', re.DOTALL)
FEWEST = 30  # Chinese characters of a paragraph


def lacking(text: str) -> str:
    """Return what the Chinese paragraph of a README lacks, or ""; it stands alone, once, before the first section."""
    count = text.count('lang="zh"')
    if count != 1:
        return f'{count} paragraphs <p lang="zh"> in place of one'
    paragraph = PARAGRAPH.search(text)
    if not paragraph or "\n## " in text[: paragraph.start()]:
        return 'a block <p lang="zh">...</p> between blank lines before the first section'
    characters = len(re.findall("[\u4e00-\u9fff]", paragraph[1]))
    return f"{characters} Chinese characters, at least {FEWEST} are needed" if characters < FEWEST else ""


def test_every_readme_has_one_chinese_paragraph_before_its_first_section() -> None:
    pages = {path.parent.relative_to(catalogue.MODULES).as_posix(): path for path in catalogue.MODULES.glob("*/*/README.md")}
    assert set(catalogue.names()) <= set(pages)
    found = {name: lacking(path.read_text(encoding="utf-8")) for name, path in pages.items()}
    assert {name: fault for name, fault in found.items() if fault} == {}


GOOD = f'# A\n\nEnglish.\n\n<p lang="zh">{"卷积" * 15}\n网络。</p>\n\n## Train it\n\nMore.\n'


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (GOOD, ""),
        (re.sub("<p.*</p>\n\n", "", GOOD, flags=re.DOTALL), "0 paragraphs"),
        (GOOD + GOOD, "2 paragraphs"),
        (GOOD.replace("## Train it\n\n", "").replace("English.\n\n", "English.\n\n## Train it\n\n"), "a block"),
        (GOOD.replace("English.\n\n", "English.\n"), "a block"),
        (GOOD.replace("</p>", ""), "a block"),
        (GOOD.replace("卷积", "conv"), "2 Chinese characters"),
    ],
    ids=["good", "missing", "twice", "after a section", "not alone", "not closed", "English"],
)
def test_a_missing_paragraph_is_found(text: str, fault: str) -> None:
    assert lacking(text).startswith(fault) and bool(lacking(text)) == bool(fault)
