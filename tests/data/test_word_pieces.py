"""BERT's tokeniser against transformers' own, learnt vocabularies, and which pieces belong to which node."""

import json
import pickle
import subprocess
import sys

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from tokenizers import Tokenizer
from torch.utils.data import DataLoader
from transformers import BertTokenizerFast

from tvr_lightning.data.triples.base import TripleExtractor
from tvr_lightning.data.word_pieces import SPECIAL, WordPieces, learn_vocabulary, read_vocabulary
from tvr_lightning.encoders import BERTEncoder, pool_words
from tvr_lightning.errors import CheckpointError, ConfigError, DataError

PIECES = (
    *SPECIAL, "a", "dog", "run", "##s", "##ning", "over", "the", "green", "field", "man", "and", "woman", "cafe",
    "!", "?", "-", "'", "[", "]", "t", "##shirt", "shirt", "don", "sep", "跑", "步",
)  # fmt: skip
CAPTIONS = (
    "a dog runs over the green field",
    "A MAN running, and a woman!",
    "the Café and the zebra",
    "a [SEP] dog [PAD] runs",
    "跑步 a\tdog \n runs 😹",
    "a" * 150 + " dog",
)


class Chooser(TripleExtractor):
    """The words named, wherever they occur."""

    def __init__(self, *chosen):
        self.chosen = chosen

    def words(self, captions, nodes):
        assert nodes in ("triples", "entities")
        return [[(c.index(w), c.index(w) + len(w)) for w in self.chosen if w in c] for c in captions]

    @property
    def fingerprint(self):
        return repr(self.chosen)

    def extract(self, captions):
        pytest.fail("words are chosen already")


@pytest.fixture
def text_file(tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("\n".join(PIECES) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def folder(tmp_path):
    """A BERT folder as transformers saves it."""
    path = tmp_path / "bert"
    BertTokenizerFast(vocab={piece: i for i, piece in enumerate(PIECES)}).save_pretrained(path)
    return path


def spelt(tokenizer, caption, row=0):
    """Nodes as their pieces."""
    text = tokenizer([caption])
    nodes = {}
    for token, node in zip(text.tokens[row].tolist(), text.word[row].tolist(), strict=True):
        if node >= 0:
            nodes.setdefault(node, []).append(tokenizer._names[token])
    assert list(nodes) == list(range(len(nodes)))  # numbered as they appear, without gaps
    return ["".join(pieces).replace("##", "") for pieces in nodes.values()]


@pytest.mark.parametrize("given", ["folder", "tokenizer.json", "vocab.txt"])
def test_tokens_equal_transformers(folder, text_file, given):
    source = {"folder": folder, "tokenizer.json": folder / "tokenizer.json", "vocab.txt": text_file}[given]
    tokenizer = WordPieces(str(source), context_length=10)
    reference = BertTokenizerFast(vocab={piece: i for i, piece in enumerate(PIECES)})
    captions = [c for c in CAPTIONS if "[" not in c]
    text = tokenizer(captions)
    expected = reference(captions, padding="max_length", max_length=10, truncation=True, return_tensors="pt")
    assert torch.equal(text.tokens, expected.input_ids)
    assert torch.equal(text.mask, expected.attention_mask.bool())
    assert tokenizer.vocabulary_size == len(PIECES)
    assert (text.tokens.dtype, text.word.dtype) == (torch.int64, torch.int64)


def test_cased_vocabularies_stay_cased(folder, text_file):
    (text_file.parent / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": False}))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"]["lowercase"] = False
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for source in (folder, text_file):
        text = WordPieces(str(source), context_length=6)(["Dog dog"])
        assert text.tokens[0].tolist() == [2, 1, PIECES.index("dog"), 3, 0, 0]


def test_a_caption_that_spells_special_tokens_holds_none(folder):
    text = WordPieces(str(folder), context_length=16)(["a [SEP] dog [CLS]"])
    assert text.tokens[0].tolist().count(3) == 1
    assert text.tokens[0].tolist().count(2) == 1
    pieces = ("[CLS]", "a", "[", "sep", "]", "dog", "[", "[UNK]", "]", "[SEP]")
    assert text.tokens[0, :10].tolist() == [PIECES.index(p) for p in pieces]


def test_cut_before_the_end_token(text_file):
    text = WordPieces(str(text_file), context_length=5)(["a dog and", "a dog and a man"])
    assert text.truncated.tolist() == [False, True]
    assert text.tokens[:, -1].tolist() == [3, 3]
    assert torch.equal(text.tokens[0], text.tokens[1])
    assert text.mask.all()
    assert WordPieces(str(text_file), context_length=5)(["a dog"]).mask[0].tolist() == [True] * 4 + [False]


def test_words_are_spelt(text_file):
    tokenizer = WordPieces(str(text_file), context_length=12)
    text = tokenizer(["the dogs running!", "zebra " * 20])
    assert tokenizer.words(text.tokens[0]) == ("the", "dog-", "s", "run-", "ning", "!")
    assert tokenizer.words(text.tokens[1]) == ("[UNK]",) * 10


def test_all_words_are_nodes(text_file):
    tokenizer = WordPieces(str(text_file), context_length=16)
    text = tokenizer(["a dogs running, and a dog!"])
    #                  CLS  a  dog ##s run ##ning , and  a dog  !  SEP
    assert text.word[0].tolist() == [-1, 0, 1, 1, 2, 2, -1, 3, 4, 5, -1, -1, -1, -1, -1, -1]
    assert spelt(tokenizer, "the Café, and a cat") == ["the", "cafe", "and", "a", "[UNK]"]
    assert text.lost_nodes.tolist() == [0]


def test_nodes_end_at_the_cut_and_those_beyond_it_are_counted(text_file):
    tokenizer = WordPieces(str(text_file), context_length=5)
    text = tokenizer(["a dog and a man", "a dog", "a dog !!!!!"])
    assert text.word.tolist() == [[-1, 0, 1, 2, -1], [-1, 0, 1, -1, -1], [-1, 0, 1, -1, -1]]
    assert text.lost_nodes.tolist() == [2, 0, 0]  # signs are not nodes
    text = WordPieces(str(text_file), context_length=4)(["dogs run over"])
    assert text.word.tolist() == [[-1, 0, 0, -1]]
    assert text.lost_nodes.tolist() == [2]
    text = WordPieces(str(text_file), context_length=3)(["dogs"])  # a node that keeps a piece is not lost
    assert (text.truncated.tolist(), text.lost_nodes.tolist()) == ([True], [0])
    long = WordPieces(str(text_file), context_length=64)(["a dog " * 30])  # as many nodes as places
    assert int(long.word.max()) == 59


@pytest.mark.parametrize(("chosen", "lost"), [(("dogs",), 0), (("dogs", "field"), 1), (("over", "field"), 2)])
def test_chosen_words_beyond_the_cut_are_counted(text_file, chosen, lost):
    tokenizer = WordPieces(str(text_file), context_length=6, text_nodes="triples", triples=Chooser(*chosen))
    text = tokenizer(["the dogs and a man running over the field"])
    assert text.lost_nodes.tolist() == [lost]


@pytest.mark.parametrize("nodes", ["triples", "entities"])
def test_chosen_words_are_nodes(text_file, nodes):
    def tokenizer(*chosen, **options):
        return WordPieces(str(text_file), text_nodes=nodes, triples=Chooser(*chosen), **options)

    caption = "the dogs and a man running over the field"
    assert spelt(tokenizer("dogs", "running", "field"), caption) == ["dogs", "running", "field"]
    assert spelt(tokenizer("field", "dogs"), caption) == ["dogs", "field"]  # in order of appearance
    # cut before the only chosen word: all that is left
    assert spelt(tokenizer("field", context_length=6), caption) == ["the", "dogs", "and"]
    # cut before any word
    assert spelt(tokenizer("field", context_length=5), "? - ! the field") == ["?", "-", "!"]
    # spans that hold no piece are not counted
    assert spelt(tokenizer("\u200b", "dogs"), "a \u200b dogs") == ["dogs"]


@pytest.mark.parametrize("nodes", ["all", "triples"])
@pytest.mark.parametrize(("caption", "expected"), [("dog", ["dog"]), ("?!", ["?!"]), ("-", ["-"]), ("😹", ["[UNK]"])])
def test_every_caption_has_a_node(text_file, nodes, caption, expected):
    tokenizer = WordPieces(str(text_file), text_nodes=nodes, triples=Chooser("cat"), context_length=8)
    assert spelt(tokenizer, caption) == expected


def test_triples_are_found_by_default(text_file, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    caption = "a dog runs over the green field"
    words = spelt(WordPieces(str(text_file), text_nodes="triples"), caption)
    entities = spelt(WordPieces(str(text_file), text_nodes="entities"), caption)
    assert {"dog", "runs"} <= set(words) < set(caption.split())
    assert "dog" in entities
    assert "runs" not in entities
    assert list((tmp_path / "tvr_lightning").rglob("*.sqlite"))


def test_offsets_survive_normalisation(text_file):
    """Accents that are two characters, Chinese, and characters that are taken away do not shift later words."""
    caption = "the cafe\u0301 \u200b跑步\x00 dogs"
    tokenizer = WordPieces(str(text_file), text_nodes="triples", triples=Chooser("dogs", "cafe\u0301"))
    assert spelt(tokenizer, caption) == ["cafe", "dogs"]


@pytest.mark.parametrize("caption", ["", "  \t\n", "\u200b", "\x00"])
def test_empty_caption_is_an_error(text_file, caption):
    with pytest.raises(DataError, match="Caption 1 of 2 is empty"):
        WordPieces(str(text_file))(["dog", caption])


def test_no_captions(text_file):
    text = WordPieces(str(text_file), context_length=7)([])
    assert text.tokens.shape == text.mask.shape == text.word.shape == (0, 7)
    assert text.truncated.shape == text.lost_nodes.shape == (0,)


def test_paragraphs(text_file):
    text = WordPieces(str(text_file), context_length=512)(["a dog runs over the field. " * 100, "a dog"])
    assert text.tokens.shape == (2, 512)
    assert text.truncated.tolist() == [True, False]
    assert text.mask.sum(1).tolist() == [512, 4]


SCENES = tuple(
    f"the {size} {colour} {shape} is {verb}ing to the {side}"
    for size in ("large", "small") for colour in ("red", "blue", "grünes") for shape in ("circle", "square")
    for verb in ("mov", "jump", "bounc") for side in ("left", "right")
)  # fmt: skip


def test_learnt_vocabulary():
    tokenizer = WordPieces(vocabulary_size=120, context_length=16)
    assert tokenizer.vocabulary_size == 120
    with pytest.raises(ConfigError, match="has not been learnt yet"):
        tokenizer(["the dog"])
    with pytest.raises(ConfigError, match="has not been learnt yet"):
        tokenizer.fingerprint()
    tokenizer.learn(SCENES)
    assert 60 < tokenizer.vocabulary_size <= 120
    pieces = tokenizer._vocabulary.pieces
    assert [pieces[name] for name in SPECIAL] == [0, 1, 2, 3, 4]
    assert sorted(pieces.values()) == list(range(len(pieces)))
    text = tokenizer(SCENES)
    assert not (text.tokens == 1).any()  # nothing of what was learnt is unknown
    assert not text.truncated.any()
    assert "ing" not in pieces
    assert "##ing" in pieces
    assert spelt(tokenizer, SCENES[0]) == ["the", "large", "red", "circle", "is", "moving", "to", "the", "left"]
    # in small letters and without accents, as BERT's
    assert torch.equal(tokenizer(["GRÜNES Grunes"]).tokens, tokenizer(["grunes grünes"]).tokens)


@pytest.mark.slow
def test_same_captions_same_vocabulary_in_every_process():
    code = (
        "import sys, json; from tvr_lightning.data.word_pieces import learn_vocabulary; "
        "print(json.dumps(dict(learn_vocabulary(json.loads(sys.argv[1]), 100).pieces)))"
    )
    own = dict(learn_vocabulary(SCENES, 100).pieces)
    assert dict(learn_vocabulary(SCENES[::-1], 100).pieces) == own
    for _ in range(4):
        assert dict(learn_vocabulary(SCENES, 100).pieces) == own
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(SCENES)], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(result.stdout) == own


def test_learning_again_changes_nothing():
    first, second = WordPieces(vocabulary_size=100), WordPieces(vocabulary_size=100)
    for tokenizer in (first, second):
        tokenizer.learn(SCENES)
    name = first.fingerprint()
    first.learn(SCENES)
    assert first.fingerprint() == second.fingerprint() == name
    assert torch.equal(first(SCENES).tokens, second(SCENES).tokens)
    second.learn(SCENES[:5])
    assert second.fingerprint() != name


def test_a_small_bound_keeps_the_frequent_characters():
    vocabulary = learn_vocabulary(["aaaa bbb"] * 9 + ["cc", "dd", "xyz 跑步"], 16)
    assert set("abcd") & set(vocabulary.pieces) == set("abcd")
    assert not set("xyz跑步") & set(vocabulary.pieces)
    assert len(vocabulary.pieces) <= 16


def test_learning_needs_words_and_a_given_vocabulary_stays(text_file):
    for captions in ([], ["  "]):
        with pytest.raises(DataError, match="No word pieces can be learnt"):
            WordPieces().learn(captions)
    given = WordPieces(str(text_file))
    before = given.fingerprint()
    given.learn(SCENES)
    assert given.fingerprint() == before


def test_fingerprint_names_vocabulary_and_settings(text_file, folder):
    def name(source=text_file, **options):
        return WordPieces(str(source), **options).fingerprint()

    assert name() == name() == name(folder) == name(vocabulary_size=99)
    different = [
        name(context_length=20),
        name(text_nodes="triples", triples=Chooser("man", "dog")),
        name(text_nodes="triples", triples=Chooser("dog")),
        name(text_nodes="triples", triples=Chooser("man")),
        name(text_nodes="entities", triples=Chooser("man")),
    ]
    text_file.write_text("\n".join(reversed(PIECES)))
    assert len({name(), *different, name(folder)}) == len(different) + 2


def test_pickled_tokenizer_is_small_and_the_same():
    tokenizer = WordPieces(vocabulary_size=300, context_length=20)
    assert pickle.loads(pickle.dumps(tokenizer)).vocabulary_size == 300
    tokenizer.learn(SCENES)
    stored = pickle.dumps(tokenizer)
    assert len(stored) < 10_000
    again = pickle.loads(stored)
    assert all(torch.equal(a, b) for a, b in zip(again(SCENES), tokenizer(SCENES), strict=True))
    assert again.fingerprint() == tokenizer.fingerprint()


@pytest.mark.filterwarnings("error")
def test_workers_that_are_forked_after_learning(capfd):
    tokenizer = WordPieces(vocabulary_size=200, context_length=16)
    tokenizer.learn(SCENES)
    loader = DataLoader(SCENES, batch_size=12, num_workers=2, collate_fn=tokenizer, multiprocessing_context="fork")
    tokens = torch.cat([text.tokens for text in loader])
    assert torch.equal(tokens, tokenizer(SCENES).tokens)
    assert capfd.readouterr().err == ""


def test_pieces_become_words_of_an_encoder():
    tokenizer = WordPieces(vocabulary_size=80, context_length=24)
    tokenizer.learn(SCENES)
    encoder = BERTEncoder("tiny", context_length=24).eval()
    assert tokenizer.vocabulary_size <= encoder.vocabulary_size
    text = tokenizer(SCENES[:2])
    with torch.no_grad():
        words, mask = pool_words(encoder.encode_tokens(text.tokens, text.mask), text.word, 9)
    assert words.shape == (2, 9, 128)
    assert mask.all()
    assert words.any(-1).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context_length": 2}, "at least 3"),
        ({"vocabulary_size": 9}, "vocabulary_size=9"),
        ({"text_nodes": "verbs"}, "Unknown text_nodes 'verbs'. Known: triples, entities, all"),
    ],
)
def test_wrong_settings(options, message):
    with pytest.raises(ConfigError, match=message):
        WordPieces(**options)


def test_vocabularies_that_cannot_be_used(tmp_path, folder, text_file):
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"no 'tokenizer\.json' and no 'vocab\.txt' \(found: config\.json\)"):
        WordPieces(str(empty))
    with pytest.raises(CheckpointError, match="No vocabulary at"):
        WordPieces(str(tmp_path / "absent"))
    text_file.write_text("a\ndog\n[PAD]\n[CLS]")
    with pytest.raises(CheckpointError, match=r"it has no \[UNK\], no \[SEP\]"):
        WordPieces(str(text_file))
    text_file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CheckpointError, match="cannot be read"):
        WordPieces(str(text_file))
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"normalizer": {"type": "NFC"}}))
    with pytest.raises(CheckpointError, match="WordPiece, NFC, BertPreTokenizer instead of"):
        WordPieces(str(folder))
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        WordPieces(str(folder))


def test_hub_name(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda repository, name: str(folder / name))
    assert read_vocabulary("bert-base-uncased") == read_vocabulary(str(folder))

    def offline(repository, name):
        raise LocalEntryNotFoundError("no route")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", offline)
    with pytest.raises(CheckpointError, match="set the tokenizer's vocabulary to the local folder"):
        WordPieces("bert-base-uncased")


def test_a_tokenizer_that_was_saved_by_the_library(tmp_path, folder):
    """Settings for padding and cutting inside of the file do not matter."""
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.enable_padding(length=9)
    library.enable_truncation(4)
    library.save(str(tmp_path / "own.json"))
    own = WordPieces(str(tmp_path / "own.json"), context_length=12)
    assert torch.equal(own(CAPTIONS).tokens, WordPieces(str(folder), context_length=12)(CAPTIONS).tokens)
