"""Letters in figures: which fonts are chosen, and what is said when none has a letter."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from tvr_lightning.run import fonts


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three fonts: Latin, one with Chinese letters, one with a few of them; and a font of boxes."""
    letters = {"Latin": "abc ", "Han": "红色圆a", "Few": "红", "Last Resort": "abc红色圆ক"}
    entries = [font_manager.FontEntry(fname=name, name=name, style="normal") for name in letters]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", entries)
    monkeypatch.setattr(font_manager, "findfont", lambda name: "Latin")
    monkeypatch.setattr(fonts, "_letters", lambda path: frozenset(map(ord, letters[path])))
    monkeypatch.setattr(fonts, "_know_new_fonts", lambda: None)


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("text", "families", "missing"),
    [
        ("abc", [], ""),
        ("a 红色", ["Han"], ""),
        ("红\u200d\ufe0f\n", ["Few"], ""),  # joiners and selectors are not letters
        ("红色কখক", ["Han"], "কখ"),
    ],
)
def test_fonts_that_have_the_letters(text: str, families: list[str], missing: str) -> None:
    found, lacking = fonts.fonts_for(text)
    assert found[0] == fonts.DEFAULT
    assert lacking == missing
    if families == ["Few"]:  # either has it
        assert found[1] in ("Few", "Han")
    else:
        assert found[1:] == families


def test_a_picture_of_letters_that_no_font_has_warns_once_and_not_by_letter() -> None:
    unknown = "\U000e0fff\U0001fbff"  # no letter at all, and one that hardly a font has
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture, missing = fonts.render(lambda: titled(f"a {unknown} $5 and $6_x$"), f"a {unknown}")
    assert np.asarray(Image.open(io.BytesIO(picture))).std() > 0
    assert missing in ("", "\U0001fbff")
    assert fonts.missing_letters("红色").count("\n") == 0
    assert "CJK" in fonts.missing_letters("红色")


def titled(text: str) -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.suptitle(text)
    return figure
