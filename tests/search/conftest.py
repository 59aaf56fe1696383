from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.search import made
from tvr_lightning.run.load import Experiment
from tvr_lightning.search import index as module


@pytest.fixture(scope="session")
def run(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Experiment:
    """CLIP4Clip, untrained."""
    return made.untrained("clip4clip_shapes", shapes_root, tmp_path_factory.mktemp("runs"))


@pytest.fixture
def videos(run: Experiment, tmp_path: Path) -> Path:
    """A folder with copies of the test videos, one in a folder of its own."""
    folder = tmp_path / "videos"
    (folder / "more").mkdir(parents=True)
    for number, record in enumerate(run.data.split_of("test").records):
        shutil.copy(record.video_path, folder / "more" if number == 0 else folder)
    return folder


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Callable[..., module.Index]:
    """Opens an index whose queries a run of this process encodes."""

    def open_index(folder: Path, run: Experiment, candidates: int | None = None) -> module.Index:
        monkeypatch.setattr(module, "load_source", lambda *_: run)
        return module.load_index(folder, candidates=candidates)

    return open_index
