"""Files from elsewhere: what they unpack to is looked at before, and letters of no language lose nothing."""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from tvr_lightning.data.stores.archives import SLACK, check_archive
from tvr_lightning.data.stores.files import write_json
from tvr_lightning.data.tools.check import inspect_file
from tvr_lightning.data.triples.corenlp import CoreNLPFiles, write_captions
from tvr_lightning.data.video.frames import read_frames
from tvr_lightning.data.word_pieces import WordPieces
from tvr_lightning.encoders.weights import load_checkpoint, read_state_dict
from tvr_lightning.errors import CheckpointError, ConfigError, DataError, DecodeError, RunError
from tvr_lightning.evaluation.code_files import Codes, load_codes, save_codes
from tvr_lightning.names import folder_below
from tvr_lightning.report.inspection import file_stem
from tvr_lightning.run.checkpoints import find_checkpoint
from tvr_lightning.run.folders import check_names
from tvr_lightning.run.gallery import Gallery, Query, read_gallery, write_gallery
from tvr_lightning.run.reading import read_columns

ZEROS = bytes(1 << 20)


def bomb(path: Path, *names: str, mib: int = 100) -> Path:
    """An archive of zeros: a thousandth of what it unpacks to."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            with archive.open(name, "w") as member:
                for _ in range(mib // len(names)):
                    member.write(ZEROS)
    return path


def test_archives_that_unpack_to_far_more_are_refused(tmp_path: Path) -> None:
    assert bomb(tmp_path / "a.ckpt", "archive/data.pkl").stat().st_size < 2e6
    for name in ("archive/data.pkl", "archive/constants.pkl"):
        path = bomb(tmp_path / "a.pt", "archive/data/0", name)
        with pytest.raises(CheckpointError, match=r"MiB on disk unpack to 100 MiB, more than 4 times as much"):
            read_state_dict(path)
    with pytest.raises(CheckpointError, match="unpack to 100 MiB"):
        find_checkpoint(tmp_path, str(bomb(tmp_path / "last.ckpt", "archive/data.pkl")), resume=True)
    with pytest.raises(DataError, match=r"unpack to 100 MiB.*tvr encode"):
        load_codes(bomb(tmp_path / "codes.npz", "text/codes.npy"))


def test_what_torch_and_numpy_write_passes(tmp_path: Path) -> None:
    state = {"x": torch.zeros(SLACK // 2)}
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    assert torch.equal(load_checkpoint(tmp_path / "a.ckpt")["state_dict"]["x"], state["x"])
    assert read_state_dict(tmp_path / "a.ckpt").keys() == state.keys()
    ids = [f"video{i}" for i in range(20_000)] + ["x" * 200]
    save_codes(tmp_path / "codes.npz", {"video": Codes.pack(torch.zeros(len(ids), 64) - 1, ids)})
    assert list(load_codes(tmp_path / "codes.npz")["video"].ids) == ids
    check_archive(Path(__file__), 1)  # no archive


@pytest.mark.parametrize("shape", [(1 << 40,), (1 << 62, 8)])
def test_an_array_that_says_it_is_larger_than_its_file(tmp_path: Path, shape: tuple[int, ...]) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(tmp_path / "codes.npz", "w") as archive:
        for name in ("codes", "bits", "ids"):
            archive.writestr(f"text/{name}.npy", head.getvalue() + b"1")
    with pytest.raises(DataError, match=r"holds no codes or is damaged"):
        load_codes(tmp_path / "codes.npz")


def test_a_tensor_of_torchscript_is_no_larger_than_its_storage(tmp_path: Path) -> None:
    class Rebuilt:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), 0, (1 << 20, 1 << 20), (0, 0), False, {})

    class Storage:
        pass

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", 1) if isinstance(value, Storage) else None

    out = io.BytesIO()
    Pickler(out, 2).dump({"x": Rebuilt()})
    path = tmp_path / "a.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", out.getvalue())
        archive.writestr("a/constants.pkl", pickle.dumps(()))
        archive.writestr("a/data/0", bytes(4))
    with pytest.raises(CheckpointError, match=r"refused.*numbers in a storage of 1"):
        read_state_dict(path)


def test_a_table_with_more_rows_than_bytes_is_refused(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "ranks.parquet"
    pq.write_table(pa.table({"rank": pa.array(np.zeros(3_000_000))}), path)
    assert path.stat().st_size < 1e5
    with pytest.raises(RunError, match=r"ranks\.parquet is damaged \(3,000,000 rows in .* bytes\)"):
        read_columns(path, ["rank"])
    pq.write_table(pa.table({"rank": [1.0, 2.0]}), path)
    assert read_columns(path, ["rank"]) == {"rank": [1.0, 2.0]}
    with pytest.raises(RunError, match=f"{tmp_path.name} has no none"):
        read_columns(tmp_path / "none", ["rank"])


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "..", ".", "", "a//b", "a\0b"])
def test_no_name_leads_out_of_the_folder_of_runs(name: str) -> None:
    with pytest.raises(ConfigError, match="not a folder below runs_dir"):
        folder_below("runs", name)
    for run_id in {name, "a/b"}:
        with pytest.raises(ConfigError, match=r"run_id is .* not a folder name"):
            check_names(SimpleNamespace(runs_dir="runs", experiment="a", run_id=run_id))
    check_names(SimpleNamespace(runs_dir="/somewhere", experiment="a/b c", run_id="-ä 1..2"))


def test_pictures_have_names_of_their_own() -> None:
    names = ["-0sXY#1", "0sXY#1", "_0sXY#1", "é", "e\u0301", "e", "हिन्दी", "हनद", "../x", "x"]
    stems = [file_stem(name) for name in names]
    assert len(set(stems)) == len(names)
    for stem in (*stems, file_stem("\udce9"), file_stem("\x1b[2J"), file_stem("…"), file_stem("क" * 60 + "ि")):
        assert stem
        assert not stem.startswith(("-", "."))
        assert "/" not in stem
        assert len(os.fsencode(stem)) <= 61


def test_paths_that_are_no_utf_8_are_read_and_those_that_cannot_be_are_named(shapes_root: Path, tmp_path: Path) -> None:
    clip = next(shapes_root.rglob("*.mp4"))
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.mp4"))
    shutil.copy(clip, path)
    assert torch.equal(read_frames(path, 4, size=32).frames, read_frames(clip, 4, size=32).frames)
    assert inspect_file(path).kind == "ok"
    for name in ("a\ud800.mp4", "a\0.mp4"):
        with pytest.raises(DecodeError, match="not a possible file name here"):
            read_frames(tmp_path / name, 4)
        assert inspect_file(tmp_path / name).kind == "undecodable"


def test_lone_surrogates_are_learnt_and_written(tmp_path: Path) -> None:
    caption = "a \ud800 dog"
    pieces = WordPieces()
    pieces.learn([caption, "a cat \udce9"])
    assert pieces([caption]).mask.sum() == pieces(["a dog"]).mask.sum() == 4  # BERT leaves lost letters out
    write_json(tmp_path / "a.json", {caption: "\udce9"})
    assert json.loads((tmp_path / "a.json").read_text()) == {caption: "\udce9"}
    query = Query("x", caption, "v\udce9", 1.0, ("v\udce9",), (True,))
    write_gallery(tmp_path / "b.json", Gallery((query,), (), {"v\udce9": None}))
    assert read_gallery(tmp_path / "b.json").queries[0].caption == caption  # type: ignore[union-attr]
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9"))
    write_captions([caption], folder)
    (listed,) = (folder / "files.list").read_bytes().splitlines()
    assert Path(os.fsdecode(listed)).is_file()


@pytest.mark.parametrize(("begin", "end"), [(1, 2), (0, 1), (3, 5)])
def test_no_token_begins_inside_a_letter(tmp_path: Path, begin: int, end: int) -> None:
    text = "😀 😀"
    (tmp_path / "a.txt").write_text(f"{text}\n", encoding="utf-8")
    token = {"characterOffsetBegin": begin, "characterOffsetEnd": end, "originalText": "😀", "word": "😀"}
    (tmp_path / "a.txt.json").write_text(json.dumps({"sentences": [{"tokens": [token], "openie": []}]}))
    if (begin, end) == (3, 5):
        assert CoreNLPFiles(tmp_path).extract([text]) == [()]
    else:
        with pytest.raises(DataError, match=r"inside a letter|is not at"):
            CoreNLPFiles(tmp_path).extract([text])
