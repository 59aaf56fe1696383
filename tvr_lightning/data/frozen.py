"""Frozen encoders over splits: their outputs are computed once and then read by the loaders."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from tvr_lightning.data.dataset import (
    CaptionDataset,
    TokenizedCaptions,
    VideoDataset,
    VideoReader,
    collate_captions,
    collate_videos,
)
from tvr_lightning.data.given import GivenFeatures
from tvr_lightning.data.stores.contents import Contents, folder_digest
from tvr_lightning.data.stores.features import Block, FeatureStore
from tvr_lightning.data.stores.frames import pixel_version
from tvr_lightning.data.stores.store import key_of
from tvr_lightning.data.video.sampling import FrameOptions
from tvr_lightning.data.workers import check_shared_memory, worker_settings
from tvr_lightning.types import Record, TensorRows, TextInput, VideoInput

InputT = TypeVar("InputT", bound=TensorRows)

BLOCK_VIDEOS, BLOCK_CAPTIONS = 32, 1024  # items of an entry


@dataclass(frozen=True)
class Frozen(Generic[InputT]):
    """An encoder whose outputs can be kept, because nothing trains it.

    Attributes:
        module: the encoder.
        encode: inputs to features (N, n, F), a row's own only.
        fingerprint: names the weights, and how `encode` uses them.
    """

    module: nn.Module
    encode: Callable[[InputT], Tensor]
    fingerprint: str


@dataclass(frozen=True)
class EncodeOptions:
    """How features are computed.

    Attributes:
        batch_size: items encoded at a time.
        num_workers: processes that decode.
        device: where the encoder computes.
    """

    batch_size: int
    num_workers: int
    device: torch.device


def precompute_video_features(
    reader: VideoReader,
    frozen: Frozen[VideoInput],
    contents: Contents,
    what: str,
    store: FeatureStore,
    options: EncodeOptions,
) -> None:
    """Lets a reader give features of its videos' first view; every rank calls this.

    Args:
        reader: the videos.
        frozen: the encoder.
        contents: hashes what files hold.
        what: names the videos.
        store: where features are kept.
        options: how they are computed.

    Raises:
        ConfigError: shared memory has no room for what workers read ahead.
        DecodeError: a video cannot be decoded, under `on_decode_error: raise`.
    """
    version = pixel_version()
    keys = [
        key_of(version, _content_of(r, contents), reader.frames, r.start, r.end, frozen.fingerprint)
        for r in reader.records
    ]
    reader.features = None
    block_bytes = min(BLOCK_VIDEOS, len(reader.records)) * reader.bytes_of_one()
    compute = _computing(VideoDataset(reader), collate_videos, frozen, lambda x: x.frame_mask, options, block_bytes)
    reader.features = store.rows_or_none(keys, BLOCK_VIDEOS, what, compute)


def _content_of(record: Record, contents: Contents) -> object:
    """What a record's frames are taken from; its path where that cannot be read."""
    if record.frame_rate is None:
        return contents.digest(record.video_path) or record.video_path
    return record.frame_rate, folder_digest(record.video_path) or record.video_path


@torch.no_grad()
def check_given(frozen: Frozen[VideoInput], frames: FrameOptions, given: Iterable[GivenFeatures | None]) -> None:
    """Refuses given features of another width than the frozen encoder's.

    Raises:
        ConfigError: names both widths.
    """
    device = next((x.device for x in frozen.module.parameters()), torch.device("cpu"))
    pixels = torch.zeros(1, 1, 3, frames.size, frames.size, dtype=torch.uint8, device=device)
    one = torch.ones(1, 1, dtype=torch.bool, device=device)
    width = frozen.encode(VideoInput(pixels, one, torch.zeros(1, dtype=torch.int64, device=device))).shape[-1]
    for rows in given:
        if rows is not None:
            rows.check_width(width, type(frozen.module).__name__)


def precompute_text_features(
    captions: TokenizedCaptions, frozen: Frozen[TextInput], what: str, store: FeatureStore, options: EncodeOptions
) -> None:
    """Lets captions bring features along; every rank calls this."""
    rows = zip(captions.tokens.numpy(), captions.word.numpy(), strict=True)
    keys = [key_of(tokens.tobytes(), word.tobytes(), frozen.fingerprint) for tokens, word in rows]
    captions.features = None
    dataset = CaptionDataset(captions)
    compute = _computing(dataset, collate_captions, frozen, lambda x: x.index[:, None] >= 0, options)
    captions.features = store.rows_or_none(keys, BLOCK_CAPTIONS, what, compute)


def _computing(
    dataset: Any,
    collate: Any,
    frozen: Frozen[Any],
    mask_of: Callable[[Any], Tensor],
    options: EncodeOptions,
    block_bytes: int = 0,
) -> Callable[[Sequence[range]], Iterable[Block]]:
    @torch.no_grad()  # not inference mode: the module moves, and what moves inside it can never be trained again
    def encode(batch: Any) -> tuple[Tensor, Tensor]:
        frozen.module.to(options.device)
        size = options.batch_size
        rows = [batch[i : i + size].to(options.device) for i in range(0, len(batch), size)]
        return torch.cat([frozen.encode(r).float().cpu() for r in rows]), mask_of(batch)

    def compute(spans: Sequence[range]) -> Iterable[Block]:
        check_shared_memory(block_bytes, options.num_workers, setting="data.num_frames")
        loader = DataLoader(
            dataset, batch_sampler=[list(span) for span in spans], collate_fn=collate,
            generator=torch.Generator().manual_seed(0), **worker_settings(options.num_workers),
        )  # fmt: skip
        return (_block(span, batch, encode) for span, batch in zip(spans, loader, strict=True))

    return compute


def _block(span: range, batch: Any, encode: Callable[[Any], tuple[Tensor, Tensor]]) -> Block:
    """Features of a span of items of which those in `batch` could be read."""
    failed = torch.ones(len(span), dtype=torch.bool)
    if batch is None:
        return {"features": torch.zeros(len(span), 0, 0), "mask": torch.zeros(len(span), 0).bool(), "failed": failed}
    features, mask = encode(batch)
    rows = batch.index - span.start
    whole = {
        "features": features.new_zeros(len(span), *features.shape[1:]),
        "mask": mask.new_zeros(len(span), *mask.shape[1:]),
        "failed": failed,
    }
    whole["features"][rows], whole["mask"][rows], failed[rows] = features, mask, False
    return whole
