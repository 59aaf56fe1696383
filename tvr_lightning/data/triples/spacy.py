"""Triples from a dependency parse of spaCy, for those who have it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib import import_module
from typing import Any, Protocol

from tvr_lightning.data.triples.base import SPACY_MODEL, Span, Triple, TripleExtractor, phrase_of, word_spans
from tvr_lightning.errors import ConfigError

_SUBJECTS = {"nsubj", "nsubjpass", "nsubj:pass", "csubj"}
_OBJECTS = {"dobj", "obj", "iobj", "dative", "attr", "oprd", "acomp"}
_MODIFIERS = {
    "amod", "compound", "nummod", "nmod", "poss", "nmod:poss", "case", "quantmod", "advmod", "compound:prt",
}  # fmt: skip
_VERBAL = {"aux", "auxpass", "aux:pass", "neg", "prt", "compound:prt", "cop"}
_PARTICIPLES = {"acl", "advcl", "xcomp", "relcl", "acl:relcl"}


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
        return f"spacy 1 {self.model} {meta.get('version')} {import_module('spacy').__version__}"

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

    A verb without object makes a triple without one. Articles are left out; conjuncts make triples of their own.

    Args:
        caption: the text.
        tokens: its tokens, with the places of their heads.
    """
    triples: list[tuple[list[Token], list[Token], list[Token]]] = []
    for token in tokens:
        if token.pos_ in ("VERB", "AUX") and token.dep_ not in _VERBAL:
            subjects = [noun for found in _subjects(token) for noun in _conjuncts(found)]
            triples += [(_noun(s), r, o) for s in subjects for r, o in _predicates(token)]
        elif token.pos_ in ("NOUN", "PROPN", "PRON"):
            triples += [(_noun(token), [prep], _noun(o)) for prep, o in _prepositional(token)]
    words = word_spans(caption)
    made = (Triple(*(phrase_of(caption, map(_span, member), words) for member in triple)) for triple in triples)
    return tuple(dict.fromkeys(triple for triple in made if triple.subject.spans and triple.relation.spans))


def _subjects(verb: Token) -> list[Token]:
    """The verb's own, else the noun that it describes, else those of the verb that it depends on."""
    seen: set[int] = set()
    while verb.i not in seen:  # a root is its own head
        seen.add(verb.i)
        own = [child for child in verb.children if child.dep_ in _SUBJECTS]
        described = verb.head if verb.dep_ in ("acl", "relcl", "acl:relcl") else None
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


def _predicates(verb: Token) -> list[tuple[list[Token], list[Token]]]:
    chain = [verb, *(child for child in verb.children if child.dep_ in _VERBAL)]
    found = [(chain, _noun(o)) for child in verb.children if child.dep_ in _OBJECTS for o in _conjuncts(child)]
    found += [([*chain, prep], _noun(o)) for prep, o in _prepositional(verb)]
    return found or [(chain, [])]


def _prepositional(token: Token) -> list[tuple[Token, Token]]:
    return [
        (prep, noun)
        for prep in token.children
        if prep.dep_ in ("prep", "agent", "dative") and prep.pos_ in ("ADP", "SCONJ", "PART")
        for object_ in prep.children
        if object_.dep_ in ("pobj", "obj")
        for noun in _conjuncts(object_)
    ]


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


def _span(token: Token) -> Span:
    return token.idx, token.idx + len(token.text)
