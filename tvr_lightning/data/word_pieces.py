"""Captions to BERT's word pieces, and which of them are pieces of which textual node (LEAN, Sec. 3.1.1)."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from tvr_lightning.data.stores.hub import fetch_from_hub, read_json
from tvr_lightning.data.text import TokenizedText, Tokenizer
from tvr_lightning.data.triples.base import Nodes, Span, TripleExtractor, word_spans
from tvr_lightning.data.triples.cached import CachedTriples
from tvr_lightning.data.triples.choose import make_extractor
from tvr_lightning.errors import CheckpointError, ConfigError, DataError
from tvr_lightning.visible import whole

UNKNOWN = "[UNK]"
SPECIAL = ("[PAD]", UNKNOWN, "[CLS]", "[SEP]", "[MASK]")
_NEEDED = SPECIAL[:4]


@dataclass(frozen=True)
class Vocabulary:
    """Word pieces and how text is normalised before it is cut into them.

    Attributes:
        pieces: the token of each piece; a piece that continues a word starts with `##`.
        lowercase: whether text is lower-cased.
        strip_accents: whether accents are removed; None where lower-casing decides.
        handle_chinese_chars: whether each Chinese character is a word.
    """

    pieces: Mapping[str, int]
    lowercase: bool = True
    strip_accents: bool | None = None
    handle_chinese_chars: bool = True


class WordPieces(Tokenizer):
    """BERT's tokeniser: word pieces between [CLS] and [SEP], padded with [PAD].

    A textual node is one word at one place of the caption: a word that occurs twice is two nodes. Nodes are numbered as
    they appear; those that `context_length` cuts off are counted. Where none of the chosen words is left, because a
    long caption was cut before them, all words are nodes; where no word is left either, all pieces. So every caption
    has a node.

    Args:
        vocabulary: None for pieces that are learnt from the training captions; the name of a Hugging Face repository
            (`bert-base-uncased`), which is downloaded once; or a local BERT folder, `tokenizer.json` or `vocab.txt`. A
            local path goes before a repository of the same name.
        context_length: m, tokens per caption with [CLS] and [SEP]; longer captions are cut before [SEP].
        vocabulary_size: bound of a learnt vocabulary; not used with a given one.
        text_nodes: which words are nodes (LEAN, Fig. 3): those of the subject-relation-object triples, those of
            subjects and objects only, or all. A caption without a triple has all.
        triples: finds the triples; None for the offline extractor, whose results are kept in the user's cache folder.

    Raises:
        ConfigError: settings that do not fit.
        CheckpointError: a vocabulary that cannot be fetched or read, or that is not BERT's kind.
    """

    smallest: ClassVar = {"vocabulary": None}

    def __init__(
        self,
        vocabulary: str | None = None,
        context_length: int = 32,
        vocabulary_size: int = 2000,
        text_nodes: Nodes = "all",
        triples: TripleExtractor | None = None,
    ) -> None:
        if context_length < 3:
            raise ConfigError(
                f"context_length={context_length} leaves no place between [CLS] and [SEP]. Set at least 3."
            )
        if vocabulary_size < 10:
            raise ConfigError(
                f"vocabulary_size={vocabulary_size} leaves no room for words. Set at least some hundreds."
            )
        if text_nodes not in get_args(Nodes):
            raise ConfigError(f"Unknown text_nodes '{text_nodes}'. Known: {', '.join(get_args(Nodes))}.")
        self.context_length = context_length
        self.text_nodes = text_nodes
        self.triples = None if text_nodes == "all" else triples or CachedTriples(make_extractor())
        self._bound = vocabulary_size
        self._own = self._learns = vocabulary is None
        self._adopt(None if vocabulary is None else read_vocabulary(vocabulary))

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token; before a vocabulary is learnt, its bound."""
        return self._bound if self._vocabulary is None else max(self._vocabulary.pieces.values()) + 1

    def fingerprint(self) -> str:
        """Names vocabulary and settings: equal ones give equal tokens and nodes.

        Raises:
            ConfigError: the vocabulary has not been learnt yet.
        """
        known = self._known
        normalising = (known.lowercase, known.strip_accents, known.handle_chinese_chars)
        settings = (self.context_length, self.text_nodes)
        extractor = "" if self.triples is None else self.triples.fingerprint
        parts = (sorted(known.pieces.items()), normalising, settings, extractor)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def vocabulary_fingerprint(self) -> str:
        """Names pieces and normalisation; raises as `fingerprint` does."""
        known = self._known
        parts = (sorted(known.pieces.items()), known.lowercase, known.strip_accents, known.handle_chinese_chars)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()

    def learn(self, captions: Sequence[str]) -> None:
        """Learns the vocabulary from the training captions, the same one from the same captions; a given one stays.

        Raises:
            DataError: there is no caption.
        """
        if self._learns:
            self._adopt(learn_vocabulary(captions, self._bound))

    def learned(self) -> dict[str, Any] | None:
        """The pieces that were learnt, with their tokens; None where the vocabulary was given."""
        if not self._own or self._vocabulary is None:
            return None
        return {"pieces": dict(self._vocabulary.pieces)}

    def restore(self, learned: Mapping[str, Any] | None) -> None:
        """Takes learnt pieces instead of learning; a given vocabulary stays.

        Raises:
            CheckpointError: these are not pieces, or more than `vocabulary_size` allows.
        """
        if not self._own or learned is None:
            return
        pieces = learned.get("pieces") if isinstance(learned, Mapping) else None
        if (
            not isinstance(pieces, dict)
            or not all(isinstance(piece, str) and type(token) is int for piece, token in pieces.items())
            or sorted(pieces.values()) != list(range(len(pieces)))
            or not all(name in pieces for name in _NEEDED)
        ):
            raise CheckpointError("the checkpoint's vocabulary is damaged: its pieces are not numbered from 0 on")
        if len(pieces) > self._bound:
            raise CheckpointError(
                f"the checkpoint's vocabulary has {len(pieces)} pieces, data.tokenizer.vocabulary_size is {self._bound}"
            )
        self._adopt(Vocabulary(dict(pieces)))
        self._learns = False

    def __call__(self, captions: Sequence[str]) -> TokenizedText:
        """Tokenises captions.

        Raises:
            DataError: a caption has no token.
            ConfigError: the vocabulary has not been learnt yet.
        """
        pad, start, end = (self._known.pieces[name] for name in ("[PAD]", "[CLS]", "[SEP]"))
        width = self.context_length
        chosen = self._chosen(captions)
        tokens: list[list[int]] = []
        words: list[list[int]] = []
        lengths: list[int] = []
        lost_nodes: list[int] = []
        for index, caption in enumerate(captions):
            # one by one: a batch would start threads, which data workers must not be forked from
            encoding = self._pieces.encode(whole(caption), add_special_tokens=False)
            if not encoding.ids:
                raise DataError(
                    f"Caption {index} of {len(captions)} is empty: {caption!r}. Remove or correct it in the "
                    "annotations."
                )
            kept = encoding.ids[: width - 2]
            padding = width - 2 - len(kept)
            tokens.append([start, *kept, end] + [pad] * padding)
            nodes, lost = _nodes(caption, chosen[index], encoding.offsets, width - 2)
            words.append([-1, *nodes, -1] + [-1] * padding)
            lost_nodes.append(lost)
            lengths.append(len(encoding.ids) + 2)
        length = torch.tensor(lengths, dtype=torch.int64)
        return TokenizedText(
            torch.tensor(tokens, dtype=torch.int64).reshape(-1, width),
            torch.arange(width) < length.unsqueeze(1),
            length > width,
            torch.tensor(words, dtype=torch.int64).reshape(-1, width),
            torch.tensor(lost_nodes, dtype=torch.int64),
        )

    def words(self, tokens: Tensor) -> tuple[str, ...]:
        """Spells the tokens (m,) of a caption, special ones left out; a piece that is continued ends in `-`."""
        pieces = [self._names[token] for token in tokens.tolist()[1:]]
        spelt = pieces[: pieces.index("[SEP]")]
        return tuple(
            piece.removeprefix("##") + "-" * following.startswith("##")
            for piece, following in zip(spelt, [*spelt[1:], ""], strict=True)
        )

    def spell(self, caption: str, tokens: Tensor) -> tuple[str, ...]:
        """As `words`; what the vocabulary does not know is spelt as the caption has it."""
        spans = self._pieces.encode(caption, add_special_tokens=False).offsets
        pieces = zip(self.words(tokens), spans, strict=False)  # a caption that was cut has more
        return tuple(caption[start:end] if piece == UNKNOWN else piece for piece, (start, end) in pieces)

    def _adopt(self, vocabulary: Vocabulary | None) -> None:
        self._vocabulary = vocabulary
        self._pieces: Any = None if vocabulary is None else _tokenizer(vocabulary)
        self._names = {} if vocabulary is None else {token: piece for piece, token in vocabulary.pieces.items()}

    @property
    def _known(self) -> Vocabulary:
        if self._vocabulary is None:
            raise ConfigError(
                "The vocabulary of WordPieces has not been learnt yet: call learn(training captions) first, or give it "
                "a vocabulary."
            )
        return self._vocabulary

    def _chosen(self, captions: Sequence[str]) -> Sequence[Sequence[Span]]:
        if self.triples is None:
            return [word_spans(caption) for caption in captions]
        return self.triples.words(captions, self.text_nodes)

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in ("_pieces", "_names")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._adopt(self._vocabulary)


def learn_vocabulary(captions: Sequence[str], size: int) -> Vocabulary:
    """Learns word pieces by joining the most frequent neighbours, from single characters on (Wu et al. 2016, Sec. 4.1).

    Args:
        captions: what is learnt from; their order does not matter.
        size: bound of the vocabulary. At most a quarter of it is single characters, the most frequent ones.

    Raises:
        DataError: there is no caption.
    """
    from tokenizers.trainers import WordPieceTrainer

    captions = [whole(caption) for caption in captions]
    tokenizer = _tokenizer(Vocabulary({}))
    characters = Counter("".join(tokenizer.normalizer.normalize_str(caption) for caption in captions))
    frequent = sorted((-count, c) for c, count in characters.items() if not c.isspace())
    if not frequent:
        raise DataError(
            f"No word pieces can be learnt: the {len(captions)} training captions have no word. Data that are only a "
            "test set need a vocabulary that is there: --data.tokenizer.vocabulary."
        )
    alphabet = [c for _, c in frequent[: size // 4]]

    def train(special: Sequence[str], bound: int) -> dict[str, int]:
        trainer = WordPieceTrainer(
            vocab_size=bound,
            special_tokens=list(special),
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        learner = _tokenizer(Vocabulary({}))
        learner.train_from_iterator(captions, trainer)
        return dict(learner.get_vocab(with_added_tokens=True))

    # Single characters inside of words get their tokens in an order that changes from run to run, and equally frequent
    # pairs are joined in the order of tokens: without tokens fixed beforehand no two runs learn the same pieces.
    inside = sorted(piece for piece in train(SPECIAL, 0) if piece.startswith("##"))
    return Vocabulary(train((*SPECIAL, *inside), size))


def read_vocabulary(source: str) -> Vocabulary:
    """Reads the vocabulary of a BERT: a folder, `tokenizer.json`, `vocab.txt`, or the name of a repository.

    Raises:
        CheckpointError: it cannot be fetched or read, or it is not BERT's kind.
    """
    path = Path(source).expanduser()
    if not path.exists():
        if path.is_absolute() or path.suffix in (".txt", ".json") or len(path.parts) > 2 or source[0] in ".~":
            raise CheckpointError(
                f"No vocabulary at {path}. Check the tokenizer's vocabulary, or name a Hugging Face repository such as "
                "bert-base-uncased."
            )
        path = fetch_from_hub(source, (("tokenizer.json",),), "the tokenizer's vocabulary") / "tokenizer.json"
    if path.is_dir():
        files = [path / name for name in ("tokenizer.json", "vocab.txt") if (path / name).is_file()]
        if not files:
            found = ", ".join(sorted(p.name for p in path.iterdir())[:5]) or "nothing"
            raise CheckpointError(
                f"{path} holds no 'tokenizer.json' and no 'vocab.txt' (found: {found}). Put the vocabulary that the "
                "weights were trained with there."
            )
        path = files[0]
    vocabulary = _from_json(path) if path.suffix == ".json" else _from_text(path)
    lacking = [name for name in _NEEDED if name not in vocabulary.pieces]
    if lacking:
        raise CheckpointError(f"{path} is not a vocabulary of a BERT: it has no {', no '.join(lacking)}.")
    return vocabulary


def _from_json(path: Path) -> Vocabulary:
    content = read_json(path)
    model, normalizer, splitter = (content.get(part) or {} for part in ("model", "normalizer", "pre_tokenizer"))
    found = (model.get("type"), normalizer.get("type"), splitter.get("type"))
    if found != ("WordPiece", "BertNormalizer", "BertPreTokenizer") or not isinstance(model.get("vocab"), dict):
        raise CheckpointError(
            f"{path} is not a tokeniser of a BERT: it has {', '.join(map(str, found))} instead of WordPiece, "
            "BertNormalizer, BertPreTokenizer. Use the tokenizer.json of a BERT such as bert-base-uncased."
        )
    return Vocabulary(
        {str(piece): int(token) for piece, token in model["vocab"].items()},
        lowercase=bool(normalizer.get("lowercase", True)),
        strip_accents=normalizer.get("strip_accents"),
        handle_chinese_chars=bool(normalizer.get("handle_chinese_chars", True)),
    )


def _from_text(path: Path) -> Vocabulary:
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read ({error}). Fetch it again.") from error
    config = read_json(path.parent / "tokenizer_config.json")
    return Vocabulary(
        {piece.rstrip("\r"): token for token, piece in enumerate(lines)},
        lowercase=bool(config.get("do_lower_case", True)),
        strip_accents=config.get("strip_accents"),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
    )


def _tokenizer(vocabulary: Vocabulary) -> Any:
    """The library's tokeniser without special tokens: a caption that spells one out has punctuation and a word."""
    from tokenizers import Tokenizer as PieceTokenizer
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    pieces = dict(vocabulary.pieces) or {UNKNOWN: 0}
    tokenizer: Any = PieceTokenizer(WordPiece(pieces, unk_token=UNKNOWN))
    tokenizer.normalizer = BertNormalizer(
        clean_text=True,
        handle_chinese_chars=vocabulary.handle_chinese_chars,
        strip_accents=vocabulary.strip_accents,
        lowercase=vocabulary.lowercase,
    )
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _nodes(caption: str, chosen: Sequence[Span], offsets: Sequence[Span], kept: int) -> tuple[list[int], int]:
    """The node of each piece that is kept, and how many nodes of the whole caption lost all of theirs."""
    words = word_spans(caption)
    every = next((found for spans in (chosen, words) if max(found := _numbered(offsets, spans)) >= 0), None)
    if every is None:
        every = list(range(len(offsets)))
    nodes = every[:kept]
    lost = max(every) - max(nodes)
    if max(nodes) < 0:
        nodes = _numbered(offsets[:kept], words)
    return (nodes if max(nodes) >= 0 else list(range(len(nodes)))), lost


def _numbered(offsets: Sequence[Span], spans: Sequence[Span]) -> list[int]:
    """For each piece the number of the span that it lies in, -1 for none; spans without a piece are not counted."""
    ordered = sorted(spans)
    numbers: dict[int, int] = {}
    found = []
    place = 0
    for start, end in offsets:
        while place < len(ordered) and ordered[place][1] <= start:
            place += 1
        inside = place < len(ordered) and ordered[place][0] < end
        found.append(numbers.setdefault(place, len(numbers)) if inside else -1)
    return found
