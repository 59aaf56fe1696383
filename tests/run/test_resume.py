"""A run that was killed and goes on ends exactly as one that was not."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import ModelCheckpoint

from tvr_lightning.commands.main import main
from tvr_lightning.data.dataset import SeededSampler
from tvr_lightning.methods.base import RetrievalModule
from tvr_lightning.run.callbacks.resume import KeepLast, random_state, set_random_state
from tvr_lightning.run.smoke import smoke_arguments

ROOT = Path(__file__).parents[2]
EXPERIMENT = ROOT / "experiments" / "clip4clip_shapes.yaml"
EPOCHS = 3  # of 6 steps: 12 training videos in batches of 2
SIZE = (
    "{image_size: 32, patch_size: 16, image_width: 32, image_layers: 1, image_heads: 2, text_width: 32, "
    "text_layers: 1, text_heads: 2, embed_dim: 32}"
)


class Killed(BaseException):
    """Ends a run inside this process as suddenly as Python can."""


def arguments(data: Path, runs: Path, *more: str) -> list[str]:
    small = [a for a in smoke_arguments(EXPERIMENT, data, runs) if "fast_dev_run" not in a]
    return [
        *small,
        *(f"--trainer.max_epochs={EPOCHS}", "--trainer.check_val_every_n_epoch=1", "--tracker=none"),
        *(f"--model.init_args.encoder.init_args.size={SIZE}", "--model.init_args.num_layers=1"),
        *("--data.batch_size=2", "--data.num_frames=2", "--data.cache_frames=false", "--checkpoint_every=2", *more),
    ]


def patch_training_step(set_attribute: Callable[[Any, str, Any], None], at: int, end: Callable[[], None]) -> None:
    """Makes steps depend on every random state, and calls `end` in step `at`."""
    plain = RetrievalModule.training_step

    def step(self: Any, batch: Any, batch_idx: int) -> Any:
        if self.trainer.global_step == at:
            end()
        loss = plain(self, batch, batch_idx)
        return loss if loss is None else loss * (torch.rand(()) + random.random() + float(np.random.rand()))

    set_attribute(RetrievalModule, "training_step", step)


def killed() -> None:
    raise Killed


@pytest.fixture
def fit(shapes_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Runs `tvr fit` on the tiny dataset; `at` names the step in which it is killed."""

    def run(*more: str, at: int = -1) -> int:
        with monkeypatch.context() as patch:
            patch_training_step(patch.setattr, at, killed)
            return main(["fit", *arguments(shapes_root, tmp_path / "runs", *more)])

    return run


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "clip4clip_shapes"


def weights(run: Path, name: str) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]


def assert_same_end(run: Path, other: Path, names: tuple[str, ...] = ("best", "last")) -> None:
    here, there = (json.loads((r / "metrics.json").read_text()) for r in (run, other))
    assert here["metrics"] == there["metrics"]
    assert here["trained"] == there["trained"]
    assert Path(here["checkpoint"]).name == Path(there["checkpoint"]).name
    assert (run / "curves.csv").read_text() == (other / "curves.csv").read_text()
    for name in names:
        a, b = weights(run, name), weights(other, name)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k], b[k]) for k in a), name


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.timeout(120)
def test_sigkill_inside_an_epoch(fit: Callable[..., int], home: Path, shapes_root: Path, workers: int) -> None:
    more = (f"--data.num_workers={workers}", "--trainer.max_epochs=2")
    assert fit("--run_id=whole", *more) == 0
    words = arguments(shapes_root, home.parent, "--run_id=killed", *more)
    done = subprocess.run([sys.executable, __file__, "9", *words], cwd=ROOT, timeout=90, check=False)
    assert done.returncode == -signal.SIGKILL
    content = torch.load(home / "killed" / "checkpoints" / "last.ckpt", weights_only=True)
    assert content["global_step"] == 8  # two steps into the second epoch, one before the kill
    settings = (home / "killed" / "config.yaml").read_bytes()
    assert fit("--resume=last", *more) == 0
    assert_same_end(home / "killed", home / "whole")
    assert (home / "killed" / "config.yaml").read_bytes() == settings
    assert not list(home.glob("*/checkpoints/.*"))


SETTINGS = [
    (),
    ("--trainer.accumulate_grad_batches=2", "--checkpoint_every=1"),
    ("--trainer.val_check_interval=0.5", "--checkpoint_every=1"),
    ("--trainer.check_val_every_n_epoch=2",),
    ("--data.selection=last",),
    ("--trainer.max_epochs=9", "--trainer.max_steps=14", "--trainer.check_val_every_n_epoch=2"),
    ("--trainer.max_epochs=9", "--trainer.max_steps=9", "--checkpoint_every=1"),
    ("--trainer.limit_train_batches=5",),
]


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("more", SETTINGS, ids=lambda m: " ".join(x.split(".")[-1] for x in m) or "plain")
def test_every_place_to_die(fit: Callable[..., int], home: Path, more: tuple[str, ...]) -> None:
    more = ("--trainer.max_epochs=2", *more)
    assert fit("--run_id=whole", *more) == 0
    names = ("last",) if "--data.selection=last" in more else ("best", "last")
    steps = torch.load(home / "whole" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    for at in range(2, steps):
        run = f"--run_id=at{at}"
        with pytest.raises(Killed):
            fit(run, *more, at=at)
        if not (home / f"at{at}" / "checkpoints").exists():
            assert at <= 4, "a checkpoint was due"
            continue
        assert fit(f"--resume={home / f'at{at}'}", *more) == 0
        assert_same_end(home / f"at{at}", home / "whole", names)


@pytest.mark.slow
def test_killed_twice_and_without_workers_the_second_time(fit: Callable[..., int], home: Path) -> None:
    more = ("--trainer.max_epochs=2",)
    assert fit("--run_id=whole", *more) == 0
    with pytest.raises(Killed):
        fit("--run_id=k", *more, at=3)
    with pytest.raises(Killed):
        fit("--resume=last", *more, at=9)
    assert fit(f"--resume={home / 'k' / 'checkpoints' / 'last.ckpt'}", "--checkpoint_every=5", *more) == 0
    assert_same_end(home / "k", home / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("saved", [pytest.param("best", marks=pytest.mark.slow), "last"])
def test_killed_after_a_checkpoint_of_an_epoch_s_end(
    fit: Callable[..., int], home: Path, monkeypatch: pytest.MonkeyPatch, saved: str
) -> None:
    """Between the two checkpoints, and between the last epoch and the test; the folder has moved meanwhile."""
    more = ("--trainer.max_epochs=2",)
    assert fit("--run_id=whole", *more) == 0
    kind = ModelCheckpoint if saved == "best" else KeepLast
    plain = kind.on_train_epoch_end

    def end(self: Any, trainer: Any, pl_module: Any) -> None:
        plain(self, trainer, pl_module)
        if trainer.current_epoch == 1:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(kind, "on_train_epoch_end", end)
        with pytest.raises(Killed):
            fit("--run_id=k", *more)
    (home / "k").rename(home / "moved")
    assert fit("--resume=last", *more) == 0
    assert_same_end(home / "moved", home / "whole")


@pytest.mark.slow
def test_batches_without_a_video_keep_their_place(fit: Callable[..., int], tmp_path: Path, shapes_root: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(shapes_root, data)
    train = json.loads((data / "MSRVTT_data.json").read_text())
    ids = [line.strip() for line in (data / "MSRVTT_train.9k.csv").read_text().splitlines()[1:]]
    assert train
    for video in ids[: len(ids) * 3 // 4]:
        (data / "videos" / f"{video.split(',')[0]}.mp4").write_bytes(b"not a video")
    more = (f"--data.annotations.root={data}", "--data.on_decode_error=skip", "--data.batch_size=1")
    home = tmp_path / "runs" / "clip4clip_shapes"
    assert fit("--run_id=whole", *more) == 0
    with pytest.raises(Killed):
        fit("--run_id=k", *more, at=4)
    assert fit("--resume=last", *more) == 0
    assert_same_end(home / "k", home / "whole")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_sigkill_of_two_ranks(home: Path, shapes_root: Path) -> None:
    def start(at: int, *more: str) -> int:
        words = arguments(shapes_root, home.parent, "--trainer.max_epochs=3", "--trainer.devices=2", *more)
        words += ["--trainer.accelerator=cpu", "--data.batch_size=1"]
        return subprocess.run(
            [sys.executable, __file__, str(at), *words], cwd=ROOT, timeout=180, check=False
        ).returncode

    assert start(-1, "--run_id=whole") == 0
    assert start(9, "--run_id=killed") == -signal.SIGKILL
    assert torch.load(home / "killed" / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 8
    assert start(-1, "--resume=last") == 0
    assert_same_end(home / "killed", home / "whole")


@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("number", "workers"),
    [
        (signal.SIGINT, 0),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 0, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_goes_on_exactly(
    fit: Callable[..., int], home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    number: signal.Signals, workers: int,
) -> None:  # fmt: skip
    more = (f"--data.num_workers={workers}", "--checkpoint_every=100")
    assert fit("--run_id=whole", *more) == 0
    before = signal.getsignal(signal.SIGINT)
    with monkeypatch.context() as patch:
        patch_training_step(patch.setattr, 8, lambda: os.kill(os.getpid(), number))
        words = arguments(home.parents[1] / "none", home.parent, "--run_id=c", *more)
        root = yaml.safe_load((home / "whole" / "config.yaml").read_text())["data"]["annotations"]["init_args"]["root"]
        assert main(["fit", *words, f"--data.annotations.root={root}"]) == 130
    error = capsys.readouterr().err
    assert ("ends after this step" in error) == (number == signal.SIGINT)
    assert f"interrupted at step 9; weights of step 9 kept in {home / 'c' / 'checkpoints' / 'last.ckpt'}" in error
    assert signal.getsignal(signal.SIGINT) is before
    assert fit("--resume=last", *more) == 0
    assert_same_end(home / "c", home / "whole")


@pytest.fixture
def unfinished(fit: Callable[..., int], home: Path) -> Path:
    with pytest.raises(Killed):
        fit("--run_id=k", at=3)
    return home / "k"


@pytest.mark.slow
def test_what_is_not_resumed(
    fit: Callable[..., int], unfinished: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(code: int, *words: str) -> str:
        assert fit(*words) == code
        return capsys.readouterr().err

    error = refused(1, "--resume=last", "--data.batch_size=3", "--trainer.max_epochs=4")
    assert (
        "was started with other settings: data.batch_size is 2 there, 3 here; trainer.max_epochs is 3 there, 4" in error
    )
    assert f"tvr fit --config {unfinished / 'config.yaml'} --resume={unfinished}" in error
    assert "--ckpt_path is for new runs" in refused(2, "--resume=last", f"--ckpt_path={unfinished}")
    assert "names another folder" in refused(2, "--resume=last", "--run_id=other")
    assert "is not a run folder" in refused(1, f"--resume={home}")
    shutil.copy(unfinished / "checkpoints" / "last.ckpt", unfinished / "checkpoints" / "best.ckpt")
    assert "to start a new run" in refused(2, f"--resume={unfinished / 'checkpoints' / 'best.ckpt'}")
    assert main(["test", "--config", str(unfinished / "config.yaml"), "--resume=last"]) == 2
    capsys.readouterr()
    (unfinished / "checkpoints" / "last.ckpt").rename(unfinished / "kept")
    assert "none of its runs has a checkpoint" in refused(1, "--resume=last")
    assert "before its first checkpoint" in refused(1, f"--resume={unfinished}")
    (unfinished / "kept").rename(unfinished / "checkpoints" / "last.ckpt")
    assert main(["fit", "--config", str(unfinished / "config.yaml"), f"--resume={unfinished}"]) == 0
    assert "is finished" in refused(1, f"--resume={unfinished}")
    assert "all its runs with a checkpoint are finished" in refused(1, "--resume=last")
    assert "checkpoint_every is 0" in refused(2, "--checkpoint_every=0")


@pytest.mark.slow
def test_settings_that_an_update_added_get_their_defaults(
    fit: Callable[..., int], unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unfinished / "config.yaml"
    content = yaml.safe_load(file.read_text())
    del content["weights"], content["data"]["allow_missing"], content["model"]["init_args"]["optimizer"]["loss_chunk"]
    file.write_text(yaml.safe_dump({**content, "gone": 1}))
    assert fit("--resume=last") == 1
    error = capsys.readouterr().err
    assert "was started by a version of the suite whose settings differ (" in error
    assert f"--weights={unfinished}" in error
    file.write_text(yaml.safe_dump(content))
    assert fit("--resume=last", "--model.optimizer.loss_chunk=1") == 1
    assert "model.init_args.optimizer.loss_chunk is None there, 1 here" in capsys.readouterr().err
    assert fit("--resume=last") == 0


@pytest.mark.slow
def test_devices_of_another_precision_do_not_go_on(
    fit: Callable[..., int], unfinished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = unfinished / "checkpoints" / "last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content["precision"] == "32-true"
    torch.save({**content, "precision": "bf16-mixed"}, last)
    assert fit("--resume=last") == 1
    error = capsys.readouterr().err
    assert "the run was started in bf16-mixed, but its devices here give 32-true (trainer.precision is auto)" in error
    assert last.is_file()
    torch.save({k: v for k, v in content.items() if k != "precision"}, last)  # of an earlier version
    assert fit("--resume=last") == 0


@pytest.mark.slow
def test_a_run_that_goes_on_elsewhere_is_not_resumed(fit: Callable[..., int], unfinished: Path) -> None:
    script = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX); print(1, flush=True); "
        "time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, unfinished / "config.yaml"], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        kept = (unfinished / "checkpoints" / "last.ckpt").stat().st_mtime_ns
        assert fit("--resume=last") == 1
        other.kill()
    assert (unfinished / "checkpoints" / "last.ckpt").stat().st_mtime_ns == kept
    assert fit("--resume=last") == 0


@pytest.mark.slow
def test_trackers_and_times_of_a_resumed_run(fit: Callable[..., int], home: Path) -> None:
    with pytest.raises(Killed):
        fit("--run_id=k", "--tracker=csv", "--trainer.log_every_n_steps=1", at=9)
    first = (home / "k" / "csv" / "metrics.csv").read_bytes()
    earlier = torch.load(home / "k" / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["RunFolder"]
    assert fit("--resume=last", "--tracker=csv", "--trainer.log_every_n_steps=1") == 0
    assert (home / "k" / "csv" / "metrics.csv").read_bytes() == first
    assert (home / "k" / "csv-2" / "metrics.csv").is_file()
    content = json.loads((home / "k" / "metrics.json").read_text())
    assert content["train_time_s"] > earlier["train"] > 0
    assert content["wall_time_s"] > earlier["wall"]


def test_random_states_come_back() -> None:
    random.gauss(0, 1)
    np.random.standard_normal()  # both keep a second value back
    states = random_state()

    def draw() -> list[float]:
        return [
            random.gauss(0, 1),
            random.random(),
            np.random.standard_normal(),
            np.random.rand(),
            float(torch.rand(())),
        ]

    drawn = draw()
    assert draw() != drawn
    set_random_state(states)
    assert draw() == drawn


def test_sampler_passes_over_what_was_trained_on() -> None:
    whole = SeededSampler(21, seed=3, rank=1, world=2)
    whole.set_epoch(4)
    order = list(whole)
    part = SeededSampler(21, seed=3, rank=1, world=2, start=(4, 6))
    assert list(part) == order[6:]  # before anybody named the epoch: workers read ahead
    assert len(part) == len(whole) == 10
    part.set_epoch(5)
    whole.set_epoch(5)
    assert list(part) == list(whole)


if __name__ == "__main__":
    patch_training_step(setattr, int(sys.argv[1]), lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.exit(main(["fit", *sys.argv[2:]]))
