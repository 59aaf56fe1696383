"""Kinds of towers that open_clip builds, tiny, and folders as models are published."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIP, CustomTextCLIP
from safetensors.torch import save_file
from torch import Tensor

from tvr_lightning.data.open_clip import CONFIG
from tvr_lightning.encoders import CLIPEncoder

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"width": 32, "heads": 2, "layers": 2, "vocab_size": 120, "context_length": 12}
SIGLIP = {
    "context_length": 12, "hf_tokenizer_name": "a/b", "no_causal_mask": True, "pool_type": "last", "proj_bias": True,
    "norm_kwargs": {"eps": 1e-6}, "act_kwargs": {"approximate": "tanh"},
}  # fmt: skip
TIMM = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "linear", "image_size": 160}
KINDS: dict[str, dict[str, Any]] = {
    "siglip": {
        "custom_text": True,
        "init_logit_bias": -10,
        "init_logit_scale": 2.3,
        "vision_cfg": {
            "timm_model_name": "vit_base_patch16_siglip_224",
            "timm_pool": "map",
            "timm_proj": "none",
            "image_size": 224,
        },
        "text_cfg": TEXT | SIGLIP,
    },
    "clipa": {
        "vision_cfg": VISION | {"pool_type": "avg", "no_ln_pre": True},
        "text_cfg": TEXT | {"no_causal_mask": True, "pool_type": "last", "hf_tokenizer_name": "bert-base-uncased"},
    },
    "worldwide": {"vision_cfg": VISION, "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 2}},
    "mobile": {"custom_text": True, "vision_cfg": VISION, "text_cfg": TEXT | {"no_causal_mask": True}},
    "coca": {
        "custom_text": True,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_heads": 4, "output_tokens": True},
        "text_cfg": TEXT | {"embed_cls": True, "output_tokens": True},
        "multimodal_cfg": {"context_length": 12, "vocab_size": 120, "width": 32, "heads": 2, "layers": 1},
    },
    "convnext": {"vision_cfg": TIMM | {"timm_model_name": "test_convnext"}, "text_cfg": TEXT},
    "resnet": {
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 8},
        "text_cfg": TEXT,
    },
}
HUGGING_FACE = {
    "roberta": {"hf_model_name": "roberta-base", "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp"},
    "xlm-roberta": {"hf_model_name": "xlm-roberta-base", "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"},
    "mt5": {"hf_model_name": "google/mt5-base", "hf_pooler_type": "mean_pooler", "hf_proj_type": "linear"},
    "m2m_100": {
        "hf_model_name": "facebook/nllb-200-distilled-600M", "hf_pooler_type": "cls_pooler", "hf_proj_type": "linear"
    },
    "bert": {"hf_model_name": "bert-base-uncased", "hf_pooler_type": "mean_pooler"},
}  # fmt: skip


def text_config(folder: Path, kind: str) -> Path:
    """A folder with the configuration of a Hugging Face text tower of that kind, tiny."""
    import transformers as t

    Sizes = dict[str, Any]
    small: Sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    ends: Sizes = {"vocab_size": 120, "max_position_embeddings": 40, "pad_token_id": 1}
    dropout: Sizes = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    layers: Sizes = {
        "encoder_layers": 2,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    widths: Sizes = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
    config: Any = {
        "roberta": lambda: t.RobertaConfig(**small, **ends, **dropout),
        "xlm-roberta": lambda: t.XLMRobertaConfig(**small, **ends, **dropout),
        "mt5": lambda: t.MT5Config(vocab_size=120, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
        "m2m_100": lambda: t.M2M100Config(**ends, **layers, **widths, dropout=0.0, encoder_layerdrop=0.0),
        "bert": lambda: t.BertConfig(**small, **ends, **dropout),
    }[kind]()  # type: ignore[no-untyped-call]
    config.save_pretrained(folder)
    return folder


def add_kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds the kinds to open_clip's models; SigLIP's image tower is timm's, made small."""
    create: Any = timm.create_model
    small = {"depth": 2, "embed_dim": 32, "num_heads": 2}
    monkeypatch.setattr(timm, "create_model", lambda n, **o: create(n, **o, **(small if "siglip" in n else {})))
    for name, config in KINDS.items():
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, {"embed_dim": 32, **copy.deepcopy(config)})
    for kind, text in HUGGING_FACE.items():
        config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": {**text, "hf_tokenizer_name": "a/b"}}
        monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, kind, config)


def make(kind: str, folder: Path, seed: int = 0, **options: Any) -> CLIPEncoder:
    """An encoder of a kind, with every parameter random."""
    if kind in HUGGING_FACE:
        options["text_model"] = str(text_config(folder, kind))
    torch.manual_seed(seed)
    encoder = CLIPEncoder(kind, context_length=12, **options)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return encoder.eval()


def inputs(encoder: CLIPEncoder) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Three captions of other lengths, which end in token 2 and the largest, padded with 1; five frames."""
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([12, 4, 7])
    mask = torch.arange(12) < lengths[:, None]
    tokens = torch.randint(5, 100, (3, 12), generator=generator)
    tokens[torch.arange(3), lengths - 1] = 2 if encoder.computation["model"] == "worldwide" else 119
    frames = torch.randint(0, 256, (1, 2, 3, encoder.image_size, encoder.image_size), generator=generator)
    return tokens.masked_fill(~mask, 1), mask, frames.to(torch.uint8), torch.ones(1, 2, dtype=torch.bool)


def saved_model(folder: Path, kind: str, model_cfg: dict[str, Any] | None = None) -> CustomTextCLIP:
    """Writes a folder as open_clip publishes it: configuration and weights."""
    config = model_cfg or {"embed_dim": 32, **KINDS[kind]}
    own = {k: v for k, v in config.items() if k not in ("custom_text", "multimodal_cfg")}
    torch.manual_seed(2)
    model = (CustomTextCLIP if config.get("custom_text") else CLIP)(**copy.deepcopy(own)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    content = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}}
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(content))
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return model
