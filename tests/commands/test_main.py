from __future__ import annotations

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from lightning_fabric.utilities.exceptions import MisconfigurationException

from tvr_lightning import __version__
from tvr_lightning.commands import main as main_module
from tvr_lightning.commands.main import COMMANDS, main
from tvr_lightning.errors import DataError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--help"], 0, "tvr compare"),
        ([], 2, "usage: tvr"),
        (["--version"], 0, __version__),
        (["fitt"], 2, "no command 'fitt'; did you mean fit"),
        (["fit"], 2, "needs an experiment"),
        (["fit", "--config", "experiments/nope.yaml"], 2, "no experiment file experiments/nope.yaml"),
        (["fit", "--config"], 2, "--config has no value"),
        (["fit", "--config=clip4clip_shapes", "--dry_run"], 2, "unknown key 'dry_run'"),
        (["rehearse", "--config=clip4clip_shapes", "--dat.batch_size=3"], 2, "did you mean data?"),
        (["compare", "pyproject.toml"], 1, "pyproject.toml is a file; give the folder of a run"),
        (["data", "shapes", "--root", "pyproject.toml"], 1, "pyproject.toml"),
    ],
)
def test_answers(
    words: list[str], code: int, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(words) == code
    captured = capsys.readouterr()
    assert text in captured.out + captured.err


def test_module_runs_as_the_command_does() -> None:
    done = subprocess.run([sys.executable, "-m", "tvr_lightning", "fot"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("tvr: no command 'fot'")
    assert "Traceback" not in done.stderr


def test_data_is_made_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["data", "shapes", "--root", str(tmp_path / "s"), "--num_videos", "6"]
    assert main(words) == 0
    assert "made in" in capsys.readouterr().out
    assert main(words) == 0
    assert "already there" in capsys.readouterr().out


def test_config_can_be_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", "experiments/clip4clip_shapes.yaml", "--data.batch_size=3", "--print_config"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    assert "batch_size: 3" in out
    assert "class_path: tvr_lightning.methods.clip4clip.CLIP4Clip" in out


@pytest.mark.parametrize(
    ("words", "slow", "text"),
    [
        (["triples"], "torch", "no captions"),
        (["triples", "a dog barks", "--backend", "x"], "torch", "invalid choice: 'x'"),
        (["leakcheck", "--config", "none.yaml"], "torch", "no experiment file none.yaml"),
        (["rehearse", "--config", "nope"], "torch", "no experiment file nope: known: agch_"),
        (["rehearse", "--config", "lean_shapes", "--data.x=1"], "torch", "unknown key 'data.x'"),
        (["ablate", "--config", "none"], "torch", "no grid file none: no .yaml file lies in ."),
        (["inspect", "none", "a dog"], "torch", "none is not a run: no config.yaml in none"),
        (["encode", "none"], "torch", "none is not a run"),
        (["scores", "none/checkpoints/best.ckpt"], "torch", "is not a run: no config.yaml in none"),
        (["features", "none"], "torch", "none is not a run"),
        (["test", "none"], "torch", "none is not a run"),
        (["leakcheck", "--config", "experiments/lean_shapes.yaml", "--model.x=1"], "pytorch_lightning", "unknown key"),
    ],
)
def test_wrong_calls_are_answered_without_slow_imports(words: list[str], slow: str, text: str) -> None:
    code = (
        "import sys; from tvr_lightning.commands.main import main\n"
        f"try: code = main({words!r})\nexcept SystemExit as stop: code = stop.code\n"
        f"sys.exit(99 if {slow!r} in sys.modules else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == (1 if "is not a run" in text else 2), done.stderr
    assert text in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["rehearse", "--config=clip4clip_shapes", "--step", "3"], "no option --step; did you mean --steps?"),
        (["search", "index", "a dog", "--cand=3"], "no option --cand; did you mean --candidates?"),
    ],
)
def test_misspelt_options_are_not_taken_for_settings(
    words: list[str], meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert meant in capsys.readouterr().err


def test_no_command_takes_abbreviated_options() -> None:
    """Those of experiments are jsonargparse's; all others have the one parser that refuses them."""
    folder = Path(main_module.__file__).parent
    own = [file.name for file in folder.glob("*.py") if "ArgumentParser(" in file.read_text()]
    assert own == []


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), 1, "died (pid 7, is killed"),
        (RuntimeError("DataLoader timed out after 30 seconds"), 1, "no batch came from the processes"),
        (RuntimeError("not enough memory: you tried to allocate 8589934592 bytes"), 1, "8.0 GiB more were"),
        (MemoryError("Unable to allocate 3.0 GiB for an array"), 1, "out of memory: Unable to allocate 3.0 GiB"),
        (
            DataError("Caught DataError in DataLoader worker process 0.\nOriginal Traceback: ...\n"
                      "tvr_lightning.errors.DataError: v.mp4 is gone\n"),
            1, "v.mp4 is gone\n",
        ),
        (MisconfigurationException("`devices` cannot be 0"), 2, "trainer: `devices` cannot be 0"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("command", ["encode", "index", "rehearse"])
def test_what_ran_out_or_died_is_a_sentence_in_every_command(
    command: str, error: Exception, code: int, said: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(import_module(f"tvr_lightning.commands.{COMMANDS[command]}"), "main", fail)
    assert main([command, "x"]) == code
    output = capsys.readouterr().err
    assert output.startswith("tvr: ")
    assert said in output
    assert output.count("\n") == 1


def test_what_nobody_foresaw_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(words: list[str]) -> int:
        raise RuntimeError("odd")

    monkeypatch.setattr(import_module(f"tvr_lightning.commands.{COMMANDS['encode']}"), "main", fail)
    with pytest.raises(RuntimeError, match="odd"):
        main(["encode", "x"])
