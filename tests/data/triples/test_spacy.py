from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from tvr_lightning.data.triples.base import word_spans
from tvr_lightning.data.triples.spacy import SpacyTriples, _pipeline, parsed_triples
from tvr_lightning.errors import ConfigError


@dataclass(eq=False)
class Word:
    """A token with the attributes of spaCy's."""

    text: str
    idx: int
    i: int
    dep_: str
    pos_: str
    children: list[Word] = field(default_factory=list)

    @property
    def head(self) -> Word:
        return self._head

    _head: Word = None  # type: ignore[assignment]


def parse(rows: Sequence[tuple[str, str, str, int]]) -> tuple[str, list[Word]]:
    """A caption and its parse from rows of word, part of speech, dependency, head."""
    words, place = [], 0
    for i, (text, pos, dep, _) in enumerate(rows):
        words.append(Word(text, place, i, dep, pos))
        place += len(text) + 1
    for word, (*_, head) in zip(words, rows, strict=True):
        word._head = words[head]
        if head != word.i:
            words[head].children.append(word)
    return " ".join(row[0] for row in rows), words


GUITAR = [
    ("a", "DET", "det", 1), ("man", "NOUN", "nsubj", 7), ("in", "ADP", "prep", 1), ("a", "DET", "det", 5),
    ("red", "ADJ", "amod", 5), ("shirt", "NOUN", "pobj", 2), ("is", "AUX", "aux", 7), ("playing", "VERB", "ROOT", 7),
    ("guitar", "NOUN", "dobj", 7), ("and", "CCONJ", "cc", 8), ("drums", "NOUN", "conj", 8), ("on", "ADP", "prep", 7),
    ("stage", "NOUN", "pobj", 11),
]  # fmt: skip
WHO = [
    ("two", "NUM", "nummod", 1), ("women", "NOUN", "nsubj", 4), ("who", "PRON", "nsubj", 3),
    ("sing", "VERB", "relcl", 1), ("are", "AUX", "ROOT", 4), ("happy", "ADJ", "acomp", 4),
]  # fmt: skip
TRIES = [
    ("cats", "NOUN", "nsubj", 3), ("and", "CCONJ", "cc", 0), ("dogs", "NOUN", "conj", 0), ("try", "VERB", "ROOT", 3),
    ("to", "PART", "aux", 5), ("catch", "VERB", "xcomp", 3), ("mice", "NOUN", "dobj", 5),
]  # fmt: skip
PASSIVE = [
    ("the", "DET", "det", 1), ("car", "NOUN", "nsubjpass", 3), ("is", "AUX", "auxpass", 3),
    ("washed", "VERB", "ROOT", 3), ("by", "ADP", "agent", 3), ("his", "PRON", "poss", 6), ("sister", "NOUN", "pobj", 4),
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "triples"),
    [
        (
            GUITAR,
            [
                "man | in | red shirt", "man | is playing | guitar", "man | is playing | drums",
                "man | is playing on | stage",
            ],
        ),
        (WHO, ["two women | sing | ", "two women | are | happy"]),
        (TRIES, ["cats | try | ", "dogs | try | ", "cats | to catch | mice", "dogs | to catch | mice"]),
        (PASSIVE, ["car | is washed by | his sister"]),
        ([("guitar", "NOUN", "ROOT", 0)], []),
        ([("sings", "VERB", "ROOT", 0)], []),
        ([], []),
    ],
)  # fmt: skip
def test_triples_of_a_parse(rows: Sequence[tuple[str, str, str, int]], triples: list[str]) -> None:
    caption, tokens = parse(rows)
    found = parsed_triples(caption, tokens)
    assert [" | ".join(phrase.text for phrase in triple) for triple in found] == triples
    for triple in found:
        for phrase in triple:
            assert set(phrase.spans) <= set(word_spans(caption))
            assert " ".join(caption[a:b] for a, b in phrase.spans) == phrase.text


class Pipeline:
    """What is used of a loaded model."""

    meta = {"version": "3.0"}  # noqa: RUF012
    pipe_names: list[str]

    def __init__(self, *names: str) -> None:
        self.pipe_names = list(names)

    def has_pipe(self, name: str) -> bool:
        return name in self.pipe_names

    def pipe(self, captions: Sequence[str]) -> Iterator[list[Word]]:
        for _ in captions:
            yield parse(GUITAR)[1]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    module = ModuleType("spacy")
    module.__dict__["__version__"] = "3.8"

    def load(name: str) -> Any:
        if name == "en_blank":
            return Pipeline("tagger")
        if name != "en_core_web_sm":
            raise OSError(f"[E050] Can't find model '{name}'")
        return Pipeline("tagger", "parser")

    module.__dict__["load"] = load
    monkeypatch.setitem(sys.modules, "spacy", module)
    _pipeline.cache_clear()
    yield module
    _pipeline.cache_clear()


@pytest.mark.usefixtures("fake")
def test_model_is_run() -> None:
    extractor = SpacyTriples()
    caption = parse(GUITAR)[0]
    assert len(extractor.extract([caption])[0]) == 4
    assert [caption[a:b] for a, b in extractor.words([caption], "entities")[0]] == [
        "man", "red", "shirt", "guitar", "drums", "stage",
    ]  # fmt: skip
    assert extractor.fingerprint == "spacy 1 en_core_web_sm 3.0 3.8"


@pytest.mark.usefixtures("fake")
def test_missing_model_and_missing_parser() -> None:
    with pytest.raises(ConfigError, match=r"no model 'en_nope'.*python -m spacy download en_nope"):
        SpacyTriples("en_nope").extract(["a man sings"])
    with pytest.raises(ConfigError, match="'en_blank' has no parser; it has tagger"):
        SpacyTriples("en_blank").extract(["a man sings"])


def test_spacy_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    _pipeline.cache_clear()
    with pytest.raises(ConfigError, match=r"spaCy is not installed.*pip install spacy"):
        SpacyTriples().extract(["a man sings"])
    with pytest.raises(ConfigError, match="spaCy is not installed"):
        _ = SpacyTriples().fingerprint


def test_possessive_is_part_of_the_noun() -> None:
    caption = "Tim's sister waves"
    rows = [
        ("Tim", "PROPN", "poss", 2),
        ("'s", "PART", "case", 0),
        ("sister", "NOUN", "nsubj", 3),
        ("waves", "VERB", "ROOT", 3),
    ]
    _, tokens = parse(rows)
    for token, place in zip(tokens, (0, 3, 6, 13), strict=True):
        token.idx = place
    (triple,) = parsed_triples(caption, tokens)
    assert triple.subject.text == "Tim 's sister"
    assert triple.subject.spans == ((0, 5), (6, 12))
