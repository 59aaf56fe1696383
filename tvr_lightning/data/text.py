"""Captions to tokens: what a tokeniser is, and CLIP's byte-pair encoding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from tvr_lightning.errors import CheckpointError, ConfigError, DataError

CLIP_VOCABULARY = "clip"


class TokenizedText(NamedTuple):
    """Tokenised captions.

    Attributes:
        tokens: (T, m) int64, padding after the end token: 0, or what the tokeniser's own models pad with.
        mask: (T, m) bool, True from start to end token.
        truncated: (T,) bool, True where the caption lost tokens.
        word: (T, m) int64, which of the caption's textual nodes a token is a piece of; -1 for none. None where the
            tokeniser knows no nodes.
        lost_nodes: (T,) int64, how many of the caption's nodes lost all their tokens; None likewise.
    """

    tokens: Tensor
    mask: Tensor
    truncated: Tensor
    word: Tensor | None = None
    lost_nodes: Tensor | None = None


class Tokenizer(ABC):
    """Captions to tokens.

    Attributes:
        smallest: constructor arguments with which nothing is downloaded, for trial runs.
        context_length: m, tokens per caption.
        name: of the vocabulary, as encoders name the one that their weights were trained with; the class's unless set.
    """

    smallest: ClassVar[Mapping[str, object]] = {}
    context_length: int

    @property
    def name(self) -> str:
        """The class's."""
        return type(self).__name__

    @property
    @abstractmethod
    def vocabulary_size(self) -> int:
        """One more than the largest token."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Names vocabulary and settings: equal ones give equal tokens."""

    def vocabulary_fingerprint(self) -> str:
        """Names the vocabulary alone: equal ones number the same pieces alike, whatever the captions' length."""
        return self.fingerprint()

    def check_trained(self, trained: str | None, captions: str) -> None:
        """Refuses weights that learned other tokens.

        Args:
            trained: the fingerprint of the tokeniser that they were trained with, where it is known.
            captions: what a vocabulary is learned from, in words.

        Raises:
            CheckpointError: that one is another.
        """
        if trained not in (None, self.fingerprint()):
            raise CheckpointError(
                f"the checkpoint was trained with another vocabulary ({trained}) than data.tokenizer gives here "
                f"({self.fingerprint()}, {self.name}; where it is learned, from {captions}). Evaluate it on the "
                "captions and with the tokeniser settings of its run folder's config.yaml."
            )

    @abstractmethod
    def __call__(self, captions: Sequence[str]) -> TokenizedText:
        """Tokenises captions."""

    @abstractmethod
    def words(self, tokens: Tensor) -> tuple[str, ...]:
        """Spells the tokens (m,) of a caption, special ones left out."""

    def spell(self, caption: str, tokens: Tensor) -> tuple[str, ...]:
        """Spells the tokens (m,) of a caption that is at hand, special ones left out: see `words`."""
        return self.words(tokens)

    def learn(self, captions: Sequence[str]) -> None:
        """Sees the training captions once, before anything is tokenised; a fixed vocabulary does nothing."""
        return

    def learned(self) -> dict[str, Any] | None:
        """What `learn` found, as plain values that a checkpoint keeps; None for a fixed vocabulary."""
        return None

    def restore(self, learned: Mapping[str, Any] | None) -> None:
        """Takes what `learned` gave where weights were trained with it; then `learn` changes nothing.

        Args:
            learned: None where the weights' tokeniser learned nothing; a fixed vocabulary takes nothing else.

        Raises:
            CheckpointError: it is no such thing.
        """
        return


@cache
def _byte_pair_encoding() -> Any:
    """open_clip's tokeniser, built once per process: parsing the merges and importing open_clip take seconds."""
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()


class CLIPTokenizer(Tokenizer):
    """CLIP's tokeniser: lower-cased byte pairs between a start and an end token, padded with 0.

    The vocabulary is shared by all tokenisers of a process and is not pickled with them.

    Args:
        context_length: m, tokens per caption with start and end token; longer captions are cut before the end token.

    Raises:
        ConfigError: `context_length` leaves no place for a word.
    """

    def __init__(self, context_length: int = 32) -> None:
        if context_length < 3:
            raise ConfigError(
                f"context_length={context_length} leaves no place between start and end token. Set at least 3."
            )
        self.context_length = context_length
        _byte_pair_encoding()  # before data workers fork, so that they share it

    @property
    def name(self) -> str:
        """CLIP's."""
        return CLIP_VOCABULARY

    @property
    def vocabulary_size(self) -> int:
        """CLIP's."""
        return int(_byte_pair_encoding().eot_token_id) + 1

    def fingerprint(self) -> str:
        """The vocabulary never changes."""
        return CLIP_VOCABULARY

    def __call__(self, captions: Sequence[str]) -> TokenizedText:
        """Tokenises captions.

        Raises:
            DataError: a caption has no token.
        """
        encoding = _byte_pair_encoding()
        start, end = encoding.sot_token_id, encoding.eot_token_id
        width = self.context_length
        rows: list[list[int]] = []
        lengths: list[int] = []
        for index, caption in enumerate(captions):
            # a caption that spells out a special token must not end early
            words = [token for token in encoding.encode(caption) if token < start]
            if not words:
                raise DataError(
                    f"Caption {index} of {len(captions)} is empty: {caption!r}. Remove or correct it in the "
                    "annotations."
                )
            kept = words[: width - 2]
            rows.append([start, *kept, end] + [0] * (width - 2 - len(kept)))
            lengths.append(len(words) + 2)
        length = torch.tensor(lengths, dtype=torch.int64)
        # from the end token's place, because 0 is also the token of "!"
        mask = torch.arange(width) < length.unsqueeze(1)
        return TokenizedText(torch.tensor(rows, dtype=torch.int64).reshape(-1, width), mask, length > width)

    def words(self, tokens: Tensor) -> tuple[str, ...]:
        """Spells the tokens (m,) of a caption, start and end left out; a piece that is continued ends in `-`."""
        encoding = _byte_pair_encoding()
        pieces = [encoding.decoder[token] for token in tokens.tolist()[1:]]
        spelt = pieces[: pieces.index(encoding.decoder[encoding.eot_token_id])]
        # a letter outside of ASCII can be several tokens: it is spelt by the last of them
        letters = getincrementaldecoder("utf-8")(errors="replace")
        words = []
        for piece in spelt:
            ends = piece.endswith("</w>")
            letter = letters.decode(bytes(encoding.byte_decoder[c] for c in piece.removesuffix("</w>")), final=ends)
            words.append(letter if ends else f"{letter}-")
        return tuple(words)
