"""What the `shapes` videos show: scenes of one or two objects, how they are drawn at random, and the minimal pairs.

A scene holds everything its pixels depend on, chance included, so two scenes of a pair can share all but one respect.
Every event is an excursion that ends where it began, and events fill equal segments of time. Hence "spins, then blinks"
and "blinks, then spins" have the same frames in another order, and "moves left" has those of "moves right" reversed:
a method that averages frames can tell neither pair apart.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

SHAPES = ("circle", "square", "triangle", "star", "heart", "cross")
SIZES = ("small", "large")
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
BACKGROUNDS = ("dark", "gray", "light")
EVENTS = ("left", "right", "up", "down", "grow", "shrink", "spin", "blink", "recolour")
# What changes an object's look is drawn more often than what moves it: two such events in either order are common.
_FREQUENCY = {
    "left": 1, "right": 1, "up": 1, "down": 1, "grow": 3, "shrink": 3, "spin": 1, "blink": 3, "recolour": 4,
}  # fmt: skip
OPPOSITE = {"left": "right", "right": "left", "up": "down", "down": "up", "grow": "shrink", "shrink": "grow"}
PROBE_KINDS = ("order", "binding", "size", "growth")
SIDE, FPS = 96, 12  # pixels, frames per second

# Hashing metrics call two videos relevant when their labels agree: a label joins shapes and events that look alike.
_SHAPE_GROUP = {"circle": 0, "heart": 0, "square": 1, "cross": 1, "triangle": 2, "star": 3}
_EVENT_GROUP = {
    "left": 0, "right": 0, "up": 1, "down": 1, "grow": 2, "shrink": 2, "spin": 3, "blink": 3, "recolour": 4,
}  # fmt: skip
CATEGORIES = tuple(
    f"{shape} thing, {event}"
    for shape in ("round", "square", "triangle", "star")
    for event in ("sideways", "upright", "size", "flicker", "colour")
)

Look = tuple[str, str, str]
Description = tuple[str, frozenset[Look], tuple[tuple[Look, str, str | None], ...]]


@dataclass(frozen=True)
class Thing:
    """An object of a scene.

    Attributes:
        shape: one of `SHAPES`.
        colour: one of `COLOURS`.
        size: one of `SIZES`.
        x: column of the centre at rest, in pixels.
        y: row of the centre at rest, in pixels.
    """

    shape: str
    colour: str
    size: str
    x: int
    y: int

    @property
    def look(self) -> Look:
        """Size, colour and shape: what a caption can name."""
        return self.size, self.colour, self.shape


@dataclass(frozen=True)
class Event:
    """Something that one object does.

    Attributes:
        actor: position of the object in the scene.
        kind: one of `EVENTS`.
        colour: the other colour for `recolour`, None for every other kind.
    """

    actor: int
    kind: str
    colour: str | None = None


@dataclass(frozen=True)
class Scene:
    """Everything that a video shows.

    Attributes:
        background: one of `BACKGROUNDS`.
        shade: how much lighter (in grey levels) than usual the background is; no caption names it.
        things: one or two objects that differ in shape and in colour.
        events: one or two events of different kinds, in order.
        segment: frames that each event has, the rests around it included.
        rest: frames of rest at either end of a segment.
        clockwise: the sense of `spin`; no caption names it.
    """

    background: str
    shade: int
    things: tuple[Thing, ...]
    events: tuple[Event, ...]
    segment: int
    rest: int
    clockwise: bool

    @property
    def num_frames(self) -> int:
        """Length of the video in frames."""
        return self.segment * len(self.events)

    @property
    def category(self) -> int:
        """Class label, a position in `CATEGORIES`: what kind of shape does what kind of thing first."""
        first = self.events[0]
        return 5 * _SHAPE_GROUP[self.things[first.actor].shape] + _EVENT_GROUP[first.kind]

    @property
    def labels(self) -> tuple[int, ...]:
        """One class for each event, ascending."""
        return tuple(sorted({replace(self, events=(event,)).category for event in self.events}))

    @property
    def description(self) -> Description:
        """All that captions can name. Scenes with equal descriptions cannot be told apart by any caption."""
        looks = frozenset(thing.look for thing in self.things)
        return self.background, looks, tuple((self.things[e.actor].look, e.kind, e.colour) for e in self.events)


def draw_scene(rng: random.Random, num_things: int | None = None, num_events: int | None = None) -> Scene:
    """Draws a scene at random.

    Args:
        rng: source of chance.
        num_things: one or two objects, None for either.
        num_events: one or two events, None for either.
    """
    num_things = num_things or rng.choice((1, 2))
    num_events = num_events or rng.choice((1, 2, 2, 2))
    shapes, colours = rng.sample(SHAPES, num_things), rng.sample(COLOURS, num_things + 1)
    places = _draw_places(rng, num_things)
    things = tuple(
        Thing(shape, colour, rng.choice(SIZES), *place)
        for shape, colour, place in zip(shapes, colours, places, strict=False)
    )
    return Scene(
        background=rng.choice(BACKGROUNDS),
        shade=rng.randint(-6, 6),
        things=things,
        events=_draw_events(rng, shapes, colours[-1], num_events),
        segment=_draw_segment(rng, num_events),
        rest=rng.randint(2, 4),
        clockwise=rng.random() < 0.5,
    )


def _draw_events(rng: random.Random, shapes: Sequence[str], spare: str, count: int) -> tuple[Event, ...]:
    """Draws events of different kinds for objects of the given shapes; `spare` is the colour that none of them has."""
    events: list[Event] = []
    for _ in range(count):
        actor = rng.randrange(len(shapes))
        taken = {event.kind for event in events} | ({"spin"} if shapes[actor] == "circle" else set())
        kinds = [kind for kind in EVENTS if kind not in taken]
        kind = rng.choices(kinds, [_FREQUENCY[kind] for kind in kinds])[0]
        events.append(Event(actor, kind, spare if kind == "recolour" else None))
    return tuple(events)


def draw_family(rng: random.Random) -> list[Scene]:
    """Draws a scene and its counterparts, as clips that were cut from one longer video resemble each other.

    Counterparts are a first move or change of size the other way, the objects with exchanged colours, and all of these
    with the events in the other order. Met in one batch, they leave nothing but that to tell them apart.
    """
    scene = draw_scene(rng)
    family = [scene]
    first, *others = scene.events
    if first.kind in OPPOSITE and all(event.kind != OPPOSITE[first.kind] for event in others):
        family.append(replace(scene, events=(replace(first, kind=OPPOSITE[first.kind]), *others)))
    if len(scene.things) == 2:
        one, other = scene.things
        exchanged = replace(one, colour=other.colour), replace(other, colour=one.colour)
        family.append(replace(scene, things=exchanged))
    if others:
        family += [replace(member, events=member.events[::-1]) for member in family]
    return family


def _draw_segment(rng: random.Random, num_events: int) -> int:
    return rng.randint(36, 42) if num_events == 1 else rng.randint(24, 30)


def _draw_places(rng: random.Random, count: int) -> list[tuple[int, int]]:
    """Draws centres; two objects sit on a diagonal, so that neither crosses the other's row or column."""
    if count == 1:
        return [(rng.randint(25, 71), rng.randint(25, 71))]
    columns, rows = rng.sample((28, 68), 2), rng.sample((28, 68), 2)
    return [(x + rng.randint(-3, 3), y + rng.randint(-3, 3)) for x, y in zip(columns, rows, strict=True)]


def _sized(thing: Thing, size: str) -> Thing:
    return replace(thing, size=size)


def draw_pair(rng: random.Random, kind: str) -> tuple[Scene, Scene]:
    """Draws two scenes that differ in one respect only.

    Args:
        rng: source of chance.
        kind: `order` (the two events change places), `binding` (two objects of one size exchange colours), `size` (a
            small and a large object exchange sizes) or `growth` (the one event is to grow, or to shrink).
    """
    if kind == "order":
        scene = draw_scene(rng, num_events=2)
        return scene, replace(scene, events=scene.events[::-1])
    if kind == "binding":
        scene = draw_scene(rng, num_things=2)
        first, second = (replace(thing, size=scene.things[0].size) for thing in scene.things)
        swapped = replace(first, colour=second.colour), replace(second, colour=first.colour)
        return replace(scene, things=(first, second)), replace(scene, things=swapped)
    if kind == "size":
        scene = draw_scene(rng, num_things=2)
        one, other = (tuple(map(_sized, scene.things, sizes)) for sizes in (SIZES, SIZES[::-1]))
        return replace(scene, things=one), replace(scene, things=other)
    if kind == "growth":
        scene = draw_scene(rng, num_events=1)
        grows, shrinks = (replace(scene.events[0], kind=way, colour=None) for way in ("grow", "shrink"))
        return replace(scene, events=(grows,)), replace(scene, events=(shrinks,))
    raise ValueError(f"no such kind of pair: {kind!r} (known: {', '.join(PROBE_KINDS)})")
