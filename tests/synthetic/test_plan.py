"""What the embedded dataset shows and says: splits, scenes, captions and minimal pairs."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tvr_lightning.errors import ConfigError
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
    SIZES,
    Event,
    draw_family,
    draw_pair,
    draw_scene,
)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return plan_shapes()


def test_split_sizes_and_probe_counts():
    assert split_sizes(2700) == {"train": 1200, "validation": 400, "test": 1100}
    assert split_sizes(24) == {"train": 12, "validation": 4, "test": 8}
    for num_videos in (6, 7, 12, 23, 25, 50, 100, 2701):
        sizes = split_sizes(num_videos)
        assert sum(sizes.values()) == num_videos
        assert min(sizes.values()) >= 1
    assert probe_counts(1100) == dict.fromkeys(PROBE_KINDS, 110)
    for num_test in range(2, 60):
        assert 2 * sum(probe_counts(num_test).values()) <= num_test
        assert num_test < 8 or min(probe_counts(num_test).values()) >= 1
    with pytest.raises(ConfigError, match="5"):
        plan_shapes(5)


def test_no_test_video_resembles_another_or_one_that_is_trained_on(plan):
    test = [video for video in plan.videos if video.split == "test"]
    descriptions = {video.scene.description for video in test}
    assert len(descriptions) == len(test) == 1100
    assert not descriptions & {video.scene.description for video in plan.videos if video.split != "test"}
    assert len({video.captions[0] for video in test}) == 1100


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
    assert len(set(members)) == len(members) == 880
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
        elif kind == "size":
            sizes = [thing.size for thing in a.things]
            assert sorted(sizes) == sorted(SIZES)
            assert tuple(replace(t, size=s) for t, s in zip(a.things, sizes[::-1], strict=True)) == b.things
            assert replace(b, things=a.things) == a
        else:
            assert (a.events[0].kind, b.events[0].kind) == ("grow", "shrink")
            assert replace(b, events=(replace(b.events[0], kind="grow"),)) == a


def test_captions_of_a_pair_differ_as_the_videos_do(plan):
    by_number = {video.number: video for video in plan.videos}
    for kind, (first, second) in plan.probes:
        a, b = by_number[first].captions[0].split(), by_number[second].captions[0].split()
        if kind in ("binding", "size"):
            assert a != b
            assert [x for x in sorted(a) if x not in {"a", "an"}] == [y for y in sorted(b) if y not in {"a", "an"}]


def test_unknown_pair():
    with pytest.raises(ValueError, match="known: order"):
        draw_pair(random.Random(0), "shape")


def test_pairs_in_another_order_have_the_same_frames():
    rng = random.Random(3)
    for _ in range(4):
        a, b = (render(scene) for scene in draw_pair(rng, "order"))
        assert not np.array_equal(a, b)
        assert sorted(frame.tobytes() for frame in a) == sorted(frame.tobytes() for frame in b)


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
                kinds.add("opposite")
    assert kinds == {"binding", "order", "opposite"}
