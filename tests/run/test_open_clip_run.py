"""Whole runs over models of open_clip from a local folder, with their own tokeniser and way to resize frames."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.model import CustomTextCLIP
from safetensors.torch import save_file

from tvr_lightning import load_run
from tvr_lightning.commands.main import main

from ..small_runs import run_arguments

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
# SigLIP's text tower: every token sees every token, the sentence is the last one, which is padding
TEXT = {"width": 32, "heads": 2, "layers": 1, "vocab_size": 200, "context_length": 12, "hf_tokenizer_name": "org/words"}
TEXT |= {"no_causal_mask": True, "pool_type": "last", "proj_bias": True, "tokenizer_kwargs": {"clean": "canonicalize"}}
CONFIG: dict[str, Any] = {"embed_dim": 32, "init_logit_bias": -10, "vision_cfg": VISION, "text_cfg": TEXT}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> Path:
    """A model as open_clip publishes one, with a tokeniser of the dataset's words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    place = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    save_file(CustomTextCLIP(**copy.deepcopy(CONFIG)).state_dict(), place / "open_clip_model.safetensors")
    pictures = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    content = {"model_cfg": {"custom_text": True, **CONFIG}, "preprocess_cfg": pictures}
    (place / "open_clip_config.json").write_text(json.dumps(content))
    words: Any = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer: Any = trainers.WordLevelTrainer(vocab_size=200, special_tokens=["<unk>", "</s>"], show_progress=False)
    words.train_from_iterator(["a red circle moves left and a blue square moves right"], trainer)
    words.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    names = {"pad_token": "</s>", "unk_token": "<unk>", "eos_token": "</s>"}
    PreTrainedTokenizerFast(tokenizer_object=words, **names).save_pretrained(place)
    return place


def words_of(data: Path, runs: Path, folder: Path, *more: str) -> list[str]:
    words = [w for w in run_arguments(data, runs) if not w.startswith("--model.encoder.size")]
    tokenizer = "--data.tokenizer=tvr_lightning.data.open_clip.OpenCLIPTokenizer"
    own = [f"--model.encoder.model=local-dir:{folder}", "--data.max_words=12", "--run_id=a", tokenizer]
    return [*words, *own, f"--data.tokenizer.model=local-dir:{folder}", *more]


@pytest.mark.slow
@pytest.mark.parametrize("option", ["freeze_image=true", "gradient_checkpointing=true"])
def test_a_run_from_a_folder(folder: Path, shapes_root: Path, tmp_path: Path, option: str) -> None:
    assert main(["fit", *words_of(shapes_root, tmp_path, folder, f"--model.encoder.{option}")]) == 0
    run = tmp_path / "clip4clip_shapes" / "a"
    content = json.loads((run / "metrics.json").read_text())
    assert content["encoder"] == f"local-dir:{folder}"
    assert content["encoders"]["encoder"]["computation"]["resize"] == "squash"
    # the weights may be gone, not the tokeniser
    hidden = (folder / "open_clip_model.safetensors").rename(folder / "gone")
    try:
        loaded = load_run(run)
        assert main(["test", str(run), f"--runs_dir={tmp_path}", "--run_id=t"]) == 0
    finally:
        hidden.rename(folder / "open_clip_model.safetensors")
    assert loaded.data.frames.resize == "squash"
    assert loaded.model.encoders[0].pretrained
    again = json.loads((tmp_path / "clip4clip_shapes" / "t" / "metrics.json").read_text())
    assert again["metrics"] == content["metrics"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("--data.tokenizer=null", "was trained with the tokeniser org/words, data.tokenizer is clip"),
        ("--data.max_words=10", "made for 12 tokens; got context_length=10. Set data.max_words=12"),
        ("--data.max_words=14", "made for 12 tokens; got context_length=14. Set data.max_words=12"),
        ("--model.encoder.from_pretrained=openai", "includes its weights"),
    ],
)
def test_what_does_not_fit_is_refused(
    folder: Path, shapes_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str, message: str
) -> None:
    words = words_of(shapes_root, tmp_path, folder)
    if "tokenizer" in change:
        words = [w for w in words if not w.startswith("--data.tokenizer.")]
    assert main(["fit", *words, change]) != 0
    assert message in capsys.readouterr().err
