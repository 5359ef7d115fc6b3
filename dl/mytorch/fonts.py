"""Fonts for texts that come from outside, as names of classes: matplotlib's own has no Chinese, Japanese or Korean."""

import functools
import sys
from typing import Any, Iterable

IGNORED = ("Last Resort",)  # a font that has a box for every character


def drawable(texts: Iterable[str]) -> tuple[list[str], dict[str, Any]]:
    r"""Return `texts` as they can be drawn, and matplotlib's options for them, under which $ is a dollar.

    Characters that matplotlib's font lacks are drawn in another font of this machine. Those that none has become escapes, as
    \u732b, and a line on stderr says so once.
    """
    texts = list(texts)
    options: dict[str, Any] = {"parse_math": False}
    foreign = frozenset(c for text in texts for c in text if not c.isascii())
    if foreign:
        families, missing = _families(foreign)
        options["fontfamily"] = list(families)
        if missing:
            _warn()
            table = {ord(c): c.encode("unicode_escape").decode() for c in missing}
            texts = [text.translate(table) for text in texts]
    return texts, options


@functools.cache
def _families(characters: frozenset[str]) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the usual font and those that have the characters it lacks, and the characters that none has."""
    from matplotlib import rcParams
    from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

    families = list(rcParams["font.family"])
    missing = {c for c in characters if ord(c) not in get_font(findfont(FontProperties())).get_charmap()}
    for font in fontManager.ttflist:
        if not missing:
            break
        if font.name.startswith(IGNORED):
            continue
        try:
            found = missing & {chr(code) for code in get_font(font.fname).get_charmap()}
        except (OSError, RuntimeError):  # a font that was removed, or that FreeType cannot read
            continue
        if found:
            families.append(font.name)
            missing -= found
    return tuple(families), frozenset(missing)


@functools.cache
def _warn() -> None:
    line = "note: no font here has all characters of the names in the figures; install one, say Noto Sans CJK"
    print(line, file=sys.stderr, flush=True)
