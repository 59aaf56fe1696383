"""Tokenisers of open_clip's models against open_clip's own wrapper, from local folders."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tvr_lightning.data.open_clip import OpenCLIPTokenizer, named_model
from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.errors import CheckpointError, ConfigError, DataError

CAPTIONS = ["A dog runs, over a field!", "two men talk about the weather all day long", "Wow: red balls"]
CLEANED = {"sentence": {"clean": "canonicalize"}, "pieces": {"strip_sep_token": True}, "plain": None}


def train(folder: Path, kind: str) -> Path:
    """Writes a tokeniser as repositories hold one: pieces of BERT's, or of SentencePiece's, learnt from captions."""
    from transformers import PreTrainedTokenizerFast

    if kind == "pieces":
        tokenizer: Any = Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
        special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
        trainer: Any = trainers.WordPieceTrainer(vocab_size=60, special_tokens=special, show_progress=False)
        names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
        ends = "[CLS] $A [SEP]", [("[CLS]", 2), ("[SEP]", 3)]
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        special = ["<unk>", "</s>"]
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=special, unk_token="<unk>", show_progress=False, max_piece_length=4
        )
        names = {"pad_token": "</s>", "unk_token": "<unk>", "eos_token": "</s>"}  # SigLIP pads with the end token
        ends = "$A </s>", [("</s>", 1)]
    tokenizer.train_from_iterator([*CAPTIONS, *(c.lower() for c in CAPTIONS)], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=ends[0], special_tokens=ends[1])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


@pytest.fixture(params=[*CLEANED])
def kind(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a model whose tokeniser cleans that way."""
    config = open_clip.get_model_config("ViT-B-32")
    config["text_cfg"] |= {"hf_tokenizer_name": "org/words", "tokenizer_kwargs": CLEANED[request.param]}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, request.param, config)
    return str(request.param)


@pytest.mark.parametrize("length", [40, 12])
def test_tokens_are_open_clips(tmp_path: Path, kind: str, length: int) -> None:
    folder = train(tmp_path, kind)
    own = OpenCLIPTokenizer(kind, str(folder), length)
    theirs = open_clip.tokenizer.HFTokenizer(str(folder), context_length=length, **(CLEANED[kind] or {}))
    found = own(CAPTIONS)
    assert torch.equal(found.tokens, theirs(CAPTIONS))
    assert found.mask.shape == found.tokens.shape
    lengths = found.mask.sum(1)
    assert bool(found.truncated.any()) == (length == 12)
    pad = own._pieces.pad_token_id
    assert all((row[n:] == pad).all() for row, n in zip(found.tokens, lengths, strict=True))
    assert own.vocabulary_size > int(found.tokens.max())
    assert own.name == "org/words"


def test_captions_do_not_depend_on_others_and_survive_pickling(tmp_path: Path, kind: str) -> None:
    tokenizer = OpenCLIPTokenizer(kind, str(train(tmp_path, kind)))
    again = pickle.loads(pickle.dumps(tokenizer))
    assert torch.equal(again(CAPTIONS).tokens, tokenizer(CAPTIONS).tokens)
    assert torch.equal(tokenizer(CAPTIONS[1:2]).tokens, tokenizer(CAPTIONS).tokens[1:2])
    assert again.fingerprint() == tokenizer.fingerprint()
    assert tokenizer([]).tokens.shape == (0, 32)
    with pytest.raises(DataError, match="Caption 1 of 2 is empty"):
        tokenizer(["a dog", " "])


def test_words_are_spelt(tmp_path: Path, kind: str) -> None:
    tokenizer = OpenCLIPTokenizer(kind, str(train(tmp_path, kind)))
    tokens = tokenizer(["two dog weather"]).tokens[0]
    spelt = tokenizer.words(tokens)
    assert "".join(f"{word} " for word in spelt).replace("- ", "").split() == ["two", "dog", "weather"]


def test_fingerprints_tell_vocabularies_and_cleaning_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = open_clip.get_model_config("ViT-B-32")
    found = set()
    for name, cleaning in (("a", "canonicalize"), ("b", "lower")):
        text = config["text_cfg"] | {"hf_tokenizer_name": "org/words", "tokenizer_kwargs": {"clean": cleaning}}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, config | {"text_cfg": text})
        for part in ("pieces", "sentence"):
            found.add(OpenCLIPTokenizer(name, str(train(tmp_path / part, part))).fingerprint())
    assert len(found) == 4


def test_clips_own_is_clips() -> None:
    tokenizer, clip = OpenCLIPTokenizer("RN50", context_length=12), CLIPTokenizer(12)
    assert all(map(torch.equal, tokenizer(CAPTIONS)[:3], clip(CAPTIONS)[:3]))
    assert (tokenizer.name, tokenizer.fingerprint()) == (clip.name, clip.fingerprint())
    assert tokenizer.words(clip(CAPTIONS).tokens[0]) == clip.words(clip(CAPTIONS).tokens[0])


def test_a_folder_of_a_model_has_its_own_tokeniser(tmp_path: Path) -> None:
    train(tmp_path, "sentence")
    config = named_model("ViT-B-16-SigLIP").config
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))
    tokenizer = OpenCLIPTokenizer(f"local-dir:{tmp_path}")
    assert tokenizer.name == "timm/ViT-B-16-SigLIP"
    assert tokenizer(["Dogs!"]).tokens.shape == (1, 32)


def test_wrong_folders_and_settings(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        CheckpointError, match=r"holds no tokeniser \(none of tokenizer\.json.*Put the files of org/words"
    ):
        OpenCLIPTokenizer(kind, str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="no tokeniser that transformers can build"):
        OpenCLIPTokenizer(kind, str(tmp_path))
    with pytest.raises(ConfigError, match="context_length=2 leaves no place"):
        OpenCLIPTokenizer(kind, str(tmp_path), 2)
    with pytest.raises(ConfigError, match="did you mean ViT-B-16-SigLIP"):
        OpenCLIPTokenizer("ViT-B-16-SigLPI")
    config = open_clip.get_model_config(kind)
    config["text_cfg"]["tokenizer_kwargs"] = {"language": "en"}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, kind, config)
    with pytest.raises(ConfigError, match=r"unsupported options of its tokeniser: \{'language': 'en'\}"):
        OpenCLIPTokenizer(kind, str(tmp_path))


def test_no_code_of_a_folder_is_run(tmp_path: Path, kind: str) -> None:
    folder = train(tmp_path, kind)
    file = folder / "tokenizer_config.json"
    content = json.loads(file.read_text()) | {"auto_map": {"AutoTokenizer": ["evil.Words", "evil.Words"]}}
    file.write_text(json.dumps(content | {"tokenizer_class": "Words"}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    try:
        OpenCLIPTokenizer(kind, str(folder))
    except CheckpointError as error:
        assert "no tokeniser that transformers can build" in str(error)  # noqa: PT017 - either is safe
    assert not (tmp_path / "mark").exists()
