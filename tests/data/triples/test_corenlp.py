from __future__ import annotations

import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tvr_lightning.data.triples.base import word_spans
from tvr_lightning.data.triples.corenlp import CoreNLPTriples
from tvr_lightning.errors import ConfigError, DataError

# what the openie annotator is taken to find in each text: glosses and token spans
KNOWN: dict[str, list[tuple[str, list[int], str, list[int], str, list[int]]]] = {
    "a man in a red shirt is playing a guitar.": [
        ("man", [1, 2], "is playing", [6, 8], "guitar", [9, 10]),
        ("man", [1, 2], "is in", [1, 3], "shirt", [5, 6]),
        ("man", [1, 2], "is in", [1, 3], "red shirt", [4, 6]),
    ],
    "🎸 man doesn't play 100%25 guitar": [("man", [1, 2], "does n't play", [2, 5], "guitar", [6, 7])],
    "a boy plays guitar on stage": [("boy", [1, 2], "plays guitar on", [2, 5], "stage", [5, 6])],
    "a man sings": [],
}  # fmt: skip


def annotation(text: str) -> dict[str, Any]:
    """CoreNLP's JSON of one sentence; offsets count UTF-16 units, as Java's strings do."""
    tokens = []
    for match in re.finditer(r"\w+(?=n't)|n't|\w+%\w+|\w+|[^\w\s]", text):
        begin, end = (len(text[:place].encode("utf-16-le")) // 2 for place in match.span())
        tokens.append({
            "index": len(tokens) + 1, "word": match[0], "originalText": match[0], "characterOffsetBegin": begin,
            "characterOffsetEnd": end, "before": "", "after": " ",
        })  # fmt: skip
    names = ("subject", "subjectSpan", "relation", "relationSpan", "object", "objectSpan")
    openie = [dict(zip(names, row, strict=True)) for row in KNOWN[text]]
    return {"sentences": [{"index": 0, "openie": openie, "tokens": tokens}]}


class Server(BaseHTTPRequestHandler):
    asked: list[tuple[dict[str, Any], str]]

    def do_POST(self) -> None:
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.path).query)
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        text = urllib.parse.unquote(body).strip()
        self.asked.append((json.loads(query["properties"][0]), text))
        status, answer = self.answer(text)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer.encode())

    @staticmethod
    def answer(text: str) -> tuple[int, str]:
        return 200, json.dumps(annotation(text), indent=2, ensure_ascii=False)

    def log_message(self, *_: Any) -> None:
        """Says nothing."""


Start = Callable[[type[Server]], str]


@pytest.fixture
def start() -> Iterator[Start]:
    servers = []

    def run(handler: type[Server]) -> str:
        handler.asked = []
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/"

    yield run
    for server in servers:
        server.shutdown()
        server.server_close()


def test_triples_of_a_server(start: Start) -> None:
    captions = ["a man in a red shirt is playing a guitar.", "", "a man sings", "  a boy plays guitar on stage "]
    extractor = CoreNLPTriples(start(Server))
    triples = extractor.extract(captions)
    assert [[tuple(phrase.text for phrase in triple) for triple in row] for row in triples] == [
        [("man", "is playing", "guitar"), ("man", "is in", "shirt"), ("man", "is in", "red shirt")],
        [],
        [],
        [("boy", "plays guitar on", "stage")],
    ]
    assert sorted(text for _, text in Server.asked) == sorted(c.strip() for c in captions if c)
    assert all(asked == {"annotators": "openie", "outputFormat": "json"} for asked, _ in Server.asked)
    implied = triples[0][1].relation
    assert implied.spans == ((6, 8),)  # "in": its "is" is implied
    nodes = extractor.words(captions)
    assert [captions[0][a:b] for a, b in nodes[0]] == ["man", "in", "red", "shirt", "is", "playing", "guitar"]
    assert nodes[2] == word_spans(captions[2])
    assert [captions[3][a:b] for a, b in nodes[3]] == ["boy", "plays", "guitar", "on", "stage"]


def test_places_count_characters_and_text_arrives_as_it_is(start: Start) -> None:
    caption = "🎸 man doesn't play 100%25 guitar"
    (triple,) = CoreNLPTriples(start(Server)).extract([caption])[0]
    assert Server.asked[0][1] == caption
    assert [caption[a:b] for phrase in triple for a, b in phrase.spans] == ["man", "doesn't", "play", "guitar"]


def test_no_server() -> None:
    with pytest.raises(ConfigError, match=r"no CoreNLP server answers at http://127.0.0.1:9 .*StanfordCoreNLPServer"):
        CoreNLPTriples("http://127.0.0.1:9").extract(["a man sings"])


def test_no_address() -> None:
    with pytest.raises(ConfigError, match="'localhost' is no address"):
        CoreNLPTriples("localhost")
    with pytest.raises(ConfigError, match="above 0"):
        CoreNLPTriples(timeout=0)


def test_server_that_refuses(start: Start) -> None:
    class Refuses(Server):
        @staticmethod
        def answer(text: str) -> tuple[int, str]:
            return 500, "CoreNLP request timed out. Your document may be too long."

    with pytest.raises(DataError, match="refuses 'a man sings': 500 CoreNLP request timed out"):
        CoreNLPTriples(start(Refuses)).extract(["a man sings"])


@pytest.mark.parametrize(
    "said",
    [
        "<html>", "[]", "{}", '{"sentences": [{"tokens": []}]}', '{"sentences": 3}',
        json.dumps(annotation("a boy plays guitar on stage")),
    ],
)  # fmt: skip
def test_server_that_is_another(start: Start, said: str) -> None:
    class Another(Server):
        @staticmethod
        def answer(text: str) -> tuple[int, str]:
            return 200, said

    with pytest.raises(DataError, match="answered no triples of CoreNLP"):
        CoreNLPTriples(start(Another)).extract(["a man sings"])


def test_servers_have_caches_of_their_own() -> None:
    one, two = CoreNLPTriples("http://a:9000/"), CoreNLPTriples("http://b:9000")
    assert one.fingerprint != two.fingerprint
    assert one.fingerprint == CoreNLPTriples("http://a:9000").fingerprint
