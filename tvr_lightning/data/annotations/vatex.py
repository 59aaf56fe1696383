"""VATEX (Wang et al. 2019): 10-second clips with ten English and ten Chinese captions each; 25,991 / 1,500 / 1,500.

vatex_training_v1.0.json          [{"videoID": id, "enCap": [...], "chCap": [...]}, ...], 25,991 videos
vatex_validation_v1.0.json        3,000 videos, halved into validation and test by the HGR lists (Chen et al. 2020)
vatex_public_test_english_v1.1.json  English only; read for listed videos that the validation file does not have
ref_captions.json                 {id: [caption, ...]}, HGR's, English; read where the files above are absent
{train,val,test}_list.txt         one id a line
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Extent, SplitAnnotations
from tvr_lightning.data.annotations.layouts import SyntheticDataset, SyntheticVideo, write_json, write_lines
from tvr_lightning.data.annotations.readers import (
    caption_table,
    check_fields,
    check_ids,
    check_kind,
    clean_captions,
    pick,
    read_json,
    read_list,
    warn_unlisted,
)
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.types import Record

Language = Literal["en", "zh"]
FIELDS = {"en": "enCap", "zh": "chCap"}
LISTS = {TRAIN: "train_list.txt", VALIDATION: "val_list.txt", TEST: "test_list.txt"}
TRAINING, HELD_OUT = "vatex_training_v1.0.json", "vatex_validation_v1.0.json"
PUBLIC_TEST, REFERENCES = "vatex_public_test_english_v1.1.json", "ref_captions.json"


class VATEX(SplitAnnotations):
    """Reader of VATEX in the HGR split; nothing is read before it is asked for, and every file only once.

    Videos are in the order of their list, captions in the order of the file.

    Args:
        root: the folder of the annotation files.
        language: `en`, or `zh` for the Chinese captions (training and validation file only; CLIP's tokeniser spells
            them out in bytes).
        videos: the folder of the video files, inside the root.
        name: what results call the dataset; another one for another dataset in this layout.

    Raises:
        ConfigError: an unknown language.
    """

    def __init__(
        self, root: str | Path, language: Language = "en", videos: str = "videos", name: str = "VATEX"
    ) -> None:
        if language not in get_args(Language):
            raise ConfigError(f"VATEX: no captions in '{language}': {nearest(str(language), get_args(Language))}")
        super().__init__(name, root, videos, protocol=f"HGR, {language}")
        self.language = language

    def extent(self) -> Mapping[str, Extent]:
        """The published counts, and the length of a typical clip."""
        counts = {TRAIN: 25_991, VALIDATION: 1500, TEST: 1500}
        return {split: Extent(count, 10 * count, 10.0) for split, count in counts.items()}

    def load(self, split: str) -> list[Record]:
        """Reads one split.

        Raises:
            DataError: a file is missing, broken or another dataset's, a listed video is unknown or has no caption,
                a video is in two splits, or the split does not exist.
        """
        self.check_split(split)
        ids = self.once(self.require(LISTS[split]), read_list)
        captions: dict[str, tuple[str, ...]] = {}
        used: list[str] = []
        for path in self._sources(split):
            if used and all(i in captions for i in ids):
                break
            captions = self.once(path, self._parse) | captions
            used.append(str(path))
        source = " and ".join(used)
        chosen = pick(captions, ids, f"{self.name} {split}", source)
        listed = [i for name in LISTS.values() if self.has(name) for i in self.once(self.root / name, read_list)]
        warn_unlisted(captions, listed, self.name, source)
        return self.records(split, chosen)

    def _sources(self, split: str) -> list[Path]:
        names = [TRAINING] if split == TRAIN else [HELD_OUT]
        if self.language == "zh":
            return [self.require(*names)]
        names += [] if split == TRAIN else [PUBLIC_TEST]
        official = [self.root / name for name in names if self.has(name)]
        return official or [self.require(*names, REFERENCES)]

    def _parse(self, path: Path) -> dict[str, tuple[str, ...]]:
        content = read_json(path)
        if path.name == REFERENCES:
            return caption_table(content, str(path))
        field = FIELDS[self.language]
        videos: list[tuple[str, tuple[str, ...]]] = []
        for number, entry in enumerate(check_kind(content, str(path), list, "a list of videos")):
            where = f"{path}: entry {number}"
            video, texts = check_fields(entry, where, {"videoID": str, field: list})
            videos.append((video, clean_captions(texts, f"{where} ({video})")))
        check_ids([video for video, _ in videos], str(path))
        return dict(videos)

    def write_layout(self, root: Path, dataset: SyntheticDataset) -> list[str]:
        """Writes the lists and both of the authors' files; test and validation videos share one."""
        splits = dataset.by_split(self.splits)
        for split, videos in splits.items():
            write_lines(root / LISTS[split], map(_id, videos))
        for file, videos in ((TRAINING, splits[TRAIN]), (HELD_OUT, splits[TEST] + splits[VALIDATION])):
            entries = [
                {
                    "videoID": _id(v),
                    FIELDS["en"]: [caption.capitalize() for caption in v.captions],
                    FIELDS["zh"]: v.translations["zh"],
                }
                for v in videos
            ]
            write_json(root / file, entries)
        return [f"{self.videos}/{_id(v)}.mp4" for v in dataset.videos]


def _id(video: SyntheticVideo) -> str:
    return f"{video.youtube_id}_{video.number % 60:06}_{video.number % 60 + 10:06}"
