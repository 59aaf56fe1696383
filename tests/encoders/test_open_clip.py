"""Every model that open_clip lists, and each kind of tower against open_clip's own forward passes."""

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
from tvr_lightning.encoders import CLIPEncoder, read_state_dict
from tvr_lightning.encoders.clip_config import why_unsupported
from tvr_lightning.encoders.clip_towers import resize_grid, text_of
from tvr_lightning.encoders.weights import find_weight_file
from tvr_lightning.errors import CheckpointError, ConfigError

NAMES = open_clip.list_models()
# one of each kind of tower; the others of a kind differ in numbers
FAST = {
    "ViT-B-32", "RN50", "convnext_base", "EVA02-B-16", "MobileCLIP-S1", "ViTamin-S", "PE-Core-T-16-384",
    "ViT-B-16-SigLIP", "ViT-B-32-SigLIP2-256", "ViT-L-14-CLIPA", "ViT-H-14-worldwide", "coca_ViT-B-32",
    "roberta-ViT-B-32", "swin_base_patch4_window7_224",
}  # fmt: skip

OWN = "visual.transformer.resblocks.{}."
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

    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    ends = {"vocab_size": 120, "max_position_embeddings": 40, "pad_token_id": 1}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    layers = {"encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    widths = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32}
    config = {
        "roberta": lambda: t.RobertaConfig(**small, **ends, **dropout),
        "xlm-roberta": lambda: t.XLMRobertaConfig(**small, **ends, **dropout),
        "mt5": lambda: t.MT5Config(vocab_size=120, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2),
        "m2m_100": lambda: t.M2M100Config(**ends, **layers, **widths, dropout=0.0, encoder_layerdrop=0.0),
        "bert": lambda: t.BertConfig(**small, **ends, **dropout),
    }[kind]()
    config.save_pretrained(folder)
    return folder


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Adds the kinds to open_clip's models; SigLIP's image tower is timm's, made small."""
    create, small = timm.create_model, {"depth": 2, "embed_dim": 32, "num_heads": 2}
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


@pytest.mark.parametrize("kind", ["siglip", "clipa", "mobile"])
def test_local_dir(kinds: None, tmp_path: Path, kind: str) -> None:
    model = saved_model(tmp_path / "m", kind)
    encoder = CLIPEncoder(f"local-dir:{tmp_path / 'm'}", context_length=12).eval()
    assert encoder.pretrained
    assert encoder.resize == "squash"
    tokens, mask, frames, frame_mask = inputs(encoder)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.encode_text(tokens, mask)[0], model.encode_text(tokens), atol=1e-5, rtol=1e-4
        )
        expected = model.encode_image(frames[0].float() / 127.5 - 1)
        torch.testing.assert_close(encoder.encode_frames(frames, frame_mask)[0], expected, atol=1e-5, rtol=1e-4)
    if kind == "siglip":
        assert encoder.logit_bias_init == pytest.approx(float(model.logit_bias))
    with pytest.raises(ConfigError, match="brings its weights along"):
        CLIPEncoder(f"local-dir:{tmp_path / 'm'}", "openai")


def test_hub_names_fetch_the_same_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_model(tmp_path / "m", "mobile")
    asked: list[str] = []

    def download(repository: str, name: str) -> str:
        from huggingface_hub.errors import EntryNotFoundError

        asked.append(f"{repository}/{name}")
        if not (tmp_path / "m" / name).is_file():
            raise EntryNotFoundError(name)
        return str(tmp_path / "m" / name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    encoder = CLIPEncoder("hf-hub:org/model", context_length=12)
    assert (encoder.name, encoder.pretrained) == ("hf-hub:org/model", True)
    assert asked == ["org/model/open_clip_config.json", "org/model/open_clip_model.safetensors"]
    # in shards, which the index names
    split(tmp_path / "m")
    asked.clear()
    CLIPEncoder("hf-hub:org/model", context_length=12)
    assert asked[-2:] == ["org/model/part-1.safetensors", "org/model/part-2.safetensors"]


def split(folder: Path) -> None:
    """Spreads a folder's weights over two files and an index."""
    state = read_state_dict(folder / "open_clip_model.safetensors")
    (folder / "open_clip_model.safetensors").unlink()
    names = sorted(state)
    parts = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, own in parts.items():
        save_file({n: state[n] for n in own}, folder / file)
    table = {n: file for file, own in parts.items() for n in own}
    (folder / "open_clip_model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))


def test_shards_and_indexes_that_lie(tmp_path: Path) -> None:
    saved_model(tmp_path, "mobile")
    whole = read_state_dict(tmp_path / "open_clip_model.safetensors")
    split(tmp_path)
    index = find_weight_file(tmp_path)
    assert index.name == "open_clip_model.safetensors.index.json"
    read = read_state_dict(index)
    assert read.keys() == whole.keys()
    assert all(torch.equal(read[n], whole[n]) for n in whole)
    for content, message in (
        ({"weight_map": {"a": "../other.safetensors"}}, "a weight file beside it is all that it may name"),
        ({"weight_map": {"a": "/etc/passwd"}}, "a weight file beside it is all"),
        ({"weight_map": {"a": "code.py"}}, "a weight file beside it is all"),
        ({"weight_map": {"a": 3}}, "has no `weight_map`"),
        ({}, "has no `weight_map`"),
        ({"weight_map": {"a": "part-1.safetensors"}}, "lacks a, which"),
        ({"weight_map": {"a": "part-9.safetensors"}}, "No weight file at"),
    ):
        index.write_text(json.dumps(content))
        with pytest.raises(CheckpointError, match=message):
            read_state_dict(index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_cfg": TEXT | {"tokenizer_mode": "clips"}}, "a class token behind the padding"),
        ({"text_cfg": TEXT | {"pool_type": "none"}}, "a text tower without a sentence"),
        ({"text_cfg": TEXT | {"hf_model_name": "../evil"}}, "a text tower that is named by a path"),
        ({"text_cfg": TEXT | {"hf_tokenizer_name": "/evil"}}, "a tokeniser that is named by a path"),
        ({"vision_cfg": VISION | {"image_size": [32, 64]}}, "frames that are not square"),
        ({"vision_cfg": {"timm_model_name": "hf-hub:evil/model"}}, "an image tower from outside of timm"),
        ({"vision_cfg": VISION | {"wide": 3}}, "describes no model of open_clip's"),
        ({"vision_cfg": {"timm_model_name": "nonesuch"}}, "describes no model of open_clip's"),
        ({"vision_cfg": 3}, "has no vision_cfg"),
    ],
)
def test_folders_are_not_trusted(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    saved_model(tmp_path, "mobile")
    config = {"embed_dim": 32, **KINDS["mobile"], **change}
    (tmp_path / CONFIG).write_text(json.dumps({"model_cfg": config}))
    with pytest.raises((ConfigError, CheckpointError), match=message):
        CLIPEncoder(f"local-dir:{tmp_path}", context_length=12)


def test_folders_that_are_no_models(kinds: None, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder"):
        CLIPEncoder(f"local-dir:{tmp_path / 'none'}")
    with pytest.raises(CheckpointError, match=f"no {CONFIG} at"):
        CLIPEncoder(f"local-dir:{tmp_path}")
    with pytest.raises(CheckpointError, match=r"holds no config\.json of a text tower"):
        CLIPEncoder("roberta", text_model=str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(CheckpointError, match="model_type=llama is no text tower of open_clip's"):
        CLIPEncoder("roberta", text_model=str(tmp_path))
    content = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "longest"}
    saved_model(tmp_path, "mobile")
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"preprocess_cfg": content}))
    with pytest.raises(CheckpointError, match="resized by 'longest'; supported: shortest, squash"):
        CLIPEncoder(f"local-dir:{tmp_path}", context_length=12)


def test_code_of_a_text_tower_is_not_run(kinds: None, tmp_path: Path) -> None:
    folder = text_config(tmp_path, "roberta")
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"torch_dtype": "float16"}))
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'mark')!r}, 'w')")
    encoder = CLIPEncoder("roberta", text_model=str(folder), context_length=12)
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}
    assert not (tmp_path / "mark").exists()


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


def test_a_setting_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    saved_model(tmp_path, "mobile")
    with pytest.raises(ConfigError, match=r"quick_gelu=True, but .* was trained with quick_gelu=False"):
        CLIPEncoder(f"local-dir:{tmp_path}", context_length=12, quick_gelu=True)
