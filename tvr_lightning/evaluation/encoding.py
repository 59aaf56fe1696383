"""Features of a split: every caption and every video encoded once, in evaluation mode.

They stay on a GPU that computed them while half of its memory is free, else they wait on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

import torch
from torch import Tensor, nn

from tvr_lightning.device import fits, to_host, wait
from tvr_lightning.distributed import gather_on_cpu, ranks
from tvr_lightning.errors import DataError
from tvr_lightning.types import ItemIndex, TensorRows, TextInput, VideoInput

if TYPE_CHECKING:
    from tvr_lightning.data.split import Split

TextT = TypeVar("TextT", bound=TensorRows)
VideoT = TypeVar("VideoT", bound=TensorRows)
RowsT = TypeVar("RowsT", bound=TensorRows)
InputT = TypeVar("InputT", TextInput, VideoInput)
Labels = Sequence[tuple[int, ...]]


class Retriever(Protocol[TextT, VideoT]):
    """What the evaluator needs of a method; every `RetrievalModule` has it."""

    training: bool

    @property
    def device(self) -> torch.device:
        """Where the method computes."""

    def encode_text(self, text: TextInput) -> TextT:
        """Texts to features."""

    def encode_video(self, video: VideoInput) -> VideoT:
        """Videos to features."""

    def score(self, texts: TextT, videos: VideoT) -> Tensor:
        """Features to (T, V) scores."""

    def train(self, mode: bool = True) -> Any:
        """Switches dropout and the like."""


@contextmanager
def inference(model: Retriever[Any, Any]) -> Iterator[None]:
    """Puts a method into evaluation mode, without gradients, and back.

    Not torch's inference mode: parameters that move to a device inside it can never be trained again.
    """
    parts: list[Any] = list(model.modules()) if isinstance(model, nn.Module) else [model]
    modes = [part.training for part in parts]
    model.train(False)
    try:
        with torch.no_grad():
            yield
    finally:
        for part, mode in zip(parts, modes, strict=True):  # each its own: what was frozen inside stays so
            part.training = mode


@dataclass(frozen=True)
class EncodedSplit(Generic[TextT, VideoT]):
    """Features of a split's captions and videos, and what its dataset says about them.

    Attributes:
        texts: features of T captions.
        videos: features of the V videos that could be encoded.
        caption_video: (T,) int64, the row of each caption's video in the split's list.
        caption_ids: (T,) int64, position of each caption in the split's list; 0..T-1 when None.
        video_ids: (V,) int64, position of each encoded video in the split's list; 0..V-1 when None.
        num_videos: videos in the split's list; V when None.
        labels: class labels of each video in the split's list; empty where there are none.
        probes: minimal pairs as (kind, video, video), positions in the split's list.
        relevant: (R, 2) int64, further right pairs: positions of a caption and of a video in the split's lists.
        name: the split's.
    """

    texts: TextT
    videos: VideoT
    caption_video: Tensor
    caption_ids: Tensor = None  # type: ignore[assignment]  # set below, like those that follow
    video_ids: Tensor = None  # type: ignore[assignment]
    num_videos: int = None  # type: ignore[assignment]
    labels: Labels = ()
    probes: Sequence[tuple[str, int, int]] = ()
    relevant: Tensor = None  # type: ignore[assignment]
    name: str = "test"

    def __post_init__(self) -> None:
        texts, videos = len(self.texts), len(self.videos)
        none = torch.empty(0, 2, dtype=torch.int64)
        defaults = {"caption_ids": torch.arange(texts), "video_ids": torch.arange(videos), "num_videos": videos,
                    "relevant": none}  # fmt: skip
        for name, value in defaults.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    @classmethod
    def of(cls, split: Split, texts: tuple[TextT, Tensor], videos: tuple[VideoT, Tensor]) -> Self:
        """Takes features, and which items they are of, from `join_batches`; the rest from the split."""
        return cls(
            texts[0], videos[0], split.caption_video[texts[1]], texts[1], videos[1], len(split.records),
            [r.labels for r in split.records], split.probes, split.relevant, split.name,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> Self:
        """The same with its features on a device."""
        return replace(self, texts=self.texts.to(device), videos=self.videos.to(device))

    @property
    def row_of(self) -> Tensor:
        """(num_videos,) int64, the row of `videos` that each video in the split's list is; -1 for none."""
        rows = torch.full((self.num_videos,), -1)
        rows[self.video_ids] = torch.arange(len(self.video_ids))
        return rows

    @property
    def caption_row(self) -> Tensor:
        """(T,) int64, the row of `videos` that each caption describes; -1 for none."""
        return self.row_of[self.caption_video]

    @property
    def right_pairs(self) -> Tensor:
        """(R, 2) int64, `relevant` as rows of `texts` and of `videos`; those that were not encoded are left out."""
        captions = int(torch.cat([self.caption_ids, self.relevant[:, 0]]).amax()) + 1
        row_of_caption = torch.full((captions,), -1)
        row_of_caption[self.caption_ids] = torch.arange(len(self.caption_ids))
        pairs = torch.stack([row_of_caption[self.relevant[:, 0]], self.row_of[self.relevant[:, 1]]], 1)
        return pairs[(pairs >= 0).all(1)]

    @property
    def text_labels(self) -> Labels:
        """Class labels of each caption's video."""
        return self._labels_of(self.caption_video)

    @property
    def video_labels(self) -> Labels:
        """Class labels of each video of `videos`."""
        return self._labels_of(self.video_ids)

    def _labels_of(self, videos: Tensor) -> Labels:
        return [self.labels[v] if self.labels else () for v in videos.tolist()]

    def captioned(self) -> Self:
        """Leaves out the captions of videos that could not be encoded.

        Raises:
            DataError: no caption is left.
        """
        present = self.caption_row >= 0
        if not bool(present.any()):
            raise DataError("nothing to evaluate: none of the captions describes a video that was encoded")
        return replace(
            self, texts=self.texts[present], caption_video=self.caption_video[present],
            caption_ids=self.caption_ids[present],
        )  # fmt: skip


def encode_batch(encode: Callable[[InputT], RowsT], batch: InputT) -> tuple[RowsT, ItemIndex]:
    """Encodes a batch; reduced precision comes back to float32. With the items that the features are of.

    Features stay on a GPU while half of its memory is free. Those that do not are on their way to the CPU:
    `join_batches` waits for them.
    """
    features = encode(batch).map(lambda x: x.detach().to(torch.float32 if x.is_floating_point() else x.dtype))
    if not all(fits(x.nbytes, x.device) for x in features.tensors().values()):
        features = features.map(to_host)
    return features, ItemIndex(batch.index.cpu())


def join_batches(
    batches: Sequence[tuple[RowsT, ItemIndex]], what: str = "items", shared: bool = False
) -> tuple[RowsT, Tensor]:
    """Joins what `encode_batch` gave.

    Args:
        batches: in order.
        what: names the items in the error.
        shared: every rank calls this with the batches of its share, and all get all.

    Returns:
        Features, on a GPU where all lie there and no rank has others; and (N,) int64, which items of the split they
        are of.

    Raises:
        DataError: there is no batch, on any rank.
    """
    found = [b[0] for b in batches]
    devices = {x.device for rows in found for x in rows.tensors().values()}
    if len(devices) > 1 or (shared and ranks()[1] > 1):
        found = [rows.map(to_host) for rows in found]
    if torch.cuda.is_initialized():
        wait(torch.device("cuda"))  # for features that are on their way
    features = type(found[0]).cat(found) if found else None
    places = ItemIndex.cat([b[1] for b in batches]) if batches else None
    if shared:
        features, places = gather_on_cpu(features), gather_on_cpu(places)
    if features is None or places is None:
        raise DataError(f"nothing to encode: none of the {what} could be read")
    return features, places.index


def encode_items(
    model: Retriever[Any, Any],
    encode: Callable[[InputT], RowsT],
    loader: Iterable[InputT | None],
    what: str = "items",
    shared: bool = False,
) -> tuple[RowsT, Tensor]:
    """Encodes every item of a loader in its order; batches that were skipped whole are None and leave nothing.

    Args:
        model: the method.
        encode: its `encode_text` or `encode_video`, or another of its functions.
        loader: batches.
        what: names the items in the error.
        shared: every rank calls this with a loader of its share, and all get all.

    Returns:
        Features, floating-point fields in float32, and (N,) int64, which items of the split they are of.

    Raises:
        DataError: no item could be encoded.
    """
    with inference(model):
        batches = [encode_batch(encode, batch.to(model.device)) for batch in loader if batch is not None]
    return join_batches(batches, what, shared)


def encode_texts(model: Retriever[TextT, VideoT], loader: Iterable[TextInput]) -> TextT:
    """Encodes every caption of a loader, in its order.

    Returns:
        Features (T, ...), on the CPU unless a GPU has room for them; floating-point fields in float32.

    Raises:
        DataError: the loader gives no batch.

    >>> from tvr_lightning.encoders import CLIPEncoder
    >>> from tvr_lightning.methods.clip4clip import CLIP4Clip
    >>> model = CLIP4Clip(CLIPEncoder("tiny"), similarity="meanP")
    >>> tokens, index = torch.randint(1, 1000, (3, 8)), torch.arange(3)
    >>> captions = TextInput(tokens, torch.ones(3, 8, dtype=torch.bool), index, video_index=index)
    >>> len(encode_texts(model, [captions[:2], captions[2:]]))
    3
    """
    return encode_items(model, model.encode_text, loader, "captions")[0]


def encode_videos(model: Retriever[TextT, VideoT], loader: Iterable[VideoInput | None]) -> VideoT:
    """Encodes every video of a loader, in its order; batches that were skipped whole are None and leave nothing.

    Returns:
        Features (V, ...), on the CPU unless a GPU has room for them; floating-point fields in float32.

    Raises:
        DataError: the loader gives no batch.

    >>> from tvr_lightning.encoders import CLIPEncoder
    >>> from tvr_lightning.methods.clip4clip import CLIP4Clip
    >>> model = CLIP4Clip(CLIPEncoder("tiny"), similarity="meanP")
    >>> frames = torch.randint(0, 256, (2, 4, 3, model.image_size, model.image_size), dtype=torch.uint8)
    >>> videos = VideoInput(frames, torch.ones(2, 4, dtype=torch.bool), torch.arange(2))
    >>> len(encode_videos(model, [videos, None]))
    2
    """
    return encode_items(model, model.encode_video, loader, "videos")[0]


def encode_split(
    model: Retriever[TextT, VideoT],
    split: Split,
    loaders: tuple[Iterable[TextInput], Iterable[VideoInput | None]],
    shared: bool = False,
) -> EncodedSplit[TextT, VideoT]:
    """Encodes a split.

    Args:
        model: the method.
        split: what is encoded.
        loaders: its captions, its videos; see `VideoTextDataModule.evaluation_loaders`.
        shared: every rank calls this with loaders of its share, and all get all.

    Raises:
        DataError: no caption or no video could be encoded.
    """
    texts = encode_items(model, model.encode_text, loaders[0], f"{split.name} captions", shared)
    videos = encode_items(model, model.encode_video, loaders[1], f"{split.name} videos", shared)
    return EncodedSplit.of(split, texts, videos)


def feature_type(model: Retriever[TextT, Any], split: Split) -> type[TextT]:
    """The type of a method's features, by those of a split's first caption; no video is read.

    Raises:
        DataError: the split has no captions.
    """
    if not len(split.captions):
        raise DataError(f"the {split.name} split has no captions: nothing can be retrieved")
    weights = model.parameters() if isinstance(model, nn.Module) else iter(())
    first = next(weights, None)  # where they lie: between two runs of a trainer a module's own word is the last run's
    device = model.device if first is None else first.device
    with inference(model):
        return type(model.encode_text(split.captions.rows(torch.tensor([0])).to(device)))
