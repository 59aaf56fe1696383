"""Frozen features: computed once, read by every loader, never those of something else."""

from __future__ import annotations

import pickle
import shutil
from collections import namedtuple
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tvr_lightning.data.frozen import Frozen
from tvr_lightning.data.stores.features import FeatureStore, key_of
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
    data.keep_features(video, Frozen(encoder, encoder.text, fingerprint), CPU)


def values(count: int, calls: list[range]) -> Callable[[Sequence[range]], Iterable[dict[str, Tensor]]]:
    def compute(spans: Sequence[range]) -> Iterable[dict[str, Tensor]]:
        for span in spans:
            calls.append(span)
            x = torch.tensor(list(span), dtype=torch.float32)[:, None, None].expand(-1, count, 2)
            yield {"features": x, "mask": torch.ones(len(span), count).bool(), "failed": torch.zeros(len(span)).bool()}

    return compute


def test_blocks_are_computed_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[range] = []
    keys = [key_of("item", i) for i in range(10)]
    store = FeatureStore(tmp_path, block=4)
    rows = store.rows(keys, "ten items", values(3, calls))
    assert [list(c) for c in calls] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert "ten items: frozen features of 10" in capsys.readouterr().err
    for i in (9, 0, 5):
        assert torch.equal(rows[i].features, torch.full((3, 2), float(i)))
        assert rows[i].mask.all()
        assert not rows[i].failed
    assert torch.equal(pickle.loads(pickle.dumps(rows))[7].features, rows[7].features)

    calls.clear()
    again = store.rows(keys, "ten items", values(3, calls))
    assert not calls
    assert torch.equal(again[6].features, rows[6].features)
    assert capsys.readouterr().err == ""

    store.rows([*keys[:4], key_of("another"), *keys[5:]], "changed", values(3, calls))
    assert [list(c) for c in calls] == [[4, 5, 6, 7]]


def test_what_was_finished_survives_a_kill(tmp_path: Path) -> None:
    keys = [key_of(i) for i in range(8)]
    store = FeatureStore(tmp_path, block=2)

    def dying(spans: Sequence[range]) -> Iterable[dict[str, Tensor]]:
        yield from values(1, [])(spans[:2])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.rows(keys, "eight", dying)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    assert not [p for p in tmp_path.rglob(".*") if p.is_file()]
    calls: list[range] = []
    store.rows(keys, "eight", values(1, calls))
    assert [c.start for c in calls] == [4, 6]


def test_a_folder_that_cannot_take_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache_features=false"):
        FeatureStore(tmp_path / "file", 2).rows([b"a"], "one", values(1, []))
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(9))
    with pytest.raises(ConfigError, match="GiB are needed"):
        FeatureStore(tmp_path, 2).rows([b"a"], "one", values(1, []))


def test_a_damaged_file(tmp_path: Path) -> None:
    rows = FeatureStore(tmp_path, 2).rows([b"a"], "one", values(1, []))
    rows.files[0].write_bytes(b"nonsense")
    with pytest.raises(DataError, match="remove the file"):
        rows[0]


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
    assert data.splits["train"].reader.nothing().features.shape == (0, *batch.video.features.shape[1:])

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
