from __future__ import annotations

import re

import pytest

from tvr_lightning.data.triples.base import Span, Triple, phrase_of, word_spans
from tvr_lightning.data.triples.completing import FUNCTION_WORDS, Kind, Part, completed, is_content

KINDS: dict[str, Kind] = {
    "N": "noun", "A": "adjective", "V": "verb", "G": "participle", "P": "preposition", "O": "other",
}  # fmt: skip


def complete(tagged: str, *known: str) -> list[str]:
    """Completes `words/KIND words/KIND ...`, `.` between sentences, given triples as `subject|relation|object`."""
    caption = re.sub(r"/[A-Z]", "", tagged)
    words = word_spans(caption)
    sentences, place = [], 0
    for sentence in tagged.split(" . "):
        parts = []
        for text, kind in re.findall(r"([^/]+)/([A-Z]) ?", sentence):
            tokens: list[Span] = []
            for token in text.split():
                start = caption.index(token, place)
                place = start + len(token)
                tokens.append((start, place))
            parts.append(Part(KINDS[kind], tuple(tokens)))
        sentences.append(parts)

    def phrase(text: str) -> list[Span]:
        return [(match.start(), match.end()) for word in text.split() for match in [re.search(word, caption)] if match]

    given = [Triple(*(phrase_of(caption, phrase(text), words) for text in one.split("|"))) for one in known]
    found = completed(caption, given, sentences, words)
    assert list(found[: len(given)]) == given
    return [" | ".join(member.text for member in triple) for triple in found[len(given) :]]


@pytest.mark.parametrize(
    ("tagged", "known", "added"),
    [
        ("man/N sings/V", "man|sings|", []),
        ("man/N is/V warming jars/N", "man|is|", ["warming jars |  | "]),
        ("they/N race/V before/P finish line/N", "they|race|", ["they | before | finish line"]),
        ("before/P finish line/N they/N race/V", "they|race|", ["finish line |  | "]),
        ("they/N get/V them/N excited/A", "they|get|them", ["them |  | excited"]),
        ("man/N runs/V in/P black/A", "man|runs|", ["man | in | black"]),
        ("man/N runs/V dogs/N bark/V", "man|runs|", ["dogs | bark | "]),
        ("man/N sees/V dogs/N", "man||", ["man | sees | dogs"]),
        ("man/N sings/V slowly/O", "man|sings|", ["man | sings slowly | "]),
        ("slowly/O man/N sings/V", "man|sings|", ["man | slowly sings | "]),
        ("man/N slowly/O", "man||", ["man | slowly | "]),
        ("slowly/O man/N", "man||", ["slowly |  | "]),
        ("see/V dog/N bark/V", "dog|bark|", [" | see | dog"]),
        ("barking/G dog/N runs/V", "dog|runs|", ["dog | barking | "]),
        ("lady/N behind/P man/N sings/V", "lady|sings|man", ["lady | behind | man"]),
        ("lady/N sings/V behind/P man/N", "lady|sings|man", []),  # no content word, not between nouns
        ("man/N runs/V . dogs/N bark/V", "man|runs|", ["dogs | bark | "]),
        ("dogs/N bark/V . man/N runs/V", "man|runs|", ["dogs | bark | "]),
        ("slowly/O dogs/N bark/V", "dogs|bark|", ["dogs | slowly bark | "]),
        ("man/N sings/V 5/N", "man|sings|", ["5 |  | "]),
    ],
)
def test_each_kind(tagged: str, known: str, added: list[str]) -> None:
    assert complete(tagged, known) == added


def test_no_triple_stays_none() -> None:
    assert complete("movie trailer/N") == []


def test_content_words() -> None:
    assert all(not is_content(word) for word in FUNCTION_WORDS)
    assert all(not is_content(word) for word in ("The", "isn't", "can’t", "WON'T", "he's", "n't", "'s", ""))
    assert all(is_content(word) for word in ("jars", "Quickly", "2", "3.5", "man's", "dogs’", "t-shirt", "東京"))
