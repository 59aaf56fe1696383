"""Runs in which padding takes part say so, in what they print and in what they leave behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.run.results import read_run

from ..kinds import first_fast
from ..small_runs import short_run


@pytest.mark.parametrize(("padding", "marks"), first_fast([("attended", ["padding attended"]), ("masked", [])]))
def test_results_say_whether_padding_takes_part(
    padding: str, marks: list[str], shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = short_run("xclip_shapes", shapes_root, tmp_path, "--model.encoder.freeze_image=true")
    assert main(["fit", *words, f"--model.padding={padding}"]) == 0
    run = read_run(tmp_path / "xclip_shapes" / "a")
    assert run.content["padding"] == padding
    assert run.marks == marks
    assert ("padding attended: places that do not exist take part" in capsys.readouterr().out) == bool(marks)
