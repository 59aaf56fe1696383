"""`tvr index` and `tvr search` as a user runs them, on a run that was trained a little."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from tests.small_runs import run_arguments
from tvr_lightning.commands.main import main
from tvr_lightning.search.manifest import read_manifest

Tell = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def trained(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(["fit", *run_arguments(shapes_root, runs, "--run_id=a")]) == 0
    return runs / "clip4clip_shapes" / "a"


@pytest.fixture(scope="module")
def videos(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    for path in sorted((shapes_root / "videos").iterdir())[:6]:
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def tell(capsys: pytest.CaptureFixture[str]) -> Tell:
    def run(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = main([str(w) for w in words])
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


@pytest.fixture(scope="module")
def index(trained: Path, videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("index") / "videos.index"
    assert main(["index", str(trained), str(videos), str(folder)]) == 0
    return folder


def test_from_a_run_to_hits(trained: Path, videos: Path, tmp_path: Path, tell: Tell) -> None:
    folder = tmp_path / "videos.index"
    (videos / "broken.mp4").write_text("x")
    try:
        code, out, err = tell("index", trained, videos, folder, "--workers", 0, "--batch_size", 2)
    finally:
        (videos / "broken.mp4").unlink()
    assert code == 0
    assert out == f"{folder}: 6 videos, 6 windows; 6 encoded now; 1 unreadable\n"
    assert "cannot be read, in whole or in part: 1 video\n" in err
    assert "broken.mp4" in err
    code, out, err = tell("search", folder, "a red circle", "-k", 3, "--json")
    hits = json.loads(out)
    assert code == 0
    assert [h["rank"] for h in hits] == [1, 2, 3]
    assert all(Path(h["path"]).is_file() and h["start"] == 0 < h["end"] for h in hits)
    code, out, err = tell("search", folder, "красный круг", "--sheet", tmp_path / "hits.png", "--candidates", "all")
    assert code == 0
    assert out.splitlines()[0].split() == ["rank", "score", "time", "file"]
    assert len(out.splitlines()) == 7
    with Image.open(tmp_path / "hits.png") as sheet:
        assert sheet.format == "PNG"
        assert sheet.width > 800
    code, out, err = tell("search", folder, "--video", videos / "video0.mp4", "-k", 1)
    assert code == 0
    assert "video0.mp4" in out


def test_a_run_that_moved(trained: Path, index: Path, tmp_path: Path, tell: Tell) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.move(trained, elsewhere)
    try:
        code, _, err = tell("search", index, "a circle")
        assert code == 1
        assert "which is gone" in err
        assert "--run=FOLDER" in err
        assert tell("search", index, "a circle", "--run", elsewhere)[0] == 0
    finally:
        shutil.move(elsewhere, trained)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", "{index}"], 2, "say what to search for"),
        (["search", "{index}", "a", "--video", "x.mp4"], 2, "say what to search for"),
        (["search", "{index}", "  "], 2, "the query is empty"),
        (["search", "{index}", "a", "-k", "0"], 2, "-k is 0"),
        (["search", "{index}", "a", "--candidates", "some"], 2, "it must be a number of at least 1, or all"),
        (["search", "{index}", "a", "--sheet", "/nowhere/a.png"], 2, "there is no folder /nowhere"),
        (["search", "{index}", "--video", "nothing.mp4"], 1, "nothing.mp4"),
        (["search", "{videos}", "a"], 1, "no index in"),
        (["search", "{index}", "a", "--run", "{videos}"], 1, "is not a run"),
        (["index", "{run}", "nowhere", "i"], 1, "no folder of videos and no list at nowhere"),
        (["index", "{run}", "{run}", "i"], 1, "no videos in"),
        (["index", "{run}", "{videos}", "i", "--window", "-1"], 2, "--window is -1"),
        (["index", "{run}", "{videos}", "i", "--stride", "0"], 2, "--stride is 0"),
        (["index", "{run}", "{videos}", "i", "--stride", "20"], 2, "would never be found"),
        (["index", "{run}", "{videos}", "i", "--index", "pinecone"], 2, "give milvus://HOST"),
        (["index", "{run}", "{videos}", "i", "--window", "1e-300"], 2, "at least 0.1 seconds"),
        (["index", "{run}", "{videos}", "i", "--stride", "1e-9"], 2, "at least 0.1 seconds"),
        (["index", "{run}", "{videos}", "i", "--batch_size", "0"], 2, "the batch size is 0"),
        (["index", "{run}", "{videos}", "i", "--batch_size", "9" * 40], 2, "at most 1,048,576"),
        (["index", "{run}", "{videos}", "i", "--workers", "1000000"], 2, "at most 1,024"),
        (["index", "{run}", "{videos}", "i", "--workers", "-1"], 2, "at least 0"),
        (["index", "{run}", "{videos}", "{videos}"], 1, "is not an index and holds other files"),
        (["index", "{run}", "a\0b", "i"], 2, "contains a zero byte"),
        (["search", "{index}", "a\0b"], 2, "contains a zero byte"),
        (["search", "{index}", "\x01\x02"], 2, "the query is empty"),
        (["search", "{index}", "\u200b"], 2, "the query is empty"),
        (["search", "{index}", "a", "--candidates", "9" * 5000], 2, "it must be a number of at least 1, or all"),
        (["search", "{index}", "a", "--candidates", "٣"], 2, "it must be a number of at least 1, or all"),
        (["index", "x" * 5000, "{videos}", "i"], 2, "there is no run and no experiment"),
        (["index", "{run}", "x" * 5000, "i"], 1, "File name too long"),
        (["index", "{run}", "{videos}", "x" * 5000], 1, "File name too long"),
        (["search", "x" * 5000, "a"], 1, "File name too long"),
        (["search", "{index}", "--video", "x" * 5000], 1, "File name too long"),
        (["search", "{index}", "a", "--sheet", "x" * 5000], 1, "File name too long"),
        (["search", "{index}", "a", "--run", "/nonexistent"], 2, "there is no run and no experiment /nonexistent"),
        (["index", "clip4clip_shapes", "{videos}", "i"], 2, "yet to be trained"),
        (["index", "{run}", "{videos}", "{index}", "--window", "3"], 1, "was made with --window 10.0, not 3.0"),
        (["index", "{run}", "{videos}", "{run}/config.yaml"], 1, "cannot write an index to"),
    ],
)
def test_wrong_calls(
    words: Sequence[str], code: int, message: str, trained: Path, videos: Path, index: Path, tell: Tell,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    found, _, err = tell(*(w.format(run=trained, videos=videos, index=index) for w in words))
    assert (found, message in err) == (code, True), err
    assert err.startswith("tvr: ")
    assert "Traceback" not in err
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["search", "none", "a dog"], 1, "no index in none"),
        (["search", "damaged", "a dog"], 1, "is damaged"),
        (["index", "clip_zero_shot_shape", "videos", "i"], 2, "did you mean clip_zero_shot_shapes"),
        (["index", "clip4clip_shapes", "videos", "i"], 2, "such as runs/clip4clip_shapes/NAME"),
        (["index", "clip_zero_shot_shapes", "nowhere", "i"], 1, "no folder of videos and no list at nowhere"),
    ],
)
def test_wrong_names_are_answered_without_slow_imports(
    words: list[str], code: int, message: str, tmp_path: Path
) -> None:
    for file in ("videos/a.mp4", "damaged/index.json"):
        (tmp_path / file).parent.mkdir()
        (tmp_path / file).touch()
    script = (
        "import sys; from tvr_lightning.commands.main import main\n"
        f"code = main({words!r}); sys.exit(99 if 'torch' in sys.modules else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, cwd=tmp_path, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    "words",
    [["search", "i", "a", "--run", ""], ["search", "i", "a", "--sheet", ""], ["search", "", "a"],
     ["index", "", "v", "i"], ["index", "r", "", "i"], ["index", "r", "v", " "],
     ["index", "r", "v", "i", "--index", ""], ["serve", ""], ["scores", "r", "--out", ""], ["dashboard", "--out", ""],
     ["compare", "--runs_dir", ""], ["data", "shapes", "--root", ""], ["data", "check", "--config", ""]],
)  # fmt: skip
def test_empty_values_are_refused(words: Sequence[str], capsys: pytest.CaptureFixture[str]) -> None:
    """An empty path is the working directory to Python; a script's empty variable means nothing of the kind."""
    with pytest.raises(SystemExit) as left:
        main(words)
    assert left.value.code == 2
    assert "the value is empty: give one" in capsys.readouterr().err


@pytest.mark.slow
def test_any_word_is_a_query(index: Path, tell: Tell) -> None:
    for query in ("caf\udce9", "\x1b[2J a", "[/x] [b]", "a" * 100_000, "$x$"):
        code, out, err = tell("search", index, query, "-k", 10**30, "--json")
        assert code == 0, err
        assert len(json.loads(out)) == 6


def test_names_are_text(trained: Path, videos: Path, tmp_path: Path, tell: Tell) -> None:
    """In tables, JSON and pictures; the names that bytes make too."""
    names = [
        b"a [abc] [b].mp4",
        b"[!x].mp4",
        b"caf\xe9.mp4",
        b"esc \x1b[31m \xc2\x9b.mp4",
        b":dog:.mp4",
    ]
    (tmp_path / "odd").mkdir()
    for name, path in zip(names, sorted(videos.glob("*.mp4")), strict=False):
        shutil.copy(path, os.fsencode(tmp_path / "odd") + b"/" + name)
    assert tell("index", trained, tmp_path / "odd", tmp_path / "i", "--workers", 0)[0] == 0
    code, out, _ = tell("search", tmp_path / "i", "a circle", "--sheet", tmp_path / "a.png")
    assert code == 0
    for shown in ("a [abc] [b].mp4", "[!x].mp4", r"caf\udce9.mp4", r"esc \x1b[31m \x9b.mp4", ":dog:.mp4"):
        assert shown in out
    hits = json.loads(tell("search", tmp_path / "i", "a circle", "--json")[1])
    assert {os.fsencode(hit["file"]) for hit in hits} == set(names)


def test_another_place_of_vectors_is_seen_before_anything_is_encoded(
    trained: Path, videos: Path, tmp_path: Path, tell: Tell, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pymilvus")
    from tvr_lightning.search import builder

    monkeypatch.setattr(builder._Builder, "encode", lambda *_: pytest.fail("it was encoded"))
    for place in ("milvus://127.0.0.1:9/clips", tmp_path / "nowhere" / "a.db"):
        code, _, err = tell("index", trained, videos, tmp_path / "i", "--index", place)
        assert code == 1
        assert err.splitlines()[-1].startswith(("tvr: Milvus at", "tvr: cannot keep vectors in"))
        assert not (tmp_path / "i").exists()


def test_a_list_of_files(trained: Path, videos: Path, tmp_path: Path, tell: Tell) -> None:
    shutil.copy(videos / "video1.mp4", tmp_path / "no suffix")
    (tmp_path / "list.txt").write_text(f"# mine\n{videos / 'video0.mp4'}\n\nno suffix\nmissing.mp4\n")
    code, out, err = tell("index", trained, tmp_path / "list.txt", tmp_path / "i", "--workers", 0)
    assert code == 0
    assert "2 videos, 2 windows" in out
    assert "missing.mp4" in err


@pytest.mark.slow
def test_kills_lose_a_batch_at_most(trained: Path, shapes_root: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "tvr_lightning", "index", str(trained), str(shapes_root / "videos"),
             str(tmp_path / "i"), "--batch_size", "2", "--workers", "1", "--device", "cpu"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        process = subprocess.Popen(words, env=environment, start_new_session=True)
        file, size = tmp_path / "i" / "index.json", -1
        until = time.monotonic() + 120
        while time.monotonic() < until and process.poll() is None:
            if file.exists() and size < 0:
                size = read_manifest(tmp_path / "i").size
            if size >= 0 and read_manifest(tmp_path / "i").size > size:
                break
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert read_manifest(tmp_path / "i").size > 0
    subprocess.run(words, env=environment, check=True)
    assert read_manifest(tmp_path / "i").size == len(list((shapes_root / "videos").iterdir()))


@pytest.mark.slow
def test_several_processes_make_one_index(trained: Path, shapes_root: Path, tmp_path: Path) -> None:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m",
             "tvr_lightning", "index", str(trained), str(shapes_root / "videos")]  # fmt: skip
    subprocess.run(
        [*start, str(tmp_path / "two"), "--batch_size", "3", "--workers", "0"],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True, timeout=280,
    )  # fmt: skip
    assert main(["index", str(trained), str(shapes_root / "videos"), str(tmp_path / "one")]) == 0
    from tvr_lightning.search.index import load_index

    two, one = load_index(tmp_path / "two", candidates=None), load_index(tmp_path / "one", candidates=None)
    assert sorted(two.table.files) == sorted(one.table.files)
    assert len(set(two.table.ids.tolist())) == len(two)
    want = {hit.file: hit.score for hit in one.search("a circle", 100)}
    assert {hit.file: hit.score for hit in two.search("a circle", 100)} == pytest.approx(want, abs=1e-5)
