import json
import os
import shutil
import signal
import subprocess
import sys
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from tvr_lightning.commands.main import main
from tvr_lightning.data.tools.compress import MANIFEST, compress
from tvr_lightning.data.video.frames import probe_video, read_frames
from tvr_lightning.errors import ConfigError, DataError

from ..clips import cut_file, grainy, number_of, write_clip, write_silence


def frames_of(path):
    """Number of each frame shown and its time, decoded without the suite's reader."""
    with av.open(str(path)) as file:
        return [(frame.to_ndarray(format="rgb24"), float(frame.time)) for frame in file.decode(video=0)]


def number(picture):
    height, width = picture.shape[:2]
    left, top, side = (width - min(width, height)) // 2, (height - min(width, height)) // 2, min(width, height)
    square = picture[top : top + side, left : left + side].mean(2) > 127
    rows, columns = [side // 4, side * 3 // 4], [side * c // 8 for c in (1, 3, 5, 7)]
    return sum(int(square[r, c]) << place for place, (r, c) in enumerate((r, c) for r in rows for c in columns))


def snapshot(folder: Path):
    return {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.rglob("*") if p.is_file()}


def folders(tmp_path):
    source = tmp_path / "src"
    source.mkdir()
    return source, tmp_path / "dst"


def test_frames_are_those_on_screen_at_constant_steps(tmp_path):
    source, target = folders(tmp_path)
    stamps = [0, 40, 80, 500, 540, 1500, 1540, 2900]  # milliseconds
    write_clip(source / "x.mkv", len(stamps), stamps=stamps, audio=True)
    assert compress(source, target, fps=3, short_side=64).made == 1
    found = frames_of(target / "x.mp4")
    stop = probe_video(source / "x.mkv").duration
    moments = [k / 3 for k in range(20) if k / 3 < stop - 1e-3]
    expected = [max(i for i, stamp in enumerate(stamps) if stamp / 1000 <= m + 1e-3) for m in moments]
    assert [number(picture) for picture, _ in found] == expected
    assert [t for _, t in found] == pytest.approx(moments)
    with av.open(str(target / "x.mp4")) as file:
        assert [stream.type for stream in file.streams] == ["video"]
        assert file.streams.video[0].average_rate == 3


@pytest.mark.parametrize(
    ("width", "height", "settings", "expected"),
    [
        (320, 240, {}, (64, 48)),
        (240, 320, {}, (48, 64)),
        (66, 36, {}, (66, 36)),  # smaller than asked: not upscaled
        (100, 98, {}, (48, 48)),
        (320, 240, {"rotation": 90.0}, (48, 64)),
        (160, 240, {"pixel_aspect": Fraction(2)}, (64, 48)),
        (37, 25, {"codec": "mpeg4", "container": "mp4"}, (36, 24)),
    ],
)
def test_sizes_are_even_upright_and_never_larger(tmp_path, width, height, settings, expected):
    source, target = folders(tmp_path)
    write_clip(source / "x.mp4", 6, width=width, height=height, **settings)
    compress(source, target, fps=6, short_side=48)
    probe = probe_video(target / "x.mp4")
    assert (probe.width, probe.height) == expected
    assert frames_of(target / "x.mp4")[0][0].shape == (expected[1], expected[0], 3)  # stored so, without a flag


@pytest.mark.parametrize(("rotation", "mirrored"), [(90.0, False), (-90.0, False), (180.0, False), (90.0, True)])
def test_pixels_are_what_a_player_shows(tmp_path, rotation, mirrored):
    source, target = folders(tmp_path)
    write_clip(source / "x.mp4", 12, width=128, height=96, rotation=rotation, mirrored=mirrored)
    compress(source, target, fps=12, short_side=64)
    before, after = (read_frames(f, 12, size=64).frames.float() for f in (source / "x.mp4", target / "x.mp4"))
    assert float((before - after).abs().mean()) < 6
    assert float((before - after.flip(-1)).abs().mean()) > 30


def test_ids_stay(tmp_path):
    source, target = folders(tmp_path)
    names = ["a/-dash_1.avi", "1@N00_2_b.mov.mp4", "3@N00_4_c.", "ümläut & x.MPG", "v_x.webm", "b/-dash_1.mp4"]
    for name in names:
        (source / name).parent.mkdir(exist_ok=True)
        webm = {"codec": "libvpx"} if name.endswith("webm") else {}
        write_clip(source / name, 3, container="webm" if webm else "mp4", **webm)
    (source / "notes.txt").write_text("x")
    (source / ".hidden.mp4").write_text("x")
    done = compress(source, target)
    assert done.failed == {}
    assert done.ignored == [".hidden.mp4", "notes.txt"]
    copies = {str(p.relative_to(target)) for p in target.rglob("*") if p.is_file()}
    assert copies == {
        *("a/-dash_1.mp4", "1@N00_2_b.mov.mp4", "3@N00_4_c.mp4", "ümläut & x.mp4", "v_x.mp4", "b/-dash_1.mp4"),
        MANIFEST,
    }


def test_failures_are_reported_and_the_rest_is_made(tmp_path, capsys):
    source, target = folders(tmp_path)
    write_clip(source / "good.mp4", 6)
    write_clip(source / "twin.avi", 6)
    write_clip(source / "twin.mp4", 6)
    (source / "empty.mp4").touch()
    (source / "text.mp4").write_text("<html>gone</html>" * 90)
    (source / "nowhere.mp4").symlink_to(tmp_path / "no such file")
    write_silence(source / "sound.mp4")
    cut_file(write_clip(source / "cut.mp4", 96, paint=grainy, mux={"movflags": "faststart"}))
    before = snapshot(source)
    assert main(["data", "compress", str(source), str(target), "--workers", "2"]) == 1
    printed = capsys.readouterr()
    assert "2 made" in printed.out
    for text in ("empty.mp4: the file is empty", "sound.mp4: no video stream", "cut.mp4: cut off", "text.mp4:",
                 "twin.avi: twin.mp4 has the same id", "nowhere.mp4: No such file"):  # fmt: skip
        assert f"FAILED: {text}" in printed.err
    assert sorted(p.name for p in target.iterdir()) == [MANIFEST, "good.mp4", "twin.mp4"]
    assert snapshot(source) == before


def test_a_second_call_makes_only_what_is_missing(tmp_path):
    source, target = folders(tmp_path)
    for name in "abc":
        write_clip(source / f"{name}.mp4", 6)
    compress(source, target)
    kept = (target / "a.mp4").stat().st_mtime_ns
    (target / "b.mp4").unlink()
    (target / ".b.mp4.part").write_bytes(b"half")
    later = time.time() + 10
    os.utime(source / "c.mp4", (later, later))
    done = compress(source, target)
    assert (done.made, done.skipped) == (2, 1)
    assert (target / "a.mp4").stat().st_mtime_ns == kept
    assert sorted(p.name for p in target.iterdir()) == ["a.mp4", "b.mp4", "c.mp4", MANIFEST]


def test_refusals(tmp_path):
    source, target = folders(tmp_path)
    write_clip(source / "a.mp4", 3)
    for wrong in (source, source / "small", tmp_path):
        with pytest.raises(ConfigError, match="inside one another"):
            compress(source, wrong)
    with pytest.raises(DataError, match="no such folder"):
        compress(tmp_path / "none", target)
    with pytest.raises(ConfigError, match="fps"):
        compress(source, target, fps=0)
    assert not target.exists()
    compress(source, target)
    with pytest.raises(DataError, match=r"made with fps 3\.0, not 4"):
        compress(source, target, fps=4)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(DataError, match="write its new place into"):
        compress(other, target)
    (target / MANIFEST).write_text("{")
    with pytest.raises(DataError, match="damaged"):
        compress(source, target)
    (other / "x.mp4").touch()
    with pytest.raises(DataError, match="in use by something else"):
        compress(source, other)


def blank(path, packets):
    """Overwrites the given packets of a file with zeros."""
    with av.open(str(path)) as file:
        places = [(p.pos, p.size) for p in file.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    for start, size in (places[i] for i in packets):
        data[start : start + size] = bytes(size)
    path.write_bytes(data)


def test_a_few_broken_frames_are_copied_and_told(tmp_path):
    source, target = folders(tmp_path)
    path = write_clip(source / "x.mp4", 120, options={"g": "12", "bf": "0", "sc_threshold": "0"})
    blank(path, [23])  # the last of its group: no other frame refers to it
    done = compress(source, target, fps=12, short_side=64)
    assert done.failed == {}
    assert done.patched["x.mp4"].startswith("119 of 120 frames decode (")
    shown = [number(picture) for picture, _ in frames_of(target / "x.mp4")]
    assert shown == [*range(23), 22, *range(24, 120)]
    blank(path, [12 * group + last for group in range(3) for last in (10, 11)])
    (target / "x.mp4").unlink()
    done = compress(source, target, fps=12, short_side=64)
    assert "114 of 120 frames decode" in done.patched["x.mp4"]
    blank(path, [47])
    (target / "x.mp4").unlink()
    assert "only 113 of 120 frames decode" in compress(source, target, fps=12, short_side=64).failed["x.mp4"]
    assert not (target / "x.mp4").exists()


def test_two_at_once_are_refused(tmp_path):
    import fcntl

    source, target = folders(tmp_path)
    compress(source, target)
    with (target / MANIFEST).open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DataError, match="another `tvr data compress`"):
            compress(source, target)
    assert json.loads((target / MANIFEST).read_text())["short_side"] == 224


@pytest.mark.parametrize("workers", [1, 2])
def test_ctrl_c_leaves_nothing_half_written(tmp_path, workers):
    source, target = folders(tmp_path)
    write_clip(source / "a.mp4", 500, width=320, height=240, options={"preset": "ultrafast"})
    for name in "bcd":
        shutil.copy(source / "a.mp4", source / f"{name}.mp4")
    words = [sys.executable, "-m", "tvr_lightning", "data", "compress", str(source), str(target), "--fps", "12"]
    run = subprocess.Popen(
        [*words, "--short-side", "240", "--workers", str(workers)],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(target.glob(".*.part")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(target.glob(".*.part"))
    os.killpg(run.pid, signal.SIGINT)
    _, error = run.communicate(timeout=60)
    assert run.returncode == 130, error
    assert error == "tvr: interrupted\n"
    left = {p.name for p in target.iterdir()}
    assert not any(name.endswith(".part") for name in left)
    assert len(left) < 5
    for name in left - {MANIFEST}:
        assert len(frames_of(target / name)) == 500


def test_copies_read_as_their_sources_do(tmp_path):
    source, target = folders(tmp_path)
    write_clip(source / "x.avi", 48, width=160, height=120, paint=lambda n, w, h: np.asarray(grainy(n, w, h)))
    compress(source, target, fps=3, short_side=96)
    one, other = (read_frames(p, 12, fps=1.0, size=96) for p in (source / "x.avi", target / "x.mp4"))
    assert one.times.tolist() == pytest.approx(other.times.tolist(), abs=0.05)
    rows = one.mask.nonzero()[:, 0].tolist()
    assert [number_of(one.frames[i]) for i in rows] == [number_of(other.frames[i]) for i in rows]
