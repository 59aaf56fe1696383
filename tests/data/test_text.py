"""CLIP's tokeniser against open_clip's own."""

import pickle

import open_clip
import pytest
import torch

from tvr_lightning.data.text import CLIPTokenizer
from tvr_lightning.errors import ConfigError, DataError

CAPTIONS = (
    "a man is playing guitar",
    "Wow!",
    "! ! !",
    "tom &amp; jerry &lt;3",
    "eine Frau läuft über die Straße",
    "一个人在跑步",
    "a cat 😹 on a sofa 🛋️",
    "  two   spaces\tand\na newline ",
    "word " * 60,
)


def test_tokens_equal_open_clips():
    assert torch.equal(CLIPTokenizer(77)(CAPTIONS).tokens, open_clip.tokenize(list(CAPTIONS), 77))
    assert torch.equal(CLIPTokenizer(12)(CAPTIONS).tokens, open_clip.tokenize(list(CAPTIONS), 12))


@pytest.mark.parametrize("context_length", [6, 32])
def test_mask_ends_at_the_end_token(context_length):
    text = CLIPTokenizer(context_length)(CAPTIONS)
    assert text.tokens.shape == text.mask.shape == (len(CAPTIONS), context_length)
    assert text.tokens.dtype == torch.int64
    for row, mask in zip(text.tokens.tolist(), text.mask.tolist(), strict=True):
        end = row.index(49407)
        assert row[0] == 49406
        assert mask == [position <= end for position in range(context_length)]


def test_token_zero_is_a_word():
    text = CLIPTokenizer(8)(["hello !~"])
    assert text.tokens[0].tolist() == [49406, 3306, 0, 349, 49407, 0, 0, 0]
    assert text.mask[0].tolist() == [True] * 5 + [False] * 3


def test_truncation_is_reported_and_keeps_the_end_token():
    text = CLIPTokenizer(5)(["one two three", "one two three four"])
    assert text.truncated.tolist() == [False, True]
    assert text.tokens[:, -1].tolist() == [49407, 49407]
    assert torch.equal(text.tokens[0], text.tokens[1])


@pytest.mark.parametrize("caption", ["", "  \t\n", "&nbsp;", "<end_of_text>"])
def test_empty_caption_is_an_error(caption):
    with pytest.raises(DataError, match="Caption 1 of 2 is empty"):
        CLIPTokenizer()(["fine", caption])


def test_special_tokens_in_a_caption_do_not_end_it():
    tokenizer = CLIPTokenizer(8)
    assert torch.equal(tokenizer(["a <end_of_text> dog"]).tokens, tokenizer(["a dog"]).tokens)


@pytest.mark.parametrize(
    ("caption", "words"),
    [
        ("a turquoise xylqz café", ("a", "turquoise", "x-", "yl-", "q-", "z", "café")),
        ("Красный круг", ("к-", "р-", "а-", "с-", "н-", "ы-", "-", "й", "к-", "р-", "у-", "-", "г")),
        ("红 🙂", ("-", "-", "红", "🙂")),
    ],
)
def test_words_are_spelt_in_their_own_letters(caption, words):
    tokenizer = CLIPTokenizer(20)
    assert tokenizer.words(tokenizer([caption]).tokens[0]) == words


def test_no_captions():
    text = CLIPTokenizer(7)([])
    assert text.tokens.shape == text.mask.shape == (0, 7)
    assert text.truncated.shape == (0,)


def test_pickled_tokenizer_is_small_and_the_same():
    tokenizer = CLIPTokenizer(20)
    stored = pickle.dumps(tokenizer)
    assert len(stored) < 200
    assert torch.equal(pickle.loads(stored)(CAPTIONS).tokens, tokenizer(CAPTIONS).tokens)


def test_context_needs_room_for_a_word():
    with pytest.raises(ConfigError, match="at least 3"):
        CLIPTokenizer(2)
