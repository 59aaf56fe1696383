"""YAML of others: what is deeper or larger than settings is refused before a parser goes into it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config import text as text_module
from tvr_lightning.config.compose import compose
from tvr_lightning.config.text import DEEPEST, MOST, RefusedError, parse_yaml
from tvr_lightning.errors import TVRError
from tvr_lightning.names import CONFIG
from tvr_lightning.report.reported import load_reported
from tvr_lightning.run.load import load_run
from tvr_lightning.run.reading import read_settings

DEEP = "[" * 100_000  # the parser in C dies of it
LEVELS = 7
BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, LEVELS)
)
CHAIN = "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, DEEPEST + 1))
BEYOND = "nested deeper than"


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, "- " * 100_000 + "x", BOMB, CHAIN, "a: &a [x, *a]", "? " * 50_000 + "x"],
    ids=["flow", "keys", "block", "bomb", "chain", "inside itself", "keys of keys"],
)  # fmt: skip
def test_what_is_beyond_settings_is_refused(text: str) -> None:
    with pytest.raises(RefusedError, match=BEYOND):
        parse_yaml(text)


@pytest.mark.parametrize("text", ["[" * DEEPEST + "]" * DEEPEST, f"[{', '.join(['x'] * 99)}]"])
def test_bounds_themselves_are_within(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_module, "MOST", 100)
    assert parse_yaml(text) == yaml.load(text, Loader=yaml.CSafeLoader)
    with pytest.raises(RefusedError):
        parse_yaml(f"[{text}]")


@pytest.mark.parametrize(
    "text", ["", "x", "a: &a {b: 1}\nc: {<<: *a, d: [*a, *a]}", "a: &a x\nb: *a", "a: 1\n---\nb: 2"]
)
def test_other_yaml_is_what_it_was(text: str) -> None:
    def read(loader: Any) -> Any:
        try:
            return loader(text)
        except yaml.YAMLError as error:
            return type(error)

    assert read(parse_yaml) == read(yaml.safe_load)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("!!int ''", "cannot be read as"),
        ("!!bool x", "cannot be read as"),
        ("!!timestamp x", "cannot be read as"),
        (":".join(["59"] * 20_000), "a number of 59,999 digits"),
        ("9" * 5000, "a number of 5,000 digits"),
        ("a" + ".a" * 400 + ": 1", BEYOND),
        (f"a: '{DEEP}'", BEYOND),
        ("a: |\n" + "".join(f"  {line}\n" for line in BOMB.splitlines()), BEYOND),
        ("".join(f"{i}: 1\n" for i in range(MOST)), BEYOND),
    ],
)
def test_values_that_a_parser_chokes_on_are_refused(text: str, why: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=why):
        parse_yaml(text)
    (tmp_path / CONFIG).write_text(f"{text}\n" if ": " in text else f"a: {text}\n")
    with pytest.raises(TVRError, match=why):
        load_run(tmp_path)
    with pytest.raises(TVRError, match=why):
        compose(tmp_path / CONFIG)
    with pytest.raises(TVRError, match=why):
        read_settings(tmp_path / CONFIG)


@pytest.mark.parametrize(
    "words", [["fit", "--config=FILE"], ["test", "RUN"], ["ablate", "--config=FILE"], ["rehearse", "--config=FILE"],
              ["fit", "--config={a: TEXT"], ["fit", "--config=GOOD", "--data.frames=TEXT"],
              ["fit", "--config=GOOD", "--model=TEXT"], ["fit", "--config=GOOD", "--trainer.logger='TEXT'"],
              ["fit", "--config=GOOD", "--data.annotations=FILE"]],
    ids=" ".join,
)  # fmt: skip
def test_commands_refuse_it_in_a_sentence(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / CONFIG).write_text(DEEP)
    given = {"FILE": str(file), "RUN": str(tmp_path), "TEXT": DEEP, "GOOD": "clip4clip_shapes"}
    for name, value in given.items():
        words = [word.replace(name, value) for word in words]
    assert main(words) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert BEYOND in line
    assert len(line) < 400


def test_functions_refuse_it_too(tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(DEEP)
    with pytest.raises(TVRError, match=BEYOND):
        load_run(tmp_path)
    (tmp_path / "methods.yaml").write_text(BOMB)
    with pytest.raises(TVRError, match=BEYOND):
        load_reported(tmp_path)


@pytest.mark.parametrize("words", [["--config={}"], ["--model={}.Y"], ["--data.annotations={}"], ["--model={}"]])
def test_names_longer_than_the_system_takes(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = "x" * 400
    assert main(["fit", "--config=clip4clip_shapes", *(word.format(name) for word in words)]) == 2
    assert name in capsys.readouterr().err
    for command, said in (("test", "is not a run"), ("compare", "no run folder"), ("dashboard", "no run folder")):
        assert main([command, name]) in (1, 2)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("beside", [(), ("checkpoints",)])
def test_a_run_s_configuration_stands_for_nothing_else(
    beside: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECRET", "of mine")
    for name in beside:
        (tmp_path / name).mkdir()
    grown = "".join(f"x{i}: {f'${{x{i - 1}}}' * 10}\n" for i in range(1, 12))
    (tmp_path / CONFIG).write_text(f"experiment: ${{oc.env:SECRET}}\nx0: {'y' * 100}\n{grown}")
    assert main(["test", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "unknown key 'x0'" in error
    assert "of mine" not in error


def test_a_run_s_folder_may_begin_with_a_brace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (folder := Path("{x}")).mkdir()
    (folder / CONFIG).write_text("experiment: e\nno_setting: 1\n")
    assert main(["test", str(folder)]) == 2
    assert "config.yaml: unknown key 'no_setting'" in capsys.readouterr().err
    with pytest.raises(TVRError, match="unknown key 'no_setting'"):
        load_run(folder)
