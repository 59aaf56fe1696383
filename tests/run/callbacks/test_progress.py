from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tvr_lightning.run.callbacks import progress
from tvr_lightning.run.callbacks.progress import WAITS_AFTER, DataWaits, StartSummary, waiting_line


class Event:
    """Of a GPU that is done, or not."""

    done = True

    def record(self) -> None:
        pass

    def query(self) -> bool:
        return self.done


def run(monkeypatch: pytest.MonkeyPatch, data: Any, done: bool, fetch: float, step: float) -> None:
    """Steps whose batch comes after `fetch` seconds and which take the host `step`."""
    clock = [0.0]
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(Event, "done", done)
    # not the module's own function, by which event loops of other threads wait
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data)
    module: Any = SimpleNamespace(device=torch.device("cuda", 0))
    callback = DataWaits()
    for i in range(2 * WAITS_AFTER):
        clock[0] += fetch
        callback.on_train_batch_start(trainer, module, None, i)
        clock[0] += step
        callback.on_train_batch_end(trainer, module, None, None, i)


def test_a_gpu_that_waits_says_so_once(
    make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, make_data(num_workers=0), done=True, fetch=0.3, step=0.1)
    err = capsys.readouterr().err
    assert err.count("GPU waits for decoding: 7") == 1
    assert "data.cache_frames=true" in err


@pytest.mark.parametrize(("done", "fetch"), [(False, 0.3), (True, 0.001)])
def test_a_gpu_that_is_busy_says_nothing(
    make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    done: bool, fetch: float,
) -> None:  # fmt: skip
    run(monkeypatch, make_data(num_workers=0), done, fetch, step=0.1)
    assert not capsys.readouterr().err


def test_the_line_names_what_is_left_to_do(make_data: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "usable_cores", lambda: 8)
    plain, kept = waiting_line(0.5, make_data(num_workers=2)), waiting_line(0.5, make_data(cache_frames=True))
    assert "50%" in plain
    assert "data.num_workers=8" in plain
    assert "cache_frames=true" not in kept
    assert "later epochs read cached frames" in kept
    assert "num_workers" not in waiting_line(0.5, make_data(num_workers=8)).partition(". ")[2]


@pytest.mark.parametrize("counted", [{}, {"truncated_nodes": 1234}])
def test_the_start_counts_what_was_cut(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, counted: dict[str, int]
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    names = ("videos", "captions", "listed", "missing", "without_captions", "truncated_captions")
    content = {"split": "train", **dict.fromkeys(names, 5), **counted}
    split = SimpleNamespace(summary=lambda: content)
    data = SimpleNamespace(
        dataset="x", annotations=SimpleNamespace(protocol="9k"), splits={"train": split}, selection="last"
    )
    trainer: Any = SimpleNamespace(is_global_zero=True, datamodule=data)
    StartSummary().on_fit_start(trainer, torch.nn.Linear(1, 1))  # type: ignore[arg-type]
    said = capsys.readouterr().err
    assert "truncated captions" in said
    assert ("truncated nodes" in said, "1,234" in said) == (bool(counted), bool(counted))
