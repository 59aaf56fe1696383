"""The embedded dataset in each dataset's own layout: what `shapes` shows and says, in the files its reader expects.

Ids, extensions, prefixes, line ends and the order of segments are as careless as in the real files, so that readers and
experiments are tried on what they will meet. The bytes of a video are those of an MP4 file whatever its name.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import pickle
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from tvr_lightning.config.objects import class_of
from tvr_lightning.data.tools.parallel import run_all
from tvr_lightning.errors import ConfigError, nearest
from tvr_lightning.synthetic.rendering import write_video
from tvr_lightning.synthetic.scenes import COLOURS, FPS, NUM_CATEGORIES, SHAPES, Scene
from tvr_lightning.synthetic.shapes import (
    MANIFEST,
    VERSION,
    PlannedVideo,
    _check_replaceable,
    _replacing,
    make_shapes,
    plan_shapes,
)

NUM_VIDEOS = 24
Splits = Mapping[str, Sequence[PlannedVideo]]

_SHAPES_ZH = dict(zip(SHAPES, ("圆形", "正方形", "三角形", "星形", "心形", "十字形"), strict=True))
_COLOURS_ZH = dict(zip(COLOURS, ("红", "橙", "黄", "绿", "青", "蓝", "紫", "粉"), strict=True))


@dataclass(frozen=True)
class _Layout:
    """How a dataset's folder looks.

    Attributes:
        splits: its names of train, validation and test; two where validation videos belong to train.
        folder: where videos lie.
        file: a video's file name.
        annotate: writes the annotation files into a folder.
    """

    splits: tuple[str, ...]
    folder: str
    file: Callable[[PlannedVideo, int], str]
    annotate: Callable[[Path, Splits, int], None]


def export_shapes(layout: str, root: Path, num_videos: int = NUM_VIDEOS, seed: int = 0) -> dict[str, int]:
    """Writes the embedded dataset into `root` as another dataset's release would lie there.

    An earlier export in `root` is replaced as a whole once the new one is complete; the same one is kept.

    Args:
        layout: `msrvtt`, `msvd`, `didemo`, `vatex`, `activitynet` or `charades`.
        root: the dataset's folder.
        num_videos: videos of all splits.
        seed: same seed, same dataset.

    Returns:
        The number of videos by split, in the dataset's own words.

    Raises:
        ConfigError: an unknown layout, or too few videos for three splits.
        DataError: `root` holds something else.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"no layout '{layout}'; {nearest(layout, LAYOUTS)}")
    if layout == "msrvtt":
        return make_shapes(root, num_videos, seed).splits
    form, root = _LAYOUTS[layout], Path(root).resolve()
    plan = plan_shapes(num_videos, seed)
    splits: dict[str, list[PlannedVideo]] = {name: [] for name in form.splits}
    for video in plan.videos:
        last = {"train": 0, "validate": len(form.splits) - 2, "test": -1}[video.split]
        splits[form.splits[last]].append(video)
    counts = {name: len(videos) for name, videos in splits.items()}
    content = {"dataset": "shapes", "version": VERSION, "layout": layout, "seed": seed, "splits": counts}
    files = [f"{form.folder}/{form.file(video, seed)}" for video in plan.videos]
    if _is_current(root, content, files):
        return counts
    _check_replaceable(root)
    with _replacing(root) as folder:
        (folder / form.folder).mkdir()
        jobs = [(video.scene, folder / file) for video, file in zip(plan.videos, files, strict=True)]
        run_all(_write, jobs, None, layout, chunk=8, jobs_per_worker=100)
        form.annotate(folder, splits, seed)
        _json(folder / MANIFEST, content)
    return counts


def layout_of(class_path: str) -> str:
    """Returns the layout that a reader reads.

    Raises:
        ConfigError: the class is none of the six readers.
    """
    name = class_path.rpartition(".")[2]
    for parent in getattr(class_of(class_path), "__mro__", ()):
        if parent.__name__.lower() in LAYOUTS:
            return str(parent.__name__.lower())
    raise ConfigError(f"no generated dataset in the layout that {class_path} reads; {nearest(name, LAYOUTS)}")


def _write(job: tuple[Scene, Path]) -> None:
    write_video(*job)


def _is_current(root: Path, content: Mapping[str, Any], files: Sequence[str]) -> bool:
    try:
        found = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return bool(found == content) and all((root / file).is_file() for file in files)


def _json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")


def _lines(path: Path, lines: Sequence[str], end: str = "\n") -> None:
    path.write_bytes(("\n".join(lines) + end).encode())


def _hash(video: PlannedVideo, seed: int) -> bytes:
    return hashlib.sha256(f"{seed} {video.number}".encode()).digest()


def _seconds(video: PlannedVideo) -> float:
    return round(video.scene.num_frames / FPS, 2)


def _youtube(video: PlannedVideo, seed: int) -> str:
    """Eleven characters as YouTube's ids; some start with a dash or an underscore."""
    text = base64.urlsafe_b64encode(_hash(video, seed)).decode()
    return {0: "-", 1: "_"}.get(video.number % 6, text[0]) + text[1:11]


def _clip(video: PlannedVideo, seed: int, form: str) -> str:
    return form.format(_youtube(video, seed), video.number % 60, video.number % 60 + 10)


_msvd_id = partial(_clip, form="{}_{}_{}")
_vatex_id = partial(_clip, form="{}_{:06}_{:06}")


def _annotate_msvd(root: Path, splits: Splits, seed: int) -> None:
    for name, videos in splits.items():
        _lines(root / f"{name}_list.txt", [_msvd_id(v, seed) for v in videos], end="\n" if name == "test" else "")
    captions = {_msvd_id(v, seed): [c.split() for c in v.captions] for videos in splits.values() for v in videos}
    (root / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))


_FLICKR = ("mov", "avi", "mp4", "MPG", "3gp", "m4v", "")


def _didemo_name(video: PlannedVideo, seed: int) -> str:
    digits = _hash(video, seed).hex()
    number = int(digits[:8], 16)
    return f"{number % 10**8:08}@N0{number % 8}_{number}_{digits[8:18]}.{_FLICKR[video.number % len(_FLICKR)]}"


def _didemo_file(video: PlannedVideo, seed: int) -> str:
    name = _didemo_name(video, seed)
    return f"{name.rstrip('.')}.mp4" if video.number % 3 == 0 or name.endswith(".") else name


def _annotate_didemo(root: Path, splits: Splits, seed: int) -> None:
    for split, videos in splits.items():
        names, entries = [], []
        for place, video in enumerate(videos):
            name = _didemo_name(video, seed)
            # one video under two extensions in every split but train, as in the release
            second = name.rpartition(".")[0] + ".wmv" if split != "train" and place == 0 else name
            names.append(name)
            for number, caption in enumerate(video.captions[: 3 + video.number % 3]):
                start = number % max(1, int(_seconds(video)) // 5)
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
        _json(root / f"{split}_data.json", entries)
        _lines(root / f"{split}_list.txt", names)


def _chinese(video: PlannedVideo) -> list[str]:
    things = "和".join(f"一个{_COLOURS_ZH[t.colour]}色的{_SHAPES_ZH[t.shape]}" for t in video.scene.things)
    return [f"{start}{things}" for start in ("", "有", "画面中有", "视频里有", "我们看到", "这里有", "屏幕上有")]


def _annotate_vatex(root: Path, splits: Splits, seed: int) -> None:
    for name, videos in splits.items():
        _lines(root / f"{name}_list.txt", [_vatex_id(v, seed) for v in videos])
    held_out = [*splits["test"], *splits["val"]]
    for file, videos in (("training", splits["train"]), ("validation", held_out)):
        content = [
            {"videoID": _vatex_id(v, seed), "enCap": [c.capitalize() for c in v.captions], "chCap": _chinese(v)}
            for v in videos
        ]
        _json(root / f"vatex_{file}_v1.0.json", content)


def _activitynet_file(video: PlannedVideo, seed: int) -> str:
    return f"{'v_' if video.number % 2 else ''}{_youtube(video, seed)}.mp4"


def _annotate_activitynet(root: Path, splits: Splits, seed: int) -> None:
    for name, videos in splits.items():
        _json(root / f"{name}_ids.json", [f"v_{_youtube(v, seed)}" for v in videos])
    _json(root / "train.json", {f"v_{_youtube(v, seed)}": _segments(v, 0) for v in splits["train"]})
    for number in (1, 2):
        content = {f"v_{_youtube(v, seed)}": _segments(v, 3 * number - 3) for v in splits["val"]}
        _json(root / f"val_{number}.json", content)
    database = {
        _youtube(video, seed): {
            "duration": _seconds(video),
            "subset": "training" if name == "train" else "validation",
            "resolution": "96x96",
            "url": f"shapes:{video.number}",
            "annotations": [{"segment": [0.0, _seconds(video)], "label": _class_name(n)} for n in _labels(video)],
        }
        for name, videos in splits.items()
        for video in videos
    }
    for version in ("1-2", "1-3"):
        labels = {"version": f"VERSION {version.replace('-', '.')}", "taxonomy": [], "database": database}
        _json(root / f"activity_net.v{version}.min.json", labels)


def _segments(video: PlannedVideo, first: int) -> dict[str, Any]:
    """Three sentences, in every third video out of order, in some with stray spaces and a reversed segment."""
    seconds, sentences = _seconds(video), [f" {c.capitalize()}." for c in video.captions[first : first + 3]]
    times = [[round(seconds * i / 3, 2), round(seconds * (i + 1) / 3, 2)] for i in range(3)]
    if video.number % 3 == 0:
        times, sentences = times[::-1], sentences[::-1]
    if video.number % 7 == 0:
        times[0], sentences[0] = times[0][::-1], sentences[0] + "\n"
    return {"duration": seconds, "timestamps": times, "sentences": sentences}


def _labels(video: PlannedVideo) -> list[int]:
    """One class for each event."""
    scene = video.scene
    return sorted({replace(scene, events=(event,)).category for event in scene.events})


def _class_name(label: int) -> str:
    groups = ("round", "square", "triangle", "star"), ("sideways", "upright", "size", "flicker", "colour")
    return f"{groups[0][label // 5]} thing, {groups[1][label % 5]}"


_CHARADES = (
    *("id", "subject", "scene", "quality", "relevance", "verified"),
    *("script", "objects", "descriptions", "actions", "length"),
)


def _charades_id(video: PlannedVideo, seed: int) -> str:
    """Five letters and digits; the factor shares no divisor with 36, so no two videos get the same."""
    rest, digits = (video.number + 1) * 1_000_003 + seed, ""
    for _ in range(5):
        rest, digit = divmod(rest, 36)
        digits += string.digits[digit] if digit < 10 else string.ascii_uppercase[digit - 10]
    return digits


def _annotate_charades(root: Path, splits: Splits, seed: int) -> None:
    classes = [f"c{n:03} {_class_name(n)}" for n in range(NUM_CATEGORIES)]
    _lines(root / "Charades_v1_classes.txt", classes)
    for split, videos in splits.items():
        with (root / f"Charades_v1_{split}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(_CHARADES)
            for video in videos:
                # some end after the video, some videos have none, as in the release
                end = _seconds(video) + (2.0 if video.number % 4 == 0 else 0.0)
                actions = "" if video.number % 9 == 0 else ";".join(f"c{n:03} 0.00 {end:.2f}" for n in _labels(video))
                objects = ";".join(thing.shape for thing in video.scene.things)
                about = ["HR43", "Kitchen", "6", "7", "Yes", f'{video.captions[0]}, "slowly".', objects]
                told = ";".join(video.captions[1:3])
                writer.writerow([_charades_id(video, seed), *about, told, actions, _seconds(video)])


def _file(identify: Callable[[PlannedVideo, int], str], extension: str) -> Callable[[PlannedVideo, int], str]:
    return lambda video, seed: f"{identify(video, seed)}.{extension}"


_LAYOUTS = {
    "msvd": _Layout(("train", "val", "test"), "videos", _file(_msvd_id, "avi"), _annotate_msvd),
    "didemo": _Layout(("train", "val", "test"), "videos", _didemo_file, _annotate_didemo),
    "vatex": _Layout(("train", "val", "test"), "videos", _file(_vatex_id, "mp4"), _annotate_vatex),
    "activitynet": _Layout(("train", "val"), "videos", _activitynet_file, _annotate_activitynet),
    "charades": _Layout(("train", "test"), "Charades_v1_480", _file(_charades_id, "mp4"), _annotate_charades),
}
LAYOUTS = ("msrvtt", *_LAYOUTS)
