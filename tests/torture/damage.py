"""Seeded damage to a file's bytes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

Damage = Callable[[bytes, random.Random], bytes]


def flip(count: int) -> Damage:
    """Turns single bits around."""

    def damaged(content: bytes, draw: random.Random) -> bytes:
        out = bytearray(content)
        for _ in range(count):
            out[draw.randrange(len(out))] ^= 1 << draw.randrange(8)
        return bytes(out)

    return damaged


def flip_head(content: bytes, draw: random.Random) -> bytes:
    """Turns bits of the first and the last two hundred bytes around, where containers have their tables."""
    out = bytearray(content)
    for _ in range(3):
        place = draw.randrange(200)
        out[draw.choice((place, -1 - place)) % len(out)] ^= 1 << draw.randrange(8)
    return bytes(out)


def truncate(content: bytes, draw: random.Random) -> bytes:
    """A broken download."""
    return content[: draw.randrange(1, len(content))]


def behead(content: bytes, draw: random.Random) -> bytes:
    """A recording that began in the middle."""
    return content[draw.randrange(1, len(content)) :]


def zero(content: bytes, draw: random.Random) -> bytes:
    """A hole, as a download in pieces leaves it."""
    start = draw.randrange(len(content))
    size = min(draw.randrange(1, len(content) // 4 + 2), len(content) - start)
    return content[:start] + bytes(size) + content[start + size :]


def leave_out(content: bytes, draw: random.Random) -> bytes:
    """Bytes that never came."""
    start = draw.randrange(len(content))
    return content[:start] + content[start + draw.randrange(1, len(content) // 8 + 2) :]


def repeat(content: bytes, draw: random.Random) -> bytes:
    """Bytes that came twice."""
    start = draw.randrange(len(content))
    end = start + draw.randrange(1, len(content) // 8 + 2)
    return content[:end] + content[start:]


DAMAGES: dict[str, Damage] = {
    "1 bit flipped": flip(1),
    "8 bits flipped": flip(8),
    "100 bits flipped": flip(100),
    "bits of the tables flipped": flip_head,
    "cut off": truncate,
    "beginning lost": behead,
    "a hole of zeros": zero,
    "bytes left out": leave_out,
    "bytes repeated": repeat,
}


def damages(content: bytes, seed: str, rounds: int) -> Iterator[tuple[str, bytes]]:
    """Each kind of damage `rounds` times, the same for the same seed."""
    for kind, damage in DAMAGES.items():
        for number in range(rounds):
            yield kind, damage(content, random.Random(f"{seed} {kind} {number}"))
