"""What a shell gets that asks by argcomplete's variables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tvr_lightning.commands import completion
from tvr_lightning.commands.main import COMMANDS, main

pytest.importorskip("argcomplete", reason="the optional extra `completion` is not installed")

ROOT = Path(__file__).parents[2]
SLOW = ("torch", "pytorch_lightning", "jsonargparse", "numpy", "transformers")
# as `tvr` runs, and then says which slow modules came along; argcomplete ends a process at once
CODE = f"""
import os, sys
import argcomplete
from tvr_lightning.commands.main import main
def end(code):
    print(code, [name for name in {SLOW} if name in sys.modules], file=sys.stderr, flush=True)
    end_now(code)
end_now, os._exit = os._exit, end
argcomplete.CompletionFinder.__call__.__defaults__ = tuple(
    end if value is end_now else value for value in argcomplete.CompletionFinder.__call__.__defaults__
)
end(main())
"""


@pytest.fixture
def ask(tmp_path: Path) -> Callable[..., list[str]]:
    """Asks for what a line may go on with, in a working directory with two runs."""
    (tmp_path / "runs/lean_shapes/a/checkpoints").mkdir(parents=True)
    (tmp_path / "runs/lean_shapes/a/config.yaml").write_text("{}")
    (tmp_path / "runs/tc_mgc_shapes/b").mkdir(parents=True)
    (tmp_path / "runs/tc_mgc_shapes/b/metrics.json").write_text("{}")
    (tmp_path / "videos.index").mkdir()
    (tmp_path / "own.yaml").write_text("{}")

    def ask(line: str) -> list[str]:
        answer = tmp_path / "answer"
        asked = {
            "_ARGCOMPLETE": "1", "_ARGCOMPLETE_SHELL": "bash", "_ARGCOMPLETE_IFS": "\n", "COMP_LINE": line,
            "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n\"'><=;|&(:",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(answer), "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "PYTHONPATH": str(ROOT),
        }  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-c", CODE], cwd=tmp_path, env={**os.environ, **asked}, capture_output=True, text=True,
            check=False, timeout=60,
        )  # fmt: skip
        assert done.stdout == ""
        assert done.stderr.splitlines()[-1] == "0 []", done.stderr
        return [word.strip() for word in answer.read_text().split("\n") if word]

    return ask


def test_names_that_steer_a_terminal_are_not_offered(ask: Callable[..., list[str]], tmp_path: Path) -> None:
    for name in ("a\x1b[2J", "b\nrm", "c\x0brm", "d\te", "e f;g", "é"):
        (tmp_path / "runs/own" / name).mkdir(parents=True)
        (tmp_path / "runs/own" / name / "metrics.json").touch()
    assert ask("tvr inspect runs/own") == ["runs/own", r"runs/own/e\ f\;g", "runs/own/é"]


def test_an_experiment_of_another_shape_gives_no_names(ask: Callable[..., list[str]], tmp_path: Path) -> None:
    for content in ("model: [1]", "model: {class_path: 5, init_args: 7}", "data: 3"):
        (tmp_path / "own.yaml").write_text(content)
        assert ask("tvr fit --config own.yaml --model.enc") == []


def test_commands(ask: Callable[..., list[str]]) -> None:
    assert ask("tvr ") == ["-h", "--help", *COMMANDS]
    assert ask("tvr comp") == ["compare", "completion"]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("tvr fit --config lean_sh", ["lean_shapes"]),
        ("tvr fit -c lean_sh", ["lean_shapes"]),
        ("tvr fit --config=lean_sh", ["lean_shapes"]),  # the shell takes = for the end of a word
        ("tvr fit --config ow", ["own.yaml"]),
        ("tvr fit --config lean_shapes --data.sampl", ["--data.sampling"]),
        ("tvr fit --config lean_shapes --data.sampling=u", ["uniform"]),
        ("tvr fit --config lean_shapes --data.cache_frames ", ["true", "false"]),
        ("tvr fit --config lean_shapes --trac", ["--tracker"]),
        ("tvr fit --config lean_shapes --tracker ten", ["tensorboard"]),
        ("tvr fit --config lean_shapes --model.kl_r", ["--model.kl_reduction"]),
        ("tvr fit --config lean_shapes --model.optimizer.alg", ["--model.optimizer.algorithm"]),
        ("tvr fit --config lean_shapes --model.optimizer.algorithm=s", ["sgd"]),
        ("tvr fit --config lean_shapes --resume=la", ["last"]),
        ("tvr test --ckpt_path b", ["best"]),
        ("tvr test runs/le", ["runs/lean_shapes", "runs/lean_shapes/a"]),
        ("tvr compare runs/tc", ["runs/tc_mgc_shapes", "runs/tc_mgc_shapes/b"]),
        ("tvr compare runs/lean_shapes/a --baseline runs/tc", ["runs/tc_mgc_shapes", "runs/tc_mgc_shapes/b"]),
        ("tvr compare --format la", ["latex"]),
        ("tvr data check --spl", ["--split"]),
        ("tvr data check --split v", ["validation"]),
        ("tvr data check --config lean_sh", ["lean_shapes"]),
        ("tvr smoke lean_sh", ["lean_shapes"]),
        ("tvr search vid", ["videos.index/"]),
        ("tvr fit --config no_such_file.yaml --data.sampl", ["--data.sampling"]),
        ("tvr ablate --config ablations/tc_mgc/hea", ["ablations/tc_mgc/heads"]),
        ("tvr completion z", ["zsh"]),
    ],
)
def test_words(ask: Callable[..., list[str]], line: str, found: list[str]) -> None:
    assert ask(line) == found


@pytest.mark.parametrize("command", [name for name in COMMANDS if COMMANDS[name] != "fit"])
def test_every_command_gives_its_options(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = completion._parser_of(COMMANDS, [command], "")
    assert parser.prog == f"tvr {command}"
    assert capsys.readouterr().out == ""


def test_nothing_is_answered_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMP_LINE", raising=False)
    assert completion.complete(COMMANDS) == 1


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_code_for_a_shell_is_printed(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "_ARGCOMPLETE=1" in text
    assert " tvr\n" in text


def test_bash_reads_the_code(tmp_path: Path) -> None:
    code = f'eval "$({sys.executable} -m tvr_lightning completion bash)" && complete -p tvr'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "-F _python_argcomplete" in done.stdout


def test_missing_extra_is_a_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(completion, "find_spec", lambda name: None)
    assert main(["completion", "bash"]) == 2
    assert "pip install 'tvr-lightning[completion]'" in capsys.readouterr().err
    assert completion.complete(COMMANDS) == 1
