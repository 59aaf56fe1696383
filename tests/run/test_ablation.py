"""Grids: what they expand to, what is refused, and how a grid goes on."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from tvr_lightning.commands.main import main
from tvr_lightning.config.arguments import read_arguments
from tvr_lightning.config.compose import experiments_in
from tvr_lightning.config.objects import smallest_parts
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.errors import ConfigError
from tvr_lightning.run import ablation
from tvr_lightning.run.ablation import Point, describe, read_grid, run_grid

from ..kinds import first_fast, slow_unless

ROOT = Path(__file__).parents[2]
BASE = ROOT / "experiments" / "clip4clip_shapes.yaml"
GRIDS = sorted((ROOT / "experiments" / "ablations").rglob("*.yaml"))
FIRST = {file.parent: file for file in reversed(GRIDS)}.values()  # of each paper
NUM_POINTS = {"tc_mgc": {
    "conditioning": 4 * 2, "no_reorganisation": 3, "video_word": 9 * 2, "sentence_frame": 9 * 2,
    "frame_word_words": 9 * 2, "frame_word_frames": 9 * 2, "frame_word": 9 * 4, "contrasts": 15, "aggregation": 3 * 2,
    "temporal": 2, "residual": 2, "heads": 4, "softmax_scale": 4, "keep_rate": 9, "sdr_pairs": 3, "sdr_weight": 10,
    "logit_scale": 4,
}, "lean": {
    "hypergraph": 6, "variational": 2, "uncertain_loss": 2, "hyperedges": 5, "text_nodes": 3, "num_frames": 9,
    "loss_weights": 36, "iterations": 10, "readout": 2 * 2, "kl_reduction": 2,
}, "ghan": {"graphs": 4, "layers": 4, "readout": 2, "refine_over": 2, "share_graphs": 2, "steps": 3}, "sptch": {
    "variants": 7 * 2, "code_length": 3, "graph_weights": 5 * 5, "hash_weights": 4 * 4,
}}  # fmt: skip
RESULT = {
    "experiment": "clip4clip_shapes", "dataset": "shapes", "split": "9k", "seed": 0, "metrics": {"test/SumR": 300.0},
    "intervals": {}, "data": {"left_out": 0, "subset": None, "videos": 8, "captions": 8}, "selected_on_test": False,
    "partial": False, "v2t": "sets",
}  # fmt: skip


@pytest.fixture
def grid(tmp_path: Path) -> Callable[..., Path]:
    """Writes a grid of two points over CLIP4Clip; keyword arguments replace keys, None takes one out."""

    def write(**changes: Any) -> Path:
        content: dict[str, Any] = {
            "program": "tvr",
            "command": ["tvr", "fit", "--config", str(BASE), f"--runs_dir={tmp_path / 'runs'}", "${args}"],
            "method": "grid",
            "metric": {"name": "val/SumR", "goal": "maximize"},
            "parameters": {"model.num_layers": {"values": [1, 2]}},
        }
        file = tmp_path / "grid.yaml"
        file.write_text(yaml.safe_dump({k: v for k, v in {**content, **changes}.items() if v is not None}))
        return file

    return write


@pytest.fixture
def fake_run(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], dict[str, int]]:
    """Replaces runs: notes their ids; they leave a result, or end with the code that stands under their id."""
    started: list[str] = []
    codes: dict[str, int] = {}

    def run(words: Sequence[str]) -> int:
        config, _ = read_arguments(words[1:])
        folder = Path(config["runs_dir"]) / config["experiment"] / config["run_id"]
        started.append(folder.name)
        folder.mkdir(parents=True)
        code = codes.get(folder.name, 0)
        if code == 0:
            write_json(folder / "metrics.json", RESULT)
        return code

    monkeypatch.setattr(ablation, "_run", run)
    return started, codes


def settings(point: Point) -> dict[str, Any]:
    return read_arguments(point.words)[0]["model"]["init_args"]


def test_points_are_the_product_in_order(grid: Callable[..., Path], tmp_path: Path) -> None:
    file = grid(
        parameters={
            "model.num_layers": {"values": [1, 2]},
            "model.similarity": {"values": ["seqTransf", "seqLSTM"]},
            "model.optimizer.lr": {"value": 0.5},
        }
    )
    points = read_grid(file)
    expected = list(itertools.product([1, 2], ["seqTransf", "seqLSTM"]))
    assert [(settings(p)["num_layers"], settings(p)["similarity"]) for p in points] == expected
    assert all(settings(p)["optimizer"]["lr"] == 0.5 for p in points)
    hashes = {p.name.rpartition("_")[2] for p in points}
    assert len(hashes) == 1
    assert [p.name.rpartition("_")[0] for p in points] == [f"num_layers-{n}_similarity-{s}" for n, s in expected]
    assert {p.home for p in points} == {tmp_path / "runs" / "clip4clip_shapes"}


def test_names_say_the_point_and_differ_when_anything_differs(grid: Callable[..., Path]) -> None:
    def names(*overrides: str) -> list[str]:
        return [p.name for p in read_grid(grid(), overrides=overrides)]

    assert names() == names() == ["num_layers-1", "num_layers-2"]
    assert names("--tracker=none") == names()
    longer = names("--trainer.max_epochs=1")
    assert [n.rpartition("_")[0] for n in longer] == names()
    assert longer == names("--trainer.max_epochs", "1")
    assert set(longer).isdisjoint(names("--trainer.max_epochs=2"))
    values = [["a b/c", "d"], [], True, 1e-5, "x" * 300, "x" * 301]
    parameters = {"model.encoder.init_args.from_pretrained": {"values": [v for v in values if isinstance(v, str)]}}
    assert all(len(p.name) < 200 for p in read_grid(grid(parameters=parameters)))
    labels = [ablation._label(v) for v in values[:4]]
    assert labels == ["a-b-c+d", "none", "true", "1e-05"]


def test_base_is_replaced(grid: Callable[..., Path]) -> None:
    point = read_grid(grid(), base=str(BASE.with_name("clip4clip_msrvtt.yaml")))[0]
    assert point.home.name == "clip4clip_msrvtt"
    assert settings(point)["encoder"]["init_args"]["model"] == "ViT-B-32"


@pytest.mark.slow
def test_same_values_as_from_the_agent_of_wandb(grid: Callable[..., Path]) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {
        "model.optimizer.betas": [0.5, 0.75],
        "model.num_layers": 3,
        "model.optimizer.lr": 1e-5,
        "data.cache_frames": False,
        "model.similarity": "meanP",
        "model.logit_scale": "null",
    }
    point = read_grid(grid(parameters={name: {"value": value} for name, value in values.items()}))[0]
    agent = create_sweep_command_args({"args": {name: {"value": value} for name, value in values.items()}})["args"]
    mine = read_arguments(point.words)[0]
    assert mine == read_arguments([*point.words[: -len(values)], *agent])[0]
    assert mine["model"]["init_args"]["optimizer"]["betas"] == [0.5, 0.75]
    assert mine["model"]["init_args"]["logit_scale"] is None


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"parameters": None}, "no parameters"),
        ({"parameters": {}}, "no parameters"),
        ({"method": "bayes"}, "method is 'bayes'"),
        ({"method": None}, "method is None"),
        ({"early_terminate": {"type": "hyperband"}}, "unknown key 'early_terminate'"),
        ({"command": None}, "write command:"),
        ({"command": ["tvr", "fit", "--config", str(BASE)]}, "write command:"),
        ({"command": ["tvr", "fit", "${args}"]}, "command names 0 experiments"),
        ({"command": ["tvr", "fit", "--config", "nope.yaml", "${args}"]}, "no experiment file nope.yaml"),
        ({"parameters": {"model.num_layers": {"values": []}}}, "not empty"),
        ({"parameters": {"model.num_layers": {"min": 1, "max": 4}}}, "`values:"),
        ({"parameters": {"model.num_layers": 4}}, "`values:"),
        ({"parameters": {"model.logit_scale": {"values": [None, 1.0]}}}, "'null' in quotes"),
        ({"parameters": {"model.num_layers": {"values": [1, 1]}}}, "both be called num_layers-1"),
        ({"parameters": {"run_id": {"values": ["a", "b"]}}}, "a grid sets this itself"),
        ({"parameters": {"model.num_layer": {"values": [1, 2]}}}, "did you mean num_layers"),
        ({"parameters": {"model.num_layers": {"values": [1, "two"]}}}, "'two' does not fit"),
        ({"parameters": {"model.similarity": {"values": ["meanP", "meenP"]}}}, "did you mean meanP"),
    ],
)
def test_wrong_grids_are_refused_before_anything_runs(
    changes: dict[str, Any], text: str, grid: Callable[..., Path], fake_run: tuple[list[str], dict[str, int]],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["ablate", "--config", str(grid(**changes))]) == 2
    assert text in capsys.readouterr().err
    assert fake_run[0] == []


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("--model.init_args.num_layers=3", "is varied or set by"),
        ("--run_id=x", "a grid sets this itself"),
        ("--print_config", "is for one run"),
        ("--model.num_layer=3", "did you mean num_layers"),
        ("words", "'words' is not a setting"),
    ],
)
def test_wrong_overrides(override: str, text: str, grid: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=text):
        read_grid(grid(), overrides=[override])


def test_a_grid_that_nobody_could_run_is_refused_at_once(grid: Callable[..., Path]) -> None:
    axes = ("model.optimizer.lr", "model.optimizer.weight_decay", "model.optimizer.encoder_lr")
    parameters = {name: {"values": [i / 1000 for i in range(1000)]} for name in axes}
    with pytest.raises(ConfigError, match="a grid of 1,000,000,000 points; at most 10,000"):
        read_grid(grid(parameters=parameters))


def test_a_missing_or_broken_file(tmp_path: Path, grid: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="did you mean grid"):
        read_grid(grid().with_name("gird.yaml"))
    for content in ("[1, 2]", "a: [", "\x00"):
        (tmp_path / "broken.yaml").write_text(content)
        with pytest.raises(ConfigError, match=r"broken\.yaml"):
            read_grid(tmp_path / "broken.yaml")


def test_a_grid_goes_on_where_it_stopped(
    grid: Callable[..., Path], fake_run: tuple[list[str], dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    started, codes = fake_run
    file = str(grid(parameters={"model.num_layers": {"values": [1, 2, 3]}}))
    codes["num_layers-2"] = 130
    assert main(["ablate", "--config", file]) == 130
    assert started == ["num_layers-1", "num_layers-2"]
    assert "2/3 num_layers-2: interrupted" in capsys.readouterr().err

    assert main(["ablate", "--config", file]) == 0
    out = capsys.readouterr().out
    assert started[2:] == ["num_layers-2_attempt-2", "num_layers-3"]
    assert "num_layers-1: finished already" in out
    assert "num_layers-2 was started and has no result" in out
    table = out.rpartition("points have results")[2]
    assert all(f"clip4clip_shapes/num_layers-{n}" in table for n in (1, 2, 3))

    assert main(["ablate", "--config", file]) == 0
    assert len(started) == 4


def test_a_killed_point_goes_on_from_its_last_checkpoint(
    grid: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    points = read_grid(grid())
    old, killed = points[0].home / "num_layers-1", points[0].home / "num_layers-1_attempt-2"
    old.mkdir(parents=True)
    (killed / "checkpoints").mkdir(parents=True)
    (killed / "checkpoints" / "last.ckpt").touch()
    assert describe(points).splitlines()[0].endswith(f"--model.num_layers=1 --resume={killed}")
    started: list[Sequence[str]] = []

    def run(words: Sequence[str]) -> int:
        started.append(words)
        write_json(killed / "metrics.json", RESULT)
        return 0

    monkeypatch.setattr(ablation, "_run", run)
    assert run_grid(points[:1], "reproduce row 1/1") == ([killed], {})
    assert [words[-1] for words in started] == [f"--resume={killed}"]
    out = capsys.readouterr().out
    assert f"reproduce row 1/1 1/1 num_layers-1: {killed} was started and continues from its last checkpoint" in out
    assert run_grid(points[:1]) == ([killed], {})
    assert len(started) == 1


def test_a_failed_point_does_not_stop_the_others(
    grid: Callable[..., Path], fake_run: tuple[list[str], dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    started, codes = fake_run
    codes |= {"num_layers-1": 3, "num_layers-2": -9}
    file = grid(parameters={"model.num_layers": {"values": [1, 2, 3]}})
    assert main(["ablate", "--config", str(file)]) == 1
    captured = capsys.readouterr()
    assert started == ["num_layers-1", "num_layers-2", "num_layers-3"]
    assert "num_layers-1 failed: exit code 3" in captured.err
    assert "num_layers-2 failed: killed by signal 9" in captured.err
    assert "1 of 3 points have results, 2 failed" in captured.out


def test_dry_run_starts_nothing(
    grid: Callable[..., Path], fake_run: tuple[list[str], dict[str, int]], capsys: pytest.CaptureFixture[str]
) -> None:
    points = read_grid(grid())
    run_grid(points[:1])
    capsys.readouterr()
    assert main(["ablate", "--config", str(grid()), "--dry_run"]) == 0
    assert capsys.readouterr().out == describe(points) + "\n"
    done, waiting = describe(points).splitlines()
    assert done.startswith("# finished already: ")
    assert waiting.startswith(f"tvr fit --config {BASE} ")
    assert waiting.endswith("--model.num_layers=2 --run_id=num_layers-2")
    assert fake_run[0] == ["num_layers-1"]


def test_reading_a_grid_imports_nothing_heavy(grid: Callable[..., Path]) -> None:
    code = (
        "import sys; from tvr_lightning.run.ablation import describe, read_grid\n"
        f"describe(read_grid({str(grid())!r}, None, []))\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'pytorch_lightning', 'wandb')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("everyone", [True, False], ids=["terminal", "kill"])
def test_ctrl_c_waits_for_the_run_and_ends_all(everyone: bool, grid: Callable[..., Path], tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.write_text(
        f"#!{sys.executable}\n"
        "import pathlib, time\n"
        f"here = pathlib.Path({str(tmp_path)!r})\n"
        "(here / 'starts').open('a').write('x')\n"
        "try:\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    (here / 'saved').touch()\n    raise SystemExit(130)\n"
    )
    run.chmod(0o755)
    code = (
        "import sys; from tvr_lightning.commands import main as cli; from tvr_lightning.run import ablation\n"
        f"sys.executable, ablation.GRACE_S = {str(run)!r}, 0.2\n"
        f"sys.exit(cli.main(['ablate', '--config', {str(grid())!r}]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        limit = time.monotonic() + 60
        while not (tmp_path / "starts").exists() and time.monotonic() < limit:
            time.sleep(0.05)
        time.sleep(0.3)
        (os.killpg if everyone else os.kill)(process.pid, signal.SIGINT)
        assert process.wait(30) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert (tmp_path / "saved").exists()
    assert (tmp_path / "starts").read_text() == "x"


@pytest.mark.slow
def test_two_real_runs(grid: Callable[..., Path], shapes_root: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--trainer.fast_dev_run=1", "--data.batch_size=4", "--data.num_workers=0", "--tracker=none"]
    words.append(f"--data.annotations.root={shapes_root}")
    file = grid(parameters={"model.similarity": {"values": ["meanP", "seqTransf"]}})
    assert main(["ablate", "--config", str(file), *words]) == 0
    assert "2 of 2 points have results, 0 failed" in capfd.readouterr().out
    for point in read_grid(file, overrides=words):
        folder = point.finished()
        assert folder
        assert yaml.safe_load((folder / "config.yaml").read_text())["model"]["init_args"]["similarity"] in folder.name


def test_grids_are_no_experiments() -> None:
    assert GRIDS
    assert not [name for name in experiments_in(ROOT / "experiments") if name.startswith("ablations")]


def test_every_table_has_its_points() -> None:
    assert {(f.parent.name, f.stem) for f in GRIDS} == {(m, table) for m, own in NUM_POINTS.items() for table in own}


@cache
def points_of(file: Path) -> list[Point]:
    return read_grid(file)


@pytest.mark.parametrize("file", first_fast(GRIDS, 2), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_every_point_composes(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert file.read_text().startswith("# ")
    assert yaml.safe_load(file.read_text())["command"][3].startswith("experiments/")
    # each point has passed `arguments.check_config`
    assert len(points_of(file)) == NUM_POINTS[file.parent.name][file.stem]


@pytest.mark.parametrize("file", slow_unless(GRIDS, list(FIRST)[:1]), ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_first_and_last_point_can_be_built(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tvr_lightning.run.load import build

    monkeypatch.chdir(ROOT)
    points = points_of(file)
    for point in (points[0], points[-1]):
        small = smallest_parts(read_arguments(point.words)[0])  # weights and vocabularies may be anywhere
        built = build(read_arguments([*point.words, *small])[0]).config
        for word in (w for w in point.words[2:] if not w.startswith("--experiment=")):
            name, _, text = word[2:].partition("=")
            room = built["data"] if name.startswith("data.") else built["model"]
            for part in name.split(".")[1:]:
                room = (room.get("init_args") or room) if part != "init_args" and part not in room else room
                room = room[part]
            assert room == yaml.safe_load(text), word
