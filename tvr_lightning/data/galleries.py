"""Videos of a gallery that cannot be read, found before hours of training fail on one of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from tvr_lightning.data.annotations.base import TRAIN
from tvr_lightning.data.video.records import check_record
from tvr_lightning.errors import DataError, DecodeError, few
from tvr_lightning.types import Record

if TYPE_CHECKING:
    from tvr_lightning.data.datamodule import VideoTextDataModule


def check_galleries(data: VideoTextDataModule) -> None:
    """Opens every video of the splits that are evaluated, and decodes the first frame of each.

    Not where the settings leave out what cannot be read: such videos are counted when their turn comes.

    Args:
        data: after its `setup`.

    Raises:
        DataError: a video cannot be read; names the settings that leave it out.
    """
    if data.allow_missing and data.on_decode_error == "skip":
        return
    for split in (split for name, split in data.splits.items() if name != TRAIN):
        if split.reader.given is not None:  # no video is read
            continue
        with ThreadPoolExecutor(max(1, data.num_workers)) as pool:
            faults = list(pool.map(_fault, split.records))
        broken = {r.video_id: fault for r, fault in zip(split.records, faults, strict=True) if fault}
        if broken:
            raise DataError(
                f"{data.dataset} {split.name}: {len(broken)} videos cannot be decoded ({few(broken)}); the first: "
                f"{next(iter(broken.values()))}. A smaller gallery makes retrieval easier: replace the files, or set "
                "--data.on_decode_error=skip --data.allow_missing=true to leave them out; every result then says how "
                "many"
            )


def _fault(record: Record) -> str | None:
    try:
        check_record(record)
    except DecodeError as error:
        return str(error)
    return None
