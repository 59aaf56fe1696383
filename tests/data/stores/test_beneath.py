"""A cache that a group shares: links and foreign files that somebody plants there lead nowhere."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tvr_lightning.data.stores.beneath import file_beneath, folder_beneath
from tvr_lightning.data.stores.contents import Contents
from tvr_lightning.data.stores.files import atomic_write, write_csv, write_json
from tvr_lightning.data.stores.store import Store, key_of
from tvr_lightning.data.triples.base import Triple, TripleExtractor
from tvr_lightning.data.triples.cached import CachedTriples

KEY = key_of("entry")
TENSORS = {"x": torch.arange(8)}
SECRET = b"what the user alone may write"


class Nothing(TripleExtractor):
    """Finds no triples."""

    fingerprint = "nothing"

    def extract(self, captions: list[str]) -> list[tuple[Triple, ...]]:  # type: ignore[override]
        return [() for _ in captions]


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    path = tmp_path / "victim"
    path.write_bytes(SECRET)
    return path


@pytest.fixture
def umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "cache"
    made.mkdir()
    return made


@pytest.mark.parametrize("plant", ["symbolic", "hard"])
@pytest.mark.parametrize("name", ["incoming", "lock"])
def test_a_store_writes_through_no_link(folder: Path, victim: Path, name: str, plant: str) -> None:
    link = folder / name
    link.symlink_to(victim) if plant == "symbolic" else link.hardlink_to(victim)
    store = Store(folder, 1)
    if name == "incoming":  # what lies there is a rest of a kill: it is removed, not followed
        store.write("frames", KEY, TENSORS)
        assert torch.equal(store.read("frames", KEY)["x"], TENSORS["x"])  # type: ignore[index]
    else:
        with pytest.raises(OSError, match=r"lock (is a link|has another name).*: remove it"):
            store.write("frames", KEY, TENSORS)
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("mapped", [False, True])
def test_a_store_reads_through_no_link(folder: Path, tmp_path: Path, mapped: bool) -> None:
    other = Store(tmp_path / "other", 1)
    other.write("features", KEY, TENSORS)
    store = Store(folder, 1)
    place = store.path("features", KEY)
    place.parent.mkdir(parents=True)
    place.symlink_to(other.path("features", KEY))
    with pytest.raises(OSError, match="is a link"):
        store.read("features", KEY, mapped)
    store.write("features", KEY, TENSORS)  # takes the link's place
    assert not place.is_symlink()
    assert torch.equal(store.read("features", KEY, mapped)["x"], TENSORS["x"])  # type: ignore[index]


@pytest.mark.parametrize("depth", [0, 1])
def test_a_store_enters_no_folder_behind_a_link(folder: Path, tmp_path: Path, depth: int) -> None:
    elsewhere = tmp_path / "elsewhere"
    inside = elsewhere if depth else elsewhere / KEY.hex()[:2]
    inside.mkdir(parents=True)
    kept = inside / f"{'0' * 64}.frames"
    kept.write_bytes(bytes(1 << 20))
    store = Store(folder, 2e-4)
    place = store.path("frames", KEY).parents[1 - depth]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(elsewhere)
    for act in (lambda: store.write("frames", KEY, TENSORS), lambda: store.read("frames", KEY)):
        with pytest.raises(OSError, match="is a link or a file where a folder belongs"):
            act()
    store.write("features", KEY, {"x": torch.zeros(20_000, dtype=torch.uint8)})  # makes room, but not there
    assert list(inside.iterdir()) == [kept]


def test_the_folder_itself_may_be_a_link(tmp_path: Path, folder: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(folder)
    Store(link, 1).write("frames", KEY, TENSORS)
    assert Store(folder, 1).read("frames", KEY)


@pytest.mark.parametrize("plant", ["symbolic", "hard"])
def test_hashes_of_files_are_kept_through_no_link(
    folder: Path, victim: Path, monkeypatch: pytest.MonkeyPatch, plant: str
) -> None:
    monkeypatch.setattr("tvr_lightning.data.stores.contents.SETTLE_S", 0)
    table = folder / "fingerprints"
    table.symlink_to(victim) if plant == "symbolic" else table.hardlink_to(victim)
    said: list[OSError] = []
    video = folder.parent / "video"
    video.write_bytes(b"frames")
    assert Contents(folder, said.append).digest(video)
    assert said
    assert victim.read_bytes() == SECRET


@pytest.mark.parametrize("suffix", ["", "-journal", "-wal"])
def test_triples_are_kept_through_no_link(
    folder: Path, victim: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    cached = CachedTriples(Nothing(), folder)
    cached.path.parent.mkdir()
    if suffix:
        assert cached.extract(["a dog"]) == [()]
    cached.path.with_name(cached.path.name + suffix).symlink_to(victim)
    assert cached.extract(["a cat"]) == [()]
    assert "is a link or no regular file" in caplog.text
    assert victim.read_bytes() == SECRET


def test_pipes_and_folders_in_the_place_of_files_stop_nobody(folder: Path) -> None:
    os.mkfifo(folder / "lock")
    (folder / "frames").write_bytes(b"")
    with pytest.raises(OSError, match="is not a regular file"), file_beneath(folder, "lock", os.O_RDWR):
        pass
    with pytest.raises(OSError, match="is a link or a file"), folder_beneath(folder, ["frames"], make=True):
        pass


@pytest.mark.usefixtures("umask")
@pytest.mark.parametrize(("mask", "file_mode", "folder_mode"), [(0o002, 0o664, 0o775), (0o077, 0o600, 0o700)])
def test_files_have_the_permissions_that_the_umask_leaves(
    tmp_path: Path, mask: int, file_mode: int, folder_mode: int
) -> None:
    os.umask(mask)
    home = tmp_path / "home"
    home.mkdir()
    write_json(home / "metrics.json", {})
    with atomic_write(home / "made_anew") as temporary:
        temporary.unlink()
        temporary.touch(0o640)  # as a library may
    with (home / "a.csv").open("w") as file:
        write_csv(file, ["a"], [])
    Store(home, 1).write("frames", KEY, TENSORS)
    CachedTriples(Nothing(), home).extract(["a dog"])
    for path in home.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (folder_mode if path.is_dir() else file_mode), path


def test_a_long_name_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)
    write_json(path, [1])
    assert list(tmp_path.iterdir()) == [path]
