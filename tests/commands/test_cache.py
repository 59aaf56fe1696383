"""`tvr cache`: what is kept is counted and pruned; nothing outside, nothing of others', nothing in use."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tvr_lightning.commands.main import main
from tvr_lightning.data.stores import caches
from tvr_lightning.data.stores.store import Store, key_of
from tvr_lightning.data.stores.use import GRACE_S, IN_USE, TURNS, mark_use, used_since

DAY = 86400

DATABASE = f"triples/{'a' * 32}.sqlite"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A cache that nobody uses: two entries of frames, 40 and 5 days old, one of features, 20, and the other parts."""
    folder = tmp_path / "cache"
    for kind, name, days in (("frames", "old", 40), ("frames", "new", 5), ("features", "mid", 20)):
        store = Store(folder, 1)
        store.started = int(time.time()) - days * DAY
        store.write(kind, key_of(name), {"x": torch.zeros(9000)})
    del store
    (folder / "triples").mkdir()
    with sqlite3.connect(folder / DATABASE) as file:
        file.execute("CREATE TABLE triples (key BLOB PRIMARY KEY, triples TEXT)")
    file.close()
    (folder / "fingerprints").write_bytes(b"x" * 64)
    (folder / "wordnet").mkdir()
    (folder / "wordnet/index.noun").write_text("dog")
    (folder / "wordnet/data.noun").write_text("dog")
    for name in (DATABASE, "fingerprints", "wordnet/index.noun", "wordnet/data.noun"):
        os.utime(folder / name, (0, time.time() - 10 * DAY))
    return folder


@pytest.fixture
def cache(folder: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `tvr cache` over it; gives the exit code and what was said."""

    def cache(*words: str) -> tuple[int, str]:
        code = main(["cache", *words, "--cache_dir", str(folder)])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return cache


def kept(folder: Path) -> set[str]:
    """Parts of the files that are there, each as often as it has files."""
    files = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    counts: dict[str, int] = {}
    for file in files:
        if file.name not in (TURNS, IN_USE):
            counts[file.parts[0]] = counts.get(file.parts[0], 0) + 1
    return {f"{part} {count}" for part, count in counts.items()}


ALL = {"frames 2", "features 1", "triples 1", "fingerprints 1", "wordnet 2"}


def test_what_lies_there_is_shown(cache: Callable[..., tuple[int, str]], folder: Path) -> None:
    code, said = cache("--json")
    assert code == 0
    parts = json.loads(said)["parts"]
    assert {f"{part} {facts['files']}" for part, facts in parts.items()} == ALL == kept(folder)
    blocks = sum(path.stat().st_blocks for path in (folder / "frames").rglob("*.frames"))
    assert parts["frames"]["bytes"] == 512 * blocks > 72000
    assert time.time() - parts["frames"]["last_used"] == pytest.approx(5 * DAY, abs=60)
    code, said = cache()
    assert code == 0
    assert "decoded frames" in said
    assert "5 days ago" in said
    assert "written 10 days ago" in said


def test_a_folder_that_is_not_there_is_empty(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["cache"], ["cache", "prune", "--part", "frames"]):
        assert main([*words, "--cache_dir", str(tmp_path / "none")]) == 0
    out = capsys.readouterr().out
    assert "which is not there yet" in out
    assert "0 entries of 0.0 MiB removed" in out
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("words", "left"),
    [
        (["--older-than", "30d"], {"frames 1", "features 1", "triples 1", "fingerprints 1", "wordnet 2"}),
        (["--older_than", "2w"], {"frames 1", "triples 1", "fingerprints 1", "wordnet 2"}),
        (["--older-than", "2w", "--part", "features"], {"frames 2", "triples 1", "fingerprints 1", "wordnet 2"}),
        (["--part", "frames", "--part", "triples"], {"features 1", "fingerprints 1", "wordnet 2"}),
        (["--part", "wordnet"], {"frames 2", "features 1", "triples 1", "fingerprints 1"}),
        (["--max-size", "0K"], {"wordnet 2"}),
        (["--max-size", "1G"], ALL),
        (
            ["--max-size", "50K", "--part", "frames", "--part", "features"],
            {"frames 1", "triples 1", "fingerprints 1", "wordnet 2"},
        ),
        (["--max-size", "0K", "--older-than", "30d"], {"frames 1", *ALL} - {"frames 2"}),
    ],
)  # fmt: skip
def test_pruning(cache: Callable[..., tuple[int, str]], folder: Path, words: list[str], left: set[str]) -> None:
    code, said = cache("prune", *words, "--dry_run")
    assert (code, kept(folder)) == (0, ALL)
    would = said.replace(" would be removed", " removed")
    assert cache("prune", *words) == (0, would)
    assert kept(folder) == left
    assert cache("prune", *words)[1].split(": ")[1].startswith("0 entries")


def test_the_store_goes_on_after_pruning(cache: Callable[..., tuple[int, str]], folder: Path) -> None:
    assert cache("prune", "--part", "frames")[0] == 0
    size = (72000 + 200) * 2
    store = Store(folder, size / 2**30)  # what the lock's file had noted would leave no room
    store.write("frames", key_of("other"), {"x": torch.ones(9000)})
    found = store.read("frames", key_of("other"))
    assert found is not None
    assert found["x"].all()


def test_no_link_is_followed_and_no_other_s_file_goes(
    cache: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    (outside / "ab").mkdir(parents=True)
    name = "ab" + "0" * 62 + ".frames"
    for file in (outside / name, outside / "ab" / name, outside / "a.sqlite", outside / "index.noun"):
        file.write_text("mine")
    (folder / "frames/ab").symlink_to(outside)
    some = next(folder.glob("frames/??/*.frames")).parent
    (some / name).symlink_to(outside / name)
    (some / "notes.txt").write_text("mine")
    (folder / f"triples/{'b' * 32}.sqlite").symlink_to(outside / "a.sqlite")
    (folder / "wordnet/index.verb").symlink_to(outside / "index.noun")
    for own in ("mine.txt", "triples/diary.sqlite", "wordnet/notes.txt"):
        (folder / own).write_text("mine")
    code, said = cache("prune", "--max-size", "0K", *(word for part in caches.PARTS for word in ("--part", part)))
    assert code == 0, said
    assert [file.read_text() for file in outside.rglob("*") if file.is_file()] == ["mine"] * 4
    assert kept(folder) == {"frames 1", "mine.txt 1", "triples 1", "wordnet 1"}
    assert (some / "notes.txt").exists()
    assert (some / name).is_symlink()


@pytest.mark.parametrize("part", ["frames", "triples", "wordnet"])
def test_a_part_that_is_a_link_is_refused(
    cache: Callable[..., tuple[int, str]], folder: Path, tmp_path: Path, part: str
) -> None:
    (folder / part).rename(tmp_path / "moved")
    (folder / part).symlink_to(tmp_path / "moved")
    before = sorted((tmp_path / "moved").rglob("*"))
    code, said = cache("prune", "--part", part)
    assert code == 1
    assert "is a link or a file where a folder belongs" in said
    assert sorted((tmp_path / "moved").rglob("*")) == before


@pytest.fixture
def running(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has read the new frames."""
    code = (
        "import sys, time; from tvr_lightning.data.stores.store import Store, key_of\n"
        f"store = Store({str(folder)!r}, 1); assert store.read('frames', key_of('new')); print('ready', flush=True)\n"
        "time.sleep(120)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_what_a_running_process_uses_stays(
    cache: Callable[..., tuple[int, str]], folder: Path, running: subprocess.Popen[str]
) -> None:
    code, said = cache("prune", "--max-size", "0K", "--part", "frames", "--part", "features", "--part", "fingerprints")
    assert code == 0
    assert kept(folder) == {"frames 1", "triples 1", "fingerprints 1", "wordnet 2"}
    assert "2 entries" in said
    assert "stay: a running process uses them" in said
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert cache("prune", "--part", "frames", "--part", "fingerprints")[0] == 0
    assert kept(folder) == {"triples 1", "wordnet 2"}


def test_the_first_of_those_at_work_counts(tmp_path: Path) -> None:
    assert used_since(tmp_path) is None
    handles = [mark_use(tmp_path, second) for second in (300, 100, 200)]
    assert None not in handles
    assert used_since(tmp_path) == 100
    os.close(handles[1])  # type: ignore[arg-type]
    assert used_since(tmp_path) == 200
    child = os.fork()
    if not child:  # holds what it was forked with
        time.sleep(60)
        os._exit(0)
    for handle in (handles[0], handles[2]):
        os.close(handle)  # type: ignore[arg-type]
    assert used_since(tmp_path) == 200
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert used_since(tmp_path) is None


def test_where_nothing_tells_what_runs_use_nothing_goes(
    cache: Callable[..., tuple[int, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(fcntl, "F_OFD_SETLK")
    assert mark_use(folder, 1) is None
    before = kept(folder)
    code, said = cache("prune", "--part", "frames")
    assert (code, kept(folder)) == (1, before)
    assert "this system does not tell what runs use it" in said
    assert cache()[0] == 0


def test_a_store_marks_as_long_as_it_is_there(folder: Path) -> None:
    store = Store(folder, 1)
    assert used_since(folder) is None
    assert store.read("frames", key_of("new"))
    assert used_since(folder) == store.started
    del store
    assert used_since(folder) is None


def test_what_was_used_shortly_before_a_run_began_is_its_own(
    cache: Callable[..., tuple[int, str]], folder: Path
) -> None:
    handle = mark_use(folder, int(time.time()) - 5 * DAY + GRACE_S // 2)
    assert handle is not None
    try:
        assert cache("prune", "--part", "frames")[0] == 0
        assert "frames 1" in kept(folder)
    finally:
        os.close(handle)


def test_a_database_that_is_written_stays(cache: Callable[..., tuple[int, str]], folder: Path) -> None:
    file = sqlite3.connect(folder / DATABASE, isolation_level=None)
    file.execute("BEGIN IMMEDIATE")
    try:
        code, said = cache("prune", "--part", "triples")
        assert (code, "triples 1" in kept(folder)) == (0, True)
        assert "1 entry" in said
    finally:
        file.rollback()
        file.close()
    assert cache("prune", "--part", "triples")[0] == 0
    assert "triples 1" not in kept(folder)


def test_a_broken_database_and_its_journal_go(cache: Callable[..., tuple[int, str]], folder: Path) -> None:
    (folder / DATABASE).write_text("no database, but long enough to be taken for one" * 30)
    (folder / f"{DATABASE}-journal").write_text("x")
    (folder / f"triples/{'a' * 32}.lock").write_text("")
    assert cache("prune", "--part", "triples")[0] == 0
    assert not [*(folder / "triples").iterdir()]


def test_what_cannot_be_removed_is_named(
    cache: Callable[..., tuple[int, str]], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(caches.os, "unlink", refuse)
    code, said = cache("prune", "--part", "features")
    assert code == 1
    assert "1 could not be removed: features/" in said
    assert "Permission denied" in said
    assert kept(folder) == ALL


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["prune"], "say what is to go"),
        (["prune", "--json", "--part", "frames"], "--json is of `tvr cache`"),
        (["--part", "frames"], "tvr cache prune --part"),
        (["--older-than", "3d"], "tvr cache prune --older-than"),
        (["--dry_run"], "tvr cache prune --dry_run"),
        (["prune", "--older-than", "30"], "'30' is not a number with a unit, such as 3h, 3d, 3w"),
        (["prune", "--max-size", "10X"], "such as 3K, 3M, 3G, 3T"),
        (["prune", "--part", "videos"], "invalid choice: 'videos'"),
    ],
)
def test_wrong_calls(folder: Path, words: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = main(["cache", *words, "--cache_dir", str(folder)])
    except SystemExit as stop:
        code = stop.code  # type: ignore[assignment]
    assert code == 2
    assert text in capsys.readouterr().err
    assert kept(folder) == ALL


def test_nothing_slow_is_imported() -> None:
    code = (
        "import sys; from tvr_lightning.commands.main import main; main(['cache', '--json']); "
        "print([m for m in ('torch', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_folder_that_is_not_there_is_said_to_be_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "cahce"
    assert main(["cache", "prune", "--part", "frames", "--dry_run", "--cache_dir", str(missing)]) == 0
    assert "cahce, which is not there: 0 entries of 0.0 MiB would be removed" in capsys.readouterr().out
    assert not missing.exists()
