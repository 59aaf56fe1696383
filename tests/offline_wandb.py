"""What W&B keeps of a run without a network, read back."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def end_wandb() -> None:
    """Ends a run that is open, which the next would go on with, and lets W&B read its variables again."""
    import wandb

    wandb.finish()
    wandb.teardown()


def offline_file(folder: Path) -> Path:
    """The one file that W&B keeps of a run in its folder."""
    (file,) = folder.glob("wandb/offline-run-*/run-*.wandb")
    return file


def wait_for_end(file: Path) -> None:
    """Waits until it is whole: offline, W&B's own process writes on after `finish`."""
    deadline = time.monotonic() + 60
    while "exit" not in {record.WhichOneof("record_type") for record in records_of(file)}:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def records_of(file: Path) -> Iterator[Any]:
    """Reads W&B's offline file: a header of 7 bytes, then blocks of 32 KiB of LevelDB's log format with protobufs."""
    from wandb.proto import wandb_internal_pb2

    data, position, parts = file.read_bytes(), 7, b""
    assert data[:4] == b":W&B"
    while position + 7 <= len(data):
        if 32768 - position % 32768 < 7:  # too short for a record's header: padding
            position += 32768 - position % 32768
            continue
        length, kind = int.from_bytes(data[position + 4 : position + 6], "little"), data[position + 6]
        position += 7
        parts += data[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined, unused-ignore]
            record.ParseFromString(parts)
            parts = b""
            yield record


def read_items(items: Any) -> dict[str, Any]:
    """Items of a record as a dictionary; a part of an object comes with the path to it."""
    found: dict[str, Any] = {}
    for item in items:
        *path, last = item.nested_key or [item.key]
        place = found
        for name in path:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return found
