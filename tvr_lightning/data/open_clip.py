"""open_clip's models by name: their configuration, and the tokenisers that they were trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from tvr_lightning.data.stores.hub import fetch_from_hub, read_json
from tvr_lightning.data.text import CLIP_VOCABULARY, CLIPTokenizer, TokenizedText, Tokenizer
from tvr_lightning.errors import CheckpointError, ConfigError, DataError, nearest

HUB, FOLDER = "hf-hub:", "local-dir:"
CONFIG = "open_clip_config.json"
_CLEAN = ("whitespace", "lower", "canonicalize")
# the first that there is: what transformers makes a tokeniser of
_VOCABULARIES = ("tokenizer.json", "spiece.model", "sentencepiece.bpe.model", "vocab.txt")


@dataclass(frozen=True)
class NamedModel:
    """What a name stands for.

    Attributes:
        config: open_clip's `model_cfg`: `embed_dim`, `vision_cfg`, `text_cfg` and the like; the caller's own.
        preprocess: open_clip's `preprocess_cfg`; empty for names that come with open_clip, whose tags say it.
        source: where its weights lie, a folder or a repository's name; None for names that come with open_clip.
    """

    config: dict[str, Any]
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    source: Path | str | None = None


def named_model(name: str, known: Iterable[str] = ()) -> NamedModel:
    """Reads the configuration of a model.

    Args:
        name: one of `open_clip.list_models()`, `hf-hub:` and a repository, or `local-dir:` and a folder; the last two
            hold an `open_clip_config.json`, which is data: nothing in it is run.
        known: further names, for the message.

    Raises:
        ConfigError: there is no such name.
        CheckpointError: the repository or folder has no configuration of open_clip's.

    >>> named_model("ViT-B-16-SigLIP").config["text_cfg"]["context_length"]
    64
    """
    import open_clip

    if name.startswith((HUB, FOLDER)):
        repository = name.removeprefix(HUB)
        folder = Path(name.removeprefix(FOLDER)).expanduser()
        if name.startswith(HUB):
            folder = fetch_from_hub(repository, ((CONFIG,),), "model (as local-dir:FOLDER)")
        content = read_json(folder / CONFIG)
        config = content.get("model_cfg")
        if not isinstance(config, dict):
            another = f"{'no' if not content else 'another'} {CONFIG}"
            found = another if folder.is_dir() else "no such folder"
            raise CheckpointError(
                f"{name} is not a model of open_clip ({found} at {folder}). One has an {CONFIG} with `model_cfg`, and "
                "weights beside it."
            )
        preprocess = content.get("preprocess_cfg")
        source = repository if name.startswith(HUB) else folder
        return NamedModel(_complete(config, name), preprocess if isinstance(preprocess, dict) else {}, source)
    found_config = open_clip.get_model_config(name) if name in open_clip.list_models() else None
    if found_config is None:
        raise ConfigError(f"Unknown CLIP model '{name}': {nearest(name, (*open_clip.list_models(), *known))}")
    return NamedModel(_complete(found_config, name))


def _complete(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    wrong = [part for part in ("vision_cfg", "text_cfg") if not isinstance(config.get(part), dict)]
    wrong += [] if isinstance(config.get("embed_dim"), int) else ["embed_dim"]
    if wrong:
        raise CheckpointError(f"{name}: its model_cfg has no {', no '.join(wrong)}")
    return deepcopy(dict(config))


class OpenCLIPTokenizer(Tokenizer):
    """The tokeniser that a model of open_clip was trained with: CLIP's, or one of Hugging Face's with its own cleaning.

    It is built by transformers from `tokenizer.json` and `tokenizer_config.json`; no code from a repository is run. A
    caption is padded as the model's own captions were.

    Args:
        model: the encoder's `model`.
        folder: a local folder with the tokeniser's files, in place of the repository that the model names. Files
            in a `local-dir:` model's own folder go before that repository too.
        context_length: m, tokens per caption with special ones; longer captions are cut before the last special one.

    Raises:
        ConfigError: an unknown model, or a `context_length` that leaves no place for a word.
        CheckpointError: files that cannot be fetched or read.
    """

    smallest: ClassVar = {"model": "ViT-B-32", "folder": None}

    def __init__(self, model: str = "ViT-B-32", folder: str | None = None, context_length: int = 32) -> None:
        named = named_model(model)
        text = named.config["text_cfg"]
        self.context_length = context_length
        self._name = str(text.get("hf_tokenizer_name") or CLIP_VOCABULARY)
        if self._name == CLIP_VOCABULARY:
            self._clip: CLIPTokenizer | None = CLIPTokenizer(context_length)
            return
        self._clip = None
        options = dict(text.get("tokenizer_kwargs") or {})
        self._clean, self._strip = options.pop("clean", "whitespace"), bool(options.pop("strip_sep_token", False))
        if options or self._clean not in _CLEAN:
            raise ConfigError(f"{model}: unsupported options of its tokeniser: {options or self._clean}")
        if context_length < 3:
            raise ConfigError(
                f"context_length={context_length} leaves no place between special tokens. Set at least 3."
            )
        own = named.source if isinstance(named.source, Path) else None
        self._pieces = _load(_folder(folder, own, self._name))
        self._fingerprint = self._digest()

    @property
    def name(self) -> str:
        """The repository that the model names, or CLIP's."""
        return self._name

    @property
    def vocabulary_size(self) -> int:
        """One more than the largest token."""
        return self._clip.vocabulary_size if self._clip else max(self._pieces.get_vocab().values()) + 1

    def fingerprint(self) -> str:
        """Names vocabulary, merges and cleaning."""
        return self._clip.fingerprint() if self._clip else self._fingerprint

    def __call__(self, captions: Sequence[str]) -> TokenizedText:
        """Tokenises captions.

        Raises:
            DataError: a caption has no token.
        """
        if self._clip:
            return self._clip(captions)
        from open_clip.tokenizer import get_clean_fn

        clean, width, special = get_clean_fn(self._clean), self.context_length, self._special()
        pad = int(self._pieces.pad_token_id or 0)
        rows: list[list[int]] = []
        lengths: list[int] = []
        for index, caption in enumerate(captions):
            # one by one: a batch would start threads, which data workers must not be forked from
            whole = self._pieces(clean(caption)).input_ids
            if not set(whole) - special:
                raise DataError(
                    f"Caption {index} of {len(captions)} is empty: {caption!r}. Remove or correct it in the "
                    "annotations."
                )
            cut = len(whole) > width
            kept = self._pieces(clean(caption), truncation=True, max_length=width).input_ids if cut else whole
            if self._strip:  # CLIPA's models saw padding in its place
                kept = [0 if token == self._pieces.sep_token_id else token for token in kept]
            rows.append([*kept, *[pad] * (width - len(kept))])
            lengths.append(len(whole))
        length = torch.tensor(lengths, dtype=torch.int64)
        tokens = torch.tensor(rows, dtype=torch.int64).reshape(-1, width)
        return TokenizedText(tokens, torch.arange(width) < length.unsqueeze(1), length > width)

    def words(self, tokens: Tensor) -> tuple[str, ...]:
        """Spells the tokens (m,) of a caption, special ones left out; a piece that is continued ends in `-`."""
        if self._clip:
            return self._clip.words(tokens)
        special = self._special() | {0 if self._strip else -1}
        pieces = self._pieces.convert_ids_to_tokens([t for t in tokens.tolist() if t not in special])
        marked = any(piece.startswith(("▁", "Ġ")) for piece in pieces)  # the first piece of a word, else the later ones

        def goes_on(piece: str) -> bool:
            return not piece.startswith(("▁", "Ġ")) if marked else piece.startswith("##")

        following = [*map(goes_on, pieces[1:]), False]
        spelt = [piece.lstrip("▁Ġ").removeprefix("##") for piece in pieces]
        return tuple(piece + "-" * more for piece, more in zip(spelt, following, strict=True) if piece)

    def _special(self) -> set[int]:
        return set(self._pieces.all_special_ids) - {self._pieces.unk_token_id}  # an unknown word is a word

    def _digest(self) -> str:
        vocabulary = sorted(self._pieces.get_vocab().items())
        merges = self._pieces.backend_tokenizer.to_str() if self._pieces.is_fast else ""
        parts = (vocabulary, merges, self._clean, self._strip, self._pieces.all_special_ids)
        return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()


def _folder(given: str | None, own: Path | None, repository: str) -> Path:
    if given is None and own is not None and any((own / name).is_file() for name in _VOCABULARIES):
        return own
    if given is None:
        files = (_VOCABULARIES, ("tokenizer_config.json",))
        return fetch_from_hub(repository, files, "the tokenizer's folder")
    folder = Path(given).expanduser()
    if not any((folder / name).is_file() for name in _VOCABULARIES):
        raise CheckpointError(
            f"{folder} holds no tokeniser (none of {', '.join(_VOCABULARIES)}). Put the files of {repository} there."
        )
    return folder


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # damaged files fail in many ways; all mean the same to the user
        why = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise CheckpointError(f"{folder} holds no tokeniser that transformers can build ({why}).") from error
