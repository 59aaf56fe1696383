"""Parts of speech and chunks of English captions, offline: HanTa's tagger, corrected where captions need it, and NLTK.

HanTa tags with the BNC's C5 tags. Its model comes with the package; it knows newspapers better than captions, so it
calls the verbs of short captions nouns ("a camera pans"). What the lexicon allows and the clause lacks mends that.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from tvr_lightning.data.triples.base import Span, word_set

MAX_WORDS = 100  # of a sentence: a text without full stops is cut
MAX_LETTERS = 40  # of a word for the tagger, which looks at every part of it
DROPPED = word_set("a an the this that these those some any all both each every no another")

# nouns that a participle rather describes than what stands far before: "a man talks about a woman singing"
ANIMATE = word_set(
    "actor actors actress animal animals artist artists audience baby babies band boy boys cat cats character "
    "characters chef child children couple crowd dancers dog dogs driver fans female females gentleman girl girls "
    "group guy guys host horse horses kid kids ladies lady male males man men monkey musician people person persons "
    "player players reporter singer somebody someone student students team teacher women woman worker workers"
)
# verbs that go on with another one: "starts singing"
LINKING = word_set(
    "start starts started begin begins began stop stops stopped keep keeps kept go goes went going try tries tried "
    "like likes love loves enjoy enjoys enjoying finish finishes get gets getting got come comes starting trying"
)

_CLITIC = re.compile(r"(?:n['’]t|['’](?:s|re|ve|ll|d|m))$", re.IGNORECASE)
_BETWEEN = re.compile(r"[.!?;:,&\"“”()\[\]]|\s[-–—]\s")
_STOPS = frozenset(".!?;:")
_BE = word_set("am is are was were be been being 's 're 'm")
_LONG_PREPOSITIONS = (
    ("in", "front", "of"), ("on", "top", "of"), ("in", "the", "middle", "of"), ("at", "the", "top", "of"),
    ("on", "the", "side", "of"), ("on", "the", "back", "of"), ("by", "the", "side", "of"), ("infront", "of"),
    ("next", "to"), ("close", "to"), ("out", "of"), ("because", "of"), ("along", "with"), ("together", "with"),
    ("such", "as"), ("up", "to"), ("into",), ("onto",), ("inside", "of"), ("outside", "of"), ("infront",),
)  # fmt: skip
_PLURALS = word_set(
    "people men women children guys they we persons kids girls boys group couple crowd staff team band family class "
    "lot bunch audience"
)
_BEGINNERS = word_set("AT0 DPS DT0 PRP PRF AVP TO0 AV0 PNP PNI PNX CRD AJ0 VVG CJC CJS NP0 AVQ PNQ DTQ")
_NOMINAL = word_set("NN0 NN1 NN2 NP0 UNC ZZ0")
_PRONOUNS = word_set("PNP PNI PNX")
_FINITE = word_set("VVZ VVB VVD VBZ VBB VBD VHZ VHB VHD VDZ VDB VDD VM0")
_BOTH = word_set("about around by in on over through")  # prepositions that HanTa calls adverbs as well
_UNKNOWN = -28.0  # log-probability below which HanTa guesses from a word's letters

# C5 tags by what they do in a chunk
_KINDS = {
    "AT0": "D", "DPS": "D", "DT0": "Q", "CRD": "Q", "ORD": "Q", "AJ0": "J", "AJC": "J", "AJS": "J", "AV0": "R",
    "XX0": "R", "AVP": "RP", "PRP": "IN", "PRF": "OF", "TO0": "TO", "CJC": "CC", "CJS": "CS", "CJT": "WH", "DTQ": "WH",
    "PNQ": "WH", "AVQ": "HOW", "EX0": "EX", "POS": "POS", "PUN": "PUN", "VM0": "VF", "VVI": "VI", "VBI": "VI",
    "VHI": "VI", "VDI": "VI", "VVG": "VG", "VBG": "VG", "VHG": "VG", "VDG": "VG", "VVN": "VN", "VBN": "VN",
    "VHN": "VN", "VDN": "VN",
}  # fmt: skip

GRAMMAR = r"""
  NP: {<D|Q>*(<J><CC>(?=<J>)|<J|VN|N|POS>|<R>(?=<J>))*<N>}
      {<D>*<J>*<Q>}
      {<PRO>}
  VP: {<R>*(<TO><R>*)?<V.>(<R|RP>*(<HOW>?<TO>)?<R>*<V.>)*<R|RP>*}
  AP: {<R>*<J>+(<CC><J>+)*}
"""


class Piece(NamedTuple):
    """A token of a sentence.

    Attributes:
        text: as it stands in the caption.
        span: where it stands.
        kind: what it does in a chunk, see `GRAMMAR`.
        tag: C5 tag.
    """

    text: str
    span: Span
    kind: str
    tag: str


class Chunk(NamedTuple):
    """A phrase (`NP`, `VP`, `AP`) or a single token (its kind).

    Attributes:
        kind: which.
        pieces: its tokens.
    """

    kind: str
    pieces: tuple[Piece, ...]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger

    return HanoverTagger("morphmodel_en.pgz")


@cache
def _parser() -> Any:
    from nltk.chunk.regexp import RegexpParser

    return RegexpParser(GRAMMAR)


def sentences(caption: str, words: Sequence[Span]) -> list[list[Chunk]]:
    """Chunks of each sentence of a caption.

    Args:
        caption: the text.
        words: where its words are.
    """
    from nltk.tree import Tree

    chunked = []
    for texts, spans in _split(caption, words):
        pieces = _tagged(texts, spans)
        tree = _parser().parse([(piece, piece.kind) for piece in pieces])
        chunked.append(
            [
                Chunk(node.label(), tuple(piece for piece, _ in node))
                if isinstance(node, Tree)
                else Chunk(node[1], (node[0],))
                for node in tree
            ]
        )
    return chunked


def _split(caption: str, words: Sequence[Span]) -> list[tuple[list[str], list[Span]]]:
    """Sentences as tokens and their places; a contraction is two tokens, `can't` = `ca` + `n't`."""
    found: list[tuple[list[str], list[Span]]] = [([], [])]
    end = 0
    for start, stop in words:
        marks = _BETWEEN.findall(caption, end, start)
        if found[-1][0] and (len(found[-1][0]) >= MAX_WORDS or any(mark in _STOPS for mark in marks)):
            found.append(([], []))
        elif found[-1][0] and marks:
            found[-1][0].append("and" if marks == ["&"] else ",")
            found[-1][1].append((end, start))
        clitic = _CLITIC.search(caption, start + 1, stop)
        for a, b in ((start, clitic.start()), clitic.span()) if clitic else ((start, stop),):
            found[-1][0].append(caption[a:b])
            found[-1][1].append((a, b))
        end = stop
    return [sentence for sentence in found if sentence[0]]


def _tagged(texts: list[str], spans: list[Span]) -> list[Piece]:
    plain = [text[:MAX_LETTERS].replace("’", "'") for text in texts]
    lower = [text.lower() for text in plain]
    # shouted captions are full of names otherwise
    tags = _tagger().tag_sent(lower if "".join(plain).isupper() else plain, taglevel=0)
    tags = _repair(lower, [str(tag) for tag in tags])
    pieces = []
    place = 0
    while place < len(texts):
        long = next((p for p in _LONG_PREPOSITIONS if tuple(lower[place : place + len(p)]) == p), ())
        count = max(1, len(long))
        for i in range(place, place + count):
            pieces.append(Piece(texts[i], spans[i], "IN" if long else _kind(lower, tags, i), tags[i]))
        place += count
    return pieces


def _kind(words: Sequence[str], tags: Sequence[str], i: int) -> str:
    word, tag = words[i], tags[i]
    after = tags[i + 1] if i + 1 < len(tags) else ""
    if word in (",", "and"):
        return "PUN" if word == "," else "CC"
    if words[max(0, i - 1) : i + 1] == ["each", "other"] or words[i : i + 2] == ["each", "other"]:
        return "N"
    if tag == "DT0" and (after in _FINITE or after in ("", "VVG", "PRF", "PUN", "CJC", "PRP")):
        return "PRO"
    if word in DROPPED and tag in ("DT0", "AT0"):
        return "D"
    if tag in _PRONOUNS:
        return "PRO"
    return _KINDS.get(tag, "VF" if tag in _FINITE else "N")


def _can_be(word: str, tags: Sequence[str], ending: str, within: float = math.inf) -> bool:
    """Whether the lexicon knows the word with a tag, or knows nothing of it and it has the ending.

    Args:
        word: the word.
        tags: any of these.
        ending: of unknown words.
        within: how much less probable than the best tag the tag may be, as a difference of logarithms.
    """
    known = _tagger().tag_word(word, casesensitive=False)
    if any(tag in tags and p > known[0][1] - within for tag, p in known):
        return True
    return (
        bool(ending) and word.endswith(ending) and len(word) > len(ending) + 1 and (not known or known[0][1] < _UNKNOWN)
    )


def _repair(words: list[str], given: list[str]) -> list[str]:
    """Corrects tags from left to right."""
    tags = list(given)
    last = len(words) - 1
    for i, word in enumerate(words):
        before = tags[i - 1] if i else ""
        after = tags[i + 1] if i < last and not words[i + 1].endswith("ing") else ""
        if word == "there" and i < last and words[i + 1] in _BE:
            tags[i] = "EX0"
        elif word == "that" and tags[i] == "DT0" and after in _FINITE and before in _NOMINAL:
            tags[i] = "CJT"
        elif word == "'s" and tags[i] in ("POS", "VBZ", "VHZ"):
            tags[i] = "VBZ" if before in _PRONOUNS | {"EX0", "PNQ"} or after in ("VVG", "AT0", "VVN") else "POS"
        elif tags[i] == "VVD" and (
            _after_auxiliary(words, tags, i) or (before in _NOMINAL and not _lacks_verb(tags, i))
        ):
            tags[i] = "VVN"
        elif word.endswith(("haired", "eyed", "skinned", "colored", "coloured")) and after in _NOMINAL:
            tags[i] = "AJ0"
        elif word == "first" and tags[i] == "ORD" and (before in _NOMINAL | _PRONOUNS or (not i and after in _FINITE)):
            tags[i] = "AV0"  # "the camera first pans", "first see a dog"
        elif word == "doing":
            tags[i] = "VDG"
        elif word == "s" and before in _NOMINAL | {"PNI"} and after in _NOMINAL:  # an apostrophe that got lost
            tags[i] = "POS"
        elif (tags[i] == "AVP" and word in _BOTH and after in _NOMINAL | {"AT0", "DPS", "AJ0", "CRD", "DT0"}) or (
            tags[i] == "CJS" and words[max(0, i - 1) : i + 1] == ["dressed", "as"]
        ):
            tags[i] = "PRP"
        elif word.endswith("ing") and tags[i] in ("NN1", "AJ0", "NN0"):
            if after not in _NOMINAL and _is_participle(words, tags, i):
                tags[i] = "VVG"
        elif tags[i] in ("VVG", "VVN", "VVD", "AV0") and before in ("AT0", "DPS", "AJ0", "POS") and after in _NOMINAL:
            tags[i] = "AJ0"
        elif tags[i] in ("VVG", "VVB", "VVI") and before in ("AT0", "DPS") and after not in ("AT0", "DPS"):
            tags[i] = "NN1"
        elif tags[i] in _NOMINAL | {"CRD", "AJ0"} and _lacks_verb(tags, i) and _is_verb(words, tags, i):
            tags[i] = "VVZ" if word.endswith("s") else "VVB"
    for i, tag in enumerate(tags):  # "the blonde", "a blue": nothing follows that they could describe
        if tag in ("AJ0", "AJS") and i and tags[i - 1] in ("AT0", "DPS"):
            after = tags[i + 1] if i < last else ""
            if after in _FINITE or after in ("", "PRP", "PRF", "CJC", "VVG", "VVN", "CJS", "PUN"):
                tags[i] = "NN1"
    return tags


def _is_participle(words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    """Whether an -ing form that no noun follows is a verb rather than a noun."""
    start = _clause(tags, i)
    before = tags[i - 1] if i else ""
    if i and words[i - 1] in LINKING:
        return True
    if any(tag.startswith("VV") for tag in tags[start:i]):
        return False
    if before in _NOMINAL and words[i - 1] in ANIMATE:
        return True
    joined = before == "CJC" and "VVG" in tags[_clause(tags, i - 1) : i - 1]
    after_noun = before in _NOMINAL | _PRONOUNS
    return (joined or after_noun or _after_auxiliary(words, tags, i)) and _can_be(words[i], ("VVG",), "ing")


def _after_auxiliary(words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    while i and tags[i - 1] in ("AV0", "XX0"):
        i -= 1
    return bool(i) and (words[i - 1] in _BE or tags[i - 1].startswith(("VB", "VH")))


def _clause(tags: Sequence[str], i: int) -> int:
    """Where the clause of a word begins: after the last conjunction, relative pronoun or comma."""
    while i and tags[i - 1] not in ("CJC", "CJS", "CJT", "PNQ", "DTQ", "PUN", "AVQ"):
        i -= 1
    return i


def _lacks_verb(tags: Sequence[str], i: int) -> bool:
    """Whether a word's clause has no other finite verb."""
    start = _clause(tags, i)
    if any(tag in _FINITE for tag in tags[start:i]):
        return False
    for tag in tags[i + 1 :]:
        if tag in _FINITE:
            return False
        if tag in ("CJC", "CJS", "CJT", "PNQ", "DTQ", "PUN", "AVQ"):
            break
    return True


def _is_verb(words: Sequence[str], tags: Sequence[str], i: int) -> bool:
    """Whether a word after a noun that has no verb yet can be that verb: it agrees with the clause's first noun."""
    after = tags[i + 1] if i + 1 < len(tags) else ""
    follows = not after or after in _BEGINNERS
    start = _clause(tags, i)
    if not i or tags[i - 1] in ("PNQ", "DTQ", "CJT") or words[i - 1] == "one":
        return bool(i) and follows and _can_be(words[i], ("VVZ", "VVB"), "s")
    if start and tags[start - 1] == "CJC" and all(tag == "AV0" for tag in tags[start:i]):  # "sings and then dances"
        return (
            follows and _has_finite(tags, start - 1) and words[i].endswith("s") and _can_be(words[i], ("VVZ",), "", 3)
        )
    head = next((k for k in range(start, i) if tags[k] in _NOMINAL | _PRONOUNS), None)
    coloured = tags[i - 1] == "AJ0" and i > 1 and tags[i - 2] == "PRP"  # "a woman in pink talks"
    ordered = words[i - 1] == "first" and tags[i - 1] == "AV0" and i > 1  # "the camera first pans"
    if not (coloured or tags[i - 1 - ordered] in _NOMINAL | _PRONOUNS) or head is None:
        return False
    # the subject is all nouns in a row
    while head + 1 < i and tags[head + 1] in _NOMINAL:
        head += 1
    alone = head == i - 1 - ordered
    if not after and (not alone or "VVG" in tags[start:i]):
        return False
    # before a noun it may as well be a part of its name: only a common verb is taken for one
    within = math.inf if follows else 2.0
    if after in ("AT0", "DPS") and "VVG" not in tags[start:i] and tags[i] == "NN2" and tags[head] != "NN2":
        return True  # a noun is not followed by an article or possessive
    if words[i].endswith("s"):
        return not (tags[head] == "NN2" and alone) and _can_be(words[i], ("VVZ",), "s" if follows else "", within)
    joined = start > 1 and tags[start - 1] == "CJC" and tags[start - 2] in _NOMINAL and not _has_finite(tags, start - 1)
    plural = tags[head] == "NN2" or words[head] in _PLURALS or joined
    return plural and _can_be(words[i], ("VVB", "VVI"), "", within)


def _has_finite(tags: Sequence[str], end: int) -> bool:
    return any(tag in _FINITE for tag in tags[_clause(tags, end) : end])
