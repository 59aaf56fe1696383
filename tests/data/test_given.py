"""What stands in for videos: folders of pictures, features of frames."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from tvr_lightning.commands.main import main
from tvr_lightning.data.given import GivenFeatures
from tvr_lightning.data.video.frames import read_frames
from tvr_lightning.data.video.records import pictures_in, read_record
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.errors import ConfigError, DataError, DecodeError
from tvr_lightning.run.results import read_run
from tvr_lightning.types import Record

Make = Callable[..., Any]
RATE = 12.0  # frames a second of the embedded dataset


def take_out(video: Path, folder: Path, count: int = 0) -> int:
    """Writes a video's frames as PNG files, without loss; returns how many."""
    import av

    folder.mkdir(parents=True)
    with av.open(str(video)) as container:
        for number, frame in enumerate(container.decode(video=0), 1):
            frame.to_image().save(folder / f"{number}.png")
            count = number
    return count


@pytest.mark.parametrize(
    "options",
    [
        FrameOptions(4, "uniform", None, 32), FrameOptions(3, "head", 1.0, 32), FrameOptions(50, "tail", 4.0, 32),
        FrameOptions(5, "key", None, 32), FrameOptions(4, "uniform", 2.0, 32, resize="squash"),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("part", [(None, None), (1.0, 2.5)])
def test_pictures_give_the_frames_of_their_video(
    shapes_root: Path, tmp_path: Path, options: FrameOptions, part: tuple[float | None, float | None]
) -> None:
    video = shapes_root / "videos" / "video16.mp4"
    assert take_out(video, tmp_path / "v") > 30
    whole = Record("v", video, ("x",), start=part[0], end=part[1])
    pictures = Record("v", tmp_path / "v", ("x",), start=part[0], end=part[1], frame_rate=RATE)
    expected, found = read_record(whole, options), read_record(pictures, options)
    assert torch.equal(found.mask, expected.mask)
    assert torch.allclose(found.times, expected.times, atol=0.01)
    assert (found.frames.float() - expected.frames.float()).abs().mean() < 3  # YUV came through RGB


def test_pictures_are_ordered_by_number(tmp_path: Path) -> None:
    for name in ("10.jpg", "9.jpg", "1.PNG", ".hidden.jpg", "notes.txt"):
        Image.new("RGB", (8, 8)).save(tmp_path / name, "PNG") if name != "notes.txt" else (tmp_path / name).write_text(
            ""
        )
    assert [p.name for p in pictures_in(tmp_path)] == ["1.PNG", "9.jpg", "10.jpg"]


def test_folders_that_hold_no_pictures(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DecodeError, match="no picture is in it"):
        pictures_in(tmp_path / "empty")
    with pytest.raises(DecodeError, match="no folder of frames"):
        pictures_in(tmp_path / "none")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "1.jpg").write_text("no picture")
    with pytest.raises(DecodeError, match=r"broken/1\.jpg"):
        read_record(Record("x", tmp_path / "broken", (), frame_rate=1.0), FrameOptions(2, "uniform", None, 32))
    segment = Record("x", tmp_path / "broken", (), start=3.0, frame_rate=1.0)
    with pytest.raises(DecodeError, match="outside the video"):
        read_record(segment, FrameOptions(2, "uniform", None, 32))


def test_a_data_module_reads_folders_of_pictures(make_data: Make, shapes_root: Path, tmp_path: Path) -> None:
    for number in range(24):
        video = shapes_root / "videos" / f"video{number}.mp4"
        (tmp_path / "f" / video.stem).mkdir(parents=True)
        frame = read_frames(video, 1, size=32).frames[0]
        for place in range(3):
            Image.fromarray(frame.permute(1, 2, 0).numpy()).save(tmp_path / "f" / video.stem / f"{place:06}.png")
    data = make_data(frame_folders=str(tmp_path / "f"))
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    assert batch.video.frame_mask.sum(1).tolist() == [3] * 4
    assert batch.video.frames[0, 0].float().std() > 0
    (tmp_path / "f" / "video16").rename(tmp_path / "f" / "elsewhere")
    with pytest.raises(DataError, match=r"test: 1 of 8 listed videos have no file \(video16"):
        make_data(frame_folders=str(tmp_path / "f")).setup("test")
    with pytest.raises(DataError, match="there is no folder"):
        make_data(frame_folders=str(tmp_path / "g")).setup("test")


RECORDS = [
    Record("a", Path("a.mp4"), ("x",)), Record("deep/b.mp4", Path("b.mp4"), ("x",)),
    Record("c@1-3", Path("c.mp4"), ("x",), start=1.0, end=3.0), Record("lost", Path("lost.mp4"), ("x",)),
]  # fmt: skip
ARRAYS = {"a": np.arange(10.0).reshape(5, 2), "deep/b": np.arange(4.0).reshape(2, 2), "c": np.arange(8.0).reshape(4, 2)}
OPTIONS = FrameOptions(3, "uniform", None, 32)


def write(kind: str, folder: Path) -> Path:
    place = folder / "features"
    if kind in ("npy", "safetensors"):
        for name, array in ARRAYS.items():
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            if kind == "npy":
                np.save(place / f"{name}.npy", array.astype(np.float16))
            else:
                save_file({"features": torch.from_numpy(array), "other": torch.ones(1)}, place / f"{name}.safetensors")
        return place
    if kind == "one file":
        save_file({name: torch.from_numpy(array).bfloat16() for name, array in ARRAYS.items()}, f"{place}.safetensors")
        return Path(f"{place}.safetensors")
    h5py = pytest.importorskip("h5py", reason="HDF5 is optional and h5py is not installed")
    with h5py.File(f"{place}.h5", "w") as file:
        for name, array in ARRAYS.items():
            file[name.replace("/", "-")] = array
    return Path(f"{place}.h5")


@pytest.mark.parametrize("kind", ["npy", "safetensors", "one file"])
def test_features_are_found_and_sampled(tmp_path: Path, kind: str) -> None:
    given = GivenFeatures(write(kind, tmp_path), RECORDS, OPTIONS, 1.0)
    assert [row in given for row in range(4)] == [True, True, True, False]
    assert given[0].features.tolist() == [
        [0, 1],
        [4, 5],
        [8, 9],
    ]  # centres of thirds
    assert given[1].features.tolist() == [[0, 1], [2, 3], [0, 0]]
    assert given[1].mask.tolist() == [True, True, False]
    assert given[2].features.tolist() == [[2, 3], [4, 5], [0, 0]]  # seconds 1 to 3 at a row a second
    assert given.rows([2, 0])[1].features.tolist() == given[0].features.tolist()
    with pytest.raises(DataError, match="has none of lost"):
        given[3]
    given.check_width(2, "VGG")
    with pytest.raises(ConfigError, match="have 2 features, VGG gives 512"):
        given.check_width(512, "VGG")


def test_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "f.h5").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ConfigError, match="pip install h5py"):
        GivenFeatures(tmp_path / "f.h5", RECORDS, OPTIONS, 1.0)
    monkeypatch.undo()
    given = GivenFeatures(write("h5", tmp_path), RECORDS, OPTIONS, 1.0)
    assert given[0].features.tolist() == [[0, 1], [4, 5], [8, 9]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((0, 4)), "expected finite numbers"), (np.full((2, 4), np.nan), "expected finite numbers"),
        (np.zeros((2, 3, 4)), "expected finite numbers"), (np.array(["text"]), "expected finite numbers"),
        (np.array([{}], dtype=object), "cannot be read"),
    ],
    ids=["empty", "nan", "3d", "text", "objects"],
)  # fmt: skip
def test_arrays_that_are_no_features(tmp_path: Path, array: Any, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        GivenFeatures(tmp_path, RECORDS[:1], OPTIONS, 1.0)[0]


def test_places_that_hold_no_features(tmp_path: Path) -> None:
    for name in ("none", "x.txt"):
        (tmp_path / "x.txt").write_text("")
        with pytest.raises(DataError, match=r"is not a folder of \.npy or \.safetensors files"):
            GivenFeatures(tmp_path / name, RECORDS, OPTIONS, 1.0)
    with pytest.raises(ConfigError, match="key compares pixels"):
        GivenFeatures(tmp_path, RECORDS, FrameOptions(3, "key", None, 32), 1.0)


def test_settings_that_do_not_go_together(make_data: Make, tmp_path: Path) -> None:
    for settings, message in (
        ({"frame_features": "x", "frame_folders": "y"}, "leave one out"),
        ({"frame_features": "x", "jitter": True}, "one view"),
        ({"frame_rate": 0.0}, "frames a second"),
    ):
        with pytest.raises(ConfigError, match=message):
            make_data(**settings)


def words(root: Path, tmp_path: Path, *more: str) -> list[str]:
    return [
        "fit", "--config", "clip4clip_shapes", f"--data.annotations.root={root}", f"--runs_dir={tmp_path / 'runs'}",
        "--tracker=none", "--trainer.max_steps=2", "--data.batch_size=4", "--data.num_workers=1",
        "--data.selection=last", f"--data.cache_dir={tmp_path / 'cache'}",
        f"--data.frame_features={tmp_path / 'given'}", *more,
    ]  # fmt: skip


@pytest.mark.slow
def test_a_run_on_given_features_needs_no_videos(
    shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for file in shapes_root.iterdir():
        if file.is_file():
            (tmp_path / "data" / file.name).write_bytes(file.read_bytes())
    (tmp_path / "given").mkdir()
    for number in range(24):
        np.save(tmp_path / "given" / f"video{number}.npy", np.random.default_rng(number).normal(size=(5, 128)))
    assert main(words(tmp_path / "data", tmp_path, "--run_id=a")) == 0
    assert read_run(tmp_path / "runs" / "clip4clip_shapes" / "a").content["data"]["videos"] == 8
    capsys.readouterr()
    assert main(words(tmp_path / "data", tmp_path, "--model.encoder.freeze_image=false")) != 0
    assert "this method trains its encoder" in " ".join(capsys.readouterr().err.split())
    for file in (tmp_path / "given").iterdir():
        np.save(file, np.zeros((5, 64)))
    assert main(words(tmp_path / "data", tmp_path)) != 0
    assert "have 64 features, CLIPEncoder gives 128" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "given" / "video20.npy").unlink()
    assert main(words(tmp_path / "data", tmp_path)) != 0
    assert "test: 1 of 8 listed videos have no file (video20" in " ".join(capsys.readouterr().err.split())
