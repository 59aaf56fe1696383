"""Searching finds what the evaluator finds; an index follows its videos and survives what happens to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.data.clips import write_clip
from tests.kinds import few_fast
from tests.search import made
from tvr_lightning.errors import ConfigError, DataError, DecodeError, SearchError
from tvr_lightning.evaluation import score_all
from tvr_lightning.run.load import Experiment
from tvr_lightning.search import vectors as vectors_module
from tvr_lightning.search.folder import MERGED, Shards, writing
from tvr_lightning.search.index import Index, load_index
from tvr_lightning.search.manifest import MANIFEST, read_manifest

Load = Callable[..., Index]


@pytest.mark.parametrize("name", few_fast(made.METHODS))
def test_all_pairs_are_the_evaluators(name: str, shapes_root: Path, tmp_path: Path, load: Load) -> None:
    run = made.untrained(name, shapes_root, tmp_path)
    encoded = made.encoded_test(run)
    split = run.data.split_of("test")
    scores = score_all(run.model, encoded.texts, encoded.videos)
    listed = tmp_path / "list.txt"
    listed.write_text("".join(f"{r.video_path}\n" for r in split.records))
    built = made.build(run, listed, tmp_path / "index")
    assert (built.videos, built.windows, built.added, built.unreadable) == (len(split.records),) * 3 + ((),)
    index = load(tmp_path / "index", run)
    answers = index.search(split.captions.captions, len(split.records))
    assert isinstance(answers[0], list)
    for row, hits in enumerate(answers):
        own = {str(r.video_path): float(scores[row, v]) for v, r in enumerate(split.records)}
        assert {hit.file: hit.score for hit in hits} == pytest.approx(own, abs=1e-5)
        found = [hit.score for hit in hits]
        assert found == sorted(found, reverse=True)
    # in two stages: the best of those that vectors propose, by the same scores
    some = load(tmp_path / "index", run, 3)
    vectors = run.model.vectors(encoded.texts).float() @ run.model.vectors(encoded.videos).float().T
    for row, hits in enumerate(some.search(split.captions.captions, 2)):
        if not run.model.shared_space:
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in answers[row][:2]], abs=1e-5)
            continue
        best = vectors[row].sort(descending=True).values
        if best[2] - best[3] < 1e-6:  # which of several equal vectors is proposed means nothing
            continue
        proposed = [str(split.records[v].video_path) for v in vectors[row].topk(3).indices.tolist()]
        whole = [hit for hit in answers[row] if hit.file in proposed]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in whole[:2]], abs=1e-5)


def test_an_index_follows_its_videos(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    folder = tmp_path / "index"
    first = made.build(run, videos, folder)
    names = {hit.file for hit in load(folder, run).search("a circle", 100)}
    assert len(names) == first.videos == first.added
    assert any(name.startswith("more/") for name in names)
    seen: list[int] = []
    original = run.model.encode_video
    run.model.encode_video = lambda video: seen.append(len(video)) or original(video)  # type: ignore
    try:
        again = made.build(run, videos, folder)
        assert (again.added, again.removed, again.moved, seen) == (0, 0, 0, [])
        gone, renamed, changed = sorted(p for p in videos.glob("*.mp4"))[:3]
        gone.unlink()
        renamed.rename(videos / "more" / "other name.mp4")
        write_clip(changed, 20)
        write_clip(videos / "новый 视频 -1.mkv", 20)
        later = made.build(run, videos, folder)
        assert (later.added, later.removed, later.moved, sum(seen)) == (2, 1, 1, 2)
    finally:
        del run.model.encode_video  # type: ignore
    index = load(folder, run)
    found = {hit.file for hit in index.search("a circle", 100)}
    assert found == {p.relative_to(videos).as_posix() for p in videos.rglob("*.*")}
    for window in index.table.ids.tolist():
        assert index.picture(window).startswith(b"\xff\xd8")
    fresh = tmp_path / "fresh"
    made.build(run, videos, fresh)
    want = {hit.file: hit.score for hit in load(fresh, run).search("a red square", 100)}
    assert {hit.file: hit.score for hit in index.search("a red square", 100)} == pytest.approx(want, abs=1e-5)


def test_what_was_encoded_before_a_kill_stays(
    run: Experiment, videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, done = tmp_path / "index", 0
    original = type(run.model).encode_video

    def encode(self: object, video: object) -> object:
        nonlocal done
        done += 1
        if done == 2:
            raise SystemExit  # nothing on the way catches it
        return original(self, video)  # type: ignore

    with monkeypatch.context() as patch:
        patch.setattr(type(run.model), "encode_video", encode)
        with pytest.raises(SystemExit):
            made.build(run, videos, folder)
    assert read_manifest(folder).size == 3
    (folder / "shards" / "000001.parquet").write_bytes(b"torn")  # what it was writing
    (folder / "shards" / ".000001.safetensors.0123456789abcdef").write_bytes(b"torn")
    built = made.build(run, videos, folder)
    assert (built.added, built.windows) == (built.videos - 3, built.videos)
    named = {f"{s.name}.{suffix}" for s in read_manifest(folder).shards for suffix in ("parquet", "safetensors")}
    assert {p.name for p in (folder / "shards").iterdir()} == named


def test_long_videos_have_windows(run: Experiment, tmp_path: Path, load: Load) -> None:
    (tmp_path / "long").mkdir()
    write_clip(tmp_path / "long" / "a.mp4", 120, fps=12)  # ten seconds
    write_clip(tmp_path / "long" / "b.mp4", 24, fps=12)
    built = made.build(run, tmp_path / "long", tmp_path / "index", window=4.0, stride=2.0)
    assert (built.videos, built.windows) == (2, 5)
    index = load(tmp_path / "index", run)
    table = index.table
    spans = {(f, s, e) for f, s, e in zip(table.files, table.starts.tolist(), table.ends.tolist(), strict=True)}
    assert {(s, e) for f, s, e in spans if f == "a.mp4"} == {(0.0, 4.0), (2.0, 6.0), (4.0, 8.0), (6.0, 10.0)}
    hits = [hit for hit in index.search("numbers", 10) if hit.file == "a.mp4"]
    assert all(a.end <= b.start or b.end <= a.start for a in hits for b in hits if a is not b)
    assert next(hit for hit in index.search("numbers") if hit.file == "b.mp4").end == pytest.approx(2, abs=0.1)


def test_an_example_finds_itself(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    made.build(run, videos, tmp_path / "index")
    index = load(tmp_path / "index", run)
    clip = sorted(videos.glob("*.mp4"))[0]
    hits = index.search_video(clip, 3)
    assert (hits[0].file, hits[0].rank, len(hits)) == (clip.name, 1, 3)
    assert hits[0].score == pytest.approx(1, abs=1e-5)
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[:200])
    with pytest.raises(DecodeError, match=r"broken\.mp4"):
        index.search_video(broken)


def test_what_cannot_be_read_is_kept_in_a_list(run: Experiment, videos: Path, tmp_path: Path) -> None:
    (videos / "text.mp4").write_text("not a video")
    (videos / "empty.webm").touch()
    (videos / "notes.txt").write_text("no video by its name")
    built = made.build(run, videos, tmp_path / "index")
    assert {u.file for u in built.unreadable} == {"text.mp4", "empty.webm"}
    assert built.others == 1
    again = made.build(run, videos, tmp_path / "index")
    assert again.unreadable == built.unreadable
    assert again.added == 0
    (videos / "text.mp4").unlink()
    write_clip(videos / "empty.webm", 12, codec="libvpx-vp9")
    later = made.build(run, videos, tmp_path / "index")
    assert (later.added, later.unreadable) == (1, ())


def test_only_what_cannot_be_read_is_no_index(run: Experiment, tmp_path: Path) -> None:
    (tmp_path / "videos").mkdir()
    with pytest.raises(DataError, match="it is empty"):
        made.build(run, tmp_path / "videos", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    (tmp_path / "videos" / "a.txt").touch()
    with pytest.raises(DataError, match=r"it holds a\.txt"):
        made.build(run, tmp_path / "videos", tmp_path / "index")
    (tmp_path / "videos" / "a.mp4").write_text("x")
    with pytest.raises(SearchError, match="none of 1 videos can be read"):
        made.build(run, tmp_path / "videos", tmp_path / "index")
    assert not (tmp_path / "index").exists()
    with writing(tmp_path / "index"):
        Shards(tmp_path / "index").path("000000", "parquet").touch()
    with pytest.raises(SearchError, match="nothing was finished"):
        load_index(tmp_path / "index")


def test_shards_become_few(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    run.data.eval_batch_size, before = 1, run.data.eval_batch_size
    try:
        for number in range(MERGED):
            write_clip(videos / f"more{number}.mp4", 3 + number)
        built = made.build(run, videos, tmp_path / "index")
    finally:
        run.data.eval_batch_size = before
    manifest = read_manifest(tmp_path / "index")
    assert manifest.size == built.windows > MERGED
    assert len(manifest.shards) < MERGED
    made.build(run, videos, tmp_path / "whole")
    one, other = load(tmp_path / "index", run), load(tmp_path / "whole", run)
    want = {hit.file: hit.score for hit in other.search("a square", 100)}
    assert {hit.file: hit.score for hit in one.search("a square", 100)} == pytest.approx(want, abs=1e-5)


def test_half_the_size(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    made.build(run, videos, tmp_path / "half", dtype="float16")
    made.build(run, videos, tmp_path / "whole")
    half, whole = load(tmp_path / "half", run), load(tmp_path / "whole", run)
    want = {hit.file: hit.score for hit in whole.search("a square", 100)}
    assert {hit.file: hit.score for hit in half.search("a square", 100)} == pytest.approx(want, abs=5e-2)
    assert half.features(np.arange(2)).frames.dtype == torch.float32
    with pytest.raises(SearchError, match="--dtype float16, not float32"):
        made.build(run, videos, tmp_path / "half")


def test_one_writer_at_a_time(run: Experiment, videos: Path, tmp_path: Path) -> None:
    made.build(run, videos, tmp_path / "index")
    with writing(tmp_path / "index"), pytest.raises(SearchError, match="another process is writing"):
        made.build(run, videos, tmp_path / "index")


def test_other_weights_are_refused(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    made.build(run, videos, tmp_path / "index")
    weight = next(run.model.parameters())
    with torch.no_grad():
        weight += 1e-3
    try:
        with pytest.raises(SearchError, match="made with other weights"):
            made.build(run, videos, tmp_path / "index")
        with pytest.raises(SearchError, match="made with other weights"):
            load(tmp_path / "index", run).search("a circle")
    finally:
        with torch.no_grad():
            weight -= 1e-3


def test_another_folder_is_refused(run: Experiment, videos: Path, tmp_path: Path) -> None:
    made.build(run, videos, tmp_path / "index")
    write_clip(tmp_path / "elsewhere.mp4", 4)
    (tmp_path / "list").write_text("elsewhere.mp4\n")
    with pytest.raises(SearchError, match="follows one folder"):
        made.build(run, tmp_path / "list", tmp_path / "index")
    moved = videos.rename(tmp_path / "moved")
    assert made.build(run, moved, tmp_path / "index").added == 0
    assert read_manifest(tmp_path / "index").root == str(moved)


@pytest.mark.parametrize("harm", ["later", "json", "gone", "torn", "elsewhere", "kind", "rows"])
def test_a_damaged_index(harm: str, run: Experiment, videos: Path, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    made.build(run, videos, folder)
    file = folder / MANIFEST
    content = json.loads(file.read_text())
    shard = Shards(folder).path(content["shards"][0]["name"], "safetensors")
    message = "damaged"
    if harm == "later":
        content |= {"format": 99, "suite": "9.0"}
        message = "written by a later version of the suite"
    elif harm == "elsewhere":
        content["shards"][0]["name"] = "../../videos"
    elif harm == "kind":
        content["kind"] = "strange"
    elif harm == "rows":
        content["shards"][0]["rows"] += 1
    elif harm == "gone":
        shard.unlink()
    elif harm == "torn":
        shard.write_bytes(shard.read_bytes()[:-100])
    file.write_text("{" if harm == "json" else json.dumps(content))
    with pytest.raises(SearchError, match=message):
        load_index(folder)


def test_queries(run: Experiment, videos: Path, tmp_path: Path, load: Load) -> None:
    made.build(run, videos, tmp_path / "index")
    index = load(tmp_path / "index", run)
    assert len(index.search("красный круг 红色", 2)) == 2
    assert [len(hits) for hits in index.search(["a", "b"], 2)] == [2, 2]
    assert index.search([], 2) == []
    with pytest.warns(UserWarning, match="its end is cut off"):
        index.search("word " * 200, 1)
    with pytest.raises(DataError, match="query 2 of 2 is empty"):
        index.search(["a", " "])
    with pytest.raises(ConfigError, match="-k is 0"):
        index.search("a", 0)
    with pytest.raises(SearchError, match="no window 12345"):
        index.picture(12345)


def test_an_index_that_is_rewritten_meanwhile(
    run: Experiment, videos: Path, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    made.build(run, videos, folder)
    index = load(folder, run)
    assert not index.refresh()
    # a state whose shards have been merged away since
    old = read_manifest(folder)
    stale = replace(old, shards=(replace(old.shards[0], name="gone"), *old.shards[1:]))
    from tvr_lightning.search import index as module

    states = iter([stale])
    monkeypatch.setattr(module, "read_manifest", lambda f: next(states, None) or read_manifest(f))
    assert len(load_index(folder)) == len(index)
    sorted(videos.glob("*.mp4"))[0].unlink()
    made.build(run, videos, folder)
    assert index.refresh()
    assert len(index.search("a", 100)) == len(index) == old.size - 1


def test_lists_of_a_large_index(
    run: Experiment, videos: Path, tmp_path: Path, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vectors_module, "EXACT_UP_TO", 2)
    monkeypatch.setattr(vectors_module, "IVF_LISTS", 2)
    made.build(run, videos, tmp_path / "index")
    index = load(tmp_path / "index", run, 4)
    assert isinstance(index.vectors, vectors_module.FaissVectors)
    assert not index.vectors.exact
    assert index.vectors.ids().tolist() == index.table.ids.tolist()
    monkeypatch.undo()
    exact = load(tmp_path / "index", run, 4)
    assert [h.file for h in index.search("a circle", 3)] == [h.file for h in exact.search("a circle", 3)]
