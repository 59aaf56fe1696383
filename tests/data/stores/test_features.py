"""Frozen features: computed once, read by every loader, never those of something else."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import resource
import shutil
import signal
import time
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.data.stores import store as store_module
from tvr_lightning.data.stores.features import FeatureRows, FeatureStore
from tvr_lightning.data.stores.store import GRACE_S, Store, key_of
from tvr_lightning.errors import ConfigError, DataError, DecodeError
from tvr_lightning.types import TextInput, VideoInput

CPU = torch.device("cpu")


class Mean(nn.Module):
    """Mean colour of each frame, and a count of calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def video(self, video: VideoInput) -> Tensor:
        self.calls += 1
        return video.frames.float().mean((-1, -2)) / 255 * video.frame_mask[..., None]

    def text(self, text: TextInput) -> Tensor:
        self.calls += 1
        return (text.tokens * text.token_mask).sum(1).float()[:, None, None]


def keep(data: Any, encoder: Mean, fingerprint: str = "mean") -> None:
    video = Frozen(encoder, encoder.video, fingerprint)
    data.precompute_features(video, Frozen(encoder, encoder.text, fingerprint), CPU)


def values(count: int, calls: list[range]) -> Callable[[Sequence[range]], Iterable[dict[str, Tensor]]]:
    def compute(spans: Sequence[range]) -> Iterable[dict[str, Tensor]]:
        for span in spans:
            calls.append(span)
            x = torch.tensor(list(span), dtype=torch.float32)[:, None, None].expand(-1, count, 2)
            yield {"features": x, "mask": torch.ones(len(span), count).bool(), "failed": torch.zeros(len(span)).bool()}

    return compute


def rows_of(
    folder: Path, keys: Sequence[bytes], calls: list[range] | None = None, gib: float = 1, size: int = 2
) -> FeatureRows:
    """As a run that starts now gets them."""
    compute = values(3, [] if calls is None else calls)
    return FeatureStore(Store(folder, gib)).rows(keys, size, "items", compute)


def blocks_of(folder: Path) -> list[Path]:
    return sorted(folder.glob("features/??/*.features"))


def age(folder: Path) -> None:
    """Makes what lies in the store that of a run long ago."""
    for path in blocks_of(folder):
        os.utime(path, (0, time.time() - 2 * GRACE_S))


def keys_of(count: int, name: str = "item") -> list[bytes]:
    return [key_of(name, i) for i in range(count)]


def test_blocks_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[range] = []
    keys = keys_of(10)
    rows = rows_of(tmp_path, keys, calls, size=4)
    assert [list(c) for c in calls] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert "items: frozen features of 10 are computed once" in capsys.readouterr().err
    for i in (9, 0, 5):
        assert torch.equal(rows[i].features, torch.full((3, 2), float(i)))
        assert rows[i].mask.all()
        assert not rows[i].failed
    assert torch.equal(pickle.loads(pickle.dumps(rows))[7].features, rows[7].features)

    calls.clear()
    again = rows_of(tmp_path, keys, calls, size=4)
    assert not calls
    assert torch.equal(again[6].features, rows[6].features)
    assert capsys.readouterr().err == ""

    rows_of(tmp_path, [*keys[:4], key_of("another"), *keys[5:]], calls, size=4)
    assert [list(c) for c in calls] == [[4, 5, 6, 7]]
    assert "frozen features of 4 are" in capsys.readouterr().err


def test_blocks_of_equal_items_are_one(tmp_path: Path) -> None:
    calls: list[range] = []
    rows = rows_of(tmp_path, [key_of("same")] * 6, calls)
    assert len(calls) == len(blocks_of(tmp_path)) == 1
    assert all(torch.equal(rows[i].features, rows[i % 2].features) for i in range(6))


def test_what_was_finished_survives_an_interrupt(tmp_path: Path) -> None:
    def dying(spans: Sequence[range]) -> Iterable[dict[str, Tensor]]:
        yield from values(3, [])(spans[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FeatureStore(Store(tmp_path, 1)).rows(keys_of(8), 2, "items", dying)
    assert len(blocks_of(tmp_path)) == 2
    calls: list[range] = []
    rows_of(tmp_path, keys_of(8), calls)
    assert [c.start for c in calls] == [4, 6]


def _killed(folder: Path) -> None:
    original = store_module.write_all
    written = []

    def half(file: int, data: bytes) -> None:
        written.append(file)
        if len(written) < 3:
            return original(file, data)
        original(file, data[: len(data) // 2])
        return os.kill(os.getpid(), signal.SIGKILL)

    store_module.write_all = half  # type: ignore[attr-defined]
    rows_of(folder, keys_of(8))


def test_a_kill_in_a_write_leaves_the_blocks_before_it(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_killed, args=(tmp_path,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(blocks_of(tmp_path)) == 2
    assert (tmp_path / "incoming").exists()
    calls: list[range] = []
    rows = rows_of(tmp_path, keys_of(8), calls)
    assert [c.start for c in calls] == [4, 6]
    assert [float(rows[i].features[0, 0]) for i in range(8)] == [0, 1, 2, 3, 4, 5, 6, 7]
    assert not (tmp_path / "incoming").exists()


def _filled(folder: Path, failed: Any) -> None:
    try:
        rows = rows_of(folder, keys_of(40))
        assert [float(rows[i].features[0, 0]) for i in range(40)] == list(range(40))
    except BaseException as error:
        failed.put(repr(error))
        raise


def test_processes_that_compute_the_same_do_not_disturb_each_other(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    failed = fork.SimpleQueue()
    processes = [fork.Process(target=_filled, args=(tmp_path, failed)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert failed.empty(), failed.get()
    assert [p.exitcode for p in processes] == [0] * 4
    sizes = [path.stat().st_size for path in blocks_of(tmp_path)]
    assert len(sizes) == 20
    assert int((tmp_path / "lock").read_bytes()) == sum(sizes)


def test_a_folder_that_cannot_take_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"Not a directory.*cache_dir.*cache_gib.*cache_features=false"):
        rows_of(tmp_path / "file", keys_of(1))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9))
    with pytest.raises(ConfigError, match=r"GiB are needed, 0\.0 GiB are free"):
        rows_of(tmp_path, keys_of(1))
    assert blocks_of(tmp_path) == []


def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The limit of a file's size stands for the full disk: the system refuses in the middle of a write."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ConfigError, match=r"features cannot be kept in .*: File too large\. Free space"):
            rows_of(tmp_path, keys_of(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert blocks_of(tmp_path) == []
    assert not (tmp_path / "incoming").exists()


def block_gib(folder: Path, blocks: float) -> float:
    rows_of(folder, keys_of(2))
    return blocks * blocks_of(folder)[0].stat().st_size / 2**30


def test_more_than_the_bound_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    bound = block_gib(tmp_path / "a", 0.4)
    calls: list[range] = []
    with pytest.raises(ConfigError, match=r"data.cache_gib=\S+, they need .* GiB.*larger --data.cache_gib"):
        rows_of(tmp_path / "b", keys_of(20), calls, bound)
    assert len(calls) == 1
    assert blocks_of(tmp_path / "b") == []


def test_what_other_runs_left_makes_room_and_what_is_in_use_does_not(tmp_path: Path) -> None:
    bound = block_gib(tmp_path / "a", 3.5)
    folder = tmp_path / "b"
    rows_of(folder, keys_of(6, "old"), gib=bound)
    with pytest.raises(ConfigError, match=r"data.cache_gib=.* is full of features in use"):
        rows_of(folder, keys_of(6, "new"), gib=bound)
    age(folder)
    rows_of(folder, keys_of(4, "new"), gib=bound)
    assert sum(path.stat().st_size for path in blocks_of(folder)) <= bound * 2**30
    calls: list[range] = []
    rows_of(folder, keys_of(4, "new"), calls, bound)
    assert calls == []


def test_rows_outlive_the_removal_of_their_files(tmp_path: Path) -> None:
    store = FeatureStore(Store(tmp_path, 1))
    rows = store.rows(keys_of(6), 2, "items", values(3, []))
    shutil.rmtree(tmp_path)
    assert [float(rows[i].features[0, 0]) for i in range(6)] == [0, 1, 2, 3, 4, 5]
    calls: list[range] = []
    assert torch.equal(store.rows(keys_of(6), 2, "items", values(3, calls))[5].features, rows[5].features)
    assert calls == []  # a later stage of the same run does not ask the disk again
    started_afresh = pickle.loads(pickle.dumps(rows))
    with pytest.raises(DataError, match=r"kept features .*\.features are damaged or gone"):
        started_afresh[0]


@pytest.mark.parametrize(
    "damage", [lambda b: b"", lambda b: b[:-1], lambda b: b[:-9] + b"nonsense!", lambda b: b"nonsense" * 99]
)
def test_damaged_blocks_are_computed_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    rows_of(tmp_path, keys_of(4))
    file = tmp_path.joinpath(*blocks_of(tmp_path)[0].relative_to(tmp_path).parts)
    whole = file.read_bytes()
    file.unlink()
    file.write_bytes(damage(whole))
    calls: list[range] = []
    rows = rows_of(tmp_path, keys_of(4), calls)
    assert len(calls) == 1
    assert [float(rows[i].features[0, 0]) for i in range(4)] == [0, 1, 2, 3]
    assert file.read_bytes() == whole


def test_a_store_that_may_only_be_read_gives_what_it_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of(tmp_path, keys_of(4))
    age(tmp_path)

    def refuse(*_: Any) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(store_module.os, "utime", refuse)
    calls: list[range] = []
    assert float(rows_of(tmp_path, keys_of(4), calls)[3].features[0, 0]) == 3
    assert calls == []


def test_loaders_give_features_instead_of_frames(make_data: Callable[..., Any], tmp_path: Path) -> None:
    plain = make_data(cache_dir=str(tmp_path))
    plain.setup("fit")
    data, encoder = make_data(cache_dir=str(tmp_path)), Mean()
    data.setup("fit")
    keep(data, encoder)
    first = encoder.calls
    assert first > 0
    texts, videos = data.test_dataloader()
    for kept, decoded in zip(videos, plain.test_dataloader()[1], strict=True):
        assert kept.frames.shape[-2:] == (0, 0)
        assert torch.equal(kept.frame_mask, decoded.frame_mask)
        assert torch.equal(kept.features, encoder.video(decoded))
    for kept in texts:
        assert torch.equal(kept.features, encoder.text(kept))
    batch = next(iter(data.train_dataloader()))
    assert batch.video.has_features
    assert batch.text.has_features
    assert data.splits["train"].reader.empty_input().features.shape == (0, *batch.video.features.shape[1:])

    other, calls = make_data(cache_dir=str(tmp_path)), encoder.calls
    other.setup("fit")
    keep(other, encoder)
    assert encoder.calls == calls
    keep(other, encoder, "other weights")
    assert encoder.calls > calls


def test_other_frames_are_other_features(make_data: Callable[..., Any], tmp_path: Path) -> None:
    encoder = Mean()
    for settings in ({}, {"num_frames": 3}, {"size": 16}):
        data, calls = make_data(cache_dir=str(tmp_path), **settings), encoder.calls
        data.setup("test")
        keep(data, encoder)
        assert encoder.calls > calls, settings


@pytest.mark.parametrize("settings", [{"cache_features": False}, {"jitter": True}])
def test_nothing_is_kept_where_it_must_not_be(
    make_data: Callable[..., Any], tmp_path: Path, settings: dict[str, bool]
) -> None:
    data, encoder = make_data(cache_dir=str(tmp_path), **settings), Mean()
    data.setup("test")
    keep(data, encoder)
    assert encoder.calls == 0
    assert not next(iter(data.test_dataloader()[1])).has_features


def test_an_undecodable_video_stays_undecodable(
    make_data: Callable[..., Any], shapes_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "shapes"
    shutil.copytree(shapes_root, root)
    data = make_data(root=root, cache_dir=str(tmp_path), on_decode_error="skip")
    data.setup("test")
    broken = data.splits["test"].records[1].video_path
    broken.write_bytes(b"no video")
    with pytest.warns(UserWarning, match="skipped and counted"):
        keep(data, Mean())
    assert data.splits["test"].reader.read(1) is None
    assert data.splits["test"].reader.read(0) is not None
    strict = make_data(root=root, cache_dir=str(tmp_path))
    strict.setup("test")
    keep(strict, Mean())
    with pytest.raises(DecodeError, match=broken.name):
        strict.splits["test"].reader.read(1)


def test_views_share_no_frame(make_data: Callable[..., Any]) -> None:
    from dataclasses import replace

    data = make_data(num_frames=3)
    data.setup("test")
    reader = data.splits["test"].reader
    whole = make_data(num_frames=6)
    whole.setup("test")
    reader.frames = replace(reader.frames, views=2)
    first, second = reader.views(0)
    frames = whole.splits["test"].reader.read(0).frames[0]
    assert torch.equal(first.frames[0], frames[0::2])
    assert torch.equal(second.frames[0], frames[1::2])
    watched = reader.watch(0)
    assert torch.equal(watched.frames, first.frames[0])
    assert watched.mask.all()
    assert (watched.times.diff() > 0).all()
