"""The only data module: a dataset's split becomes loaders of training pairs, captions and videos."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from tvr_lightning.data.annotations.base import TEST, TRAIN, VALIDATION, Annotations
from tvr_lightning.data.dataset import (
    Augmentation,
    CaptionDataset,
    CaptionSampling,
    OnDecodeError,
    PairDataset,
    SeededSampler,
    VideoDataset,
    collate_captions,
    collate_nothing,
    collate_pairs,
    collate_videos,
)
from tvr_lightning.data.frozen import (
    EncodeOptions,
    Frozen,
    check_given,
    precompute_text_features,
    precompute_video_features,
)
from tvr_lightning.data.sanity import marks, trained_on
from tvr_lightning.data.split import Split
from tvr_lightning.data.splitting import check_inputs, hold_out, make_split
from tvr_lightning.data.stores.features import FeatureStore
from tvr_lightning.data.stores.frames import FrameCache
from tvr_lightning.data.stores.store import Store
from tvr_lightning.data.text import CLIPTokenizer, Tokenizer
from tvr_lightning.data.video.sampling import FrameOptions, FrameSampling, Resize
from tvr_lightning.data.workers import check_loading, check_shared_memory, make_loader
from tvr_lightning.device import to_device
from tvr_lightning.distributed import share
from tvr_lightning.errors import ConfigError, DataError
from tvr_lightning.types import Record, TextInput, VideoInput, VideoTextBatch

Selection = Literal["auto", "validation", "holdout", "last", "test"]


class VideoTextDataModule(LightningDataModule):
    """Videos and captions of one dataset.

    Args:
        annotations: the dataset's reader.
        batch_size: training pairs of one device.
        eval_batch_size: captions or videos encoded at a time.
        num_frames: n, frames of a video.
        sampling: which frames are kept: `uniform`, `head`, `tail`, or `key`: those where the content changes most.
        fps: candidate frames per second; null takes `num_frames` equal segments of the whole video.
        jitter: random places inside the segments while training; with `fps: null` and `uniform` only.
        augment: a second, augmented view of each training pair, for methods that compare the two; null for none.
        max_words: m, tokens of a caption, start and end token included; the command line gives it to tokenizer and
            encoder too.
        tokenizer: captions to tokens; null for CLIP's.
        join_captions: all captions of a video are joined into one text.
        size: height and width of a frame; the command line takes it from the model's encoder.
        resize: how frames are brought to it, `crop` or `squash`; likewise.
        caption_sampling: `all`: an epoch sees every caption; `random`: every video with one caption.
        keep_sources: clips that were cut from one longer video follow each other in an epoch, so that they meet in a
            batch as each other's hardest negatives; where the annotations name sources (MSR-VTT, shapes).
        selection: what chooses the best checkpoint: the `validation` split, a seeded `holdout` of 5 % of the
            training videos, nothing (`last`: the final weights are the result) or the `test` split, which marks every
            result. `auto`: `validation` where the dataset has one, else `last`.
        subset: only the first N videos of each split, for trials; results say so.
        allow_duplicates: continue although a video is in training and test, or is several records of a split; results
            are marked.
        allow_missing: evaluate although videos of the split are missing; results carry the number left out.
        distractors: videos added to the test's gallery that no caption describes: a folder, or a file that
            lists some.
        relevance: a file that names further relevant videos of test captions.
        frame_folders: a folder with a folder of pictures for each video id, read instead of videos.
        frame_features: precomputed features of frames, read instead of videos where the method's encoder is frozen: a
            folder of `<id>.npy` or `<id>.safetensors`, or one .safetensors or HDF5 file.
        frame_rate: of either, frames per second.
        on_decode_error: `raise`, or `skip` to leave the video out of training and count it.
        cache_frames: keep decoded frames on disk, so that later epochs and runs decode nothing; not with `jitter`.
        cache_features: keep what the method's frozen encoders make of videos and captions, so that they run once.
        cache_dir: where; null for the user's cache folder.
        cache_gib: limit for the size of both in GiB; the least recently used entries are removed.
        num_workers: processes that decode.
        seed: fixes order, caption choice and jitter; the command line takes it from `seed_everything`.

    Attributes:
        reads_files: whether records stand for files, so that two of one file show the same video.
    """

    reads_files = True

    def __init__(
        self,
        annotations: Annotations,
        batch_size: int = 32,
        eval_batch_size: int = 64,
        num_frames: int = 12,
        sampling: FrameSampling = "uniform",
        fps: float | None = 1.0,
        jitter: bool = False,
        augment: Augmentation | None = None,
        max_words: int = 32,
        tokenizer: Tokenizer | None = None,
        join_captions: bool = False,
        size: int = 224,
        resize: Resize = "crop",
        caption_sampling: CaptionSampling = "all",
        keep_sources: bool = False,
        selection: Selection = "auto",
        subset: int | None = None,
        allow_duplicates: bool = False,
        allow_missing: bool = False,
        distractors: str | None = None,
        relevance: str | None = None,
        frame_folders: str | None = None,
        frame_features: str | None = None,
        frame_rate: float = 1.0,
        on_decode_error: OnDecodeError = "raise",
        cache_frames: bool = False,
        cache_features: bool = True,
        cache_dir: str | None = None,
        cache_gib: float = 20,
        num_workers: int = 2,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in {"batch_size": batch_size, "eval_batch_size": eval_batch_size, "num_frames": num_frames,
                            "subset": 1 if subset is None else subset}.items():  # fmt: skip
            if value < 1:
                raise ConfigError(f"data.{name} is {value}; it must be at least 1")
        if jitter and (fps is not None or sampling != "uniform"):
            raise ConfigError(
                "data.jitter moves frames inside equal segments: set data.fps=null, data.sampling=uniform"
            )
        if jitter and cache_frames:
            raise ConfigError(
                "data.jitter draws different frames each epoch, but data.cache_frames keeps those of the first"
            )
        self.annotations = annotations
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.frames = FrameOptions(num_frames, sampling, fps, size, resize=resize)
        self.jitter = jitter
        self.augment = augment
        self.tokenizer = tokenizer or CLIPTokenizer(max_words)
        self.join_captions = join_captions
        self.caption_sampling: CaptionSampling = caption_sampling
        self.keep_sources = keep_sources
        self.requested_selection = selection
        self.subset = subset
        self.allow_duplicates = allow_duplicates
        self.allow_missing = allow_missing
        self.distractors, self.relevance = distractors, relevance
        check_inputs(frame_folders, frame_features, frame_rate, jitter or augment is not None)
        self.frame_folders, self.frame_features, self.frame_rate = frame_folders, frame_features, frame_rate
        self.on_decode_error: OnDecodeError = on_decode_error
        self.cache_frames = cache_frames
        self.cache_features = cache_features and not jitter  # jitter draws other frames in each epoch
        self.store = Store(cache_dir, cache_gib)
        self.frame_cache, self.feature_store = FrameCache(self.store), FeatureStore(self.store)
        self.num_workers = num_workers
        self.seed = seed
        self.start = (0, 0)  # epoch, and batches of it that a resumed run has trained on
        self.splits: dict[str, Split] = {}
        self._training_marks: Tensor | None = None
        self.trained_tokenizer: str | None = None  # fingerprint of the one that loaded weights were trained with

    @property
    def dataset(self) -> str:
        """The dataset's name as papers print it."""
        return self.annotations.name

    @property
    def selection(self) -> Literal["validation", "holdout", "last", "test"]:
        """What chooses the best checkpoint, with `auto` settled.

        Raises:
            ConfigError: `validation` was asked for and the dataset has no validation split.
        """
        exists = VALIDATION in self.annotations.splits
        if self.requested_selection == "auto":
            return "validation" if exists else "last"
        if self.requested_selection == "validation" and not exists:
            raise ConfigError(
                f"{self.dataset} ({self.annotations.protocol}) has no validation split for data.selection=validation; "
                "use holdout (5 % of the training videos), last, or test (common in the literature, and marked in "
                "results)"
            )
        return self.requested_selection

    def change_loading(self, eval_batch_size: int | None, num_workers: int | None) -> None:
        """Sets how fast items come, which changes no result; None leaves the setting.

        Raises:
            ConfigError: a number is out of range.
        """
        check_loading(eval_batch_size, num_workers)
        self.eval_batch_size = eval_batch_size or self.eval_batch_size
        self.num_workers = self.num_workers if num_workers is None else num_workers

    def prepare_data(self) -> None:
        """Makes the dataset where it can be made; the trainer calls this in one process a machine."""
        self.annotations.prepare()

    def setup(self, stage: str) -> None:
        """Reads the splits that a stage needs; `fit` reads the test split too, so that what is missing is known first.

        Raises:
            DataError: annotation files are missing or broken, no training video exists, or a gallery is incomplete.
            CheckpointError: loaded weights were trained with other tokens.
        """
        if not self.splits:
            training = self.annotations.load(TRAIN) if TRAIN in self.annotations.splits else []
            self.tokenizer.learn([c for r in training for c in r.captions])
        self.check_tokens(self.trained_tokenizer)
        if stage == "fit":
            train = self.annotations.load(TRAIN)
            if self.selection == "holdout":
                train, held = hold_out(train, self.seed)
                self._add(VALIDATION, held)
            elif self.selection == "validation":
                self._add(VALIDATION, self.annotations.load(VALIDATION))
            self._add(TRAIN, train)
            self._add(TEST, self.annotations.load(TEST))
        elif stage == "validate":
            if self.selection == "holdout":
                self._add(VALIDATION, hold_out(self.annotations.load(TRAIN), self.seed)[1])
            else:
                name = TEST if self.selection == "test" else VALIDATION
                self._add(name, self.annotations.load(name))
        else:
            self._add(TEST, self.annotations.load(TEST))

    def check_tokens(self, trained: str | None) -> None:
        """Refuses weights that learned other tokens; see `Tokenizer.check_trained`."""
        self.tokenizer.check_trained(trained, f"the training captions of {self.dataset}")

    def _add(self, name: str, records: Sequence[Record]) -> None:
        if name not in self.splits:
            self.splits[name] = make_split(self, name, records)

    def database_split(
        self, use: str = "codes are looked up among; set --model.evaluation.codes.database=test"
    ) -> Split:
        """The training items, among which a test looks; the same after `fit` and in `test`.

        Args:
            use: what for, and how to do without, where the dataset has none.
        """
        if TRAIN not in self.splits:
            train = self.training_records(use)
            self._add(TRAIN, hold_out(train, self.seed)[0] if self.selection == "holdout" else train)
        return self.splits[TRAIN]

    def training_records(self, use: str) -> list[Record]:
        """Training videos as the annotation files have them; `use` says what for, where there are none."""
        if TRAIN not in self.annotations.splits:
            raise DataError(f"{self.dataset} ({self.annotations.protocol}) has no training videos, which {use}")
        return self.annotations.load(TRAIN)

    def training_marks(self) -> Tensor:
        """What weights keep of the videos that they are trained on; see `sanity.marks`."""
        if self._training_marks is None:
            self._training_marks = marks(self.dataset, self.splits[TRAIN].records)
        return self._training_marks

    def trained_on(self, trained: Tensor, stage: Literal["validate", "test", "predict"] = "test") -> list[str]:
        """Ids of the videos of the split that a stage evaluates which weights were trained on.

        Args:
            trained: what they kept of their training videos.
            stage: of the trainer.
        """
        return trained_on(trained, self.dataset, self.split_of(stage).records)

    def split_of(self, stage: Literal["fit", "validate", "test", "predict"]) -> Split:
        """The split that a stage evaluates; for `fit`, the one that selects the checkpoint."""
        if stage in ("test", "predict"):
            return self.splits[TEST]
        return self.splits[TEST if self.selection == "test" else VALIDATION]

    def train_dataloader(self) -> DataLoader[VideoTextBatch | None]:
        """Training pairs in the order that seed and epoch fix.

        Raises:
            ConfigError: the batch is larger than the training split, or `keep_sources` where no source is known.
        """
        split = self.splits[TRAIN]
        dataset = PairDataset(split.captions, split.reader, self.caption_sampling, self.jitter, self.seed, self.augment)
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        epoch, batches = self.start
        if self.keep_sources and not any(r.source for r in split.records):
            raise ConfigError(
                "data.keep_sources keeps clips of one longer video together, but the annotations of "
                f"{self.dataset} name no sources: leave it out"
            )
        groups = dataset.sources() if self.keep_sources else None
        sampler = SeededSampler(
            len(dataset), self.seed, self.batch_size, rank, world, (epoch, batches * self.batch_size), groups
        )
        if len(sampler) < self.batch_size:
            raise ConfigError(
                f"data.batch_size is {self.batch_size}, but {self.dataset} train has only {len(dataset)} samples"
                + (f" for {world} devices" if world > 1 else "")
                + ": no batch can be filled. Set a smaller --data.batch_size"
                + (" or a larger --data.subset." if self.subset else ".")
            )
        return self.loader(dataset, self.batch_size, collate_pairs, sampler=sampler, drop_last=True)

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Gives a rank none of whose videos could be decoded a training batch without rows: ranks step together."""
        if batch is not None or self.trainer is None or self.trainer.world_size == 1 or not self.trainer.training:
            return batch
        split = self.splits[TRAIN]
        return VideoTextBatch(split.captions.rows(torch.empty(0, dtype=torch.int64)), split.reader.empty_input())

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Moves a batch; Lightning would wait until the device has done all that it was given."""
        return None if batch is None else to_device(batch, device)

    def evaluation_loaders(self, split: Split) -> tuple[DataLoader[TextInput], DataLoader[VideoInput | None]]:
        """Each caption of a split once, and each video once; under several ranks this rank's share of both.

        A rank whose share is empty gets one batch that is None, so that Lightning does not leave it out.

        Raises:
            ConfigError: shared memory has no room for what workers read ahead.
        """
        self._check_room(split, "eval_batch_size")
        captions, collate_texts = self.share_of(CaptionDataset(split.captions), collate_captions)
        videos, collate_clips = self.share_of(VideoDataset(split.reader), collate_videos)
        # tokens are ready in memory: a worker for them would only copy
        # Lightning rebuilds loaders from keyword arguments only
        texts = DataLoader(captions, batch_size=self.eval_batch_size, collate_fn=collate_texts)
        return texts, self.loader(videos, self.eval_batch_size, collate_clips)

    def share_of(self, dataset: Any, collate: Any) -> tuple[Any, Any]:
        """This rank's part of a dataset, and how its items are joined."""
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        if world == 1:
            return dataset, collate
        rows = share(len(dataset), self.eval_batch_size, rank, world)
        return (Subset(dataset, rows), collate) if rows else ([None], collate_nothing)

    def precompute_features(
        self, video: Frozen[VideoInput] | None, text: Frozen[TextInput] | None, device: torch.device
    ) -> None:
        """Lets the splits' loaders give what frozen encoders make of videos and captions, computed once and kept.

        Every rank calls this. With `cache_features: false`, where frames are drawn anew in each epoch, or where the
        cache's folder cannot take them, nothing is kept and the method encodes for itself.

        Raises:
            ConfigError: shared memory has no room for what workers read ahead.
            DecodeError: a video cannot be decoded, under `on_decode_error: raise`.
        """
        if self.frame_features is not None:
            if video is None:
                raise ConfigError(
                    "data.frame_features gives a frozen encoder's features of frames, but this method trains its "
                    "encoder, or looks at pixels: freeze it (the encoder's freeze or freeze_image), or leave "
                    "frame_features out"
                )
            check_given(video, self.frames, [split.reader.given for split in self.splits.values()])
            video = None
        if not self.cache_features:
            return
        store, contents = self.feature_store, self.frame_cache.contents
        options = EncodeOptions(self.eval_batch_size, self.num_workers, device)
        for split in self.splits.values():
            what = f"{self.dataset} {split.name}"
            if video is not None:
                precompute_video_features(split.reader, video, contents, f"{what} videos", store, options)
            if text is not None:
                precompute_text_features(split.captions, text, f"{what} captions", store, options)

    def check_shared_memory(self) -> None:
        """Looks whether what workers read ahead has room, in training and with every split that it is followed by.

        Raises:
            ConfigError: it has not; names the ways out.
        """
        for name, split in self.splits.items():
            self._check_room(split, "batch_size" if name == TRAIN else "eval_batch_size")

    def _check_room(self, split: Split, setting: Literal["batch_size", "eval_batch_size"]) -> None:
        ranks = self.trainer.world_size // self.trainer.num_nodes if self.trainer else 1
        samples = len(split.captions if setting == "batch_size" else split.records)
        videos = min(getattr(self, setting), samples)
        check_shared_memory(videos * split.reader.bytes_of_one(), self.num_workers, ranks, f"data.{setting}")

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Captions and videos of the split that selects; none when nothing selects."""
        if self.selection == "last":
            return []
        return list(self.evaluation_loaders(self.split_of("validate")))

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Captions and videos of the test split."""
        return list(self.evaluation_loaders(self.splits[TEST]))

    predict_dataloader = test_dataloader

    def loader(self, dataset: Any, batch_size: int, collate: Any, **kwargs: Any) -> DataLoader[Any]:
        """Batches of a dataset, read by the data module's workers."""
        return make_loader(dataset, batch_size, self.num_workers, self.seed, collate_fn=collate, **kwargs)
