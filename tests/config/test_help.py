"""The settings that `tvr fit --help` lists are those of the full parser, with its values; nothing slow is needed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config import sources
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.help import TITLES, plain, settings_help, settings_rows
from tvr_lightning.config.layers import flat
from tvr_lightning.config.options import OF_ENCODER, followed

ROOT = Path(__file__).parents[2]


def full(config: dict[str, Any]) -> dict[str, Any]:
    """Names and values of the full parser."""
    from tvr_lightning.run.build import ExperimentCLI, _takes, resolved_config

    class Parsed(ExperimentCLI):
        def instantiate_classes(self) -> None:
            pass

    resolved = flat(resolved_config(Parsed(config)))
    linked = {*followed(config["model"], _takes), *(f"data.{name}" for name in OF_ENCODER)}
    found = {}
    for name, value in resolved.items():
        if name not in linked and ".callbacks." not in name:
            found[name.replace(".init_args.", ".").removesuffix(".class_path")] = value
    return found


@pytest.mark.parametrize("name", ["lean_shapes", "tc_mgc_shapes", "sptch_shapes", "clip4clip_msrvtt_released"])
def test_settings_and_values_are_those_of_the_full_parser(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = read_arguments(["--config", name, "--data.batch_size=7", "--model.evaluation.sinkhorn=0.5"])[0]
    known = full(config)
    shown = {row.name: row.value for rows in settings_rows(config).values() for row in rows}
    inside = [key for key in known if any(key.startswith(f"{name}.") for name in shown if name not in TITLES)]
    assert set(shown) - set(known) == set()
    # what lies in a mapping that is one value here: sizes, callbacks
    assert set(known) - set(shown) <= set(inside)
    texts = {key: yaml.safe_load(shown[key]) for key in shown if key in known and shown[key] not in ("", "1e-08")}
    wrong = {
        key: (value, known[key])
        for key, value in texts.items()
        if value != known[key] and str(value) != str(known[key]) and not isinstance(known[key], list | dict)
    }
    # by the name of a class's module, or a default that is an expression
    assert {key for key, (value, _) in wrong.items() if not str(value).isupper()} == set()
    assert (shown["data.batch_size"], shown["model.evaluation.sinkhorn"]) == ("7", "0.5")


def test_what_is_printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("COLUMNS", "120")  # else as wide as the terminal
    assert main(["fit", "--config", "experiments/lean_shapes.yaml", "--data.batch_size=7", "--help"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: tvr fit --config FILE")
    assert [line.partition(":")[0] for line in out.splitlines() if line[:4] == "The "] == [
        title.partition(":")[0] for title in TITLES.values()
    ]
    assert "--data.batch_size=7" in out
    assert "(int; default: 32)" in out
    assert "--model.kl_reduction=mean" in out
    assert "(mean | sum)" in out
    assert "data.seed: seed_everything" in out
    assert max(map(len, out.splitlines())) <= 120


def test_types_are_told_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = read_arguments(["--config", "sptch_shapes"])[0]
    rows = {row.name: row for rows in (settings_rows({}) | settings_rows(config)).values() for row in rows}
    only_null = {name for name, row in rows.items() if row.text.endswith("(null)") or row.choices == ("null",)}
    private = {name for name, row in rows.items() if re.search(r"\b_[A-Z]", row.text.rpartition("(")[2])}
    assert (only_null, private) == (set(), set())
    kinds = {name: row.text.rpartition(" (")[2] for name, row in rows.items()}
    assert kinds["data.annotations"] == "Annotations)"
    assert kinds["trainer.strategy"] == "str | Strategy)"
    assert kinds["trainer.default_root_dir"] == "str | null)"  # Lightning's _PATH
    assert kinds["trainer.val_check_interval"].startswith("int | float | str | timedelta")
    assert rows["trainer.plugins"].text.endswith("plugins.")  # Lightning's _PLUGIN_INPUT, of other classes
    assert rows["data.selection"].choices == ("auto", "validation", "holdout", "last", "test")


def test_without_an_experiment_what_all_have_is_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["test", "-h"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: tvr test [--config FILE | RUN]")
    assert "--trainer.max_epochs=null" in out
    assert "--data.batch_size=32" in out
    assert "lean, mean_pool" in out


def test_a_run_s_own_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = read_arguments(["--config", str(ROOT / "experiments/lean_shapes.yaml"), "--data.num_frames=5"])[0]
    (tmp_path / "config.yaml").write_text(yaml.dump(config))
    assert main(["test", str(tmp_path), "--help"]) == 0
    assert "--data.num_frames=5" in capsys.readouterr().out


def test_wrong_settings_are_named_here_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", "--config", "lean_shapes", "--data.batchsize=7", "--help"]) == 2
    assert "did you mean batch_size" in capsys.readouterr().err


@pytest.mark.parametrize("width", [60, 90, 120])
def test_lines_fit(width: int) -> None:
    lines = settings_help(read_arguments(["--config", str(ROOT / "experiments/tc_mgc_shapes.yaml")])[0], width)
    assert [line for line in lines.splitlines() if len(line) > width and len(line.split()) > 1] == []


def test_a_class_whose_source_does_not_tell_is_left_to_the_full_parser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.py").write_text(
        "from tvr_lightning.methods.mean_pool import MeanPool\n\n\ndef changed(cls):\n    return cls\n\n\n"
        "@changed\nclass Mine(MeanPool):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["fit", "--config", "{model: {class_path: mine.Mine}}", "--help"]) == 0
    assert "Its arguments: --model.help=mine.Mine." in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "source",
    [
        "class A(A):\n    pass\n",
        "class A(B):\n    pass\nclass B(A):\n    pass\n",
        "from own_method import x\nclass A:\n    def __init__(self, y: int = x): pass\n",
        "Kind = Kind\nclass A:\n    def __init__(self, y: Kind = 1): pass\n",
        "def (:\n",
        "x = " + "(" * 5000,
        b"\xff\xfe",
        "raise RuntimeError('imported')\nclass A:\n    pass\n",
    ],
)
def test_a_source_that_is_damaged_or_runs_in_circles_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str | bytes
) -> None:
    (tmp_path / "own_method.py").write_bytes(source if isinstance(source, bytes) else source.encode())
    (tmp_path / "x.yaml").write_text("model: {class_path: own_method.A}")
    monkeypatch.syspath_prepend(tmp_path)
    sources._names_in.cache_clear()
    config, _ = read_arguments(["--config", str(tmp_path / "x.yaml")])
    assert "--model=own_method.A" in settings_help(config, 100)
    assert "own_method" not in sys.modules


def test_long_texts_are_cut_and_plain() -> None:
    assert plain("How often. " + "A long story. " * 30) == "How often."
    assert plain("Of :class:`~a.b.Callback`. Default: ``None``.") == "Of Callback."


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from tvr_lightning.commands.main import main; "
        "code = main(['fit', '--config', 'experiments/lean_shapes.yaml', '--help']); "
        "print(code, [m for m in ('torch', 'pytorch_lightning', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
