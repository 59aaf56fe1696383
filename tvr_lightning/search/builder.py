"""Making an index, and keeping it up to date with its videos."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from tvr_lightning import __version__
from tvr_lightning.data.dataset import VideoReader, collate_videos
from tvr_lightning.data.stores.files import write_json, write_text
from tvr_lightning.data.video.frames import read_duration
from tvr_lightning.data.workers import check_shared_memory, worker_settings
from tvr_lightning.distributed import gather_objects, raise_on_all_ranks, ranks
from tvr_lightning.errors import DecodeError, SearchError, few
from tvr_lightning.evaluation.encoding import encode_batch, inference
from tvr_lightning.names import CONFIG
from tvr_lightning.run.build import dump_config
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.folder import VECTOR, Shards, writing
from tvr_lightning.search.manifest import Manifest, Shard, Source, Unreadable
from tvr_lightning.search.plan import IndexOptions, Job, adopt, make_plan
from tvr_lightning.search.progress import progress
from tvr_lightning.search.table import Table
from tvr_lightning.search.vectors import Kind, MilvusVectors, keep_lists, open_vectors
from tvr_lightning.search.videos import list_videos, windows
from tvr_lightning.types import Record, VideoInput


@dataclass(frozen=True)
class Built:
    """What `build_index` did.

    Attributes:
        videos: in the index now.
        windows: likewise.
        added: videos that were encoded.
        moved: videos whose features were there under another name.
        removed: videos that are gone.
        unreadable: what could not be indexed.
        others: files of the folder that are not videos by their name.
        repeats: names of a list that lead to a file which another name has led to; such a file is indexed once.
        copies: files that hold the same as another; each is indexed.
    """

    videos: int
    windows: int
    added: int
    moved: int
    removed: int
    unreadable: tuple[Unreadable, ...]
    others: int
    repeats: int
    copies: int


def build_index(run: Experiment, source: Source, videos: Path, folder: Path, options: IndexOptions) -> Built:
    """Indexes videos, or brings an index up to date with them. Every rank calls this.

    A file whose content is in the index is not encoded again, wherever it lies now; what is gone leaves. After a kill
    the same call continues: at most one batch per rank is encoded again.

    Args:
        run: what encodes, on its device.
        source: what the index says of it.
        videos: a folder, or a text file that names videos.
        folder: the index.
        options: how it is made.

    Raises:
        DataError: there are no videos.
        SearchError: the folder cannot be written, another process writes to it, it holds an index of something else, or
            no video can be read.
    """
    rank, world = ranks()
    with ExitStack() as use:
        job = None
        with raise_on_all_ranks():
            if not rank:
                listed = list_videos(videos)
                use.enter_context(writing(folder))
                job = make_plan(run, source, listed, folder, options)
        job = gather_objects(job)[0]
        assert job is not None
        builder = _Builder(run, folder, job)
        with raise_on_all_ranks():
            builder.encode(job.todo[rank::world])
        manifest = builder.manifest
        with raise_on_all_ranks():
            if not rank:
                manifest = _finish(folder, manifest, run.config)
        unreadable = gather_objects(manifest)[0].unreadable
        count = len({file for shard in manifest.shards for file in _files(folder, shard)}) if not rank else 0
        done = len(job.todo) - len({u.file for u in unreadable} & {file for file, _ in job.todo})
        return Built(
            count,
            manifest.size,
            done,
            job.moved,
            job.removed,
            unreadable,
            len(job.listed.others),
            job.listed.repeats,
            job.copies,
        )


def _files(folder: Path, shard: Shard) -> set[str]:
    return set(Shards(folder).table(shard).take(shard.kept).files)


def _finish(folder: Path, manifest: Manifest, config: Mapping[str, Any]) -> Manifest:
    """Joins what all ranks wrote, and brings the vector index up to date."""
    shards = Shards(folder)
    manifest = adopt(folder, manifest)
    if not manifest.size:
        reasons = few([f"{u.file}: {u.reason}" for u in manifest.unreadable], 3, "; ")
        raise SearchError(f"nothing to index: none of {len(manifest.unreadable)} videos can be read ({reasons})")
    manifest = replace(shards.merged(manifest), suite=__version__)
    write_text(folder / CONFIG, dump_config(config))
    shards.save(manifest)
    shards.clean(manifest)
    ids, vectors = shards.windows(manifest)[0].ids, shards.vectors(manifest)
    if manifest.vectors_at is None:
        keep_lists(folder, manifest.kind, ids, vectors)
        return manifest
    held = open_vectors(manifest.vectors_at, manifest.kind, manifest.width, len(ids))
    assert isinstance(held, MilvusVectors)
    there = held.ids()
    held.delete(np.setdiff1d(there, ids))
    lacking = ~np.isin(ids, there)
    held.add(ids[lacking], vectors[lacking])
    return manifest


class _Windows(Dataset[VideoInput | tuple[int, str]]):
    """Windows as a batch of one each; the decoder's reason where one gives no frame."""

    def __init__(self, reader: VideoReader) -> None:
        self.reader = reader

    def __len__(self) -> int:
        return len(self.reader.records)

    def __getitem__(self, index: int) -> VideoInput | tuple[int, str]:
        try:
            video = self.reader.read(index)
        except DecodeError as error:
            return index, str(error)
        assert video is not None
        return video


class _Durations(Dataset[tuple[int, float, str]]):
    """Seconds of videos, or why there are none."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[int, float, str]:
        try:
            return index, read_duration(self.paths[index]), ""
        except DecodeError as error:
            return index, 0.0, str(error)


def _collate(samples: Sequence[VideoInput | tuple[int, str]]) -> tuple[VideoInput | None, list[tuple[int, str]]]:
    videos = [s for s in samples if isinstance(s, VideoInput)]
    return collate_videos(videos), [s for s in samples if not isinstance(s, VideoInput)]


FEW = 64  # videos below which no process is started to look at their lengths


class _Builder:
    """Encodes a rank's share of the videos, and writes each batch as soon as it is encoded."""

    def __init__(self, run: Experiment, folder: Path, job: Job) -> None:
        self.model, self.data = run.model, run.data
        self.folder, self.shards = folder, Shards(folder)
        self.manifest = job.manifest
        self.rank, self.world = ranks()
        self.root = job.listed.root
        self.first_id, self.written = job.manifest.next_id, 0
        self.own: list[Shard] = []
        self.unreadable: list[Unreadable] = []

    def encode(self, todo: Sequence[tuple[str, str]]) -> None:
        """Encodes files, given with what they hold."""
        if not todo:
            return
        contents = dict(todo)
        records, durations = self._cut([file for file, _ in todo], contents)
        data = self.data
        reader = VideoReader(records, data.frames, "raise", data.frame_cache if data.cache_frames else None)
        size = data.eval_batch_size
        check_shared_memory(min(size, len(records)) * reader.bytes_of_one(), data.num_workers, self.world)
        loader = DataLoader(_Windows(reader), size, collate_fn=_collate, **worker_settings(data.num_workers))
        failed: dict[str, str] = {}
        with progress("encoding", len(records)) as advance, inference(self.model):
            for batch, reasons in loader:
                for row, reason in reasons:
                    failed.setdefault(records[row].video_id, reason)
                if batch is not None:
                    self._write(batch, records, durations, contents)
                advance(len(reasons) + (0 if batch is None else len(batch)))
        self.unreadable += [Unreadable(file, contents[file], reason) for file, reason in failed.items()]
        self._commit()

    def _cut(self, files: Sequence[str], contents: Mapping[str, str]) -> tuple[list[Record], dict[str, float]]:
        """Windows as records, and seconds of the videos."""
        paths = [self.root / file for file in files]
        workers = self.data.num_workers if len(files) >= FEW else 0
        loader: Iterator[Any] = iter(DataLoader(_Durations(paths), None, **worker_settings(workers)))
        records, durations = [], {}
        with progress("looking at", len(files)) as advance:
            for index, seconds, reason in loader:
                file = files[index]
                if reason:
                    self.unreadable.append(Unreadable(file, contents[file], reason))
                durations[file] = seconds
                try:
                    cuts = [] if reason else windows(seconds, self.manifest.window, self.manifest.stride)
                except DecodeError as error:
                    cuts = []
                    self.unreadable.append(Unreadable(file, contents[file], f"{paths[index]}: {error}"))
                records += [Record(file, paths[index], (), start=start, end=end) for start, end in cuts]
                advance(1)
        return records, durations

    def _write(
        self, batch: VideoInput, records: Sequence[Record], durations: Mapping[str, float], contents: Mapping[str, str]
    ) -> None:
        features, index = encode_batch(self.model.encode_video, batch.to(self.model.device))
        vectors = self.model.vectors(features).cpu()
        halves = self.manifest.dtype == "float16"
        tensors = {
            name: x.half() if halves and x.is_floating_point() else x
            for name, x in features.to("cpu").tensors().items()
        }
        chosen = [records[row] for row in index.index.tolist()]
        ids = self.first_id + self.rank + self.world * np.arange(self.written, self.written + len(chosen))
        table = Table(
            ids.astype(np.int64),
            [r.video_id for r in chosen],
            np.array([np.nan if r.start is None else r.start for r in chosen], dtype=np.float64),
            np.array([np.nan if r.end is None else r.end for r in chosen], dtype=np.float64),
            np.array([durations[r.video_id] for r in chosen], dtype=np.float64),
            [bytes.fromhex(contents[r.video_id]) for r in chosen],
            [picture(frames, mask) for frames, mask in zip(batch.frames, batch.frame_mask, strict=True)],
        )
        kind: Kind = "code" if vectors.dtype == torch.int8 else "float"
        self.manifest = replace(self.manifest, kind=kind, width=vectors.shape[1])
        name = f"{self.manifest.next_shard:06d}" + (f"-{self.rank}" if self.rank else "")
        self.own.append(self.shards.write(name, {**tensors, VECTOR: vectors}, table))
        self.written += len(chosen)
        self._commit()

    def _commit(self) -> None:
        """Makes what was written count."""
        next_id = self.first_id + self.world * self.written
        manifest = replace(self.manifest, next_id=next_id, next_shard=self.manifest.next_shard + 1)
        if self.rank:
            self.manifest = manifest
            part = {"shards": [asdict(s) for s in self.own], "unreadable": [asdict(u) for u in self.unreadable]}
            facts = {name: getattr(manifest, name) for name in ("kind", "width", "next_id", "next_shard")}
            write_json(self.folder / f"rank-{self.rank}.json", {**part, **facts})
            return
        self.manifest = replace(
            manifest,
            shards=(*manifest.shards, *self.own),
            unreadable=(*manifest.unreadable, *self.unreadable),
        )
        self.own, self.unreadable = [], []
        if self.manifest.shards:
            merged = self.shards.merged(self.manifest)
            self.shards.save(merged)
            if merged is not self.manifest:
                self.shards.clean_up_to(merged, self.manifest)
            self.manifest = merged


@contextmanager
def joined_ranks() -> Iterator[int]:
    """Joins the processes that torchrun or SLURM started, if they did; gives this one's rank.

    Raises:
        SearchError: they cannot reach each other.
    """
    from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    found = next((kind() for kind in (TorchElasticEnvironment, SLURMEnvironment) if kind.detect()), None)
    if found is None or found.world_size() == 1:
        yield 0
        return
    os.environ.setdefault("MASTER_ADDR", found.main_address)  # torchrun has said so, and keeps the port itself
    os.environ.setdefault("MASTER_PORT", str(found.main_port))
    try:
        dist.init_process_group(
            "gloo", rank=found.global_rank(), world_size=found.world_size(),
            timeout=timedelta(hours=12),  # a rank may have much less to do
        )  # fmt: skip
    except (RuntimeError, ValueError) as error:
        raise SearchError(
            f"the {found.world_size()} processes of tvr index cannot reach each other ({error})"
        ) from error
    try:
        yield found.global_rank()
    finally:
        dist.destroy_process_group()


def picture(frames: Tensor, mask: Tensor) -> bytes:
    """The frame in the middle of a window, as JPEG.

    Shapes: frames (n, 3, H, W) uint8, mask (n,) bool.
    """
    from PIL import Image

    middle = frames[int(mask.sum()) // 2]
    content = io.BytesIO()
    Image.fromarray(middle.permute(1, 2, 0).contiguous().numpy()).save(content, "JPEG", quality=80)
    return content.getvalue()
