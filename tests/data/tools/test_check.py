import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.annotations.activitynet import ActivityNet
from tvr_lightning.data.annotations.msvd import MSVD
from tvr_lightning.data.tools.check import check_dataset, inspect_file
from tvr_lightning.data.video.frames import probe_video
from tvr_lightning.errors import ConfigError, DataError, DecodeError

from ..clips import cut_file, grainy, write_clip, write_silence
from ..layouts import write_json, write_lines

IDS = {
    "train": ["good", "-dash", "missing", "empty", "text"],
    "val": ["cut", "cut_header", "other_extension", "space d"],
    "test": ["sound", "twin", "folder"],
}


def plant(root: Path) -> Path:
    """Writes an MSVD folder in which nearly everything is wrong; returns its videos."""
    for split, ids in IDS.items():
        write_lines(root / f"{split}_list.txt", ids)
    write_json(root / "captions.json", {i: ["a caption", "another"] for ids in IDS.values() for i in ids})
    videos = root / "videos"
    videos.mkdir()
    for number, name in enumerate(["good.mp4", "-dash.mp4", "space d.mp4", "other_extension.mpg"]):
        write_clip(videos / name, 6 + number)
    (videos / "empty.mp4").touch()
    (videos / "text.mp4").write_text("<html>Video unavailable</html>\n" * 50)
    cut_file(write_clip(videos / "cut.mp4", 24, paint=grainy))
    cut_file(
        write_clip(videos / "cut_header.mp4", 96, paint=grainy, mux={"movflags": "faststart"}, options={"g": "12"})
    )
    write_silence(videos / "sound.mp4")
    shutil.copy(videos / "good.mp4", videos / "twin.mp4")
    (videos / "folder.mp4").mkdir()
    (videos / "notes.txt").write_text("nobody lists me")
    return videos


def experiment(path: Path, root: Path) -> Path:
    write_json(
        path,
        {
            "data": {
                "annotations": {
                    "class_path": "tvr_lightning.data.annotations.msvd.MSVD",
                    "init_args": {"root": str(root), "captions": "captions.json"},
                }
            }
        },
    )
    return path


def listed(check, kind):
    return {entry["id"]: entry.get("reason", "") for entry in check.lists[kind]}


@pytest.mark.parametrize("full", [False, True])
def test_every_planted_fault_is_reported(tmp_path, full):
    videos = plant(tmp_path)
    check = check_dataset(MSVD(tmp_path, "captions.json"), full=full, workers=1)
    assert listed(check, "missing").keys() == {"missing", "other_extension", "folder"}
    similar = {entry["id"]: entry["similar"] for entry in check.lists["missing"]}
    assert similar == {"missing": [], "other_extension": ["other_extension.mpg"], "folder": ["folder.mp4"]}
    undecodable = listed(check, "undecodable")
    assert undecodable.keys() == {"empty", "text", "cut", "sound"}
    assert "0 bytes" in undecodable["empty"]
    assert "1 audio stream" in undecodable["sound"]
    assert not any(str(videos) in reason for reason in undecodable.values())
    damaged = listed(check, "damaged")
    assert damaged.keys() == {"cut_header"}
    assert "the header promises 8.0 s" in damaged["cut_header"]
    assert check.lists["duplicates"] == [
        {
            "videos": [{"split": "train", "id": "good"}, {"split": "test", "id": "twin"}],
            "files": [str(videos / "good.mp4"), str(videos / "twin.mp4")],
        }
    ]
    unlisted = {Path(entry["file"]).name for entry in check.lists["unlisted"]}
    assert unlisted == {"folder.mp4", "notes.txt", "other_extension.mpg"}
    counts = {
        s.name: (s.listed, s.found, s.missing, s.undecodable, s.damaged, s.duplicates, s.complete) for s in check.splits
    }
    assert counts == {
        "train": (5, 4, 1, 2, 0, 1, False),
        "validation": (4, 3, 1, 1, 1, 0, False),
        "test": (3, 2, 1, 1, 0, 1, False),
    }
    assert not check.complete


def test_verdicts_agree_with_what_training_decodes(tmp_path):
    for path in plant(tmp_path).glob("*.m*"):
        for full in (False, True):
            try:
                probe_video(path, full)
            except DecodeError:
                fails = True
            else:
                fails = False
            verdict = inspect_file(path, full)
            # a file that is cut off gives its first frame; only the check says in both forms that it is
            assert (verdict.kind != "ok") == (fails or path.name == "cut_header.mp4"), (path.name, verdict)


def test_broken_frames_are_found_by_a_full_check_only(tmp_path):
    path = write_clip(tmp_path / "x.mp4", 48, paint=grainy, options={"g": "12", "bf": "0"})
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 3000] = bytes(3000)
    path.write_bytes(data)
    assert inspect_file(path).kind == "ok"
    verdict = inspect_file(path, full=True)
    assert verdict.kind == "damaged"
    assert "48 frames decode" in verdict.reason


@pytest.mark.parametrize("name", ["a.avi", "a.webm", "a.mkv", "late.mp4", "raw.h264", "variable.mp4", "fragments.mp4"])
def test_sound_files_of_every_kind_are_ok(tmp_path, name):
    settings = {
        "a.webm": {"codec": "libvpx", "options": {"b": "500k"}},
        "late.mp4": {"stamps": [5000 + 80 * i for i in range(30)]},
        "variable.mp4": {"stamps": [i * i * 20 for i in range(30)]},
        "fragments.mp4": {"mux": {"movflags": "frag_keyframe+empty_moov"}, "options": {"g": "12"}},
    }.get(name, {})
    path = write_clip(tmp_path / name, 30, **settings)
    assert inspect_file(path) == inspect_file(path, full=True) == ("ok", "")


def test_a_cut_avi_is_damaged(tmp_path):
    path = cut_file(write_clip(tmp_path / "x.avi", 96, paint=grainy, codec="mpeg4"))
    assert inspect_file(path).kind == "damaged"


def test_one_split_and_links_and_prefixes(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    write_clip(videos / "v_a.mp4", 4)
    write_clip(videos / "b.mp4", 5)
    (videos / "v_link.mp4").symlink_to(videos / "b.mp4")
    paragraph = {"duration": 1.0, "timestamps": [[0, 1]], "sentences": ["Text."]}
    write_json(tmp_path / "train.json", {"v_a": paragraph})
    write_json(tmp_path / "val_1.json", {"v_b": paragraph, "v_link": paragraph})
    reader = ActivityNet(tmp_path)
    check = check_dataset(reader, ["test"], workers=1)
    assert [(s.name, s.listed, s.found, s.duplicates) for s in check.splits] == [("test", 2, 2, 2)]
    assert check.complete
    assert check.lists["unlisted"] == []  # train's files are somebody's
    with pytest.raises(DataError, match="no split 'validation'"):
        check_dataset(reader, ["validation"])


def test_annotations_that_cannot_be_read_make_their_split_incomplete(tmp_path):
    plant(tmp_path)
    (tmp_path / "val_list.txt").unlink()
    check = check_dataset(MSVD(tmp_path, "captions.json"), workers=1)
    errors = {split.name: split.error for split in check.splits}
    assert errors["train"] is None
    assert "val_list.txt" in errors["validation"]
    assert check.lists["unlisted"] == []
    assert any("not looked for" in note for note in check.notes)


def test_command_prints_and_writes_lists(tmp_path, capsys, monkeypatch):
    root = tmp_path / "data"
    root.mkdir()
    plant(root)
    before = sorted(root.rglob("*"))
    monkeypatch.chdir(tmp_path)
    config = experiment(tmp_path / "x.yaml", root)
    assert main(["data", "check", "--config", str(config), "--workers", "1"]) == 1
    assert sorted(tmp_path.iterdir()) == [root, config]  # it looks, and writes where it is asked to
    assert "lists in" not in capsys.readouterr().out
    lists = tmp_path / "lists"
    assert main(["data", "check", "--config", str(config), "--workers", "1", "--out", str(lists)]) == 1
    printed = capsys.readouterr().out
    for text in ("missing (3):", "train missing: no ", "damaged (1):", "INCOMPLETE: train, validation, test"):
        assert text in printed
    assert sorted(p.stem for p in lists.iterdir()) == sorted(
        [
            "summary",
            "missing",
            "undecodable",
            "damaged",
            "without_captions",
            "in_training",
            "repeats",
            "duplicates",
            "unlisted",
            "errors",
        ]
    )
    summary = json.loads((lists / "summary.json").read_text())
    assert [split["missing"] for split in summary["splits"]] == [1, 1, 1]
    assert {entry["id"] for entry in json.loads((lists / "undecodable.json").read_text())} == {
        *("empty", "text", "cut", "sound")
    }
    assert sorted(root.rglob("*")) == before


def test_command_on_a_complete_split_and_another_root(tmp_path, capsys):
    root = tmp_path / "data"
    root.mkdir()
    videos = plant(root)
    shutil.rmtree(videos)
    videos.mkdir()
    for number, name in enumerate(IDS["train"]):
        write_clip(videos / f"{name}.avi", 4 + number)
    config = experiment(tmp_path / "x.yaml", tmp_path / "elsewhere")
    words = ["data", "check", "--config", str(config), "--split", "train", "--out", str(tmp_path / "lists")]
    assert main([*words, f"--data.annotations.root={root}"]) == 0
    assert "complete: train" in capsys.readouterr().out
    assert json.loads((tmp_path / "lists" / "missing.json").read_text()) == []
    assert main([*words, f"--data.annotations.rot={root}"]) == 2
    assert "did you mean root" in capsys.readouterr().err


def test_workers_find_the_same(tmp_path):
    plant(tmp_path)
    reader = MSVD(tmp_path, "captions.json")
    one, two = check_dataset(reader, workers=1), check_dataset(reader, workers=2)
    assert one.lists == two.lists
    with pytest.raises(ConfigError, match="--workers is 0"):
        check_dataset(reader, workers=0)


def test_work_imports_no_torch():
    modules = "tvr_lightning.data.tools.check, tvr_lightning.data.tools.compress, tvr_lightning.data.tools.stats"
    modules += ", tvr_lightning.config.catalogue, tvr_lightning.commands.data, sys"
    code = f"import {modules}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_file_without_permission(tmp_path):
    path = write_clip(tmp_path / "x.mp4", 4)
    path.chmod(0)
    assert inspect_file(path) == ("undecodable", "Permission denied")


def test_distractors_and_relevance_are_looked_at(tmp_path):
    plant(tmp_path)
    reader = MSVD(tmp_path, "captions.json")
    (tmp_path / "noise").mkdir()
    shutil.copy(tmp_path / "videos" / "good.mp4", tmp_path / "noise" / "other.mp4")
    (tmp_path / "noise" / "broken.mp4").write_bytes(b"no video")
    (tmp_path / "right.csv").write_text("query,video\nnobody#0,good\n")
    check = check_dataset(reader, workers=1, distractors=tmp_path / "noise", relevance=tmp_path / "right.csv")
    rows = {split.name: split for split in check.splits}
    assert (rows["distractors"].listed, rows["distractors"].undecodable) == (2, 1)
    assert rows["distractors"].without_captions == 0
    assert "no caption 'nobody#0'" in (rows["relevance"].error or "")
    missing = check_dataset(reader, workers=1, distractors=tmp_path / "none")
    assert "there is no" in ({s.name: s.error for s in missing.splits}["distractors"] or "")
    assert "distractors" not in {s.name for s in check_dataset(reader, ("train",), workers=1).splits}
