"""Pictures of what a run's method shows of a query: see `methods.views` for what there is to show."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tvr_lightning.data.annotations.base import TEST
from tvr_lightning.data.stores.files import atomic_write
from tvr_lightning.errors import ConfigError, DataError, DecodeError, few, nearest
from tvr_lightning.evaluation import encode_videos, score_all
from tvr_lightning.methods.views import Clouds, Parts
from tvr_lightning.names import run_of
from tvr_lightning.report.distributions import FEWEST, NO_TSNE, can_draw_clouds, draw_clouds, draw_parts
from tvr_lightning.run.fonts import missing_letters, render
from tvr_lightning.run.load import load_run
from tvr_lightning.run.pictures import Pair, Query, draw_maps, maps_of, own_query, see
from tvr_lightning.types import TextInput
from tvr_lightning.visible import encodable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from tvr_lightning.data.datamodule import VideoTextDataModule
    from tvr_lightning.data.split import Split
    from tvr_lightning.methods.base import RetrievalModule

PAIRS = 200  # matching pairs of the test split whose distribution is shown
CLOUD_PAIRS = 40  # of them, those whose vectors are arranged (TC-MGC, Fig. 10)
SEED = 0  # of the choice, the same for every run
FOLDER = "inspect"
STEM_BYTES = 60  # of a file's name
_IN_NAMES = "-._\u200c\u200d"  # the last two join letters, or keep them apart, in the scripts of India and Persia


@dataclass(frozen=True)
class Inspected:
    """A run's trained method over its test split.

    Attributes:
        name: how figures call the run.
        model: with the weights that its result came from.
        data: with the test split set up.
    """

    name: str
    model: RetrievalModule[Any, Any]
    data: VideoTextDataModule

    @property
    def split(self) -> Split:
        """The test split."""
        return self.data.splits[TEST]

    def see(self, query: Query) -> Pair:
        """What the method sees of a query; see `run.pictures.see`."""
        return see(self.model, self.data, self.split, query)


@dataclass
class Drawn:
    """What was drawn.

    Attributes:
        paths: of the files, in their order.
        notes: what was not, and why, a line each.
    """

    paths: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_run(path: Path, trust: bool = False) -> Inspected:
    """Builds a run's method and data from its folder and loads its weights.

    Args:
        path: the run's folder.
        trust: see `load_run`.

    Raises:
        RunError: no run folder. CheckpointError: no readable weights.
    """
    run = load_run(path, trust=trust)
    run.data.setup("test")
    return Inspected(f"{path.parent.name}/{path.name}", run.model, run.data)


def find_pair(run: Inspected, query: str, video_id: str | None = None) -> Query:
    """Turns a query into a caption and the row of a video.

    Args:
        run: the run.
        query: the id of a test caption (`video7#0`; a bare video id means its first), or any text.
        video_id: the video to look at; by default the caption's own, and for other text the best of the test split.

    Raises:
        DataError: no such video, or no caption in the text.
        ConfigError: the best video is wanted of a method that must be told which one is right.
    """
    split = run.split
    ids = [record.video_id for record in split.records]
    rows = {name: row for row, name in enumerate(ids)}
    if video_id is not None and video_id not in rows:
        raise DataError(f"{run.data.dataset} test has no video '{video_id}'; {nearest(video_id, ids)}")
    named = re.fullmatch(r"(.+?)(?:#(\d+))?", query)
    if named and named[1] in rows:
        own, place = rows[named[1]], int(named[2] or 0)
        if place >= int(split.captions.counts[own]):
            raise DataError(f"video '{named[1]}' has {int(split.captions.counts[own])} test captions, no #{place}")
        found = own_query(split, int(split.captions.first[own]) + place)
        return found if video_id is None else Query(found.text, found.tokens, rows[video_id])
    if not query.strip():
        raise ConfigError(
            f"the query is empty ({query!r}): give the id of a test caption, such as {ids[0]}#0, or a text"
        )
    tokens = run.data.tokenizer([query])
    unlisted = torch.tensor([-1])
    caption = TextInput(tokens.tokens, tokens.mask, unlisted, unlisted, tokens.word)  # type: ignore[arg-type]
    if video_id is not None:
        return Query(query, caption, rows[video_id])
    if run.model.reads_ground_truth:
        raise ConfigError(
            f"{run.name} reads the ground truth and cannot find the video of a text: name one with --video"
        )
    videos = encode_videos(run.model, run.data.evaluation_loaders(split)[1])
    with torch.inference_mode():
        best = score_all(run.model, run.model.encode_text(caption), videos)[0].argmax()
    return Query(query, caption, int(best))


def matching_pairs(run: Inspected, count: int = PAIRS) -> list[Pair]:
    """Matching test pairs, a seeded choice of videos with their first captions; those that decode.

    Raises:
        DecodeError: no video decodes.
    """
    captions = run.split.captions
    described = torch.nonzero(captions.counts)[:, 0]
    order = torch.randperm(len(described), generator=torch.Generator().manual_seed(SEED))[:count]
    pairs, failed = [], []
    for video in described[order].tolist():
        try:
            pairs.append(run.see(own_query(run.split, int(captions.first[video]))))
        except DecodeError as error:
            failed.append(str(error))
    if not pairs:
        raise DecodeError(f"{run.name}: none of {len(failed)} test videos can be decoded: {few(failed, 1)}")
    return pairs


def inspect_run(
    path: Path, query: str, video_id: str | None = None, against: Sequence[Path] = (), trust: bool = False
) -> Drawn:
    """Draws what a run's method shows of a query; writes PNG files below the run's folder.

    Args:
        path: the run's folder.
        query: see `find_pair`.
        video_id: see `find_pair`.
        against: further runs whose numbers stand beside, such as one without decorrelation.
        trust: see `load_run`; of all these runs.

    Returns:
        The files written, and a line for each that could not be.

    Raises:
        ConfigError: the method has nothing to draw, or the runs nothing that can stand side by side.
    """
    for folder in (path, *against):
        run_of(folder)  # all are said to be runs before the first is built
    run = open_run(path, trust)
    pair = run.see(find_pair(run, query, video_id))
    if not pair.views:
        raise ConfigError(
            f"{path}: {type(run.model).__name__}, as this run has it, has nothing to show for a pair; "
            "docs/inspecting.md says "
            "which methods show what"
        )
    figures: dict[str, Callable[[], Figure]] = {
        maps.name: partial(draw_maps, pair, maps) for maps in maps_of(pair.views)
    }
    parts = [view for view in pair.views if isinstance(view, Parts)]
    if against and not parts:
        raise ConfigError(f"{run.name} has no numbers to show beside another run's: leave --against out")
    others = [_beside(run, open_run(other, trust)) for other in against]
    drawn = Drawn()
    if pair.caption == query and re.fullmatch(r"\S*\d\S*", query):
        drawn.notes.append(f"{run.data.dataset} test has no video or caption called '{query}': it is taken as a text")
    clouds = [view.name for view in pair.views if isinstance(view, Clouds)]
    if clouds and not can_draw_clouds():
        drawn.notes.append(f"no picture of {', '.join(clouds)}: {NO_TSNE}")
        clouds = []
    if parts or clouds:
        pairs = [(r.name, matching_pairs(r)) for r in (run, *others)]
        for own in parts:
            found = [(name, series_of(name, some, own)) for name, some in pairs]
            figures[own.name] = partial(draw_parts, pair.video_id, own, found)
        for name in clouds:
            vectors = vectors_of(pairs[0][1][:CLOUD_PAIRS], name)
            if min(sum(map(len, some)) for some in vectors.values()) < FEWEST:
                drawn.notes.append(f"no picture of {name}: fewer than {FEWEST} vectors")
            else:
                figures[name] = partial(draw_clouds, run.name, vectors)
    folder = path / FOLDER
    folder.mkdir(exist_ok=True)
    stem = "-".join(map(file_stem, [query] if video_id is None else [query, video_id]))
    missing: dict[str, None] = {}
    for name, draw in figures.items():
        picture, lacking = render(draw, pair.text + run.name)
        missing |= dict.fromkeys(lacking)
        target = folder / f"{stem}-{name}.png"
        with atomic_write(target) as temporary:
            temporary.write_bytes(picture)
        drawn.paths.append(target)
    if missing:
        drawn.notes.append(missing_letters("".join(missing)))
    return drawn


def _beside(run: Inspected, other: Inspected) -> Inspected:
    """Another run, whose figures may stand beside a run's.

    Raises:
        ConfigError: it is of another method or another test split.
    """
    for what, own, its in (
        ("method", type(run.model).__name__, type(other.model).__name__),
        ("test split", *(f"{r.data.dataset} {r.data.annotations.protocol}" for r in (run, other))),
    ):
        if own != its:
            raise ConfigError(f"--against {other.name}: its {what} is {its}, that of {run.name} is {own}")
    return other


def series_of(run: str, pairs: Sequence[Pair], like: Parts) -> Mapping[str, Tensor]:
    """The numbers of a run's pairs in the view of that name: (pairs, C) for each series.

    Raises:
        ConfigError: it shows no such numbers, or of other parts.
    """
    views = [view for pair in pairs for view in pair.views if isinstance(view, Parts) and view.name == like.name]
    names = views[0].names if views else ()
    if names != like.names:
        raise ConfigError(
            f"{run} shows {like.name} of {', '.join(names) or 'nothing'}, which cannot be compared with those of "
            f"{', '.join(like.names)}: leave it out of --against"
        )
    return {name: torch.stack([view.series[name].float().cpu() for view in views]) for name in views[0].series}


def vectors_of(pairs: Sequence[Pair], name: str) -> Mapping[str, Sequence[Tensor]]:
    """The vectors of pairs in the view of that name, by what they are of."""
    views = [view for pair in pairs for view in pair.views if isinstance(view, Clouds) and view.name == name]
    return {of: [view.vectors[of].float().cpu() for view in views] for of in views[0].vectors}


def file_stem(query: str) -> str:
    """A query as a part of a file's name, in its own letters with their marks; it begins with no dash and no dot.

    >>> file_stem("-0sXY#1"), file_stem("一只 红色 的狗?"), file_stem("हिन्दी में")
    ('_-0sXY_1', '一只_红色_的狗', 'हिन्दी_में')
    """
    name = "".join(c if c in _IN_NAMES or unicodedata.category(c)[0] in "LMN" else " " for c in encodable(query))
    name = "_".join(name.split())
    name = f"_{name}" if name.startswith(("-", ".")) else name
    return name.encode()[:STEM_BYTES].decode(errors="ignore").rstrip("_.") or "query"
