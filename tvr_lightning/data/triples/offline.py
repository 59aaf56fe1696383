"""Triples without a download: chunks of a tagged caption, read from left to right by the rules of a simple grammar."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tvr_lightning.data.stores.code import code_fingerprint
from tvr_lightning.data.triples import base, completing, tags
from tvr_lightning.data.triples.base import Span, Triple, TripleExtractor, phrase_of, word_set, word_spans
from tvr_lightning.data.triples.completing import Kind, Part, completed
from tvr_lightning.data.triples.tags import ANIMATE, LINKING, Chunk, Piece, sentences

MAX_CONJUNCTS = 8  # of one enumeration: two long ones would make a triple of each pair

_DEPICTIONS = word_set(
    "animation animations clip clips commentary compilation footage image images montage movie photo photos picture "
    "pictures recording scene scenes screenshot series shot shots slideshow trailer video videos view views"
)
_SHOWING = word_set("show shows showing shown features featuring depicts depicting")

_PART_KINDS: dict[str, Kind] = {
    "NP": "noun", "AP": "adjective", "IN": "preposition", "OF": "preposition", "TO": "preposition", "RP": "preposition",
}  # fmt: skip

Noun = tuple[Piece, ...]


class OfflineTriples(TripleExtractor):
    """HanTa's parts of speech, NLTK's chunks and rules; English only.

    A verb makes a triple with its object and with each prepositional phrase after it, (man; plays; guitar) and (man;
    plays on; stage); a preposition before the verb joins two nouns, (man; in; red shirt). A verb with neither makes a
    triple without object, (man; sings; ). Conjuncts make triples of their own. Articles, demonstratives and `some`,
    `all`, `no` belong to no phrase, as in CoreNLP's triples; possessives, numbers and auxiliaries do.

    Every noun, verb, adjective, adverb and number of a caption that has a triple is in one: what these rules miss is
    added as `completing.completed` says, an object of the preposition before it or an entity alone.

    >>> for triple in OfflineTriples().extract(["a man in black picks something up"])[0]:
    ...     print(" | ".join(phrase.text for phrase in triple))
    man | picks | something
    man | in | black
    """

    @property
    def fingerprint(self) -> str:
        """The code, the tagger's and the chunker's version."""
        return _fingerprint()

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Finds the triples of each caption in the order of their relations' last words, then what these miss."""
        return [_extract(caption) for caption in captions]


@cache
def _fingerprint() -> str:
    code = code_fingerprint(Path(file) for file in (base.__file__, completing.__file__, tags.__file__, __file__))
    return f"offline {code} HanTa {version('HanTa')} nltk {version('nltk')}"


def _extract(caption: str) -> tuple[Triple, ...]:
    words = word_spans(caption)
    if not any(character.isalnum() for character in caption):
        return ()
    found: list[Triple] = []
    parts: list[list[Part]] = []
    for chunks in sentences(caption, words):
        parts.append([Part(_part_kind(chunk), _spans(_without_articles(chunk.pieces))) for chunk in chunks])
        for members in _Clauses(chunks).read():
            subject, relation, object_ = (phrase_of(caption, _spans(member), words) for member in members)
            found.append(Triple(subject, relation, object_))
    return completed(caption, found, parts, words)


def _spans(pieces: Noun) -> tuple[Span, ...]:
    return tuple(piece.span for piece in pieces)


def _part_kind(chunk: Chunk) -> Kind:
    if chunk.kind == "VP":
        return "verb" if _finite(chunk.pieces) else "participle"
    return _PART_KINDS.get(chunk.kind, "other")


class _Clauses:
    """Reads the chunks of one sentence.

    Args:
        chunks: the sentence's.
    """

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        self.chunks = chunks
        self.found: list[tuple[Noun, Noun, Noun]] = []
        self.subjects: list[Noun] = []  # of the clause
        self.finite = False  # whether they have a finite verb already
        self.latest: list[Noun] = []  # the nouns read last
        self.verb: Noun = ()
        self.open = False  # whether the verb waits for an object
        self.used = True  # whether the verb is in a triple
        self.leading: list[tuple[Noun, list[Noun]]] = []  # prepositional phrases before any subject

    def read(self) -> list[tuple[Noun, Noun, Noun]]:
        """Triples as the tokens of subject, relation and object."""
        place = 0
        while place < len(self.chunks):
            kind = self.chunks[place].kind
            if kind == "NP":
                place = self._noun(place)
            elif kind == "VP":
                place = self._verb(place)
            elif kind in ("IN", "OF") or (kind == "TO" and self._kind(place + 1) == "NP"):
                place = self._preposition(place)
            elif kind == "WH":
                place = self._relative(place)
            elif kind == "AP":
                if self.open and self.verb:
                    self._emit(self.verb, [self.chunks[place].pieces])
                    self.open = False
                place += 1
            elif kind == "RP" and self.open:
                self.verb += self.chunks[place].pieces
                place += 1
            elif kind == "EX":
                self._close()
                self.subjects, self.finite = [], False
                # "there is": the noun after the verb is the subject of what follows
                place += 2 if self._kind(place + 1) == "VP" else 1
            elif kind in ("CS", "CC", "PUN", "HOW"):
                self.open = False
                place += 1
            else:
                place += 1
        self._close()
        return self.found

    def _kind(self, place: int) -> str:
        return self.chunks[place].kind if 0 <= place < len(self.chunks) else ""

    def _is_finite(self, place: int) -> bool:
        return self._kind(place) == "VP" and _finite(self.chunks[place].pieces)

    def _emit(self, relation: Noun, objects: Sequence[Noun]) -> None:
        for subject in self.subjects:
            self.found += [(subject, relation, object_) for object_ in objects]
        self.used = True

    def _close(self) -> None:
        """Leaves the verb: it makes a triple of its own when it has no object."""
        if not self.used and self.verb and self.subjects:
            self._emit(self.verb, [()])
        self.verb, self.open, self.used = (), False, True

    def _begin(self, subjects: list[Noun]) -> None:
        self._close()
        self.subjects, self.finite = subjects, False
        for preposition, nouns in self.leading:
            self._emit(preposition, nouns)
        self.leading = []

    def _nouns(self, place: int, is_object: bool) -> tuple[list[Noun], list[Noun], int]:
        """An enumeration, what its depictions show, and the place after it; a conjunct with a verb ends an object."""
        nouns: list[Noun] = []
        shown: list[Noun] = []
        while True:
            noun, inner, place = self._whole(place)
            nouns.append(noun)
            shown.append(inner)
            after = place
            while self._kind(after) in ("CC", "PUN"):
                after += 1
            if after == place or self._kind(after) != "NP":
                break
            beyond = self._past_phrases(after + 1)
            if (
                is_object
                and self._kind(beyond) == "VP"
                and (
                    (self.verb and (self.finite or not self._is_finite(beyond)))
                    or _animate([self.chunks[after].pieces])
                )
            ):
                break
            if not is_object and self._kind(place) == "PUN" and after == place + 1 and self._kind(beyond) == "":
                break
            place = after
        return nouns[:MAX_CONJUNCTS], shown[:MAX_CONJUNCTS], place

    def _whole(self, place: int) -> tuple[Noun, Noun, int]:
        """One noun with its `of`, what it shows if it is a depiction, and the place after it."""
        depiction: Noun = ()
        noun = _without_articles(self.chunks[place].pieces)
        place += 1
        while self._kind(place) == "OF" and self._kind(place + 1) == "NP":
            of, inner = self.chunks[place].pieces, _without_articles(self.chunks[place + 1].pieces)
            if noun and noun[-1].text.lower() in _DEPICTIONS:
                self.found.append((noun, of, inner))
                depiction, noun = depiction or noun, inner
            else:
                noun = (*noun, *of, *inner)
            place += 2
        return depiction or noun, noun, place

    def _past_phrases(self, place: int) -> int:
        while self._kind(place) in ("IN", "OF") and self._kind(place + 1) == "NP":
            place += 2
        return place

    def _noun(self, place: int) -> int:
        adjacent = self.open and bool(self.verb)
        nouns, shown, after = self._nouns(place, is_object=adjacent)
        if adjacent and not (self.finite and self._is_finite(after)):
            self._emit(self.verb, nouns)
            # a second noun right behind is an object too: "gives the dog a bone"
            self.open = self._kind(after) == "NP"
        elif self.subjects and not self.verb and self._kind(place - 1) == "CC":
            self.subjects = self.subjects + shown  # "a man in a suit and a woman are dancing"
        else:
            self._begin(shown)
        self.latest = shown
        return after

    def _preposition(self, place: int) -> int:
        preposition: Noun = ()
        while self._kind(place) in ("IN", "OF", "TO", "RP"):
            preposition += self.chunks[place].pieces
            place += 1
        if self._kind(place) == "HOW" and self._kind(place + 1) == "VP":
            preposition += self.chunks[place].pieces
            place += 1
        if self._kind(place) == "VP":  # "talks about cooking rice"
            if self.verb and not self.used:
                self.verb += preposition + self.chunks[place].pieces
                self.open = True
                return place + 1
            return self._verb(place)
        if self._kind(place) != "NP":
            if self.verb and self.open:
                self.verb += preposition  # "looks around"
            return place
        nouns, shown, after = self._nouns(place, is_object=True)
        if self.verb:
            self._emit(self.verb + preposition, nouns)
        elif self.subjects:
            self._emit(preposition, nouns)
        else:
            self.leading.append((preposition, nouns))
        self.open = False
        if not (self.verb and any(p.text.lower() in _SHOWING for p in self.verb) and _animate(self.latest)):
            self.latest = shown
        return after

    def _relative(self, place: int) -> int:
        """`who sings` describes the nouns before it; `that she needs` is a clause of its own."""
        antecedents = self.latest if self.latest and (not self.subjects or _animate(self.latest)) else self.subjects
        if self._kind(place + 1) != "VP":
            self.open = False
            return place + 1
        main, finite = self.subjects, self.finite
        if self.verb and self.latest:
            antecedents = self.latest
        self._close()
        self.subjects, self.finite = antecedents, False
        after = self._verb(place + 1)
        if main == antecedents and not finite:
            self.finite = False  # the main verb is still to come
        return after

    def _verb(self, place: int) -> int:
        pieces = self.chunks[place].pieces
        for part in _parts(pieces):
            finite = _finite(part)
            subjects = self.subjects
            if self.latest and self.latest != subjects:
                direct = self._kind(place - 1) == "NP"
                if not subjects:
                    subjects = self.latest  # "in a kitchen person is cooking": one noun for the tagger
                    self.leading = []
                elif finite and self.finite and direct:
                    subjects = self.latest  # run-on clauses: "a man sits a woman stands"
                elif not finite and direct and _animate(self.latest) and (self.verb or not _animate(self.subjects)):
                    subjects = self.latest
            self._close()
            if subjects is not self.subjects:
                self.subjects, self.finite = subjects, False
            self.finite |= finite
            self.verb, self.open, self.used = part, True, False
        return place + 1


def _parts(pieces: Noun) -> list[Noun]:
    """The verbs of a chunk, each with its auxiliaries: `is sitting` + `playing`."""
    parts: list[list[Piece]] = [[]]
    for piece in pieces:
        verbs = [p for p in parts[-1] if p.kind[0] == "V"]
        joined = (
            piece.kind[0] != "V"
            or not verbs
            or piece.kind == "VI"
            or verbs[-1].tag[:2] in ("VB", "VH", "VD", "VM")
            or verbs[-1].text.lower() in LINKING
            or parts[-1][-1].kind == "TO"
        )
        if joined:
            parts[-1].append(piece)
        else:
            parts.append([piece])
    return [tuple(part) for part in parts]


def _finite(pieces: Noun) -> bool:
    first = next((p for p in pieces if p.kind[0] == "V"), None)
    return first is not None and first.kind == "VF" and not any(p.kind == "TO" for p in pieces[: pieces.index(first)])


def _animate(nouns: Sequence[Noun]) -> bool:
    return any(piece.text.lower() in ANIMATE for noun in nouns for piece in noun[-1:])


def _without_articles(pieces: Noun) -> Noun:
    return tuple(p for p in pieces if p.kind != "D" or p.tag == "DPS") or pieces
