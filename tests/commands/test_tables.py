"""Tables of commands are read whole: no figure is cut, however many columns there are."""

from __future__ import annotations

import pytest
from rich.table import Table

from tvr_lightning.commands.tables import print_wide


@pytest.mark.parametrize("columns", [3, 40])
def test_no_figure_is_cut_and_notes_wrap(
    columns: int, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = Table("run")
    figures = [f"{1000 + i}.25" for i in range(columns)]
    for i in range(columns):
        table.add_column(f"R@{i}", no_wrap=True)
    table.add_row("a note " * 40, *figures)
    print_wide(table)
    printed = capsys.readouterr().out
    assert [figure for figure in figures if figure not in printed] == []
    assert printed.count("note") == 40
    assert (max(map(len, printed.splitlines())) == 160) == (columns == 3)
