"""Models from folders and repositories, in shards or whole, and folders that are not to be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from tvr_lightning.data.open_clip import CONFIG
from tvr_lightning.encoders import CLIPEncoder, read_state_dict
from tvr_lightning.encoders.weights import find_weight_file
from tvr_lightning.errors import CheckpointError, ConfigError

from .open_clip_cases import KINDS, TEXT, VISION, add_kinds, inputs, saved_model, text_config


@pytest.fixture
def kinds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kinds among open_clip's models."""
    add_kinds(monkeypatch)


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
    with pytest.raises(ConfigError, match="includes its weights"):
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
        ({"weight_map": {"a": "../other.safetensors"}}, "it may only name weight files beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "may only name weight files beside it"),
        ({"weight_map": {"a": "code.py"}}, "may only name weight files beside it"),
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
    with pytest.raises(CheckpointError, match="model_type=llama is not a text tower of open_clip's"):
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


def test_a_setting_that_contradicts_the_file_is_refused(tmp_path: Path) -> None:
    saved_model(tmp_path, "mobile")
    with pytest.raises(ConfigError, match=r"quick_gelu=True, but .* was trained with quick_gelu=False"):
        CLIPEncoder(f"local-dir:{tmp_path}", context_length=12, quick_gelu=True)
