"""Triples from a dependency parse of spaCy, for those who have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from tvr_lightning.data.stores.code import code_fingerprint
from tvr_lightning.data.triples import base, completing
from tvr_lightning.data.triples.base import SPACY_MODEL, Span, Triple, TripleExtractor, phrase_of, word_spans
from tvr_lightning.data.triples.completing import Kind, Part, completed, is_content
from tvr_lightning.errors import ConfigError

_SUBJECTS = {"nsubj", "nsubjpass", "nsubj:pass", "csubj"}
_OBJECTS = {"dobj", "obj", "iobj", "dative", "attr", "oprd", "acomp"}
_MODIFIERS = {
    "amod", "compound", "nummod", "nmod", "poss", "nmod:poss", "case", "quantmod", "advmod", "compound:prt",
}  # fmt: skip
_VERBAL = {"aux", "auxpass", "aux:pass", "neg", "prt", "compound:prt", "cop"}
_NOUNS = {"NOUN", "PROPN", "PRON", "NUM"}
_VERBS = {"VERB", "AUX"}
_CARRIERS = {"advmod", "acomp", "attr", "oprd", "amod", "prt"}  # adjectives and adverbs: "next to", "full of"
_STEPS = 8  # from a word to what its prepositions reach
_QUESTIONS = {"how", "when", "whenever", "where", "wherever", "why"}  # they open a clause and say nothing of its verb
_PART_KINDS: dict[str, Kind] = {
    **dict.fromkeys(_NOUNS, "noun"), **dict.fromkeys(_VERBS, "verb"), "ADJ": "adjective", "ADP": "preposition",
}  # fmt: skip
_RELATIVE = {"relcl", "acl:relcl"}
_PARTICIPLES = {"acl", "advcl", "xcomp", *_RELATIVE}


class Token(Protocol):
    """What is used of spaCy's tokens."""

    text: str
    idx: int
    i: int
    dep_: str
    pos_: str

    @property
    def head(self) -> Token:
        """The word that this one depends on."""

    @property
    def children(self) -> Iterable[Token]:
        """The words that depend on this one."""


class SpacyTriples(TripleExtractor):
    """Subjects, verbs and objects of spaCy's dependency parse (English labels).

    Args:
        model: name or folder of an installed pipeline with a parser; it is loaded once per process, at first use.
    """

    def __init__(self, model: str = SPACY_MODEL) -> None:
        self.model = model

    @property
    def fingerprint(self) -> str:
        """The rules, spaCy's and the model's version.

        Raises:
            ConfigError: spaCy or the model is not installed.
        """
        meta = _pipeline(self.model).meta
        code = code_fingerprint(Path(file) for file in (base.__file__, completing.__file__, __file__))
        return f"spacy {code} {self.model} {meta.get('version')} {import_module('spacy').__version__}"

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Parses each caption.

        Raises:
            ConfigError: spaCy or the model is not installed, or the model has no parser.
        """
        return [parsed_triples(caption, doc) for caption, doc in zip(captions, self._parse(captions), strict=True)]

    def _parse(self, captions: Sequence[str]) -> Iterator[Iterable[Token]]:
        pipeline = _pipeline(self.model)
        if not pipeline.has_pipe("parser"):
            raise ConfigError(
                f"spaCy's model '{self.model}' has no parser; it has {', '.join(pipeline.pipe_names) or 'nothing'}. "
                f"Choose one that parses, e.g. {SPACY_MODEL}."
            )
        return iter(pipeline.pipe(captions))


@cache
def _pipeline(model: str) -> Any:
    try:
        spacy = import_module("spacy")
    except ImportError as error:
        raise ConfigError(
            f"spaCy is not installed ({error}). Install it and a model: pip install spacy && python -m spacy download "
            f"{model}; or choose another backend, see docs/triples.md."
        ) from error
    try:
        return spacy.load(model)
    except OSError as error:
        raise ConfigError(
            f"spaCy has no model '{model}' ({error}). Install it: python -m spacy download {model}"
        ) from error


def parsed_triples(caption: str, tokens: Iterable[Token]) -> tuple[Triple, ...]:
    """Triples of a parsed caption: subject-verb-object, subject-verb preposition-object and noun-preposition-noun.

    A verb without object makes a triple without one. Articles are left out; conjuncts make triples of their own. A verb
    behind a preposition belongs to the relation, (man; talks about cooking; rice), and so do prepositions, adverbs and
    adjectives that lead to one another, (dog; runs out of; house), (bag; full of; apples). What these rules miss is
    added, see `completing.completed`.

    Args:
        caption: the text.
        tokens: its tokens, with the places of their heads.
    """
    tokens = list(tokens)
    triples: list[tuple[list[Token], list[Token], list[Token]]] = []
    for token in tokens:
        if token.pos_ in _VERBS and token.dep_ not in _VERBAL and not (token.dep_ == "pcomp" and not _own(token)):
            subjects = [noun for found in _subjects(token) for noun in _conjuncts(found)]
            triples += [(_noun(s), r, o) for s in subjects for r, o in _predicates(token)]
        elif token.pos_ in _NOUNS | {"DET"}:
            triples += [(_noun(token), relation, object_) for relation, object_ in _prepositional(token) if object_]
    words = word_spans(caption)
    made = (Triple(*(phrase_of(caption, map(_span, member), words) for member in triple)) for triple in triples)
    found = [triple for triple in made if triple.subject.spans and triple.relation.spans]
    return completed(caption, found, _sentences(tokens), words)


def _subjects(verb: Token) -> list[Token]:
    """The verb's own, else the noun that it describes, else those of the verb that it depends on."""
    seen: set[int] = set()
    while verb.i not in seen:  # a root is its own head
        seen.add(verb.i)
        own = _own(verb)
        described = verb.head if verb.dep_ in {"acl", *_RELATIVE} else None
        if described is not None and (
            not own or (own[0].pos_ == "PRON" and own[0].text.lower() in ("who", "that", "which"))
        ):
            return [described]
        if own:
            return own
        if verb.dep_ not in _PARTICIPLES | {"conj", "pcomp", "ccomp", "prep"}:
            return []
        verb = verb.head
    return []


def _own(verb: Token) -> list[Token]:
    return [child for child in verb.children if child.dep_ in _SUBJECTS]


def _predicates(verb: Token, steps: int = _STEPS) -> list[tuple[list[Token], list[Token]]]:
    adverbs = [
        child
        for child in verb.children
        if child.dep_ == "advmod" and child.text.lower() not in _QUESTIONS and not _prepositional(child, steps - 1)
    ]
    chain = [verb, *(child for child in verb.children if child.dep_ in _VERBAL), *adverbs]
    found = [(chain, _noun(o)) for child in verb.children if child.dep_ in _OBJECTS for o in _conjuncts(child)]
    gap = _gap(verb)
    found += [([*chain, *relation], object_ or gap) for relation, object_ in _prepositional(verb, steps)]
    return found or [(chain, gap)]


def _gap(verb: Token) -> list[Token]:
    """The noun that a relative clause with a subject of its own describes: `the girl he talks to`."""
    opened = any(child.text.lower() in _QUESTIONS for child in verb.children)
    return _noun(verb.head) if verb.dep_ in _RELATIVE and not opened and _subjects(verb) != [verb.head] else []


def _prepositional(token: Token, steps: int = _STEPS) -> list[tuple[list[Token], list[Token]]]:
    """The prepositions of a word, each with its object, or without one: `looks around`."""
    found: list[tuple[list[Token], list[Token]]] = []
    for child in token.children if steps > 0 else ():
        if child.dep_ in ("prep", "agent") or (child.dep_ == "dative" and child.pos_ in ("ADP", "SCONJ", "PART")):
            found += _reached(child, steps - 1)
        elif child.dep_ in _CARRIERS and child.pos_ in ("ADJ", "ADV", "ADP", "PART"):
            found += [([child, *relation], object_) for relation, object_ in _prepositional(child, steps - 1)]
    return found


def _reached(preposition: Token, steps: int) -> list[tuple[list[Token], list[Token]]]:
    """What a preposition leads to: nouns, a verb with its own objects, or another preposition."""
    found: list[tuple[list[Token], list[Token]]] = []
    for child in preposition.children if steps > 0 else ():
        if child.dep_ == "pcomp" and child.pos_ in _VERBS:
            if own := _own(child):  # a clause makes triples of its own
                found += [([preposition], _noun(noun)) for subject in own for noun in _conjuncts(subject)]
            else:
                found += [([preposition, *relation], object_) for relation, object_ in _predicates(child, steps - 1)]
        elif child.dep_ in ("pobj", "obj", "pcomp"):
            found += [([preposition], _noun(noun)) for noun in _conjuncts(child)]
        elif child.dep_ == "prep":
            found += [([preposition, *relation], object_) for relation, object_ in _reached(child, steps - 1)]
        elif child.dep_ == "conj" and child.pos_ == "ADP":
            found += _reached(child, steps - 1)
    return found or [([preposition], [])]


def _conjuncts(token: Token) -> list[Token]:
    found, place = [token], 0
    while place < len(found):
        found += [
            child for child in found[place].children if child.dep_ == "conj" and child.pos_ not in ("VERB", "AUX")
        ]
        place += 1
    return found


def _noun(head: Token) -> list[Token]:
    """A noun with what stands before it, without articles and other determiners."""
    found, place = [head], 0
    while place < len(found):
        found += [child for child in found[place].children if child.dep_ in _MODIFIERS and child.i < head.i]
        found += [child for child in found[place].children if child.dep_ == "case" and child.text in ("'s", "’s", "'")]
        place += 1
    return list({token.i: token for token in found}.values())


def _sentences(tokens: Sequence[Token]) -> list[list[Part]]:
    """The parts of each sentence: nouns with what stands before them, and all other words one by one."""
    nouns = [token for token in tokens if token.pos_ in _NOUNS]
    groups = {token.i: group for token in nouns if len(group := _noun(token)) > 1}
    inside = {token.i for head, group in groups.items() for token in group if token.i != head}
    sentences: dict[int, list[tuple[int, Part]]] = {}
    for token in tokens:
        if token.i in inside or (token.pos_ == "DET" and not is_content(token.text)):
            continue
        group = sorted(groups.get(token.i, [token]), key=lambda member: member.i)
        root = token
        while root.head.i != root.i:
            root = root.head
        part = Part(_PART_KINDS.get(token.pos_, "other"), tuple(map(_span, group)))
        sentences.setdefault(root.i, []).append((group[0].i, part))
    return [[part for _, part in sorted(sentence)] for sentence in sentences.values()]


def _span(token: Token) -> Span:
    return token.idx, token.idx + len(token.text)
