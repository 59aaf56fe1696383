"""`tvr inspect` on the command line: ids that look like options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.report import inspection


@pytest.mark.parametrize(
    ("words", "query", "video"),
    [
        (["RUN", "video7#0"], "video7#0", None),
        (["RUN", "-0sXY"], "-0sXY", None),
        (["RUN", "-0sXY#1", "--video", "-abc", "--trust"], "-0sXY#1", "-abc"),
        (["--video=--a", "RUN", "--", "--0sXY"], "--0sXY", "--a"),
        (["RUN", "--video", "--a", "--against", "OTHER", "-", "--trust"], "-", "--a"),
        (["RUN", "--against", "OTHER", "MORE", "--", "-1"], "-1", None),
    ],
)
def test_ids_that_begin_with_dashes(
    words: list[str], query: str, video: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    for run in ("RUN", "OTHER", "MORE"):
        Path(run).mkdir()
        Path(run, "config.yaml").touch()
    seen: list[Any] = []

    def record(*arguments: Any) -> inspection.Drawn:
        seen.append(arguments)
        return inspection.Drawn([Path("a.png")], ["no picture of b"])

    monkeypatch.setattr(inspection, "inspect_run", record)
    assert main(["inspect", *words]) == 0
    assert seen[0][:3] == (Path("RUN"), query, video)
    assert [str(path) for path in seen[0][3]] == [word for word in words if word in ("OTHER", "MORE")]
    assert seen[0][4] == ("--trust" in words)
    output = capsys.readouterr()
    assert output.out == "a.png\n"
    assert output.err == "tvr: no picture of b\n"


@pytest.mark.parametrize("words", [["RUN"], ["RUN", "q", "--video"]])
def test_wrong_calls_say_where_dashes_stand(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["inspect", *words])
    assert stop.value.code == 2
    assert "[--] QUERY" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "said"), [(["--0sXY"], "-- --0sXY"), (["q", "--vidio", "x"], "no option '--vidio'")])
def test_words_with_two_dashes_that_are_no_options(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", "RUN", *words]) == 2
    assert said in capsys.readouterr().err
