from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tvr_lightning.data.triples import corenlp
from tvr_lightning.data.triples.base import word_spans
from tvr_lightning.data.triples.cached import CachedTriples
from tvr_lightning.data.triples.corenlp import CoreNLPFiles, command, line_of, write_captions
from tvr_lightning.data.word_pieces import WordPieces
from tvr_lightning.errors import ConfigError, DataError, RunError
from tvr_lightning.run.load import load_experiment

GUITAR = "a man in a red shirt is playing a guitar."
EMOJI = "🎸 man doesn't play 100%25 guitar"
STAGE = "  a boy plays guitar on stage "
TWO = "a man sings. a boy\nplays guitar on stage"
CAPTIONS = [GUITAR, "", "a man sings", STAGE, EMOJI, TWO, " \n ", "!!!"]

# what the openie annotator is taken to find in each sentence: glosses and token spans
KNOWN: dict[str, list[tuple[str, list[int], str, list[int], str, list[int]]]] = {
    GUITAR: [
        ("man", [1, 2], "is playing", [6, 8], "guitar", [9, 10]),
        ("man", [1, 2], "is in", [1, 3], "shirt", [5, 6]),
        ("man", [1, 2], "is in", [1, 3], "red shirt", [4, 6]),
    ],
    EMOJI: [("man", [1, 2], "does n't play", [2, 5], "guitar", [6, 7])],
    "a boy plays guitar on stage": [("boy", [1, 2], "plays guitar on", [2, 5], "stage", [5, 6])],
}  # fmt: skip


def annotation(text: str) -> dict[str, Any]:
    """CoreNLP's JSON of a file of captions; offsets count UTF-16 units, as Java's strings do."""

    def units(place: int) -> int:
        return len(text[:place].encode("utf-16-le")) // 2

    sentences = []
    for sentence in re.finditer(r"[^\n]+?(?:\.(?= )|$)", text, re.MULTILINE):
        tokens = []
        for match in re.finditer(r"\w+(?=n't)|n't|\w+%\w+|\w+|[^\w\s!]", sentence[0]):
            begin, end = (units(sentence.start() + place) for place in match.span())
            tokens.append({
                "index": len(tokens) + 1, "word": match[0], "originalText": match[0], "characterOffsetBegin": begin,
                "characterOffsetEnd": end, "before": "", "after": " ",
            })  # fmt: skip
        if tokens:
            names = ("subject", "subjectSpan", "relation", "relationSpan", "object", "objectSpan")
            openie = [dict(zip(names, row, strict=True)) for row in KNOWN.get(sentence[0].strip(), [])]
            sentences.append({"index": len(sentences), "openie": openie, "tokens": tokens})
    return {"docId": "captions.txt", "sentences": sentences}


def run_corenlp(folder: Path) -> None:
    """Writes what CoreNLP would, for the files of its list."""
    for name in (folder / "files.list").read_text(encoding="utf-8").splitlines():
        found = annotation(Path(name).read_text(encoding="utf-8"))
        (folder / f"{Path(name).name}.json").write_text(json.dumps(found, indent=2, ensure_ascii=False))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "core nlp"
    write_captions(CAPTIONS, place)
    run_corenlp(place)
    return place


def test_triples_of_files(folder: Path) -> None:
    extractor = CoreNLPFiles(folder)
    triples = dict(zip(CAPTIONS, extractor.extract(CAPTIONS), strict=True))
    assert [[" | ".join(phrase.text for phrase in triple) for triple in row] for row in triples.values()] == [
        ["man | is playing | guitar", "man | is in | shirt", "man | is in | red shirt"],
        [],
        [],
        ["boy | plays guitar on | stage"],
        ["man | does n't play | guitar"],
        ["boy | plays guitar on | stage"],
        [],
        [],
    ]
    implied = triples[GUITAR][1].relation
    assert implied.spans == ((6, 8),)  # "in": its "is" is implied
    nodes = dict(zip(CAPTIONS, extractor.words(CAPTIONS), strict=True))
    assert [GUITAR[a:b] for a, b in nodes[GUITAR]] == ["man", "in", "red", "shirt", "is", "playing", "guitar"]
    assert nodes["a man sings"] == word_spans("a man sings")
    for caption in (STAGE, TWO):
        assert [caption[a:b] for a, b in nodes[caption]] == ["boy", "plays", "guitar", "on", "stage"]
    # places count characters, not Java's units
    assert [EMOJI[a:b] for a, b in nodes[EMOJI]] == ["man", "doesn't", "play", "guitar"]
    again = pickle.loads(pickle.dumps(extractor))
    assert again.extract(CAPTIONS[::-1]) == list(triples.values())[::-1]


def test_a_single_file(folder: Path) -> None:
    one = CoreNLPFiles(folder / "captions-00000.txt.json")
    assert one.extract(CAPTIONS) == CoreNLPFiles(folder).extract(CAPTIONS)


def test_an_experiment_reads_them(folder: Path) -> None:
    extractor = "data.tokenizer.init_args.triples"
    built = load_experiment(
        Path(__file__).parents[3] / "experiments" / "lean_shapes.yaml",
        [
            f"{extractor}.class_path=tvr_lightning.data.triples.corenlp.CoreNLPFiles",
            f"{extractor}.init_args.path={folder}",
        ],
    )
    tokenizer = built.data.tokenizer
    assert isinstance(tokenizer, WordPieces)
    tokenizer.learn([GUITAR])
    nodes = len(CoreNLPFiles(folder).words([GUITAR])[0])
    assert set(tokenizer([GUITAR]).word.flatten().tolist()) == {-1, *range(nodes)}
    with pytest.raises(DataError, match="no CoreNLP output"):
        tokenizer(["a woman sleeps"])


def test_many_files_are_read_when_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenlp, "CAPTIONS_PER_FILE", 2)
    captions = [f"a boy plays guitar on stage {i}" for i in range(5)]
    files = write_captions([*captions, *captions], tmp_path)
    assert [file.name for file in files] == [f"captions-0000{i}.txt" for i in range(3)]
    assert files[2].read_text() == f"{captions[4]}\n"
    run_corenlp(tmp_path)
    (tmp_path / "captions-00001.txt.json").write_text("{")
    extractor = CoreNLPFiles(tmp_path)
    assert extractor.extract([captions[4], captions[0]]) == [(), ()]
    with pytest.raises(DataError, match=r"captions-00001.txt.json is not JSON"):
        extractor.extract([captions[2]])


def test_the_cache_follows_what_the_files_hold(folder: Path, tmp_path: Path) -> None:
    first = CachedTriples(CoreNLPFiles(folder), tmp_path)
    assert first.extract(CAPTIONS) == CoreNLPFiles(folder).extract(CAPTIONS)
    assert CoreNLPFiles(folder).fingerprint == first.fingerprint
    file = folder / "captions-00000.txt.json"
    file.write_text(file.read_text().replace("is playing", "was playing"))
    changed = CachedTriples(CoreNLPFiles(folder), tmp_path)
    assert changed.fingerprint != first.fingerprint
    assert changed.extract([GUITAR])[0][0].relation.text == "was playing"


def test_lines_keep_places() -> None:
    caption = "a\tman\r\n\u2028\x85\x0b\x1csings \ud83c 🎸"
    line = line_of(caption)
    assert len(line) == len(caption)
    assert line.splitlines() == [line]
    assert word_spans(line) == word_spans(caption)
    line.encode()


def test_the_command_names_the_files(folder: Path) -> None:
    said = command(folder)
    assert f"-filelist '{folder.resolve()}/files.list' -outputDirectory '{folder.resolve()}'" in said
    assert "openie" in said
    assert "-ssplit.newlineIsSentenceBreak always" in said
    assert "-outputFormat json" in said


def test_captions_are_not_written_over_others(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds captions-00000.txt, captions-00000.txt.json already"):
        write_captions(["a man sings"], folder)


def test_captions_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no captions to write"):
        write_captions(["", " \n"], tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot write captions"):
        write_captions(["a man"], tmp_path / "file" / "folder")


Change = Callable[[dict[str, Any]], Any]


def _other(document: dict[str, Any]) -> dict[str, Any]:
    return annotation("a woman sleeps\n" * len(document["sentences"]))


def _edit(*path: str | int, value: Any = None, drop: bool = False) -> Change:
    def edit(document: dict[str, Any]) -> dict[str, Any]:
        place: Any = document
        for name in path[:-1]:
            place = place[name]
        if drop:
            del place[path[-1]]
        else:
            place[path[-1]] = value
        return document

    return edit


def _swapped(document: dict[str, Any]) -> dict[str, Any]:
    document["sentences"][0]["tokens"][1:3] = document["sentences"][0]["tokens"][2:0:-1]
    return document


def _joined(document: dict[str, Any]) -> dict[str, Any]:
    first, second, *rest = document["sentences"]
    return {"sentences": [{"openie": [], "tokens": first["tokens"] + second["tokens"]}, *rest]}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda _: [], "is not what CoreNLP's openie gives"),
        (lambda _: 3, "is not what CoreNLP's openie gives"),
        (lambda _: None, "is not what CoreNLP's openie gives"),
        (lambda _: {}, "no 'sentences'"),
        (_edit("sentences", value=5), "not iterable"),
        (_edit("sentences", 0, value="man"), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "openie", drop=True), "no 'openie'"),
        (_edit("sentences", 0, "tokens", drop=True), "no 'tokens'"),
        (_edit("sentences", 0, "tokens", value=[]), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "tokens", 1, "characterOffsetBegin", value=-3), "'man' is at -3 to 5"),
        (_edit("sentences", 0, "tokens", 1, "characterOffsetEnd", value=10**9), "'man' is at 2 to 1000000000 of"),
        (_edit("sentences", 0, "tokens", 1, "characterOffsetBegin", value="2"), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "tokens", 1, "originalText", value="dog"), "token 'dog' is not at 2 to 5, where 'man'"),
        (_edit("sentences", 0, "openie", 0, "objectSpan", value=None), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "openie", 0, "objectSpan", value=[1]), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "openie", 0, "subject", value=7), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "openie", value={}), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "tokens", 1, "word", value=None), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 0, "tokens", 1, "characterOffsetEnd", value=True), "is not what CoreNLP's openie gives"),
        (_swapped, "not in the order of the text"),
        (_edit("sentences", 0, "openie", value=[[]]), "is not what CoreNLP's openie gives"),
        (_edit("sentences", 1, drop=True), "no sentence for 1 of the captions in captions-00000.txt, .*'a man sings'"),
        (_edit("sentences", value=[]), "has no sentence for 5 of the captions"),
        (_other, "token 'woman' is not at"),
        (_joined, "the sentence of line 1 goes on in the next caption: .*newlineIsSentenceBreak always"),
    ],
)  # fmt: skip
def test_output_that_is_none_of_these_captions(folder: Path, change: Change, said: str) -> None:
    file = folder / "captions-00000.txt.json"
    file.write_text(json.dumps(change(json.loads(file.read_text()))))
    with pytest.raises(DataError, match=said) as caught:
        CoreNLPFiles(folder).extract([GUITAR])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b'{"sentences": 1e'])
def test_malformed_json(folder: Path, content: bytes) -> None:
    (folder / "captions-00000.txt.json").write_bytes(content)
    with pytest.raises(DataError, match=r"captions-00000.txt.json is not JSON, or only a part of it .*again"):
        CoreNLPFiles(folder).extract([GUITAR])


def test_a_caption_of_another_dataset(folder: Path) -> None:
    with pytest.raises(DataError, match=r"for the caption 'a woman sleeps' \(6 others are there\)"):
        CoreNLPFiles(folder).extract(["a woman sleeps"])


def test_files_that_are_missing(folder: Path, tmp_path: Path) -> None:
    (folder / "captions-00001.txt").write_text("a dog barks\n")
    for use in (lambda e: e.extract([GUITAR]), lambda e: e.fingerprint):
        with pytest.raises(DataError, match=r"1 of 2 files of captions .* captions-00001.txt.json missing. Run: java"):
            use(CoreNLPFiles(folder))
    (folder / "captions-00001.txt").rename(folder / "captions-00001.txt.json")
    with pytest.raises(DataError, match=r"holds captions-00001.txt.json without the captions"):
        CoreNLPFiles(folder).extract([GUITAR])
    (folder / "captions-00001.txt.json").unlink()
    (folder / "captions-00000.txt").unlink()
    with pytest.raises(DataError, match=r"captions-00000.txt is missing"):
        CoreNLPFiles(folder / "captions-00000.txt.json").extract([GUITAR])
    empty = tmp_path / "empty"
    empty.mkdir()
    for path, said in (
        (empty, "holds no captions"),
        (empty / "no", "neither a folder nor"),
        (folder / "files.list", "neither"),
    ):
        with pytest.raises(DataError, match=said):
            CoreNLPFiles(path).extract([GUITAR])


def test_a_link_to_itself_is_no_file(folder: Path) -> None:
    file = folder / "captions-00000.txt.json"
    file.unlink()
    file.symlink_to(file.name)
    with pytest.raises(DataError, match=r"a link out of .*, or to nowhere"):
        CoreNLPFiles(folder).extract([GUITAR])


def test_no_file_outside_the_folder_is_read(folder: Path, tmp_path: Path) -> None:
    file = folder / "captions-00000.txt.json"
    outside = tmp_path / "secret.json"
    file.rename(outside)
    file.symlink_to(outside)
    for path in (folder, file):
        with pytest.raises(DataError, match="is a link out of"):
            CoreNLPFiles(path).extract([GUITAR])


def test_sizes_are_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corenlp, "MAX_JSON_BYTES", 1000)
    for use in (lambda e: e.extract([GUITAR]), lambda e: e.fingerprint):
        with pytest.raises(DataError, match=r"captions-00000.txt.json is larger than 0 MiB"):
            use(CoreNLPFiles(folder))


def test_captions_that_are_no_text(folder: Path) -> None:
    (folder / "captions-00000.txt").write_bytes(b"a man\xff\n")
    with pytest.raises(DataError, match=r"captions-00000.txt is not UTF-8 text"):
        CoreNLPFiles(folder).extract([GUITAR])
