"""The embedded dataset: layout, determinism, replacement, captions and minimal pairs."""

from __future__ import annotations

import csv
import json
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.synthetic import shapes
from tvr_lightning.synthetic.captions import ADJECTIVES, LONE, NOUNS, VERBS, WAYS, write_caption
from tvr_lightning.synthetic.plan import Plan, plan_shapes, probe_counts, split_sizes
from tvr_lightning.synthetic.rendering import pose, render
from tvr_lightning.synthetic.scenes import (
    BACKGROUNDS,
    CATEGORIES,
    COLOURS,
    EVENTS,
    FPS,
    OPPOSITE,
    PROBE_KINDS,
    SHAPES,
    SIDE,
    SIZES,
    Event,
    Scene,
    draw_family,
    draw_pair,
    draw_scene,
)
from tvr_lightning.synthetic.shapes import is_current, make_shapes

SMALL = 24


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_shapes()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(root, SMALL, workers=1)
    return root


def decode(path: Path) -> np.ndarray:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def annotation_bytes(root: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in root.iterdir() if path.is_file()}


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_files_have_the_layout_of_msrvtt(dataset):
    assert sorted(annotation_bytes(dataset)) == [
        "MSRVTT_JSFUSION_test.csv",
        "MSRVTT_data.json",
        "MSRVTT_train.7k.csv",
        "MSRVTT_train.9k.csv",
        "probes.json",
        "shapes.json",
    ]
    data = json.loads((dataset / "MSRVTT_data.json").read_text())
    assert list(data) == ["info", "videos", "sentences"]
    assert set(data["videos"][0]) == {"category", "url", "video_id", "start time", "end time", "split", "id"}
    assert [video["video_id"] for video in data["videos"]] == [f"video{i}" for i in range(SMALL)]
    assert Counter(video["split"] for video in data["videos"]) == {"train": 12, "validate": 4, "test": 8}
    assert [s["sen_id"] for s in data["sentences"]] == list(range(10 * SMALL))
    assert set(Counter(s["video_id"] for s in data["sentences"]).values()) == {10}

    by_split = {split: [v["video_id"] for v in data["videos"] if v["split"] == split] for split in ("train", "test")}
    for name in ("MSRVTT_train.9k.csv", "MSRVTT_train.7k.csv"):
        assert [row["video_id"] for row in rows(dataset / name)] == by_split["train"]
    test = rows(dataset / "MSRVTT_JSFUSION_test.csv")
    assert list(test[0]) == ["key", "vid_key", "video_id", "sentence"]
    assert [row["video_id"] for row in test] == by_split["test"]
    assert [row["key"] for row in test] == [f"ret{i}" for i in range(8)]
    assert all(row["vid_key"] == row["video_id"].replace("video", "msr") for row in test)
    captions = {(s["video_id"], s["caption"]) for s in data["sentences"]}
    assert all((row["video_id"], row["sentence"]) in captions for row in test)

    probes = json.loads((dataset / "probes.json").read_text())
    assert Counter(probe["kind"] for probe in probes) == dict.fromkeys(PROBE_KINDS, 1)
    assert sorted(v for probe in probes for v in probe["videos"]) == sorted(by_split["test"])


def test_videos_are_h264_and_as_long_as_their_annotation_says(dataset):
    data = json.loads((dataset / "MSRVTT_data.json").read_text())
    for video in data["videos"][:4]:
        with av.open(str(dataset / "videos" / f"{video['video_id']}.mp4")) as container:
            stream = container.streams.video[0]
            codec = stream.codec_context
            assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", SIDE, SIDE)
            assert stream.average_rate == FPS
            num_frames = sum(1 for _ in container.decode(stream))
        assert 3 <= num_frames / FPS <= 5
        assert video["end time"] == pytest.approx(num_frames / FPS, abs=0.005)


def test_decoded_pixels_are_the_rendered_ones(dataset):
    planned = plan_shapes(SMALL)
    for video in planned.videos[-4:]:
        drawn, decoded = render(video.scene), decode(dataset / "videos" / f"video{video.number}.mp4")
        assert decoded.shape == drawn.shape
        assert np.abs(decoded.astype(int) - drawn).mean() < 3


def test_same_seed_gives_same_dataset_whatever_the_workers(dataset, tmp_path):
    summary = make_shapes(tmp_path / "again", SMALL, workers=2)
    assert summary.created
    assert annotation_bytes(tmp_path / "again") == annotation_bytes(dataset)
    for path in sorted((dataset / "videos").iterdir())[::5]:
        np.testing.assert_array_equal(decode(tmp_path / "again" / "videos" / path.name), decode(path))
    assert plan_shapes(SMALL, seed=1).videos[0].scene != plan_shapes(SMALL, seed=0).videos[0].scene


def test_a_current_dataset_is_left_alone(dataset):
    before = (dataset / "shapes.json").stat().st_mtime_ns
    summary = make_shapes(dataset, SMALL)
    assert not summary.created
    assert summary.splits == {"train": 12, "validation": 4, "test": 8}
    assert summary.megabytes > 0
    assert (dataset / "shapes.json").stat().st_mtime_ns == before
    assert not is_current(dataset, SMALL + 1, seed=0)
    assert not is_current(dataset, SMALL, seed=1)


def damage_missing(root: Path) -> None:
    (root / "videos" / "video3.mp4").unlink()


def damage_empty(root: Path) -> None:
    (root / "videos" / "video3.mp4").write_bytes(b"")


def damage_list(root: Path) -> None:
    (root / "probes.json").unlink()


def damage_version(root: Path) -> None:
    manifest = json.loads((root / "shapes.json").read_text())
    (root / "shapes.json").write_text(json.dumps(manifest | {"version": 0}))


def damage_manifest(root: Path) -> None:
    (root / "shapes.json").write_text('{"version"')


def damage_files(root: Path) -> None:  # a manifest of before it listed them
    manifest = json.loads((root / "shapes.json").read_text())
    del manifest["files"]
    (root / "shapes.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "damage", [damage_missing, damage_empty, damage_list, damage_version, damage_manifest, damage_files]
)
def test_a_partial_or_older_dataset_is_replaced_as_a_whole(tmp_path, damage):
    root = tmp_path / "shapes"
    make_shapes(root, 6)
    before = annotation_bytes(root)
    damage(root)
    (root / "videos" / "video99.mp4").write_bytes(b"left over")
    assert not is_current(root, 6, seed=0)
    assert make_shapes(root, 6).created
    assert is_current(root, 6, seed=0)
    assert annotation_bytes(root) == before
    assert not (root / "videos" / "video99.mp4").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_users_folder_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("important")
    with pytest.raises(DataError, match=r"thesis\.tex"):
        make_shapes(tmp_path, SMALL)
    assert (tmp_path / "thesis.tex").read_text() == "important"
    with pytest.raises(DataError, match="in use"):
        make_shapes(tmp_path / "thesis.tex", SMALL)


def test_an_empty_folder_is_filled(tmp_path):
    assert make_shapes(tmp_path / "new" / "shapes", 6).created
    (tmp_path / "empty").mkdir()
    assert make_shapes(tmp_path / "empty", 6).created


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_a_failure_keeps_the_old_dataset_and_leaves_nothing_behind(tmp_path, monkeypatch, error):
    root = tmp_path / "shapes"
    make_shapes(root, 6)
    before = annotation_bytes(root)

    def fail(scene: Scene, path: Path) -> None:
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(shapes, "write_video", fail)
    with pytest.raises(error):
        make_shapes(root, 6, seed=1)
    assert annotation_bytes(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_workers_start_without_torch():
    code = "import sys, tvr_lightning.synthetic.shapes; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_current_dataset_is_found_without_torch(dataset):
    code = (
        "import sys; from tvr_lightning.synthetic.shapes import make_shapes; "
        f"made = make_shapes({str(dataset)!r}, {SMALL}); sys.exit(made.created or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_split_sizes_and_probe_counts():
    assert split_sizes(1500) == {"train": 1200, "validation": 100, "test": 200}
    assert split_sizes(24) == {"train": 12, "validation": 4, "test": 8}
    for num_videos in (6, 7, 12, 50, 100, 1501):
        sizes = split_sizes(num_videos)
        assert sum(sizes.values()) == num_videos
        assert min(sizes.values()) >= 1
    assert probe_counts(200) == dict.fromkeys(PROBE_KINDS, 20)
    for num_test in range(2, 60):
        assert 2 * sum(probe_counts(num_test).values()) <= num_test
        assert num_test < 8 or min(probe_counts(num_test).values()) >= 1
    with pytest.raises(ConfigError, match="5"):
        plan_shapes(5)


def test_no_test_video_resembles_another_or_one_that_is_trained_on(plan):
    test = [video for video in plan.videos if video.split == "test"]
    descriptions = {video.scene.description for video in test}
    assert len(descriptions) == len(test) == 200
    assert not descriptions & {video.scene.description for video in plan.videos if video.split != "test"}
    assert len({video.captions[0] for video in test}) == 200


def test_the_retrieval_caption_names_everything(plan):
    def says(caption: str, options: tuple[str, ...]) -> bool:
        return any(f" {option} " in f" {caption} " for option in options)

    for video in plan.videos:
        if video.split != "test":
            continue
        caption, scene = video.captions[0], video.scene
        assert says(caption, ADJECTIVES[scene.background])
        assert says(caption, LONE) == (len(scene.things) == 1)
        for thing in scene.things:
            looks = [
                f"{size} {colour} {noun}"
                for size in ADJECTIVES[thing.size]
                for colour in ADJECTIVES[thing.colour]
                for noun in NOUNS[thing.shape]
            ]
            assert says(caption, tuple(looks)), (caption, thing)
        for event in scene.events:
            if event.kind in WAYS:
                verbs = WAYS[event.kind]
            else:
                colours = ADJECTIVES[event.colour] if event.colour else ("",)
                forms = [
                    form
                    for third, gerund, tail in VERBS[event.kind]
                    for form in (f"{third} {tail}", f"{gerund} {tail}")
                ]
                verbs = tuple(form.format(colour).strip() for form in forms for colour in colours)
            assert says(caption, verbs), (caption, event)


def test_captions_of_a_video_differ_and_often_leave_something_out(plan):
    assert all(len(set(video.captions)) == 10 for video in plan.videos)
    lengths = [len(c.split()) for video in plan.videos for c in video.captions]
    assert max(lengths) <= 33  # with start and end tokens they fit into the 36 of experiments/data/shapes.yaml
    assert 10 < np.mean(lengths) < 17
    assert all(c == c.lower() and c.replace(" ", "").isalpha() for video in plan.videos for c in video.captions)


def test_every_word_of_the_test_captions_occurs_in_training(plan):
    words = {
        split: {word for v in plan.videos if v.split == split for c in v.captions for word in c.split()}
        for split in ("train", "test")
    }
    assert words["test"] <= words["train"]


def test_scenes_cover_everything(plan):
    train = [video.scene for video in plan.videos if video.split == "train"]
    assert {scene.background for scene in train} == set(BACKGROUNDS)
    looks = [thing for scene in train for thing in scene.things]
    assert {thing.shape for thing in looks} == set(SHAPES)
    assert {thing.colour for thing in looks} == set(COLOURS)
    assert {thing.size for thing in looks} == set(SIZES)
    assert {event.kind for scene in train for event in scene.events} == set(EVENTS)
    assert Counter((len(s.things), len(s.events)) for s in train).keys() == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert {scene.category for scene in train} == set(range(len(CATEGORIES)))
    assert all(0 <= video.scene.category < len(CATEGORIES) for video in plan.videos)


def test_probes_are_test_videos_that_differ_in_one_respect(plan):
    by_number = {video.number: video for video in plan.videos}
    members = [number for _, pair in plan.probes for number in pair]
    assert len(set(members)) == len(members) == 160
    assert all(by_number[number].split == "test" for number in members)
    for kind, (first, second) in plan.probes:
        a, b = by_number[first].scene, by_number[second].scene
        assert a != b
        if kind == "order":
            assert replace(b, events=b.events[::-1]) == a
        elif kind == "binding":
            assert a.things[0].size == a.things[1].size
            colours = [thing.colour for thing in a.things][::-1]
            assert tuple(replace(t, colour=c) for t, c in zip(a.things, colours, strict=True)) == b.things
            assert replace(b, things=a.things) == a
        elif kind == "motion":
            assert (a.events[0].kind, b.events[0].kind) == ("left", "right")
            assert replace(b, events=(replace(b.events[0], kind="left"),)) == a
        else:
            assert replace(b, things=b.things[:1]) == a
            assert len(b.things) == 2


def test_captions_of_a_pair_differ_as_the_videos_do(plan):
    by_number = {video.number: video for video in plan.videos}
    for kind, (first, second) in plan.probes:
        a, b = by_number[first].captions[0].split(), by_number[second].captions[0].split()
        if kind == "motion":
            assert [(x, y) for x, y in zip(a, b, strict=True) if x != y] == [("left", "right")]
        elif kind == "binding":
            assert a != b
            assert [x for x in sorted(a) if x not in {"a", "an"}] == [y for y in sorted(b) if y not in {"a", "an"}]


def test_unknown_pair():
    with pytest.raises(ValueError, match="known: order"):
        draw_pair(random.Random(0), "shape")


@pytest.mark.parametrize("kind", ["order", "motion"])
def test_pairs_have_the_same_frames_in_another_order(kind):
    rng = random.Random(3)
    for _ in range(4):
        a, b = (render(scene) for scene in draw_pair(rng, kind))
        assert not np.array_equal(a, b)
        assert sorted(frame.tobytes() for frame in a) == sorted(frame.tobytes() for frame in b)


def test_averaging_over_time_hides_the_order(dataset):
    probes = json.loads((dataset / "probes.json").read_text())
    pair = next(probe["videos"] for probe in probes if probe["kind"] == "order")
    a, b = (decode(dataset / "videos" / f"{video}.mp4").astype(float) for video in pair)
    assert np.abs(a - b).max() > 50
    assert np.abs(a.mean(0) - b.mean(0)).max() < 1
    sampled = [(2 * i + 1) * len(a) // 16 for i in range(8)]
    assert np.abs(a[sampled].mean(0) - b[sampled].mean(0)).max() < 1


@pytest.mark.parametrize("kind", EVENTS)
def test_every_event_lasts_a_second_and_shows_in_eight_frames(kind):
    rng = random.Random(5)
    for num_events in (1, 2):
        for _ in range(40):
            scene = draw_scene(rng, num_things=1, num_events=num_events)
            thing = replace(scene.things[0], shape="star")
            position = rng.randrange(num_events)
            events = [Event(0, "up" if kind == "grow" else "grow")] * num_events
            events[position] = Event(0, kind, "red" if thing.colour != "red" else "blue")
            scene = replace(scene, things=(thing,), events=tuple(events))
            own = range(position * scene.segment, (position + 1) * scene.segment)
            resting = pose(scene, 0, own[0])
            changed = [index for index in own if pose(scene, 0, index) != resting]
            assert changed[-1] - changed[0] + 1 >= FPS
            sampled = {(2 * i + 1) * scene.num_frames // 16 for i in range(8)}
            assert sampled & set(changed)


def test_a_scene_is_described_the_same_way_by_the_same_chance():
    scene = draw_scene(random.Random(1))
    assert write_caption(scene, random.Random(2)) == write_caption(scene, random.Random(2))


def test_families_share_objects_and_differ_in_one_respect():
    rng = random.Random(0)
    kinds = set()
    for _ in range(200):
        family = draw_family(rng)
        first = family[0]
        half = len(family) // len(first.events)
        if len(first.events) == 2:
            reversed_ones = [replace(member, events=member.events[::-1]) for member in family[:half]]
            assert family[half:] == reversed_ones
            kinds.add("order")
        for other in family[1:half]:
            changed = [
                name
                for name in ("background", "shade", "things", "events", "segment", "rest", "clockwise")
                if getattr(first, name) != getattr(other, name)
            ]
            assert changed in (["things"], ["events"])
            if changed == ["things"]:
                assert {t.colour for t in first.things} == {t.colour for t in other.things}
                assert [(t.shape, t.size) for t in first.things] == [(t.shape, t.size) for t in other.things]
                kinds.add("binding")
            else:
                assert OPPOSITE[first.events[0].kind] == other.events[0].kind
                assert first.events[1:] == other.events[1:]
                kinds.add("motion")
    assert kinds == {"binding", "order", "motion"}
