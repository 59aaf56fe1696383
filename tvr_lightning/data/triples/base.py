"""Subject-relation-object triples of captions, and the words that they choose as textual nodes.

LEAN (Li et al. 2024) takes the words of a query's triples as the nodes of its hypergraph (Sec. 3.1.1, Eq. 3) and
compares them with the entities alone and with the whole text (Fig. 3).
"""

from __future__ import annotations

import logging
import re
import unicodedata
from abc import ABC, abstractmethod
from bisect import bisect
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias, get_args

from tvr_lightning.errors import ConfigError, nearest

Span: TypeAlias = tuple[int, int]
"""Characters of a caption, from the first to the one after the last."""

Nodes: TypeAlias = Literal["triples", "entities", "all"]

SPACY_MODEL = "en_core_web_sm"  # what spaCy takes where nothing is said; here, because its module is loaded late

_log = logging.getLogger(__name__)

# letters and digits, joined inside by apostrophes, hyphens, or a number's point or comma
_WORD = re.compile(r"[^\W_]+(?:['’\-\u2010\u2011][^\W_]+|(?<=\d)[.,]\d+)*")
_GROUP = re.compile(r"\S+")


class Phrase(NamedTuple):
    """One member of a triple.

    Attributes:
        text: the phrase without its articles.
        spans: the caption's words that it consists of, in their order, each as in `word_spans`; empty when the phrase
            has no word of the caption (a relation that is only implied, the object of an intransitive verb).
    """

    text: str
    spans: tuple[Span, ...]


class Triple(NamedTuple):
    """What a caption says of something.

    Attributes:
        subject: who or what; without text and words where a sentence leaves it out.
        relation: the verb, the preposition, or both; without text and words where it is only implied, and for an
            entity alone.
        object: of the relation; without text and words for an intransitive verb and an entity alone.
    """

    subject: Phrase
    relation: Phrase
    object: Phrase


def word_set(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def word_spans(caption: str) -> list[Span]:
    """Where the words of a caption are, in their order.

    A word is a run of letters and digits, in any script, with the apostrophes and hyphens inside it (`don't`,
    `t-shirt`); punctuation and symbols are none. A caption without any word gives its groups of other characters
    instead, so that only an empty caption has nothing.
    """
    # accents and vowel signs that follow their letter belong to it, which \w does not know
    plain = caption if caption.isascii() else "".join("a" if unicodedata.category(c)[0] == "M" else c for c in caption)
    return [m.span() for m in _WORD.finditer(plain)] or [m.span() for m in _GROUP.finditer(caption)]


def words_of(piece: Span, words: Sequence[Span]) -> list[Span]:
    """The words that a piece of a caption is, or is a part of: `'s` of `man's`; none for a symbol."""
    start, end = piece
    place = max(0, bisect(words, piece) - 1)
    found = []
    while place < len(words) and words[place][0] < end:
        if words[place][1] > start:
            found.append(words[place])
        place += 1
    return found


def phrase_of(caption: str, pieces: Iterable[Span], words: Sequence[Span], text: str | None = None) -> Phrase:
    """Makes a phrase from pieces of a caption; a piece of a word (`'s`) stands for all of it.

    Args:
        caption: the caption.
        pieces: where a backend's tokens are.
        words: the caption's words, see `word_spans`.
        text: the phrase's text; the pieces themselves when there is none.
    """
    ordered = sorted(set(pieces))
    found = dict.fromkeys(word for piece in ordered for word in words_of(piece, words))
    said = " ".join(caption[start:end] for start, end in ordered) if text is None else text
    return Phrase(said, tuple(found))


def chosen_words(caption: str, triples: Sequence[Triple], nodes: Nodes) -> list[Span]:
    """The words of a caption that are textual nodes, in order of appearance.

    Args:
        caption: the caption.
        triples: its triples.
        nodes: `triples` for the words that occur in any of them, `entities` for those of subjects and objects only,
            `all` for all. A caption whose triples choose no word has all its words.
    """
    spans = word_spans(caption)
    if nodes == "all":
        return spans
    chosen = {
        span
        for triple in triples
        for phrase in (triple if nodes == "triples" else (triple.subject, triple.object))
        for span in phrase.spans
    }
    return [span for span in spans if span in chosen] or spans


class TripleExtractor(ABC):
    """Finds the triples of captions.

    Attributes:
        fingerprint: names the code, the model and its settings: equal ones give equal triples.
    """

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """Names what the triples depend on besides the caption."""

    @abstractmethod
    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Finds the triples of each caption; none where there are none."""

    def words(self, captions: Sequence[str], nodes: Nodes = "triples") -> list[list[Span]]:
        """The words of each caption that are textual nodes, in order of appearance; see `chosen_words`.

        Raises:
            ConfigError: `nodes` is none of the three.
        """
        if nodes not in get_args(Nodes):
            raise ConfigError(f"text nodes '{nodes}' do not exist; {nearest(nodes, get_args(Nodes))}")
        if nodes == "all":
            return [word_spans(caption) for caption in captions]
        found = self.extract(captions)
        return [chosen_words(c, triples, nodes) for c, triples in zip(captions, found, strict=True)]
