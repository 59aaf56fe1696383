from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

# without a GPU Triton's kernels run in its interpreter, which must be known before Triton is imported
if not Path("/dev/nvidia0").exists():
    os.environ["TRITON_INTERPRET"] = "1"

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--experiments", type=Path, default=EXPERIMENTS,
        help="the folder whose method/*.yaml name the methods of tests/methods/test_properties.py",
    )  # fmt: skip


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skips what is marked `gpu` where there is none."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")


@pytest.fixture(scope="session", autouse=True)
def no_cache_at_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keeps what tests cache out of the user's folders."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def run_alone() -> Callable[[Sequence[str], float], str]:
    """Runs a command in a session of its own, of which nothing survives; returns what it printed."""

    def run(command: Sequence[str], limit: float) -> str:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        try:
            output, _ = process.communicate(timeout=limit)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                process.wait()
        assert process.returncode == 0, output
        return output

    return run


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny embedded dataset: 24 videos."""
    from tvr_lightning.synthetic.shapes import make_shapes

    root = tmp_path_factory.mktemp("shapes") / "shapes"
    make_shapes(root, num_videos=24)
    return root


@pytest.fixture
def make_data(shapes_root: Path) -> Callable[..., Any]:
    """Builds a data module over the tiny dataset; keyword arguments go to `VideoTextDataModule`."""
    from tvr_lightning.data.annotations.msrvtt import MSRVTT
    from tvr_lightning.data.datamodule import VideoTextDataModule

    def make(**settings: Any) -> VideoTextDataModule:
        root = settings.pop("root", shapes_root)
        defaults = {"batch_size": 4, "num_frames": 4, "fps": None, "size": 32, "num_workers": 0}
        return VideoTextDataModule(MSRVTT(root), **{**defaults, **settings})

    return make


@pytest.fixture
def small_encoder() -> Callable[..., Any]:
    """Builds a CLIP of 32 px frames and width 32, fast enough for every test."""
    from tvr_lightning.encoders import CLIPEncoder, CLIPSize

    size = CLIPSize(
        image_size=32, patch_size=16, image_width=32, image_layers=1, image_heads=2,
        text_width=32, text_layers=1, text_heads=2, embed_dim=32,
    )  # fmt: skip
    return lambda **settings: CLIPEncoder(size=size, **settings)


@pytest.fixture
def small_vgg() -> Callable[..., Any]:
    """Builds a VGG of 32 px frames and 24 features."""
    from tvr_lightning.encoders import VGGEncoder, VGGSize

    size = VGGSize(image_size=32, blocks=((8,), (16,)), pooled=2, hidden_dim=32, embed_dim=24)
    return lambda **settings: VGGEncoder(size=size, **settings)


@pytest.fixture
def small_bert() -> Callable[..., Any]:
    """Builds a BERT of width 16 over CLIP's number of tokens, so that the same random texts fit both."""
    from tvr_lightning.encoders import BERTEncoder, BERTSize

    size = BERTSize(width=16, layers=1, heads=2, mlp_width=32, vocabulary_size=49408, positions=16, dropout=0.0)
    return lambda **settings: BERTEncoder(size=size, **settings)
