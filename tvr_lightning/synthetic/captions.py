"""Captions of the `shapes` videos: a grammar with synonyms that, like people, often leaves things out.

A caption first settles on one synonym per notion, then on a form of sentence. Two scenes of a minimal pair that are
captioned with the same chance therefore get sentences that differ only where the scenes do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from tvr_lightning.synthetic.scenes import COLOURS, SHAPES, Event, Scene, Thing

Verb = tuple[str, str, str]  # third person, gerund, what follows either

NOUNS: Mapping[str, tuple[str, ...]] = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "cross": ("cross", "plus"),
}
ADJECTIVES: Mapping[str, tuple[str, ...]] = {
    "small": ("small", "little", "tiny"),
    "large": ("large", "big", "huge"),
    "red": ("red",),
    "orange": ("orange",),
    "yellow": ("yellow",),
    "green": ("green",),
    "cyan": ("cyan", "turquoise"),
    "blue": ("blue",),
    "purple": ("purple", "violet"),
    "pink": ("pink",),
    "dark": ("dark", "black"),
    "gray": ("gray", "grey"),
    "light": ("light", "white", "bright"),
}
MOVES: tuple[tuple[str, str], ...] = (("moves", "moving"), ("slides", "sliding"))
WAYS: Mapping[str, tuple[str, str]] = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up", "upwards"),
    "down": ("down", "downwards"),
}
VERBS: Mapping[str, tuple[Verb, ...]] = {
    "grow": (("grows", "growing", ""), ("gets", "getting", "bigger"), ("expands", "expanding", "")),
    "shrink": (("shrinks", "shrinking", ""), ("gets", "getting", "smaller"), ("contracts", "contracting", "")),
    "spin": (("spins", "spinning", ""), ("rotates", "rotating", ""), ("turns", "turning", "around")),
    "blink": (("blinks", "blinking", ""), ("flashes", "flashing", "")),
    "recolour": (("turns", "turning", "{}"), ("becomes", "becoming", "{}"), ("changes", "changing", "to {}")),
}
CHANGE_COLOUR: Verb = ("changes", "changing", "color")
GENERIC = ("object", "shape", "thing")
LONE = ("one", "a single", "a lone")
BACKGROUND = ("on a {} background", "against a {} background", "over a {} backdrop")
AT_REST = ("while {} stays still", "while {} does nothing", "next to {}", "beside {}")
SHAPES_ZH = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "星形", "心形", "十字形"), strict=True))
COLOURS_ZH = dict(zip(COLOURS, ("红", "橙", "黄", "绿", "青", "蓝", "紫", "粉"), strict=True))
BESIDE = ("next to {}", "beside {}")


class Wording:
    """One caption's choices: a synonym for every notion, and how much it leaves out.

    Args:
        rng: source of chance.
        complete: whether everything that captions can name is named.
    """

    def __init__(self, rng: random.Random, complete: bool) -> None:
        self.rng, self.complete = rng, complete
        self.nouns = {shape: rng.choice(words) for shape, words in NOUNS.items()}
        self.adjectives = {notion: rng.choice(words) for notion, words in ADJECTIVES.items()}
        self.verbs = {kind: rng.choice(verbs) for kind, verbs in VERBS.items()}
        move, style = rng.choice(MOVES), rng.randrange(2)  # shared by all ways, so that opposite moves read alike
        self.verbs |= {way: (*move, tails[style]) for way, tails in WAYS.items()}
        self.generic = rng.choice(GENERIC)

    def keeps(self, chance: float) -> bool:
        """Whether something that people name with this chance is named."""
        return self.complete or self.rng.random() < chance

    def phrases(self, thing: Thing, alone: bool) -> tuple[str, str]:
        """Names an object twice: at its first mention (`a small red circle`) and later (`the circle`)."""
        words = [self.adjectives[thing.size]] if self.keeps(0.8) else []
        coloured, named = self.keeps(0.95), self.keeps(0.95)
        if coloured:
            words.append(self.adjectives[thing.colour])
        noun = self.nouns[thing.shape] if named else self.generic
        words.append(noun)
        article = "an" if words[0][0] in "aeiou" else "a"
        if alone and self.keeps(0.3):
            article = self.rng.choice(LONE)
        later = f"the {self.adjectives[thing.colour]} {noun}" if coloured and not named else f"the {noun}"
        return f"{article} {' '.join(words)}", later

    def verb(self, event: Event) -> tuple[str, str]:
        """Third person and gerund of what happens: `turns blue`, `turning blue`."""
        third, gerund, tail = self.verbs[event.kind]
        if event.colour is not None:
            if self.keeps(0.95):
                tail = tail.format(self.adjectives[event.colour])
            else:
                third, gerund, tail = CHANGE_COLOUR
        return f"{third} {tail}".strip(), f"{gerund} {tail}".strip()


def write_caption(scene: Scene, rng: random.Random, complete: bool = False) -> str:
    """Writes one caption of a scene: lower case, no punctuation.

    Args:
        scene: what to describe.
        rng: source of chance; equal states give equal wording.
        complete: name everything that `Scene.description` holds; otherwise a size, the second event, an object that
            only rests and the like may go unmentioned.
    """
    wording = Wording(rng, complete)
    told = "all" if wording.keeps(0.9) else rng.choice(("start", "start", "end"))
    events = {"all": scene.events, "start": scene.events[:1], "end": scene.events[-1:]}[told]
    alone = len(scene.things) == 1
    firsts, laters = zip(*(wording.phrases(thing, alone) for thing in scene.things), strict=True)
    others = [i for i in range(len(scene.things)) if all(event.actor != i for event in events)]
    others = [i for i in others if wording.keeps(0.8)]
    introduced = len(others) + len({event.actor for event in events}) == 2 and rng.random() < 0.25
    names = laters if introduced else firsts
    parts = [_clause(wording, events, names, laters)]
    if told != "all" and len(scene.events) == 2:
        parts = ["first", *parts] if told == "start" else [*parts, "at the end"]
    if introduced:
        parts.insert(0, rng.choice(("there is {} and {} and", "we see {} and {} where")).format(*firsts))
    for i in others if not introduced else ():
        rests = all(event.actor != i for event in scene.events)
        parts.append(rng.choice(AT_REST if rests else BESIDE).format(firsts[i]))
    if wording.keeps(0.3):
        place = rng.choice(BACKGROUND).format(wording.adjectives[scene.background])
        parts.insert(0 if rng.random() < 0.3 else len(parts), place)
    return " ".join(parts)


def _clause(wording: Wording, events: tuple[Event, ...], names: tuple[str, ...], laters: tuple[str, ...]) -> str:
    """Says who does what, in one of several forms; events are named in their order."""
    choose = wording.rng.choice
    verbs = [wording.verb(event) for event in events]
    actors = [event.actor for event in events]
    does, doing = verbs[0]
    who = names[actors[0]]
    if len(events) == 1:
        forms = (f"{who} {does}", f"{who} is {doing}", f"{who} {does}", f"{who} can be seen {doing}")
        return choose(forms)
    then_does, then_doing = verbs[1]
    if actors[0] == actors[1]:
        return choose(
            (
                f"{who} {does} and then {then_does}",
                f"{who} {does} before {then_doing}",
                f"{who} {does} then it {then_does} at the end",
                f"first {who} {does} then it {then_does}",
            )
        )
    other = names[actors[1]]
    return choose(
        (
            f"{who} {does} then {other} {then_does}",
            f"{who} {does} before {other} {then_does}",
            f"{who} {does} then {other} {then_does} at the end",
            f"first {who} {does} then {other} {then_does}",
        )
    )


def write_chinese_captions(scene: Scene) -> tuple[str, ...]:
    """Seven captions in Chinese; they name the objects only."""
    things = "和".join(f"一个{COLOURS_ZH[t.colour]}色的{SHAPES_ZH[t.shape]}" for t in scene.things)
    return tuple(f"{start}{things}" for start in ("", "有", "画面中有", "视频里有", "我们看到", "这里有", "屏幕上有"))
