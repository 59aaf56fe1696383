"""DiDeMo (Hendricks et al. 2017): Flickr videos whose moments are described; paragraph retrieval.

{train,val,test}_data.json        [{"video": name, "description": sentence, ...}, ...]; 8,395 / 1,065 / 1,004 videos
{train,val,test}_list.txt         optional, one name a line; 8,392 / 1,065 / 1,004

A name carries the extension that Flickr served (.mov .avi .mp4 .mpg .3gp ..., or a bare dot), and some videos have two
names: 1,094 names are 1,065 videos in val, 1,037 are 1,004 in test. A video is therefore known by its stem; the file
on disk may have any extension, or `.mp4` appended to the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Extent, SplitAnnotations
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_json, write_lines
from tvr_lightning.data.annotations.readers import (
    check_fields,
    check_ids,
    check_kind,
    clean_captions,
    pick,
    read_json,
    read_list,
    warn_unlisted,
)
from tvr_lightning.types import Record

STEMS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
# those of the annotations, after what conversion makes
EXTENSIONS = (
    *("mp4", "webm", "mkv", "avi", "mov", "mpg", "3gp", "wmv", "m4v", "3g2"),
    *("mts", "m2ts", "mpeg", "qt", "3gpp", "asf", "divx", "flv", "null", ""),
)
SERVED = ("mov", "avi", "mp4", "MPG", "3gp", "m4v", "")  # a few of those that Flickr did
ANNOTATED = 30.0  # seconds: annotators saw six segments of 5 s, whatever the file's length


class DiDeMo(SplitAnnotations):
    """Reader of DiDeMo; nothing is read before it is asked for, and every file only once.

    A record's id is the stem of its name; its only caption joins all descriptions of the video, under either name, by
    spaces in the order of the file, as CLIP4Clip and its successors do: the segments that several annotators gave for
    one description disagree and fix no order in time. Records end after the 30 s that annotators saw.
    With a list, videos stand in its order and others are left out, with a warning that names them; without one, in
    the order of their first description.

    Args:
        root: the folder of the annotation files.
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.
    """

    def __init__(self, root: str | Path, videos: str = "videos", name: str = "DiDeMo") -> None:
        super().__init__(name, root, videos, extensions=EXTENSIONS)

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        counts = {TRAIN: 8392, VALIDATION: 1065, TEST: 1004}  # a paragraph each, over the first 30 s
        return {split: Extent(count, count, 30.0) for split, count in counts.items()}

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a listed video is not described, a video is in
                two splits, or the split does not exist.
        """
        self.check_split(split)
        path = self.require(f"{STEMS[split]}_data.json")
        paragraphs = self.once(path, _parse)
        names = f"{STEMS[split]}_list.txt"
        if self.has(names):
            listed = self.once(self.root / names, _parse_list)
            what = f"{self.name} {split}"
            chosen = pick(paragraphs, listed, what, str(path))
            warn_unlisted(paragraphs, listed, what, str(path))
            paragraphs = chosen
        return self.records(split, paragraphs, end=ANNOTATED)

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes descriptions and lists; the first video of validation and of test goes under two names."""
        for split, videos in dataset.by_split(self.splits).items():
            entries = []
            for place, video in enumerate(videos):
                name = _name(video)
                second = f"{stem(name)}.wmv" if split != TRAIN and place == 0 else name
                for number, caption in enumerate(video.captions[: 3 + video.number % 3]):
                    start = number % max(1, int(video.seconds) // 5)
                    entries.append(
                        {
                            "num_segments": 6,
                            "description": f"{caption}. ",
                            "dl_link": f"shapes:{video.number}",
                            "times": [[start, start]] * 4,
                            "video": second if number % 2 else name,
                            "annotation_id": 10 * video.number + number,
                        }
                    )
            write_json(root / f"{STEMS[split]}_data.json", entries)
            write_lines(root / f"{STEMS[split]}_list.txt", map(_name, videos))
        return [f"{self.videos}/{_file(video)}" for video in dataset.videos]


def stem(name: str) -> str:
    """Returns a name without its extension; `x.`, which ends in a bare dot, gives `x`."""
    head, dot, _ = name.rpartition(".")
    return head if dot else name


def _parse(path: Path) -> dict[str, tuple[str, ...]]:
    sentences: dict[str, list[str]] = {}
    for number, entry in enumerate(check_kind(read_json(path), str(path), list, "a list of descriptions")):
        where = f"{path}: entry {number}"
        video, description = check_fields(entry, where, {"video": str, "description": str})
        sentences.setdefault(stem(video), []).extend(clean_captions([description], f"{where} ({video})"))
    check_ids(list(sentences), str(path))
    return {i: (" ".join(texts),) for i, texts in sentences.items()}


def _parse_list(path: Path) -> list[str]:
    return check_ids([stem(name) for name in read_list(path)], str(path))


def _name(video: SyntheticVideo) -> str:
    """A name as Flickr's, under one of its extensions or a bare dot."""
    digits = video.digest.hex()
    number = int(digits[:8], 16)
    return f"{number % 10**8:08}@N0{number % 8}_{number}_{digits[8:18]}.{SERVED[video.number % len(SERVED)]}"


def _file(video: SyntheticVideo) -> str:
    name = _name(video)
    return f"{name.rstrip('.')}.mp4" if video.number % 3 == 0 or name.endswith(".") else name
