"""Indexes that come from elsewhere: every value is looked at, and nothing but the index's own files is touched."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.search import made
from tvr_lightning.errors import DataError, SearchError, TVRError
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.index import Index, load_index
from tvr_lightning.search.manifest import LARGEST, MANIFEST

Load = Callable[..., Index]
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def whole(run: Experiment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of six videos in two shards, beside the videos."""
    place = tmp_path_factory.mktemp("whole")
    (place / "videos").mkdir()
    for record in run.data.split_of("test").records[:6]:
        shutil.copy(record.video_path, place / "videos")
    made.build(run, place / "videos", place / "index")
    return place


@pytest.fixture
def forged(whole: Path, tmp_path: Path) -> Path:
    """A copy of that index to be changed."""
    shutil.copytree(whole, tmp_path / "own")
    return tmp_path / "own" / "index"


def change_manifest(folder: Path, change: Change) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    change(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def shard(**facts: Any) -> Change:
    return lambda c: c["shards"][0].update(facts)


MANIFESTS: list[tuple[Change, str]] = [
    (shard(deleted="12"), "deleted of shard 000000 is '12'"),
    (shard(deleted=[3]), "deleted of shard 000000 is a list"),
    (shard(deleted=[-1]), "deleted of shard"),
    (shard(deleted=[10**30]), "deleted of shard"),
    (shard(deleted=[1.0]), "deleted of shard"),
    (shard(deleted=[True]), "deleted of shard"),
    (shard(deleted=[1, 1]), "each row stands once"),
    (shard(deleted=None), "deleted of shard"),
    (shard(rows=float("inf")), "rows is inf"),
    (shard(rows=float("nan")), "rows is nan"),
    (shard(rows="3"), "rows is '3'"),
    (shard(rows=10**40), "rows is 1000"),
    (shard(rows=10**12), "more than its tensors have bytes"),
    (shard(rows=0), "rows is 0"),
    (shard(name="../../q"), "a shard's name is"),
    (shard(name=".000000"), "a shard's name is"),
    (shard(name="000000\n"), "a shard's name is"),
    (shard(name=7), "name is 7"),
    (lambda c: c["shards"].append(dict(c["shards"][0])), "names a shard twice"),
    (lambda c: c.update(shards={}), "shards is an object"),
    (lambda c: c.update(shards=["000000"]), "shards is a list"),
    (lambda c: c.update(next_shard=0), "next_shard, a number that no shard has yet, is 0"),
    (lambda c: c.update(next_id=5), "next_id is 5, which a window has already"),
    (lambda c: c.update(next_id="6"), "next_id is '6'"),
    (lambda c: c.update(next_id=-1), "next_id is -1"),
    (lambda c: c.update(next_id=10**25), "next_id is"),
    (lambda c: c.update(root=None), "root is None"),
    (lambda c: c.update(root="videos"), "root is 'videos'"),
    (lambda c: c.update(root="/a\0b"), "root is"),
    (lambda c: c.update(source="x"), "source is 'x'"),
    (lambda c: c.update(source={"path": "x"}), "source is an object"),
    (lambda c: c["source"].update(path=["x"]), "path is a list"),
    (lambda c: c.update(vectors_at=3), "vectors_at is 3"),
    (lambda c: c.update(vectors_at="elsewhere"), "vectors_at is 'elsewhere'"),
    (lambda c: c.update(window="ten"), "window is 'ten'"),
    (lambda c: c.update(stride=0), "stride is 0"),
    (lambda c: c.update(stride=10**400), "stride is"),
    (lambda c: c.update(dtype="float64"), "dtype is 'float64'"),
    (lambda c: c.update(kind=["float"]), "kind is a list"),
    (lambda c: c.update(kind="code"), "its vectors are torch.float32"),
    (lambda c: c.update(width=3), "its vectors are torch.float32"),
    (lambda c: c.update(width=0), "width is 0"),
    (lambda c: c.update(format="9"), "format is '9'"),
    (lambda c: c.update(format=None), "format is None"),
    (lambda c: c.update(format=True), "format is True"),
    (lambda c: c.update(unreadable=[3]), "unreadable is a list"),
    (lambda c: c.update(unreadable=[{"file": "a", "content": "zz", "reason": ""}]), "content is 'zz'"),
    (lambda c: c.update(suite=1), "suite is 1"),
]


@pytest.mark.parametrize(("change", "message"), MANIFESTS, ids=[message for _, message in MANIFESTS])
def test_a_forged_manifest(change: Change, message: str, forged: Path, run: Experiment) -> None:
    change_manifest(forged, change)
    with pytest.raises(SearchError) as refused:
        load_index(forged)
    assert message in str(refused.value)
    assert MANIFEST in str(refused.value) or "shards" in str(refused.value)
    assert "make the index again" in str(refused.value)
    before = sorted(forged.rglob("*"))
    with pytest.raises(SearchError):
        made.build(run, forged.parent / "videos", forged)
    assert set(before) <= set(forged.rglob("*"))  # the writer refuses it too, and has removed nothing


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[" * 100_000, "damaged (nested deeper"),
        (b'{"a":' * 100_000, "damaged (nested deeper"),
        (b"9" * 5000, "is damaged"),
        (b"\xff\xfe", "is damaged"),
        (b"", "is damaged"),
        (b"null", "not an index of videos"),
        (b"[]", "not an index of videos"),
        (b'{"name": "site"}', "not an index of videos"),
    ],
)
def test_a_manifest_that_is_none(content: bytes, message: str, forged: Path) -> None:
    (forged / MANIFEST).write_bytes(content)
    with pytest.raises(SearchError) as refused:
        load_index(forged)
    assert message in str(refused.value)


def test_only_regular_files_are_read(forged: Path, run: Experiment) -> None:
    file = forged / MANIFEST
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(SearchError, match="a device, a pipe or a folder"):
        load_index(forged)
    file.unlink()
    file.symlink_to("/dev/zero")
    with pytest.raises(SearchError, match="a device, a pipe or a folder"):
        load_index(forged)
    file.unlink()
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST + 1)
    with pytest.raises(SearchError, match="is larger than 256 MiB"):
        load_index(forged)
    pipe = forged.parent / "list"
    os.mkfifo(pipe)
    for listed in (pipe, Path("/dev/zero")):
        with pytest.raises(DataError, match="a device, a pipe or a folder"):
            made.build(run, listed, forged.parent / "another")


@pytest.mark.parametrize("place", ["x" * 5000, "/" + "x/" * 3000, "/nonexistent"])
def test_a_run_that_cannot_be(place: str, forged: Path) -> None:
    change_manifest(forged, lambda c: c["source"].update(path=place))
    with pytest.raises(TVRError, match=r"which is gone|there is no run"):
        load_index(forged).search("a circle")


@pytest.mark.parametrize("suffix", ["parquet", "safetensors"])
def test_shards_are_regular_files(suffix: str, forged: Path) -> None:
    file = forged / "shards" / f"000000.{suffix}"
    content = file.rename(forged / "content")
    os.mkfifo(file)
    with pytest.raises(SearchError, match="it is not a regular file"):
        load_index(forged)
    file.unlink()
    file.symlink_to(content)
    with pytest.raises(SearchError, match="it is not a regular file"):
        load_index(forged)


def test_what_may_not_be_read_is_not_called_damaged(forged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Any, *arguments: Any, **settings: Any) -> int:
        if str(path).endswith(MANIFEST):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *arguments, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with pytest.raises(SearchError) as refused:
            load_index(forged)
    assert "cannot be read: Permission denied" in str(refused.value)
    assert "remove" not in str(refused.value)


def column(name: str, values: list[Any], kind: Any) -> Callable[[Any], Any]:
    return lambda t: t.set_column(t.schema.get_field_index(name), name, pa.array(values[: len(t)], kind))


TABLES: list[tuple[Callable[[Any], Any], str]] = [
    (column("id", [0, 0, 2], pa.int64()), "two of its windows have one number"),
    (column("id", [3, 4, 5], pa.int64()), "two of its windows have one number"),
    (column("id", [0, -1, 2], pa.int64()), "a negative number"),
    (column("id", [0, None, 2], pa.int64()), "id is int64 with 1 nulls"),
    (column("id", ["0", "1", "2"], pa.string()), "id is string"),
    (column("id", [0, 1, 2], pa.int32()), "id is int32"),
    (column("file", ["a", "b", "c"], pa.string()), "file is string"),
    (column("file", [b"a", None, b"c"], pa.binary()), "file is binary with 1 nulls"),
    (column("file", [b"a", b"", b"c"], pa.binary()), "the file '' leads out"),
    (column("file", [b"a", b"../../etc/passwd", b"c"], pa.binary()), "leads out of the index's folder"),
    (column("file", [b"a", b"b/../../c", b"c"], pa.binary()), "leads out of the index's folder"),
    (column("file", [b"a", b"b\0", b"c"], pa.binary()), "leads out of the index's folder"),
    (column("duration", [1.0, float("inf"), 1.0], pa.float64()), "a duration is negative or no number"),
    (column("duration", [1.0, float("nan"), 1.0], pa.float64()), "a duration is negative or no number"),
    (column("duration", [1.0, -1.0, 1.0], pa.float64()), "a duration is negative or no number"),
    (column("start", [0.0, 0.0, 0.0], pa.float64()), "outside its video"),
    (column("end", [1e300] * 3, pa.float64()), "outside its video"),
    (column("content", [b"a", b"b", b"c"], pa.binary()), "a content is not a hash"),
    (column("content", [None] * 3, pa.binary()), "content is binary with 3 nulls"),
    (lambda t: t.drop_columns(["start"]), "start"),
    (lambda t: t.slice(1), "2 rows instead of 3"),
]


@pytest.mark.parametrize(("change", "message"), TABLES, ids=range(len(TABLES)))
def test_a_forged_table(change: Callable[[Any], Any], message: str, forged: Path) -> None:
    file = forged / "shards" / "000000.parquet"
    pq.write_table(change(pq.ParquetFile(file).read()), file)
    with pytest.raises(SearchError) as refused:
        load_index(forged)
    assert message in str(refused.value)
    assert "make the index again" in str(refused.value)


@pytest.mark.parametrize("picture", [b"<svg onload=alert(1)>", b"", None, b"\xff\xd8\xff" + bytes(9 << 20)])
def test_a_forged_picture(picture: bytes | None, forged: Path) -> None:
    file = forged / "shards" / "000000.parquet"
    pq.write_table(column("picture", [picture] * 3, pa.binary())(pq.ParquetFile(file).read()), file)
    with pytest.raises(SearchError, match=r"000000\.parquet is damaged.*a picture"):
        load_index(forged).picture(0)


TENSORS: list[tuple[Callable[[dict[str, torch.Tensor]], object], str]] = [
    (lambda t: t.pop("vector"), "other rows than index.json says"),
    (lambda t: t.update(vector=t["vector"][:2]), "other rows than index.json says"),
    (lambda t: t.update(frame_mask=torch.tensor(True)), "other rows than index.json says"),
    (lambda t: t.update(vector=t["vector"][:, :4]), "its vectors are torch.float32 (3, 4)"),
    (lambda t: t.update(vector=t["vector"].to(torch.int8)), "its vectors are torch.int8"),
    (lambda t: t.update(vector=t["vector"].bfloat16()), "its vectors are torch.bfloat16"),
    (lambda t: t["vector"][1].fill_(torch.nan), "vectors that are not finite"),
    (lambda t: t["vector"][1, 0].fill_(torch.inf), "vectors that are not finite"),
    (lambda t: t.update(frames=t["frames"][:, :1].contiguous()), "it holds {"),
    (lambda t: t.update(frames=t["frames"].long()), "it holds {"),
    (lambda t: t.update(more=t["vector"].clone()), "it holds {"),
]


@pytest.mark.parametrize(("change", "message"), TENSORS, ids=range(len(TENSORS)))
def test_forged_tensors(change: Callable[[dict[str, torch.Tensor]], object], message: str, forged: Path) -> None:
    file = forged / "shards" / "000001.safetensors"
    tensors = {name: x.clone() for name, x in load_file(file).items()}
    change(tensors)
    save_file({name: x.contiguous() for name, x in tensors.items()}, str(file))
    with pytest.raises(SearchError) as refused:
        load_index(forged)
    assert message in str(refused.value)
    assert "000001.safetensors is damaged" in str(refused.value) or "another method" in str(refused.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(frames=t["frames"][:, :, :8]), "holds features of another method"),
        (lambda t: t.update(frames=t["frames"].long()), "holds features of another method"),
        (lambda t: t.pop("frame_mask"), "holds features of another method"),
        (lambda t: t["frames"].fill_(torch.nan), "features that give no scores"),
    ],
)
def test_features_of_another_method(change: Any, message: str, forged: Path, run: Experiment, load: Load) -> None:
    for file in (forged / "shards").glob("*.safetensors"):
        tensors = {name: x.clone() for name, x in load_file(file).items()}
        change(tensors)
        save_file({name: x.contiguous() for name, x in tensors.items()}, str(file))
    with pytest.raises(SearchError, match=message):
        load(forged, run).search("a circle")


def test_codes_are_of_one_and_minus_one(shapes_root: Path, tmp_path: Path, whole: Path) -> None:
    run = made.untrained(next(n for n in made.METHODS if n.startswith("sptch")), shapes_root, tmp_path)
    made.build(run, whole / "videos", tmp_path / "index")
    load_index(tmp_path / "index")
    file = tmp_path / "index" / "shards" / "000000.safetensors"
    tensors = {name: x.clone() for name, x in load_file(file).items()}
    tensors["vector"][0, 0] = 0
    save_file(tensors, str(file))
    with pytest.raises(SearchError, match=r"codes besides -1 and \+1"):
        load_index(tmp_path / "index")


def part(**facts: Any) -> str:
    shards = [{"name": "000002-1", "rows": 3, "deleted": []}]
    return json.dumps(
        {"shards": shards, "unreadable": [], "kind": "float", "width": 64, "next_id": 9, "next_shard": 3, **facts}
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "rank-1.json is damaged"),
        ("[" * 100_000, "rank-1.json is damaged"),
        ("[]", "it is not an object"),
        (part(shards=[{"name": "../../q", "rows": 3, "deleted": []}]), "a shard's name is '../../q'"),
        (part(shards=[{"name": "000002", "rows": 3, "deleted": []}]), "shards that rank 1 did not write"),
        (part(shards=[{"name": "000002-2", "rows": 3, "deleted": []}]), "shards that rank 1 did not write"),
        (part(next_shard=1), "next_shard"),
        (part(unreadable=3), "unreadable is 3"),
        (part(kind="x"), "kind is 'x'"),
        (part(), "000002-1"),  # files that are not there
    ],
)
def test_a_forged_part_of_another_process(content: str, message: str, forged: Path, run: Experiment) -> None:
    before = (forged / MANIFEST).read_bytes()
    (forged / "rank-1.json").write_text(content)
    with pytest.raises(SearchError) as refused:
        made.build(run, forged.parent / "videos", forged)
    assert message in str(refused.value)
    assert (forged / MANIFEST).read_bytes() == before
    assert len(load_index(forged)) == 6


def test_files_of_others_stay(forged: Path, run: Experiment) -> None:
    """In an index, what no writer has written; elsewhere, everything."""
    shards = forged / "shards"
    kept = ["notes.txt", "holiday.parquet", ".000009.parquet.swp", "000009.parquet.bak", "x.safetensors"]
    for name in kept:
        (shards / name).write_text("mine")
    (shards / "000009.parquet").mkdir()
    (shards / "000009.parquet" / "mine").touch()
    (shards / "sub").mkdir()
    (forged / "rank-one.json").write_text("mine")
    for name in ("000008.parquet", "000008-3.safetensors", f".000008.parquet.{'0' * 16}"):
        (shards / name).write_text("left by a kill")
    (forged / f".{MANIFEST}.{'a' * 16}").write_text("left by a kill")
    made.build(run, forged.parent / "videos", forged)
    left = {p.name for p in shards.iterdir()}
    assert left == {
        *kept,
        "sub",
        "000009.parquet",
        *(f"00000{n}.{s}" for n in (0, 1) for s in ("parquet", "safetensors")),
    }
    assert (shards / "000009.parquet" / "mine").exists()
    assert (forged / "rank-one.json").exists()
    assert not (forged / f".{MANIFEST}.{'a' * 16}").exists()


@pytest.mark.parametrize(
    "names",
    [["config.yaml"], ["a.txt"], ["shards/thesis.pdf"], ["shards/sub/"], [".git/"], ["rank-1.json", "x"],
     ["index.json"], ["lists.safetensors"]],
)  # fmt: skip
def test_a_folder_of_others_is_refused(names: list[str], whole: Path, tmp_path: Path, run: Experiment) -> None:
    place = tmp_path / "mine"
    for name in names:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        (place / name).mkdir() if name.endswith("/") else (place / name).write_text("{}")
    before = {p: p.stat().st_mtime_ns for p in place.rglob("*")}
    with pytest.raises(SearchError, match=r"holds other files|not an index of videos"):
        made.build(run, whole / "videos", place)
    assert {p: p.stat().st_mtime_ns for p in place.rglob("*")} == before


def test_linked_shards_are_not_followed(forged: Path, run: Experiment, tmp_path: Path) -> None:
    elsewhere = (forged / "shards").rename(tmp_path / "elsewhere")
    (elsewhere / "000007.parquet").write_text("mine")
    (forged / "shards").symlink_to(elsewhere)
    with pytest.raises(SearchError, match="is a link"):
        made.build(run, forged.parent / "videos", forged)
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "shards").symlink_to(elsewhere)
    with pytest.raises(SearchError, match="is a link"):
        made.build(run, forged.parent / "videos", tmp_path / "new")
    assert (elsewhere / "000007.parquet").exists()


def test_lists_of_another_form_are_passed_over(forged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAISS would read beyond what is there."""
    from safetensors.numpy import save_file as save

    from tvr_lightning.search import vectors

    monkeypatch.setattr(vectors, "EXACT_UP_TO", 2)
    monkeypatch.setattr(vectors, "IVF_LISTS", 2)
    ids = load_index(forged).table.ids
    width = load_index(forged).manifest.width
    good = {"centres": np.zeros((2, width), np.float32), "ids": ids, "lists": np.zeros(6, np.int32)}
    for wrong in (
        {"centres": np.zeros((2, 1), np.float32)}, {"centres": np.zeros((1, width), np.float32)},
        {"centres": np.full((2, width), np.nan, np.float32)}, {"lists": np.zeros(1, np.int32)},
        {"lists": np.full(6, 2, np.int32)}, {"lists": np.zeros((6, 1), np.int32)}, {"ids": ids[::-1].copy()}, {},
    ):  # fmt: skip
        save({**good, **wrong}, str(forged / vectors.LISTS))
        index = load_index(forged).vectors
        assert isinstance(index, vectors.FaissVectors)
        assert index.exact == bool(wrong)
