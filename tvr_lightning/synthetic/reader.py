"""The reader of `shapes`, which makes the dataset that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tvr_lightning.data.annotations.base import Extent
from tvr_lightning.data.annotations.msrvtt import MSRVTT, Protocol
from tvr_lightning.data.annotations.readers import check_fields, read_json
from tvr_lightning.synthetic.plan import CAPTIONS_PER_VIDEO, NUM_VIDEOS, VERSION, split_sizes
from tvr_lightning.synthetic.shapes import MANIFEST, make_shapes
from tvr_lightning.visible import say


class Shapes(MSRVTT):
    """The embedded dataset, in MSR-VTT's layout.

    Args:
        root: its folder.
        protocol: as MSR-VTT's.
    """

    def __init__(self, root: str | Path = "data/shapes", protocol: Protocol = "9k") -> None:
        super().__init__(root, protocol, name="shapes")

    def extent(self) -> Mapping[str, Extent]:
        """What the generator makes by default."""
        return {
            split: Extent(count, CAPTIONS_PER_VIDEO * count, 4.0) for split, count in split_sizes(NUM_VIDEOS).items()
        }

    def prepare(self) -> None:
        """Makes the dataset in a folder that is missing or empty, and one of an older version again, of its size.

        Raises:
            DataError: a manifest that is not this dataset's.
        """
        size = {}
        if self.has(MANIFEST):
            file = self.root / MANIFEST
            kinds = {"version": int, "num_videos": int, "seed": int}
            version, count, seed = check_fields(read_json(file), str(file), kinds)
            if version == VERSION:
                return
            size = {"num_videos": count, "seed": seed}
        elif self.root.exists() and any(self.root.iterdir()):
            return  # not from here: `load` says what it lacks
        made = make_shapes(self.root, **size)
        say(f"shapes: made {sum(made.splits.values()):,} videos in {self.root} ({made.seconds:.0f} s)")
