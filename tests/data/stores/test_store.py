"""The disk store itself: tensors come back as they were, and its bound holds over both kinds."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

from tvr_lightning.data.stores.store import GRACE_S, Kind, Store, StoreFullError, key_of

TENSORS = {
    "pixels": torch.arange(60, dtype=torch.uint8).reshape(3, 4, 5),
    "mask": torch.tensor([True, False, True]),
    "times": torch.tensor([0.1, 2 / 3], dtype=torch.float64),
    "scalar": torch.tensor(7),
    "nothing": torch.zeros(2, 0, 3),
    "strided": torch.arange(12.0).reshape(3, 4).T,
}
BLOCK = {"x": torch.zeros(1000, dtype=torch.uint8)}
BLOCK_BYTES = 128 + 1024


def gib(blocks: float) -> float:
    return blocks * BLOCK_BYTES / 2**30


def fill(store: Store, kind: Kind, *numbers: int) -> None:
    for number in numbers:
        store.write(kind, key_of(number), BLOCK)


def found(store: Store, kind: Kind) -> list[int]:
    return [number for number in range(20) if store.path(kind, key_of(number)).exists()]


def age(store: Store, seconds: float = 2 * GRACE_S) -> None:
    for path in store.folder.glob("*/??/*"):
        os.utime(path, (0, time.time() - seconds))


@pytest.mark.parametrize("mapped", [False, True])
def test_tensors_come_back_as_they_were(tmp_path: Path, mapped: bool) -> None:
    key = key_of("a", 1)
    Store(tmp_path, 1).write("features", key, TENSORS)
    read = Store(tmp_path, 1).read("features", key, mapped)
    assert read is not None
    assert list(read) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert read[name].dtype == tensor.dtype, name
        assert torch.equal(read[name], tensor), name
    read["pixels"].zero_()  # what is given is the caller's own
    again = Store(tmp_path, 1).read("features", key, mapped)
    assert again is not None
    assert torch.equal(again["pixels"], TENSORS["pixels"])
    assert Store(tmp_path, 1).read("frames", key, mapped) is None
    assert Store(tmp_path, 1).read("features", key_of("a", 2), mapped) is None


@pytest.mark.parametrize("mapped", [False, True])
def test_any_flipped_byte_is_noticed(tmp_path: Path, mapped: bool) -> None:
    store, key = Store(tmp_path, 1), key_of("a")
    store.write("frames", key, {name: TENSORS[name] for name in ("pixels", "mask")})
    path = store.path("frames", key)
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.unlink()
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert store.read("frames", key, mapped) is None, place


def test_an_unreadable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        Store(tmp_path / "file", 1).read("frames", key_of("a"))
    with pytest.raises(OSError, match=r"exists|Not a directory"):
        Store(tmp_path / "file", 1).write("frames", key_of("a"), BLOCK)


def test_both_kinds_count_against_the_bound_and_the_oldest_go_first(tmp_path: Path) -> None:
    fill(Store(tmp_path, gib(4.5)), "frames", 0, 1)
    age(Store(tmp_path, 1), 4 * GRACE_S)
    fill(Store(tmp_path, gib(4.5)), "features", 0, 1)
    for path in tmp_path.glob("features/??/*"):
        os.utime(path, (0, time.time() - 2 * GRACE_S))
    store = Store(tmp_path, gib(4.5))
    fill(store, "features", 2)
    assert len(found(store, "frames")) == 1
    fill(store, "frames", 2)
    assert found(store, "frames") == [2]
    assert found(store, "features") == [0, 1, 2]


def test_features_push_out_frames_in_use_and_frames_no_features(tmp_path: Path) -> None:
    store = Store(tmp_path, gib(3.5))
    fill(store, "frames", 0, 1, 2)
    with pytest.raises(StoreFullError):
        fill(store, "frames", 3)
    fill(store, "features", 0, 1)
    assert len(found(store, "frames")) == 1
    fill(store, "features", 2)
    assert found(store, "frames") == []
    for kind in ("frames", "features"):
        with pytest.raises(StoreFullError):
            fill(store, kind, 4)  # type: ignore[arg-type]
    assert found(store, "features") == [0, 1, 2]


def test_what_earlier_versions_left_is_never_read_and_goes_first(tmp_path: Path) -> None:
    name = key_of(0).hex()
    old = [tmp_path / "frames" / name[:2] / f"{name}.frames", tmp_path / "features" / "ab" / f"{name[:40]}.safetensors"]
    for path in old:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"tvrfrm01" + bytes(BLOCK_BYTES - 8))
    age(Store(tmp_path, 1))
    store = Store(tmp_path, gib(3.5))
    assert store.read("frames", key_of(0)) is None
    fill(store, "frames", 1, 2)
    fill(store, "features", 3)
    assert not any(path.exists() for path in old)
    assert (found(store, "frames"), found(store, "features")) == ([1, 2], [3])
