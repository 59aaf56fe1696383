"""FAISS and Milvus give the same for the same vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.search import made
from tvr_lightning.errors import ConfigError, SearchError
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.index import Index
from tvr_lightning.search.vectors import FaissVectors, MilvusVectors, check_place, milvus_place, open_vectors


def some(kind: str, count: int, width: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    if kind == "code":
        return np.where(values >= 0, 1, -1).astype(np.int8)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kind=st.sampled_from(["float", "code"]), count=st.integers(1, 40), width=st.integers(1, 20), k=st.integers(1, 50)
)
def test_faiss_gives_inner_products(kind: Any, count: int, width: int, k: int) -> None:
    vectors, queries = some(kind, count, width), some(kind, 3, width, 1)
    index = FaissVectors(kind, width)
    ids = np.arange(count) * 7 + 3
    index.add(ids, vectors)
    index.delete(ids[::3])
    index.delete(np.array([1]))
    left = np.setdiff1d(ids, ids[::3])
    assert index.ids().tolist() == left.tolist()
    assert len(index) == len(left)
    if not len(left):
        return
    scores, found = index.search(queries, k)
    assert scores.shape == found.shape == (3, min(k, len(left)))
    products = queries.astype(np.float32) @ vectors.astype(np.float32).T
    for row in range(3):
        own = {int(i): products[row, (i - 3) // 7] for i in left}
        assert scores[row] == pytest.approx([own[i] for i in found[row].tolist()], abs=1e-5)
        assert scores[row] == pytest.approx(sorted(own.values(), reverse=True)[:k], abs=1e-5)


@pytest.mark.parametrize("kind", ["float", "code"])
def test_milvus_gives_what_faiss_gives(kind: Any, tmp_path: Path) -> None:
    pytest.importorskip("milvus_lite")
    vectors, queries = some(kind, 300, 64), some(kind, 5, 64, 1)
    ids = np.arange(300) * 2
    here = FaissVectors(kind, 64)
    there = MilvusVectors(str(tmp_path / "v.db"), "clips", kind, 64)
    for index in (here, there):
        index.add(ids, vectors)
        index.delete(ids[:50])
        assert len(index) == 250
        assert index.ids().tolist() == ids[50:].tolist()
    scores, found = here.search(queries, 20)
    others, same = there.search(queries, 20)
    assert others == pytest.approx(scores, abs=1e-4)
    if kind == "float":  # codes tie
        assert same.tolist() == found.tolist()
    with pytest.raises(SearchError, match="holds other vectors than 32 of float"):
        MilvusVectors(str(tmp_path / "v.db"), "clips", "float", 32)


def test_an_index_with_its_vectors_in_milvus(
    run: Experiment, videos: Path, tmp_path: Path, load: Callable[..., Index]
) -> None:
    pytest.importorskip("milvus_lite")
    place = str(tmp_path / "windows.db")
    made.build(run, videos, tmp_path / "index", vectors_at=place)
    made.build(run, videos, tmp_path / "plain")
    index, plain = load(tmp_path / "index", run, 4), load(tmp_path / "plain", run, 4)
    assert isinstance(index.vectors, MilvusVectors)
    for query in ("a red circle", "two squares"):
        assert [h.file for h in index.search(query, 4)] == [h.file for h in plain.search(query, 4)]
    sorted(videos.glob("*.mp4"))[0].unlink()
    made.build(run, videos, tmp_path / "index", vectors_at=place)
    assert index.refresh()
    assert len(index.vectors) == len(index) == len(plain) - 1
    index.vectors.delete(index.table.ids[:1])
    with pytest.raises(SearchError, match="bring it up to date"):
        load(tmp_path / "index", run)


def test_a_place_that_is_not_there(
    run: Experiment, videos: Path, tmp_path: Path, load: Callable[..., Index], capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("milvus_lite")
    place = tmp_path / "windows.db"
    MilvusVectors(str(place), "windows", "float", 3)
    with pytest.raises(SearchError, match="holds other vectors than"):
        made.build(run, videos, tmp_path / "index", vectors_at=str(place))
    assert not (tmp_path / "index").exists()
    made.build(run, videos, tmp_path / "index", vectors_at=f"{place}/mine")
    with pytest.raises(SearchError, match="gave no answer for the collection other"):
        len(open_vectors(f"{place}/other", "float", 3, 0, make=False))
    place.rename(tmp_path / "away.db")
    with pytest.raises(SearchError, match="does not exist: find it, or index again"):
        load(tmp_path / "index", run)
    assert not place.exists()  # nor made
    assert "Traceback" not in capsys.readouterr().err


def test_places() -> None:
    assert milvus_place("milvuss://a.b:1/c") == ("https://a.b:1", "c")
    assert milvus_place("x/y.db/clips") == ("x/y.db", "clips")
    for wrong in ("milvus://host:19530", "milvus://host/a-b", "x.db/a b"):
        with pytest.raises(ConfigError, match="letters, digits and _"):
            check_place(wrong)
    with pytest.raises(ConfigError, match="give milvus://HOST"):
        open_vectors("elsewhere", "float", 2, 1)
    with pytest.raises(SearchError, match="gave no answer"):
        open_vectors("milvus://127.0.0.1:9/clips", "float", 2, 1)
    with pytest.raises(ValueError, match=r"\(items, 3\)"):
        FaissVectors("float", 3).add(np.arange(1), np.zeros((1, 2), np.float32))
