"""What the parser accepts is accepted here too, with the same value."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import ArgumentError

from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import compose
from tvr_lightning.errors import TVRError
from tvr_lightning.run.build import ExperimentCLI, dump_config, resolved_config

from ..kinds import first_fast

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "clip4clip_shapes.yaml"
READERS = "tvr_lightning.data.annotations"
MODULE = """
from __future__ import annotations
from typing import Literal, Optional, Union
from parity_base import Base as Renamed
from parity_base import *
Size = Literal["small", 7]


class Inherits(Renamed):
    pass


class Keywords(Renamed):
    def __init__(self, *args, extra: int = 1, **kwargs):
        super().__init__(*args, **kwargs)


class Typed(Renamed):
    def __init__(self, encoder: Renamed.Encoder, *, size: Size = "small", rate: Optional[Union[int, float]] = None,
                 name: "str | None" = None, table: dict[str, int] = {"a": 1}, flag: Literal[True, "no"] = "no") -> None:
        super().__init__(encoder)


class Outer:
    class Inner(Renamed):
        pass


Assigned = Inherits
"""
BASE = """
from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.methods.clip4clip import CLIP4Clip


class Base(CLIP4Clip):
    Encoder = CLIPEncoder

    def __init__(self, encoder: CLIPEncoder, similarity: str = "meanP") -> None:
        super().__init__(encoder)


class Starred(Base):
    pass
"""


class Parsed(ExperimentCLI):
    """Parses and builds nothing."""

    def instantiate_classes(self) -> None:
        pass


def parse(text: str, *words: str) -> dict[str, Any]:
    return resolved_config(Parsed(yaml.safe_load(text), words))


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with modules and files."""
    folder = tmp_path_factory.mktemp("here")
    files = {
        "parity.py": MODULE,
        "parity_base.py": BASE,
        "data.yaml": "batch_size: 9",
        "optimizer.yaml": "lr: 0.009",
        "model.yaml": "{class_path: parity.Inherits, init_args: {similarity: meanP}}",
        "reader.yaml": f"{{class_path: {READERS}.msrvtt.MSRVTT, init_args: {{root: /q}}}}",
        "over.yaml": "data: {batch_size: 3}",
        "other.yaml": "model: {class_path: tvr_lightning.methods.mean_pool.MeanPool}",
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(autouse=True)
def in_folder(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)


MSRVTT = f"{READERS}.msrvtt.MSRVTT"
SETTINGS = [
    ["--data.batch_size", "8", "--data.num_frames=1_0", "--data.max_words=0x10", "--data.eval_batch=8"],
    ["--data.fps=2", "--data.num_workers", "-1", "--data.allow_missing=yes", "--run_id=007", "--exper=5"],
    ["--data.fps=null", "--data.tokenizer=null", "--data.augment=null", "--data.cache_dir=null", "--run_id=1e3"],
    ["--run_id=true", "--model.optimizer.lr=1e-4", "--trainer.devices=2", "--trainer.precision=32"],
    ["--run_id=[1]", "--model.init_args.optimizer.lr=.5", "--trainer.devices=[0]", "--trainer.limit_val_batches=0.5"],
    ["--run_id=a: b", "--model.init_args.optimizer={lr: 1e-4}", "--trainer.logger=false", "--trainer.fast_dev_run=2"],
    ["--run_id=", '--model.optimizer={"lr": 1e-4}', "--trainer.max_time=00:00:10:00", "--data.annotations.root=007"],
    ["--run_id=yes", "--model.optimizer.betas=[0.9,0.99]", "--data.annotations.init_args={root: /x}"],
    ["--run_id=null", "--model.optimizer=optimizer.yaml", "--data=data.yaml", "--data.annotations=reader.yaml"],
    ["--run_id=2026-01-01", "--data={batch_size: 9}", "--trainer={max_epochs: 9}", "--tracker=csv"],
    ["--trainer.callbacks+=LearningRateMonitor", f"--data.annotations={READERS}.msvd.MSVD"],
    ["--trainer.callbacks+", "LearningRateMonitor", "--trainer.callbacks.logging_interval=epoch"],
    ["--trainer.callbacks+=[LearningRateMonitor]", "--trainer.callbacks+=DeviceStatsMonitor"],
    ["--trainer.callbacks=LearningRateMonitor", "--trainer.logger=CSVLogger", "--trainer.logger.save_dir=/tmp"],
    ["--trainer.callbacks+={class_path: LearningRateMonitor, init_args: {logging_interval: step}}"],
    [f"--data.annotations={MSRVTT}", "--data.annotations.name=x"],
    ["--data.annotations=MSRVTT", "--model.encoder=tvr_lightning.encoders.clip.CLIPEncoder"],
    [f"--data.annotations.class_path={READERS}.msvd.MSVD", "--model.dict_kwargs={a: 1}"],
    [f"--data.annotations={{class_path: {MSRVTT}, init_args: {{root: /z}}}}", "--model=model.yaml"],
    ["--model=parity.Inherits", "--model.encoder.model=RN50"],
    ["--model.class_path=parity.Starred"],
    ["--model=parity.Outer.Inner"],
    ["--model=parity.Assigned"],
    ["--model=parity.Keywords", "--model.extra=3", "--model.similarity=meanP"],
    ["--model=parity.Typed", "--model.size=7", "--model.rate=2", "--model.name=007", "--model.flag=true"],
    ["--model=parity.Typed", "--model.table={b: 2}"],
    ["--config=over.yaml", "--data.num_frames=2"],
    ["--config", "over.yaml"],
    ["-c", "over.yaml"],
    ["-cover.yaml"],
    ["--config={data: {batch_size: 3}}"],
    ["--config={data.batch_size: 3}"],
    ["--config={model: {class_path: parity.Typed}}"],
]


@pytest.fixture(scope="module")
def untouched() -> dict[str, Any]:
    return parse(yaml.safe_dump(compose(EXPERIMENT)))


@pytest.mark.parametrize("words", first_fast(SETTINGS, 6), ids=" ".join)
def test_settings_that_the_parser_accepts(words: list[str], untouched: dict[str, Any]) -> None:
    theirs = parse(yaml.safe_dump({"experiment": "clip4clip_shapes", **compose(EXPERIMENT)}), *words)
    ours = parse(dump_config(read_arguments(["--config", str(EXPERIMENT), *words])[0]))
    if ours["experiment"] == "over":  # the stem of the last file, which the parser does not see
        theirs["experiment"] = "over"
    if theirs["trainer"]["devices"] == "2":  # of text and numbers the parser takes text; Lightning reads both alike
        theirs["trainer"]["devices"] = 2
    assert ours == theirs
    assert {**ours, "experiment": ""} != {**untouched, "experiment": ""}


def merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    nested = {k for k, v in over.items() if isinstance(v, Mapping) and isinstance(under.get(k), Mapping)}
    return {**under, **{k: merge(under[k], v) if k in nested else v for k, v in over.items()}}


@pytest.mark.parametrize(
    "text",
    [
        "{data: {batch_size: '8', fps: '2', num_frames: 0b11, init_args: {}}, run_id: '7'}",
        "model: {init_args: {logit_scale: 2, optimizer: {lr: '1e-3'}}, dict_kwargs: {a: 1}}",
        "{model: {init_args: {optimizer: null}}, trainer: {callbacks: LearningRateMonitor}, tracker: none}",
        "trainer: {callbacks: [LearningRateMonitor, {class_path: DeviceStatsMonitor}]}",
        "model: {class_path: parity.Inherits}",
        "model: {class_path: parity.Outer.Inner, init_args: {similarity: meanP}}",
        "model: {class_path: parity.Typed, init_args: {rate: '2.5', size: 7, flag: true, table: {class_path: 3}}}",
    ],
)
def test_files_that_the_parser_accepts(text: str) -> None:
    config, change = compose(EXPERIMENT), yaml.safe_load(text)
    if "class_path" in (change.get("model") or {}):
        config["model"]["init_args"] = {"encoder": config["model"]["init_args"]["encoder"]}
    config = merge(config, change)
    read = read_arguments(["--config", yaml.safe_dump(config, default_flow_style=True, width=10**6)])[0]
    assert parse(dump_config(read)) == parse(yaml.safe_dump(config))


@pytest.mark.parametrize(
    "form",
    ["--model=os.system", "--model=parity.Outer", "--model.encoder=tvr_lightning.methods.clip4clip.CLIP4Clip",
     "--data.annotations=parity.Inherits", "--data.annotations=builtins.print", "--data.batch_size=8.5"],
)  # fmt: skip
def test_what_the_parser_refuses_is_refused(form: str) -> None:
    from tvr_lightning.run.load import load_experiment

    with pytest.raises(ArgumentError, match="Parser key"):
        parse(yaml.safe_dump(compose(EXPERIMENT)), form)
    with pytest.raises(TVRError):
        load_experiment(EXPERIMENT, [form.removeprefix("--")])


@pytest.mark.parametrize("command", ["fit", "data check"])
def test_no_callable_but_a_reader_is_called(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from tvr_lightning.commands.main import main

    target = tmp_path / "made"
    (tmp_path / "x.yaml").write_text(
        f"data: {{annotations: {{class_path: os.mkdir, init_args: {{path: {target}}}}}}}\n"
        "model: {class_path: tvr_lightning.methods.clip4clip.CLIP4Clip}"
    )
    assert main([*command.split(), "--config", str(tmp_path / "x.yaml")]) == 2
    assert "os.mkdir" in capsys.readouterr().err
    assert not target.exists()
