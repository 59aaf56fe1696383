"""Every model that open_clip lists, and each kind of tower against open_clip's own forward passes."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip.model import CLIP
from safetensors.torch import save_file
from torch import Tensor

from tvr_lightning.encoders import CLIPEncoder
from tvr_lightning.encoders.clip_config import why_unsupported
from tvr_lightning.encoders.clip_towers import resize_grid, text_of
from tvr_lightning.errors import ConfigError

from .open_clip_cases import HUGGING_FACE, KINDS, TEXT, VISION, add_kinds, inputs, make, text_config

NAMES = open_clip.list_models()
# one of each kind of tower; the others of a kind differ in numbers
FAST = {
    "ViT-B-32", "RN50", "convnext_base", "EVA02-B-16", "ViTamin-S", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA",
    "coca_ViT-B-32", "roberta-ViT-B-32",
}  # fmt: skip
OWN = "visual.transformer.resblocks.{}."


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds among open_clip's models."""
    add_kinds(monkeypatch)


def towers(encoder: CLIPEncoder, tokens: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Sentences and words as open_clip's own modules give them."""
    text = text_of(encoder.clip)
    if hasattr(text, "pooler"):
        text.output_tokens = True
        tokens = tokens.masked_fill(~mask, text.config.pad_token_id)
        sentence, words = text(tokens)
        if type(text.pooler).__name__ == "ClsPooler":
            words = text.transformer(input_ids=tokens, attention_mask=mask.long()).last_hidden_state
        return sentence, text.proj(words)
    found = encoder.clip.forward_intermediates(
        text=tokens, text_indices=1, normalize=False, normalize_intermediates=True, text_output_fmt="NLC"
    )
    words = found["text_intermediates"][0]
    projection = text.text_projection
    return encoder.clip.encode_text(tokens), projection(words) if callable(projection) else words @ projection


@pytest.mark.parametrize("kind", [*KINDS, *HUGGING_FACE])
def test_features_equal_open_clips(kinds: None, tmp_path: Path, kind: str) -> None:
    encoder = make(kind, tmp_path)
    tokens, mask, frames, frame_mask = inputs(encoder)
    with torch.no_grad():
        sentence, words = encoder.encode_text(tokens, mask)
        expected, every = towers(encoder, tokens, mask)
        torch.testing.assert_close(sentence, expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(words[mask], every[mask], atol=1e-5, rtol=1e-4)
        pixels = (frames[0].float() - encoder.pixel_mean) / encoder.pixel_std
        images = encoder.clip.encode_image(pixels)
        torch.testing.assert_close(encoder.encode_frames(frames, frame_mask)[0], images, atol=1e-5, rtol=1e-4)
    assert not words[~mask].any()
    assert sentence.shape[1] == words.shape[2] == images.shape[1] == encoder.embed_dim == 32


@pytest.mark.parametrize("kind", [*KINDS, *HUGGING_FACE])
def test_every_parameter_receives_a_gradient(kinds: None, tmp_path: Path, kind: str) -> None:
    encoder = make(kind, tmp_path).train()
    tokens, mask, frames, frame_mask = inputs(encoder)
    sentence, words = encoder.encode_text(tokens, mask)
    (sentence.sin().sum() + words.sin().sum() + encoder.encode_frames(frames, frame_mask).sin().sum()).backward()
    assert [name for name, p in encoder.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("kind", [*KINDS, *HUGGING_FACE])
def test_layers_freeze_and_are_computed_again(kinds: None, tmp_path: Path, kind: str) -> None:
    """Gradients are the same with `gradient_checkpointing`, also behind a frozen layer; the rest has none."""

    def gradients(**options: Any) -> dict[str, Tensor | None]:
        encoder = make(kind, tmp_path, **options).train()
        tokens, mask, frames, frame_mask = inputs(encoder)
        sentence, words = encoder.encode_text(tokens, mask)
        loss = sentence.sin().sum() + words.sin().sum() + encoder.encode_frames(frames, frame_mask).sin().sum()
        loss.backward()
        return {n: p.grad for n, p in encoder.named_parameters()}

    plain, saving = gradients(freeze_layers=1), gradients(freeze_layers=1, gradient_checkpointing=True)
    own = "text.transformer.encoder.layer.{}." if kind in HUGGING_FACE else "transformer.resblocks.{}."
    patterns = {
        "mt5": ("text.transformer.block.{}.", OWN),
        "m2m_100": ("text.transformer.layers.{}.", OWN),
        "siglip": ("text.transformer.resblocks.{}.", "visual.trunk.blocks.{}."),
        "convnext": (own, "visual.trunk.stages.{}."),
        "resnet": (own, "visual.layer{}.0."),
    }.get(kind, (own, OWN))
    for pattern in patterns:
        first = 1 if pattern.startswith("visual.layer") else 0
        for layer in (first, first + 1):
            grads = [grad for name, grad in plain.items() if pattern.format(layer) in name]
            assert grads
            assert all(grad is None for grad in grads) == (layer == first), (pattern, layer)
    frozen = "token_embedding", "embeddings.word", "embed_tokens", "shared", "cls_emb", "visual.conv1", "patch_embed"
    behind = "ln_final", "ln_post", "visual.proj", "visual.head", "trunk.norm", "attnpool", "attn_pool", "text.proj."
    for name, grad in plain.items():
        assert grad is None or not any(part in name for part in frozen), name
        assert grad is not None or not any(part in name for part in behind), name
    for name, one in plain.items():
        two = saving[name]
        assert (one is None) == (two is None), name
        if one is not None and two is not None:
            torch.testing.assert_close(one, two, atol=1e-5, rtol=1e-4, msg=name)
    with pytest.raises(ConfigError, match="freeze_layers=99 does not fit"):
        make(kind, tmp_path, freeze_layers=99)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n in FAST else pytest.mark.slow) for n in NAMES], ids=NAMES
)
def test_every_model_that_open_clip_lists(name: str, tmp_path: Path) -> None:
    """At its own size, on the device that has no memory: every shape is known, nothing is computed."""
    config = open_clip.get_model_config(name)
    text = config["text_cfg"]
    length = text.get("context_length", 77)
    options: dict[str, Any] = {"context_length": length}
    hugging_face = text.get("hf_model_name")
    if hugging_face:
        known = {"xlm-roberta": "xlm-roberta", "roberta": "roberta", "mt5": "mt5", "nllb": "m2m_100"}
        kind = next(kind for part, kind in known.items() if part in hugging_face)
        options["text_model"] = str(text_config(tmp_path, kind))
        options["context_length"] = 12
    if why := why_unsupported(config):
        with pytest.raises(ConfigError, match=why):
            CLIPEncoder(name, **options)
        return
    with torch.device("meta"):
        encoder = CLIPEncoder(name, **options)
        size = encoder.image_size
        mask = torch.ones(2, length, dtype=torch.bool)
        features = encoder.encode_frames(torch.zeros(2, 1, 3, size, size, dtype=torch.uint8), mask[:, :1])
        assert features.shape == (2, 1, config["embed_dim"])
        if hugging_face:  # transformers reads masks on the host: see the test of features
            return
        sentence, words = encoder.encode_text(torch.ones(2, length, dtype=torch.int64), mask)
    assert sentence.shape == (2, config["embed_dim"])
    assert words.shape == (2, length, config["embed_dim"])


def test_every_kind_of_pictures() -> None:
    with torch.device("meta"):
        siglip = CLIPEncoder("ViT-B-16-SigLIP", context_length=64)
        plain = CLIPEncoder("ViT-B-32")
    assert (siglip.computation["mean"], siglip.computation["std"]) == ((0.5,) * 3, (0.5,) * 3)
    assert (siglip.resize, plain.resize) == ("squash", "crop")
    assert (siglip.logit_bias_init, plain.logit_bias_init) == (-10, 0.0)
    assert siglip.tokenizer == "timm/ViT-B-16-SigLIP"
    assert plain.tokenizer == "clip"


def test_captions_have_to_fit(kinds: None, tmp_path: Path) -> None:
    encoder = make("siglip", tmp_path)
    with pytest.raises(ValueError, match="captions of 12 tokens, got 5"):
        encoder.encode_text(torch.ones(1, 5, dtype=torch.int64), torch.ones(1, 5, dtype=torch.bool))
    text_config(tmp_path, "roberta")
    CLIPEncoder("roberta", text_model=str(tmp_path), context_length=38)
    with pytest.raises(ConfigError, match="exceeds the 38 text positions of roberta"):
        CLIPEncoder("roberta", text_model=str(tmp_path), context_length=39)


@pytest.mark.parametrize(("kind", "size"), [("mobile", 64), ("resnet", 96), ("siglip", 96), ("convnext", 96)])
def test_frames_of_another_size(kinds: None, tmp_path: Path, kind: str, size: int) -> None:
    """Positions of the weights are interpolated; what they are at the weights' own size stays."""
    plain = make(kind, tmp_path)
    file = tmp_path / "weights.safetensors"
    save_file({**plain.clip.state_dict(), "logit_scale": torch.tensor(2.0)}, file)
    larger = CLIPEncoder(kind, str(file), context_length=12, image_size=size)
    assert (larger.image_size, larger.name) == (size, f"{kind}@{size}")
    _, _, frames, frame_mask = inputs(larger)
    features = larger.encode_frames(frames, frame_mask)
    assert features.shape == (1, 2, 32)
    assert features.isfinite().all()
    same = CLIPEncoder(kind, str(file), context_length=12, image_size=plain.image_size).eval()
    _, _, frames, frame_mask = inputs(plain)
    torch.testing.assert_close(same.encode_frames(frames, frame_mask), plain.encode_frames(frames, frame_mask))
    with pytest.raises(ConfigError, match="image_size=7 "):
        CLIPEncoder(kind, str(file), context_length=12, image_size=7)


def test_interpolated_positions_are_open_clips() -> None:
    table = torch.randn(1 + 9, 8)

    class Model:
        class visual:
            grid_size = (5, 5)

    state = {"visual.positional_embedding": table}
    open_clip.model.resize_pos_embed(state, Model)
    torch.testing.assert_close(resize_grid(table, 26), state["visual.positional_embedding"])
    torch.testing.assert_close(resize_grid(table, 10), table)


@pytest.mark.parametrize(
    ("quick_gelu", "message"), [(None, "set quick_gelu to true or false"), (False, None), (True, None)]
)
def test_a_file_that_may_be_openais_is_asked_for_its_activation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_gelu: bool | None, message: str | None
) -> None:
    config = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT}
    tags = {"openai": {"quick_gelu": True}, "laion": {"quick_gelu": False}}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "small", config)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", tags)
    torch.manual_seed(0)
    torch.save(CLIP(**copy.deepcopy(config)).state_dict(), tmp_path / "clip.pt")
    if message:
        with pytest.raises(ConfigError, match=message):
            CLIPEncoder("small", str(tmp_path / "clip.pt"), context_length=12, quick_gelu=quick_gelu)
        return
    encoder = CLIPEncoder("small", str(tmp_path / "clip.pt"), context_length=12, quick_gelu=quick_gelu)
    kinds = {type(m).__name__ for n, m in encoder.named_modules() if n.endswith("gelu")}
    assert kinds == {"QuickGELU" if quick_gelu else "GELU"}
    assert encoder.name == ("small-quickgelu" if quick_gelu else "small")
    # all weights of such a name have one activation
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, "small", {"laion": {"quick_gelu": False}})
    assert CLIPEncoder("small", str(tmp_path / "clip.pt"), context_length=12).name == "small"
