"""`tvr encode`: packed codes of a split's captions and videos from a run's weights."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from tvr_lightning.errors import ConfigError, RunError
from tvr_lightning.evaluation.code_files import CODES, Codes, save_codes
from tvr_lightning.evaluation.encoding import encode_split, feature_type
from tvr_lightning.run.load import load_run
from tvr_lightning.run.results import caption_id
from tvr_lightning.types import CodeFeatures

SplitName = Literal["train", "validation", "test"]
STAGES: dict[SplitName, str] = {"train": "fit", "validation": "validate", "test": "test"}


def encode_run(
    path: Path, split: SplitName, out: Path | None = None, trust: bool = False
) -> tuple[Path, dict[str, Codes]]:
    """Writes the codes of a split as an .npz file; see `code_files.save_codes` for what it holds.

    Args:
        path: the run's folder.
        split: whose captions and videos.
        out: the file; `codes.npz` in the run's folder when None.
        trust: see `load_run`.

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
    run = load_run(path, trust=trust)
    model, data = run.model, run.data
    data.setup(STAGES[split])
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
    data.precompute_features(model.frozen_video(), model.frozen_text(), device)
    encoded = encode_split(model, chosen, data.evaluation_loaders(chosen)).to("cpu")
    codes = {
        "text": Codes.pack(encoded.texts.real, [caption_id(chosen, i) for i in encoded.caption_ids.tolist()]),
        "video": Codes.pack(encoded.videos.real, [chosen.records[i].video_id for i in encoded.video_ids.tolist()]),
    }
    save_codes(target, codes)
    return target, codes
