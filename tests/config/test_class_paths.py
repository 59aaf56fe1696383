"""What a configuration names: classes, and nothing that runs by being named."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.class_paths import module_of_working_directory, resolve
from tvr_lightning.errors import ConfigError

from ..kinds import first_fast, slow_unless

EXPERIMENT = str(Path(__file__).parents[2] / "experiments" / "clip4clip_shapes.yaml")
FAULTS = "tvr_lightning.run.callbacks.faults"
OWN = """
import subprocess
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

from pytorch_lightning import Callback
from torch import nn

from tvr_lightning.data.annotations.base import Annotations
from tvr_lightning.methods.clip4clip import CLIP4Clip

instance = nn.Identity()


def make(path: str) -> Annotations:
    Path(path).touch()


def callback(path: str) -> Callback:
    Path(path).touch()


def double(x: int) -> int:
    return 2 * x


class Outer:
    class Inner(CLIP4Clip):
        pass


class Marks(Callback):
    def __init__(self, path: str = "", inside: Any = None, untyped=None, kind: type = int,
                 call: Callable[[int], int] = double, more: list[Callback] | None = None,
                 table: dict[str, Callback] | None = None) -> None:
        self.inside = inside


class Called:
    def __init__(self, path: str) -> None:
        Path(path).touch()

    def __call__(self, x: int) -> int:
        return x
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a module of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_parts.py").write_text(OWN)
    yield tmp_path
    sys.modules.pop("own_parts", None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tvr_lightning.encoders.CLIPEncoder", "CLIPEncoder"),
        ("tvr_lightning.encoders.clip.CLIPEncoder", "CLIPEncoder"),
        ("pytorch_lightning.callbacks.EarlyStopping", "EarlyStopping"),
        ("pytorch_lightning.loggers.CSVLogger", "CSVLogger"),
        ("pytorch_lightning.plugins.environments.SLURMEnvironment", "SLURMEnvironment"),
        ("own_parts.Marks", "Marks"),
        ("own_parts.Outer.Inner", "Inner"),
    ],
)
def test_what_resolves(path: str, name: str, folder: Path) -> None:
    sys.path.append(str(folder))
    assert resolve(path).__name__ == name


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("subprocess.Popen", "standard library"),
        ("os.mkdir", "standard library"),
        ("builtins.print", "standard library"),
        (f"{FAULTS}.Popen", "standard library"),
        (f"{FAULTS}.os.mkdir", "is not a class: os is a module"),
        ("tvr_lightning.run.fonts.cache", "is not a class: cache is a function"),
        ("tvr_lightning.search.builder.ExitStack", "standard library"),
        ("torch.multiprocessing.Process", "standard library"),
        ("own_parts.Annotations", "only imports Annotations; write tvr_lightning.data.annotations.base.Annotations"),
        ("own_parts.make", "is not a class: make is a function"),
        ("own_parts.instance", "is not a class: instance is a Identity"),
        ("own_parts.Outer.Missing", "no 'Missing' in Outer"),
        ("no_such_package.Foo", "cannot be imported"),
        ("pytest.__main__.Foo", "starts its program"),
        ("Foo", "not a class path"),
        ("a b.Foo", "not a class path"),
        ("own_parts..Foo", "not a class path"),
    ],
)
def test_what_is_refused(path: str, reason: str, folder: Path) -> None:
    sys.path.append(str(folder))
    with pytest.raises(ConfigError, match=reason):
        resolve(path)


def inside(attack: Any) -> dict[str, Any]:
    """An attack in an argument of a callback in an argument of a callback."""
    return {"class_path": "own_parts.Marks", "init_args": {"more": [attack]}}


def popen(path: str, target: Path) -> dict[str, Any]:
    return {"class_path": path, "init_args": {"args": ["touch", str(target)]}}


TARGET = Path("marker")
MAKE = {"class_path": "own_parts.make", "init_args": {"path": "marker"}}
CALLED = {"class_path": "own_parts.Called", "init_args": {"path": "marker"}}
POPEN = popen(f"{FAULTS}.Popen", TARGET)
RUNS = popen("subprocess.Popen", TARGET)
OBJECT_SLOTS = ("data.annotations", "data.tokenizer", "model", "model.init_args.encoder")
TRAINER_SLOTS = ("callbacks", "logger", "plugins", "profiler", "strategy", "accelerator", "precision")
ATTACKS: list[tuple[str, Any]] = [
    *((slot, attack) for slot in OBJECT_SLOTS for attack in (POPEN, RUNS, MAKE, CALLED)),
    *((f"trainer.{slot}", attack) for slot in TRAINER_SLOTS for attack in (POPEN, RUNS, CALLED)),
    *((f"trainer.{slot}", [attack]) for slot in ("callbacks", "logger", "plugins") for attack in (POPEN, CALLED)),
    *(("trainer.callbacks+", attack) for attack in (
        POPEN, RUNS, MAKE, CALLED, {"class_path": "own_parts.callback", "init_args": {"path": "marker"}},
        inside(POPEN), inside(RUNS), inside(CALLED), inside(inside(POPEN)), inside("own_parts.callback"),
        inside({"class_path": "own_parts.callback", "init_args": {"path": "marker"}}),
        {"class_path": "LambdaCallback", "init_args": {"setup": "os.system"}},
        {"class_path": "LambdaCallback", "init_args": {"setup": f"{FAULTS}.os.mkdir"}},
        {"class_path": "LambdaCallback", "init_args": {"setup": "own_parts.make"}},
        {"class_path": "LambdaCallback", "init_args": {"setup": {
            "class_path": "functools.partial", "init_args": {"func": "os.mkdir"}, "dict_kwargs": {"path": "marker"}}}},
        {"class_path": "own_parts.Marks", "init_args": {"call": "os.mkdir"}},
        {"class_path": "own_parts.Marks", "init_args": {"inside": POPEN}},
        {"class_path": "own_parts.Marks", "init_args": {"untyped": RUNS}},
        {"class_path": "own_parts.Marks", "init_args": {"kind": "subprocess.Popen"}},
        {"class_path": "own_parts.Marks", "init_args": {"table": {"a": POPEN}}},
        {"class_path": "own_parts.Marks", "dict_kwargs": {"inside": POPEN}},
    )),
    ("model.init_args.optimizer", POPEN),
    ("data.augment", POPEN),
]  # fmt: skip


def as_config(option: str, attack: Any) -> dict[str, Any]:
    """An experiment with the attack in it, everything else as it is."""
    from tvr_lightning.config.compose import compose

    config = compose(EXPERIMENT)
    here: Any = config
    *parents, name = option.removesuffix("+").split(".")
    for parent in parents:
        here = here.setdefault(parent, {})
    here[name] = [attack] if option.endswith("+") else attack
    return config


FIRST = dict(reversed(ATTACKS))  # in a file these are fast, the others slow
FORMS = [(option, attack, form) for option, attack in ATTACKS for form in ("setting", "file")]


@pytest.mark.parametrize(
    ("option", "attack", "form"),
    slow_unless(FORMS, [case for case in FORMS if case[2] == "setting" or case[1] == FIRST[case[0]]]),
    ids=lambda part: json.dumps(part).replace("/", "|")[:90],
)
def test_fit_runs_nothing_that_is_no_part(
    option: str, attack: Any, form: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "file":
        (folder / "x.yaml").write_text(yaml.safe_dump(as_config(option, attack)))
        words = ["--config", "x.yaml"]
    else:
        words = ["--config", EXPERIMENT, f"--{option}={json.dumps(attack)}"]
    assert main(["fit", *words, "--data.annotations.init_args.root=nowhere"]) == 2
    assert not TARGET.exists()
    assert capsys.readouterr().err.startswith("tvr: ")


READERS: list[Any] = [POPEN, RUNS, MAKE, CALLED, "os.mkdir", "own_parts.make", f"{FAULTS}.Popen"]


@pytest.mark.parametrize("attack", READERS, ids=json.dumps)
@pytest.mark.parametrize(
    "command", first_fast(["test", "data check", "data stats", "smoke", "validate", "predict", "leakcheck"], 2)
)
def test_no_command_runs_it(command: str, attack: Any, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "x.yaml").write_text(yaml.safe_dump(as_config("data.annotations", attack)))
    own = {"smoke": ["x.yaml"], "leakcheck": ["--config", "x.yaml", "--steps=1"]}
    words = own.get(command, ["--config", "x.yaml"])
    if command in ("validate", "test", "predict"):
        words = [*words, "--ckpt_path=weights.ckpt"]
    code = main([*command.split(), *words])
    assert not TARGET.exists()
    if command != "leakcheck":  # which has no reader, noise takes its place
        assert code != 0
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("form", ["--data.annotations={}", "--data.annotations.class_path={}"])
@pytest.mark.parametrize("path", ["own_parts.make", f"{FAULTS}.Popen", "os.mkdir"])
def test_dotted_settings_run_nothing(form: str, path: str, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("fit", "data check", "data stats"):
        more = "--data.annotations.init_args={args: [touch, marker], path: marker}"
        assert main([*command.split(), "--config", EXPERIMENT, form.format(path), more]) == 2
        assert "data.annotations" in capsys.readouterr().err
        assert not TARGET.exists()


def test_files_that_a_setting_names_are_held_against_the_same_rules(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "part.yaml").write_text(yaml.safe_dump(inside({"class_path": "LambdaCallback", "init_args": {
        "setup": "own_parts.make"}})))  # fmt: skip
    assert main(["fit", "--config", EXPERIMENT, "--trainer.callbacks=[part.yaml]"]) == 2
    assert not TARGET.exists()


def test_legitimate_parts_are_built(folder: Path) -> None:
    from tvr_lightning.run.load import load_experiment

    parts = [
        "pytorch_lightning.callbacks.EarlyStopping",
        "own_parts.Marks",
        {"class_path": "LearningRateMonitor"},
        inside("own_parts.Marks"),
    ]
    parts[0] = {"class_path": parts[0], "init_args": {"monitor": "x"}}
    built = load_experiment(EXPERIMENT, [f"trainer.callbacks={json.dumps(parts)}", "trainer.logger=CSVLogger",
                                         "trainer.logger.save_dir=x", "model=own_parts.Outer.Inner"])  # fmt: skip
    names = [type(callback).__name__ for callback in built.trainer_config["callbacks"]]
    assert names == ["EarlyStopping", "Marks", "LearningRateMonitor", "Marks"]
    assert type(built.trainer_config["logger"]).__name__ == "CSVLogger"
    assert type(built.model).__name__ == "Inner"


EVIL = "from pathlib import Path\nPath('marker').touch()\nclass Reader: pass\n"


@pytest.fixture
def run_folder(folder: Path) -> Path:
    """Someone's run, and a module in the working directory that its configuration names."""
    (folder / "evil_module.py").write_text(EVIL)
    run = folder / "runs" / "x" / "a"
    (run / "checkpoints").mkdir(parents=True)
    torch.save({"state_dict": {}}, run / "checkpoints" / "best.ckpt")
    inner = {"class_path": "LambdaCallback", "init_args": {"setup": "evil_module.Reader"}}
    config = as_config("trainer.callbacks", [inner])
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.mark.parametrize(
    "words",
    [
        ["test", "{}"],
        ["validate", "{}/checkpoints/best.ckpt"],
        ["predict", "{}"],
        ["encode", "{}"],
        ["inspect", "{}", "video0#0"],
        ["fit", "--config", "{}/config.yaml"],
        ["data", "check", "--config", "{}/config.yaml"],
        ["data", "stats", "--config", "{}/config.yaml"],
        ["leakcheck", "--config", "{}/config.yaml"],
        ["smoke", "{}/config.yaml"],
    ],
    ids=" ".join,
)
@pytest.mark.parametrize("searched", [False, True])
def test_a_runs_configuration_imports_nothing_from_here(
    words: list[str], searched: bool, run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if searched:  # as `python -m tvr_lightning` has it
        sys.path.insert(0, "")
    assert main([word.format(run_folder) for word in words]) == 2
    error = capsys.readouterr().err
    assert "names the module 'evil_module'" in error
    assert "--trust" in error
    assert error.count("\n") == 1
    assert not TARGET.exists()


def test_trust_allows_it(run_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["test", str(run_folder)], ["encode", str(run_folder)], ["inspect", str(run_folder), "video0#0"]):
        main([*words, "--trust"])
        assert "names the module" not in capsys.readouterr().err
    main(["test", "--trust", str(run_folder)])
    assert "is not a setting" not in capsys.readouterr().err
    assert TARGET.exists()


def test_settings_beside_a_run_are_ones_own(run_folder: Path) -> None:
    (run_folder / "config.yaml").write_text(yaml.safe_dump(as_config("run_id", "b")))
    config, _ = read_arguments(["--config", str(run_folder / "config.yaml"), "--model=own_parts.Outer.Inner"])
    assert config["model"]["class_path"] == "own_parts.Outer.Inner"


def test_where_modules_come_from(folder: Path) -> None:
    assert module_of_working_directory({"a": [{"b": "own_parts.Marks"}]}) == "own_parts"
    assert (
        module_of_working_directory({"a": ["tvr_lightning.x.Y", "torch.nn.Linear", "no.such", "own_parts", 3]}) is None
    )
