"""Letters in figures: captions of any script in fonts that have them, and a word about letters that no font has."""

from __future__ import annotations

import io
import unicodedata
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING

from tvr_lightning.errors import few

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT = "DejaVu Sans"  # comes with matplotlib
_PLACEHOLDERS = "Last Resort"  # a font of boxes for everything, which matplotlib brings since 3.11


def render(draw: Callable[[], Figure], text: str) -> tuple[bytes, str]:
    """Draws a figure in fonts that have the letters of a text; dollar signs are not formulas.

    Args:
        draw: makes the figure.
        text: all that it writes, as far as others than we chose the words.

    Returns:
        The PNG file, and the letters for which it shows boxes because no installed font has them.
    """
    from matplotlib import rc_context

    families, missing = fonts_for(text)
    content = io.BytesIO()
    with rc_context({"font.family": families, "text.parse_math": False}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a warning a letter; `missing` says it once
        draw().savefig(content, format="png")
    return content.getvalue(), missing


def missing_letters(letters: str) -> str:
    """One line about letters that are shown as boxes.

    >>> missing_letters("红色")
    'no installed font has 红, 色 (CJK): the pictures show boxes for them; install one that has, such as Noto'
    """
    scripts = sorted({unicodedata.name(letter, "unnamed").split()[0] for letter in letters})
    return (
        f"no installed font has {few(letters)} ({few(scripts)}): the pictures show boxes for them; install one that "
        "has, such as Noto"
    )


def fonts_for(text: str) -> tuple[list[str], str]:
    """Chooses font families for a text, the default first, and says which of its letters none of them has.

    >>> fonts_for("a red circle, красный круг")
    (['DejaVu Sans'], '')
    """
    from matplotlib import font_manager

    families = [DEFAULT]
    visible = [c for c in dict.fromkeys(text) if unicodedata.category(c)[0] not in "CZ" and not _joins(c)]
    default = _letters(font_manager.findfont(DEFAULT))
    missing = [c for c in visible if ord(c) not in default]
    if not missing:
        return families, ""
    _know_new_fonts()
    # the installed font that has most of what is missing, then the one that has most of the rest
    fonts = {f.name: f.fname for f in font_manager.fontManager.ttflist if f.style == "normal"}
    fonts = {name: path for name, path in sorted(fonts.items()) if not name.startswith(_PLACEHOLDERS)}
    while missing and fonts:
        best = max(fonts, key=lambda name: sum(ord(c) in _letters(fonts[name]) for c in missing))
        left = [c for c in missing if ord(c) not in _letters(fonts[best])]
        if len(left) == len(missing):
            break
        families.append(best)
        missing = left
    return families, "".join(missing)


def _joins(letter: str) -> bool:
    """Whether it is a variation selector, which chooses a form of the letter before it and has none of its own."""
    return "VARIATION SELECTOR" in unicodedata.name(letter, "")


@cache
def _letters(path: str) -> frozenset[int]:
    """What a font file has; nothing where matplotlib cannot draw with it, as with pictures of emoji."""
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):
        return frozenset()


@cache
def _know_new_fonts() -> None:
    """Adds fonts that were installed after matplotlib wrote its list."""
    from matplotlib import font_manager

    known = {font.fname for font in font_manager.fontManager.ttflist}
    new: Sequence[str] = sorted(set(font_manager.findSystemFonts()) - known)
    for path in new:
        if _letters(path):
            font_manager.fontManager.addfont(path)
