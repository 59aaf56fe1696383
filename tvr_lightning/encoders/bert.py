"""BERT through transformers: one vector per word piece, pooled to words (Devlin et al. 2019)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from tvr_lightning.data.stores.hub import fetch_from_hub, read_json
from tvr_lightning.encoders.base import TextEncoder
from tvr_lightning.encoders.kept import building, finish, kept_computation
from tvr_lightning.encoders.weights import (
    SUFFIXES,
    Fingerprint,
    differences,
    distinct,
    find_weight_file,
    read_state_dict,
    weight_mismatch,
)
from tvr_lightning.errors import CheckpointError, ConfigError, nearest


@dataclass(frozen=True)
class BERTSize:
    """A BERT of any size.

    Attributes:
        width: D.
        layers: number of layers.
        heads: attention heads of a layer.
        mlp_width: width of a layer's feed-forward part.
        vocabulary_size: word pieces.
        positions: rows of the position table, the longest text in tokens.
        dropout: rate of both dropouts of randomly initialised models; loaded ones bring their own.
    """

    width: int
    layers: int
    heads: int
    mlp_width: int
    vocabulary_size: int
    positions: int = 512
    dropout: float = 0.1


BERT_PRESETS = {
    "bert-base-uncased": BERTSize(width=768, layers=12, heads=12, mlp_width=3072, vocabulary_size=30522),
    "bert-large-uncased": BERTSize(width=1024, layers=24, heads=16, mlp_width=4096, vocabulary_size=30522),
    "bert_uncased_L-4_H-256_A-4": BERTSize(width=256, layers=4, heads=4, mlp_width=1024, vocabulary_size=30522),
    # from scratch, in minutes: dropout would only slow it
    "tiny": BERTSize(width=128, layers=2, heads=2, mlp_width=512, vocabulary_size=2000, dropout=0.0),
}

_CONFIG_NAMES = {
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
    "vocabulary_size": "vocab_size",
    "positions": "max_position_embeddings",
}
# what the weights were trained with besides their size, with transformers' defaults
_TRAINED_WITH: dict[str, Any] = {
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}


class BERTEncoder(TextEncoder):
    """BERT's last layer for every token; nothing is normalised, and there is no pooler.

    A caption's features depend on that caption alone. Dropout acts in training mode, as in fine-tuning BERT.

    Args:
        model: `bert-base-uncased`, `bert-large-uncased`, `bert_uncased_L-4_H-256_A-4` (Turc et al. 2019) or the preset
            `tiny`; not used when `size` is given.
        from_pretrained: None for random weights; the name of a Hugging Face repository (`bert-base-uncased`), which is
            downloaded once; a local folder in that format, `config.json` beside the weights; or a run, whose encoder is
            taken (see `encoders.of_runs`). A local path takes precedence over a repository of the same name.
            Heads and pooler of a pretraining checkpoint are left out.
        size: any other size, instead of a named one.
        context_length: m, the longest caption in tokens.
        freeze: freezes everything and keeps evaluation mode.
        freeze_layers: freezes the embeddings and the first layers.
        gradient_checkpointing: computes the layers' activations again in the backward pass instead of keeping them.

    Attributes:
        embed_dim: D.
        context_length: m.
        vocabulary_size: word pieces that have an embedding.
        freeze: whether nothing is trained.
        pretrained: whether weights were loaded.

    Raises:
        ConfigError: an unknown name, sizes that describe no model, or a context beyond the position table.
        CheckpointError: weights that cannot be fetched or read, or that belong to another model.
    """

    smallest: ClassVar = {"model": "tiny", "size": None, "from_pretrained": None}

    def __init__(
        self,
        model: str = "bert-base-uncased",
        from_pretrained: str | None = None,
        *,
        size: BERTSize | None = None,
        context_length: int = 32,
        freeze: bool = False,
        freeze_layers: int = 0,
        gradient_checkpointing: bool = False,
    ) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        if size is None and model not in BERT_PRESETS:
            raise ConfigError(f"Unknown BERT '{model}': {nearest(model, BERT_PRESETS)}")
        self.size = size or BERT_PRESETS[model]
        self.name = model if self.size == BERT_PRESETS.get(model) else "BERTSize"
        _check(self.size, context_length)
        if not 0 <= freeze_layers <= self.size.layers:
            raise ConfigError(
                f"freeze_layers={freeze_layers} does not fit {self.name}: set 0 to {self.size.layers}, or freeze."
            )
        sizes: dict[str, Any] = {theirs: getattr(self.size, ours) for ours, theirs in _CONFIG_NAMES.items()}
        dropout = self.size.dropout
        settings = _TRAINED_WITH | {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
        self.from_pretrained = from_pretrained
        file = None
        kept = kept_computation(self, {"size": sizes})
        if kept is not None:
            with building(self):
                settings = {name: kept["settings"][name] for name in settings}
        elif from_pretrained is not None:
            file, raw = _find(from_pretrained)
            problems = [f"{k}: expected {v}, found {raw.get(k)}" for k, v in sizes.items() if raw.get(k) != v]
            if problems:
                raise weight_mismatch(file, self.name, problems)
            settings = {name: raw.get(name, default) for name, default in _TRAINED_WITH.items()}
        with building(self):
            config = BertConfig(**(sizes | settings | {"attn_implementation": "sdpa"}))
            self.bert: Any = BertModel(config, add_pooling_layer=False)
        if file is not None:
            self._load(file)
        finish(self)
        self.embed_dim = self.size.width
        self.context_length = context_length
        self.vocabulary_size = self.size.vocabulary_size
        self.freeze = freeze
        self.pretrained = self.from_pretrained is not None
        self._fingerprint = Fingerprint()
        self.computation = {"features": "last layer", "size": sizes, "settings": settings}

        if freeze_layers:
            for module in (self.bert.embeddings, *self.bert.encoder.layer[:freeze_layers]):
                module.requires_grad_(False)
        if freeze:
            self.requires_grad_(False)
        if gradient_checkpointing:
            # newer releases of transformers warn about the old name
            enable = getattr(self.bert, "activation_checkpointing_enable", None)
            (enable or self.bert.gradient_checkpointing_enable)({"use_reentrant": False})
        self.train()

    def encode_tokens(self, tokens: Tensor, token_mask: Tensor) -> Tensor:
        """Encodes captions; on the CPU, columns that no caption reaches are not computed.

        Args:
            tokens: (T, m) word pieces of `WordPieces`, m at most `context_length`.
            token_mask: (T, m) bool, True from [CLS] to [SEP].

        Returns:
            (T, m, D), zeros where the mask is False.

        Raises:
            ValueError: shapes that do not fit.
        """
        self.check_tokens(tokens, token_mask)
        width = tokens.shape[1]
        if not len(tokens):  # transformers cannot infer its shapes
            return torch.zeros(0, width, self.embed_dim, device=tokens.device)
        if tokens.device.type == "cpu":
            reached = torch.nonzero(token_mask.any(0))
            used = int(reached[-1]) + 1 if len(reached) else 1
            tokens, token_mask = tokens[:, :used], token_mask[:, :used]
        # a mask of four dimensions is taken as it is; one of two would be read on the host
        output = self.bert(input_ids=tokens, attention_mask=token_mask[:, None, None, :])  # (T, 1, 1, m)
        features = output.last_hidden_state.masked_fill(~token_mask.unsqueeze(-1), 0.0)
        return nn.functional.pad(features, (0, 0, 0, width - tokens.shape[1]))

    def fingerprint(self) -> str:
        """Names weights and computation: equal names, equal features. Hashed once where nothing is trained."""
        frozen = {k: v for k, v in self.computation["settings"].items() if "dropout" not in k}
        return self._fingerprint.of(self, ("last layer", self.computation["size"], frozen))

    def _load(self, file: Path) -> None:
        state = distinct(_bert_names(read_state_dict(file)), file)
        problems = differences(self.bert.state_dict(), state)
        if problems:
            raise weight_mismatch(file, self.name, problems)
        self.bert.load_state_dict(state)


def pool_words(features: Tensor, word: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Means of the word pieces of each textual node (LEAN Eq. 3).

    Args:
        features: (T, m, D) of the tokens.
        word: (T, m) int64, the node that a token is a piece of, -1 for none; pieces of nodes from `count` on are left
            out.
        count: W, nodes per caption.

    Returns:
        Words (T, W, D), zeros at nodes without a piece, and their mask (T, W).

    Raises:
        ValueError: shapes that do not fit.
    """
    if word.shape != features.shape[:2]:
        raise ValueError(f"word {tuple(word.shape)} does not match features {tuple(features.shape)}")
    member = word.unsqueeze(1) == torch.arange(count, device=word.device).unsqueeze(1)  # (T, W, m)
    pieces = member.sum(-1, keepdim=True)  # (T, W, 1)
    words = member.to(features.dtype) @ features / pieces.clamp(min=1).to(features.dtype)  # (T, W, D)
    return words, pieces.squeeze(-1) > 0


def _check(size: BERTSize, context_length: int) -> None:
    numbers = {name: value for name, value in asdict(size).items() if name != "dropout"}
    wrong = [f"{name}={value}" for name, value in numbers.items() if value < 1]
    if not wrong and size.width % size.heads:
        wrong.append(f"width={size.width} is not a multiple of heads={size.heads}")
    if not 0 <= size.dropout < 1:
        wrong.append(f"dropout={size.dropout}")
    if wrong:
        raise ConfigError(f"BERTSize does not describe a model: {'; '.join(wrong)}.")
    if not 1 <= context_length <= size.positions:
        raise ConfigError(
            f"context_length={context_length} does not fit the {size.positions} positions of BERT's position table. "
            f"Set 1 to {size.positions}."
        )


def _find(source: str) -> tuple[Path, Mapping[str, Any]]:
    """Returns the weight file and what its `config.json` says."""
    path = Path(source).expanduser()
    if not path.exists():
        if path.is_absolute() or path.suffix in SUFFIXES or len(path.parts) > 2 or source.startswith((".", "~")):
            raise CheckpointError(
                f"No weights at {path}. Check from_pretrained, or name a Hugging Face repository such as "
                "bert-base-uncased."
            )
        files = (("config.json",), ("model.safetensors", "pytorch_model.bin"))
        path = fetch_from_hub(source, files, "from_pretrained")
    file = find_weight_file(path)
    raw = read_json(file.parent / "config.json")
    if not raw:
        raise CheckpointError(
            f"{file} has no 'config.json' beside it, which names the number of heads and the activation. Put the "
            "model's config.json into the same folder."
        )
    unsupported = {
        f"model_type={raw.get('model_type')}": raw.get("model_type", "bert") != "bert",
        "position_embedding_type": raw.get("position_embedding_type", "absolute") != "absolute",
        "is_decoder": raw.get("is_decoder", False),
    }
    wrong = [name for name, holds in unsupported.items() if holds]
    if wrong:
        raise CheckpointError(
            f"{file} is not a BERT encoder with absolute positions ({', '.join(wrong)} in its config.json). "
            "Choose one such as bert-base-uncased."
        )
    return file, raw


def _bert_names(state: Mapping[str, Tensor]) -> Iterator[tuple[str, str, Tensor]]:
    """A checkpoint's tensors, each with its name there and that of `BertModel`, without heads and pooler."""
    nested = any(name.startswith("bert.") for name in state)
    for name, value in state.items():
        if nested and not name.startswith("bert."):
            continue  # a head of pretraining or of a task
        own = name.removeprefix("bert.")
        if own.startswith("pooler.") or own == "embeddings.position_ids":
            continue
        # the names of checkpoints converted from TensorFlow
        yield (
            name,
            own.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias"),
            value,
        )
