from __future__ import annotations

import logging
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvr_lightning.data import augment_text
from tvr_lightning.data.augment_text import CaptionAugmenter, TextAugmentation, WordNet, find_wordnet, lacks_synonyms
from tvr_lightning.errors import ConfigError, DataError

CAPTION = "a man is playing the guitar on a red stage, slowly."
LICENCE = "  1 This software and database is being provided to you, the LICENSEE.  \n  2 Thank you.  \n"
SYNSETS = {
    "noun": [
        ["man", "adult_male"],
        ["serviceman", "military_man", "man"],
        ["guitar"],
        ["stage", "phase"],
        ["play", "drama"],
        ["child", "kid"],
        ["Bolshevik", "red"],
        ["in", "inch"],
    ],
    "verb": [["play", "act_on"], ["run", "go"]],
    "adj": [["red", "crimson", "ruby"], ["slow(p)", "sluggish(a)"]],
    "adv": [["slowly", "tardily"]],
}
EXCEPTIONS = {"noun": "children child\nmen man\n", "verb": "ran run\nrunning run\n", "adj": "", "adv": ""}


def write_wordnet(folder: Path) -> Path:
    """Small files in WordNet's format: byte offsets in the data, sorted lemmas in the index, a licence before both."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, synsets in SYNSETS.items():
        data, index = LICENCE, dict[str, list[int]]()
        for words in synsets:
            offset = len(data.encode())
            spelt = " ".join(f"{w} 0" for w in words)
            data += (
                f'{offset:08d} 03 {part[0]} {len(words):02x} {spelt} 001 @ 00001740 n 0000 | a gloss; "an example"  \n'
            )
            for word in words:
                index.setdefault(word.partition("(")[0].lower(), []).append(offset)
        lines = [
            f"{lemma} {part[0]} {len(at)} 2 @ ~ {len(at)} 1 {' '.join(f'{o:08d}' for o in at)}  \n"
            for lemma, at in sorted(index.items())
        ]
        (folder / f"data.{part}").write_text(data)
        (folder / f"index.{part}").write_text(LICENCE + "".join(lines))
        (folder / f"{part}.exc").write_text(EXCEPTIONS[part])
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_wordnet(tmp_path / "wordnet")


@pytest.fixture
def no_wordnet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(augment_text, "WORDNET_FOLDERS", ("/nowhere/wordnet",))
    monkeypatch.delenv("WNSEARCHDIR", raising=False)
    augment_text._say_once.cache_clear()


def only(operation: str, rate: float, folder: Path | None = None, **options: Any) -> CaptionAugmenter:
    rates = dict.fromkeys(("replace", "insert", "swap", "delete"), 0.0) | {operation: rate}
    return CaptionAugmenter(TextAugmentation(**rates, wordnet=folder and str(folder), **options))


def changed(augmenter: CaptionAugmenter, seed: int, caption: str = CAPTION) -> list[str]:
    return augmenter(caption, np.random.default_rng(seed)).split()


@pytest.mark.parametrize(
    ("word", "synonyms"),
    [
        ("man", ("adult male", "serviceman", "military man")),
        ("men", ("adult male", "serviceman", "military man")),
        ("children", ("kid",)),
        ("plays", ("drama", "act on")),
        ("playing", ("act on",)),
        ("running", ("go",)),
        ("red", ("Bolshevik", "crimson", "ruby")),
        ("slow", ("sluggish",)),
        ("slower", ("sluggish",)),
        ("guitar", ()),
        ("zebra", ()),
        ("", ()),
    ],
)
def test_synonyms(folder: Path, word: str, synonyms: tuple[str, ...]) -> None:
    assert WordNet(folder).synonyms(word) == synonyms


def test_every_lemma_is_found(folder: Path) -> None:
    for part, synsets in SYNSETS.items():
        for words in synsets:
            for word in words:
                lemma = word.partition("(")[0].lower()
                assert augment_text._offsets(folder, part, lemma), lemma
        for absent in ("", "0", "aaa", "zzz", "pla", "playy", "1"):
            assert augment_text._offsets(folder, part, absent) == ()


def test_frequent_senses_only(folder: Path) -> None:
    assert WordNet(folder, senses=1).synonyms("man") == ("adult male",)


def test_files_without_licence_and_exceptions(folder: Path) -> None:
    (folder / "index.adv").write_text("slowly r 1 1 \\ 1 0 00000000")
    (folder / "data.adv").write_text("00000000 02 r 02 slowly 0 tardily 0 000 | a gloss")
    for file in folder.glob("*.exc"):
        file.unlink()
    assert WordNet(folder).synonyms("slowly") == ("tardily",)
    assert WordNet(folder).synonyms("children") == ()


def test_damaged_files_are_named(folder: Path) -> None:
    index = folder / "index.noun"
    index.write_text(index.read_text().replace("guitar n 1", "guitar n x"))
    with pytest.raises(DataError, match=r"index\.noun is damaged at 'guitar n x"):
        WordNet(folder).synonyms("guitar")
    (folder / "data.verb").write_text("nothing\n" * 50)
    with pytest.raises(DataError, match=r"data\.verb has no synset at byte \d+"):
        WordNet(folder).synonyms("run")
    (folder / "index.adv").write_text("")
    with pytest.raises(DataError, match=r"cannot read .*index\.adv"):
        WordNet(folder).synonyms("slowly")


def test_replacement(folder: Path) -> None:
    words = CAPTION.split()
    seen = Counter[str]()
    for seed in range(60):
        new = only("replace", 0.1, folder)(CAPTION, np.random.default_rng(seed))
        assert new != CAPTION
        (place,) = [w for w in ("a man", "playing", "red", "stage,", "slowly.") if w not in new]
        seen[place] += 1
        assert new.startswith("a ")
        assert " the guitar on a " in new  # function words and unknown ones stay
    assert len(seen) == 5
    everything = changed(only("replace", 1.0, folder), 0)
    assert not set(everything) & {"playing", "red", "stage,", "slowly."}
    assert "phase," in everything  # with its comma
    assert "tardily." in everything
    assert len(everything) >= len(words)


def test_every_occurrence_is_replaced_alike(folder: Path) -> None:
    assert changed(only("replace", 0.1, folder), 0, "red red red")[0] != "red"
    assert len(set(changed(only("replace", 0.1, folder), 0, "red red red"))) == 1


def test_insertion(folder: Path) -> None:
    words = Counter(CAPTION.split())
    synonyms = " ".join(s for w in ("man", "playing", "red", "stage", "slowly") for s in WordNet(folder).synonyms(w))
    places = set()
    for seed in range(60):
        new = changed(only("insert", 0.1, folder), seed)
        added = Counter(new) - words
        assert Counter(new) - added == words
        assert all(w in synonyms for w in added)
        assert 1 <= sum(added.values()) <= 2  # "adult male" is two
        places.add(new.index(next(iter(added))))
    assert len(places) >= 8
    assert len(changed(only("insert", 0.5, folder), 1)) >= len(CAPTION.split()) + 5


def test_swap_keeps_the_words() -> None:
    seen = set()
    for seed in range(40):
        new = changed(only("swap", 0.1), seed)
        assert Counter(new) == Counter(CAPTION.split())
        assert sum(a != b for a, b in zip(new, CAPTION.split(), strict=True)) in (0, 2)  # 0: two equal words
        seen.add(" ".join(new))
    assert len(seen) > 20


def test_deletion_keeps_order_and_at_least_one_word() -> None:
    left = []
    for seed in range(200):
        new = changed(only("delete", 0.3), seed)
        rest = iter(CAPTION.split())
        assert all(w in rest for w in new)  # in order
        left.append(len(new))
    assert np.mean(left) == pytest.approx(0.7 * len(CAPTION.split()), abs=0.3)
    kept = {changed(only("delete", 1.0), seed)[0] for seed in range(100)}
    assert all(len(changed(only("delete", 1.0), seed)) == 1 for seed in range(100))
    assert len(kept) > 5


@pytest.mark.parametrize("caption", ["guitar", "a", "...", "  man  ", "", "   "])
def test_short_captions_never_become_empty(folder: Path, caption: str) -> None:
    rates: dict[str, float] = dict.fromkeys(("replace", "insert", "swap", "delete"), 1.0)
    augmenter = CaptionAugmenter(TextAugmentation(**rates, wordnet=str(folder)))
    for seed in range(50):
        new = augmenter(caption, np.random.default_rng(seed))
        assert bool(new.strip()) == bool(caption.strip())


def test_the_generator_decides_alone(folder: Path) -> None:
    augmenter = CaptionAugmenter(TextAugmentation(wordnet=str(folder)))
    first = [" ".join(changed(augmenter, seed)) for seed in range(40)]
    again = pickle.loads(pickle.dumps(augmenter))  # as a spawned data worker has it
    assert [" ".join(changed(again, seed)) for seed in range(40)] == first
    assert len(set(first)) > 20


def test_without_wordnet_the_log_says_so_once(no_wordnet: None, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        augmenters = [CaptionAugmenter() for _ in range(3)]
    assert caplog.text.count("no WordNet on this system") == 1
    for seed in range(60):
        new = changed(augmenters[0], seed)
        assert not Counter(new) - Counter(CAPTION.split())  # swapped or thinned, nothing else
    caplog.clear()
    only("swap", 0.5)
    assert not caplog.records  # synonyms are not wanted: nothing to say
    assert only("replace", 0.5)(CAPTION, np.random.default_rng(0)) == CAPTION


def test_where_wordnet_is_looked_for(
    folder: Path, tmp_path: Path, no_wordnet: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_wordnet() is None
    assert lacks_synonyms(TextAugmentation())
    assert not lacks_synonyms(TextAugmentation(replace=0, insert=0))
    cached = write_wordnet(tmp_path / "cache" / "tvr_lightning" / "wordnet")  # where `make wordnet` puts it
    assert find_wordnet() == cached
    assert not lacks_synonyms(TextAugmentation())
    monkeypatch.setattr(augment_text, "WORDNET_FOLDERS", (str(tmp_path / "nothing"), str(folder)))
    assert find_wordnet() == folder
    other = write_wordnet(tmp_path / "other")
    monkeypatch.setenv("WNSEARCHDIR", str(other))
    assert find_wordnet() == other
    assert find_wordnet(str(folder)) == folder


def test_a_folder_without_wordnet_is_an_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "data.adj").unlink()
    with pytest.raises(ConfigError, match=r"wordnet lacks data\.adj of WordNet's files"):
        CaptionAugmenter(TextAugmentation(wordnet=str(folder)))
    monkeypatch.setenv("WNSEARCHDIR", str(folder))
    with pytest.raises(ConfigError, match=r"\$WNSEARCHDIR: .* lacks data\.adj"):
        CaptionAugmenter()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"swap": 1.5}, "swap is 1.5"), ({"delete": -0.1}, "delete is -0.1"), ({"senses": 0}, "senses is 0")],
)
def test_options_out_of_range_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        CaptionAugmenter(TextAugmentation(**wrong))
