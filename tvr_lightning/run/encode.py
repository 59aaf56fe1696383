"""`tvr encode`: packed codes of a split's captions and videos from a run's weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from tvr_lightning.errors import CheckpointError, ConfigError, RunError
from tvr_lightning.evaluation.code_files import CODES, Codes, save_codes
from tvr_lightning.evaluation.encoding import encode_split, feature_type
from tvr_lightning.run.results import CONFIG, caption_id
from tvr_lightning.types import CodeFeatures

if TYPE_CHECKING:
    from tvr_lightning.run.load import Experiment

SplitName = Literal["train", "validation", "test"]
STAGES: dict[SplitName, str] = {"train": "fit", "validation": "validate", "test": "test"}


def encode_run(path: Path, split: SplitName, out: Path | None = None) -> tuple[Path, dict[str, Codes]]:
    """Writes the codes of a split as an .npz file; see `code_files.save_codes` for what it holds.

    Args:
        path: the run's folder.
        split: whose captions and videos.
        out: the file; `codes.npz` in the run's folder when None.

    Returns:
        The file, and the codes: `text` under caption ids (`video7#0`), `video` under video ids.

    Raises:
        RunError: no run folder, or the file cannot be written.
        ConfigError: the method makes no codes, or the dataset has no such split.
        CheckpointError: no readable weights, or the tokeniser is another than they were trained with.
        DataError: the split is incomplete.
    """
    target = path / CODES if out is None else out
    if not target.parent.is_dir():  # said before the work, not after it
        raise RunError(f"cannot write {target}: there is no folder {target.parent}")
    experiment = load_trained(path)
    model, data = experiment.model, experiment.data
    data.setup(STAGES[split])
    learned = (model.trained or {}).get("tokenizer")
    if learned not in (None, data.tokenizer.fingerprint()):
        raise CheckpointError(f"{path} was trained with another vocabulary than its training captions give now")
    if split not in data.splits:
        raise ConfigError(f"{data.dataset} has no {split} split under data.selection={data.selection}")
    chosen = data.splits[split]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device)
    features = feature_type(model, chosen)  # a method without codes is found out before every video is read
    if not issubclass(features, CodeFeatures):
        raise ConfigError(
            f"{path}: {type(model).__name__} makes no codes (its features are {features.__name__}); `tvr encode` "
            "is for hashing methods"
        )
    data.splits = {split: chosen}  # frozen encoders run over no other; what a run kept of them is read
    data.keep_features(model.frozen_video(), model.frozen_text(), device)
    encoded = encode_split(model, chosen, data.evaluation_loaders(chosen))
    codes = {
        "text": Codes.pack(encoded.texts.real, [caption_id(chosen, i) for i in encoded.caption_ids.tolist()]),
        "video": Codes.pack(encoded.videos.real, [chosen.records[i].video_id for i in encoded.video_ids.tolist()]),
    }
    save_codes(target, codes)
    return target, codes


def load_trained(path: Path) -> Experiment:
    """Builds a run's method and data from its folder and loads its weights; no split is set up.

    Raises:
        RunError: no run folder. CheckpointError: no readable weights.
    """
    from tvr_lightning.config.arguments import read_arguments
    from tvr_lightning.run.checkpoints import find_checkpoint
    from tvr_lightning.run.load import build

    if not (path / CONFIG).is_file():
        raise RunError(f"{path}: no {CONFIG}; give the folder of a run, such as runs/sptch_shapes_64/NAME")
    checkpoint = find_checkpoint(path.parent, str(path))
    experiment = build(read_arguments(["--config", str(path / CONFIG)])[0])
    content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    experiment.model.on_load_checkpoint(content)
    experiment.model.load_state_dict(content["state_dict"])
    experiment.model.eval()
    return experiment
