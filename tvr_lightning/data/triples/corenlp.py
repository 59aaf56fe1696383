"""Triples of Stanford CoreNLP's open information extraction (Angeli et al. 2015), which LEAN uses (Sec. 3.1.1)."""

from __future__ import annotations

import http.client
import json
import re
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from tvr_lightning.data.triples.base import CORENLP_URL, Phrase, Span, Triple, TripleExtractor, phrase_of, word_spans
from tvr_lightning.errors import ConfigError, DataError

START_COMMAND = (
    'java -mx4g -cp "*" edu.stanford.nlp.pipeline.StanfordCoreNLPServer '
    f"-port {CORENLP_URL.rpartition(':')[2]} -timeout 15000"
)

_PROPERTIES = {"annotators": "openie", "outputFormat": "json"}  # the server adds the annotators that openie needs
_ESCAPE = re.compile(r"%(?=[0-9a-fA-F]{2})")


class CoreNLPTriples(TripleExtractor):
    """The `openie` annotator of a CoreNLP server, over HTTP.

    Args:
        url: of the server, which keeps no state of ours; the cache tells servers apart by it, because they do not say
            their version.
        timeout: seconds to wait for an answer; the first one loads the models.
        workers: requests at a time.

    Raises:
        ConfigError: the address is none.
    """

    def __init__(self, url: str = CORENLP_URL, timeout: float = 120.0, workers: int = 4) -> None:
        if not re.match(r"https?://[^/\s]+", url):
            raise ConfigError(f"'{url}' is no address of a CoreNLP server; it looks like {CORENLP_URL}")
        if timeout <= 0 or workers < 1:
            raise ConfigError(f"timeout={timeout} and workers={workers} must be above 0")
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.workers = workers

    @property
    def fingerprint(self) -> str:
        """The server's address and the properties that it is asked with."""
        return f"corenlp 1 {self.url} {json.dumps(_PROPERTIES)}"

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        """Asks the server about each caption.

        Raises:
            ConfigError: no server answers.
            DataError: the server refuses a caption, or answers something else than triples.
        """
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(self._one, captions))

    def _one(self, caption: str) -> tuple[Triple, ...]:
        text = caption.strip()
        if not text:
            return ()
        answer = self._ask(text)
        try:
            return _triples(caption, caption.index(text), json.loads(answer, strict=False))
        except (LookupError, TypeError, ValueError) as error:
            raise DataError(
                f"{self.url} answered no triples of CoreNLP for {text[:60]!r}: {answer[:120]!r} ({error!r}). Is it a "
                f"CoreNLP server with the English models? Start one with: {START_COMMAND}"
            ) from error

    def _ask(self, text: str) -> str:
        request = urllib.request.Request(
            f"{self.url}/?properties={quote(json.dumps(_PROPERTIES))}",
            # the server undoes URL escapes in the text, whatever its type
            data=_ESCAPE.sub("%25", text).encode(errors="replace"),
            # without the blank that is usual: the server does not find the charset behind one
            headers={"Content-Type": "text/plain;charset=utf-8"},
        )
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                return str(answer.read().decode("utf-8", "replace"))
        except urllib.error.HTTPError as error:
            said = error.read(200).decode("utf-8", "replace").strip()
            raise DataError(f"{self.url} refuses {text[:60]!r}: {error.code} {said or error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", None) or error
            raise ConfigError(
                f"no CoreNLP server answers at {self.url} ({why}). Start one in the folder of Stanford CoreNLP "
                f"({START_COMMAND}), or choose another backend; see docs/triples.md."
            ) from error


def _triples(caption: str, start: int, answer: dict[str, Any]) -> tuple[Triple, ...]:
    """Reads an answer about the part of a caption that begins at `start`."""
    words = word_spans(caption)
    places = _utf16_places(caption[start:])
    triples = []
    for sentence in answer["sentences"]:
        pieces = []
        for token in sentence["tokens"]:
            begin = start + places[token["characterOffsetBegin"]]
            end = start + places[token["characterOffsetEnd"]]
            if caption[begin:end] != token["originalText"]:
                raise ValueError(f"token {token['originalText']!r} is not at {begin}:{end}")
            pieces.append((begin, end))
        spelt = [token["word"] for token in sentence["tokens"]]
        for found in sentence["openie"]:
            subject, relation, object_ = (
                _phrase(caption, found[name], found[f"{name}Span"], spelt, pieces, words)
                for name in ("subject", "relation", "object")
            )
            triples.append(Triple(subject, relation, object_))
    return tuple(dict.fromkeys(triples))


def _phrase(
    caption: str, text: str, span: Sequence[int], spelt: Sequence[str], pieces: Sequence[Span], words: Sequence[Span]
) -> Phrase:
    """The tokens of a phrase: a span holds tokens that the phrase leaves out, the phrase some that are implied."""
    inside = range(max(0, span[0]), min(span[1], len(spelt)))
    found = []
    place = 0
    for part in text.split(" "):
        match = next((i for i in inside if i >= place and spelt[i] == part), None)
        if match is not None:
            found.append(pieces[match])
            place = match + 1
    return phrase_of(caption, found, words, text)


def _utf16_places(text: str) -> list[int]:
    """Which character each offset of Java's strings is, where those outside the basic plane count twice."""
    places = [i for i, character in enumerate(text) for _ in range(1 + (ord(character) > 0xFFFF))]
    return [*places, len(text)]
