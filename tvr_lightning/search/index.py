"""Searching an index: by text, in two stages, or by an example."""

from __future__ import annotations

import copy
import os
import threading
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tvr_lightning.data.dataset import VideoReader
from tvr_lightning.data.stores.reading import is_there
from tvr_lightning.errors import ConfigError, DataError, ScoreError, SearchError
from tvr_lightning.evaluation import score_all
from tvr_lightning.evaluation.encoding import inference
from tvr_lightning.run.load import Experiment
from tvr_lightning.search.folder import VECTOR, Shards
from tvr_lightning.search.hits import EMPTY, Answer, Hit, says_something
from tvr_lightning.search.manifest import Manifest, read_manifest
from tvr_lightning.search.source import black_features, check_source, load_source, source_of
from tvr_lightning.search.vectors import VectorIndex, local_vectors, open_vectors
from tvr_lightning.types import Record, TensorRows, TextInput, VideoInput
from tvr_lightning.visible import whole

CANDIDATES = 1000
ATTEMPTS = 5  # to read an index that is being written
BLOCK = 4096  # windows whose features are looked at together


class Index:
    """An index of videos with the method that made it; `load_index` gives one.

    Args:
        folder: where it lies.
        run: what encodes queries; loaded from where the index says when None.
        candidates: windows that vectors propose and the method's own score ranks; None for all.
        device: where queries are encoded; a GPU where there is one when None.
        trust: whether the run's configuration may import modules of the working directory.
    """

    def __init__(
        self,
        folder: Path,
        run: str | None = None,
        candidates: int | None = CANDIDATES,
        device: str | None = None,
        trust: bool = False,
    ) -> None:
        if candidates is not None and candidates < 1:
            raise ConfigError(f"--candidates is {candidates}; it must be at least 1, or `all`")
        self.folder = folder
        self.candidates = candidates
        self._run_path, self._device, self._trust = run, device, trust
        self._lock = threading.Lock()  # a method and its tokeniser are used by one thread at a time
        self._load()

    def _load(self) -> None:
        for attempt in range(ATTEMPTS):
            self.manifest: Manifest = read_manifest(self.folder)
            try:
                self._read()
                return
            except SearchError:  # a writer has merged these shards meanwhile
                if attempt == ATTEMPTS - 1 or read_manifest(self.folder) == self.manifest:
                    raise

    def _read(self) -> None:
        shards, manifest = Shards(self.folder), self.manifest
        self.table, self._places = shards.windows(manifest)
        if not len(self.table):
            raise SearchError(f"{self.folder} is empty: tvr index RUN VIDEOS {self.folder}")
        numbers = [number for number, s in enumerate(manifest.shards) if s.size]
        tensors = shards.all_tensors([manifest.shards[number] for number in numbers], manifest)
        self._tensors = dict(zip(numbers, tensors, strict=True))
        self._row_of = {number: row for row, number in enumerate(self.table.ids.tolist())}
        self.vectors: VectorIndex
        if manifest.vectors_at is None:
            self.vectors = local_vectors(self.folder, manifest.kind, self.table.ids, shards.vectors(manifest))
            return
        self.vectors = open_vectors(manifest.vectors_at, manifest.kind, manifest.width, len(self.table), make=False)
        if len(self.vectors) != len(self.table):
            raise SearchError(
                f"{manifest.vectors_at} holds {len(self.vectors)} vectors, the index {len(self.table)} windows: bring "
                f"it up to date, tvr index {manifest.source.path} {manifest.root} {self.folder} --index "
                f"{manifest.vectors_at}"
            )

    def refresh(self) -> bool:
        """Reads the index again where it has changed; whether it had."""
        new = self.reopened()
        if new is self:
            return False
        with self._lock:
            for name in ("run", "_black"):  # what was loaded stays only where the new state has it too
                self.__dict__.pop(name, None)
            self.__dict__.update(new.__dict__)
        return True

    def reopened(self) -> Index:
        """The index as it is on disk now: itself where nothing has changed, else another one beside it.

        Both may be used by several threads; what encodes is loaded once, and again only where it is another.

        Raises:
            SearchError: it cannot be read any more.
        """
        if read_manifest(self.folder) == self.manifest:
            return self
        new = copy.copy(self)  # its lock too: it guards the method that both use
        new._load()
        if new.manifest.source != self.manifest.source:
            for name in ("run", "_black"):
                new.__dict__.pop(name, None)
        return new

    @cached_property
    def run(self) -> Experiment:
        """What encodes queries.

        Raises:
            SearchError: the run is gone, or its weights are not those that the videos were encoded with.
        """
        path = self._run_path or self.manifest.source.path
        if self._run_path is None and Path(path).is_absolute() and not is_there(Path(path)):
            raise SearchError(
                f"{self.folder} was made with the run {path}, which is gone: say where it is now, --run=FOLDER"
            )
        run = load_source(path, self._device, self._trust)
        check_source(self.manifest, source_of(run, path), str(self.folder))
        return run

    def __len__(self) -> int:
        """Number of windows."""
        return len(self.table)

    @overload
    def search(self, query: str, k: int = 10) -> list[Hit]: ...  # type: ignore[overload-overlap]

    @overload
    def search(self, query: Sequence[str], k: int = 10) -> list[list[Hit]]: ...

    def search(self, query: str | Sequence[str], k: int = 10) -> list[Hit] | list[list[Hit]]:
        """Finds the windows that a text describes.

        Args:
            query: one text, or several that are encoded together.
            k: how many.

        Returns:
            Hits, best first; a list of them for each text of several.

        Raises:
            DataError: a text is empty.
            SearchError: see `run`.
        """
        answers = self.answers([query] if isinstance(query, str) else query, k)
        for answer in answers:
            for note in answer.notes:
                warnings.warn(note, stacklevel=2)
        found = [answer.hits for answer in answers]
        return found[0] if isinstance(query, str) else found

    def answers(self, queries: Sequence[str], k: int = 10) -> list[Answer]:
        """As `search`, with what there is to say about each query instead of warnings."""
        _check_k(k)
        if not queries:
            return []
        with self._lock:
            texts, notes = self._encode(queries)
            found = self._ranked(texts, k)
        return [Answer(hits, tuple(said)) for hits, said in zip(found, notes, strict=True)]

    def search_video(self, path: str | os.PathLike[str], k: int = 10) -> list[Hit]:
        """Finds the windows that are most like a video, by the vectors of both.

        Raises:
            DecodeError: the video cannot be decoded.
        """
        _check_k(k)
        reader = VideoReader([Record("query", Path(path), ())], self.run.data.frames, "raise")
        video = reader.read(0)
        assert video is not None
        return self.search_frames(video, k)

    def search_frames(self, video: VideoInput, k: int = 10) -> list[Hit]:
        """As `search_video`, for a video that is decoded already."""
        _check_k(k)
        with self._lock:
            model = self.run.model
            with inference(model):
                vector = model.vectors(model.encode_video(video.to(model.device))).cpu().numpy()
            [scores], [ids] = self.vectors.search(vector, len(self.table))
        known = [i in self._row_of for i in ids.tolist()]
        return self._hits(self._rows(ids), scores[known], k)

    def _rows(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of windows; a vector index may know others, of a later state, and says -1 where it found too few."""
        return np.array([self._row_of[i] for i in ids.tolist() if i in self._row_of], dtype=np.int64)

    def row(self, window: int) -> int:
        """Where a window stands in `table`.

        Raises:
            SearchError: the index has no such window.
        """
        if window not in self._row_of:
            raise SearchError(f"{self.folder} has no window {window}")
        return self._row_of[window]

    def picture(self, window: int) -> bytes:
        """A window's frame, as JPEG.

        Raises:
            SearchError: the index has no such window.
        """
        number, place = self._places[self.row(window)].tolist()
        return Shards(self.folder).picture(self.manifest.shards[number], place)

    def hit(self, window: int, rank: int = 0, score: float = float("nan")) -> Hit:
        """A window by its number.

        Raises:
            SearchError: the index has no such window.
        """
        row, table = self.row(window), self.table
        file = table.files[row]
        start, end = float(table.starts[row]), float(table.ends[row])
        return Hit(
            rank, score, file, Path(self.manifest.root, file), 0.0 if np.isnan(start) else start,
            float(table.durations[row]) if np.isnan(end) else end, window,
        )  # fmt: skip

    def _encode(self, queries: Sequence[str]) -> tuple[TensorRows, list[list[str]]]:
        for number, query in enumerate(queries):
            if not says_something(query):
                which = f"query {number + 1} of {len(queries)}" if len(queries) > 1 else "the query"
                raise DataError(EMPTY.replace("the query", which))
        run = self.run
        tokenizer = run.data.tokenizer
        text = tokenizer([whole(query) for query in queries])
        places = torch.arange(len(queries))
        batch = TextInput(text.tokens, text.mask, places, places, text.word)  # type: ignore[arg-type]
        with inference(run.model):
            parts = [
                run.model.encode_text(batch[i : i + run.data.eval_batch_size].to(run.model.device))
                for i in range(0, len(queries), run.data.eval_batch_size)
            ]
        features = type(parts[0]).cat(parts).map(lambda x: x.float() if x.is_floating_point() else x)
        notes = [
            [f"the query is longer than the {tokenizer.context_length} tokens of the method: its end is cut off"]
            if cut
            else []
            for cut in text.truncated.tolist()
        ]
        return features, notes

    def _ranked(self, texts: TensorRows, k: int) -> list[list[Hit]]:
        """Two stages: vectors propose, the method's score ranks."""
        model, count = self.run.model, len(self.table)
        some = self.candidates is not None and model.shared_space
        wanted = max(self.candidates or 0, k) if some else count
        if wanted >= count:
            rows = np.arange(count)
            scores = torch.cat(
                [self._scores(texts, rows[i : i + BLOCK]) for i in range(0, count, BLOCK)], dim=1
            ).numpy()
            return [self._best(rows, own, k) for own in scores]
        with inference(model):
            vectors = model.vectors(texts).cpu().numpy()
        _, ids = self.vectors.search(vectors, wanted)
        found = []
        for number, proposed in enumerate(ids):
            rows = np.sort(self._rows(proposed))
            found.append(self._best(rows, self._scores(texts[number : number + 1], rows)[0].numpy(), k))
        return found

    def _best(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> list[Hit]:
        order = np.argsort(-scores, kind="stable")
        return self._hits(rows[order], scores[order], k)

    def _hits(self, rows: NDArray[np.int64], scores: NDArray[np.float32], k: int) -> list[Hit]:
        """The best k of windows in order; of those of one video that overlap, the first."""
        hits: list[Hit] = []
        taken: dict[str, list[Hit]] = {}
        for row, score in zip(rows.tolist(), scores.tolist(), strict=True):
            hit = self.hit(int(self.table.ids[row]), len(hits) + 1, score)
            same = taken.setdefault(hit.file, [])
            if any(hit.start < other.end and other.start < hit.end for other in same):
                continue
            same.append(hit)
            hits.append(hit)
            if len(hits) == k:
                break
        return hits

    def _scores(self, texts: TensorRows, rows: NDArray[np.int64]) -> Tensor:
        try:
            return score_all(self.run.model, texts, self.features(rows))
        except ScoreError as error:
            raise SearchError(
                f"{self.folder} holds features that give no scores: make the index again ({error})"
            ) from None

    def features(self, rows: NDArray[np.int64]) -> Any:
        """The method's features of windows, by their rows in `table`, in float32."""
        places = self._places[rows]
        parts: dict[str, list[Tensor]] = {}
        for number in np.unique(places[:, 0]).tolist():
            inside = torch.from_numpy(places[places[:, 0] == number, 1])
            for name, held in self._tensors[number].items():
                if name != VECTOR:
                    parts.setdefault(name, []).append(held[inside])
        order = torch.from_numpy(np.argsort(np.argsort(places[:, 0], kind="stable")))
        joined = {name: torch.cat(held)[order] for name, held in parts.items()}
        kind = type(self._black)
        forms = [{k: (x.shape[1:], x.is_floating_point() or x.dtype) for k, x in t.items()}
                 for t in (joined, self._black.tensors())]  # fmt: skip
        if forms[0] != forms[1]:
            said = ", ".join(f"{name} {[*x.shape[1:]]}" for name, x in joined.items())
            raise SearchError(f"{self.folder} holds features of another method ({said}): make the index again")
        return kind(**{name: x.float() if x.is_floating_point() else x for name, x in joined.items()})

    @cached_property
    def _black(self) -> TensorRows:
        return black_features(self.run)


def _check_k(k: int) -> None:
    if k < 1:
        raise ConfigError(f"-k is {k}; it must be at least 1")


def load_index(
    folder: str | os.PathLike[str],
    run: str | None = None,
    candidates: int | None = CANDIDATES,
    device: str | None = None,
    trust: bool = False,
) -> Index:
    """Opens an index that `tvr index` made, for searching.

    Args:
        folder: where it lies.
        run: where the run lies that made it, if not where it lay then.
        candidates: windows that vectors propose and the method's own score ranks; None for all of them, which gives the
            ranking of `evaluation.score_all`.
        device: where queries are encoded; a GPU where there is one when None.
        trust: whether the run's configuration may import modules of the working directory.

    Raises:
        SearchError: there is no index, or it is damaged.

    `load_index("clips.index").search("a man plays guitar on a roof", k=10)` is a list of `Hit`; several texts at once
    give a list for each.

    >>> load_index("runs/none")
    Traceback (most recent call last):
    ...
    tvr_lightning.errors.SearchError: ...
    """
    return Index(Path(folder), run, candidates, device, trust)
