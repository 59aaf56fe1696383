"""Triples of Stanford CoreNLP's open information extraction (Angeli et al. 2015), which LEAN uses (Sec. 3.1.1).

CoreNLP runs beforehand, on files of captions: `write_captions` makes them and `command` says how it is called. Its
output stays beside them, and `CoreNLPFiles` reads that.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
from bisect import bisect, bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from tvr_lightning.data.stores.code import code_fingerprint
from tvr_lightning.data.triples import base
from tvr_lightning.data.triples.base import Phrase, Span, Triple, TripleExtractor, phrase_of, word_spans
from tvr_lightning.data.triples.cached import decoded, encoded
from tvr_lightning.errors import ConfigError, DataError, RunError, few

CAPTIONS_PER_FILE = 500  # some 10 MB of CoreNLP's JSON
MAX_TEXT_BYTES = 1 << 24
MAX_JSON_BYTES = 1 << 28

_LIST = "files.list"  # no .txt: it holds no captions
_NO_LINE = re.compile(r"[\s\x00-\x1f\x7f-\x9f]")  # what Java or Python could take for the end of a line


def line_of(caption: str) -> str:
    r"""A caption as a line of a file: of as many characters, each at its place, but none that ends a line.

    >>> line_of("a man\n sings\t")
    'a man  sings '
    """
    return re.sub("[\ud800-\udfff]", "?", _NO_LINE.sub(" ", caption))


def write_captions(captions: Iterable[str], folder: Path) -> list[Path]:
    """Writes captions as text files for CoreNLP, one a line and each once, and a list of these files.

    Args:
        captions: in any order; blank ones are left out.
        folder: where the files go; it must hold no others of this kind.

    Returns:
        The files of captions.

    Raises:
        ConfigError: there is no caption, or the folder holds such files already.
        RunError: the folder cannot be written.
    """
    lines = [line for line in dict.fromkeys(line_of(caption) for caption in captions) if line.strip()]
    if not lines:
        raise ConfigError("no captions to write: give some, `--file captions.txt` or `--config experiments/X.yaml`")
    if there := [path.name for pattern in ("*.txt", "*.txt.json") for path in sorted(folder.glob(pattern))]:
        raise ConfigError(f"{folder} holds {few(there, 3)} already. Give an empty folder, or delete these files.")
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for start in range(0, len(lines), CAPTIONS_PER_FILE):
            written.append(folder / f"captions-{start // CAPTIONS_PER_FILE:05d}.txt")
            text = "".join(f"{line}\n" for line in lines[start : start + CAPTIONS_PER_FILE])
            written[-1].write_text(text, encoding="utf-8", newline="\n")
        (folder / _LIST).write_bytes(b"".join(os.fsencode(path.resolve()) + b"\n" for path in written))
    except OSError as error:
        raise RunError(f"cannot write captions to {folder}: {error.strerror}. Choose another folder.") from error
    return written


def command(folder: Path) -> str:
    """What makes CoreNLP's output for the captions in a folder; to be run in the folder of CoreNLP."""
    place = shlex.quote(str(folder.resolve()))
    return (
        'java -mx4g -cp "*" edu.stanford.nlp.pipeline.StanfordCoreNLP '
        "-annotators tokenize,ssplit,pos,lemma,depparse,natlog,openie -ssplit.newlineIsSentenceBreak always "
        f"-encoding utf-8 -outputFormat json -filelist {shlex.quote(str(folder.resolve() / _LIST))} "
        f"-outputDirectory {place}"
    )


class CoreNLPFiles(TripleExtractor):
    """Reads what the `openie` annotator of CoreNLP has found, from its JSON files.

    A file `NAME.txt.json` belongs to the captions in `NAME.txt`, one a line. Sentences are given to captions by their
    tokens' places, and each token must stand in the caption as the JSON says: a file of other captions is refused.
    Files are read when the triples of one of their captions are asked for, each once.

    Args:
        path: a folder that `write_captions` has made and CoreNLP has written to, or one of its JSON files.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._known: dict[str, str] = {}  # lines and their triples, as compact as the cache has them
        self._read: set[int] = set()

    @property
    def fingerprint(self) -> str:
        """The code, and what the files hold.

        Raises:
            DataError: files are missing or cannot be read.
        """
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = hashlib.blake2b(digest_size=16)
        for files in self._documents:
            for file, bound in zip(files, (MAX_TEXT_BYTES, MAX_JSON_BYTES), strict=True):
                digest.update(hashlib.blake2b(_content(file, bound)).digest())
        return f"corenlp_json {code_fingerprint(Path(f) for f in (base.__file__, __file__))} {digest.hexdigest()}"

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Looks the triples of each caption up; a blank one has none.

        Raises:
            DataError: files are missing or broken, belong to other captions, or lack one of these.
        """
        return [self._triples(caption) for caption in captions]

    def _triples(self, caption: str) -> tuple[Triple, ...]:
        line = line_of(caption)
        if not line.strip():
            return ()
        if line not in self._index:
            raise DataError(
                f"no CoreNLP output in {self.path} for the caption {caption[:60]!r} ({len(self._index):,} others are "
                "there). Write the captions of this dataset to a new folder and run CoreNLP on it; see docs/triples.md."
            )
        number = self._index[line]
        if number not in self._read:
            found = _read_document(*self._documents[number])
            self._known |= {line: encoded(triples) for line, triples in found.items()}
            self._read.add(number)
        return decoded(self._known[line], len(caption))

    @cached_property
    def _index(self) -> dict[str, int]:
        """The number of the file that each caption stands in."""
        texts = [_text(text) for text, _ in self._documents]
        return {line: i for i, text in reversed(list(enumerate(texts))) for line in text.split("\n") if line.strip()}

    @cached_property
    def _documents(self) -> list[tuple[Path, Path]]:
        """The files of captions and those of triples."""
        folder = self.path if self.path.is_dir() else self.path.parent
        if self.path.is_dir():
            texts, found = ({p.name for p in folder.glob(pattern)} for pattern in ("*.txt", "*.txt.json"))
        elif self.path.is_file() and self.path.name.endswith(".txt.json"):
            found = {self.path.name}
            texts = {self.path.name.removesuffix(".json")}
        else:
            raise DataError(
                f"{self.path} is neither a folder nor a file NAME.txt.json. Make it: tvr triples --write FOLDER; see "
                "docs/triples.md."
            )
        wanted = {f"{name}.json" for name in texts}
        if not wanted and not found:
            raise DataError(f"{folder} holds no captions-*.txt. Make them: tvr triples --write FOLDER.")
        if lacking := sorted(wanted - found):
            raise DataError(
                f"{len(lacking)} of {len(wanted)} files of captions in {folder} have no output of CoreNLP: "
                f"{few(lacking, 3)} missing. Run: {command(folder)}"
            )
        if strange := sorted(found - wanted):
            raise DataError(
                f"{folder} holds {few(strange, 3)} without the captions that belong to it: put "
                f"{strange[0].removesuffix('.json')} beside it, or remove it."
            )
        root = folder.resolve()
        files = [(folder / name, folder / f"{name}.json") for name in sorted(texts)]
        for file in (file for pair in files for file in pair):
            try:
                inside = file.resolve().is_relative_to(root)
                if file.is_symlink():
                    file.stat()  # from Python 3.13 on a link to itself resolves to itself
            except (OSError, RuntimeError):  # a link to itself, or to nothing
                inside = False
            if not inside:
                raise DataError(f"{file} is a link out of {folder}, or to nowhere. Put the file itself there.")
        return files


def _content(file: Path, bound: int) -> bytes:
    try:
        if not file.is_file():
            raise DataError(f"{file} is missing, or no file. Put it beside the other files of CoreNLP.")
        with file.open("rb") as opened:
            content = opened.read(bound + 1)
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}. Make it readable, or make it again.") from error
    if len(content) > bound:
        raise DataError(
            f"{file} is larger than {bound >> 20} MiB. Write fewer captions to a file; tvr triples --write has "
            f"{CAPTIONS_PER_FILE}."
        )
    return content


def _text(file: Path) -> str:
    try:
        return _content(file, MAX_TEXT_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text ({error.reason} at byte {error.start}). Make it with tvr triples --write."
        ) from error


def _read_document(text_file: Path, json_file: Path) -> dict[str, tuple[Triple, ...]]:
    """The captions of a file with their triples."""
    text = _text(text_file)
    try:
        # CoreNLP leaves control characters in strings as they are
        document = json.loads(_content(json_file, MAX_JSON_BYTES).decode("utf-8"), strict=False)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{json_file} is not JSON, or only a part of it ({error}). Run CoreNLP on it again.") from error
    lines = text.split("\n")
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    places = _utf16_places(text)
    found: list[list[Triple] | None] = [None] * len(lines)
    try:
        for sentence in document["sentences"]:
            pieces = [_place(token, text, places) for token in sentence["tokens"]]
            if any(after[0] < before[1] for before, after in pairwise(pieces)):
                raise ValueError("the tokens of a sentence are not in the order of the text")
            number = bisect(starts, pieces[0][0]) - 1
            if pieces[-1][1] > starts[number] + len(lines[number]):
                raise ValueError(
                    f"the sentence of line {number + 1} goes on in the next caption: CoreNLP has run without "
                    "`-ssplit.newlineIsSentenceBreak always`"
                )
            own = [(start - starts[number], end - starts[number]) for start, end in pieces]
            found[number] = [*(found[number] or ()), *_triples(lines[number], own, sentence)]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        said = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"{json_file} is not what CoreNLP's openie gives for {text_file.name}: {said}. Run: "
            f"{command(text_file.parent)}"
        ) from error
    lacking = [line for line, row in zip(lines, found, strict=True) if row is None and re.search(r"[^\W_]", line)]
    if lacking:
        raise DataError(
            f"{json_file} has no sentence for {len(lacking):,} of the captions in {text_file.name}, the first is "
            f"{lacking[0].strip()[:60]!r}. Run: {command(text_file.parent)}"
        )
    return {line: tuple(dict.fromkeys(row or ())) for line, row in zip(lines, found, strict=True)}


def _place(token: dict[str, Any], text: str, places: Sequence[int]) -> Span:
    """Where a token stands in the text.

    Raises:
        LookupError, TypeError, ValueError: it is not a token of this text.
    """
    begin, end, said = token["characterOffsetBegin"], token["characterOffsetEnd"], token["originalText"]
    if type(begin) is not int or type(end) is not int or not isinstance(token["word"], str):
        raise TypeError(f"token {said!r:.60} has no word, or is nowhere")
    if not 0 <= begin < end < len(places):
        raise ValueError(f"token {said!r:.60} is at {begin} to {end} of {len(places) - 1} characters")
    span = places[begin], places[end]
    if -1 in span:
        raise ValueError(f"token {said!r:.60} is at {begin} to {end}, which is inside a letter")
    if text[slice(*span)] != said:
        raise ValueError(f"token {said!r:.60} is not at {begin} to {end}, where {text[slice(*span)][:40]!r} stands")
    return span


def _triples(caption: str, pieces: Sequence[Span], sentence: dict[str, Any]) -> list[Triple]:
    words = word_spans(caption)
    spelt: dict[str, list[int]] = {}
    for number, token in enumerate(sentence["tokens"]):
        spelt.setdefault(token["word"], []).append(number)
    if not isinstance(sentence["openie"], list):
        raise TypeError("openie is not a list")
    return [
        Triple(*(
            _phrase(caption, found[name], found[f"{name}Span"], spelt, pieces, words)
            for name in ("subject", "relation", "object")
        ))
        for found in sentence["openie"]
    ]  # fmt: skip


def _phrase(
    caption: str,
    text: str,
    span: Sequence[int],
    spelt: Mapping[str, Sequence[int]],
    pieces: Sequence[Span],
    words: Sequence[Span],
) -> Phrase:
    """The tokens of a phrase: a span holds tokens that the phrase leaves out, the phrase some that are implied."""
    found = []
    place, end = max(0, span[0]), min(span[1], len(pieces))
    for part in text.split(" "):
        numbers = spelt.get(part, ())
        match = bisect_left(numbers, place)
        if match < len(numbers) and numbers[match] < end:
            found.append(pieces[numbers[match]])
            place = numbers[match] + 1
    return phrase_of(caption, found, words, text)


def _utf16_places(text: str) -> list[int]:
    """Which character each offset of Java's strings is, where those outside the basic plane count twice."""
    # the second half of such a one is not a place where a token begins or ends
    places = [place for i, c in enumerate(text) for place in ((i, -1) if ord(c) > 0xFFFF else (i,))]
    return [*places, len(text)]
