"""The equations of READMEs: each stands beside a line of code that is there."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import equations

MODULES = Path(__file__).parents[1] / "dl/modules"
READMES = sorted(path.parent / "README.md" for path in MODULES.glob("*/*/model.py"))
CODE = """def area(
    side,
):
    if side < 0:
        raise ValueError
    return (
        side
        * side
    )
"""


def readme(folder: Path, text: str) -> Path:
    (folder / "code.py").write_text(CODE, encoding="utf-8")
    (folder / "README.md").write_text(text, encoding="utf-8")
    return folder / "README.md"


@pytest.mark.parametrize("path", READMES, ids=lambda path: "/".join(path.parts[-3:-1]))
def test_each_equation_of_a_model_stands_beside_the_line_that_computes_it(path: Path) -> None:
    assert equations.unplaced(path.read_text(encoding="utf-8")) == []
    assert equations.read(path)


def test_an_equation_begins_where_its_statement_does(tmp_path: Path) -> None:
    path = readme(tmp_path, "A\n\n<!-- beside code.py: * side -->\n$$\na = s^2\n$$\n\nB\n")
    assert equations.read(path) == [equations.Equation("a = s^2", tmp_path / "code.py", start=6, line=8)]
    assert equations.without_comments(path.read_text(encoding="utf-8")) == "A\n\n$$\na = s^2\n$$\n\nB\n"
    path = readme(tmp_path, "<!-- beside code.py: if side -->\n$$ s < 0 $$")
    assert equations.read(path)[0][2:] == (4, 4)


def test_parts_of_an_equation_stand_beside_lines_of_their_own(tmp_path: Path) -> None:
    both = r"$$ a = s^2, \qquad s > 0 \qquad s \in R $$"
    text = f"<!-- beside code.py: * side -->\n<!-- beside code.py: if side < 0 -->\n<!-- beside nothing -->\n{both}"
    assert [each[0::3] for each in equations.read(readme(tmp_path, text))] == [("a = s^2", 8), ("s > 0", 4)]
    with pytest.raises(ValueError, match="README.md: 2 comments before an equation of 3 parts: a = s"):
        equations.read(readme(tmp_path, text.replace("<!-- beside nothing -->\n", "")))


@pytest.mark.parametrize(("line", "count"), [("side + side", 0), ("side", 4)])
def test_a_line_that_is_not_there_once_stops_the_build(tmp_path: Path, line: str, count: int) -> None:
    path = readme(tmp_path, f"<!-- beside code.py: {line} -->\n$$ a $$")
    with pytest.raises(ValueError, match=f"README.md: an equation stands beside .* which is in {count} lines of code.py"):
        equations.read(path)


def test_an_equation_without_a_comment_is_found() -> None:
    assert equations.unplaced("<!-- beside nothing -->\n$$ a $$\n\n$$ b $$") == ["b"]
