from __future__ import annotations

import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import pytest

from tvr_lightning.data.triples.base import SPACY_MODEL, chosen_words, word_spans
from tvr_lightning.data.triples.completing import is_content
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


def doc(rows: Sequence[tuple[str, str, str, int]]) -> tuple[str, Any]:
    """The same as a document of spaCy's own, without a model."""
    reason = "spaCy is not installed: pip install spacy"
    tokens = pytest.importorskip("spacy.tokens", reason=reason)
    vocab = pytest.importorskip("spacy.vocab", reason=reason).Vocab()
    texts, parts, deps, heads = ([row[i] for row in rows] for i in range(4))
    spaces = [True] * (len(rows) - 1) + [False] * bool(rows)
    made = tokens.Doc(vocab, words=texts, spaces=spaces, pos=parts, deps=deps, heads=heads)
    return made.text, made


Parse = Callable[[Sequence[tuple[str, str, str, int]]], tuple[str, Any]]
both = pytest.mark.parametrize("build", [parse, doc])

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
# prepositions, as the labels of spaCy's English models attach them
ABOUT = [
    ("man", "NOUN", "nsubj", 1), ("talks", "VERB", "ROOT", 1), ("about", "ADP", "prep", 1),
    ("cooking", "VERB", "pcomp", 2), ("rice", "NOUN", "dobj", 3), ("in", "ADP", "prep", 3), ("oil", "NOUN", "pobj", 5),
]  # fmt: skip
ABOUT_HOW = [
    ("man", "NOUN", "nsubj", 1), ("talks", "VERB", "ROOT", 1), ("about", "ADP", "prep", 1),
    ("how", "SCONJ", "advmod", 5), ("to", "PART", "aux", 5), ("cook", "VERB", "pcomp", 2), ("rice", "NOUN", "dobj", 5),
]  # fmt: skip
VIDEO_ABOUT = [
    ("video", "NOUN", "ROOT", 0), ("about", "ADP", "prep", 0), ("cooking", "VERB", "pcomp", 1),
    ("rice", "NOUN", "dobj", 2),
]  # fmt: skip
CLAUSE = [
    ("she", "PRON", "nsubj", 1), ("talks", "VERB", "ROOT", 1), ("about", "ADP", "prep", 1), ("a", "DET", "det", 4),
    ("dog", "NOUN", "nsubj", 5), ("chasing", "VERB", "pcomp", 2), ("cats", "NOUN", "dobj", 5),
]  # fmt: skip
OUT_OF = [
    ("dog", "NOUN", "nsubj", 1), ("runs", "VERB", "ROOT", 1), ("out", "ADP", "prep", 1), ("of", "ADP", "prep", 2),
    ("house", "NOUN", "pobj", 3),
]  # fmt: skip
NEXT_TO = [
    ("boy", "NOUN", "nsubj", 1), ("sits", "VERB", "ROOT", 1), ("quietly", "ADV", "advmod", 1),
    ("next", "ADV", "advmod", 1), ("to", "ADP", "prep", 3), ("girl", "NOUN", "pobj", 4),
]  # fmt: skip
FULL_OF = [
    ("glass", "NOUN", "nsubj", 1), ("is", "AUX", "ROOT", 1), ("full", "ADJ", "acomp", 1), ("of", "ADP", "prep", 2),
    ("water", "NOUN", "pobj", 3),
]  # fmt: skip
BAG_FULL_OF = [
    ("bag", "NOUN", "ROOT", 0), ("full", "ADJ", "amod", 0), ("of", "ADP", "prep", 1), ("apples", "NOUN", "pobj", 2),
]  # fmt: skip
UP_AND_DOWN = [
    ("he", "PRON", "nsubj", 1), ("runs", "VERB", "ROOT", 1), ("up", "ADP", "prep", 1), ("and", "CCONJ", "cc", 2),
    ("down", "ADP", "conj", 2), ("stairs", "NOUN", "pobj", 4),
]  # fmt: skip
STRANDED = [
    ("girl", "NOUN", "ROOT", 0), ("he", "PRON", "nsubj", 2), ("talks", "VERB", "relcl", 0), ("to", "ADP", "prep", 2),
]  # fmt: skip
ONE_OF = [
    ("one", "NUM", "nsubj", 4), ("of", "ADP", "prep", 0), ("the", "DET", "det", 3), ("men", "NOUN", "pobj", 1),
    ("sings", "VERB", "ROOT", 4),
]  # fmt: skip
WHEN = [
    ("dog", "NOUN", "nsubj", 1), ("barks", "VERB", "ROOT", 1), ("when", "SCONJ", "advmod", 4),
    ("he", "PRON", "nsubj", 4), ("sings", "VERB", "advcl", 1), ("loudly", "ADV", "advmod", 4),
]  # fmt: skip
# words that no rule reaches
LOST = [
    ("man", "NOUN", "nsubj", 1), ("sings", "VERB", "ROOT", 1), ("before", "SCONJ", "mark", 4),
    ("the", "DET", "det", 4), ("line", "NOUN", "npadvmod", 1), (".", "PUNCT", "punct", 1), ("warm", "ADJ", "amod", 7),
    ("jars", "NOUN", "ROOT", 7),
]  # fmt: skip
BETWEEN = [
    ("man", "NOUN", "nsubj", 3), ("by", "ADP", "dep", 3), ("tree", "NOUN", "dep", 3), ("sings", "VERB", "ROOT", 3),
]  # fmt: skip


@both
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
        (ABOUT, ["man | talks about cooking | rice", "man | talks about cooking in | oil"]),
        (ABOUT_HOW, ["man | talks about to cook | rice"]),
        (VIDEO_ABOUT, ["video | about cooking | rice"]),
        (CLAUSE, ["she | talks about | dog", "dog | chasing | cats"]),
        (OUT_OF, ["dog | runs out of | house"]),
        (NEXT_TO, ["boy | sits quietly next to | girl"]),
        (FULL_OF, ["glass | is | full", "glass | is full of | water"]),
        (BAG_FULL_OF, ["bag | full of | apples"]),
        (UP_AND_DOWN, ["he | runs down | stairs"]),
        (STRANDED, ["he | talks to | girl"]),
        (ONE_OF, ["one | of | men", "one | sings | "]),
        (WHEN, ["dog | barks | ", "he | sings loudly | "]),
        (LOST, ["man | sings | ", "line |  | ", "warm jars |  | "]),
        (BETWEEN, ["man | sings | ", "man | by | tree"]),
        ([("guitar", "NOUN", "ROOT", 0)], []),
        ([("sings", "VERB", "ROOT", 0)], []),
        ([], []),
    ],
)  # fmt: skip
def test_triples_of_a_parse(build: Parse, rows: Sequence[tuple[str, str, str, int]], triples: list[str]) -> None:
    caption, tokens = build(rows)
    found = parsed_triples(caption, tokens)
    assert [" | ".join(phrase.text for phrase in triple) for triple in found] == triples
    for triple in found:
        for phrase in triple:
            assert set(phrase.spans) <= set(word_spans(caption))
            assert " ".join(caption[a:b] for a, b in phrase.spans) == phrase.text
    if triples:
        words = [word for word in word_spans(caption) if is_content(caption[slice(*word)])]
        assert set(words) <= set(chosen_words(caption, found, "triples"))


def test_any_tree_keeps_the_content_words() -> None:
    draw = random.Random(0)
    labels = [
        "nsubj", "dobj", "prep", "pobj", "pcomp", "advmod", "amod", "acomp", "conj", "relcl", "acl", "aux", "prt",
        "det", "compound", "poss", "case", "dative", "agent", "xcomp", "mark", "attr", "punct",
    ]  # fmt: skip
    kinds = ["NOUN", "VERB", "ADP", "ADJ", "ADV", "PRON", "NUM", "DET", "AUX", "PART", "SCONJ", "PUNCT"]
    vocabulary = ["man", "runs", "about", "red", "how", "to", "two", "the", "'s", ",", "🎸", "who"]
    with_triples = 0
    for _ in range(1500):
        heads = [0, *(draw.randrange(i) for i in range(1, draw.randint(1, 14)))]
        order = draw.sample(range(len(heads)), len(heads))  # a tree over words in any order
        places = {old: new for new, old in enumerate(order)}
        rows = [(draw.choice(vocabulary), draw.choice(kinds), draw.choice(labels), places[heads[old]]) for old in order]
        caption, tokens = parse(rows)
        found = parsed_triples(caption, tokens)
        nodes = chosen_words(caption, found, "triples")
        assert {word for word in word_spans(caption) if is_content(caption[slice(*word)])} <= set(nodes)
        with_triples += bool(found)
    assert with_triples > 100


def test_long_chains() -> None:
    rows = [("man", "NOUN", "nsubj", 1), ("runs", "VERB", "ROOT", 1)]
    rows += [("of", "ADP", "prep", i - 1) for i in range(2, 3000)]
    assert parsed_triples(*parse(rows))


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
    assert re.fullmatch("spacy [0-9a-f]{32} en_core_web_sm 3.0 3.8", extractor.fingerprint)


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


@both
def test_possessive_is_part_of_the_noun(build: Parse) -> None:
    rows = [
        ("Tim", "PROPN", "poss", 2),
        ("'s", "PART", "case", 0),
        ("sister", "NOUN", "nsubj", 3),
        ("waves", "VERB", "ROOT", 3),
    ]
    caption, tokens = build(rows)
    (triple,) = parsed_triples(caption, tokens)
    assert triple.subject.text == "Tim 's sister"


def test_a_piece_stands_for_its_word() -> None:
    caption = "Tim's waves"
    _, tokens = parse(
        [
            ("Tim", "PROPN", "poss", 2),
            ("'s", "PART", "case", 0),
            ("waves", "NOUN", "nsubj", 3),
            ("roll", "VERB", "ROOT", 3),
        ]
    )
    for token, place in zip(tokens, (0, 3, 6, 12), strict=True):
        token.idx = place
    (triple,) = parsed_triples(f"{caption} roll", tokens)
    assert triple.subject.spans == ((0, 5), (6, 11))


@pytest.fixture(scope="module")
def model() -> SpacyTriples:
    """The real model, where somebody has installed it."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed: pip install spacy")
    if not spacy.util.is_package(SPACY_MODEL):
        pytest.skip(f"{SPACY_MODEL} is not installed: python -m spacy download {SPACY_MODEL}")
    return SpacyTriples()


def test_the_real_model(model: SpacyTriples) -> None:
    captions = [
        "a man talks about cooking rice", "a dog runs out of the house", "a boy sits next to a girl",
        "a man in a red shirt is playing a guitar", "",
    ]  # fmt: skip
    nodes = model.words(captions)
    for caption, found in zip(captions[:3], nodes, strict=False):
        assert [caption[a:b] for a, b in found] == [word for word in caption.split() if word not in ("a", "the")]
    assert [" | ".join(phrase.text for phrase in triple) for triple in model.extract(captions)[3]] == [
        "man | in | red shirt", "man | is playing | guitar",
    ]  # fmt: skip
    assert model.extract(captions)[4] == ()
    assert SPACY_MODEL in model.fingerprint
