"""Names in any script are drawn: in a font that has their characters, or as escapes."""

from types import SimpleNamespace
from typing import Iterator

import pytest

from dl.mytorch import fonts

CAT, DOG = "\u732b", "\u72ac"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Fonts of a machine, name -> the characters they have; the usual one has Latin letters. No line was said yet."""
    found = {"DejaVu Sans": "\u00e4\u00e9", "Last Resort Boxes": CAT + DOG}
    import matplotlib.font_manager as manager

    listed = [SimpleNamespace(name=name, fname=name) for name in found]
    monkeypatch.setattr(manager, "findfont", lambda properties: "DejaVu Sans")
    monkeypatch.setattr(manager, "get_font", lambda name: SimpleNamespace(get_charmap=lambda: {ord(c): 0 for c in found[name]}))
    monkeypatch.setattr(manager, "fontManager", SimpleNamespace(ttflist=listed))
    found.setdefault("listed", listed)
    fonts._families.cache_clear()
    fonts._warn.cache_clear()
    yield found
    fonts._families.cache_clear()


def test_a_font_that_has_the_characters_is_used(machine: dict, capsys: pytest.CaptureFixture[str]) -> None:
    for name, characters in (("Broken", ""), ("Cats", CAT), ("Dogs", DOG)):
        machine[name] = characters
        machine["listed"].append(SimpleNamespace(name=name, fname=name))
    texts, options = fonts.drawable([CAT, f"{DOG} $1", "\u00e4"])
    assert texts == [CAT, f"{DOG} $1", "\u00e4"] and options["parse_math"] is False
    assert options["fontfamily"][1:] == ["Cats", "Dogs"] and capsys.readouterr().err == ""


def test_without_such_a_font_names_are_escapes_and_one_line_says_why(machine: dict, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert fonts.drawable([f"a {CAT}", "b"])[0] == ["a \\u732b", "b"]
    assert capsys.readouterr().err.count("\n") == 1


def test_ascii_asks_for_no_font(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_families", None)
    assert fonts.drawable(["_x", "$"]) == (["_x", "$"], {"parse_math": False})
