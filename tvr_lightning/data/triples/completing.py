"""What a backend's rules miss of a caption: no content word is lost."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

from tvr_lightning.data.triples.base import Span, Triple, phrase_of, word_set, words_of

Kind: TypeAlias = Literal["noun", "adjective", "verb", "participle", "preposition", "other"]

Members: TypeAlias = tuple[Sequence[Span], Sequence[Span], Sequence[Span]]
"""Tokens of subject, relation and object."""

_VERBS = ("verb", "participle")
_RELATIONS = (*_VERBS, "preposition")

_CLITIC = re.compile(r"(?:n't|'(?:s|re|ve|ll|d|m))$")

# words that relate, point or count nothing by themselves: every other word is a content word, numbers included
FUNCTION_WORDS = word_set(
    "a an the this that these those some any all both each every no another such other "
    "i me my mine myself we us our ours ourselves you your yours yourself he him his himself she her hers herself it "
    "its itself they them their theirs themselves who whom whose which what where when why how whoever whatever "
    "and or but nor so yet if because as until while although though than since unless whether of at by for with "
    "about against between into through during before after above below to from up down in out on off over under again "
    "further around along across behind beside besides near inside outside onto upon toward towards within without "
    "among amongst beneath underneath past per via am is are was were be been being have has had having do does did "
    "doing will would shall should can could may might must ca wo sha s t not there here then once too very just also "
    "infront"
)


class Part(NamedTuple):
    """A phrase of a sentence, or a word that belongs to none.

    Attributes:
        kind: what it does; `participle` for a verb that can describe the noun after it.
        tokens: where its tokens are, without articles.
    """

    kind: Kind
    tokens: tuple[Span, ...]


def is_content(word: str) -> bool:
    """Whether a word, spelt as in a caption, says something by itself: no function word, with or without a clitic.

    >>> [is_content(word) for word in ("jars", "Two", "don't", "he's", "man's", "about")]
    [True, True, False, False, True, False]
    """
    stem = _CLITIC.sub("", word.lower().replace("’", "'"))
    return bool(stem) and stem not in FUNCTION_WORDS


def completed(
    caption: str, triples: Iterable[Triple], sentences: Sequence[Sequence[Part]], words: Sequence[Span]
) -> tuple[Triple, ...]:
    """Adds triples for the content words of a caption that its triples lack, and for prepositions between two nouns.

    What a lost phrase becomes:

    - a noun: the object of the preposition before it (race; before; finish line), else an entity alone, which is a
      subject without relation and object (warming jars; ; );
    - an adjective after a noun: what is said of it, with the relation only implied (them; ; excited);
    - a verb: the relation of the noun before it and the noun right after it. A caption that leaves its subject out
      has none there either (; can see; lady);
    - any other word, an adverb for example: it joins the nearest verb (lady; gets up slowly; ).

    A caption without any triple stays without: all its words are nodes then.

    Args:
        caption: the text.
        triples: what the rules found.
        sentences: the parts of each sentence, in their order; together they hold all words.
        words: the caption's words.

    Returns:
        The triples as they are, and the additional ones after them.
    """
    found = dict.fromkeys(triples)
    if not found:
        return ()
    covered = {span for triple in found for phrase in triple for span in phrase.spans}

    def lost(tokens: Sequence[Span]) -> tuple[Span, ...]:
        return tuple(token for token in tokens if (own := set(words_of(token, words))) and not own & covered)

    for parts in sentences:
        # relations first: they take lost nouns with them
        for place in sorted(range(len(parts)), key=lambda place: parts[place].kind not in _RELATIONS):
            part = parts[place]
            missed = lost(part.tokens)
            joins = part.kind == "preposition" and _kind(parts, place - 1) == _kind(parts, place + 1) == "noun"
            if not missed or not (
                joins or any(is_content(caption[a:b]) for t in missed for a, b in words_of(t, words))
            ):
                continue
            members = _members(parts, place, missed, lost, list(found), words)
            subject, relation, object_ = (phrase_of(caption, tokens, words) for tokens in members)
            found[Triple(subject, relation, object_)] = None
            covered |= {span for phrase in (subject, relation, object_) for span in phrase.spans}
    return tuple(found)


def _members(
    parts: Sequence[Part],
    place: int,
    missed: tuple[Span, ...],
    lost: Callable[[Sequence[Span]], tuple[Span, ...]],
    found: Sequence[Triple],
    words: Sequence[Span],
) -> Members:
    """The triple of a lost part, or of the lost words of one."""
    part = parts[place]
    before, after = _kind(parts, place - 1), _kind(parts, place + 1)
    noun = next((p.tokens for p in reversed(parts[:place]) if p.kind == "noun"), ())
    match part.kind:
        case "preposition" if before == after == "noun":
            return noun, missed, parts[place + 1].tokens
        case "adjective" if before == "noun":
            return noun, (), missed
        case "noun" | "adjective":
            start = place
            while _kind(parts, start - 1) == "preposition":
                start -= 1
            related = next((p.tokens for p in reversed(parts[:start]) if p.kind == "noun"), ())
            if start < place and related:
                return related, tuple(token for p in parts[start:place] for token in p.tokens), missed
            return missed, (), ()
        case "verb" | "participle":
            behind = parts[place + 1].tokens if after == "noun" else ()
            if part.kind == "participle" and not noun:
                return behind, missed, ()
            return noun, missed, behind if lost(behind) or not noun else ()
    verb = next((p.tokens for p in (*reversed(parts[:place]), *parts[place:]) if p.kind in _VERBS), ())
    spans = {word for token in verb for word in words_of(token, words)}
    doer = next((t.subject.spans for t in found if not spans.isdisjoint(t.relation.spans)), noun)
    return (doer, (*verb, *missed), ()) if verb and doer else (noun, missed, ()) if noun else (missed, (), ())


def _kind(parts: Sequence[Part], place: int) -> str:
    return parts[place].kind if 0 <= place < len(parts) else ""
