from __future__ import annotations

import logging
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tvr_lightning.data.stores.files import cache_folder
from tvr_lightning.data.triples.base import Phrase, Triple, TripleExtractor, chosen_words, phrase_of, word_spans
from tvr_lightning.data.triples.cached import CachedTriples
from tvr_lightning.data.triples.choose import make_extractor
from tvr_lightning.data.triples.offline import OfflineTriples
from tvr_lightning.errors import ConfigError


def spelt(caption: str) -> list[str]:
    return [caption[start:end] for start, end in word_spans(caption)]


class FirstThree(TripleExtractor):
    """A triple of the first three words; notes what it was asked."""

    def __init__(self, name: str = "first three") -> None:
        self.name = name
        self.asked: list[str] = []

    @property
    def fingerprint(self) -> str:
        return self.name

    def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
        self.asked += captions
        found = []
        for caption in captions:
            words = word_spans(caption)
            members = [phrase_of(caption, [word], words) for word in words[:3]]
            found.append((Triple(*members),) if len(members) == 3 else ())
        return found


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a man, playing.", ["a", "man", "playing"]),
        ("the man's t-shirt isn't red", ["the", "man's", "t-shirt", "isn't", "red"]),
        ("'quoted' dogs' 3.5 km, 1,000 m", ["quoted", "dogs", "3.5", "km", "1,000", "m"]),
        ("naïve cafe\u0301 हिन्दी", ["naïve", "cafe\u0301", "हिन्दी"]),
        ("東京 で🎸走る", ["東京", "で", "走る"]),
        ("foo_bar -- baz", ["foo", "bar", "baz"]),
        ("?! 🎸", ["?!", "🎸"]),
        ("  ", []),
        ("", []),
    ],
)
def test_words_are_defined_once(caption: str, words: list[str]) -> None:
    assert spelt(caption) == words


def test_phrase_of_takes_whole_words_in_order() -> None:
    caption = "the man's dog barks"
    words = word_spans(caption)
    phrase = phrase_of(caption, [(10, 13), (7, 9)], words)
    assert phrase == Phrase("'s dog", ((4, 9), (10, 13)))
    assert phrase_of(caption, [], words, "is") == Phrase("is", ())
    assert phrase_of(caption, [(3, 4)], words).spans == ()  # a blank


def test_nodes_of_each_kind() -> None:
    caption = "there, a man plays his guitar"
    words = word_spans(caption)
    man, plays, his, guitar = words[2:]
    triple = Triple(Phrase("man", (man,)), Phrase("plays", (plays,)), Phrase("his guitar", (his, guitar)))
    assert chosen_words(caption, [triple], "triples") == [man, plays, his, guitar]
    assert chosen_words(caption, [triple], "entities") == [man, his, guitar]
    assert chosen_words(caption, [triple], "all") == words
    turned = Triple(triple.object, triple.relation, triple.subject)
    assert chosen_words(caption, [turned, triple], "triples") == [man, plays, his, guitar]
    for nodes in ("triples", "entities"):
        assert chosen_words(caption, [], nodes) == words
    wordless = Triple(Phrase("it", ()), Phrase("is", ()), Phrase("", ()))
    assert chosen_words(caption, [wordless], "triples") == words


def test_words_of_captions() -> None:
    extractor = FirstThree()
    captions = ["man plays guitar loudly", "man", "?!", ""]
    assert extractor.words(captions) == [[(0, 3), (4, 9), (10, 16)], [(0, 3)], [(0, 2)], []]
    assert extractor.words(captions, "entities")[0] == [(0, 3), (10, 16)]
    extractor.asked.clear()
    assert extractor.words(captions, "all") == [word_spans(caption) for caption in captions]
    assert extractor.asked == []  # all words need no parser
    with pytest.raises(ConfigError, match=r"'triple'.*did you mean triples"):
        extractor.words(captions, "triple")  # type: ignore[arg-type]


def test_unknown_backend() -> None:
    with pytest.raises(ConfigError, match=r"'ofline'.*did you mean offline"):
        make_extractor("ofline")  # type: ignore[arg-type]


def test_cache_parses_each_caption_once(tmp_path: Path) -> None:
    captions = ["man plays guitar", "dog", "man plays guitar", "naïve 🎸 man\u0301s dance", "x \ud800 y z"]
    first = FirstThree()
    wanted = first.extract(captions)
    first.asked.clear()
    cached = CachedTriples(first, tmp_path)
    assert cached.fingerprint == "first three"
    assert cached.extract(captions) == wanted
    assert first.asked == [captions[i] for i in (0, 1, 3, 4)]
    again = FirstThree()
    assert CachedTriples(again, tmp_path).extract([*captions, "a new one"])[:-1] == wanted
    assert again.asked == ["a new one"]
    other = FirstThree("other")
    CachedTriples(other, tmp_path).extract(captions[:1])
    assert other.asked == captions[:1]
    assert len(list((tmp_path / "triples").glob("*.sqlite"))) == 2


def test_cache_of_many_captions(tmp_path: Path) -> None:
    captions = [f"man{i} plays guitar" for i in range(5000)]
    wanted = CachedTriples(FirstThree(), tmp_path).extract(captions)
    again = FirstThree()
    assert CachedTriples(again, tmp_path).extract(captions[::-1]) == wanted[::-1]
    assert again.asked == []


def test_cache_lies_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cached = CachedTriples(FirstThree())
    cached.extract(["man plays guitar"])
    assert cached.path.is_file()
    assert cached.path.parent == cache_folder(None) / "triples"
    assert tmp_path in cached.path.parents


@pytest.mark.parametrize("content", [b"", b"no database at all" * 500, "torn", "other table"])
def test_broken_cache_is_made_anew(tmp_path: Path, content: bytes | str, caplog: pytest.LogCaptureFixture) -> None:
    captions = [f"man{i} plays guitar" for i in range(300)]
    cached = CachedTriples(FirstThree(), tmp_path)
    wanted = cached.extract(captions)
    if content == "torn":
        whole = cached.path.read_bytes()
        cached.path.write_bytes(whole[:100] + b"\xff" * (len(whole) - 100))
    elif content == "other table":
        cached.path.unlink()
        with sqlite3.connect(cached.path) as file:
            file.execute("CREATE TABLE triples (something TEXT)")
        file.close()
    else:
        assert isinstance(content, bytes)
        cached.path.write_bytes(content)
    again = FirstThree()
    with caplog.at_level(logging.WARNING):
        assert CachedTriples(again, tmp_path).extract(captions) == wanted
    assert again.asked == captions
    if content:  # an empty file is an empty cache
        assert "is broken" in caplog.text
        assert str(cached.path) in caplog.text
    last = FirstThree()
    assert CachedTriples(last, tmp_path).extract(captions) == wanted
    assert last.asked == []


@pytest.mark.parametrize("entry", ["{", "[[1,2,3]]", '[[["man",[[0,99]]],["plays",[]],["",[]]]]', "5", None])
def test_broken_entry_is_parsed_again(tmp_path: Path, entry: str | None, caplog: pytest.LogCaptureFixture) -> None:
    captions = ["man plays guitar", "woman plays piano"]
    cached = CachedTriples(FirstThree(), tmp_path)
    wanted = cached.extract(captions)
    with sqlite3.connect(cached.path) as file:
        file.execute("UPDATE triples SET triples = ?", (entry,))
    file.close()
    with caplog.at_level(logging.WARNING):
        assert cached.extract(captions) == wanted
    assert "2 entries cannot be read" in caplog.text
    caplog.clear()
    assert cached.extract(captions) == wanted
    assert caplog.text == ""


def test_cache_that_cannot_be_written_only_warns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "triples").write_text("a file where the folder should be")
    extractor = FirstThree()
    with caplog.at_level(logging.WARNING):
        assert CachedTriples(extractor, tmp_path).extract(["man plays guitar"]) == extractor.extract(
            ["man plays guitar"]
        )
    assert "triples are not kept" in caplog.text


FILL = """
import sys
from tvr_lightning.data.triples.cached import CachedTriples
from tvr_lightning.data.triples.offline import OfflineTriples
captions = [f"man{i} plays guitar" for i in range(int(sys.argv[2]), int(sys.argv[2]) + 300)]
for part in range(3):
    CachedTriples(OfflineTriples(), sys.argv[1]).extract(captions[part * 50 :])
"""


@pytest.mark.slow
def test_several_processes_share_a_cache(tmp_path: Path) -> None:
    workers = [subprocess.Popen([sys.executable, "-c", FILL, str(tmp_path), start]) for start in ("0", "150")]
    assert [worker.wait() for worker in workers] == [0, 0]
    captions = [f"man{i} plays guitar" for i in range(450)]
    cached = CachedTriples(OfflineTriples(), tmp_path)
    wanted = OfflineTriples().extract(captions)
    with sqlite3.connect(cached.path) as file:
        assert file.execute("SELECT count(*) FROM triples").fetchone() == (450,)
    file.close()
    assert cached.extract(captions) == wanted


def test_an_interrupted_run_keeps_what_it_has(tmp_path: Path) -> None:
    class Stops(FirstThree):
        def extract(self, captions: Sequence[str]) -> list[tuple[Triple, ...]]:
            if self.asked:
                raise KeyboardInterrupt
            return super().extract(captions)

    captions = [f"man{i} plays guitar" for i in range(2500)]
    with pytest.raises(KeyboardInterrupt):
        CachedTriples(Stops(), tmp_path).extract(captions)
    extractor = FirstThree()
    CachedTriples(extractor, tmp_path).extract(captions)
    assert extractor.asked == captions[2000:]
