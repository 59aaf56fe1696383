"""What steers a terminal or turns a line around is shown escaped, wherever text of others is shown."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.table import Table
from rich.text import Text

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores.files import write_csv
from tvr_lightning.visible import console, encodable, say, visible, whole

from .report.finished_runs import make_run

HOSTILE = "\x1b]0;owned\x07\x1b[2J\u202egpj.exe\u2066\x9b31m\r\x00\udce9"
SHOWN = r"\x1b]0;owned\x07\x1b[2J\u202egpj.exe\u2066\x9b31m\x0d\x00\udce9"
LETTERS = "é 一 हिन्दी نیم‌فاصله 👩‍👩‍👧 שלום\u200f\t|\n"


def test_letters_stay_and_what_is_none_is_escaped() -> None:
    assert visible(HOSTILE) == SHOWN
    assert visible(visible(HOSTILE)) == SHOWN
    assert visible(LETTERS) == encodable(LETTERS) == whole(LETTERS) == LETTERS
    for code in range(0x110000):
        if code not in (9, 10) and (code < 32 or 127 <= code < 160 or 0xD800 <= code < 0xE000):
            assert visible(chr(code)).isprintable()
    encodable(HOSTILE).encode()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "latin-1"])
def test_say_prints_into_any_output(encoding: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    say("a", 1, HOSTILE, LETTERS, file=out, flush=True)
    text = out.buffer.getvalue().decode(encoding)  # type: ignore[attr-defined]
    assert text.startswith(f"a 1 {SHOWN} ")
    assert ("一" in text) == (encoding == "utf-8")
    assert text.isascii() or encoding != "ascii"


def test_tables_show_it_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("head \x1b[31m", "b", title="title \u202e")
    table.add_row("row \x1b[2J", Text.assemble("a", ("\x9bb", "bold")))
    table.add_row("", "a wide one")  # rich measures before anything is escaped, and cuts what is longer with "…"
    console(200).print(table)
    console().print("line \x07", "一", highlight=False)
    out = capsys.readouterr().out
    for shown in (r"head \x1b[31m", r"title \u202e", r"row \x1b[2J", r"a\x9bb"):
        assert shown in out
    assert "一" in out
    assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(out)


def test_brackets_and_colons_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Of file names, experiments and captions, in whatever part of a table."""
    table = Table("head [red]", title="title [/x]", caption=":smile: [b]")
    table.add_column("[link=x]")
    table.add_row("a [abc] [/x].mp4", ":dog: [bold]b[/bold]")
    console(200).print(table)
    console(200).print("[/x] [abc] :dog:")
    out = capsys.readouterr().out
    for shown in ("head [red]", "title [/x]", ":smile: [b]", "[link=x]", "a [abc] [/x].mp4", ":dog: [bold]b[/bold]",
                  "[/x] [abc] :dog:"):  # fmt: skip
        assert shown in out


def test_styles_stay_where_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    out = console(80)
    with out.capture() as captured:
        out.print(Text.assemble(("bold\x1b", "bold"), "plain"), end="")
    assert captured.get().replace("\x1b[", "<").strip() == r"<1mbold<0m<1m\x1b<0mplain"


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--config", f"no{HOSTILE[:-2]}.yaml"],
        ["inspect", f"runs/{HOSTILE[:-2]}", "x"],
        [f"no{HOSTILE[:-2]}"],
        ["compare", f"runs/{HOSTILE[:-2]}"],
    ],
)
def test_errors_show_it_escaped(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = [word.replace("\0", "") for word in words]
    assert main(words) in (1, 2)
    said = "".join(capsys.readouterr())
    assert r"\x1b]0;owned\x07" in said
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\r"} & set(said)


def test_warnings_logs_and_tracebacks_of_the_command_line_show_it_escaped() -> None:
    code = f"""
import logging, warnings
from tvr_lightning.commands.main import main
main(["--version"]); main(["--version"])
text = {HOSTILE!r}
warnings.warn("warned " + text)
logging.getLogger("x").warning("logged %s", text)
raise ValueError("raised " + text)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    said = done.stderr.decode("utf-8")
    for head in ("warned", "logged", "raised"):
        assert f"{head} {SHOWN}" in said
    assert not {"\x1b", "\x9b", "\x07", "\u202e", "\r", "\0"} & set(said)


CELLS = [
    ("=1+1", "'=1+1"),
    ("+49 30", "'+49 30"),
    ("-2+3", "'-2+3"),
    ("@SUM(A1)", "'@SUM(A1)"),
    ("\t=1", "'\t=1"),
    ("\n=1", "'\n=1"),
    ("＝1", "'＝1"),
    ("-0.25", "-0.25"),
    ("+3e-5", "+3e-5"),
    ("-inf", "-inf"),
    ("a=1", "a=1"),
    ("", ""),
    ("-0sXY", "'-0sXY"),
    ("'=1", "'=1"),
    ("\x1b\udce9", r"\x1b\udce9"),
    (-0.25, "-0.25"),
    (None, ""),
    (True, "True"),
]


@pytest.mark.parametrize(("value", "cell"), CELLS)
def test_no_cell_begins_a_formula(value: object, cell: str) -> None:
    out = io.StringIO(newline="")
    write_csv(out, ["a", "=b"], [{"a": value}])
    assert list(csv.reader(io.StringIO(out.getvalue(), newline=""))) == [["a", "'=b"], [cell, ""]]


def test_a_comparison_shows_it_escaped_in_every_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tvr_lightning.commands.tables import compare_paths, print_comparison
    from tvr_lightning.report.formats import FORMATS
    from tvr_lightning.report.page import render

    run = make_run(tmp_path / "=cmd\x1b[2J\u202e", "a\x9b")
    file = run / "metrics.json"
    content = json.loads(file.read_text())
    content |= {"dataset": "d\x1b]0;\x07", "device": "=HYPERLINK(1)", "encoder": "e\udce9"}
    file.write_text(json.dumps(content))
    comparison = compare_paths([tmp_path], tmp_path)
    print_comparison(comparison)
    for form in FORMATS.values():
        say(form(comparison))
    page = render(comparison)
    page.encode("utf-8")
    out = capsys.readouterr().out
    for text in (out, page):
        assert not {"\x1b", "\x9b", "\x07", "\u202e"} & set(text)
        assert r"\x1b[2J\u202e" in text
    rows = list(csv.DictReader(io.StringIO(FORMATS["csv"](comparison))))
    assert rows[0]["experiment"] == r"'=cmd\x1b[2J\u202e"
    assert rows[0]["device"] == "'=HYPERLINK(1)"
    assert float(rows[0]["t2v/R@1"]) >= 0
