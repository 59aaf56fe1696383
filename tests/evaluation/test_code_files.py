"""Packed codes: round trips, files, search."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tvr_lightning.errors import DataError, RunError
from tvr_lightning.evaluation.code_files import Codes, HammingIndex, load_codes, pack_codes, save_codes, unpack_codes


def draw(count: int, bits: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.where(torch.rand(count, bits, generator=generator) < 0.5, -1, 1).to(torch.int8)


def named(codes: Tensor, prefix: str = "video") -> Codes:
    return Codes.pack(codes, [f"{prefix}{i}" for i in range(len(codes))])


@settings(max_examples=50, deadline=None)
@given(count=st.integers(0, 9), bits=st.integers(1, 70), seed=st.integers(0, 99))
def test_packing_loses_nothing(count: int, bits: int, seed: int) -> None:
    codes = draw(count, bits, seed)
    packed = pack_codes(codes)
    assert packed.shape == (count, -(-bits // 8))
    assert torch.equal(unpack_codes(packed, bits), codes)


def test_bits_lie_where_they_are_said_to_and_zero_is_positive() -> None:
    real = torch.tensor([[0.0, -0.1, 3.0, -2.0, -1.0, -1.0, -1.0, -1.0, -1.0, -0.0]])
    assert pack_codes(real).tolist() == [[0b10100000, 0b01000000]]
    assert unpack_codes(pack_codes(real), 10).tolist() == [[1, -1, 1, -1, -1, -1, -1, -1, -1, 1]]


def test_files_keep_codes_and_ids(tmp_path: Path) -> None:
    file = tmp_path / "codes.npz"
    written = {"text": named(draw(5, 12), "Ü#"), "video": named(draw(3, 12, 1))}
    save_codes(file, written)
    read = load_codes(file)
    assert list(read) == ["text", "video"]
    for name, codes in written.items():
        assert torch.equal(read[name].signs, codes.signs)
        assert read[name].ids.tolist() == codes.ids.tolist()
        assert read[name].bits == 12
    assert list(tmp_path.iterdir()) == [file]
    save_codes(file, {"video": named(draw(0, 8))})
    assert len(load_codes(file)["video"]) == 0
    with pytest.raises(RunError, match="cannot write"):
        save_codes(tmp_path / "gone" / "codes.npz", written)


def test_labels_come_back_as_they_were(tmp_path: Path) -> None:
    file, labels = tmp_path / "codes.npz", [(3, 1), (), (7,)]
    written = Codes.pack(draw(3, 12), ["a", "b", "c"], labels)
    save_codes(file, {"video": written, "text": named(draw(2, 12))})
    read = load_codes(file)
    assert read["video"].labels == tuple(labels)
    assert read["text"].labels == ()
    assert Codes.pack(draw(3, 12), ["a", "b", "c"], [(), (), ()]).labels == ()  # nothing is known of any
    with pytest.raises(ValueError, match="3 codes need labels of as many items or none, got 2"):
        Codes.pack(draw(3, 12), ["a", "b", "c"], labels[:2])


@pytest.mark.parametrize("pairs", [[[3, 0]], [[-1, 0]], [[0, 1, 2]], [0, 1], [[0.5, 1]]])
def test_labels_of_no_item_are_refused(tmp_path: Path, pairs: list[object]) -> None:
    file = tmp_path / "codes.npz"
    save_codes(file, {"video": named(draw(3, 12))})
    with np.load(file) as whole:
        np.savez(file, **whole, **{"video/labels": np.asarray(pairs)})
    with pytest.raises(DataError, match="holds no codes"):
        load_codes(file)


def test_files_that_are_no_codes(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make them with: tvr encode"):
        load_codes(tmp_path / "codes.npz")
    save_codes(tmp_path / "whole.npz", {"video": named(draw(50, 16))})
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "empty.npz").write_bytes(b"")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    np.savez(tmp_path / "half.npz", **{"video/codes": np.zeros((3, 1), dtype=np.uint8)})
    np.savez(tmp_path / "pickle.npz", **{"video/ids": np.array([object()])}, allow_pickle=True)
    np.save(tmp_path / "array.npy", np.zeros(3))
    for name in ("cut.npz", "text.npz", "empty.npz", "other.npz", "half.npz", "pickle.npz", "array.npy"):
        with pytest.raises(DataError, match=f"{name} holds no codes"):
            load_codes(tmp_path / name)


@pytest.mark.parametrize("bits", [5, 8, 12, 64])
def test_search_is_exact(bits: int) -> None:
    items, queries = draw(300, bits), draw(11, bits, 1)
    index = HammingIndex(named(items))
    distances, rows = index.search(pack_codes(queries), 7)
    expected = (bits - queries.int() @ items.int().T) // 2
    assert distances.tolist() == expected.sort(dim=1).values[:, :7].tolist()
    assert torch.equal(expected.gather(1, torch.from_numpy(rows)), torch.from_numpy(distances).long())
    assert index.ids[rows[0]].tolist() == [f"video{r}" for r in rows[0]]
    assert index.search(torch.from_numpy(pack_codes(queries)), 1000)[1].shape == (11, 300)
    assert len(index) == 300


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="codes must be"):
        pack_codes(torch.ones(3))
    with pytest.raises(ValueError, match="NaN"):
        pack_codes(torch.tensor([[1.0, torch.nan]]))
    with pytest.raises(ValueError, match=r"codes of 9 bits are uint8 \(items, 2\), got uint8 \(3, 1\)"):
        unpack_codes(pack_codes(draw(3, 8)), 9)
    with pytest.raises(ValueError, match="3 codes need as many ids"):
        Codes.pack(draw(3, 8), ["a", "b"])
    index = HammingIndex(named(draw(3, 8)))
    with pytest.raises(ValueError, match="codes of 8 bits"):
        index.search(pack_codes(draw(2, 16)), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        index.search(pack_codes(draw(2, 8)), 0)
    with pytest.raises(ValueError, match="at least one code"):
        HammingIndex(named(draw(0, 8)))
