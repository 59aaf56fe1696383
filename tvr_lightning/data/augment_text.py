"""Easy Data Augmentation of captions (Wei and Zou 2019): synonym replacement, insertion, swap, deletion.

Each call does one of the four, as their released code makes each new sentence by one. Synonyms are read from WordNet's
own files (Debian's package wordnet-base puts them into /usr/share/wordnet); without these files captions are only
swapped and thinned.
"""

from __future__ import annotations

import logging
import mmap
import os
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import numpy as np

from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.errors import ConfigError, DataError

WORDNET_FOLDERS = ("/usr/share/wordnet", "/usr/share/wordnet/dict", "/usr/local/share/wordnet/dict")
WORDNET_VARIABLE = "WNSEARCHDIR"  # WordNet's own

_PARTS = ("noun", "verb", "adj", "adv")
# endings that WordNet takes off a word before it looks for it (morphy(7WN)), by part of speech
_ENDINGS: dict[str, tuple[tuple[str, str], ...]] = {
    "noun": (
        ("s", ""), ("ses", "s"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"), ("men", "man"),
        ("ies", "y"),
    ),
    "verb": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ),
    "adj": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adv": (),
}  # fmt: skip
# words without content; WordNet knows some of them as something else ("in" is also an inch)
_FUNCTION_WORDS = """
a about after all along also am an and another any are as at be been being before behind both but by can could did do
does doing down each else every few for from had has have having he her here hers him his how i if in inside into is it
its just like many may me might more most my near no nor not now of off on one onto or other our out over own same she
should so some such than that the their them then there these they this those through to too toward towards under until
up us very was we were what when where which while who whom whose why will with within without would you your
"""
_SKIPPED = frozenset(_FUNCTION_WORDS.split())

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextAugmentation:
    """How captions are changed; a rate of 0 turns an operation off.

    Attributes:
        replace: share of words replaced by synonyms, at least one.
        insert: synonyms inserted at random places, as a share of the number of words, at least one.
        swap: pairs of words that swap places, as a share of the number of words, at least one.
        delete: probability that a word is deleted.
        senses: synonyms come from this many of a word's most frequent senses of each part of speech; null for all.
        wordnet: folder with WordNet's files (`index.noun`, `data.noun`, ...); null looks where systems put them.
    """

    replace: float = 0.1
    insert: float = 0.1
    swap: float = 0.1
    delete: float = 0.1
    senses: int | None = None
    wordnet: str | None = None


class CaptionAugmenter:
    """Changes captions; what it draws depends on the generator alone.

    Build it before data workers start, so that what is missing is said once.

    Raises:
        ConfigError: a rate outside [0, 1], or a folder that is given but holds no WordNet.
    """

    def __init__(self, options: TextAugmentation = TextAugmentation()) -> None:
        rates = {name: getattr(options, name) for name in ("replace", "insert", "swap", "delete")}
        for name, rate in rates.items():
            if not 0 <= rate <= 1:
                raise ConfigError(f"text augmentation: {name} is {rate}; it must be between 0 and 1")
        if options.senses is not None and options.senses < 1:
            raise ConfigError(f"text augmentation: senses is {options.senses}; it must be at least 1, or null for all")
        self.options = options
        self.wordnet: WordNet | None = None
        if wants_synonyms(options):
            folder = find_wordnet(options.wordnet)
            self.wordnet = None if folder is None else WordNet(folder, options.senses)
        operations: dict[str, Callable[[list[str], np.random.Generator], list[str]]] = {
            "swap": self._swap, "delete": self._delete,
        }  # fmt: skip
        if self.wordnet is not None:
            operations |= {"replace": self._replace, "insert": self._insert}
        self._operations = [operations[name] for name, rate in rates.items() if rate and name in operations]

    def __call__(self, caption: str, generator: np.random.Generator) -> str:
        """Returns the caption after one operation, drawn at random; it never loses its last word."""
        words = caption.split()
        if not words or not self._operations:
            return caption
        return " ".join(self._operations[int(generator.integers(len(self._operations)))](words, generator))

    def _replace(self, words: list[str], generator: np.random.Generator) -> list[str]:
        known = self._with_synonyms(words, generator)
        chosen = {words[place]: synonyms for place, synonyms in known[: _count(self.options.replace, words)]}
        for word, synonyms in chosen.items():  # every occurrence, as released
            new = _in_place_of(word, synonyms[int(generator.integers(len(synonyms)))])
            words = [new if w == word else w for w in words]
        return words

    def _insert(self, words: list[str], generator: np.random.Generator) -> list[str]:
        known = self._with_synonyms(words, generator)
        words = list(words)
        for k in range(_count(self.options.insert, words) if known else 0):
            synonyms = known[k % len(known)][1]
            new = synonyms[int(generator.integers(len(synonyms)))]
            words.insert(int(generator.integers(len(words) + 1)), new)
        return words

    def _swap(self, words: list[str], generator: np.random.Generator) -> list[str]:
        words = list(words)
        for _ in range(_count(self.options.swap, words) if len(words) > 1 else 0):
            a, b = generator.choice(len(words), 2, replace=False).tolist()
            words[a], words[b] = words[b], words[a]
        return words

    def _delete(self, words: list[str], generator: np.random.Generator) -> list[str]:
        kept = [w for w, draw in zip(words, generator.random(len(words)), strict=True) if draw >= self.options.delete]
        return kept or [words[int(generator.integers(len(words)))]]

    def _with_synonyms(self, words: list[str], generator: np.random.Generator) -> list[tuple[int, tuple[str, ...]]]:
        """Places of words that have synonyms, with them, in random order."""
        assert self.wordnet is not None
        found = ((place, self.wordnet.synonyms(_core(words[place]))) for place in generator.permutation(len(words)))
        return [(int(place), synonyms) for place, synonyms in found if synonyms]


def _count(rate: float, words: list[str]) -> int:
    return max(1, int(rate * len(words)))


def _core(word: str) -> str:
    """The word in lower case without the punctuation around it; empty for a function word."""
    core = word.strip(string.punctuation).lower()
    return "" if core in _SKIPPED else core


def _in_place_of(word: str, new: str) -> str:
    """`new` with the punctuation that stood around `word`."""
    core = word.strip(string.punctuation)
    return word.replace(core, new, 1)


def wants_synonyms(options: TextAugmentation) -> bool:
    """Whether words are replaced by synonyms, or synonyms inserted.

    >>> wants_synonyms(TextAugmentation()), wants_synonyms(TextAugmentation(replace=0, insert=0))
    (True, False)
    """
    return bool(options.replace or options.insert)


def lacks_synonyms(options: TextAugmentation) -> bool:
    """Whether synonyms are wanted and there is no WordNet that has them."""
    return wants_synonyms(options) and find_wordnet(options.wordnet) is None


def find_wordnet(folder: str | None = None) -> Path | None:
    """The folder with WordNet's files; None, with a word in the log, where the system has none.

    Args:
        folder: this one and no other; else that of $WNSEARCHDIR, else where systems and `make wordnet` put it.

    Raises:
        ConfigError: the folder that is given, or that the variable names, lacks a file.
    """
    given = folder or os.environ.get(WORDNET_VARIABLE)
    if given:
        lacking = _lacking(Path(given))
        if lacking:
            source = "text augmentation" if folder else f"${WORDNET_VARIABLE}"
            raise ConfigError(
                f"{source}: {given} lacks {', '.join(lacking)} of WordNet's files; give the folder that holds "
                "index.noun, data.noun and so on, or leave it out"
            )
        return Path(given)
    places = [*map(Path, WORDNET_FOLDERS), cache_folder(None) / "wordnet"]
    found = next((place for place in places if not _lacking(place)), None)
    if found is None:
        _say_once(
            f"text augmentation: no WordNet on this system (looked into {', '.join(map(str, places))}): words are "
            "swapped and deleted, not replaced or inserted. For synonyms: make wordnet, or apt install wordnet-base, "
            "or set the folder"
        )
    return found


@cache
def _say_once(text: str) -> None:
    _log.warning(text)


def _lacking(folder: Path) -> list[str]:
    names = [f"{kind}.{part}" for part in _PARTS for kind in ("index", "data")]
    return [name for name in names if not (folder / name).is_file()]


class WordNet:
    """Synonyms from WordNet's database files, as wndb(5WN) describes them.

    Files are mapped, not read: an index is searched by halves, a synset is at the byte that the index names. Copies in
    other processes open them anew.

    Args:
        folder: with `index.noun`, `data.noun` and so on for four parts of speech; `noun.exc` and so on may be missing.
        senses: how many of the most frequent senses of each part of speech count; None for all.
    """

    def __init__(self, folder: Path, senses: int | None = None) -> None:
        self.folder = folder
        self.senses = senses

    def synonyms(self, word: str) -> tuple[str, ...]:
        """Other words of the synsets that hold a word or its base form, in order of sense; none for an unknown word.

        Args:
            word: in lower case.

        Raises:
            DataError: a file is damaged.
        """
        return _synonyms(self.folder, self.senses, word) if word else ()


@lru_cache(maxsize=1 << 16)
def _synonyms(folder: Path, senses: int | None, word: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    bases = {word}
    for part in _PARTS:
        for base in _bases(folder, part, word):
            bases.add(base)
            for offset in _offsets(folder, part, base)[:senses]:
                found |= dict.fromkeys(_words_at(folder, part, offset))
    return tuple(w for w in found if w.lower() not in bases)


def _bases(folder: Path, part: str, word: str) -> list[str]:
    """The word itself and its base forms, by the list of exceptions or else by its ending; those that WordNet has."""
    forms = _exceptions(folder, part).get(word) or tuple(
        word.removesuffix(ending) + put
        for ending, put in _ENDINGS[part]
        if word.endswith(ending) and len(word) > len(ending)
    )
    return [form for form in dict.fromkeys((word, *forms)) if _offsets(folder, part, form)]


@cache
def _mapped(path: Path) -> mmap.mmap:
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"WordNet: cannot read {path} ({error}); install it again") from error


@cache
def _exceptions(folder: Path, part: str) -> dict[str, tuple[str, ...]]:
    path = folder / f"{part}.exc"
    if not path.is_file():  # some packages leave them out; regular forms are found all the same
        return {}
    lines = (line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines())
    return {line[0]: tuple(line[1:]) for line in lines if len(line) > 1}


@lru_cache(maxsize=1 << 16)
def _offsets(folder: Path, part: str, lemma: str) -> tuple[int, ...]:
    """Where the synsets of a lemma begin; lines are sorted by it, those of the licence begin with blanks."""
    file = _mapped(folder / f"index.{part}")
    wanted = lemma.encode()
    low, high = 0, len(file) if wanted else 0
    while low < high:
        middle = (low + high) // 2
        begin = file.rfind(b"\n", low, middle) + 1 or low
        end = file.find(b"\n", middle)
        end = len(file) if end < 0 else end
        line = file[begin:end]
        key = line.partition(b" ")[0]
        if key == wanted:
            return _read_offsets(line, folder / f"index.{part}")
        if key < wanted:
            low = end + 1
        else:
            high = begin
    return ()


def _read_offsets(line: bytes, path: Path) -> tuple[int, ...]:
    fields = line.split()
    try:
        count = int(fields[2])
        offsets = tuple(int(f) for f in fields[-count:])
    except (ValueError, IndexError):
        count, offsets = 0, ()
    if count < 1 or len(offsets) != count:
        raise DataError(f"WordNet: {path} is damaged at {line[:40].decode(errors='replace')!r}; install it again")
    return offsets


def _words_at(folder: Path, part: str, offset: int) -> list[str]:
    """Words of one synset: a blank for an underscore, an adjective without its `(a)`, `(p)` or `(ip)`."""
    path = folder / f"data.{part}"
    file = _mapped(path)
    end = file.find(b"\n", offset)
    fields = file[offset : len(file) if end < 0 else end].decode("utf-8", errors="replace").split(" ")
    try:
        if int(fields[0]) != offset:
            raise ValueError
        count = int(fields[3], 16)
        words = [fields[4 + 2 * k] for k in range(count)]
    except (ValueError, IndexError):
        raise DataError(
            f"WordNet: {path} has no synset at byte {offset}; index and data do not belong together"
        ) from None
    return [w.partition("(")[0].replace("_", " ") for w in words]
