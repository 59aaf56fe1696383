"""Pictures of weights: labels, units, places, whatever the method is."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from tvr_lightning.methods.views import Frame, Label, Maps, Weights, Word
from tvr_lightning.run.pictures import Pair, draw_maps, wrapped

FRAMES = (Frame(0), Frame(1), Frame(2))
WORDS = (Word((1,)), Word((2, 3)))


def pair_of(caption: str = "a turquoise") -> Pair:
    pixels = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    return Pair(caption, ("a", "tur-", "quoise"), "-v1", pixels, torch.tensor([0.0, 1.5, 3.04]), 12.345, ())


def panel(rows: tuple[Label, ...], columns: tuple[Label, ...], unit: str = "attention", bare: bool = False) -> Weights:
    values = torch.rand(len(rows), len(columns))
    if bare:
        values[0, 0] = torch.nan
    return Weights("things", rows, columns, values, unit)


def test_a_map_has_labels_a_unit_and_frames_with_times() -> None:
    figure = draw_maps(pair_of(), Maps("m", (panel(("sentence", *WORDS), FRAMES),)))
    strip, table, bar = figure.axes
    assert [t.get_text() for t in strip.get_xticklabels()] == ["1\n0.0 s", "2\n1.5 s", "3\n3.0 s"]
    assert len(strip.images) == 3
    assert [t.get_text() for t in table.get_yticklabels()] == ["sentence", "a", "turquoise"]
    assert bar.get_ylabel() == "attention"
    assert "“a turquoise”\nvideo -v1, score 12.35" in figure.get_suptitle()
    figure.draw_without_rendering()
    above, below = strip.get_position(), table.get_position()
    assert above.x0 == pytest.approx(below.x0, abs=0.01)
    assert above.x1 == pytest.approx(below.x1, abs=0.01)
    assert above.y0 > below.y1


def test_a_single_row_is_a_line_over_frames_and_bars_over_others() -> None:
    cross = Word((2, 3), prefix="cross ")
    figure = draw_maps(pair_of(), Maps("m", (panel(("x",), FRAMES, "cosine"), panel(("x",), (*WORDS, "video", cross)))))
    _, line, bars = figure.axes
    assert len(line.lines) == 1
    assert (line.get_ylabel(), line.get_xlabel()) == ("cosine", "frame")
    assert len(bars.patches) == 4
    assert [t.get_text() for t in bars.get_xticklabels()] == ["a", "turquoise", "video", "cross turquoise"]


def test_places_without_a_value_are_explained() -> None:
    plain, bare = (draw_maps(pair_of(), Maps("m", (panel(WORDS, FRAMES, bare=b),))).axes[1] for b in (False, True))
    assert plain.get_title(loc="left") == "things"
    assert bare.get_title(loc="left") == "things (grey: not connected)"


@pytest.mark.parametrize("columns", [3, 40])
def test_no_two_labels_of_columns_overlap(columns: int) -> None:
    labels = tuple(f"hyperedge {i}" for i in range(columns))
    figure = draw_maps(pair_of("long caption " * 30), Maps("m", (panel(("a", "b"), labels),)))
    figure.draw_without_rendering()
    boxes = [t.get_window_extent() for t in figure.axes[1].get_xticklabels()]
    assert all(not a.overlaps(b) for a, b in pairwise(boxes))
    assert min(box.y0 for box in boxes) >= 0
    title = figure._suptitle.get_window_extent()
    assert title.x1 <= figure.bbox.width
    assert title.y0 >= figure.axes[0].get_window_extent().y1


def test_labels_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="1 rows and 2 columns are named"):
        Weights("things", ("a",), ("b", "c"), torch.rand(2, 2))


def test_letters_of_east_asia_take_two_places() -> None:
    assert max(map(len, wrapped("红" * 100, 6.8).splitlines())) == 40
    assert max(map(len, wrapped("a" * 100, 6.8).splitlines())) == 80
    assert wrapped("a\n b", 5) == "a b"
