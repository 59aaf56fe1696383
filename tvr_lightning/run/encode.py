"""`tvr encode`: packed codes of a split's captions and videos from a run's weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from tvr_lightning.data.split import Split
from tvr_lightning.errors import ConfigError
from tvr_lightning.evaluation.code_files import CODES, Codes, save_codes
from tvr_lightning.evaluation.encoding import feature_type
from tvr_lightning.run.prepared import SplitName, check_room, prepare_split
from tvr_lightning.run.results import caption_id
from tvr_lightning.types import CodeFeatures


def encode_run(
    path: Path, split: SplitName, out: Path | None = None, trust: bool = False
) -> tuple[Path, dict[str, Codes]]:
    """Writes the codes of a split as an .npz file; see `code_files.save_codes` for what it holds.

    Args:
        path: the run's folder.
        split: whose captions and videos.
        out: the file; when None `codes.npz` in the run's folder, which a test keeps too, of another split
            `codes_train.npz` or `codes_validation.npz`.
        trust: see `load_run`.

    Returns:
        The file, and the codes: `text` under caption ids (`video7#0`), `video` under video ids.

    Raises:
        RunError: no run folder, or the file cannot be written.
        ConfigError: the method makes no codes, or the dataset has no such split.
        CheckpointError: no readable weights, or the tokeniser is another than they were trained with.
        DataError: the split is incomplete.
    """
    own = CODES if split == "test" else f"{Path(CODES).stem}_{split}{Path(CODES).suffix}"
    target = path / own if out is None else out
    check_room(target)
    prepared = prepare_split(path, split, trust)
    model, chosen = prepared.model, prepared.split
    features = feature_type(model, chosen)  # a method without codes is found out before every video is read
    if not issubclass(features, CodeFeatures):
        raise ConfigError(
            f"{path}: {type(model).__name__} makes no codes (its features are {features.__name__}); `tvr encode` "
            "is for hashing methods, `tvr features` for any"
        )
    encoded = prepared.encode()
    captions, videos = encoded.caption_ids.tolist(), encoded.video_ids.tolist()
    codes = name_codes({"text": encoded.texts.real, "video": encoded.videos.real}, chosen, captions, videos)
    save_codes(target, codes)
    return target, codes


def name_codes(
    codes: Mapping[str, Tensor], split: Split, captions: Sequence[int], videos: Sequence[int]
) -> dict[str, Codes]:
    """Codes under the ids and labels of what they stand for.

    Args:
        codes: `text` and `video`, (T, K) and (V, K).
        split: whose items.
        captions: (T,) positions in the split's captions.
        videos: (V,) positions in its records.
    """
    described = [split.records[int(split.caption_video[i])] for i in captions]
    shown = [split.records[i] for i in videos]
    return {
        "text": Codes.pack(codes["text"], [caption_id(split, i) for i in captions], [r.labels for r in described]),
        "video": Codes.pack(codes["video"], [r.video_id for r in shown], [r.labels for r in shown]),
    }
