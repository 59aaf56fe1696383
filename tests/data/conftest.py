import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def real_annotations() -> Callable[[str], Path]:
    """Gives the folder of a dataset's real annotation files; skips the test where they are absent."""

    def find(dataset: str) -> Path:
        beside = Path(__file__).parents[3] / "shared" / "annotations"
        folder = Path(os.environ.get("TVR_ANNOTATIONS", beside)) / dataset
        if not folder.is_dir():
            pytest.skip(f"the real annotation files are absent: no {folder} (set TVR_ANNOTATIONS to their folder)")
        return folder

    return find
